// InSyncSet: what the metadata store is known to hold as the volume's in-sync set, and what the engine wants there.
// A pure state machine: the engine asks next_change(), has it stored by Membership::change(), and reports the outcome.
//
// Invariants:
//  1. While a change is under way both the old and the new set may be the stored one. required() says whether a replica
//     is in either; an entry is acknowledged only when every required replica has it. certain() says whether it is in
//     both; only from such a replica is anything read, since an engine that takes over asks nobody else.
//  2. One change at a time.
//  3. The wanted set is never empty.
#pragma once

#include <optional>
#include <vector>

#include "base/types.h"

namespace holdfast::engine {

class InSyncSet {
 public:
  explicit InSyncSet(std::vector<ReplicaId> stored);

  bool required(ReplicaId id) const;
  bool wanted(ReplicaId id) const;
  bool stored(ReplicaId id) const;
  bool certain(ReplicaId id) const;
  bool change_under_way() const { return under_way_.has_value(); }
  const std::vector<ReplicaId>& stored() const { return stored_; }
  const std::vector<ReplicaId>& wanted() const { return wanted_; }

  void add(ReplicaId id);
  // False when it is the last one wanted: that one stays.
  bool remove(ReplicaId id);

  // The set to store next, which is then under way; nullopt when nothing differs or one is under way already.
  std::optional<std::vector<ReplicaId>> next_change();
  void change_stored();
  // The outcome is unknown and the same change will be asked for again.
  const std::vector<ReplicaId>& change_again() const { return *under_way_; }

 private:
  std::vector<ReplicaId> stored_;
  std::vector<ReplicaId> wanted_;
  std::optional<std::vector<ReplicaId>> under_way_;
};

}  // namespace holdfast::engine
