// Replicas that hold the others up: silent, much slower, or with a full disk. They leave the in-sync set, so that a
// host sees a pause and never an error. What all of them are together is not held against any: then I/O is just slow,
// or, when all disks are full, writes wait until there is room.
#include <algorithm>

#include "base/log.h"
#include "engine/volume_engine.h"

namespace holdfast::engine {

namespace {

// A replica that begins a rebuild first drops what it had.
constexpr Nanos kJoinTimeout = 30s;
// Initiators give up an operation after 15 s. A few that wait for each other, each as long as a replica may take, add
// up to that: from here on none is waited for that is behind the others.
constexpr Nanos kHostPatience = 8s;
// Disks that fill up together say so within this time.
constexpr Nanos kSpaceDelay = 300ms;

}  // namespace

// ---- silence and slowness ----

bool VolumeEngine::work_outstanding(const Member& member) const {
  if (!member.link) return false;
  if (member.journalled.next() < next_seq_) return true;
  if (!member.counts()) return false;
  return (flush_under_way_ && member.flushed < flush_wanted_) || member.flushed < member.promotion_flush;
}

// Runs only while something is outstanding somewhere: an idle volume has no timer.
void VolumeEngine::watch_silence() {
  if (silence_timer_.armed()) return;
  silence_checked_ = env_.now();
  silence_timer_.arm_after(config_.replica_timeout / 4, [this] { check_silence(); });
}

void VolumeEngine::check_silence() {
  if (state_ == State::kStopped) return;
  Nanos now = env_.now();
  // This process itself was stopped for a while: answers may be waiting to be read.
  bool was_stopped = now - silence_checked_ > config_.replica_timeout;
  bool outstanding = false;
  Nanos lag_max = hosts_wait() ? config_.replica_timeout / 8 : config_.replica_timeout;
  std::vector<ReplicaId> silent, slow;
  for (const std::unique_ptr<Member>& member : members_) {
    if (!member->link) continue;
    if (was_stopped) member->append_progress = member->read_progress = now;
    bool appends = work_outstanding(*member);
    bool reads = member->reads_outstanding > 0;
    outstanding = outstanding || appends || reads;
    Nanos patience = member->phase == MemberPhase::kJoining ? std::max(kJoinTimeout, config_.replica_timeout)
                                                            : config_.replica_timeout;
    if ((appends && now - member->append_progress > patience) || (reads && now - member->read_progress > patience)) {
      silent.push_back(member->config.id);
    } else if (was_stopped) {
      member->entry_lag = member->flush_lag = {};
    } else if (appends && is_slow(*member, lag_max)) {
      slow.push_back(member->config.id);
    }
  }
  if (outstanding) watch_silence();
  for (ReplicaId id : silent) {
    Member* member = find(id);
    if (member && state_ != State::kStopped) {
      fail_member(*member, Error(ErrorCode::kTimedOut, "the replica was silent with work outstanding"));
    }
  }
  for (ReplicaId id : slow) {
    Member* member = find(id);
    if (member && member->link && state_ != State::kStopped) {
      fail_member(*member, Error(ErrorCode::kTimedOut, "the replica is much slower than the others"));
    }
  }
}

// Whether some host's operation waits for long. What the volume's own limits hold back does not count.
bool VolumeEngine::hosts_wait() const {
  const Op* op = ops_first_;
  while (op && op->lock.idle()) op = op->next;
  return op && env_.now() - op->admitted > kHostPatience;
}

// Whether it took longer than `limit` to get to where another in-sync replica was.
bool VolumeEngine::is_slow(Member& member, Nanos limit) {
  if (!member.counts() || member.no_space) return false;
  Nanos now = env_.now();
  std::uint64_t ahead = 0, ahead_flushed = 0;
  for (const std::unique_ptr<Member>& other : members_) {
    if (other.get() == &member || other->phase != MemberPhase::kStreaming || !in_sync_.wanted(other->config.id))
      continue;
    ahead = std::max(ahead, other->journalled.value());
    ahead_flushed = std::max(ahead_flushed, other->flushed);
  }
  auto lags = [now, limit](Member::Lag& lag, std::uint64_t has, std::uint64_t others) {
    if (lag.target != 0 && has < lag.target) return now - lag.began > limit;
    lag = others > has ? Member::Lag{others, now} : Member::Lag{};
    return false;
  };
  bool entries = lags(member.entry_lag, member.journalled.value(), ahead);
  bool flushes = lags(member.flush_lag, member.flushed, flush_under_way_ ? ahead_flushed : 0);
  return entries || flushes;
}

// ---- full disks ----

bool VolumeEngine::all_required_full() const {
  bool any = false;
  for (const std::unique_ptr<Member>& member : members_) {
    if (!in_sync_.wanted(member->config.id) || member->phase != MemberPhase::kStreaming) continue;
    if (!member->no_space) return false;
    any = true;
  }
  return any;
}

void VolumeEngine::note_space(Member& member, bool no_space) {
  if (std::exchange(member.no_space, no_space) != no_space) {
    log_warn("engine", "replica " + to_hex(member.config.id.value()) + " of volume " + config_.name +
                           (no_space ? ": its disk is full" : ": its disk has room again"));
  }
  if (member.phase == MemberPhase::kStreaming) member.reason = no_space ? "its disk is full" : "";
  bool any = std::any_of(members_.begin(), members_.end(),
                         [](const std::unique_ptr<Member>& other) { return other->no_space && other->counts(); });
  if (any && !space_timer_.armed()) space_timer_.arm_after(kSpaceDelay, [this] { decide_about_full_disks(); });
}

// While another one has room the full ones leave. When all are full none does: the volume keeps its copies and waits.
void VolumeEngine::decide_about_full_disks() {
  if (state_ != State::kServing || all_required_full()) return;
  std::vector<ReplicaId> full;
  for (const std::unique_ptr<Member>& member : members_) {
    if (member->no_space && member->counts()) full.push_back(member->config.id);
  }
  for (ReplicaId id : full) {
    Member* member = find(id);
    if (member && member->no_space && state_ == State::kServing) {
      fail_member(*member, Error(ErrorCode::kNoSpace, "its disk is full"));
    }
  }
}

}  // namespace holdfast::engine
