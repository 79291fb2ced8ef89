// ChunkView: what a viewpoint (layer_tree.h) sees of one chunk, worked out from the records of its layers: the record
// that the head may change, and which blocks come from older layers. Reading looks at views only, so its cost does not
// depend on how many snapshots there are. Also: grouping and merging records. Pure functions, any thread.
#pragma once

#include <memory>
#include <vector>

#include "store/chunk_record.h"

namespace holdfast::store {

// Of records that a linked clone's space sees of another space: below every layer of its own, in the group of the
// first.
inline constexpr LayerNumber kInheritedLayer = 0;
// What inherited content counts as: the first entry of a linked clone's log stands for it (store.h).
inline constexpr LogPosition kInheritedVersion{Epoch(1), Seq(1)};

// The record of one chunk in one layer.
struct LayerRecord {
  LayerNumber layer = 0;
  ChunkRecord record;
};
// Of one chunk, the newest layer first.
using ChunkStack = std::vector<LayerRecord>;

// Blocks of older layers, each in the slot where it was written.
struct BelowBlocks {
  struct Part {
    std::uint64_t slot;
    std::uint64_t data;
  };
  std::vector<Part> parts;
  std::uint64_t data = 0;  // of all parts
  std::array<std::uint32_t, kBlocksPerChunk> crc{};

  std::uint64_t slot_of(std::uint32_t block) const {
    for (const Part& part : parts) {
      if (part.data >> block & 1) return part.slot;
    }
    return kNoSlot;
  }
};

struct ChunkView {
  std::optional<ChunkRecord> own;            // the record that belongs to the head alone
  LayerNumber own_layer = 0;                 // of `own`
  std::shared_ptr<const BelowBlocks> below;  // of older layers, what `own` did not hide; nullptr: nothing
  std::uint64_t generation = 0;              // of the tree it was worked out with

  std::uint64_t below_data() const { return below ? below->data : 0; }
};

// Adds what the viewpoint `view` sees in `stack`, of another space, as inherited.
void inherit(ChunkStack& into, ChunkStack stack, const LayerTree& tree, LayerNumber view);

// `record` lies over `below`.
std::shared_ptr<const BelowBlocks> put_over(const std::shared_ptr<const BelowBlocks>& below, const ChunkRecord& record);

// The stack's records that the viewpoint does not see are left out. With `with_own`, the newest is `own` if it belongs
// to the head.
ChunkView view_of(const ChunkStack& stack, const LayerTree& tree, LayerNumber viewpoint, bool with_own);

// What is in one layer or group of the chunk, as another replica must store it: `zero` only where it hides something.
struct GroupContent {
  LayerNumber group = 0;
  LogPosition version;
  std::uint64_t zero = 0;
  std::uint32_t digest = 0;
  BelowBlocks blocks;
};
// One for each group that has records, the newest first.
std::vector<GroupContent> groups_of(const ChunkStack& stack, const LayerTree& tree);

// What can be tidied up in a stack, as indexes into it: records that nobody sees, and records of one group (the newest
// first, at least two).
struct MergePlan {
  std::vector<std::size_t> unseen;
  std::vector<std::vector<std::size_t>> groups;

  bool empty() const { return unseen.empty() && groups.empty(); }
};
MergePlan plan_merges(const ChunkStack& stack, const LayerTree& tree);

// `newer` over `older` as one record. The blocks in `copies` have to be copied from slot `from` to slot `record.slot`
// first; slot `freed` is not used any more. (kNoSlot: none.)
struct MergedRecord {
  ChunkRecord record;
  std::uint64_t copies = 0;
  std::uint64_t from = kNoSlot;
  std::uint64_t freed = kNoSlot;
};
MergedRecord merge_records(const ChunkRecord& newer, const ChunkRecord& older);

}  // namespace holdfast::store
