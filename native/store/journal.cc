#include "store/journal.h"

#include <algorithm>
#include <cstring>

#include "base/plant.h"

namespace holdfast::store {

namespace {

// The parts of an entry's data that are not in direct pieces.
template <typename Visit>
void for_each_payload_part(const LogEntry& log, Visit visit) {
  if (log.entry.op != Op::kWrite) return;
  std::uint32_t at = 0;
  auto part = [&](std::uint32_t end) {
    if (end > at) {
      visit(log.entry.data.bytes().subspan(std::size_t{at} * kBlockSize, std::size_t{end - at} * kBlockSize));
    }
  };
  for (const DirectPiece& piece : log.direct_pieces()) {
    part(piece.first);
    at = piece.first + kBlocksPerChunk;
  }
  part(log.entry.blocks.count);
}

EntryHeader descriptor_of(const LogEntry& log) {
  EntryHeader header{};
  header.replica = log.replica.value();
  header.log_generation = log.log_generation;
  header.epoch = log.entry.position.epoch.value();
  header.seq = log.entry.position.seq.value();
  header.committed = log.committed.value();
  switch (log.entry.op) {
    case Op::kWrite:
    case Op::kZero:
      header.first_block = log.entry.blocks.first.value();
      header.block_count = log.entry.blocks.count;
      break;
    case Op::kResize:
      header.first_block = log.entry.size_blocks;
      break;
    case Op::kSnapshot:
    case Op::kDropSnapshot:
    case Op::kRevert:
      header.first_block = log.entry.snapshot.value();
      break;
  }
  header.op = static_cast<std::uint8_t>(log.entry.op);
  header.flags = log.entry.deallocate ? 1 : 0;
  header.direct_count = static_cast<std::uint8_t>(log.direct_count);
  return header;
}

}  // namespace

Journal::Journal(Env& env, File& file, File& data, JournalGeometry geometry, JournalState state,
                 std::vector<Recovered> recovered, std::uint64_t next_position)
    : env_(env),
      file_(file),
      data_(data),
      geometry_(geometry),
      state_(std::move(state)),
      batch_blocks_max_(static_cast<std::uint32_t>(
          std::clamp<std::uint64_t>(geometry.blocks / 4, kLargestEntryBlocks, kBatchBlocksMax))),
      next_position_(next_position),
      deferred_(env) {
  CHECK(geometry.blocks >= kJournalBlocksMin);
  next_number_ = state_.oldest_number;
  for (const Recovered& found : recovered) {
    CHECK(found.number == next_number_);
    batches_.push_back({found.number, found.position, found.blocks, found.live, 0, true, 0, {}, Slice(), {}});
    ++next_number_;
  }
  completed_number_ = flushed_number_ = next_number_ - 1;
}

void Journal::append(LogEntry& entry) {
  CHECK(!failure_);
  entry.ticket = ++last_ticket_;
  pending_.push_back(&entry);
  schedule_pump();
}

// In a later turn, so that what arrives in this one goes together.
void Journal::schedule_pump() {
  if (pump_posted_) return;
  pump_posted_ = true;
  env_.post([this] {
    pump_posted_ = false;
    pump();
  });
}

void Journal::pump() {
  while (!failure_ && in_flight_ < kBatchesInFlightMax && !pending_.empty()) {
    if (!write_batch()) break;
  }
}

Journal::Shape Journal::shape_of_pending(std::uint32_t entries_max) const {
  Shape shape;
  std::size_t bytes = sizeof(BatchHeader);
  for (const LogEntry* log : pending_) {
    if (shape.entries == entries_max) break;
    std::size_t more = entry_descriptor_bytes(log->entry.op, log->entry.blocks.count, log->direct_count);
    auto header_blocks = static_cast<std::uint32_t>((bytes + more + kBlockSize - 1) / kBlockSize);
    std::uint32_t payload_blocks = shape.payload_blocks + log->payload_blocks();
    bool fits = header_blocks <= kBatchHeaderBlocksMax && header_blocks + payload_blocks <= batch_blocks_max_;
    if (!fits && shape.entries > 0) break;
    CHECK(fits, "an entry fits a batch of its own");
    bytes += more;
    shape = {shape.entries + 1, header_blocks, payload_blocks};
  }
  return shape;
}

// Where a batch of this size goes: in a row, so that it is one write; nullopt while there is no room.
std::optional<std::uint64_t> Journal::place(std::uint32_t blocks) const {
  std::uint64_t to_end = geometry_.blocks - next_position_ % geometry_.blocks;
  std::uint64_t position = blocks <= to_end ? next_position_ : next_position_ + to_end;
  if (position + blocks - state_.oldest_position > geometry_.blocks) return std::nullopt;
  return position;
}

bool Journal::write_batch() {
  Shape shape = shape_of_pending(kBatchEntriesMax);
  std::optional<std::uint64_t> position = place(shape.blocks());
  if (!position && shape.entries > 1) {
    shape = shape_of_pending(1);
    position = place(shape.blocks());
  }
  bool waited = std::exchange(waiting_for_room_, !position);
  if (!position) {
    if (!waited && on_full_) on_full_();
    return false;
  }

  Batch& batch = batches_.emplace_back(
      Batch{next_number_++, *position, shape.blocks(), shape.entries, 0, false, 0, {}, Slice(), {}});
  next_position_ = *position + shape.blocks();
  compose(batch, shape);
  ++in_flight_;
  file_.write(batch.position % geometry_.blocks * kBlockSize, batch.parts,
              [this, number = batch.number](Status status) { on_written(number, std::move(status)); });
  return true;
}

void Journal::compose(Batch& batch, const Shape& shape) {
  batch.header = env_.buffers().allocate(std::size_t{shape.header_blocks} * kBlockSize);
  std::byte* start = batch.header.data();
  std::size_t at = sizeof(BatchHeader);
  batch.entries.reserve(shape.entries);
  batch.parts.reserve(shape.entries + 1);
  batch.parts.push_back(batch.header.bytes());
  for (std::uint32_t i = 0; i < shape.entries; ++i) {
    LogEntry* log = pending_.front();
    pending_.pop_front();
    log->batch = batch.number;
    batch.direct_pending += log->direct_pending;
    batch.last_ticket = log->ticket;
    at += put_entry_descriptor(start + at, descriptor_of(*log), log->entry.crc.bytes(), log->direct_pieces());
    for_each_payload_part(*log, [&](std::span<const std::byte> part) { batch.parts.push_back(part); });
    batch.entries.push_back(log);
  }
  std::memset(start + at, 0, batch.header.size() - at);
  BatchHeader header{};
  header.key = geometry_.key;
  header.generation = state_.generation_of(batch.number);
  header.number = batch.number;
  header.position = batch.position;
  header.header_blocks = shape.header_blocks;
  header.payload_blocks = shape.payload_blocks;
  header.entry_count = shape.entries;
  header.entry_bytes = static_cast<std::uint32_t>(at - sizeof(BatchHeader));
  header.flushed_number = flushed_number_;
  header.completed_number = completed_number_;
  header.oldest_number = state_.oldest_number;
  seal_batch(batch.header.bytes(), header);
}

Journal::Batch& Journal::batch_of(std::uint64_t number) {
  CHECK(!batches_.empty() && number >= batches_.front().number && number <= batches_.back().number);
  return batches_[number - batches_.front().number];
}

void Journal::on_written(std::uint64_t number, Status status) {
  --in_flight_;
  if (!status.ok()) {
    fail(Error(ErrorCode::kDiskIo, "writing the journal failed: " + status.error().message()));
  }
  if (failure_) return;
  Batch& batch = batch_of(number);
  batch.written = true;
  batch.header = Slice();
  batch.parts = {};
  report_completed();
  pump();
}

void Journal::direct_written(LogEntry& entry) {
  CHECK(entry.direct_pending > 0);
  --entry.direct_pending;
  data_dirty_ = true;
  if (entry.batch == 0 || failure_) return;
  Batch& batch = batch_of(entry.batch);
  CHECK(batch.direct_pending > 0);
  if (--batch.direct_pending == 0) report_completed();
}

void Journal::report_completed() {
  while (!failure_ && completed_number_ + 1 < next_number_) {
    Batch& batch = batch_of(completed_number_ + 1);
    if (!batch.written || batch.direct_pending > 0) break;
    completed_number_ = batch.number;
    completed_ticket_ = batch.last_ticket;
    std::vector<LogEntry*> entries = std::exchange(batch.entries, {});
    for (LogEntry* log : entries) {
      log->journalled = true;
      if (log->payload_blocks() == 0) log->entry.data = Slice();  // it is in slots
      StatusCallback done = std::move(log->done);
      if (on_journalled_) on_journalled_(*log);
      if (done) done(Status());
    }
  }
  for (std::size_t i = 0; i < completion_waiters_.size();) {
    if (completion_waiters_[i].ticket > completed_ticket_) {
      ++i;
      continue;
    }
    StatusCallback done = std::move(completion_waiters_[i].done);
    completion_waiters_.erase(completion_waiters_.begin() + static_cast<std::ptrdiff_t>(i));
    deferred_.call(std::move(done), Status());
  }
  start_sync();
}

void Journal::after_completion(StatusCallback done) {
  if (failure_) return deferred_.call(std::move(done), *failure_);
  completion_waiters_.push_back({last_ticket_, std::move(done)});
  report_completed();
}

void Journal::flush_to(std::uint64_t ticket, StatusCallback done) {
  if (failure_) return deferred_.call(std::move(done), *failure_);
  flush_waiters_.push_back({ticket, std::move(done)});
  if (ticket <= flushed_ticket_) {
    env_.post([this] { finish_sync(); });
  } else {
    start_sync();
  }
}

// One sync at a time covers all who wait for what is complete; those who come meanwhile share the next.
void Journal::start_sync() {
  if (syncing_ || failure_) return;
  bool wanted = std::any_of(flush_waiters_.begin(), flush_waiters_.end(), [this](const Waiter& waiter) {
    return waiter.ticket > flushed_ticket_ && waiter.ticket <= completed_ticket_;
  });
  if (!wanted) return;
  syncing_ = true;
  sync_number_ = completed_number_;
  sync_ticket_ = completed_ticket_;
  if (HOLDFAST_PLANT(kFlushWithoutSync)) {
    syncs_pending_ = 1;
    return env_.post([this] { on_synced(Status()); });
  }
  syncs_pending_ = data_dirty_ ? 2 : 1;
  file_.sync([this](Status status) { on_synced(std::move(status)); });
  if (std::exchange(data_dirty_, false)) {
    data_.sync([this](Status status) { on_synced(std::move(status)); });
  }
}

void Journal::on_synced(Status status) {
  if (!status.ok()) fail(Error(ErrorCode::kDiskIo, "syncing the journal failed: " + status.error().message()));
  if (--syncs_pending_ > 0) return;
  syncing_ = false;
  if (failure_) return;
  flushed_number_ = sync_number_;
  flushed_ticket_ = sync_ticket_;
  finish_sync();
  start_sync();
}

void Journal::finish_sync() {
  std::vector<StatusCallback> due;
  for (std::size_t i = 0; i < flush_waiters_.size();) {
    if (flush_waiters_[i].ticket <= flushed_ticket_) {
      due.push_back(std::move(flush_waiters_[i].done));
      flush_waiters_.erase(flush_waiters_.begin() + static_cast<std::ptrdiff_t>(i));
    } else {
      ++i;
    }
  }
  for (StatusCallback& done : due) done(Status());
}

void Journal::retire(std::uint64_t batch) {
  Batch& found = batch_of(batch);
  CHECK(found.live > 0);
  --found.live;
}

JournalState Journal::releasable() const {
  JournalState state = state_;
  for (const Batch& batch : batches_) {
    if (batch.live > 0 || batch.number > completed_number_) break;
    state.oldest_number = batch.number + 1;
    state.oldest_position = batch.position + batch.blocks;
  }
  if (state.oldest_number < next_number_) {
    // The exact place of a later batch, which may have skipped the end of the ring.
    state.oldest_position = batches_[state.oldest_number - batches_.front().number].position;
  }
  state.prune();
  return state;
}

void Journal::release(const JournalState& state) {
  CHECK(state.oldest_number >= state_.oldest_number);
  while (!batches_.empty() && batches_.front().number < state.oldest_number) {
    CHECK(batches_.front().live == 0 && batches_.front().number <= completed_number_);
    batches_.pop_front();
  }
  state_ = state;
  pump();
}

void Journal::fail(const Error& error) {
  if (failure_) return;
  failure_ = error;
  if (on_failure_) on_failure_(error);
  std::vector<StatusCallback> due;
  for (Batch& batch : batches_) {
    for (LogEntry* log : std::exchange(batch.entries, {})) due.push_back(std::move(log->done));
  }
  for (LogEntry* log : std::exchange(pending_, {})) due.push_back(std::move(log->done));
  for (Waiter& waiter : std::exchange(completion_waiters_, {})) due.push_back(std::move(waiter.done));
  for (Waiter& waiter : std::exchange(flush_waiters_, {})) due.push_back(std::move(waiter.done));
  for (StatusCallback& done : due) deferred_.call(std::move(done), error);
}

}  // namespace holdfast::store
