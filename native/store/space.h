// Space: where records of chunks are kept, with the layers they belong to. Each replica has one. A linked clone's space
// begins as nothing but a link: below its first layer it sees another space of the same disk, as of one snapshot. That
// snapshot is *pinned*: what it sees stays as it is, whatever the other volume does, until the clone is gone.
//
// tree() is what the volume's log says; in-sync replicas agree about it, and it is all that leaves this disk. held()
// says which records are kept apart here: it has the pinned snapshots, too, once the log has dropped them. To others
// such records look like a merge that has not been done yet.
//
// A space outlives its replica while clones see it: it was *left*. It has no head then, and keeps what is pinned.
// Invariants: every link leads to a space with a pin of the same snapshot; no record that a pinned snapshot sees is
// changed, merged across its boundary, or removed. Thread: reactor of the store.
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <vector>

#include "base/callback.h"
#include "store/chunk_record.h"
#include "store/kv.h"

namespace holdfast::store {

class Deferred;

class Space {
 public:
  Space(SpaceId id, LayerTree tree, std::optional<SpaceLink> link)
      : id_(id), tree_(std::move(tree)), link_(std::move(link)) {}

  SpaceId id() const { return id_; }
  const std::optional<SpaceLink>& link() const { return link_; }
  const LayerTree& tree() const { return tree_; }
  const LayerTree& held() const { return held_ ? *held_ : tree_; }
  // There may be records of other layers than the first: of a tree before this one, too, until they are removed.
  bool has_layers() const { return tree_.layered() || !merges_.empty(); }
  // Whether a group of tree() may hold blocks in records that must not be changed.
  bool shares() const { return link_.has_value() || !pins_.empty(); }

  // What entries of the log do (layer_tree.h). The ranges returned are those whose records may have to be tidied up.
  void take_snapshot(SnapshotId id, LogPosition position, std::uint64_t size_blocks);
  std::vector<LayerRange> drop_snapshot(SnapshotId id, LogPosition position);
  std::vector<LayerRange> revert_to(SnapshotId id, LogPosition position);
  std::vector<LayerRange> try_drop(SnapshotId id);
  std::vector<LayerRange> try_revert(SnapshotId id) const { return held().try_revert(id); }
  void adopt(const LayerTree& volume);

  // ---- clones ----
  const std::map<SpaceId, SnapshotRecord>& pins() const { return pins_; }
  void pin(SpaceId clone, const SnapshotRecord& snapshot);
  std::vector<LayerRange> unpin(SpaceId clone);
  // What unpin() would return.
  std::vector<LayerRange> try_unpin(SpaceId clone);
  // The replica has gone.
  void leave();
  bool left() const { return left_; }

  // ---- work on records ----
  std::deque<MergeJob>& merges() { return merges_; }
  std::uint64_t next_merge() const { return next_merge_; }
  void add_merge(std::uint64_t number, MergeJob job);
  void add_merges(const std::vector<LayerRange>& work);
  // As metadata, numbered as add_merges() will.
  void put_merges(KvBatch& batch, const std::vector<LayerRange>& work) const;
  void clear_merges() { merges_.clear(); }
  // Calls back when no merge is left; at once when there is none.
  void when_merged(StatusCallback done) { merge_waiters_.push_back(std::move(done)); }
  void tell_merged(Deferred& deferred, Status status);

  // A record of this layer got or lost its slot.
  void note_layer_slots(LayerNumber layer, std::int64_t slots) {
    slots_in_layer_[layer] += static_cast<std::uint64_t>(slots);
  }
  std::uint64_t slots_of_group(LayerNumber group) const;
  void add_used(std::int64_t slots) { used_slots_ += static_cast<std::uint64_t>(slots); }
  std::uint64_t used_slots() const { return used_slots_; }

 private:
  // Whether a clone sees this snapshot, other than `except`.
  bool is_pinned(SnapshotId id, SpaceId except = SpaceId()) const;
  void hold_pins();

  SpaceId id_;
  LayerTree tree_;                 // as applied
  std::optional<LayerTree> held_;  // once there was a pin
  std::optional<SpaceLink> link_;
  std::map<SpaceId, SnapshotRecord> pins_;  // by the clone's space
  bool left_ = false;
  std::deque<MergeJob> merges_;
  std::uint64_t next_merge_ = 1;
  std::vector<StatusCallback> merge_waiters_;
  std::map<LayerNumber, std::uint64_t> slots_in_layer_;
  std::uint64_t used_slots_ = 0;
};

}  // namespace holdfast::store
