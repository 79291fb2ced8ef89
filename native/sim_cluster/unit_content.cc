#include "sim_cluster/unit_content.h"

#include <cstring>

namespace holdfast::sim {

namespace {
constexpr std::uint64_t kMixer = 0x9E3779B97F4A7C15ull;
constexpr std::uint64_t kInverse = 0xF1DE83E19937733Dull;  // of kMixer modulo 2^64
}  // namespace

void fill_unit(std::byte* unit, std::size_t size, Value value) {
  for (std::size_t i = 0; i < size / 8; ++i) {
    std::uint64_t word = value == 0 ? 0 : value * kMixer + i;
    std::memcpy(unit + i * 8, &word, 8);
  }
}

std::optional<Value> value_of_unit(const std::byte* unit, std::size_t size) {
  std::uint64_t first = 0;
  std::memcpy(&first, unit, 8);
  Value value = first * kInverse;
  for (std::size_t i = 0; i < size / 8; ++i) {
    std::uint64_t word = 0;
    std::memcpy(&word, unit + i * 8, 8);
    if (word != (value == 0 ? 0 : first + i)) return std::nullopt;
  }
  return value;
}

}  // namespace holdfast::sim
