// CRC32C (Castagnoli, RFC 3720 appendix B.4), by ISA-L. Reflected, initial value and final xor all ones.
#pragma once

#include <cstdint>
#include <span>

namespace holdfast {

std::uint32_t crc32c(std::span<const std::byte> bytes);
// Continues a value that crc32c() returned for the bytes before.
std::uint32_t crc32c_extend(std::uint32_t crc, std::span<const std::byte> bytes);

}  // namespace holdfast
