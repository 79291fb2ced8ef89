// MappedRuns: runs of blocks that are known to hold data, so that GET LBA STATUS about them needs no replica.
// Initiators such as qemu ask before every read that their own memory of extents does not cover.
//
// Only a hint: a run that was forgotten is asked for again, and "mapped" is always an allowed answer. What is noted
// must be forgotten when blocks may lose their data. At most kRunsMax runs. Thread: the reactor of the engine.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>

namespace holdfast::engine {

class MappedRuns {
 public:
  static constexpr std::size_t kRunsMax = 8'192;
  // Shorter ones are not worth a place.
  static constexpr std::uint64_t kRunBlocksMin = 64;

  // The end of the run that holds this block.
  std::optional<std::uint64_t> end_of_run(std::uint64_t block) const;
  void add(std::uint64_t begin, std::uint64_t end);
  void remove(std::uint64_t begin, std::uint64_t end);
  void clear() { runs_.clear(); }
  std::size_t size() const { return runs_.size(); }

 private:
  std::map<std::uint64_t, std::uint64_t> runs_;  // begin -> end; disjoint, never touching
};

// The first index in (from, count) whose bit differs from that of `from`, else `count`. Bit i is bit i % 8 of byte i
// / 8.
std::uint32_t end_of_equal_bits(std::span<const std::uint8_t> bits, std::uint32_t from, std::uint32_t count);

}  // namespace holdfast::engine
