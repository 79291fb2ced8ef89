// Command descriptor blocks for tests (SPC-4, SBC-3).
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "iscsi/scsi/big_endian.h"

namespace holdfast::iscsi::testing {

using Cdb = std::array<std::uint8_t, 16>;

inline Cdb cdb(std::initializer_list<std::uint8_t> bytes) {
  Cdb made{};
  std::copy(bytes.begin(), bytes.end(), made.begin());
  return made;
}
inline void put(Cdb& cdb, std::size_t at, std::size_t size, std::uint64_t value) {
  store_be(std::as_writable_bytes(std::span(cdb)), at, size, value);
}

// READ(16) and its like: LBA at 2, count at 10.
inline Cdb cdb16(std::uint8_t opcode, std::uint64_t lba, std::uint32_t count, std::uint8_t flags = 0) {
  Cdb made{opcode, flags};
  put(made, 2, 8, lba);
  put(made, 10, 4, count);
  return made;
}
// READ(10) and its like: LBA at 2, count at 7.
inline Cdb cdb10(std::uint8_t opcode, std::uint32_t lba, std::uint16_t count, std::uint8_t flags = 0) {
  Cdb made{opcode, flags};
  put(made, 2, 4, lba);
  put(made, 7, 2, count);
  return made;
}
inline Cdb cdb12(std::uint8_t opcode, std::uint32_t lba, std::uint32_t count, std::uint8_t flags = 0) {
  Cdb made{opcode, flags};
  put(made, 2, 4, lba);
  put(made, 6, 4, count);
  return made;
}
inline Cdb read16(std::uint64_t lba, std::uint32_t count, std::uint8_t flags = 0) {
  return cdb16(0x88, lba, count, flags);
}
inline Cdb write16(std::uint64_t lba, std::uint32_t count, std::uint8_t flags = 0) {
  return cdb16(0x8a, lba, count, flags);
}
inline Cdb inquiry(std::optional<std::uint8_t> page, std::uint16_t allocation = 512) {
  Cdb made{0x12, static_cast<std::uint8_t>(page ? 1 : 0), page.value_or(0)};
  put(made, 3, 2, allocation);
  return made;
}

}  // namespace holdfast::iscsi::testing
