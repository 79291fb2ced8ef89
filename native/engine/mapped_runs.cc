#include "engine/mapped_runs.h"

#include <algorithm>

namespace holdfast::engine {

std::optional<std::uint64_t> MappedRuns::end_of_run(std::uint64_t block) const {
  auto after = runs_.upper_bound(block);
  if (after == runs_.begin()) return std::nullopt;
  auto run = std::prev(after);
  if (block >= run->second) return std::nullopt;
  return run->second;
}

void MappedRuns::add(std::uint64_t begin, std::uint64_t end) {
  auto at = runs_.upper_bound(begin);
  if (at != runs_.begin() && std::prev(at)->second >= begin) --at;
  while (at != runs_.end() && at->first <= end) {  // overlaps or touches
    begin = std::min(begin, at->first);
    end = std::max(end, at->second);
    at = runs_.erase(at);
  }
  if (end - begin < kRunBlocksMin) return;
  if (runs_.size() >= kRunsMax) runs_.clear();
  runs_.emplace(begin, end);
}

void MappedRuns::remove(std::uint64_t begin, std::uint64_t end) {
  auto at = runs_.upper_bound(begin);
  if (at != runs_.begin() && std::prev(at)->second > begin) --at;
  while (at != runs_.end() && at->first < end) {
    auto [run_begin, run_end] = *at;
    at = runs_.erase(at);
    if (run_begin + kRunBlocksMin <= begin) runs_.emplace(run_begin, begin);
    if (end + kRunBlocksMin <= run_end) at = std::next(runs_.emplace(end, run_end).first);
  }
}

std::uint32_t end_of_equal_bits(std::span<const std::uint8_t> bits, std::uint32_t from, std::uint32_t count) {
  bool value = (bits[from / 8] >> (from % 8) & 1) != 0;
  std::uint8_t whole = value ? 0xff : 0;
  std::uint32_t i = from + 1;
  while (i < count) {
    if (i % 8 == 0 && i + 8 <= count && bits[i / 8] == whole) {
      i += 8;
      continue;
    }
    if (((bits[i / 8] >> (i % 8) & 1) != 0) != value) break;
    ++i;
  }
  return i;
}

}  // namespace holdfast::engine
