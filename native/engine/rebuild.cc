// Making replicas in-sync: join, catch up, promote. docs/consistency.md, "Rebuild".
#include <algorithm>

#include "base/log.h"
#include "base/plant.h"
#include "engine/history.h"
#include "engine/volume_engine.h"

namespace holdfast::engine {

// The last position that this replica's content and the volume have in common. A complete replica's content is its log;
// one in the middle of a rebuild is complete as of its base only.
static Seq base_of(const store::ReplicaInfo& info, const std::vector<store::EpochStart>& history, Seq last) {
  if (HOLDFAST_PLANT(kRebuildFromWrongBase) && info.complete) return std::min(info.last.seq, last);
  if (info.complete) return common_seq(info.history, info.last.seq, history, last);
  Seq common = common_seq(info.history, std::max(info.last.seq, info.base), history, last);
  return std::min(info.base, common);
}

std::vector<store::EpochStart> VolumeEngine::history_before(Seq seq) const {
  std::vector<store::EpochStart> before;
  for (const store::EpochStart& start : history_) {
    if (start.first < seq) before.push_back(start);
  }
  return before;
}

void VolumeEngine::join(Member& member, const store::ReplicaInfo& info) {
  Member* source = choose_source(member);
  if (!source) return give_up_attempt(member, "waiting for an in-sync replica to copy from");
  replica::Join join;
  join.request.first = next_seq_;
  join.request.base = base_of(info, history_, Seq(next_seq_.value() - 1));
  join.request.size_blocks = size_blocks_numbered_;
  join.request.history = history_before(next_seq_);
  join.source_address = source->config.address.to_string();
  join.source_replica = source->config.id;
  log_info("engine", "rebuilding replica " + to_hex(member.config.id.value()) + " of volume " + config_.name +
                         " from replica " + to_hex(source->config.id.value()) + " for changes after " +
                         std::to_string(join.request.base.value()));
  member.phase = MemberPhase::kJoining;
  member.reason = "rebuilding";
  member.source = source->config.id;
  member.first_live = next_seq_;
  member.journalled = Seq(next_seq_.value() - 1);
  member.rebuilt.reset();
  member.lost_acknowledged = false;
  member.progress = {};
  for (const std::unique_ptr<Member>& other : members_) {
    if (other.get() == source || other.get() == &member || !may_copy_from(*other)) continue;
    join.others.push_back({other->config.address.to_string(), other->config.id});
  }
  join.carry_damage = true;
  join.bytes_per_second = rebuild_share();
  start_link(member, std::move(join));
  share_rebuild_rate();
  if (!pace_timer_.armed()) pace_rebuilds();
}

bool VolumeEngine::may_copy_from(const Member& member) const {
  return member.phase == MemberPhase::kStreaming && in_sync_.stored(member.config.id) &&
         in_sync_.wanted(member.config.id);
}

// One that copying has not failed from yet (its copy may be damaged); then the one that serves the fewest rebuilds,
// then the fewest reads; the local one last, since it has the host's reads.
Member* VolumeEngine::choose_source(const Member& joiner) {
  Member* best = nullptr;
  auto rank = [this, &joiner](const Member& member) {
    auto failures = std::count(joiner.poor_sources.begin(), joiner.poor_sources.end(), member.config.id);
    auto serves = std::count_if(members_.begin(), members_.end(), [&member](const std::unique_ptr<Member>& other) {
      return other->phase == MemberPhase::kJoining && other->source == member.config.id;
    });
    return std::tuple(failures, serves, member.reads_outstanding, member.config.local);
  };
  for (const std::unique_ptr<Member>& member : members_) {
    if (member.get() == &joiner || !may_copy_from(*member)) continue;
    if (!best || rank(*member) < rank(*best)) best = member.get();
  }
  return best;
}

void VolumeEngine::advance_rebuild(Member& member) {
  if (member.phase == MemberPhase::kJoining && member.rebuilt) {
    // From here on nothing is acknowledged that it lacks.
    member.phase = MemberPhase::kPromoting;
    member.reason = "rebuilt, about to become in-sync";
    share_rebuild_rate();
  }
  if (member.phase == MemberPhase::kPromoting) promote_when_caught_up(member);
}

// The copied content may reflect entries that were in flight at the source, and the log of this replica begins at
// first_live: before it counts as in-sync every replica must have all of that, or a crash could leave content that no
// log explains and gaps that no log can fill.
void VolumeEngine::promote_when_caught_up(Member& member) {
  if (in_sync_.wanted(member.config.id) || !member.wanted || state_ != State::kServing) return;
  Seq reflected = std::max(*member.rebuilt, Seq(member.first_live.value() - 1));
  if (!HOLDFAST_PLANT(kPromoteEarly)) {
    if (committed_ < reflected || member.journalled < committed_) return;
    if (member.promotion_flush == 0) {
      member.promotion_flush = ++flush_issued_;
      send_flush(member);
      return watch_silence();
    }
    if (member.flushed < member.promotion_flush) return;
  }
  in_sync_.add(member.config.id);
  std::string damage = member.damaged.empty() ? "" : ", with blocks that are damaged on every copy";
  update_in_sync_set("replica " + to_hex(member.config.id.value()) + " was rebuilt" + damage);
}

void VolumeEngine::restart_rebuilds_from(ReplicaId source) {
  std::vector<ReplicaId> affected;
  for (const std::unique_ptr<Member>& member : members_) {
    if (member->phase == MemberPhase::kJoining && member->source == source) affected.push_back(member->config.id);
  }
  for (ReplicaId id : affected) {
    Member* member = find(id);
    member->attempts = 0;
    fail_member(*member, Error(ErrorCode::kConnectionLost, "the replica it copied from has failed"));
  }
}

}  // namespace holdfast::engine
