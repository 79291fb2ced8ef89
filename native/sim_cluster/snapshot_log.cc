#include "sim_cluster/snapshot_log.h"

namespace holdfast::sim {

SnapshotId SnapshotLog::take_begins(Nanos now) {
  SnapshotId id(next_id_++);
  snapshots_[id].begun = now;
  return id;
}

void SnapshotLog::taken(SnapshotId id, Nanos now, Seq committed) {
  One& one = snapshots_[id];
  one.taken = committed;
  one.ended = one.ended ? std::min(*one.ended, now) : now;
}

void SnapshotLog::drop_begins(SnapshotId id) { snapshots_[id].drop_asked = true; }

void SnapshotLog::dropped(SnapshotId id, Seq committed) { snapshots_[id].dropped = committed; }

void SnapshotLog::taken_over(Nanos now) {
  for (auto& [id, one] : snapshots_) {
    if (!one.ended) one.ended = now;
  }
}

void SnapshotLog::lost_after(Seq recovered) {
  for (auto& [id, one] : snapshots_) {
    if (one.taken && *one.taken > recovered) one.taken.reset();
    if (one.dropped && *one.dropped > recovered) one.dropped.reset();
  }
}

SnapshotLog::Existence SnapshotLog::existence(SnapshotId id) const {
  auto found = snapshots_.find(id);
  if (found == snapshots_.end() || found->second.dropped) return Existence::kMustNot;
  return found->second.taken && !found->second.drop_asked ? Existence::kMust : Existence::kMay;
}

SnapshotLog::Interval SnapshotLog::interval(SnapshotId id, Nanos now) const {
  const One& one = snapshots_.at(id);
  return {one.begun, one.ended.value_or(now)};
}

}  // namespace holdfast::sim
