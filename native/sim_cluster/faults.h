// FaultInjector: does to a cluster what its scenario says, at random moments, and undoes it after a while.
//
// What may destroy data (flipped bits, reads that return flipped bits) happens to one disk of a run only: promises
// about content hold as long as one in-sync copy is good.
#pragma once

#include <set>
#include <string>

#include "sim_cluster/cluster.h"

namespace holdfast::sim {

class FaultInjector {
 public:
  explicit FaultInjector(Cluster& cluster);

  void start();
  void stop() { running_ = false; }

 private:
  void strike();
  void inject(Fault fault);
  void later(Nanos most, Callback<void()> undo);
  Nanos moment(Nanos most);
  Cluster::Member& any_member();
  EngineHost& any_host();
  std::string any_node();
  void partition();
  void slow_link();
  void freeze();
  void store_unavailable();
  bool may_take_over(const EngineHost& target) const;
  void take_over();
  void take_out_and_over(EngineHost& target);
  void take_over_when_out(Cluster::Member& leaving, ReplicaId id, EngineHost& target, Nanos give_up);
  void outlast_promises(const std::string& next);
  void restart_after_promises(Process* engine, const std::string& next, Epoch old, Nanos give_up);
  void split(const std::set<std::string>& side);
  void disk_full();
  void flip_bit();
  void corrupt_reads();
  void lose_sectors();
  void lie_about_writes();
  void replace_replica();
  bool may_be_replaced() const;
  void lose_disk();

  Cluster& cluster_;
  World& world_;
  bool running_ = false;
  std::size_t victim_ = 0;  // whose disk may lose what it holds; the first of Scenario::victims
};

}  // namespace holdfast::sim
