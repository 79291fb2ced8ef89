#include "store/space.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/plant.h"
#include "store/deferred.h"

namespace holdfast::store {

// ---- the log ----

void Space::take_snapshot(SnapshotId id, LogPosition position, std::uint64_t size_blocks) {
  tree_.take_snapshot(id, position, size_blocks);
  if (held_) held_->take_snapshot(id, position, size_blocks);
}

std::vector<LayerRange> Space::drop_snapshot(SnapshotId id, LogPosition position) {
  std::vector<LayerRange> work = tree_.drop_snapshot(id, position);
  if (!held_) return work;
  if (is_pinned(id)) return {};
  return held_->drop_snapshot(id, position);
}

std::vector<LayerRange> Space::try_drop(SnapshotId id) {
  if (!held_) return tree_.try_drop(id);
  if (is_pinned(id)) return {};
  return held_->try_drop(id);
}

std::vector<LayerRange> Space::revert_to(SnapshotId id, LogPosition position) {
  std::vector<LayerRange> work = tree_.revert_to(id, position);
  return held_ ? held_->revert_to(id, position) : work;
}

void Space::adopt(const LayerTree& volume) {
  tree_.adopt(volume);
  if (!held_) return;
  held_->adopt(volume);
  hold_pins();
}

// ---- clones ----

bool Space::is_pinned(SnapshotId id, SpaceId except) const {
  if (HOLDFAST_PLANT(kIgnorePins)) return false;
  return std::any_of(pins_.begin(), pins_.end(),
                     [&](const auto& pin) { return pin.first != except && pin.second.id == id; });
}

void Space::hold_pins() {
  for (const auto& [clone, snapshot] : pins_) held_->hold(snapshot);
}

void Space::pin(SpaceId clone, const SnapshotRecord& snapshot) {
  if (!held_) held_ = tree_;
  pins_.emplace(clone, snapshot);
  held_->hold(snapshot);
}

std::vector<LayerRange> Space::try_unpin(SpaceId clone) {
  SnapshotId id = pins_.find(clone)->second.id;
  if (tree_.find(id) || is_pinned(id, clone)) return {};
  return held_->try_drop(id);
}

std::vector<LayerRange> Space::unpin(SpaceId clone) {
  auto pin = pins_.find(clone);
  CHECK(pin != pins_.end(), "a link leads to a pin");
  SnapshotId id = pin->second.id;
  pins_.erase(pin);
  if (tree_.find(id) || is_pinned(id)) return {};
  return held_->drop_snapshot(id, held_->revision());
}

void Space::leave() {
  CHECK(!pins_.empty(), "a space that nobody sees is deleted");
  left_ = true;
  LayerState state = tree_.state();
  state.snapshots.clear();
  Result<LayerTree> bare = LayerTree::from_state(state);
  CHECK(bare.ok());
  tree_.adopt(*bare);
  tree_.leave_head();
  held_->adopt(tree_);
  hold_pins();
}

// ---- work on records ----

void Space::add_merge(std::uint64_t number, MergeJob job) {
  job.number = number;
  next_merge_ = std::max(next_merge_, number + 1);
  merges_.push_back(job);
}

void Space::add_merges(const std::vector<LayerRange>& work) {
  for (const LayerRange& layers : work) add_merge(next_merge_, {0, layers, 0, ChunkIndex(0)});
}

void Space::put_merges(KvBatch& batch, const std::vector<LayerRange>& work) const {
  std::uint64_t number = next_merge_;
  for (const LayerRange& layers : work) {
    MergeJob job{number, layers, 0, ChunkIndex(0)};
    batch.put(layer_key(kMergeTable, id_, number++), encode_merge_job(job));
  }
}

void Space::tell_merged(Deferred& deferred, Status status) {
  for (StatusCallback& waiter : std::exchange(merge_waiters_, {})) deferred.call(std::move(waiter), status);
}

std::uint64_t Space::slots_of_group(LayerNumber group) const {
  std::uint64_t slots = 0;
  for (const LayerRange& layers : tree_.layers_of_group(group)) {
    for (auto at = slots_in_layer_.lower_bound(layers.first); at != slots_in_layer_.end() && at->first <= layers.last;
         ++at) {
      slots += at->second;
    }
  }
  return slots;
}

}  // namespace holdfast::store
