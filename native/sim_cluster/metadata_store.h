// MetadataStore: the record of one volume in the cluster's metadata store, as the control plane keeps it: linearizable
// compare-and-swap, reached over a network that delays, loses answers and may be down for a node or for all.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/types.h"
#include "sim/world.h"

namespace holdfast::sim {

struct VolumeRecord {
  Epoch epoch;
  std::vector<ReplicaId> in_sync;
  bool lost_data = false;  // no engine gets the volume before somebody accepts that
};

class MetadataStore {
 public:
  MetadataStore(World& world, std::vector<ReplicaId> in_sync)
      : world_(world), record_{Epoch(0), std::move(in_sync), false} {}

  const VolumeRecord& record() const { return record_; }
  bool in_sync(ReplicaId id) const;
  // What the manager does; it runs beside the store.
  Epoch grant();
  // The loss of acknowledged writes is accepted; the volume goes on with these replicas.
  void accept_loss(std::vector<ReplicaId> in_sync);

  void set_reachable(const std::string& node, bool reachable);
  bool reachable(const std::string& node) const { return !unreachable_.contains(node); }
  void all_reachable() { unreachable_.clear(); }
  // Requests and answers take up to this much longer each.
  void set_delay(Nanos most) { delay_max_ = most; }

  // Compare-and-swap asked by `process`, tried until an answer arrives.
  void change(Process* process, Epoch epoch, std::vector<ReplicaId> in_sync, StatusCallback done);
  // Recorded for the epoch, tried in the same way.
  void lost_data(Process* process, Epoch epoch, StatusCallback done);
  unsigned changes() const { return changes_; }

 private:
  struct Request {
    Process* process;
    Epoch epoch;
    std::vector<ReplicaId> in_sync;  // empty: that data was lost
    StatusCallback done;
  };
  Nanos travel_time();
  void attempt(Request* request, Nanos delay);
  void decide(Request* request);

  World& world_;
  VolumeRecord record_;
  std::set<std::string> unreachable_;
  Nanos delay_max_{0};
  unsigned changes_ = 0;
};

}  // namespace holdfast::sim
