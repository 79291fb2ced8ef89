// The numbers Holdfast computes with, one type each, so that no epoch is ever taken for a seq.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <string>

namespace holdfast {

// A number with a meaning. Arithmetic is explicit: .value().
template <typename Tag>
class Number {
 public:
  constexpr Number() = default;
  explicit constexpr Number(std::uint64_t value) : value_(value) {}
  constexpr std::uint64_t value() const { return value_; }
  constexpr Number next() const { return Number(value_ + 1); }
  constexpr auto operator<=>(const Number&) const = default;

 private:
  std::uint64_t value_ = 0;
};

using Epoch = Number<struct EpochTag>;          // fencing number of an engine's ownership; 0 = none yet
using Seq = Number<struct SeqTag>;              // position in the volume's log; the first entry is 1
using VolumeId = Number<struct VolumeIdTag>;    // random, never reused; printed as 16 hex digits
using ReplicaId = Number<struct ReplicaIdTag>;  // random, never reused; printed as 16 hex digits
using SnapshotId = Number<struct SnapshotIdTag>;
using BlockIndex = Number<struct BlockIndexTag>;  // in blocks of kBlockSize from the start of the volume
using ChunkIndex = Number<struct ChunkIndexTag>;  // in chunks of kChunkSize from the start of the volume

inline constexpr std::uint32_t kBlockSize = 4096;     // unit of validity and checksum
inline constexpr std::uint32_t kBlocksPerChunk = 64;  // unit of allocation
inline constexpr std::uint32_t kChunkSize = kBlockSize * kBlocksPerChunk;

// A run of blocks.
struct BlockRange {
  BlockIndex first;
  std::uint32_t count = 0;

  constexpr std::uint64_t begin() const { return first.value(); }
  constexpr std::uint64_t end() const { return first.value() + count; }
  constexpr bool overlaps(const BlockRange& other) const { return begin() < other.end() && other.begin() < end(); }
  constexpr bool operator==(const BlockRange&) const = default;
};

constexpr ChunkIndex chunk_of(BlockIndex block) { return ChunkIndex(block.value() / kBlocksPerChunk); }
constexpr std::uint32_t block_in_chunk(BlockIndex block) {
  return static_cast<std::uint32_t>(block.value() % kBlocksPerChunk);
}
constexpr BlockIndex first_block_of(ChunkIndex chunk) { return BlockIndex(chunk.value() * kBlocksPerChunk); }

// A point in a volume's log. Ordered by epoch first: of two logs the one with the greater last
// position is the newer (docs/consistency.md).
struct LogPosition {
  Epoch epoch;
  Seq seq;
  constexpr auto operator<=>(const LogPosition&) const = default;
};

// 16 lower-case hex digits.
std::string to_hex(std::uint64_t value);

}  // namespace holdfast

template <typename Tag>
struct std::hash<holdfast::Number<Tag>> {
  std::size_t operator()(const holdfast::Number<Tag>& number) const noexcept {
    return std::hash<std::uint64_t>()(number.value() * 0x9E3779B97F4A7C15ull);
  }
};
