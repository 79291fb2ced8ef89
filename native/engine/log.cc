// The log of the volume: numbering, sending and committing entries; flush; the committed watermark.
#include <algorithm>
#include <cstring>

#include "base/plant.h"
#include "engine/slice_cutter.h"
#include "engine/volume_engine.h"

namespace holdfast::engine {

namespace {

constexpr Nanos kAnnounceDelay = 20ms;
// What may lie unsent for a replica that is not required. A required one is bounded by the window.
constexpr std::size_t kJoinerUnsentBytesMax = 64u << 20;

Slice block_crcs(BufferPool& pool, const SliceList& data, std::uint32_t blocks) {
  Slice crcs = pool.allocate(std::size_t{blocks} * sizeof(std::uint32_t));
  std::byte* out = crcs.data();
  for_each_block_crc(data, [&out](std::uint32_t crc) {
    std::memcpy(out, &crc, sizeof crc);  // little-endian hosts only, as everywhere
    out += sizeof crc;
  });
  return crcs;
}

}  // namespace

PendingEntry* VolumeEngine::new_entry(Op* op, store::Op kind) {
  PendingEntry* entry = entry_pool_.take();
  entry->op = op;
  entry->entry = store::Entry();
  entry->entry.op = kind;
  entry->data.clear();
  entry->bytes = 0;
  if (op) ++op->pieces_pending;
  return entry;
}

// Entries are numbered in order of arrival here; the range lock has ordered those that overlap.
void VolumeEngine::submit(PendingEntry* entry) {
  entry->bytes = total_size(entry->data);
  if (waiting_for_room_.empty() && window_.has_room_for(entry->bytes)) return number_and_send(entry);
  waiting_for_room_.push_back(entry);
}

void VolumeEngine::admit() {
  while (state_ != State::kStopped && !waiting_for_room_.empty() &&
         window_.has_room_for(waiting_for_room_.front()->bytes)) {
    PendingEntry* entry = waiting_for_room_.front();
    waiting_for_room_.pop_front();
    number_and_send(entry);
  }
}

void VolumeEngine::number_and_send(PendingEntry* entry) {
  entry->entry.position = {config_.epoch, next_seq_};
  if (entry->entry.op == store::Op::kResize) size_blocks_numbered_ = entry->entry.size_blocks;
  if (history_.empty() || history_.back().epoch != config_.epoch) history_.push_back({config_.epoch, next_seq_});
  for (const std::unique_ptr<Member>& member : members_) {
    if (!work_outstanding(*member)) member->append_progress = env_.now();
  }
  bool flush = flushes_with(*entry);
  next_seq_ = next_seq_.next();
  flush_habit_.wrote();
  if (entry->entry.op == store::Op::kWrite) {
    entry->entry.crc = block_crcs(env_.buffers(), entry->data, entry->entry.blocks.count);
  }
  window_.push(entry);

  replica::AppendRequest request;
  request.committed = committed_;
  request.entry = entry->entry;
  if (flush) {
    begin_flush();
    request.flush_id = flush_issued_;
  }
  wire_.clear();
  replica::encode(env_.buffers(), request, entry->data, wire_);
  for (const std::unique_ptr<Member>& member : members_) {
    if (member->link) send_to(*member, wire_);
  }
  wire_.clear();
  committed_sent_ = committed_;
  watch_silence();
}

void VolumeEngine::send_to(Member& member, std::span<const Slice> parts) {
  if (member.phase == MemberPhase::kJoining && member.link->unsent_bytes() > kJoinerUnsentBytesMax) {
    // In a later turn: the caller is walking over the members.
    env_.post([this, alive = alive_, id = member.config.id, generation = member.generation] {
      Member* slow = *alive ? find(id) : nullptr;
      if (!slow || slow->generation != generation) return;
      fail_member(*slow, Error(ErrorCode::kTimedOut, "the replica takes new writes too slowly while it is rebuilt"));
    });
    return member.link->end();
  }
  member.link->append(parts);
}

void VolumeEngine::resend(Member& member, Seq after) {
  window_.for_each_after(after, [this, &member](PendingEntry& entry) {
    replica::AppendRequest request;
    request.committed = committed_;
    request.entry = entry.entry;
    wire_.clear();
    replica::encode(env_.buffers(), request, entry.data, wire_);
    member.link->append(wire_);
  });
  wire_.clear();
}

void VolumeEngine::on_append_response(Member& member, const replica::AppendResponse& response) {
  if (state_ == State::kStopped) return;
  member.append_progress = env_.now();
  if (response.journalled >= next_seq_) {
    return fail_member(member, Error(ErrorCode::kProtocol, "the replica acknowledged an entry that was never sent"));
  }
  member.journalled = std::max(member.journalled, response.journalled);
  member.flushed = std::max(member.flushed, response.flushed_id);
  if (response.rebuild) member.progress = *response.rebuild;
  if (response.rebuilt) member.rebuilt = response.rebuilt;
  if (!response.damaged.empty()) note_damage(member, response.damaged);
  if (response.no_space || member.no_space) note_space(member, response.no_space);
  if (state_ == State::kAttaching) {
    return wake_attach();
  }
  if (member.phase == MemberPhase::kJoining || member.phase == MemberPhase::kPromoting) advance_rebuild(member);
  if (!member.counts()) return;
  advance_commit();
  advance_flush();
}

// I1: the highest seq that every replica has whose acknowledgement is needed, whether it still answers or not.
void VolumeEngine::advance_commit() {
  if (state_ == State::kStopped) return;
  Seq everywhere = Seq(UINT64_MAX);
  for (const std::unique_ptr<Member>& member : members_) {
    if (HOLDFAST_PLANT(kAckWithoutOne) && members_.size() > 1 && member == members_.back()) continue;
    if (required(*member) || member->phase == MemberPhase::kPromoting) {
      everywhere = std::min(everywhere, member->journalled);
    }
  }
  if (everywhere == Seq(UINT64_MAX) || everywhere <= committed_) return;
  committed_ = everywhere;
  // Completions may submit, stop or close; the engine itself outlives them.
  while (state_ != State::kStopped && !window_.empty() && window_.front()->entry.position.seq <= committed_) {
    PendingEntry* entry = window_.front();
    window_.pop_front();
    complete(entry);
  }
  if (state_ == State::kStopped) return;
  admit();
  announce_commit_later();
  for (const std::unique_ptr<Member>& member : members_) {
    if (member->phase == MemberPhase::kPromoting) promote_when_caught_up(*member);
  }
}

void VolumeEngine::complete(PendingEntry* entry) {
  Op* op = entry->op;
  StatusCallback done = std::move(entry->done);
  bool resize = entry->entry.op == store::Op::kResize;
  std::uint64_t size_blocks = entry->entry.size_blocks;
  entry->data.clear();
  entry->entry = store::Entry();
  entry_pool_.give_back(entry);
  if (op) return piece_done(op, Status());
  if (resize) {
    finish_resize(size_blocks, std::move(done));
  } else if (done) {
    done(Status());
  }
  if (state_ == State::kClosing) close_when_idle();
}

// The watermark travels with the next message; alone when none follows soon.
void VolumeEngine::announce_commit_later() {
  if (announce_timer_.armed()) return;
  announce_timer_.arm_after(kAnnounceDelay, [this] { announce_commit(); });
}

void VolumeEngine::announce_commit() {
  if (committed_sent_ == committed_) return;
  replica::AppendRequest request;
  request.committed = committed_;
  wire_.clear();
  replica::encode(env_.buffers(), request, wire_);
  for (const std::unique_ptr<Member>& member : members_) {
    if (member->link) member->link->append(wire_);
  }
  wire_.clear();
  committed_sent_ = committed_;
}

// ---- flush ----

// A flush has to cover what was acknowledged before it was asked for. That may be on disk already, or the one under way
// covers it; if not, all who wait share the next one.
void VolumeEngine::flush_acknowledged(FlushWaiter waiter) {
  if (flushed_to_ >= committed_) return serve_flush(waiter);
  if (flush_under_way_ && flush_covers_ >= committed_) {
    flush_current_.push_back(std::move(waiter));
  } else {
    flush_after_commit(std::move(waiter));
  }
}

// A flush of its own: it also carries the watermark to all replicas.
void VolumeEngine::flush_after_commit(FlushWaiter waiter) {
  flush_next_.push_back(std::move(waiter));
  if (!flush_under_way_) issue_flush();
}

// Whether a flush goes out in one message with this entry, the next to be numbered: FUA of a whole operation, or a
// host that asks for a flush after each write, one at a time. Saves it a round trip to all replicas.
bool VolumeEngine::flushes_with(const PendingEntry& entry) const {
  if (flush_under_way_ || !entry.op || entry.entry.op != store::Op::kWrite || HOLDFAST_PLANT(kFlushOne)) return false;
  if (entry.op->durable) return entry.entry.blocks.end() == entry.op->end_block();
  return window_.empty() && flush_habit_.expects_flush();
}

void VolumeEngine::begin_flush() {
  flush_under_way_ = true;
  flush_wanted_ = ++flush_issued_;
  flush_covers_ = Seq(next_seq_.value() - 1);
}

void VolumeEngine::issue_flush() {
  std::swap(flush_current_, flush_next_);
  begin_flush();
  for (const std::unique_ptr<Member>& member : members_) {
    if (!member->link || !member->counts()) continue;
    send_flush(*member);
    if (HOLDFAST_PLANT(kFlushOne)) break;
  }
  watch_silence();
}

void VolumeEngine::send_flush(Member& member) {
  if (!work_outstanding(member)) member.append_progress = env_.now();
  replica::AppendRequest request;
  request.committed = committed_;
  request.flush_id = flush_issued_;
  member.link->append(request);
}

void VolumeEngine::advance_flush() {
  if (state_ == State::kStopped || !flush_under_way_) return;
  for (const std::unique_ptr<Member>& member : members_) {
    if (HOLDFAST_PLANT(kFlushOne) && member->counts() && member->flushed >= flush_wanted_) break;
    bool needed = required(*member) || member->phase == MemberPhase::kPromoting;
    if (needed && (!member->counts() || member->flushed < flush_wanted_)) return;
  }
  flush_under_way_ = false;
  flushed_to_ = flush_covers_;
  std::vector<FlushWaiter> served = std::move(flush_current_);
  flush_current_.clear();
  if (!flush_next_.empty()) issue_flush();
  for (FlushWaiter& waiter : served) serve_flush(waiter);
  if (state_ == State::kClosing) close_when_idle();
}

void VolumeEngine::serve_flush(FlushWaiter& waiter) {
  ++flushes_done_;
  if (waiter.op) {
    answer(waiter.op, Status());
    finish(waiter.op);
  } else if (waiter.done) {
    // The engine's own flushes do not say when they began.
    if (waiter.began.count() != 0) record_latency(flush_latency_, env_.now() - waiter.began);
    waiter.done(Status());
  }
}

}  // namespace holdfast::engine
