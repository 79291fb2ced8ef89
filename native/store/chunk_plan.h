// ChunkPlan: what applying log entries and fetched content to one chunk means for its record and its slot.
// Pure functions, any thread.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <vector>

#include "store/overlay.h"
#include "store/record_cache.h"

namespace holdfast::store {

struct ChunkPlan {
  ChunkRecord next;
  bool remove = false;      // no record is needed
  bool needs_slot = false;  // next.slot has to be set to a free slot
  std::vector<std::uint64_t> freed;
  // Blocks to copy from the old slot to the new one.
  std::uint64_t copies = 0;
};

// Blocks to write to next.slot.
struct ChunkWrites {
  std::uint64_t blocks = 0;
  std::array<const std::byte*, kBlocksPerChunk> bytes;  // of those; of the others anything
};

// `pieces` in order of seq; they lie over `fill`, content fetched from another replica, which lies over `old` except
// for the blocks that live entries wrote since the join. `below`: blocks that hold data in older layers.
// `join_generation`: log generation, only while being rebuilt. Both results are set anew: they are large, and there are
// thousands in a round.
void plan_chunk(const std::optional<ChunkRecord>& old, std::uint64_t below, std::span<const Piece> pieces,
                const ChunkContent* fill, std::optional<std::uint64_t> join_generation, ChunkPlan& plan,
                ChunkWrites& writes);

}  // namespace holdfast::store
