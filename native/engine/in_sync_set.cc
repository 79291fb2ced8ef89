#include "engine/in_sync_set.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/plant.h"

namespace holdfast::engine {

namespace {
bool contains(const std::vector<ReplicaId>& set, ReplicaId id) {
  return std::find(set.begin(), set.end(), id) != set.end();
}
}  // namespace

// Sets are kept sorted so that equal ones compare equal.
InSyncSet::InSyncSet(std::vector<ReplicaId> stored) : stored_(std::move(stored)) {
  CHECK(!stored_.empty(), "a volume always has an in-sync replica");
  std::sort(stored_.begin(), stored_.end());
  wanted_ = stored_;
}

bool InSyncSet::required(ReplicaId id) const {
  if (HOLDFAST_PLANT(kAckBeforeRemovalIsStored)) return contains(wanted_, id);
  return contains(stored_, id) || (under_way_ && contains(*under_way_, id));
}

bool InSyncSet::wanted(ReplicaId id) const { return contains(wanted_, id); }

bool InSyncSet::stored(ReplicaId id) const { return contains(stored_, id); }

bool InSyncSet::certain(ReplicaId id) const {
  if (HOLDFAST_PLANT(kReadFromLeaving)) return contains(stored_, id);
  return contains(stored_, id) && (!under_way_ || contains(*under_way_, id));
}

void InSyncSet::add(ReplicaId id) {
  if (!wanted(id)) wanted_.insert(std::upper_bound(wanted_.begin(), wanted_.end(), id), id);
}

bool InSyncSet::remove(ReplicaId id) {
  if (!wanted(id)) return true;
  if (wanted_.size() == 1) return false;
  std::erase(wanted_, id);
  return true;
}

std::optional<std::vector<ReplicaId>> InSyncSet::next_change() {
  if (under_way_ || wanted_ == stored_) return std::nullopt;
  under_way_ = wanted_;
  return under_way_;
}

void InSyncSet::change_stored() {
  CHECK(under_way_.has_value());
  stored_ = std::move(*under_way_);
  under_way_.reset();
}

}  // namespace holdfast::engine
