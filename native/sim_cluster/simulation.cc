#include "sim_cluster/simulation.h"

#include "base/log.h"
#include "sim_cluster/cluster.h"
#include "sim_cluster/faults.h"
#include "sim_cluster/linked_clone.h"
#include "sim_cluster/rest_checks.h"

namespace holdfast::sim {

namespace {

// After the faults have stopped everything has to be in order within this time.
constexpr Nanos kRecoveryMax = 300s;
constexpr Nanos kDrainMax = 60s;
constexpr int kRoundsMax = 8;

class Run {
 public:
  Run(Cluster& cluster) : cluster_(cluster), faults_(cluster) {}

  // False: something is wrong, or the volume is lost.
  void go() {
    cluster_.begin();
    if (bad()) return;
    faults_.start();
    cluster_.run_until(
        [this, end = cluster_.world.now() + cluster_.scenario.faults_for] { return cluster_.world.now() >= end; },
        cluster_.scenario.faults_for);
    faults_.stop();
    if (bad()) return;
    cluster_.calm();
    if (!recover()) return;
    check_at_rest(cluster_);
    if (bad()) return;
    LinkedClone* clone =
        cluster_.scenario.clones ? new LinkedClone(cluster_) : nullptr;  // killed processes refer to it
    if (clone && !live_with(*clone)) return;
    survive_power_loss();
    if (bad() || lost_) return;
    if (std::optional<std::string> unexplained = cluster_.oracle.history().check()) {
      cluster_.oracle.violated(*unexplained);
    }
    if (clone && !bad()) clone->outlive_source();
  }
  bool lost() const { return lost_; }
  Nanos recovery() const { return recovery_; }

 private:
  bool bad() const { return !cluster_.oracle.violation().empty(); }

  // Everything becomes in-sync again while the clients go on; then they stop, and all content is read and flushed.
  // What broke just before the faults stopped may be noticed only then: the next round waits for it.
  bool recover() {
    for (int round = 0; round < kRoundsMax; ++round) {
      if (!become_healthy()) return false;
      if (round == 0) {
        cluster_.run_until([] { return false; }, Nanos(cluster_.world.random().below(500'000'000)));
      }
      cluster_.stop_clients();
      drain();
      if (bad()) return false;
      if (cluster_.healthy() && verify()) return true;
      if (bad()) return false;
    }
    cluster_.oracle.violated("flushes fail again and again: " + why_not_healthy());
    return false;
  }

  bool become_healthy() {
    Nanos began = cluster_.world.now();
    bool healthy = cluster_.run_until([this] { return cluster_.healthy() || cluster_.lost_for_good(); }, kRecoveryMax);
    recovery_ = std::max(recovery_, cluster_.world.now() - began);
    if (bad()) return false;
    if (!cluster_.healthy() && (cluster_.all_in_sync_damaged() || cluster_.lost_for_good())) {
      lost_ = true;
      if (std::optional<std::string> unexplained = cluster_.oracle.history().check()) {
        cluster_.oracle.violated(*unexplained);
      }
      return false;
    }
    if (!healthy) cluster_.oracle.violated("not in order long after the faults stopped: " + why_not_healthy());
    return !bad();
  }

  void drain() {
    if (!cluster_.run_until([this] { return cluster_.in_flight() == 0; }, kDrainMax)) {
      cluster_.oracle.violated(std::to_string(cluster_.in_flight()) +
                               " operations did not end after the faults stopped");
    }
  }

  // False: the engine stopped meanwhile.
  bool verify() {
    Epoch epoch = cluster_.current()->epoch();
    in_engine([](Client& client) { client.read_all(); });
    drain();
    in_engine([](Client& client) { client.flush(); });
    drain();
    if (!cluster_.serving() || cluster_.current()->epoch() != epoch) return false;
    if (!cluster_.current()->engine()->status().failure.empty()) return false;
    if (cluster_.current()->client()->flush_failed()) cluster_.oracle.violated("the last flush failed");
    return !bad();
  }

  void in_engine(void (*work)(Client&)) {
    bool done = false;
    cluster_.world.schedule(
        cluster_.world.now(), cluster_.current()->host().process(),
        [this, work, &done] {
          work(*cluster_.current()->client());
          done = true;
        },
        "verify");
    cluster_.run_until([&done] { return done; }, 10s);
  }

  // False: something is wrong, or the volume is lost.
  bool live_with(LinkedClone& clone) {
    clone.begin();
    if (!bad()) clone.live();
    if (bad() || !recover()) return false;
    check_at_rest(cluster_);
    return !bad();
  }

  // What was flushed must be there when every host has lost its power.
  void survive_power_loss() {
    if (!cluster_.scenario.power_cycles && !cluster_.world.random().chance(1, 2)) return;
    cluster_.power_off_all(Nanos(0));
    if (recover()) check_at_rest(cluster_);
  }

  std::string why_not_healthy() const {
    std::string text = "in-sync are";
    for (ReplicaId id : cluster_.store.record().in_sync) text += " " + std::to_string(id.value());
    for (const Cluster::Member& member : cluster_.members) {
      const ReplicaNode& node = *member.node;
      text += "; replica " + std::to_string(node.id().value()) + " state " +
              std::to_string(static_cast<int>(node.state())) + (node.damaged() ? " damaged" : "") +
              (node.disk() && !node.disk()->failure().empty() ? " " + node.disk()->failure() : "");
    }
    Attachment* current = cluster_.current();
    if (!current) return text + "; not attached";
    text += "; epoch " + std::to_string(current->epoch().value()) + " attachment state " +
            std::to_string(static_cast<int>(current->state()));
    if (current->failure()) text += " " + current->failure()->to_string();
    if (current->state() != Attachment::State::kServing) return text;
    engine::EngineStatus status = current->engine()->status();
    text += " " + status.failure;
    for (const engine::ReplicaStatus& replica : status.replicas) {
      text += "; engine sees " + std::to_string(replica.id.value()) + " in phase " +
              std::to_string(static_cast<int>(replica.phase)) + " (" + replica.reason + ")";
    }
    return text;
  }

  Cluster& cluster_;
  FaultInjector faults_;
  bool lost_ = false;
  Nanos recovery_{0};
};

}  // namespace

// Log lines of the simulated processes, at virtual time.
static World* traced_world = nullptr;
static void trace_log_line(LogLevel, std::string_view component, std::string_view message) {
  if (traced_world) traced_world->trace(std::string(component) + ": " + std::string(message));
}

Outcome simulate(std::uint64_t seed, bool trace, Variant variant) {
  Scenario scenario = Scenario::from(seed);
  if (variant.power_cycles) scenario.lose_power_often();
  scenario.clones = scenario.clones && variant.clones;
  // Never destroyed: killed processes may still refer to it.
  auto* cluster = new Cluster(seed, scenario, trace);
  traced_world = trace ? &cluster->world : nullptr;
  set_log_sink(trace ? &trace_log_line : nullptr);
  cluster->world.trace(cluster->scenario.describe());
  auto* run = new Run(*cluster);
  run->go();
  Outcome outcome;
  outcome.violation = cluster->oracle.violation();
  outcome.lost = run->lost();
  outcome.hash = cluster->world.hash();
  outcome.events = cluster->world.events();
  outcome.operations = cluster->counts.operations;
  outcome.failed_operations = cluster->counts.failed;
  outcome.epochs = cluster->store.record().epoch.value();
  outcome.blackouts = cluster->oracle.losses();
  outcome.losses_accepted = cluster->losses_accepted;
  outcome.kills = cluster->world.crashes().kills;
  outcome.power_losses = cluster->world.crashes().power_losses;
  outcome.power_cycles = cluster->power_cycles;
  outcome.recovery_seconds = static_cast<double>(run->recovery().count()) / 1e9;
  outcome.slowest_seconds = static_cast<double>(cluster->counts.slowest.count()) / 1e9;
  outcome.scenario = cluster->scenario.describe();
  outcome.virtual_seconds = static_cast<double>(cluster->world.now().count()) / 1e9;
  cluster->world.retire();
  return outcome;
}

}  // namespace holdfast::sim
