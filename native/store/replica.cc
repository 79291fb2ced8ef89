#include "store/replica.h"

#include <algorithm>

#include "base/crc32c.h"
#include "base/log.h"
#include "base/plant.h"
#include "store/disk.h"

namespace holdfast::store {

Replica::Replica(Disk& disk, ReplicaId id, ReplicaIdentity identity, ReplicaApplied applied, Space& space)
    : disk_(disk),
      id_(id),
      identity_(std::move(identity)),
      complete_(identity_.complete),
      promised_(identity_.promised),
      applied_(std::move(applied)),
      last_(applied_.applied),
      committed_(std::min(applied_.applied.seq, applied_.committed)),
      size_blocks_(applied_.size_blocks),
      history_(applied_.history),
      space_(&space),
      rearranged_(space.tree().revision()) {}

ReplicaInfo Replica::info() const {
  ReplicaInfo info;
  info.id = id_;
  info.volume = identity_.volume;
  info.size_blocks = size_blocks_;
  info.promised = promised_;
  info.last = last_;
  info.committed = std::min(committed_, last_.seq);
  info.applied = applied_.applied.seq;
  info.history = history_;
  info.complete = complete_;
  info.base = identity_.base;
  info.used_bytes = space_->used_slots() * kChunkSize;
  return info;
}

Status Replica::check_usable() const {
  TRY(disk_.refusal());
  if (deleted_) return Error(ErrorCode::kNotFound, "replica " + to_hex(id_.value()) + " was deleted");
  return Status();
}

Status Replica::check_range(BlockRange blocks) const {
  if (blocks.count == 0 || blocks.begin() >= size_blocks_ || blocks.count > size_blocks_ - blocks.begin()) {
    return Error(ErrorCode::kInvalidArgument, "blocks " + std::to_string(blocks.begin()) + "+" +
                                                  std::to_string(blocks.count) + " are not inside replica " +
                                                  to_hex(id_.value()));
  }
  return Status();
}

// ---- promise ----

void Replica::store_identity(StatusCallback done) {
  KvBatch batch;
  batch.put(replica_key(kIdentityTable, id_), encode_identity(identity_));
  disk_.kv().write(std::move(batch), true, std::move(done));
}

void Replica::promise(Epoch epoch, StatusCallback done) {
  Status usable = check_usable();
  if (!usable.ok()) return disk_.deferred().call(std::move(done), std::move(usable));
  if (epoch < identity_.promised && !HOLDFAST_PLANT(kAcceptLowerEpoch)) {
    return disk_.deferred().call(
        std::move(done), Error(ErrorCode::kEpochSuperseded, "replica " + to_hex(id_.value()) + " has promised epoch " +
                                                                std::to_string(identity_.promised.value())));
  }
  if (epoch == promised_) return disk_.deferred().call(std::move(done), Status());
  identity_.promised = epoch;
  if (HOLDFAST_PLANT(kPromiseNotDurable)) {
    promised_ = epoch;
    return disk_.deferred().call(std::move(done), Status());
  }
  auto* waiting = new StatusCallback(std::move(done));
  store_identity([this, epoch, waiting](Status status) {
    std::unique_ptr<StatusCallback> owned(waiting);
    if (status.ok()) {
      promised_ = std::max(promised_, epoch);
    } else {
      disk_.fail(status.error());
    }
    (*owned)(std::move(status));
  });
}

// ---- append ----

Status Replica::check_entry(const Entry& entry) const {
  if (entry.position.seq != last_.seq.next()) {
    return Error(ErrorCode::kLogGap, "entry " + std::to_string(entry.position.seq.value()) + " does not follow " +
                                         std::to_string(last_.seq.value()) + " in replica " + to_hex(id_.value()));
  }
  if (entry.position.epoch < last_.epoch) {
    return Error(ErrorCode::kEpochSuperseded, "an entry of epoch " + std::to_string(entry.position.epoch.value()) +
                                                  " cannot follow one of epoch " + std::to_string(last_.epoch.value()));
  }
  switch (entry.op) {
    case Op::kWrite: {
      TRY(check_range(entry.blocks));
      std::size_t count = entry.blocks.count;
      if (count > kWriteBlocksMax || entry.crc.size() != count * 4 || entry.data.size() != count * kBlockSize) {
        return Error(ErrorCode::kInvalidArgument, "a WRITE needs 1 to 256 blocks, and data and CRCs for all of them");
      }
      for (std::size_t i = 0; i < count; ++i) {
        std::uint32_t expected;
        std::memcpy(&expected, entry.crc.data() + i * 4, 4);
        if (crc32c(entry.data.bytes().subspan(i * kBlockSize, kBlockSize)) != expected) {
          return Error(ErrorCode::kCorrupt, "the data of entry " + std::to_string(entry.position.seq.value()) +
                                                " does not match its checksum; it was damaged on the way here");
        }
      }
      return Status();
    }
    case Op::kZero:
      if (entry.blocks.count > kZeroBlocksMax) {
        return Error(ErrorCode::kInvalidArgument, "a ZERO has at most 16384 blocks");
      }
      return check_range(entry.blocks);
    case Op::kResize:
      if (entry.size_blocks < size_blocks_) {
        return Error(ErrorCode::kInvalidArgument, "a volume cannot shrink");
      }
      if (entry.size_blocks > kSizeBlocksMax) {
        return Error(ErrorCode::kInvalidArgument, "a volume has at most " + std::to_string(kSizeBlocksMax) + " blocks");
      }
      return Status();
    case Op::kSnapshot:
    case Op::kDropSnapshot:
    case Op::kRevert:
      return check_layer_entry(entry);
  }
  return Error(ErrorCode::kInvalidArgument, "unknown operation in a log entry");
}

void Replica::append(Entry entry, StatusCallback done) {
  Status usable = check_usable();
  if (!usable.ok()) return disk_.deferred().call(std::move(done), std::move(usable));
  if (joining_ || !waiting_.empty() || !try_append(entry, done)) {
    waiting_.push_back({std::move(entry), std::move(done)});
  }
}

void Replica::try_waiting() {
  while (!joining_ && !waiting_.empty()) {
    Waiting& next = waiting_.front();
    if (!try_append(next.entry, next.done)) break;
    waiting_.pop_front();
  }
}

// False: it has to wait for room, nothing was taken.
bool Replica::try_append(Entry& entry, StatusCallback& done) {
  Status valid = check_entry(entry);
  if (!valid.ok()) {
    disk_.deferred().call(std::move(done), std::move(valid));
    return true;
  }
  // A revert changes what all reads see, so it is applied alone.
  if ((entry.op == Op::kRevert && !log_.empty()) || has_pending(Op::kRevert)) {
    disk_.destager().note_work(true);
    return false;
  }
  bool direct = false;
  if (entry.op == Op::kWrite) {
    Admission admission = admit(entry.blocks, direct);
    if (admission == Admission::kWait) return false;
    if (admission == Admission::kNo) {
      disk_.deferred().call(std::move(done), Error(ErrorCode::kNoSpace, "disk " + disk_.disk_id() +
                                                                            " is full; free space or move replicas"));
      return true;
    }
  }
  add_to_log(std::move(entry), std::move(done), direct);
  return true;
}

Replica::Admission Replica::admit(BlockRange blocks, bool& direct) {
  if (disk_.kv().waits_for_space()) return Admission::kNo;
  Admission admission = Admission::kYes;
  direct = room_with_direct(blocks, admission);
  return !direct && admission == Admission::kNo ? room_in_place(blocks) : admission;
}

// Whether there is room without looking at any record: a slot for every whole chunk, and one for every other.
bool Replica::room_with_direct(BlockRange blocks, Admission& admission) {
  Disk::Need need;
  for_each_chunk(blocks, [&](ChunkIndex chunk, std::uint32_t, std::uint32_t count, std::uint32_t) {
    if (count < kBlocksPerChunk) {
      ChunkOverlay* overlay = overlay_.find(chunk);
      if (overlay && overlay->reserved.has(segment_)) return;
    }
    ++need.certain;
  });
  Disk::Room room = disk_.room_for(need);
  admission = room == Disk::Room::kYes       ? Admission::kYes
              : room == Disk::Room::kGrowing ? Admission::kWait
                                             : Admission::kNo;
  return room == Disk::Room::kYes;
}

// The disk is nearly full: whether there is room when chunks that have a slot are written in place.
Replica::Admission Replica::room_in_place(BlockRange blocks) {
  Disk::Need need;
  for_each_chunk(blocks, [&](ChunkIndex chunk, std::uint32_t, std::uint32_t, std::uint32_t) {
    ChunkOverlay* overlay = overlay_.find(chunk);
    if ((overlay && overlay->reserved.has(segment_)) || has_slot_for_sure(chunk)) return;
    if (disk_.view_if_cached(*this, chunk)) {
      ++need.certain;
    } else {
      ++need.possible;
    }
  });
  switch (disk_.room_for(need)) {
    case Disk::Room::kYes:
      return Admission::kYes;
    case Disk::Room::kGrowing:
      return Admission::kWait;
    case Disk::Room::kNo:
      break;
  }
  return Admission::kNo;
}

// Whether destaging will find a slot for what is appended to this chunk now, without taking a new one.
bool Replica::has_slot_for_sure(ChunkIndex chunk) {
  ChunkOverlay* overlay = overlay_.find(chunk);
  if (overlay) {
    if (overlay->has(Piece::Kind::kZero, segment_)) return false;
    if (overlay->has(Piece::Kind::kDirect, segment_)) return true;
  }
  // After a snapshot that is not applied yet a new layer begins, which has no slot.
  if (segment_ != applied_segment_ || fills_.contains({chunk, tree().head()})) return false;
  const ChunkView* view = disk_.view_if_cached(*this, chunk);
  return view && view->own && view->own->slot != kNoSlot;
}

void Replica::note_position(LogPosition position) {
  if (history_.empty() || position.epoch > history_.back().epoch) {
    history_.push_back({position.epoch, position.seq});
    if (history_.size() > kHistoryMax) history_.erase(history_.begin());
  }
  last_ = position;
}

void Replica::add_to_log(Entry entry, StatusCallback done, bool direct) {
  LogEntry& log = log_.emplace_back();
  log.entry = std::move(entry);
  log.owner = this;
  log.replica = id_;
  log.log_generation = identity_.log_generation;
  log.committed = committed_;
  log.done = std::move(done);
  note_position(log.entry.position);
  if (log.entry.op == Op::kResize) size_blocks_ = log.entry.size_blocks;
  if (log.changes_layers()) note_layer_op(log);
  if (log.entry.op == Op::kWrite) {
    settle_payload(log.entry);
    if (direct) take_direct_slots(log);
  }
  log.weigh();
  disk_.add_unapplied(log);
  add_pieces(overlay_, log, [&](ChunkIndex chunk, ChunkOverlay& overlay, const Piece& piece) {
    if (piece.kind != Piece::Kind::kData || overlay.reserved.has(segment_)) return;
    if (!direct && has_slot_for_sure(chunk)) return;
    overlay.reserved.add(segment_);
    disk_.reserve(1);
  });
  disk_.grow_if_needed();
  write_direct(log);
  disk_.journal().append(log);
  if (HOLDFAST_PLANT(kAckBeforeJournal)) disk_.deferred().call(std::exchange(log.done, nullptr), Status());
}

// The message that an entry came in must not outlive its payload: the CRCs are part of it, and stay in the log when the
// payload of direct writes has long been let go. Of one or two blocks the payload leaves it, too: a message takes a
// page more, since its numbers lie before the payload, and what the next one is received into is in the CPU's cache
// still. Direct I/O wants whole pages.
void Replica::settle_payload(Entry& entry) {
  entry.crc = disk_.small_copies().copy_of(entry.crc.bytes());
  bool aligned = reinterpret_cast<std::uintptr_t>(entry.data.data()) % kBlockSize == 0;
  if (aligned && entry.blocks.count > kCopiedBlocksMax) return;
  entry.data = disk_.env().buffers().copy_of(entry.data.bytes());
}

void Replica::take_direct_slots(LogEntry& log) {
  std::uint32_t first = (kBlocksPerChunk - block_in_chunk(log.entry.blocks.first)) % kBlocksPerChunk;
  std::uint32_t whole = log.entry.blocks.count >= first ? (log.entry.blocks.count - first) / kBlocksPerChunk : 0;
  while (whole > 0) {
    std::optional<SlotAllocator::Run> run = disk_.slots().allocate(whole, last_slot_);
    CHECK(run.has_value(), "room was found before");
    for (std::uint32_t i = 0; i < run->count; ++i, first += kBlocksPerChunk) {
      log.direct[log.direct_count++] = {first, run->first + i};
    }
    last_slot_ = run->first + run->count - 1;
    whole -= run->count;
    space_->add_used(run->count);
  }
}

// One write for slots in a row.
void Replica::write_direct(LogEntry& log) {
  for (std::uint32_t i = 0; i < log.direct_count;) {
    std::uint32_t count = 1;
    while (i + count < log.direct_count && log.direct[i + count].slot == log.direct[i].slot + count) ++count;
    std::span<const std::byte> part =
        log.entry.data.bytes().subspan(std::size_t{log.direct[i].first} * kBlockSize, std::size_t{count} * kChunkSize);
    ++log.direct_pending;
    disk_.data().write(log.direct[i].slot * kChunkSize, std::span(&part, 1), [this, &log](Status status) {
      if (!status.ok()) disk_.fail(status.error());
      disk_.journal().direct_written(log);
    });
    i += count;
  }
}

void Replica::flush(StatusCallback done) {
  Status usable = check_usable();
  if (!usable.ok()) return disk_.deferred().call(std::move(done), std::move(usable));
  disk_.journal().flush(std::move(done));
}

// ---- progress and backpressure ----

void Replica::set_committed(Seq seq) {
  if (seq <= committed_) return;
  committed_ = seq;
  if (!log_.empty() && may_apply(log_.front())) disk_.destager().note_work(disk_.above_low_marks());
}

void Replica::apply_uncommitted() {
  applied_through_ = last_.seq;
  log_warn("store", "replica " + to_hex(id_.value()) + ": entries " +
                        std::to_string(log_.front().entry.position.seq.value()) + " to " +
                        std::to_string(last_.seq.value()) +
                        " are not known to be committed and hold up the journal of the disk; they are applied");
  disk_.destager().note_work(true);
}

void Replica::on_journalled(const LogEntry& log) {
  if (may_apply(log)) disk_.destager().note_work(disk_.above_low_marks());
}

bool Replica::accepts_more() const {
  refused_ = joining_ || !waiting_.empty() || (disk_.above_limits() && disk_.destager().busy());
  return !refused_;
}

void Replica::tell_ready() {
  if (refused_ && accepts_more() && ready_) ready_();
}

void Replica::refuse_waiting() {
  Error error(ErrorCode::kCancelled, "replica " + to_hex(id_.value()) + " was opened anew");
  for (Waiting& waiting : std::exchange(waiting_, {})) disk_.deferred().call(std::move(waiting.done), error);
}

void Replica::fail_waiting(const Error& error) {
  for (Waiting& waiting : std::exchange(waiting_, {})) disk_.deferred().call(std::move(waiting.done), error);
  for (auto& [layer, fills] : std::exchange(fills_, {})) {
    for (Fill& fill : fills) disk_.deferred().call(std::move(fill.done), error);
  }
  for (StatusCallback& waiter : std::exchange(layer_waiters_, {})) disk_.deferred().call(std::move(waiter), error);
  space_->tell_merged(disk_.deferred(), error);
}

// ---- applying ----

ReplicaApplied Replica::applied_at(const LogEntry* through) const {
  ReplicaApplied applied = applied_;
  applied.committed = committed_;
  if (!through) return applied;
  applied.applied = through->entry.position;
  if (size_blocks_ != applied.size_blocks) {
    for (const LogEntry& log : log_) {
      if (log.entry.position.seq > applied.applied.seq) break;
      if (log.entry.op == Op::kResize) applied.size_blocks = log.entry.size_blocks;
    }
  }
  applied.history.clear();
  for (const EpochStart& start : history_) {
    if (start.first <= applied.applied.seq) applied.history.push_back(start);
  }
  return applied;
}

void Replica::on_applied(const ReplicaApplied& applied) {
  for (const LogEntry& log : log_) {
    if (log.entry.position.seq > applied.applied.seq) break;
    if (log.changes_layers()) apply_layer_change(log);
  }
  while (!log_.empty() && log_.front().entry.position.seq <= applied.applied.seq) {
    LogEntry& log = log_.front();
    if (log.changes_blocks()) {
      for_each_chunk(log.entry.blocks, [&](ChunkIndex chunk, std::uint32_t, std::uint32_t, std::uint32_t) {
        ChunkOverlay* overlay = overlay_.find(chunk);
        if (!overlay) return;
        auto kept = std::find_if(overlay->pieces.begin(), overlay->pieces.end(),
                                 [&](const Piece& piece) { return piece.seq > applied.applied.seq; });
        overlay->pieces.erase(overlay->pieces.begin(), kept);
        disk_.unreserve(overlay->reserved.take_before(applied_segment_));
        if (!overlay->pieces.empty()) return;
        disk_.unreserve(overlay->reserved.count());
        overlay_.erase(chunk);
      });
    }
    disk_.remove_unapplied(log);
    log_.pop_front();
  }
  applied_ = applied;
}

Status Replica::recover(LogEntry recovered) {
  LogPosition position = recovered.entry.position;
  if (position.seq != last_.seq.next() || position.epoch < last_.epoch) {
    return Error(ErrorCode::kJournalDamaged, "the journal's entries of replica " + to_hex(id_.value()) +
                                                 " do not follow each other; the disk must be rebuilt");
  }
  LogEntry& log = log_.emplace_back(std::move(recovered));
  log.owner = this;
  note_position(position);
  committed_ = std::max(committed_, log.committed);
  if (log.entry.op == Op::kResize) size_blocks_ = log.entry.size_blocks;
  if (log.changes_layers()) note_layer_op(log);
  disk_.add_unapplied(log);
  add_pieces(overlay_, log, [&](ChunkIndex, ChunkOverlay& overlay, const Piece& piece) {
    if (piece.kind == Piece::Kind::kDirect) space_->add_used(1);
    if (piece.kind != Piece::Kind::kData || overlay.reserved.has(segment_)) return;
    overlay.reserved.add(segment_);
    disk_.reserve(1);
  });
  return Status();
}

std::vector<std::uint64_t> Replica::discard_log() {
  std::vector<std::uint64_t> slots;
  for (const LogEntry& log : log_) {
    for (const DirectPiece& piece : log.direct_pieces()) slots.push_back(piece.slot);
    disk_.journal().retire(log.batch);
    disk_.remove_unapplied(log);
  }
  for (ChunkIndex chunk : overlay_.chunks(ChunkIndex(0), ChunkIndex(kNoSlot))) {
    disk_.unreserve(overlay_.find(chunk)->reserved.count());
  }
  overlay_.clear();
  log_.clear();
  pending_layer_ops_.clear();
  return slots;
}

}  // namespace holdfast::store
