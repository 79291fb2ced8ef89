#include "sim_cluster/linked_clone.h"

#include <algorithm>

#include "sim_cluster/rest_checks.h"
#include "sim_cluster/rest_wait.h"
#include "sim_cluster/snapshot_checks.h"
#include "sim_cluster/unit_content.h"

namespace holdfast::sim {

namespace {

constexpr Nanos kLimit = 300s;

std::vector<ReplicaId> clone_ids(const Cluster& cluster) {
  std::vector<ReplicaId> ids;
  for (const Cluster::Member& member : cluster.members) ids.push_back(ReplicaId(member.node->id().value() + 1'000));
  return ids;
}

ReplicaId source_id(const ReplicaNode& node) { return node.id(); }

}  // namespace

LinkedClone::LinkedClone(Cluster& cluster)
    : cluster_(cluster), store_(cluster.world, clone_ids(cluster)), oracle_(cluster.world) {
  seen_.size_changes = cluster.scenario.resizes();
}

void LinkedClone::in_process(Attachment& attachment, std::function<void()> work) {
  bool done = false;
  cluster_.world.schedule(
      cluster_.world.now(), attachment.host().process(),
      [&work, &done] {
        work();
        done = true;
      },
      "linked clone");
  if (!cluster_.run_until([&done] { return done; }, 10s) && !bad()) violated("a process does nothing");
}

// ---- making it ----

void LinkedClone::take_snapshot() {
  std::optional<Status> outcome;
  SnapshotLog& log = cluster_.oracle.snapshots();
  snapshot_ = log.take_begins(cluster_.world.now());
  engine::Engine* engine = cluster_.current()->engine();
  in_process(*cluster_.current(),
             [&] { engine->snapshot(snapshot_, [&outcome](Status status) { outcome = std::move(status); }); });
  cluster_.run_until([&outcome] { return outcome.has_value(); }, kLimit);
  if (!outcome || !outcome->ok()) return violated("no snapshot can be taken");
  log.taken(snapshot_, cluster_.world.now(), engine->status().committed);
  cluster_.oracle.acknowledged(cluster_.current()->epoch(), engine->status().committed);
}

void LinkedClone::begin() {
  for (const Cluster::Member& member : cluster_.members) {
    if (member.node->damaged()) return;
  }
  take_snapshot();
  if (bad()) return;
  for (Cluster::Member& member : cluster_.members) {
    ReplicaNode& node = *member.node;
    auto linked = wait<Status>(cluster_, [&](StatusCallback done) {
      node.disk()->create_linked(id_on(node), kVolume, node.id(), snapshot_, std::move(done));
    });
    if (!linked || !linked->ok()) {
      return violated("cannot be made on " + node.node() + (linked ? ": " + linked->error().to_string() : ""));
    }
  }
  const ReplicaNode& first = *cluster_.members.front().node;
  std::vector<store::SnapshotInfo> all = first.store()->snapshots();
  auto info = std::find_if(all.begin(), all.end(), [this](const auto& one) { return one.id == snapshot_; });
  if (info == all.end()) return violated("its snapshot is gone");
  std::string content = read_snapshot(cluster_, first, *info);
  if (bad() || holds_damage_marks(content)) return;
  tell_history(cluster_, snapshot_, content);
  size_blocks_ = info->size_blocks;
  oracle_.size_asked(size_blocks_);
  oracle_.size_acknowledged(size_blocks_);
  std::size_t unit = cluster_.scenario.logical_block_size;
  for (std::size_t at = 0; at < content.size(); at += unit) {
    std::optional<Value> value = value_of_unit(reinterpret_cast<const std::byte*>(content.data() + at), unit);
    if (value) oracle_.history().begins_with(at / unit, *value);
  }
  oracle_.values_from(cluster_.oracle.new_value() + 1'000'000'000);
  made_ = true;
  cluster_.world.trace("linked clone of snapshot " + std::to_string(snapshot_.value()));
}

// ---- serving it ----

void LinkedClone::attach() {
  auto up = [this] {
    return std::all_of(cluster_.members.begin(), cluster_.members.end(),
                       [](const Cluster::Member& member) { return member.node->disk() != nullptr; }) &&
           std::all_of(cluster_.hosts.begin(), cluster_.hosts.end(),
                       [this](const EngineHost& host) { return cluster_.world.now() >= host.available_at; });
  };
  if (!cluster_.run_until(up, kLimit)) return violated("the disks do not come back");
  EngineHost& host = cluster_.hosts[cluster_.world.random().below(cluster_.hosts.size())];
  host.ensure_process();
  engine::VolumeConfig config;
  config.volume = kVolume;
  config.name = "clone";
  config.epoch = store_.grant();
  config.size_bytes = size_blocks_ * kBlockSize;
  config.logical_block_size = cluster_.scenario.logical_block_size;
  for (const Cluster::Member& member : cluster_.members) {
    const ReplicaNode& node = *member.node;
    config.replicas.push_back({id_on(node), node.address(), node.node() == host.node(), store_.in_sync(id_on(node))});
  }
  cluster_.world.trace("attach the clone on " + host.node() + " with epoch " + std::to_string(config.epoch.value()));
  host.attachments.push_back(std::make_unique<Attachment>(host, store_, std::move(config)));
  current_ = host.attachments.back().get();
  current_->open([this](Attachment& attachment) { on_opened(attachment); });
  cluster_.run_until([this] { return current_->state() != Attachment::State::kOpening; }, kLimit);
  if (!bad() && !serving()) {
    violated("cannot be attached" + (current_->failure() ? ": " + current_->failure()->to_string() : ""));
  }
}

void LinkedClone::on_opened(Attachment& attachment) {
  if (!attachment.engine()) return;
  Oracle::Recovery recovery;
  recovery.epoch = attachment.epoch();
  recovery.last = attachment.engine()->status().last;
  recovery.size_blocks = attachment.engine()->size_bytes() / kBlockSize;
  for (const Cluster::Member& member : cluster_.members) {
    if (store_.in_sync(id_on(*member.node))) recovery.power_lost.push_back(member.node->power_lost_at());
  }
  oracle_.serving(recovery);
  Client::Setup setup{&cluster_.world,    attachment.host().process()->env.get(),
                      &oracle_,           &seen_,
                      &cluster_.counts,   &cluster_.scenario,
                      attachment.epoch(), [](ErrorCode) { return false; }};
  attachment.start_client(std::move(setup));
}

void LinkedClone::write_for(Nanos duration) {
  Attachment* source = cluster_.current();
  if (source && source->client() && cluster_.serving()) {
    in_process(*source, [source] { source->client()->start(); });
  }
  if (cluster_.world.random().chance(1, 2)) drop_snapshot();
  cluster_.run_until([end = cluster_.world.now() + duration, this] { return cluster_.world.now() >= end; }, duration);
}

void LinkedClone::drop_snapshot() {
  if (snapshot_ == SnapshotId() || !cluster_.serving()) return;
  cluster_.oracle.snapshots().drop_begins(snapshot_);
  Attachment* source = cluster_.current();
  in_process(*source, [this, source] {
    source->engine()->drop_snapshot(snapshot_, [this, source, id = snapshot_](Status status) {
      if (!status.ok()) return;
      cluster_.oracle.snapshots().dropped(id, source->engine()->status().committed);
      cluster_.oracle.acknowledged(source->epoch(), source->engine()->status().committed);
    });
  });
  snapshot_ = SnapshotId();
}

void LinkedClone::live() {
  if (!made_) return;
  attach();
  if (bad()) return;
  write_for(Nanos(cluster_.world.random().between(200, 1'500) * 1'000'000));
  if (!bad() && cluster_.world.random().chance(1, 2)) {
    lose_power();
    if (!bad()) write_for(Nanos(cluster_.world.random().between(200, 800) * 1'000'000));
  }
  cluster_.stop_clients();
  if (!bad()) come_to_rest();
}

void LinkedClone::lose_power() {
  cluster_.power_off_all(1s);
  attach();
}

// ---- checking it ----

bool LinkedClone::settled() const {
  if (store_.record().in_sync.size() != cluster_.members.size()) return false;
  Seq last = current_->engine()->status().last;
  return std::all_of(cluster_.members.begin(), cluster_.members.end(), [last](const Cluster::Member& member) {
    store::ReplicaStore* copy = member.node->disk() ? member.node->disk()->find(id_on(*member.node)) : nullptr;
    return copy && copy->info().last.seq == last && copy->info().applied == last &&
           member.node->disk()->space().journal_used_bytes == 0;
  });
}

void LinkedClone::come_to_rest() {
  if (!serving()) attach();
  if (bad()) return;
  Client* client = current_->client();
  in_process(*current_, [client] { client->read_all(); });
  auto idle = [client] { return client->in_flight() == 0; };
  client->stop();
  if (!cluster_.run_until(idle, 60s)) return violated("operations do not end");
  in_process(*current_, [client] { client->flush(); });
  if (!cluster_.run_until(idle, 60s) || client->flush_failed()) return violated("the last flush failed");
  if (!cluster_.run_until([this] { return settled(); }, kLimit)) return violated("its replicas do not settle");
  check_copies(cluster_, [](const ReplicaNode& node) { return node.disk()->find(id_on(node)); });
  if (!oracle_.violation().empty()) violated(oracle_.violation());
}

// ---- the end ----

void LinkedClone::delete_everywhere(ReplicaId (*id_of)(const ReplicaNode&)) {
  for (Cluster::Member& member : cluster_.members) {
    ReplicaNode& node = *member.node;
    auto deleted =
        wait<Status>(cluster_, [&](StatusCallback done) { node.disk()->delete_replica(id_of(node), std::move(done)); });
    if (!deleted || !deleted->ok()) return violated("a replica cannot be deleted on " + node.node());
  }
}

void LinkedClone::outlive_source() {
  if (!made_ || !cluster_.serving()) return;
  cluster_.world.trace("delete the source");
  cluster_.retire();
  if (!cluster_.run_until([this] { return cluster_.current()->state() == Attachment::State::kClosed; }, kLimit)) {
    return violated("the source does not let go");
  }
  cluster_.run_until([] { return false; }, 100ms);
  delete_everywhere(&source_id);
  if (bad()) return;
  if (cluster_.world.random().chance(1, 2)) lose_power();
  for (const Cluster::Member& member : cluster_.members) {
    if (!bad() && member.node->store()) violated("its source came back");
  }
  if (!bad()) come_to_rest();
  if (bad()) return;
  if (std::optional<std::string> unexplained = oracle_.history().check()) return violated(*unexplained);
  current_->close();
  if (!cluster_.run_until([this] { return current_->state() == Attachment::State::kClosed; }, kLimit)) {
    return violated("it does not let go");
  }
  cluster_.run_until([] { return false; }, 100ms);
  delete_everywhere(&id_on);
  auto empty = [this] {
    return std::all_of(cluster_.members.begin(), cluster_.members.end(), [](const Cluster::Member& member) {
      return member.node->disk() && member.node->disk()->space().used_bytes == 0;
    });
  };
  if (!bad() && !cluster_.run_until(empty, 60s)) violated("slots stay behind when both volumes are deleted");
}

}  // namespace holdfast::sim
