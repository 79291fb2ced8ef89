// Making, configuring, stopping, closing and describing an engine.
#include <algorithm>

#include "base/log.h"
#include "base/plant.h"
#include "engine/volume_engine.h"

namespace holdfast::engine {

namespace {

// How long close() waits for I/O that cannot end.
constexpr Nanos kCloseTimeout = 10s;

std::vector<ReplicaId> stored_in_sync(const VolumeConfig& config) {
  std::vector<ReplicaId> ids;
  for (const ReplicaConfig& replica : config.replicas) {
    if (replica.in_sync) ids.push_back(replica.id);
  }
  return ids;
}

}  // namespace

Task<Result<std::unique_ptr<Engine>>> Engine::open(Env& env, VolumeConfig config, Membership& membership,
                                                   ChannelPool& channels) {
  if (stored_in_sync(config).empty()) {
    co_return Error(ErrorCode::kInvalidArgument, "volume " + config.name + " has no in-sync replica");
  }
  auto engine = std::make_unique<VolumeEngine>(env, std::move(config), membership, channels);
  Status status = co_await engine->attach();
  if (!status.ok()) co_return std::move(status).error();
  co_return std::unique_ptr<Engine>(std::move(engine));
}

VolumeEngine::VolumeEngine(Env& env, VolumeConfig config, Membership& membership, ChannelPool& channels)
    : env_(env),
      config_(std::move(config)),
      membership_(membership),
      channels_(channels),
      in_sync_(stored_in_sync(config_)),
      change_timer_(env),
      attach_timer_(env),
      announce_timer_(env),
      stalled_timer_(env),
      space_timer_(env),
      pace_timer_(env),
      silence_timer_(env),
      leave_timer_(env),
      gather_timer_(env),
      unavailable_timer_(env),
      snapshot_flush_timer_(env),
      close_timer_(env),
      throttle_timer_(env) {
  for (const ReplicaConfig& replica : config_.replicas) members_.push_back(std::make_unique<Member>(env_, replica));
}

VolumeEngine::~VolumeEngine() {
  *alive_ = false;
  closed_ = nullptr;
  if (state_ != State::kStopped)
    stop(Error(ErrorCode::kCancelled, "the engine of volume " + config_.name + " is gone"));
}

// ---- stopping ----

std::optional<Error> VolumeEngine::refusal() const {
  switch (state_) {
    case State::kServing:
      if (!failing_io_) return std::nullopt;
      return Error(ErrorCode::kNoInSyncReplica, "no in-sync replica of volume " + config_.name + " can be reached");
    case State::kStopped:
      return stop_reason_;
    case State::kAttaching:
    case State::kClosing:
      break;
  }
  return Error(ErrorCode::kCancelled, "volume " + config_.name + " is not being served");
}

void VolumeEngine::fence() {
  if (state_ == State::kStopped) return;
  stop(Error(ErrorCode::kEpochSuperseded, "another engine owns volume " + config_.name + "; epoch " +
                                              std::to_string(config_.epoch.value()) + " is over"));
  membership_.fenced(config_.volume, config_.epoch);
}

// Operations keep their memory, since callers up the stack may still hold them; nothing of them is called again.
// Whoever waits for close() is told, whatever it was that stopped the engine.
void VolumeEngine::stop(Error error) {
  CHECK(state_ != State::kStopped);
  log_info("engine", "volume " + config_.name + " stops: " + error.to_string());
  state_ = State::kStopped;
  stop_reason_ = error;
  for (Timer* timer :
       {&change_timer_, &attach_timer_, &announce_timer_, &stalled_timer_, &silence_timer_, &space_timer_, &pace_timer_,
        &leave_timer_, &gather_timer_, &unavailable_timer_, &snapshot_flush_timer_, &close_timer_, &throttle_timer_}) {
    timer->cancel();
  }
  for (const std::unique_ptr<Member>& member : members_) {
    end_link(*member);
    member->retry.cancel();
    member->phase = MemberPhase::kFailed;
    member->reason = error.to_string();
  }
  fail_waiting(error);
  fail_snapshot_reads(error);
  ops_first_ = ops_last_ = nullptr;
  env_.note_writes(-std::exchange(writes_under_way_, 0));
  env_.note_reads(-std::exchange(reads_under_way_, 0));
  throttled_.clear();
  stalled_reads_.clear();
  if (closed_) env_.post(std::exchange(closed_, nullptr));
}

// Tells the host of everything that waits. What has entries in the log stays there and may still happen.
void VolumeEngine::fail_waiting(const Error& error) {
  for (Op* op = ops_first_; op;) {
    Op* next = op->next;
    answer(op, error);
    op = next;
  }
  std::vector<DoneCallback> flushes;
  for (std::vector<FlushWaiter>* waiters : {&flush_current_, &flush_next_}) {
    for (FlushWaiter& waiter : *waiters) {
      if (waiter.done) flushes.push_back(std::move(waiter.done));
    }
  }
  for (DoneCallback& done : flushes) done(error);
  std::vector<StatusCallback> others;
  window_.for_each_after(Seq(0), [&others](PendingEntry& entry) {
    if (entry.done) others.push_back(std::move(entry.done));
  });
  for (PendingEntry* entry : waiting_for_room_) {
    if (entry->done) others.push_back(std::move(entry->done));
  }
  for (SnapshotRequest& request : std::exchange(snapshot_requests_, {})) others.push_back(std::move(request.done));
  for (StatusCallback& done : others) done(error);
}

// ---- closing ----

void VolumeEngine::close(Callback<void()> done) {
  if (state_ == State::kStopped || state_ == State::kClosing) {
    env_.post([held = std::make_unique<Callback<void()>>(std::move(done))] { (*held)(); });
    return;
  }
  state_ = State::kClosing;
  closed_ = std::move(done);
  close_timer_.arm_after(kCloseTimeout, [this] { finish_close(); });
  close_when_idle();
}

// The last flush also carries the final watermark to all replicas.
void VolumeEngine::close_when_idle() {
  if (ops_first_ || !window_.empty() || !waiting_for_room_.empty()) return;
  if (!flush_current_.empty() || !flush_next_.empty()) return;
  if (std::exchange(close_flush_begun_, true)) return;
  flush_after_commit({nullptr, [this](Status) { finish_close(); }});
}

void VolumeEngine::finish_close() {
  if (state_ == State::kStopped) return;
  stop(Error(ErrorCode::kCancelled, "volume " + config_.name + " was closed"));
}

// ---- configuration ----

void VolumeEngine::set_replicas(std::vector<ReplicaConfig> replicas) {
  if (state_ != State::kServing) return;
  for (const std::unique_ptr<Member>& member : members_) {
    member->wanted = std::any_of(replicas.begin(), replicas.end(),
                                 [&member](const ReplicaConfig& replica) { return replica.id == member->config.id; });
  }
  for (ReplicaConfig& replica : replicas) {
    Member* member = find(replica.id);
    if (!member) {
      members_.push_back(std::make_unique<Member>(env_, std::move(replica)));
      members_.back()->reason = "new";
      try_later(*members_.back());
      continue;
    }
    bool moved = !(member->config.address == replica.address);
    member->config.address = replica.address;
    member->config.local = replica.local;
    member->config.hold_rebuild = replica.hold_rebuild;
    if (member->phase == MemberPhase::kFailed && (moved || !member->retry.armed())) {
      member->attempts = 0;
      try_later(*member);
    }
  }
  for (const std::unique_ptr<Member>& member : members_) {
    if (member->wanted || required(*member)) continue;
    end_link(*member);
    member->phase = MemberPhase::kFailed;
    member->retry.cancel();
    // It may have been about to become in-sync.
    in_sync_.remove(member->config.id);
  }
  share_rebuild_rate();
  update_in_sync_set("the replicas of the volume were changed");
  drop_unwanted_later();
  advance_commit();
  advance_flush();
}

void VolumeEngine::set_qos(const QosLimits& limits) {
  throttle_.set(limits, env_.now());
  // Those that wait are asked again, under the new limits.
  throttle_timer_.cancel();
  begin_throttled();
}

void VolumeEngine::resize(std::uint64_t size_bytes, StatusCallback done) {
  std::optional<Error> why = refusal();
  std::uint64_t size_blocks = size_bytes / kBlockSize;
  if (!why && (size_bytes % kBlockSize != 0 || size_blocks < size_blocks_asked_)) {
    why = Error(ErrorCode::kInvalidArgument, "volume " + config_.name + " can only grow, to a multiple of 4096 bytes");
  }
  // One of the same size that is under way is no answer: it may yet come to nothing.
  bool nothing_to_do =
      size_blocks == size_blocks_ || (HOLDFAST_PLANT(kAckPendingResize) && size_blocks == size_blocks_asked_);
  if (why || nothing_to_do) {
    struct Held {
      StatusCallback done;
      Status status;
    };
    auto held = std::make_unique<Held>(Held{std::move(done), why ? Status(*why) : Status()});
    env_.post([held = std::move(held)] { held->done(std::move(held->status)); });
    return;
  }
  size_blocks_asked_ = size_blocks;
  PendingEntry* entry = new_entry(nullptr, store::Op::kResize);
  entry->entry.size_blocks = size_blocks;
  entry->done = std::move(done);
  submit(entry);
}

// Hosts see the new size when no power loss can take it back any more.
void VolumeEngine::finish_resize(std::uint64_t size_blocks, StatusCallback done) {
  struct Waiting {
    std::uint64_t size_blocks;
    StatusCallback done;
  };
  auto waiting = std::make_unique<Waiting>(Waiting{size_blocks, std::move(done)});
  flush_after_commit({nullptr, [this, waiting = std::move(waiting)](Status status) mutable {
                        if (status.ok()) size_blocks_ = std::max(size_blocks_, waiting->size_blocks);
                        if (waiting->done) waiting->done(status);
                        if (state_ == State::kStopped) return;
                        // It waited for too long, and whoever asked was told so; the entry is in the log nevertheless.
                        if (!status.ok()) return finish_resize(waiting->size_blocks, nullptr);
                        if (resized_) resized_();
                      }});
}

// ---- status ----

EngineStatus VolumeEngine::status() const {
  EngineStatus status;
  status.epoch = config_.epoch;
  status.last = next_seq_ > Seq(0) ? Seq(next_seq_.value() - 1) : Seq(0);
  status.committed = committed_;
  status.size_bytes = size_bytes();
  if (stop_reason_) {
    status.failure = stop_reason_->to_string();
    status.stopped = true;
    status.lost_data = lost_data_;
  } else if (state_ == State::kServing && !any_required_counts()) {
    status.failure = "I/O waits: no in-sync replica can be reached";
  } else if (state_ == State::kServing && all_required_full()) {
    status.failure = "writes wait: the disks of all in-sync replicas are full; free space on them";
    status.writes_paused = true;
  } else if (const Member* member = state_ == State::kServing ? failed_required_member() : nullptr) {
    status.failure = "writes wait: replica " + to_hex(member->config.id.value()) + " failed (" + member->reason +
                     "), and the metadata store has not yet confirmed that it is out of the in-sync set";
  }
  status.lease_waited = lease_waited_;
  status.left_out = left_out_;
  for (const std::unique_ptr<Member>& member : members_) {
    ReplicaStatus replica;
    replica.id = member->config.id;
    replica.phase = member->phase == MemberPhase::kStreaming ? ReplicaPhase::kInSync
                    : member->phase == MemberPhase::kJoining || member->phase == MemberPhase::kPromoting
                        ? ReplicaPhase::kRebuilding
                        : ReplicaPhase::kFailed;
    replica.reason = member->reason;
    replica.journalled = member->journalled;
    if (replica.phase == ReplicaPhase::kRebuilding) {
      replica.rebuild_chunks_total = member->progress.chunks_total;
      replica.rebuild_chunks_examined = member->progress.chunks_examined;
      replica.rebuild_bytes_copied = member->progress.bytes_copied;
      replica.rebuild_bytes_per_second = member->progress.bytes_per_second;
    }
    status.replicas.push_back(std::move(replica));
  }
  status.reads = reads_done_;
  status.writes = writes_done_;
  status.flushes = flushes_done_;
  status.read_bytes = read_bytes_;
  status.written_bytes = written_bytes_;
  status.repaired_blocks = repaired_blocks_;
  status.throttled = throttled_ops_;
  status.read_latency = read_latency_;
  status.write_latency = write_latency_;
  status.flush_latency = flush_latency_;
  return status;
}

}  // namespace holdfast::engine
