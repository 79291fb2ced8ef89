// Replicas that fail and come back, and the in-sync set in the metadata store.
//
// A replica that fails while another required one works leaves the stored set; what waits only for it is acknowledged
// once that is stored. When all have failed nothing is changed: whoever comes back with every acknowledged entry gets
// what it lacks from the window and goes on.
#include <algorithm>

#include "base/log.h"
#include "base/plant.h"
#include "engine/history.h"
#include "engine/volume_engine.h"

namespace holdfast::engine {

namespace {

constexpr Nanos kOpenTimeout = 3s;
constexpr Nanos kIoErrorAfter = 30s;
// Between a failure and its removal from the stored set: several may be failing at once, and if all do, none is
// removed.
constexpr Nanos kLeaveDelay = 10ms;
// How long one that came back waits for the others before they are left out.
constexpr Nanos kGatherTime = 2s;
constexpr Nanos kChangeRetry = 1s;
constexpr Nanos kRequiredRetryMax = 400ms;
constexpr Nanos kRetryMax = 10s;
// How many failed rebuilds of a replica count when its next source is chosen.
constexpr std::size_t kPoorSourcesMax = 16;
// One that was slow or silent again and again is given time before it is rebuilt once more.
constexpr Nanos kStrikeDelay = 10s;
constexpr Nanos kStrikeDelayMax = 300s;
constexpr Nanos kForgiveAfter = 600s;

std::string name_of(const Member& member) { return "replica " + to_hex(member.config.id.value()); }

}  // namespace

Member* VolumeEngine::find(ReplicaId id) {
  for (const std::unique_ptr<Member>& member : members_) {
    if (member->config.id == id) return member.get();
  }
  return nullptr;
}

void VolumeEngine::start_link(Member& member, std::optional<replica::Join> join) {
  CHECK(!member.link);
  LinkEvents& events = *this;
  member.link = std::make_unique<ReplicaLink>(env_, std::move(member.opening), member, events);
  member.flushed = 0;
  member.no_space = false;
  member.entry_lag = member.flush_lag = {};
  member.promotion_flush = 0;
  member.reads_outstanding = 0;
  member.append_progress = member.read_progress = env_.now();
  member.link->start({member.config.id, config_.epoch}, committed_, std::move(join));
}

void VolumeEngine::end_link(Member& member) {
  ++member.generation;
  if (!member.link && !member.opening) return;
  if (member.link) member.link->end();
  env_.post([link = std::move(member.link), channel = std::move(member.opening)] {});  // they may be calling us
}

void VolumeEngine::on_link_ended(Member& member, Error reason) {
  if (state_ == State::kAttaching) {
    if (reason.code() == ErrorCode::kEpochSuperseded) stop_reason_ = reason;
    end_link(member);
    member.phase = MemberPhase::kFailed;
    member.reason = reason.to_string();
    return wake_attach();
  }
  fail_member(member, std::move(reason));
}

// ---- failing ----

void VolumeEngine::fail_member(Member& member, Error reason) {
  if (state_ == State::kStopped || member.phase == MemberPhase::kFailed) return;
  if (reason.code() == ErrorCode::kEpochSuperseded) return fence();
  MemberPhase was = member.phase;
  log_warn("engine", name_of(member) + " of volume " + config_.name + " failed: " + reason.to_string());
  if (member.counts()) {
    if (std::optional<Nanos> confirmed = member.link->channel().confirmed_at()) {
      member.confirmed = std::max(member.confirmed, *confirmed);
    }
  }
  if (was == MemberPhase::kStreaming) {
    if (env_.now() - member.in_sync_since > kForgiveAfter) member.strikes = 0;
    if (reason.code() == ErrorCode::kTimedOut) ++member.strikes;
  }
  end_link(member);
  member.phase = MemberPhase::kFailed;
  member.no_space = false;
  member.reason = reason.to_string();
  member.failed_at = env_.now();
  reroute_reads_of(member);
  restart_rebuilds_from(member.config.id);
  if (was == MemberPhase::kJoining) {
    member.poor_sources.push_back(member.source);
    if (member.poor_sources.size() > kPoorSourcesMax) member.poor_sources.erase(member.poor_sources.begin());
    share_rebuild_rate();
  }
  leave_soon(name_of(member) + " failed: " + member.reason);
  // The removal waits until another one is heard of; with all writes waiting for it, nothing else would ask.
  for (const std::unique_ptr<Member>& other : members_) {
    if (other->phase == MemberPhase::kStreaming) other->link->channel().probe();
  }
  try_later(member);
  watch_availability();
  // A replica that was only about to become in-sync holds nothing up any more.
  advance_commit();
  advance_flush();
  retry_stalled();
}

bool VolumeEngine::any_required_counts() const {
  return std::any_of(members_.begin(), members_.end(), [this](const std::unique_ptr<Member>& member) {
    return member->phase == MemberPhase::kStreaming && in_sync_.wanted(member->config.id);
  });
}

// One that writes wait for although it failed: its removal is not stored. Null when there is none.
const Member* VolumeEngine::failed_required_member() const {
  for (const std::unique_ptr<Member>& member : members_) {
    if (required(*member) && !member->counts()) return member.get();
  }
  return nullptr;
}

// A failed replica leaves only when another one was heard of since: when the network of this host dies, the replicas
// seem to fail one after the other, and the set must not shrink to whichever seemed to be last.
void VolumeEngine::leave_out_failed() {
  if (!any_required_counts() || gather_timer_.armed()) return;
  Nanos heard{-1};
  for (const std::unique_ptr<Member>& member : members_) {
    if (member->phase != MemberPhase::kStreaming || !in_sync_.wanted(member->config.id)) continue;
    heard = std::max(heard, member->link->channel().last_heard().value_or(Nanos(-1)));
  }
  for (const std::unique_ptr<Member>& member : members_) {
    if (!in_sync_.wanted(member->config.id) || member->counts()) continue;
    if (heard > member->failed_at) {
      in_sync_.remove(member->config.id);
    } else {
      leave_soon(member->reason);
    }
  }
  // One that is no longer wanted goes as soon as another can do without it.
  bool wanted_one_works = std::any_of(members_.begin(), members_.end(), [this](const std::unique_ptr<Member>& member) {
    return member->wanted && member->phase == MemberPhase::kStreaming && in_sync_.stored(member->config.id);
  });
  if (!wanted_one_works) return;
  for (const std::unique_ptr<Member>& member : members_) {
    if (!member->wanted) in_sync_.remove(member->config.id);
  }
}

void VolumeEngine::leave_soon(std::string reason) {
  if (leave_timer_.armed()) return;
  change_reason_ = std::move(reason);
  leave_timer_.arm_after(kLeaveDelay, [this] { update_in_sync_set(change_reason_); });
}

void VolumeEngine::update_in_sync_set(std::string reason) {
  if (state_ != State::kServing && state_ != State::kClosing) return;
  leave_out_failed();
  if (std::optional<std::vector<ReplicaId>> set = in_sync_.next_change()) {
    change_reason_ = std::move(reason);
    store_change(std::move(*set));
    if (HOLDFAST_PLANT(kAckBeforeRemovalIsStored)) advance_commit();
  }
}

void VolumeEngine::store_change(std::vector<ReplicaId> set) {
  membership_.change(config_.volume, config_.epoch, std::move(set), change_reason_,
                     [this, alive = alive_](Status status) {
                       // In a later turn: the answer may come from inside the call.
                       if (!*alive) return;
                       env_.post([this, alive, status = std::move(status)]() mutable {
                         if (*alive) on_change_outcome(std::move(status));
                       });
                     });
}

void VolumeEngine::on_change_outcome(Status status) {
  if (state_ == State::kStopped) return;
  if (!status.ok()) {
    if (status.error().code() == ErrorCode::kEpochSuperseded) return fence();
    log_warn("engine", "the in-sync set of volume " + config_.name +
                           " could not be stored and is tried again: " + status.error().to_string());
    change_timer_.arm_after(kChangeRetry, [this] { store_change(in_sync_.change_again()); });
    return;
  }
  in_sync_.change_stored();
  for (const std::unique_ptr<Member>& member : members_) {
    bool stored = in_sync_.stored(member->config.id);
    if (stored && member->phase == MemberPhase::kPromoting) {
      log_info("engine", name_of(*member) + " of volume " + config_.name + " is in-sync");
      member->phase = MemberPhase::kStreaming;
      member->reason.clear();
      member->attempts = 0;
      member->poor_sources.clear();
      member->in_sync_since = env_.now();
      take_damage_over(*member);
    }
    if (!stored && member->phase == MemberPhase::kStreaming) {
      end_link(*member);
      member->phase = MemberPhase::kFailed;
      member->reason = "left the in-sync set";
      reroute_reads_of(*member);
      try_later(*member);
    }
  }
  update_in_sync_set(change_reason_);
  watch_availability();
  drop_unwanted_later();
  advance_commit();
  advance_flush();
  retry_stalled();
}

// In a later turn, because callers may be walking over the members.
void VolumeEngine::drop_unwanted_later() {
  env_.post([this, alive = alive_] {
    if (!*alive || state_ == State::kStopped) return;
    std::erase_if(members_, [this](const std::unique_ptr<Member>& member) {
      bool counts = required(*member) || in_sync_.wanted(member->config.id);
      return !member->wanted && !counts && member->phase == MemberPhase::kFailed;
    });
  });
}

// With no in-sync replica I/O waits, but not for ever: a host should learn of it.
void VolumeEngine::watch_availability() {
  if (state_ == State::kStopped) return;
  if (any_required_counts()) {
    unavailable_timer_.cancel();
    failing_io_ = false;
    return;
  }
  if (failing_io_ || unavailable_timer_.armed()) return;
  unavailable_timer_.arm_after(kIoErrorAfter, [this] {
    failing_io_ = true;
    fail_waiting(
        Error(ErrorCode::kNoInSyncReplica, "no in-sync replica of volume " + config_.name + " can be reached"));
  });
}

// ---- coming back ----

void VolumeEngine::try_later(Member& member) {
  if (!member.wanted && !required(member)) return drop_unwanted_later();
  Nanos cap = required(member) ? kRequiredRetryMax : kRetryMax;
  Nanos delay = member.attempts == 0 ? Nanos(200ms) : Nanos(1s) * (1u << std::min(member.attempts - 1, 4u));
  delay = std::min(delay, cap);
  if (!required(member) && member.strikes > 1) {
    delay = std::max(delay, std::min(kStrikeDelay * (1u << std::min(member.strikes - 2, 8u)), kStrikeDelayMax));
  }
  delay += Nanos(static_cast<std::int64_t>(env_.random() % static_cast<std::uint64_t>(delay.count() / 4 + 1)));
  ++member.attempts;
  member.retry.arm_after(delay, [this, &member] { try_now(member); });
}

void VolumeEngine::try_now(Member& member) {
  if ((state_ != State::kServing && state_ != State::kClosing) || member.phase != MemberPhase::kFailed) return;
  if (!required(member) && member.config.hold_rebuild) {
    member.reason = "waits for its turn to be rebuilt";  // set_replicas() comes when it is
    return;
  }
  member.phase = MemberPhase::kOpening;
  std::uint64_t generation = ++member.generation;
  member.opening = channels_.get(member.config.address);
  member.opening->unary(
      replica::kOpenPath, replica::encode(env_.buffers(), replica::OpenRequest{member.config.id, config_.epoch}),
      kOpenTimeout,
      [this, alive = alive_, id = member.config.id, generation, asked = env_.now()](Result<rpc::Message> answer) {
        if (!*alive || state_ == State::kStopped) return;
        Member* asked_member = find(id);
        if (!asked_member || asked_member->generation != generation) return;
        on_opened(*asked_member, std::move(answer), asked);
      });
}

void VolumeEngine::on_opened(Member& member, Result<rpc::Message> answer, Nanos asked) {
  replica::ReplicaState opened;
  Status status = answer.ok() ? replica::decode(*answer, opened) : Status(answer.error());
  if (status.ok() && opened.info.volume != config_.volume) {
    status = Error(ErrorCode::kWrongDisk, name_of(member) + " belongs to another volume");
  }
  if (!status.ok()) {
    if (status.error().code() == ErrorCode::kEpochSuperseded) return fence();
    return give_up_attempt(member, status.error().to_string());
  }
  member.confirmed = std::max(member.confirmed, asked);
  if (!required(member)) return join(member, opened.info);
  // Its removal may be stored any moment; until that is known it is neither in nor out.
  if (!in_sync_.wanted(member.config.id)) return give_up_attempt(member, "waiting for the metadata store");
  come_back(member, opened.info);
}

void VolumeEngine::give_up_attempt(Member& member, std::string why) {
  end_link(member);
  member.phase = MemberPhase::kFailed;
  member.reason = std::move(why);
  try_later(member);
}

// Recorded before the engine stops: were only this process to know, its end would let the next engine serve what is
// left as if nothing had happened. Until then I/O waits, since no replica counts.
void VolumeEngine::declare_data_lost() {
  if (std::exchange(lost_data_, true)) return;
  std::string why = "DATA LOSS: every in-sync replica of volume " + config_.name +
                    " came back without acknowledged writes; what is left is served when the loss is accepted";
  log_error("engine", why);
  if (HOLDFAST_PLANT(kForgetLoss)) return stop(Error(ErrorCode::kCorrupt, why));
  membership_.lost_data(config_.volume, config_.epoch, why, [this, alive = alive_, why](Status status) {
    if (!*alive) return;
    // In a later turn: the answer may come from inside the call.
    env_.post([this, alive, why, status = std::move(status)] {
      if (!*alive || state_ == State::kStopped) return;
      if (!status.ok() && status.error().code() == ErrorCode::kEpochSuperseded) return fence();
      stop(Error(ErrorCode::kCorrupt, why));
    });
  });
}

// A required replica is back before it left the stored set.
void VolumeEngine::come_back(Member& member, const store::ReplicaInfo& info) {
  Seq last(next_seq_.value() - 1);
  bool prefix = common_seq(info.history, info.last.seq, history_, last) == info.last.seq;
  member.lost_acknowledged =
      !info.complete || !prefix || (info.last.seq < committed_ && !HOLDFAST_PLANT(kServeAfterLoss));
  if (member.lost_acknowledged) {
    give_up_attempt(member, "came back without acknowledged writes (its log ends at " +
                                std::to_string(info.last.seq.value()) + ", acknowledged are " +
                                std::to_string(committed_.value()) + ")");
    bool all_lost = std::all_of(members_.begin(), members_.end(), [this](const std::unique_ptr<Member>& other) {
      return !required(*other) || other->lost_acknowledged;
    });
    if (all_lost) declare_data_lost();
    return;
  }
  log_info("engine", name_of(member) + " of volume " + config_.name + " is back");
  start_link(member, std::nullopt);
  member.journalled = info.last.seq;
  member.phase = MemberPhase::kStreaming;
  member.reason.clear();
  member.attempts = 0;
  member.in_sync_since = env_.now();
  resend(member, member.journalled);
  if (flush_under_way_) send_flush(member);
  watch_silence();
  watch_availability();
  bool others_missing = std::any_of(members_.begin(), members_.end(), [this](const std::unique_ptr<Member>& other) {
    return in_sync_.wanted(other->config.id) && !other->counts();
  });
  if (!others_missing) {
    gather_timer_.cancel();
  } else if (!gather_timer_.armed()) {
    gather_timer_.arm_after(kGatherTime, [this] { update_in_sync_set("some replicas did not come back"); });
  }
  advance_commit();
  retry_stalled();
}

}  // namespace holdfast::engine
