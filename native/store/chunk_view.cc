#include "store/chunk_view.h"

#include <algorithm>
#include <bit>
#include <map>

#include "base/check.h"
#include "base/crc32c.h"

namespace holdfast::store {

namespace {

void copy_crcs(std::array<std::uint32_t, kBlocksPerChunk>& into, const std::array<std::uint32_t, kBlocksPerChunk>& from,
               std::uint64_t blocks) {
  for (; blocks != 0; blocks &= blocks - 1) {
    auto block = static_cast<std::size_t>(std::countr_zero(blocks));
    into[block] = from[block];
  }
}

// Adds what the record has of the blocks in `wanted`.
void take_blocks(BelowBlocks& into, const ChunkRecord& record, std::uint64_t wanted) {
  std::uint64_t taken = record.data & wanted;
  if (taken == 0) return;
  into.parts.push_back({record.slot, taken});
  into.data |= taken;
  copy_crcs(into.crc, record.crc, taken);
}

std::uint32_t digest_of(const GroupContent& group) {
  ChunkRecord record;
  record.data = group.blocks.data;
  record.crc = group.blocks.crc;
  std::uint32_t digest = chunk_digest(record);
  if (group.zero == 0) return digest;
  digest = crc32c_extend(digest, std::as_bytes(std::span(&group.zero, 1)));
  return digest == 0 ? 1 : digest;
}

}  // namespace

std::shared_ptr<const BelowBlocks> put_over(const std::shared_ptr<const BelowBlocks>& below,
                                            const ChunkRecord& record) {
  std::uint64_t hidden = record.data | record.zero;
  if (hidden == 0 || (record.data == 0 && (!below || (below->data & hidden) == 0))) return below;
  auto merged = std::make_shared<BelowBlocks>();
  take_blocks(*merged, record, kAllBlocks);
  if (below) {
    for (const BelowBlocks::Part& part : below->parts) {
      if (std::uint64_t left = part.data & ~hidden; left != 0) merged->parts.push_back({part.slot, left});
    }
    std::uint64_t kept = below->data & ~hidden;
    merged->data |= kept;
    copy_crcs(merged->crc, below->crc, kept);
  }
  if (merged->data == 0) return nullptr;
  return merged;
}

void inherit(ChunkStack& into, ChunkStack stack, const LayerTree& tree, LayerNumber view) {
  for (LayerRecord& one : stack) {
    if (!tree.sees(view, one.layer)) continue;
    one.layer = kInheritedLayer;
    one.record.version = kInheritedVersion;
    one.record.fresh = one.record.fresh_generation = 0;
    into.push_back(std::move(one));
  }
}

ChunkView view_of(const ChunkStack& stack, const LayerTree& tree, LayerNumber viewpoint, bool with_own) {
  ChunkView view;
  view.generation = tree.generation();
  auto below = std::make_shared<BelowBlocks>();
  std::uint64_t open = kAllBlocks;
  bool first = true;
  for (const LayerRecord& layer : stack) {
    if (open == 0) break;
    if (!tree.sees(viewpoint, layer.layer)) continue;
    if (std::exchange(first, false) && with_own && tree.owned_by_head(layer.layer)) {
      view.own = layer.record;
      view.own_layer = layer.layer;
      // Its zeros may turn into anything by later entries, but what they hide stays hidden.
      open &= ~(layer.record.data | layer.record.zero);
      continue;
    }
    take_blocks(*below, layer.record, open);
    open &= ~(layer.record.data | layer.record.zero);
  }
  if (below->data != 0) view.below = std::move(below);
  return view;
}

std::vector<GroupContent> groups_of(const ChunkStack& stack, const LayerTree& tree) {
  std::vector<GroupContent> groups;
  for (const LayerRecord& layer : stack) {
    std::optional<LayerNumber> group = tree.group_of(layer.layer);
    if (!group) continue;
    auto at =
        std::find_if(groups.begin(), groups.end(), [&](const GroupContent& known) { return known.group == *group; });
    if (at == groups.end()) {
      groups.push_back({});
      at = std::prev(groups.end());
      at->group = *group;
    }
    std::uint64_t open = ~(at->blocks.data | at->zero);
    at->version = std::max(at->version, layer.record.version);
    take_blocks(at->blocks, layer.record, open);
    at->zero |= layer.record.zero & open;
  }
  for (GroupContent& group : groups) {
    std::uint64_t hidden = 0;  // what lies below the group
    if (group.zero != 0) {
      std::uint64_t open = kAllBlocks;
      for (const LayerRecord& layer : stack) {
        if (!tree.sees(group.group, layer.layer) || tree.group_of(layer.layer) == group.group) continue;
        hidden |= layer.record.data & open;
        open &= ~(layer.record.data | layer.record.zero);
      }
    }
    group.zero &= hidden;
    group.digest = digest_of(group);
  }
  return groups;
}

MergePlan plan_merges(const ChunkStack& stack, const LayerTree& tree) {
  MergePlan plan;
  std::map<LayerNumber, std::vector<std::size_t>> groups;
  for (std::size_t i = 0; i < stack.size(); ++i) {
    if (stack[i].layer == kInheritedLayer) continue;
    if (std::optional<LayerNumber> group = tree.group_of(stack[i].layer)) {
      groups[*group].push_back(i);
    } else {
      plan.unseen.push_back(i);
    }
  }
  for (auto& [group, members] : groups) {
    if (members.size() > 1) plan.groups.push_back(std::move(members));
  }
  return plan;
}

MergedRecord merge_records(const ChunkRecord& newer, const ChunkRecord& older) {
  MergedRecord merged;
  ChunkRecord& record = merged.record;
  record = newer;
  record.version = std::max(newer.version, older.version);
  if (newer.fresh_generation == older.fresh_generation) record.fresh |= older.fresh;
  std::uint64_t below = older.data & ~(newer.data | newer.zero);
  record.zero |= older.zero & ~newer.data;
  record.data |= below;
  copy_crcs(record.crc, older.crc, below);
  if (below == 0) {
    merged.freed = older.slot;
  } else if (newer.data == 0) {
    record.slot = older.slot;
  } else if (std::popcount(below) <= std::popcount(newer.data)) {
    merged.copies = below;
    merged.from = older.slot;
    merged.freed = older.slot;
  } else {
    record.slot = older.slot;
    merged.copies = newer.data;
    merged.from = newer.slot;
    merged.freed = newer.slot;
  }
  return merged;
}

}  // namespace holdfast::store
