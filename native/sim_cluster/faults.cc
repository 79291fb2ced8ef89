#include "sim_cluster/faults.h"

#include <algorithm>

#include "sim/sim_file.h"

namespace holdfast::sim {

FaultInjector::FaultInjector(Cluster& cluster) : cluster_(cluster), world_(cluster.world) {}

void FaultInjector::start() {
  running_ = true;
  victim_ = world_.random().below(cluster_.members.size());
  later(cluster_.scenario.fault_gap_max, [this] { strike(); });
}

void FaultInjector::strike() {
  if (!running_) return;
  std::uint64_t total = 0;
  for (std::uint64_t weight : cluster_.scenario.weights) total += weight;
  if (total == 0) return;
  std::uint64_t dice = world_.random().below(total);
  for (std::size_t i = 0; i < kFaults; ++i) {
    std::uint64_t weight = cluster_.scenario.weights[i];
    if (dice < weight) {
      world_.trace("fault " + std::string(fault_name(static_cast<Fault>(i))));
      inject(static_cast<Fault>(i));
      break;
    }
    dice -= weight;
  }
  // Sometimes the next one comes at once.
  later(world_.random().chance(1, 5) ? Nanos(5ms) : cluster_.scenario.fault_gap_max, [this] { strike(); });
}

void FaultInjector::later(Nanos most, Callback<void()> undo) {
  world_.schedule(
      world_.now() + moment(most), nullptr,
      [this, undo = new Callback<void()>(std::move(undo))] {
        std::unique_ptr<Callback<void()>> owned(undo);
        if (running_) (*owned)();  // afterwards Cluster::calm() has undone everything
      },
      "fault");
}

Nanos FaultInjector::moment(Nanos most) {
  return Nanos(world_.random().below(static_cast<std::uint64_t>(most.count())));
}
Cluster::Member& FaultInjector::any_member() {
  std::size_t count = cluster_.members.size();
  unsigned victims = cluster_.scenario.victims;
  if (victims == 0) return cluster_.members[world_.random().below(count)];
  return cluster_.members[(victim_ + world_.random().below(victims)) % count];
}
EngineHost& FaultInjector::any_host() { return cluster_.hosts[world_.random().below(cluster_.hosts.size())]; }
std::string FaultInjector::any_node() {
  if (cluster_.scenario.victims > 0) return any_member().node->node();
  std::vector<std::string> names = cluster_.node_names();
  return names[world_.random().below(names.size())];
}

void FaultInjector::inject(Fault fault) {
  Random& random = world_.random();
  switch (fault) {
    case Fault::kKillReplica:
      return cluster_.kill(any_member(), moment(random.chance(1, 2) ? 100ms : 8s));
    case Fault::kKillEngine:
      return cluster_.kill(cluster_.current() && random.chance(3, 4) ? cluster_.current()->host() : any_host());
    case Fault::kRestartEngine:
      if (cluster_.serving()) cluster_.current()->close();
      return;
    case Fault::kTakeOver:
      return take_over();
    case Fault::kPowerOffNode:
      return cluster_.power_off(any_node(), moment(6s));
    case Fault::kPowerOffAll:
      return cluster_.power_off_all(6s);
    case Fault::kPowerOffReplicas:
      for (Cluster::Member& member : cluster_.members) cluster_.power_off(member.node->node(), moment(6s));
      return;
    case Fault::kLoseDisk:
      return lose_disk();
    case Fault::kPartition:
      return partition();
    case Fault::kResetConnection:
      for (std::uint64_t n = random.between(1, 4); n > 0; --n) {
        world_.reset_random_connection(cluster_.scenario.victims > 0 ? any_node() : std::string());
      }
      return;
    case Fault::kSlowLink:
      return slow_link();
    case Fault::kFreeze:
      return freeze();
    case Fault::kStoreUnavailable:
      return store_unavailable();
    case Fault::kSlowDisk: {
      DiskFaults& faults = world_.disk_faults(any_member().node->node());
      faults.slow_ppm = random.chance(1, 2) ? 1'000'000 : 20'000;
      faults.slow_max = Nanos(random.between(1, 4'000) * 1'000'000);
      return later(8s, [&faults] { faults.slow_ppm = 0; });
    }
    case Fault::kDiskErrors: {
      DiskFaults& faults = world_.disk_faults(any_member().node->node());
      if (random.chance(1, 2)) faults.read_error_ppm = random.between(100, 100'000);
      if (random.chance(1, 2)) faults.write_error_ppm = random.between(100, 100'000);
      if (random.chance(1, 3)) {  // a dying disk takes its time
        faults.slow_ppm = 300'000;
        faults.slow_max = Nanos(random.between(1, 2'000) * 1'000'000);
      }
      return later(4s, [&faults] { faults.read_error_ppm = faults.write_error_ppm = faults.slow_ppm = 0; });
    }
    case Fault::kCorruptReads:
      return corrupt_reads();
    case Fault::kFlipBits:
      return flip_bit();
    case Fault::kDiskFull:
      return disk_full();
    case Fault::kBadSectors:
      return lose_sectors();
    case Fault::kLyingWrites:
      return lie_about_writes();
    case Fault::kReplaceReplica:
      return replace_replica();
    case Fault::kSlowStore:
      cluster_.store.set_delay(Nanos(random.between(10, 3'000) * 1'000'000));
      return later(10s, [this] { cluster_.store.set_delay(Nanos(0)); });
    case Fault::kClockJump: {
      std::int64_t seconds = static_cast<std::int64_t>(random.between(0, 200'000)) - 100'000;
      world_.clock(any_node()).wall_clock_error = Nanos(seconds * 1'000'000'000);
      return;
    }
  }
}

// A node loses some or all others, in one or both directions.
void FaultInjector::partition() {
  Random& random = world_.random();
  std::string lonely = any_node();
  bool outward = random.chance(2, 3);
  bool inward = !outward || random.chance(2, 3);
  bool all = random.chance(1, 2);
  for (const std::string& other : cluster_.node_names()) {
    if (other == lonely || (!all && random.chance(1, 2))) continue;
    if (outward) world_.set_link(lonely, other, false);
    if (inward) world_.set_link(other, lonely, false);
  }
  if (random.chance(1, 3)) {
    cluster_.store.set_reachable(lonely, false);
  }
  later(random.chance(1, 2) ? 2s : 15s, [this] {
    world_.heal_network();
    cluster_.store.all_reachable();
  });
}

void FaultInjector::slow_link() {
  Random& random = world_.random();
  std::vector<std::string> names = cluster_.node_names();
  std::string from = any_node();
  std::string to = names[random.below(names.size())];
  if (from == to) return;
  if (random.chance(1, 2)) std::swap(from, to);
  world_.set_extra_latency(from, to, Nanos(random.between(1, 1'500) * 1'000'000));
  later(10s, [this, from = new std::string(from), to = new std::string(to)] {
    std::unique_ptr<std::string> a(from), b(to);
    world_.set_extra_latency(*a, *b, Nanos(0));
  });
}

void FaultInjector::freeze() {
  Random& random = world_.random();
  Process* process = nullptr;
  if (cluster_.scenario.victims > 0 || random.chance(1, 2)) {
    process = any_member().node->process();
  } else if (cluster_.current() && cluster_.current()->host().alive()) {
    process = cluster_.current()->host().process();
  }
  if (!process || !process->alive || process->frozen) return;
  world_.freeze(process);
  later(random.chance(1, 2) ? 1s : 15s, [this, process] { world_.thaw(process); });
}

void FaultInjector::store_unavailable() {
  if (world_.random().chance(1, 2)) {
    cluster_.store.set_reachable(any_node(), false);
  } else {
    for (const std::string& node : cluster_.node_names()) cluster_.store.set_reachable(node, false);
  }
  later(10s, [this] { cluster_.store.all_reachable(); });
}

// Whether this host can be given the volume while the engine so far is on another.
bool FaultInjector::may_take_over(const EngineHost& target) const {
  if (!cluster_.current() || target.node() == cluster_.current()->host().node()) return false;
  return world_.now() >= target.available_at && !(target.process() && target.process()->frozen);
}

// Forced: the engine so far may be alive, frozen, or cut off, alone or together with some replicas.
void FaultInjector::take_over() {
  EngineHost& target = any_host();
  if (!may_take_over(target)) return;
  Random& random = world_.random();
  const std::string& old = cluster_.current()->host().node();
  switch (random.below(5)) {
    case 0:  // the network is whole
      break;
    case 1:  // the engine is alone
      split({old});
      break;
    case 2: {  // everybody is on one side or the other
      std::set<std::string> side{old};
      for (const std::string& node : cluster_.node_names()) {
        if (node != target.node() && random.chance(1, 2)) side.insert(node);
      }
      split(side);
      break;
    }
    case 3:
      outlast_promises(target.node());
      break;
    default:
      return take_out_and_over(target);
  }
  cluster_.attach(target);
}

// The control plane takes a replica out, and before the engine hears that it is, both are alone on one side: what the
// replica holds is out of date as soon as the next engine serves.
void FaultInjector::take_out_and_over(EngineHost& target) {
  Cluster::Member& leaving = any_member();
  if (leaving.node->node() == target.node() || !may_be_replaced()) return cluster_.attach(target);
  leaving.retiring = true;
  cluster_.store.set_delay(1s);
  take_over_when_out(leaving, leaving.node->id(), target, world_.now() + 5s);
}

void FaultInjector::take_over_when_out(Cluster::Member& leaving, ReplicaId id, EngineHost& target, Nanos give_up) {
  if (cluster_.store.in_sync(id) && world_.now() < give_up) {
    return later(2ms, [this, &leaving, id, &target, give_up] { take_over_when_out(leaving, id, target, give_up); });
  }
  cluster_.store.set_delay(Nanos(0));
  if (!may_take_over(target)) return;
  split({cluster_.current()->host().node(), leaving.node->node()});
  cluster_.attach(target);
}

// An engine that stands still while the replicas promise the epoch of the next, and goes on when they have started
// again and the next cannot reach them: what keeps it out is only what they wrote down.
void FaultInjector::outlast_promises(const std::string& next) {
  EngineHost& host = cluster_.current()->host();
  Process* engine = host.process();
  if (!engine || !engine->alive || engine->frozen) return;
  world_.freeze(engine);
  cluster_.store.set_reachable(host.node(), false);
  restart_after_promises(engine, next, cluster_.store.record().epoch, world_.now() + 8s);
}

// As soon as all have promised an epoch above `old`, before the next engine has written much: an entry of its epoch
// tells as much as the promise.
void FaultInjector::restart_after_promises(Process* engine, const std::string& next, Epoch old, Nanos give_up) {
  bool promised = std::all_of(cluster_.members.begin(), cluster_.members.end(), [old](const Cluster::Member& member) {
    return member.node->store() && member.node->store()->info().promised > old;
  });
  if (!promised && world_.now() < give_up) {
    return later(1ms, [this, engine, &next, old, give_up] { restart_after_promises(engine, next, old, give_up); });
  }
  for (Cluster::Member& member : cluster_.members) {
    const std::string& node = member.node->node();
    cluster_.kill(member, moment(100ms));
    if (node == next) continue;
    world_.set_link(next, node, false);
    world_.set_link(node, next, false);
  }
  later(200ms, [this, engine] { world_.thaw(engine); });
  later(4s, [this] {
    world_.heal_network();
    cluster_.store.all_reachable();
  });
}

// Those on this side reach neither the others nor the metadata store. When the two meet again, the replicas may be just
// starting.
void FaultInjector::split(const std::set<std::string>& side) {
  for (const std::string& node : cluster_.node_names()) {
    if (side.contains(node)) {
      cluster_.store.set_reachable(node, false);
      continue;
    }
    for (const std::string& other : side) {
      world_.set_link(other, node, false);
      world_.set_link(node, other, false);
    }
  }
  later(world_.random().chance(1, 2) ? 8s : 24s, [this] {
    world_.heal_network();
    cluster_.store.all_reachable();
    if (world_.random().chance(2, 3)) return;
    for (Cluster::Member& member : cluster_.members) cluster_.kill(member, moment(500ms));
  });
}

void FaultInjector::disk_full() {
  Cluster::Member& member = any_member();
  const std::string& node = member.node->node();
  member.was_full = true;
  world_.disk_faults(node).capacity_bytes = world_.disk(node).used_bytes() + world_.random().below(1u << 20);
  later(10s, [this, name = new std::string(node)] {
    std::unique_ptr<std::string> owned(name);
    world_.disk_faults(*owned).capacity_bytes = UINT64_MAX;
  });
}

void FaultInjector::flip_bit() {
  if (cluster_.members.size() == 1) return;
  ReplicaNode& node = *cluster_.members[victim_].node;
  std::string file = world_.random().chance(2, 3) ? "/disk/data" : "/disk/journal";
  if (!world_.disk(node.node()).flip_stored_bit(file)) return;
  node.set_damaged();
}

void FaultInjector::corrupt_reads() {
  if (cluster_.members.size() == 1) return;
  ReplicaNode& node = *cluster_.members[victim_].node;
  DiskFaults& faults = world_.disk_faults(node.node());
  (world_.random().chance(1, 2) ? faults.corrupt_read_ppm : faults.misdirected_read_ppm) =
      world_.random().between(1'000, 200'000);
  node.set_damaged();
  later(6s, [&faults] { faults.corrupt_read_ppm = faults.misdirected_read_ppm = 0; });
}

// Pages of the data file, or of the journal, that cannot be read until they are written again.
void FaultInjector::lose_sectors() {
  if (cluster_.members.size() == 1) return;
  ReplicaNode& node = *cluster_.members[victim_].node;
  bool journal = world_.random().chance(1, 3);
  for (std::uint64_t n = world_.random().between(1, 8); n > 0; --n) {
    if (!world_.disk(node.node()).lose_page(journal ? "/disk/journal" : "/disk/data")) continue;
    node.set_damaged();
    if (journal) node.set_journal_damaged();
  }
}

// Writes that the disk acknowledges and loses, or puts elsewhere in the file.
void FaultInjector::lie_about_writes() {
  if (cluster_.members.size() == 1) return;
  ReplicaNode& node = *cluster_.members[victim_].node;
  DiskFaults& faults = world_.disk_faults(node.node());
  (world_.random().chance(1, 2) ? faults.lost_write_ppm : faults.misdirected_write_ppm) =
      world_.random().between(1'000, 50'000);
  node.set_damaged();
  later(4s, [&faults] { faults.lost_write_ppm = faults.misdirected_write_ppm = 0; });
}

// One that another complete copy can stand in for, be it an older one.
void FaultInjector::lose_disk() {
  Cluster::Member& member = any_member();
  if (member.gone) return;
  bool another = std::any_of(cluster_.members.begin(), cluster_.members.end(), [&member](const Cluster::Member& other) {
    return &other != &member && !other.gone && !other.retiring && other.node->store() &&
           other.node->store()->info().complete;
  });
  if (another) cluster_.lose_disk(member);
}

// The control plane takes a replica out of the volume; another one on an empty disk takes its place.
void FaultInjector::replace_replica() {
  if (may_be_replaced()) any_member().retiring = true;
}

bool FaultInjector::may_be_replaced() const {
  bool under_way = std::any_of(cluster_.members.begin(), cluster_.members.end(),
                               [](const Cluster::Member& other) { return other.retiring; });
  if (cluster_.members.size() == 1 || under_way) return false;
  // Of the in-sync copies another one stays.
  return cluster_.store.record().in_sync.size() > 1;
}

}  // namespace holdfast::sim
