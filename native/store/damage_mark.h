// DamageMark: what a rebuild stores in the place of a block that no copy has as it should be. The record gets the CRC
// that the content ought to have, and the mark never matches it: whoever reads the block finds it damaged, as on the
// copy it came from, until it is written or mended. The same on every copy. Pure functions, any thread.
#pragma once

#include <algorithm>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "base/crc32c.h"
#include "base/types.h"

namespace holdfast::store {

inline constexpr std::string_view kDamageMarkText = "HOLDFAST DAMAGED BLOCK";

inline void write_damage_mark(std::span<std::byte> block, std::uint32_t crc) {
  std::string text =
      std::string(kDamageMarkText) + ": what was here could be read on no copy; its CRC32C was " + to_hex(crc);
  std::memset(block.data(), 0, block.size());
  std::memcpy(block.data(), text.data(), std::min(text.size(), block.size()));
  if (crc32c(block) == crc) block.back() = std::byte{1};
}

inline bool is_damage_mark(std::span<const std::byte> block, std::uint32_t crc) {
  std::byte mark[kBlockSize];
  write_damage_mark(mark, crc);
  return block.size() == kBlockSize && std::memcmp(block.data(), mark, kBlockSize) == 0;
}

}  // namespace holdfast::store
