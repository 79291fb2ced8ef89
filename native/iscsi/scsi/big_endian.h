// Big-endian fields of wire structures, as SCSI (SPC-4) and iSCSI (RFC 7143) lay them out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/check.h"

namespace holdfast {

// Reads `size` (1 to 8) bytes at `offset`.
inline std::uint64_t load_be(std::span<const std::byte> bytes, std::size_t offset, std::size_t size) {
  DCHECK(size <= 8 && offset + size <= bytes.size());
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < size; ++i) value = value << 8 | static_cast<std::uint8_t>(bytes[offset + i]);
  return value;
}
inline std::uint8_t load_u8(std::span<const std::byte> bytes, std::size_t offset) {
  return static_cast<std::uint8_t>(bytes[offset]);
}
inline std::uint16_t load_be16(std::span<const std::byte> bytes, std::size_t offset) {
  return static_cast<std::uint16_t>(load_be(bytes, offset, 2));
}
inline std::uint32_t load_be32(std::span<const std::byte> bytes, std::size_t offset) {
  return static_cast<std::uint32_t>(load_be(bytes, offset, 4));
}
inline std::uint64_t load_be64(std::span<const std::byte> bytes, std::size_t offset) {
  return load_be(bytes, offset, 8);
}

inline void store_be(std::span<std::byte> bytes, std::size_t offset, std::size_t size, std::uint64_t value) {
  DCHECK(size <= 8 && offset + size <= bytes.size());
  for (std::size_t i = size; i-- > 0; value >>= 8) bytes[offset + i] = static_cast<std::byte>(value & 0xff);
}

// A number on the wire: `Be<std::uint32_t>` is four bytes, most significant first, without alignment.
template <typename T, std::size_t kSize = sizeof(T)>
class Be {
 public:
  Be() = default;
  Be(T value) { *this = value; }  // NOLINT: implicit, so that fields are assigned like numbers
  Be& operator=(T value) {
    for (std::size_t i = kSize; i-- > 0; value = static_cast<T>(value >> 8))
      bytes_[i] = static_cast<std::uint8_t>(value);
    return *this;
  }
  operator T() const {  // NOLINT: implicit
    T value = 0;
    for (std::uint8_t byte : bytes_) value = static_cast<T>(value << 8 | byte);
    return value;
  }

 private:
  std::uint8_t bytes_[kSize] = {};
};
using Be16 = Be<std::uint16_t>;
using Be24 = Be<std::uint32_t, 3>;
using Be32 = Be<std::uint32_t>;
using Be64 = Be<std::uint64_t>;
static_assert(sizeof(Be24) == 3 && alignof(Be64) == 1);

}  // namespace holdfast
