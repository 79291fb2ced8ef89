// Cluster: replica nodes, hosts, a metadata store and a small control plane that keeps the volume attached and its
// processes running, as manager and agents do. Everything of the data plane is real but clock, disk and network.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "sim/world.h"
#include "sim_cluster/engine_host.h"
#include "sim_cluster/metadata_store.h"
#include "sim_cluster/oracle.h"
#include "sim_cluster/replica_node.h"
#include "sim_cluster/scenario.h"

namespace holdfast::sim {

class Cluster {
 public:
  static constexpr VolumeId kVolume{7};

  struct Member {
    std::unique_ptr<ReplicaNode> node;
    Nanos restart_at{0};    // when it is down or broken
    bool retiring = false;  // leaves the volume; its disk is replaced then
    bool was_full = false;  // looks at its disk's size again when it starts
    bool gone = false;      // its disk is; another one takes its place when nobody counts on it any more
  };

  Cluster(std::uint64_t seed, Scenario scenario, bool trace);

  // Replicas are made, the volume is attached, clients begin.
  void begin();
  // The control plane looks after things from now on, until the end of the run.
  void tick();
  // What the control plane would do only when it must, at once.
  void attach(EngineHost& host);

  // ---- what faults do ----
  void kill(Member& member, Nanos restart_after);
  void kill(EngineHost& host);
  void lose_disk(Member& member);
  // The volume is being deleted: it is detached, and nothing is done for it any more.
  void retire();
  void power_off(const std::string& node, Nanos back_after);
  // Every node at once; each comes back after a random while of at most this.
  void power_off_all(Nanos back_after_max);
  std::vector<std::string> node_names() const;

  // Faults stop: everything that is down comes back, links are mended, nothing is broken any more.
  void calm();

  Attachment* current() const { return current_; }
  bool serving() const {
    return current_ && current_->state() == Attachment::State::kServing && !current_->is_fenced() &&
           !current_->is_closing();
  }
  // The volume is attached and every replica is in-sync.
  bool healthy() const;
  unsigned in_flight() const;
  // Those of engines to come, too.
  void stop_clients();
  // The only copies left were damaged by injected faults, or are gone: errors are the right answer.
  bool lost_for_good() const;
  bool all_in_sync_damaged() const;
  const Member* member_of(ReplicaId id) const;

  // Runs until `done` or a violation; false when `limit` passed first.
  bool run_until(const std::function<bool()>& done, Nanos limit);

  World world;
  Scenario scenario;
  Oracle oracle;
  MetadataStore store;
  std::deque<Member> members;
  std::deque<EngineHost> hosts;
  LastSeen seen;
  ClientCounts counts;
  // How often the whole cluster lost its power after it had served since the last time.
  std::uint64_t power_cycles = 0;
  // How often the loss of acknowledged writes was accepted: all copies in-sync had come back without them, or an older
  // copy was all that was left.
  unsigned losses_accepted = 0;

 private:
  void set_clocks();
  void look_after(Member& member);
  void look_after_engine();
  void update_replicas();
  void ask_about_losses();
  const Member* best_older_copy() const;
  bool all_in_sync_gone() const;
  bool no_copy_left() const;
  void on_opened(Attachment& attachment);
  engine::VolumeConfig config_for(const EngineHost& host, Epoch epoch) const;
  std::vector<engine::ReplicaConfig> replica_configs(const std::string& local_node) const;
  EngineHost* choose_host();
  bool may_fail(ErrorCode code) const;
  void check_open_failure(Member& member);

  Attachment* current_ = nullptr;
  Nanos unhealthy_since_{-1};
  Nanos attach_again_at_{0};
  std::uint64_t next_replica_id_ = 101;
  bool clients_stopped_ = false;
  bool retired_ = false;
  Nanos accept_at_ = Nanos::max();  // when somebody looks after lost data
  bool older_accepted_ = false;     // since the last engine began to serve
  bool served_ = false;             // since the whole cluster lost its power
  bool replicas_changed_ = false;
};

}  // namespace holdfast::sim
