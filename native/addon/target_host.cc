#include "addon/target_host.h"

#include <utility>

#include "base/log.h"

namespace holdfast::addon {

Status parse_addresses(const std::vector<std::string>& texts, std::vector<engine::ReplicaConfig>& replicas) {
  CHECK(texts.size() == replicas.size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    ASSIGN_OR_RETURN(replicas[i].address, Address::parse(texts[i]));
  }
  return {};
}

TargetHost::TargetHost(Env& env, TargetEvents& events)
    : env_(env),
      events_(events),
      channels_(env),
      devices_(env),
      views_(env, *this),
      target_(iscsi::Target::create(env, *this)) {}

TargetHost::~TargetHost() = default;

Result<std::string> TargetHost::open(const std::string& portal, const std::optional<tls::Credentials>& credentials) {
  if (credentials) {
    ASSIGN_OR_RETURN(identity_, tls::Identity::create(*credentials));
    channels_.set_tls({identity_});
  }
  ASSIGN_OR_RETURN(Address address, Address::parse(portal));
  target_->expect_targets();  // until somebody says what this process serves
  ASSIGN_OR_RETURN(Address bound, target_->listen(address));
  portal_ = bound.to_string();
  return portal_;
}

Status TargetHost::set_credentials(const tls::Credentials& credentials) {
  if (!identity_) return Error(ErrorCode::kFailedPrecondition, "the target process runs without TLS");
  return identity_->replace(credentials);
}

TargetHost::Volume* TargetHost::find(VolumeId volume) {
  auto found = volumes_.find(volume);
  return found == volumes_.end() ? nullptr : found->second.get();
}

// ---- attach ----

void TargetHost::attach(AttachRequest request, Callback<void(Result<AttachOutcome>)> done) {
  VolumeId id = request.volume.volume;
  if (closed_ || find(id)) {
    done(
        Error(ErrorCode::kFailedPrecondition,
              "volume " + request.volume.name + (closed_ ? ": this target is stopping" : " is attached here already")));
    return;
  }
  if (Status status = parse_addresses(request.replica_addresses, request.volume.replicas); !status.ok()) {
    done(std::move(status).error());
    return;
  }
  auto volume = std::make_unique<Volume>();
  volume->id = id;
  volume->name = request.volume.name;
  volume->epoch = request.volume.epoch;
  volume->iqn = request.target.iqn;
  volume->internal = request.internal;
  Volume* opening = volume.get();
  volumes_.emplace(id, std::move(volume));
  spawn(run_attach(this, opening, std::move(request), std::move(done)));
}

Task<void> TargetHost::run_attach(TargetHost* host, Volume* volume, AttachRequest request,
                                  Callback<void(Result<AttachOutcome>)> done) {
  engine::Membership& membership = *host;
  Result<std::unique_ptr<engine::Engine>> opened =
      co_await engine::Engine::open(host->env_, std::move(request.volume), membership, host->channels_);
  if (!opened.ok()) {
    host->forget(volume->id);
    done(std::move(opened).error());
    co_return;
  }
  volume->engine = std::move(opened).value();
  Status exported = volume->abandoned ? Status(Error(ErrorCode::kCancelled, "this target is stopping"))
                                      : host->export_volume(*volume, std::move(request.target));
  if (exported.ok()) {
    engine::EngineStatus status = volume->engine->status();
    done(AttachOutcome{host->portal_, volume->engine->size_bytes(), status.lease_waited, std::move(status.left_out)});
    co_return;
  }
  volume->detaching = true;
  co_await suspend<Status>([&](StatusCallback closed) { host->close_engine(volume, std::move(closed)); });
  done(std::move(exported).error());
}

Status TargetHost::export_volume(Volume& volume, iscsi::TargetConfig config) {
  if (volume.internal) return {};
  config.device = volume.engine.get();
  return target_->add_target(std::move(config));
}

// ---- detach ----

void TargetHost::detach(VolumeId id, StatusCallback done) {
  Volume* volume = find(id);
  if (!volume) {
    done({});
    return;
  }
  if (!volume->engine || volume->detaching) {
    done(Error(ErrorCode::kFailedPrecondition, "the volume is still being attached or detached"));
    return;
  }
  volume->detaching = true;
  if (volume->internal) return close_engine(volume, std::move(done));
  devices_.suspend(id);
  auto shared = std::make_shared<StatusCallback>(std::move(done));
  target_->remove_target(volume->iqn, [this, volume, shared] { close_engine(volume, std::move(*shared)); });
}

void TargetHost::close_engine(Volume* volume, StatusCallback done) {
  auto shared = std::make_shared<StatusCallback>(std::move(done));
  volume->engine->close([this, id = volume->id, shared] {
    // Not from inside a call of the engine itself.
    env_.post([this, id, shared] {
      forget(id);
      (*shared)({});
    });
  });
}

void TargetHost::forget(VolumeId volume) {
  volumes_.erase(volume);
  if (closed_ && volumes_.empty()) finish_close();
}

void TargetHost::finish_close() {
  devices_.forget([this] { env_.post(std::exchange(closed_, nullptr)); });
}

void TargetHost::close(Callback<void()> done) {
  closed_ = std::move(done);
  views_.close_all([this] { devices_.end_unused([this] { detach_all(); }); });
}

void TargetHost::detach_all() {
  if (volumes_.empty()) {
    finish_close();
    return;
  }
  std::vector<VolumeId> attached;
  for (auto& [id, volume] : volumes_) {
    if (volume->detaching) continue;  // closed_ is looked at when it has gone
    if (volume->engine) {
      attached.push_back(id);
    } else {
      volume->abandoned = true;
    }
  }
  for (VolumeId id : attached) detach(id, [](Status) {});
}

// ---- while attached ----

Status TargetHost::configure(VolumeId id, std::vector<engine::ReplicaConfig> replicas,
                             std::uint64_t rebuild_bytes_per_second, std::uint32_t foreground_percent,
                             const engine::QosLimits& qos) {
  Volume* volume = find(id);
  if (!volume || !volume->engine)
    return Error(ErrorCode::kNotFound, "volume " + to_hex(id.value()) + " is not attached");
  volume->engine->set_rebuild_rate(rebuild_bytes_per_second, foreground_percent);
  volume->engine->set_qos(qos);
  volume->engine->set_replicas(std::move(replicas));
  return {};
}

void TargetHost::repair(VolumeId id, BlockRange blocks, ReplicaId bad, bool differs,
                        Callback<void(Result<engine::RepairOutcome>)> done) {
  Volume* volume = find(id);
  if (!volume || !volume->engine) {
    done(Error(ErrorCode::kNotFound, "volume " + to_hex(id.value()) + " is not attached"));
    return;
  }
  volume->engine->repair(blocks, bad, differs, std::move(done));
}

void TargetHost::resize(VolumeId id, std::uint64_t size_bytes, StatusCallback done) {
  Volume* volume = find(id);
  if (!volume || !volume->engine) {
    done(Error(ErrorCode::kNotFound, "volume " + to_hex(id.value()) + " is not attached"));
    return;
  }
  auto shared = std::make_shared<StatusCallback>(std::move(done));
  volume->engine->resize(size_bytes, [this, id, shared](Status resized) {
    if (!resized.ok()) return (*shared)(std::move(resized));
    devices_.resized(id, std::move(*shared));
  });
}

Result<engine::Engine*> TargetHost::engine_of(VolumeId id) {
  Volume* volume = find(id);
  if (!volume || !volume->engine || volume->detaching || closed_) {
    return Error(ErrorCode::kNotFound, "volume " + to_hex(id.value()) + " is not attached");
  }
  return volume->engine.get();
}

void TargetHost::change_snapshot(VolumeId id, SnapshotChange change, SnapshotId snapshot, StatusCallback done) {
  Result<engine::Engine*> engine = engine_of(id);
  if (!engine.ok()) return done(std::move(engine).error());
  switch (change) {
    case SnapshotChange::kCreate:
      return (*engine)->snapshot(snapshot, std::move(done));
    case SnapshotChange::kDelete:
      return (*engine)->drop_snapshot(snapshot, std::move(done));
    case SnapshotChange::kRevert:
      if (find(id)->internal) return (*engine)->revert(snapshot, std::move(done));
      return done(Error(ErrorCode::kVolumeAttached, "volume " + find(id)->name +
                                                        " is attached: hosts would not see that its content changes; "
                                                        "detach it first"));
  }
}

void TargetHost::map(VolumeId id, std::string directory, Callback<void(Result<std::string>)> done) {
  Volume* volume = find(id);
  if (!volume || !volume->engine || volume->detaching || volume->internal || closed_) {
    done(Error(ErrorCode::kNotFound, "volume " + to_hex(id.value()) + " is not attached"));
    return;
  }
  devices_.map(id, std::move(directory), volume->name, volume->engine.get(), std::move(done));
}

void TargetHost::unmap(VolumeId id, std::string directory, bool force, StatusCallback done) {
  devices_.unmap(id, std::move(directory), force, std::move(done));
}

void TargetHost::open_view(ViewRequest request, Callback<void(Result<std::string>)> done) {
  Result<engine::Engine*> engine = engine_of(request.volume);
  if (!engine.ok()) return done(std::move(engine).error());
  std::uint64_t size = (*engine)->size_bytes();
  if (request.size_bytes == 0 || request.first_byte >= size || request.size_bytes > size - request.first_byte) {
    return done(Error(ErrorCode::kInvalidArgument, "the range to look at is empty or reaches beyond the volume"));
  }
  views_.open(std::move(request), (*engine)->logical_block_size(), std::move(done));
}

void TargetHost::close_view(const std::string& directory, StatusCallback done) {
  views_.close(directory, std::move(done));
}

void TargetHost::read_snapshot(VolumeId volume, SnapshotId snapshot, BlockRange blocks,
                               BlockDevice::ReadCallback done) {
  Result<engine::Engine*> engine = engine_of(volume);
  if (!engine.ok()) return done(std::move(engine).error());
  (*engine)->read_snapshot(snapshot, blocks, std::move(done));
}

Status TargetHost::set_redirects(const std::vector<std::pair<std::string, std::string>>& iqn_and_portal,
                                 std::vector<std::string> expected_iqns) {
  std::vector<std::pair<std::string, Address>> redirects;
  for (const auto& [iqn, portal] : iqn_and_portal) {
    ASSIGN_OR_RETURN(Address address, Address::parse(portal));
    redirects.emplace_back(iqn, std::move(address));
  }
  target_->set_redirects(std::move(redirects));
  target_->set_expected(std::move(expected_iqns));
  return {};
}

std::vector<VolumeStatus> TargetHost::status() const {
  std::vector<VolumeStatus> out;
  std::vector<iscsi::SessionInfo> sessions = target_->sessions();
  for (const auto& [id, volume] : volumes_) {
    if (!volume->engine) continue;
    VolumeStatus row{id, volume->engine->status(), {}, devices_.device_of(id), volume->copied_bytes};
    for (const iscsi::SessionInfo& session : sessions) {
      if (session.iqn == volume->iqn) row.sessions.push_back(session);
    }
    out.push_back(std::move(row));
  }
  return out;
}

// ---- questions to the control plane ----

void TargetHost::change(VolumeId volume, Epoch epoch, std::vector<ReplicaId> in_sync, std::string reason,
                        StatusCallback done) {
  std::uint64_t id = ++last_request_;
  unanswered_.emplace(id, std::move(done));
  events_.change_in_sync_set(id, volume, epoch, std::move(in_sync), std::move(reason));
}

void TargetHost::lost_data(VolumeId volume, Epoch epoch, std::string reason, StatusCallback done) {
  std::uint64_t id = ++last_request_;
  unanswered_.emplace(id, std::move(done));
  events_.lost_data(id, volume, epoch, std::move(reason));
}

void TargetHost::damage_found(VolumeId volume, Epoch epoch, std::string text) {
  events_.damage_found(volume, epoch, std::move(text));
}

void TargetHost::fenced(VolumeId volume, Epoch epoch) {
  log_warn("target", "volume " + to_hex(volume.value()) + ", epoch " + std::to_string(epoch.value()) +
                         ": fenced, another engine owns the volume now");
  events_.fenced(volume, epoch);
}

void TargetHost::save(const std::string& iqn, std::string reservations, StatusCallback done) {
  for (auto& [volume, state] : volumes_) {
    if (state->iqn != iqn) continue;
    std::uint64_t id = ++last_request_;
    unanswered_.emplace(id, std::move(done));
    events_.save_reservations(id, volume, state->epoch, std::move(reservations));
    return;
  }
  env_.post([shared = std::make_shared<StatusCallback>(std::move(done)), iqn = std::string(iqn)] {
    (*shared)(Error(ErrorCode::kNotFound, "no volume is attached as " + iqn));
  });
}

void TargetHost::answer(std::uint64_t id, Status status) {
  auto found = unanswered_.find(id);
  if (found == unanswered_.end()) return;  // answered before
  StatusCallback done = std::move(found->second);
  unanswered_.erase(found);
  done(std::move(status));
}

}  // namespace holdfast::addon
