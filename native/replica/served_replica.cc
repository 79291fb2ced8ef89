#include "replica/served_replica.h"

#include <algorithm>

#include "base/plant.h"
#include "replica/replica_stream.h"

namespace holdfast::replica {

ServedReplica::ServedReplica(ReplicaId id, store::ReplicaStore& store)
    : id_(id), store_(store), journalled_(store.info().last.seq) {}

ReplicaState ServedReplica::state() const {
  ReplicaState state{store_.info(), std::nullopt};
  if (rebuilding) state.rebuild = progress;
  return state;
}

// ---- streams ----

void ServedReplica::remove(ReplicaStream* stream) {
  std::erase(streams_, stream);
  std::erase_if(seq_waiters_, [&](const SeqWaiter& waiter) { return waiter.owner == stream; });
}

// Ending a stream changes the list (and may end others): looks from the start again after each.
void ServedReplica::end_streams_if(bool (*matches)(const ReplicaStream&, Epoch), Epoch epoch,
                                   const ReplicaStream* except, const Error& reason) {
  while (true) {
    auto found = std::find_if(streams_.begin(), streams_.end(),
                              [&](const ReplicaStream* stream) { return stream != except && matches(*stream, epoch); });
    if (found == streams_.end()) return;
    (*found)->end(reason);
  }
}

void ServedReplica::supersede(Epoch epoch) {
  if (HOLDFAST_PLANT(kKeepOldStreams)) return;
  end_streams_if(
      [](const ReplicaStream& stream, Epoch newer) { return stream.fenced() && stream.epoch() < newer; }, epoch,
      nullptr,
      Error(ErrorCode::kEpochSuperseded, "replica " + to_hex(id_.value()) + " was opened with epoch " +
                                             std::to_string(epoch.value()) + ": another engine owns the volume now"));
  end_append_streams(nullptr, epoch);
}

void ServedReplica::end_append_streams(const ReplicaStream* except, Epoch epoch) {
  end_streams_if(
      [](const ReplicaStream& stream, Epoch newer) { return stream.appends() && stream.epoch() <= newer; }, epoch,
      except,
      Error(ErrorCode::kCancelled, "replica " + to_hex(id_.value()) + ": a newer stream of the same engine took over"));
}

void ServedReplica::end_all_streams(const Error& reason) {
  end_streams_if([](const ReplicaStream&, Epoch) { return true; }, Epoch(), nullptr, reason);
}

// ---- operations ----

void ServedReplica::end_change() {
  CHECK(changes_ > 0);
  --changes_;
  run_quiet_waiters();
}

void ServedReplica::end_read() {
  CHECK(reads_ > 0);
  --reads_;
  run_quiet_waiters();
}

void ServedReplica::when_unchanging(StatusCallback done) {
  if (changes_ == 0) return done(Status());
  unchanging_waiters_.push_back(std::move(done));
}

void ServedReplica::when_idle(StatusCallback done) {
  if (changes_ == 0 && reads_ == 0) return done(Status());
  idle_waiters_.push_back(std::move(done));
}

void ServedReplica::run_quiet_waiters() {
  if (changes_ != 0 || (unchanging_waiters_.empty() && idle_waiters_.empty())) return;
  Ref<ServedReplica> keep(this);
  std::vector<StatusCallback> due = std::exchange(unchanging_waiters_, {});
  if (reads_ == 0) {
    for (StatusCallback& waiter : std::exchange(idle_waiters_, {})) due.push_back(std::move(waiter));
  }
  for (StatusCallback& waiter : due) waiter(Status());
}

// ---- the log ----

void ServedReplica::set_journalled(Seq seq) {
  journalled_ = seq;
  if (seq_waiters_.empty()) return;
  std::vector<SeqWaiter> due;
  for (auto at = seq_waiters_.begin(); at != seq_waiters_.end();) {
    if (at->seq > seq) {
      ++at;
      continue;
    }
    due.push_back(std::move(*at));
    at = seq_waiters_.erase(at);
  }
  for (SeqWaiter& waiter : due) waiter.ready();
}

void ServedReplica::reset_journalled() { set_journalled(store_.info().last.seq); }

void ServedReplica::when_journalled(Seq seq, ReplicaStream* owner, Callback<void()> ready) {
  if (journalled_ >= seq) return ready();
  seq_waiters_.push_back({seq, owner, std::move(ready)});
}

// ---- Core ----

ServedReplica* Core::find(ReplicaId id) {
  if (stopped_) return nullptr;
  auto known = replicas_.find(id);
  if (known == replicas_.end()) {
    store::ReplicaStore* store = disk.find(id);
    if (store == nullptr) return nullptr;
    known = replicas_.emplace(id, make_ref<ServedReplica>(id, *store)).first;
  }
  return known->second->deleting ? nullptr : known->second.get();
}

void Core::stop() {
  stopped_ = true;
  while (!streams.empty()) streams.front()->end(Error(ErrorCode::kConnectionLost, "the replica process is stopping"));
}

Error no_such_replica(ReplicaId id) {
  return Error(ErrorCode::kNotFound, "this disk has no replica " + to_hex(id.value()));
}

Status check_promised(const store::ReplicaInfo& info, Epoch epoch) {
  if (epoch == info.promised || HOLDFAST_PLANT(kAcceptLowerEpoch)) return Status();
  std::string what = "replica " + to_hex(info.id.value()) + " has promised epoch " +
                     std::to_string(info.promised.value()) + ", not " + std::to_string(epoch.value());
  if (epoch < info.promised) return Error(ErrorCode::kEpochSuperseded, what + ": another engine owns the volume now");
  return Error(ErrorCode::kFailedPrecondition, what + "; call Open first");
}

}  // namespace holdfast::replica
