#include "sim_cluster/cluster.h"

#include <algorithm>

namespace holdfast::sim {

namespace {

constexpr Nanos kTick = 100ms;
// How long the control plane looks on while an engine reports that its I/O waits.
constexpr Nanos kPatience = 20s;

std::vector<ReplicaId> first_ids(unsigned count) {
  std::vector<ReplicaId> ids;
  for (unsigned i = 0; i < count; ++i) ids.push_back(ReplicaId(101 + i));
  return ids;
}

}  // namespace

Cluster::Cluster(std::uint64_t seed, Scenario the_scenario, bool trace)
    : world(seed, trace), scenario(the_scenario), oracle(world), store(world, first_ids(scenario.replicas)) {
  if (scenario.clocks_differ) set_clocks();
  seen.snapshots_change = scenario.snapshots;
  seen.size_changes = scenario.resizes();
  oracle.size_asked(scenario.size_blocks);
  oracle.size_acknowledged(scenario.size_blocks);
  store::StoreOptions options;
  options.directory = "/disk";
  options.journal_bytes = scenario.journal_bytes;
  options.capacity_bytes = scenario.size_blocks_max * kBlockSize *
                               (scenario.clones      ? 12
                                : scenario.snapshots ? 8
                                                     : 2) +
                           (8u << 20);
  options.reserve_bytes = 1u << 20;
  options.cache_bytes = scenario.cache_bytes;
  for (unsigned i = 0; i < scenario.replicas; ++i) {
    Member& member = members.emplace_back();
    member.node = std::make_unique<ReplicaNode>(world, oracle, "10.0.0." + std::to_string(i + 1),
                                                ReplicaId(next_replica_id_++), options);
  }
  for (unsigned i = 0; i < scenario.hosts; ++i) {
    hosts.emplace_back(world, (scenario.colocated ? "10.0.0." : "10.0.1.") + std::to_string(i + 1));
  }
}

// Far apart, and as fast and slow as the lease allows for (a sixteenth between any two).
void Cluster::set_clocks() {
  for (unsigned net = 0; net < 2; ++net) {
    for (unsigned i = 1; i <= scenario.replicas; ++i) {
      NodeClock& clock = world.clock("10.0." + std::to_string(net) + "." + std::to_string(i));
      clock.offset = Nanos(world.random().below(1'000'000) * 1'000'000);
      clock.drift_ppm = static_cast<std::int64_t>(world.random().below(60'001)) - 30'000;
    }
  }
}

bool Cluster::run_until(const std::function<bool()>& done, Nanos limit) {
  return world.run_until([&] { return !oracle.violation().empty() || done(); }, limit);
}

void Cluster::begin() {
  for (Member& member : members) member.node->start(kVolume, scenario.size_blocks, true);
  bool started = run_until(
      [this] {
        return std::all_of(members.begin(), members.end(),
                           [](const Member& member) { return member.node->store() != nullptr; });
      },
      60s);
  if (!started) return oracle.violated("the replicas did not start");
  attach(hosts.front());
  tick();
  if (!run_until([this] { return healthy(); }, 60s)) oracle.violated("the first attach did not succeed");
}

// ---- control plane ----

void Cluster::tick() {
  for (Member& member : members) look_after(member);
  look_after_engine();
  update_replicas();
  Nanos jitter(world.random().below(50'000'000));
  world.schedule(
      world.now() + kTick + jitter, nullptr, [this] { tick(); }, "control");
}

void Cluster::look_after(Member& member) {
  ReplicaNode& node = *member.node;
  if (node.state() == ReplicaNode::State::kBroken) check_open_failure(member);
  bool failed = node.disk() && !node.disk()->failure().empty();
  if (failed || node.state() == ReplicaNode::State::kBroken) {
    // As the agent does: the process is started again, after a moment.
    std::optional<ErrorCode> why;
    if (node.failure()) why = node.failure()->code();
    bool lost = why == ErrorCode::kJournalDamaged || why == ErrorCode::kWrongDisk;  // the latter: its only batch is bad
    // Somebody gives up a disk that bad sectors of its journal keep from being opened.
    lost = lost || (why == ErrorCode::kDiskIo && node.journal_damaged());
    node.kill();
    member.restart_at = world.now() + Nanos(world.random().below(2'000'000'000));
    if (lost) member.retiring = true;
  }
  if (member.gone && !member.retiring) member.retiring = true;
  if (member.retiring && !store.in_sync(node.id()) && store.record().in_sync.size() > 0) {
    node.kill();
    node.replace_disk(ReplicaId(next_replica_id_++));
    member.retiring = member.gone = false;
    replicas_changed_ = true;
  }
  if (member.gone) return;
  if (node.state() != ReplicaNode::State::kDown || world.now() < member.restart_at) return;
  // It cannot be opened, and goes when it has left the set. The last one in-sync does not leave: when its disk failed
  // for a moment only, it is needed.
  bool last = store.in_sync(node.id()) && store.record().in_sync.size() == 1;
  bool passing = node.failure() && node.failure()->code() == ErrorCode::kDiskIo && !node.damaged();
  if (member.retiring && node.failure() && !(last && passing)) return;
  node.start(kVolume, scenario.size_blocks, world.now() == Nanos(0));
}

void Cluster::check_open_failure(Member& member) {
  const ReplicaNode& node = *member.node;
  if (!node.failure()) return;
  ErrorCode code = node.failure()->code();
  bool excused = code == ErrorCode::kDiskIo || code == ErrorCode::kNoSpace || code == ErrorCode::kCancelled
                     ? scenario.weight(Fault::kDiskErrors) + scenario.weight(Fault::kDiskFull) > 0 || scenario.damages()
                     : node.damaged();
  if (!excused) oracle.violated(node.node() + " cannot open its disk: " + node.failure()->to_string());
}

void Cluster::retire() {
  retired_ = true;
  current_->close();
  for (Member& member : members) member.node->forget();
}

void Cluster::look_after_engine() {
  if (retired_) return;
  for (EngineHost& host : hosts) {
    // A fenced engine goes away after a while in which it must refuse everything; one that is closing already by
    // itself.
    for (const std::unique_ptr<Attachment>& attachment : host.attachments) {
      if (attachment->is_stuck_closing()) oracle.violated("an engine that was told to close never did");
      if (attachment->is_closing()) continue;
      if (attachment.get() != current_ && attachment->is_fenced() && world.random().chance(1, 10)) {
        attachment->destroy();
      }
    }
  }
  ask_about_losses();
  if (world.now() < attach_again_at_ || store.record().lost_data) return;
  bool gone = !current_ || current_->state() == Attachment::State::kFailed ||
              current_->state() == Attachment::State::kClosed || current_->is_fenced() ||
              current_->epoch() < store.record().epoch;
  // A detach that lasts is not always waited for: somebody takes the volume over.
  if (!gone && current_->is_closing() && world.random().chance(1, 10)) gone = true;
  if (!gone) {
    bool waits =
        current_->host().process()->frozen || (current_->engine() && !current_->engine()->status().failure.empty());
    if (!waits) unhealthy_since_ = Nanos(-1);
    if (waits && unhealthy_since_ < Nanos(0)) unhealthy_since_ = world.now();
    gone = waits && world.now() - unhealthy_since_ > kPatience;
  }
  if (!gone) return;
  unhealthy_since_ = Nanos(-1);
  if (EngineHost* host = choose_host()) attach(*host);
  attach_again_at_ = world.now() + Nanos(world.random().below(1'000'000'000));
}

// Lost data is accepted by somebody who looks after it now and then, never by the control plane itself.
void Cluster::ask_about_losses() {
  if (current_ && current_->engine()) {
    engine::EngineStatus status = current_->engine()->status();
    if (status.lost_data && store.record().epoch == status.epoch && !store.record().lost_data) {
      oracle.violated("an engine stopped because data was lost, and nobody knows of it");
    }
  }
  bool older = all_in_sync_gone();
  if (!older && !store.record().lost_data) {
    accept_at_ = Nanos::max();
    return;
  }
  if (accept_at_ == Nanos::max()) accept_at_ = world.now() + Nanos(world.random().below(12'000'000'000));
  if (world.now() < accept_at_) return;
  if (!older) {
    store.accept_loss(store.record().in_sync);
  } else if (const Member* best = best_older_copy()) {
    store.accept_loss({best->node->id()});
    older_accepted_ = true;
  } else {
    return;
  }
  world.trace("the loss of writes is accepted, the volume goes on with " +
              std::to_string(store.record().in_sync.front().value()));
  ++losses_accepted;
  accept_at_ = Nanos::max();
}

bool Cluster::all_in_sync_gone() const {
  const std::vector<ReplicaId>& set = store.record().in_sync;
  return std::all_of(set.begin(), set.end(), [this](ReplicaId id) {
    const Member* member = member_of(id);
    return !member || member->gone;
  });
}

// By what it has, not by time or size; those that are down might have more.
const Cluster::Member* Cluster::best_older_copy() const {
  const Member* best = nullptr;
  for (const Member& member : members) {
    if (member.gone || member.retiring) continue;
    if (!member.node->store()) return nullptr;
    store::ReplicaInfo info = member.node->store()->info();
    if (info.complete && (!best || info.last > best->node->store()->info().last)) best = &member;
  }
  return best;
}

EngineHost* Cluster::choose_host() {
  std::vector<EngineHost*> fit;
  for (EngineHost& host : hosts) {
    bool frozen = host.process() && host.process()->frozen;
    if (world.now() >= host.available_at && !frozen && store.reachable(host.node())) fit.push_back(&host);
  }
  return fit.empty() ? nullptr : fit[world.random().below(fit.size())];
}

std::vector<engine::ReplicaConfig> Cluster::replica_configs(const std::string& local_node) const {
  std::vector<engine::ReplicaConfig> configs;
  for (const Member& member : members) {
    const ReplicaNode& node = *member.node;
    bool in_sync = store.in_sync(node.id());
    if (member.retiring && !in_sync) continue;
    configs.push_back({node.id(), node.address(), node.node() == local_node, in_sync});
  }
  return configs;
}

void Cluster::attach(EngineHost& host) {
  if (store.record().lost_data) return;
  // A target process has one engine per volume: an earlier one there goes first.
  for (const std::unique_ptr<Attachment>& earlier : host.attachments) {
    if (earlier->volume() == kVolume) earlier->destroy();
  }
  host.ensure_process();
  engine::VolumeConfig config;
  config.volume = kVolume;
  config.name = "sim";
  config.epoch = store.grant();
  config.size_bytes = scenario.size_blocks * kBlockSize;
  config.logical_block_size = scenario.logical_block_size;
  config.replicas = replica_configs(host.node());
  config.rebuild_bytes_per_second = scenario.rebuild_bytes_per_second;
  world.trace("attach on " + host.node() + " with epoch " + std::to_string(config.epoch.value()));
  host.attachments.push_back(std::make_unique<Attachment>(host, store, std::move(config)));
  current_ = host.attachments.back().get();
  current_->open([this](Attachment& attachment) { on_opened(attachment); });
}

void Cluster::on_opened(Attachment& attachment) {
  std::string epoch = std::to_string(attachment.epoch().value());
  if (!attachment.engine()) {
    world.trace("epoch " + epoch + " cannot serve: " + attachment.failure()->to_string());
    return;
  }
  Oracle::Recovery recovery{.epoch = attachment.epoch(),
                            .last = attachment.engine()->status().last,
                            .size_blocks = attachment.engine()->size_bytes() / kBlockSize,
                            .all_damaged = true,
                            .power_lost = {}};
  for (ReplicaId id : attachment.granted_set()) {
    // One that was left out because it did not answer saves nothing (docs/consistency.md, "Power loss").
    if (!store.in_sync(id)) continue;
    const Member* member = member_of(id);
    bool damaged = !member || member->node->damaged();
    recovery.all_damaged = recovery.all_damaged && damaged;
    if (!damaged) recovery.power_lost.push_back(member->node->power_lost_at());
  }
  recovery.older_accepted = std::exchange(older_accepted_, false);
  world.trace("epoch " + epoch + " serves after entry " + std::to_string(recovery.last.value()));
  oracle.serving(recovery);
  served_ = true;
  Client::Setup setup{&world,
                      attachment.host().process()->env.get(),
                      &oracle,
                      &seen,
                      &counts,
                      &scenario,
                      attachment.epoch(),
                      [this](ErrorCode code) { return may_fail(code); }};
  attachment.start_client(std::move(setup));
  if (clients_stopped_) attachment.client()->stop();
}

void Cluster::update_replicas() {
  bool retiring = std::any_of(members.begin(), members.end(), [](const Member& member) { return member.retiring; });
  if (!replicas_changed_ && !retiring) return;
  if (!serving()) return;
  replicas_changed_ = false;
  std::vector<engine::ReplicaConfig> wanted;
  for (engine::ReplicaConfig& config : replica_configs(current_->host().node())) {
    const Member* member = member_of(config.id);
    if (!member->retiring) wanted.push_back(std::move(config));
  }
  if (wanted.empty()) return;
  world.schedule(
      world.now() + 1ms, current_->host().process(),
      [attachment = current_, list = new std::vector<engine::ReplicaConfig>(std::move(wanted))] {
        std::unique_ptr<std::vector<engine::ReplicaConfig>> owned(list);
        if (attachment->engine()) attachment->engine()->set_replicas(std::move(*owned));
      },
      "set replicas");
}

bool Cluster::may_fail(ErrorCode code) const {
  if (!scenario.any_fault() || scenario.victims > 0) return false;
  switch (code) {
    case ErrorCode::kInternal:
    case ErrorCode::kProtocol:
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kLogGap:
    case ErrorCode::kUnimplemented:
      return false;
    case ErrorCode::kCorrupt:
      return scenario.damages() || scenario.weight(Fault::kPowerOffNode) + scenario.weight(Fault::kPowerOffAll) > 0;
    case ErrorCode::kNoSpace:
      return scenario.weight(Fault::kDiskFull) > 0;
    default:
      return true;
  }
}

// ---- faults ----

void Cluster::kill(Member& member, Nanos restart_after) {
  member.node->kill();
  member.restart_at = world.now() + restart_after;
}

void Cluster::kill(EngineHost& host) {
  host.kill();
  attach_again_at_ = std::max(attach_again_at_, world.now() + Nanos(world.random().below(500'000'000)));
}

// What is on it is nowhere any more.
void Cluster::lose_disk(Member& member) {
  world.trace("the disk of " + member.node->node() + " is gone");
  member.node->kill();
  member.gone = true;
}

void Cluster::power_off(const std::string& node, Nanos back_after) {
  world.power_off(node);
  for (Member& member : members) {
    if (member.node->node() != node) continue;
    member.node->lost_power();
    member.restart_at = world.now() + back_after;
  }
  for (EngineHost& host : hosts) {
    if (host.node() != node) continue;
    host.lost_power();
    host.available_at = world.now() + back_after;
  }
}

void Cluster::power_off_all(Nanos back_after_max) {
  if (std::exchange(served_, false)) ++power_cycles;
  for (const std::string& node : node_names()) {
    power_off(node, Nanos(world.random().below(static_cast<std::uint64_t>(back_after_max.count()))));
  }
}

std::vector<std::string> Cluster::node_names() const {
  std::vector<std::string> names;
  for (const Member& member : members) names.push_back(member.node->node());
  for (const EngineHost& host : hosts) {
    if (!scenario.colocated) names.push_back(host.node());
  }
  return names;
}

void Cluster::calm() {
  world.trace("calm");
  seen.snapshots_change = seen.size_changes = false;
  world.heal_network();
  store.all_reachable();
  store.set_delay(Nanos(0));
  for (Member& member : members) {
    world.disk_faults(member.node->node()) = DiskFaults{};
    if (member.node->process()) world.thaw(member.node->process());
    if (member.was_full) member.node->kill();
    member.restart_at = Nanos(0);
  }
  for (EngineHost& host : hosts) {
    host.available_at = Nanos(0);
    if (host.process()) world.thaw(host.process());
  }
  attach_again_at_ = Nanos(0);
}

// ---- what can be seen ----

const Cluster::Member* Cluster::member_of(ReplicaId id) const {
  for (const Member& member : members) {
    if (member.node->id() == id) return &member;
  }
  return nullptr;
}

bool Cluster::healthy() const {
  if (!serving() || store.record().in_sync.size() != members.size()) return false;
  for (const Member& member : members) {
    if (member.retiring || !store.in_sync(member.node->id()) || !member.node->store()) return false;
  }
  engine::EngineStatus status = current_->engine()->status();
  return status.failure.empty() && status.replicas.size() == members.size() &&
         std::all_of(status.replicas.begin(), status.replicas.end(), [](const engine::ReplicaStatus& replica) {
           return replica.phase == engine::ReplicaPhase::kInSync;
         });
}

unsigned Cluster::in_flight() const {
  unsigned count = 0;
  for (const EngineHost& host : hosts) {
    for (const std::unique_ptr<Attachment>& attachment : host.attachments) {
      if (attachment->state() == Attachment::State::kServing && attachment->client()) {
        count += attachment->client()->in_flight();
      }
    }
  }
  return count;
}

void Cluster::stop_clients() {
  clients_stopped_ = true;
  for (EngineHost& host : hosts) {
    for (const std::unique_ptr<Attachment>& attachment : host.attachments) {
      if (attachment->client()) attachment->client()->stop();
    }
  }
}

bool Cluster::all_in_sync_damaged() const {
  const std::vector<ReplicaId>& set = store.record().in_sync;
  return std::all_of(set.begin(), set.end(), [this](ReplicaId id) {
    const Member* member = member_of(id);
    return !member || member->node->damaged();
  });
}

// A rebuild makes an older copy incomplete: when its source goes then, nothing whole is left.
bool Cluster::no_copy_left() const {
  return all_in_sync_gone() && std::all_of(members.begin(), members.end(), [](const Member& member) {
           return member.gone || (member.node->store() && !member.node->store()->info().complete);
         });
}

bool Cluster::lost_for_good() const {
  if (no_copy_left()) return true;
  const std::vector<ReplicaId>& set = store.record().in_sync;
  return std::all_of(set.begin(), set.end(), [this](ReplicaId id) {
    const Member* member = member_of(id);
    return !member || (member->node->damaged() && member->node->failure().has_value());
  });
}

}  // namespace holdfast::sim
