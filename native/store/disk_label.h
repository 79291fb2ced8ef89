// disk.json: what a formatted disk says of itself. One block of JSON, padded with spaces, with its own checksum,
// written as the last step of formatting. docs/on-disk-format.md, "disk.json". Pure functions, any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace holdfast::store {

inline constexpr std::uint32_t kDiskFormat = 1;

struct DiskLabel {
  std::string id;  // 32 hex digits
  std::uint64_t journal_key = 0;
  std::uint64_t journal_bytes = 0;
};

// Exactly kBlockSize bytes.
std::string encode_disk_label(const DiskLabel& label);
// NOT_FOUND when this is no complete label (formatting did not finish), FORMAT_TOO_NEW.
Result<DiskLabel> decode_disk_label(std::string_view block);

}  // namespace holdfast::store
