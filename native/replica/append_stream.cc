#include "replica/append_stream.h"

#include "base/log.h"

namespace holdfast::replica {

namespace {
// Responses are small: more than this unsent means that the peer does not read them.
constexpr std::size_t kUnsentResponsesMax = 64u << 10;
}  // namespace

void AppendStream::receive(rpc::Message message) {
  if (Status status = decode(message, pool(), request_); !status.ok()) return end(std::move(status));
  if (phase_ == Phase::kHello) {
    if (Status status = begin(request_); !status.ok()) return end(std::move(status));
  } else if (request_.hello || request_.join) {
    return end(Error(ErrorCode::kProtocol, "only the first message of an Append stream carries hello or join"));
  }
  if (Status status = take(request_); !status.ok()) return end(std::move(status));
  pump();
  flush_when_due();
}

// The first message: who appends, to which replica, with which right.
Status AppendStream::begin(AppendRequest& request) {
  if (!request.hello) return Error(ErrorCode::kProtocol, "the first message of an Append stream must carry hello");
  ServedReplica* found = core().find(request.hello->replica);
  if (found == nullptr) return no_such_replica(request.hello->replica);
  store::ReplicaInfo info = found->store().info();
  TRY(check_promised(info, request.hello->epoch));
  if (!request.join && !info.complete) {
    return Error(ErrorCode::kReplicaIncomplete,
                 "replica " + to_hex(info.id.value()) + " is being rebuilt: an Append stream to it must carry join");
  }
  bind(found, Fencing::kAppends, request.hello->epoch);
  found->end_append_streams(this, epoch());
  if (request.join) {
    phase_ = Phase::kJoining;
    rebuild_ =
        make_ref<Rebuild>(core_ref(), replica_ref(), std::move(*request.join), static_cast<RebuildEvents&>(*this));
    rebuild_->start();
  } else {
    phase_ = Phase::kStreaming;
  }
  return Status();
}

// Now the log may go on: the layers below the first live entry are the volume's.
void AppendStream::on_layers_adopted() {
  phase_ = Phase::kStreaming;
  if (committed_ > Seq()) store().set_committed(committed_);
  pump();
  flush_when_due();
}

// What any message may carry. The watermark takes effect even while entries wait for room: it is what makes room.
Status AppendStream::take(AppendRequest& request) {
  if (request.committed > committed_) {
    committed_ = request.committed;
    if (phase_ == Phase::kStreaming) store().set_committed(committed_);
  }
  if (request.rebuild_bytes_per_second && rebuild_) rebuild_->set_rate(*request.rebuild_bytes_per_second);
  if (request.entry) {
    if (request.entry->position.epoch > epoch()) {
      return Error(ErrorCode::kInvalidArgument, "an entry of epoch " +
                                                    std::to_string(request.entry->position.epoch.value()) +
                                                    " on a stream of epoch " + std::to_string(epoch().value()));
    }
    ++received_;
    held_bytes_ += request.entry->data.size();
    held_.push_back(std::move(*request.entry));
    request.entry.reset();
  }
  if (request.flush_id != 0) {
    if (request.flush_id <= requested_flush_) return Error(ErrorCode::kProtocol, "flush_id must rise along a stream");
    requested_flush_ = request.flush_id;
    if (!flushes_.empty() && flushes_.back().after == received_) {
      flushes_.back().id = request.flush_id;
    } else {
      flushes_.push_back({request.flush_id, received_});
    }
  }
  return Status();
}

// ---- entries ----

void AppendStream::pump() {
  while (!ended() && phase_ == Phase::kStreaming && !held_.empty() && !refused_ && !(no_space_ && answers_due_ > 0)) {
    if (!store().accepts_more()) {
      if (!std::exchange(waiting_for_room_, true)) {
        store().on_ready([self = Ref<AppendStream>(this)] {
          Ref<AppendStream> keep = self;  // pump() may replace this very callback
          keep->waiting_for_room_ = false;
          keep->pump();
        });
      }
      break;
    }
    store::Entry entry = std::move(held_.front());
    held_.pop_front();
    held_bytes_ -= entry.data.size();
    append(std::move(entry));
  }
  if (!ended()) hold_back_peer();
}

void AppendStream::append(store::Entry entry) {
  Seq seq = entry.position.seq;
  in_store_.push_back(entry);
  ++answers_due_;
  replica().begin_change();
  core().env.note_writes(1);
  store().append(std::move(entry), [self = Ref<AppendStream>(this), seq](Status status) {
    self->core().env.note_writes(-1);
    if (status.ok()) self->replica().set_journalled(seq);
    self->replica().end_change();
    if (!self->ended()) self->journalled(std::move(status), seq);
  });
}

void AppendStream::journalled(Status status, Seq seq) {
  --answers_due_;
  if (!status.ok() && (refused_ || status.error().code() == ErrorCode::kNoSpace)) {
    refused_ = true;
    if (answers_due_ == 0) wait_for_space();
    return;
  }
  if (!status.ok()) {
    log_warn("replica", "replica " + to_hex(replica().id().value()) + ": append of seq " + std::to_string(seq.value()) +
                            " failed: " + status.error().to_string());
    return end(std::move(status));
  }
  journalled_ = seq;
  ++completed_;
  in_store_.pop_front();
  flush_when_due();
  schedule_response();
  // Refusals come before the answers to earlier entries.
  if (refused_ && answers_due_ == 0) return wait_for_space();
  if (std::exchange(no_space_, false)) {
    space_timer_.cancel();
    log_info("replica", "replica " + to_hex(replica().id().value()) + ": the disk has room again");
    pump();
  }
}

// ---- a full disk ----

// The log is ordered: everything behind the entry that did not fit was refused too, and waits with it. The engine is
// told and decides whether to go on without this replica.
void AppendStream::wait_for_space() {
  refused_ = false;
  while (!in_store_.empty()) {
    held_bytes_ += in_store_.back().data.size();
    held_.push_front(std::move(in_store_.back()));
    in_store_.pop_back();
  }
  Nanos now = core().env.now();
  if (!std::exchange(no_space_, true)) {
    log_warn("replica", "replica " + to_hex(replica().id().value()) + ": the disk is full, entries wait from seq " +
                            std::to_string(held_.front().position.seq.value()) + " on");
    space_reported_ = now - kSpaceReport;
  }
  if (now - space_reported_ >= kSpaceReport) {
    space_reported_ = now;
    schedule_response();
  }
  space_timer_.arm_after(kSpaceRetry, [this] { try_again(); });
}

void AppendStream::try_again() {
  Ref<AppendStream> keep(this);
  if (!ended()) pump();
}

void AppendStream::hold_back_peer() {
  bool full = held_.size() > kHeldEntriesMax || held_bytes_ > kHeldBytesMax;
  bool roomy = held_.size() <= kHeldEntriesMax / 2 && held_bytes_ <= kHeldBytesMax / 2;
  if (full && !paused_) {
    paused_ = true;
    call().pause_receiving();
  } else if (roomy && paused_) {
    paused_ = false;
    call().resume_receiving();
  }
}

// ---- flush ----

// One store flush at a time; what became due meanwhile is covered by the next.
void AppendStream::flush_when_due() {
  if (ended() || flushing_ || phase_ != Phase::kStreaming) return;
  std::uint64_t id = 0;
  while (!flushes_.empty() && flushes_.front().after <= completed_) {
    id = flushes_.front().id;
    flushes_.pop_front();
  }
  if (id == 0) return;
  flushing_ = true;
  replica().begin_read();
  store().flush([self = Ref<AppendStream>(this), id](Status status) {
    self->replica().end_read();
    if (!self->ended()) self->flushed(std::move(status), id);
  });
}

void AppendStream::flushed(Status status, std::uint64_t id) {
  flushing_ = false;
  if (!status.ok()) return end(std::move(status));
  flushed_ = id;
  schedule_response();
  flush_when_due();
}

// ---- responses ----

void AppendStream::schedule_response() {
  if (std::exchange(response_scheduled_, true)) return;
  core().env.post([self = Ref<AppendStream>(this)] {
    self->response_scheduled_ = false;
    if (!self->ended()) self->respond();
  });
}

void AppendStream::respond() {
  if (call().unsent_bytes() > kUnsentResponsesMax) {
    response_blocked_ = true;
    return;
  }
  AppendResponse response{journalled_, flushed_, rebuilt_, std::nullopt, no_space_, std::exchange(damaged_, {})};
  if (std::exchange(progress_due_, false)) response.rebuild = replica().progress;
  encode(pool(), response, parts_);
  send(parts_);
  if (peer_finished_ && all_done()) end(Status());
}

void AppendStream::drained() {
  if (std::exchange(response_blocked_, false)) schedule_response();
}

// ---- the end ----

bool AppendStream::all_done() const {
  return completed_ == received_ && flushes_.empty() && !flushing_ && phase_ == Phase::kStreaming;
}

// The engine lets go in an orderly way: what it sent is still journalled and acknowledged; a rebuild is abandoned.
void AppendStream::peer_finished() {
  peer_finished_ = true;
  if (phase_ == Phase::kHello) return end(Status());
  if (rebuild_) rebuild_->stop();
  if (rebuild_ && phase_ == Phase::kJoining) return end(Status());
  schedule_response();
}

void AppendStream::on_end() {
  if (std::exchange(waiting_for_room_, false)) store().on_ready(nullptr);
  held_.clear();
  in_store_.clear();
  space_timer_.cancel();
  flushes_.clear();
  if (rebuild_) rebuild_->stop();
}

// ---- rebuild ----

void AppendStream::on_rebuild_progress(const RebuildProgress& progress) {
  replica().progress = progress;
  progress_due_ = true;
  schedule_response();
}

void AppendStream::on_damage_carried(DamagedChunk damaged) {
  damaged_.push_back(std::move(damaged));
  schedule_response();
}

void AppendStream::on_rebuilt(Seq seq) {
  rebuilt_ = seq;
  progress_due_ = true;
  schedule_response();
}

void AppendStream::on_rebuild_failed(Error error) { end(std::move(error)); }

}  // namespace holdfast::replica
