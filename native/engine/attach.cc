// Taking a volume over: docs/consistency.md, "Attach". Runs once, before anything is served.
//
// It goes in rounds: open every in-sync replica, leave out what does not answer, take the longest log, ship to the
// others what they lack. A replica that fails in the middle begins a new round, in which it answers again or is left
// out; so does the loss of the longest log itself, since everything acknowledged is in every other log too.
#include <algorithm>

#include "base/log.h"
#include "base/plant.h"
#include "engine/history.h"
#include "engine/volume_engine.h"

namespace holdfast::engine {

namespace {

constexpr Nanos kOpenTimeout = 3s;       // for the others, once one has answered
constexpr Nanos kOpenNoneTimeout = 10s;  // when none answers
constexpr Nanos kOpenRetry = 200ms;
constexpr Nanos kChangeRetry = 1s;
constexpr unsigned kRoundsMax = 16;

bool is(const Status& status, ErrorCode code) { return !status.ok() && status.error().code() == code; }

}  // namespace

// Passes entries of one replica's log on to another.
class VolumeEngine::LogReader final : public rpc::CallHandler {
 public:
  LogReader(VolumeEngine& engine, std::shared_ptr<rpc::Channel> channel, Member& to, Seq first, Seq committed)
      : engine_(engine), channel_(std::move(channel)), to_(to), next_(first), committed_(committed) {}

  void start(replica::ReadLogRequest request) {
    call_ = channel_->start(replica::kReadLogPath, {}, std::nullopt, this);
    Slice message = replica::encode(engine_.env_.buffers(), request);
    call_->send({&message, 1});
    call_->finish_sending();
  }
  const std::optional<Status>& outcome() const { return outcome_; }
  Seq next() const { return next_; }

  void on_message(rpc::Message message) override {
    if (outcome_ || !to_.link) return;
    replica::AppendRequest request;
    request.committed = committed_;
    request.entry.emplace();
    Status status = replica::decode(message, engine_.env_.buffers(), *request.entry);
    if (status.ok() && request.entry->position.seq != next_) {
      status = Error(ErrorCode::kProtocol, "ReadLog skipped an entry");
    }
    if (!status.ok()) return on_ended(std::move(status));
    next_ = next_.next();
    to_.append_progress = engine_.env_.now();
    to_.link->append(request);
  }
  void on_ended(Status status) override {
    if (!outcome_) outcome_ = std::move(status);
    engine_.wake_attach();
  }

 private:
  VolumeEngine& engine_;
  std::shared_ptr<rpc::Channel> channel_;
  Member& to_;
  Seq next_;
  Seq committed_;
  std::optional<Status> outcome_;
  std::unique_ptr<rpc::ClientCall> call_;
};

Task<Status> VolumeEngine::attach() {
  for (unsigned round = 0; round < kRoundsMax; ++round) {
    bool again = false;
    Status status = co_await recover_round(&again);
    if (status.ok() && stop_reason_) status = *stop_reason_;
    if (!status.ok()) co_return status;
    if (!again) co_return Status();
  }
  co_return Error(ErrorCode::kNoInSyncReplica,
                  "the replicas of volume " + config_.name + " keep failing while their logs are compared");
}

// ---- waiting ----

void VolumeEngine::wake_attach() {
  env_.post([this, alive = alive_] {
    if (!*alive || !attach_waiter_) return;
    attach_timer_.cancel();
    Callback<void(bool)> waiter = std::move(attach_waiter_);
    waiter(true);
  });
}

Task<void> VolumeEngine::wait_for_event(Nanos until) {
  co_await suspend<bool>([this, until](Callback<void(bool)> done) {
    attach_waiter_ = std::move(done);
    attach_timer_.arm_after(std::max(until - env_.now(), Nanos(0)), [this] { wake_attach(); });
  });
}

// ---- opening ----

void VolumeEngine::open_for_attach(Member& member) {
  member.phase = MemberPhase::kOpening;
  std::uint64_t generation = ++member.generation;
  member.opening = channels_.get(member.config.address);
  member.opening->unary(
      replica::kOpenPath, replica::encode(env_.buffers(), replica::OpenRequest{member.config.id, config_.epoch}),
      kOpenTimeout,
      [this, alive = alive_, id = member.config.id, generation, asked = env_.now()](Result<rpc::Message> answer) {
        Member* opened = *alive ? find(id) : nullptr;
        if (!opened || opened->generation != generation) return;
        on_attach_opened(*opened, std::move(answer), asked);
      });
}

void VolumeEngine::on_attach_opened(Member& member, Result<rpc::Message> answer, Nanos asked) {
  replica::ReplicaState state;
  Status status = answer.ok() ? replica::decode(*answer, state) : Status(answer.error());
  if (status.ok() && state.info.volume != config_.volume) {
    status = Error(ErrorCode::kWrongDisk, "the replica belongs to another volume");
  }
  if (status.ok()) {
    member.opened = std::move(state.info);
    member.confirmed = asked;
    if (!first_promise_) first_promise_ = env_.now();
    member.promised = true;
    return wake_attach();
  }
  member.phase = MemberPhase::kFailed;
  member.reason = status.error().to_string();
  switch (status.error().code()) {
    case ErrorCode::kEpochSuperseded:
      stop_reason_ = status.error();
      break;
    case ErrorCode::kConnectionLost:
    case ErrorCode::kTimedOut:
    case ErrorCode::kCancelled:
      // Perhaps it is only starting.
      member.retry.arm_after(kOpenRetry, [this, &member] { open_for_attach(member); });
      break;
    default:
      member.unusable = true;
  }
  wake_attach();
}

// Until all have answered, or the others had their time. Those that did not are not `opened`.
Task<void> VolumeEngine::open_in_sync() {
  Nanos start = env_.now();
  for (const std::unique_ptr<Member>& member : members_) {
    member->opened.reset();
    if (in_sync_.wanted(member->config.id) && !member->unusable) open_for_attach(*member);
  }
  while (!stop_reason_) {
    bool all = true;
    bool any = false;
    for (const std::unique_ptr<Member>& member : members_) {
      if (!in_sync_.wanted(member->config.id) || member->unusable) continue;
      all = all && member->opened.has_value();
      any = any || member->opened.has_value();
    }
    Nanos until = start + (any ? kOpenTimeout : kOpenNoneTimeout);
    if (all || env_.now() >= until) break;
    co_await wait_for_event(until);
  }
  for (const std::unique_ptr<Member>& member : members_) {
    member->retry.cancel();
    ++member->generation;
    if (member->phase != MemberPhase::kOpening || member->opened) continue;
    end_link(*member);
    member->phase = MemberPhase::kFailed;
    member->reason = "it did not answer in time";
  }
}

// Stores the wanted set; returns when it is stored, however long that takes.
Task<Status> VolumeEngine::store_in_sync_set(std::string reason) {
  while (std::optional<std::vector<ReplicaId>> set = in_sync_.next_change()) {
    for (;;) {
      Status status = co_await suspend<Status>([this, &set, &reason](StatusCallback done) {
        membership_.change(config_.volume, config_.epoch, *set, reason, std::move(done));
      });
      if (status.ok()) break;
      if (status.error().code() == ErrorCode::kEpochSuperseded) co_return status;
      Nanos again = env_.now() + kChangeRetry;
      while (env_.now() < again) co_await wait_for_event(again);
    }
    in_sync_.change_stored();
  }
  co_return Status();
}

// Another engine may still serve reads from a replica that promised us nothing, until its lease on one that did ends.
// That is waited for before the smaller set is stored: if we die in between, our successor finds a set that answers in
// whole and has nothing to wait for.
Task<Status> VolumeEngine::leave_out(std::vector<Member*> members, std::string reason) {
  bool lease = false;
  for (Member* member : members) {
    log_warn("engine", "volume " + config_.name + " goes on without replica " + to_hex(member->config.id.value()) +
                           ": " + (member->reason.empty() ? reason : member->reason));
    lease = lease || !member->promised;
    left_out_.push_back(member->config.id);
    in_sync_.remove(member->config.id);
  }
  if (lease && !HOLDFAST_PLANT(kNoLeaseWait)) {
    CHECK(first_promise_.has_value());
    Nanos until = *first_promise_ + config_.lease + config_.lease / 16;
    Nanos began = env_.now();
    while (env_.now() < until && !stop_reason_) co_await wait_for_event(until);
    lease_waited_ += env_.now() - began;
    if (stop_reason_) co_return *stop_reason_;
  }
  Status stored = co_await store_in_sync_set(std::move(reason));
  co_return stored;
}

// ---- comparing ----

Task<Status> VolumeEngine::recover_round(bool* again) {
  for (const std::unique_ptr<Member>& member : members_) {
    end_link(*member);
    member->phase = MemberPhase::kFailed;
  }
  co_await open_in_sync();
  if (stop_reason_) co_return *stop_reason_;

  std::vector<Member*> usable, missing;
  Member* authority = nullptr;
  for (const std::unique_ptr<Member>& member : members_) {
    if (!in_sync_.wanted(member->config.id)) continue;
    if (member->opened && !member->opened->complete) {
      member->reason = "it is recorded as in-sync but was not rebuilt to the end";
      member->unusable = true;
    }
    if (!member->opened || member->unusable) {
      missing.push_back(member.get());
      continue;
    }
    usable.push_back(member.get());
    bool longer = authority && member->opened->last > authority->opened->last;
    if (!authority || (longer && !HOLDFAST_PLANT(kAnyLogWins))) authority = member.get();
  }
  if (!authority) {
    std::string reasons;
    for (Member* member : missing) reasons += "; replica " + to_hex(member->config.id.value()) + ": " + member->reason;
    co_return Error(ErrorCode::kNoInSyncReplica,
                    "no in-sync replica of volume " + config_.name + " can be opened" + reasons);
  }
  for (Member* member : usable) {
    const store::ReplicaInfo& log = *member->opened;
    const store::ReplicaInfo& longest = *authority->opened;
    if (log.last.seq <= longest.last.seq &&
        common_seq(log.history, log.last.seq, longest.history, longest.last.seq) == log.last.seq) {
      continue;
    }
    member->reason = "its log parted from the volume's";
    missing.push_back(member);
  }
  std::erase_if(usable, [&missing](Member* member) {
    return std::find(missing.begin(), missing.end(), member) != missing.end();
  });
  if (!missing.empty()) CO_TRY(co_await leave_out(missing, "not usable at attach"));
  CO_TRY(co_await ship_tails(usable, authority, again));
  if (!*again) begin_serving(*authority->opened);
  co_return Status();
}

// ---- shipping ----

Task<Status> VolumeEngine::ship_tails(std::vector<Member*> members, Member* authority, bool* again) {
  next_seq_ = authority->opened->last.seq.next();
  Seq committed;
  for (Member* member : members) {
    committed = std::max(committed, member->opened->committed);
    member->journalled = member->opened->last.seq;
    start_link(*member, std::nullopt);
    member->phase = MemberPhase::kStreaming;
  }
  for (Member* member : members) {
    if (member->journalled >= authority->opened->last.seq || HOLDFAST_PLANT(kSkipTails)) continue;
    Status status = co_await ship_tail(authority, member, committed);
    bool applied = is(status, ErrorCode::kNotFound);
    // What it has applied and forgotten, or its disk cannot read, may be in other logs of the same length.
    for (Member* other : members) {
      if (!is(status, ErrorCode::kNotFound) && !is(status, ErrorCode::kCorrupt)) break;
      if (other == authority || other->journalled < authority->opened->last.seq) continue;
      status = co_await ship_tail(other, member, committed);
      applied = applied || is(status, ErrorCode::kNotFound);
    }
    if (stop_reason_) co_return *stop_reason_;
    if (is(status, ErrorCode::kNotFound) || is(status, ErrorCode::kCorrupt)) {
      // What was acknowledged is in every log but that of a replica that lost it with its power. What is in some log
      // and cannot be read there, and may never have been acknowledged, is given up with that log, before it costs the
      // others the content that it was to replace.
      Member* out = applied || member->journalled < committed ? member : authority;
      out->reason = (out == member ? "it lacks entries that can be had from no other replica: "
                                   : "it has entries that others lack and that cannot be read: ") +
                    status.error().to_string();
      CO_TRY(co_await leave_out(std::vector<Member*>(1, out), "left out at attach"));
      *again = true;
    } else if (!status.ok()) {
      log_warn("engine", "volume " + config_.name + " compares its logs again: " + status.error().to_string());
      *again = true;
    }
    if (*again) co_return Status();
  }
  for (Member* member : members) *again = *again || member->phase != MemberPhase::kStreaming;
  co_return Status();
}

// `committed`: the watermark, which the receiver needs to go past a REVERT.
Task<Status> VolumeEngine::ship_tail(Member* from, Member* to, Seq committed) {
  Seq last = from->journalled;
  LogReader reader(*this, channels_.get(from->config.address), *to, to->journalled.next(), committed);
  reader.start({from->config.id, config_.epoch, to->journalled.next(), last});
  for (;;) {
    if (stop_reason_) co_return *stop_reason_;
    if (!to->link) co_return Error(ErrorCode::kConnectionLost, to->reason);
    bool arrived = to->journalled.next() >= reader.next();
    if (reader.outcome() && !reader.outcome()->ok() && arrived) co_return *reader.outcome();
    if (reader.outcome() && reader.next() <= last) co_return Error(ErrorCode::kProtocol, "ReadLog ended early");
    if (to->journalled >= last) co_return Status();
    Nanos until = to->append_progress + config_.replica_timeout;
    if (env_.now() >= until) co_return Error(ErrorCode::kTimedOut, "entries that a replica lacks could not be sent");
    co_await wait_for_event(until);
  }
}

// All in-sync logs are equal and end at `authority.last`: that is committed now.
void VolumeEngine::begin_serving(const store::ReplicaInfo& authority) {
  history_ = authority.history;
  committed_ = authority.last.seq;
  next_seq_ = committed_.next();
  size_blocks_ = size_blocks_asked_ = size_blocks_numbered_ = authority.size_blocks;
  state_ = State::kServing;
  for (const std::unique_ptr<Member>& member : members_) {
    member->opened.reset();
    if (member->phase == MemberPhase::kStreaming) {
      member->reason.clear();
      member->in_sync_since = env_.now();
    } else {
      try_later(*member);
    }
  }
  announce_commit_later();
  log_info("engine", "volume " + config_.name + " is served from entry " + std::to_string(next_seq_.value()) +
                         " with " + std::to_string(in_sync_.stored().size()) + " in-sync replicas");
}

}  // namespace holdfast::engine
