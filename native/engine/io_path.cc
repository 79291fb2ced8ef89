// Host operations: validation, the range lock, 512-byte edges, splitting into entries and reads, completion.
//
// An operation passes these stages: begin (asks for the lock) -> run (has it) -> edges read, when it writes blocks in
// part -> pieces (entries, or reads of at most 1 MiB) -> flush, for FUA -> answer -> finish (gives the lock back).
#include <cstring>

#include "base/log.h"
#include "base/plant.h"
#include "engine/slice_cutter.h"
#include "engine/volume_engine.h"

namespace holdfast::engine {

namespace {

constexpr std::uint32_t kZeroBufferBytes = 64u << 10;
constexpr std::uint32_t kZeroPiecesMax = 4;

// At most `max` blocks from `first`, ending at a multiple of `max` when there is more.
BlockRange next_piece(std::uint64_t first, std::uint64_t end, std::uint32_t max) {
  std::uint64_t stop = std::min(end, (first / max + 1) * max);
  return {BlockIndex(first), static_cast<std::uint32_t>(stop - first)};
}

// Refuses an operation in a later turn, so that no callback comes from inside the call. Off the I/O path: allocates.
template <typename Done>
void reject(Env& env, Done done, Error error) {
  struct Held {
    Done done;
    Error error;
  };
  env.post(
      [held = std::make_unique<Held>(Held{std::move(done), std::move(error)})] { held->done(std::move(held->error)); });
}

}  // namespace

// ---- entry points ----

std::optional<Error> VolumeEngine::check_range(std::uint64_t offset, std::uint64_t length) const {
  if (std::optional<Error> why = refusal()) return why;
  std::uint32_t unit = config_.logical_block_size;
  if (offset % unit != 0 || length % unit != 0) {
    return Error(ErrorCode::kInvalidArgument, "offset and length must be multiples of the logical block size");
  }
  if (length == 0 || offset > size_bytes() || length > size_bytes() - offset) {
    return Error(ErrorCode::kInvalidArgument, "the range is empty or reaches beyond the volume " + config_.name);
  }
  return std::nullopt;
}

void VolumeEngine::read(std::uint64_t offset, std::uint64_t length, ReadCallback done) {
  if (std::optional<Error> why = check_range(offset, length)) return reject(env_, std::move(done), std::move(*why));
  Op* op = new_op(Op::Kind::kRead, offset, length);
  op->read_done = std::move(done);
  begin(op);
}

void VolumeEngine::write(std::uint64_t offset, SliceList data, Durability durability, DoneCallback done) {
  std::uint64_t length = total_size(data);
  if (std::optional<Error> why = check_range(offset, length)) return reject(env_, std::move(done), std::move(*why));
  Op* op = new_op(Op::Kind::kWrite, offset, length);
  op->data = std::move(data);
  op->durable = durability == Durability::kFlushed;
  op->done = std::move(done);
  begin(op);
}

void VolumeEngine::zero(std::uint64_t offset, std::uint64_t length, bool deallocate, DoneCallback done) {
  if (std::optional<Error> why = check_range(offset, length)) return reject(env_, std::move(done), std::move(*why));
  Op* op = new_op(Op::Kind::kZero, offset, length);
  op->deallocate = deallocate;
  op->cursor_block = op->first_block();
  op->done = std::move(done);
  forget_mapped(*op);
  begin(op);
}

void VolumeEngine::compare_and_write(std::uint64_t offset, SliceList expected, SliceList replacement,
                                     Durability durability, CompareCallback done) {
  std::uint64_t length = total_size(expected);
  std::optional<Error> why = check_range(offset, length);
  if (!why && total_size(replacement) != length) {
    why = Error(ErrorCode::kInvalidArgument, "what is compared and what is written must be of one length");
  }
  // One entry, or a crash could leave half of it.
  if (!why && (offset + length + kBlockSize - 1) / kBlockSize - offset / kBlockSize > store::kWriteBlocksMax) {
    why = Error(ErrorCode::kInvalidArgument, "compare and write covers at most 1 MiB");
  }
  if (why) return reject(env_, std::move(done), std::move(*why));
  Op* op = new_op(Op::Kind::kCompareAndWrite, offset, length);
  op->expected = std::move(expected);
  op->data = std::move(replacement);
  op->durable = durability == Durability::kFlushed;
  op->compare_done = std::move(done);
  begin(op);
}

void VolumeEngine::flush(DoneCallback done) {
  if (std::optional<Error> why = refusal()) return reject(env_, std::move(done), std::move(*why));
  flush_habit_.flushed();
  // Also with nothing new, and never joined to one that is under way: only the replicas know whether this engine is
  // still the one whose answer counts. Where nothing is new it costs them no sync.
  flush_after_commit({nullptr, std::move(done), env_.now()});
}

void VolumeEngine::extent(std::uint64_t offset, std::uint64_t length, Callback<void(Result<Extent>)> done) {
  if (std::optional<Error> why = check_range(offset, length)) return reject(env_, std::move(done), std::move(*why));
  Op* op = new_op(Op::Kind::kExtent, offset, length);
  op->extent_done = std::move(done);
  begin(op);
}

// ---- stages ----

Op* VolumeEngine::new_op(Op::Kind kind, std::uint64_t offset, std::uint64_t length) {
  Op* op = op_pool_.take();
  op->engine = this;
  op->lock.owner = op;
  op->kind = kind;
  op->offset = offset;
  op->length = length;
  return op;
}

void VolumeEngine::begin(Op* op) {
  op->previous = ops_last_;
  op->next = nullptr;
  (ops_last_ ? ops_last_->next : ops_first_) = op;
  ops_last_ = op;
  op->began = env_.now();
  note_under_way(*op, 1);
  if (!throttled(op)) ask_for_lock(op);
}

void VolumeEngine::note_under_way(const Op& op, int change) {
  if (op.kind == Op::Kind::kWrite) {
    writes_under_way_ += change;
    env_.note_writes(change);
  } else if (op.kind == Op::Kind::kRead) {
    reads_under_way_ += change;
    env_.note_reads(change);
  }
}

// Whether it has to wait for its turn under the volume's limits.
bool VolumeEngine::throttled(Op* op) {
  if (!throttle_.limited() || op->kind == Op::Kind::kRepair || op->kind == Op::Kind::kExtent) return false;
  // Taking data away costs an operation, and no bandwidth.
  std::uint64_t bytes = op->kind == Op::Kind::kZero ? 0 : op->length;
  if (throttled_.empty() && throttle_.admit(env_.now(), bytes)) return false;
  ++throttled_ops_;
  throttled_.push_back(op);
  if (!throttle_timer_.armed()) throttle_timer_.arm_after(throttle_.wait(), [this] { begin_throttled(); });
  return true;
}

void VolumeEngine::begin_throttled() {
  while (!throttled_.empty()) {
    Op* op = throttled_.front();
    if (!throttle_.admit(env_.now(), op->kind == Op::Kind::kZero ? 0 : op->length)) {
      throttle_timer_.arm_after(throttle_.wait(), [this] { begin_throttled(); });
      return;
    }
    throttled_.pop_front();
    ask_for_lock(op);
    if (state_ == State::kStopped) return;
  }
}

void VolumeEngine::ask_for_lock(Op* op) {
  op->admitted = env_.now();
  bool exclusive = op->kind != Op::Kind::kRead && op->kind != Op::Kind::kExtent;
  // What is said of blocks further on is what acknowledged operations left there; those in flight need not be waited
  // for.
  std::uint64_t end = op->kind == Op::Kind::kExtent ? op->first_block() + 1 : op->end_block();
  bool granted = range_lock_.acquire(&op->lock, op->first_block(), end, exclusive, &on_granted);
  if (granted || (HOLDFAST_PLANT(kReadWithoutLock) && op->kind == Op::Kind::kRead)) run(op);
}

void VolumeEngine::on_granted(RangeLock::Request* request) {
  Op* op = op_of(request);
  if (HOLDFAST_PLANT(kReadWithoutLock) && op->kind == Op::Kind::kRead) return;  // it did not wait
  op->engine->run(op);
}

void VolumeEngine::run(Op* op) {
  if (state_ == State::kStopped) return;
  switch (op->kind) {
    case Op::Kind::kRead:
      return run_read(op);
    case Op::Kind::kExtent:
      return run_extent(op);
    case Op::Kind::kRepair:
      return run_repair(op);
    case Op::Kind::kCompareAndWrite:
      return run_compare(op);
    case Op::Kind::kWrite:
    case Op::Kind::kZero:
      return read_edges(op);
  }
}

void VolumeEngine::run_read(Op* op) {
  std::uint64_t end = op->end_block();
  std::uint32_t count = 0;
  for (std::uint64_t block = op->first_block(); block < end; ++count) {
    block = next_piece(block, end, store::kWriteBlocksMax).end();
  }
  op->parts.resize(count);
  op->pieces_pending = count;
  std::uint32_t index = 0;
  for (std::uint64_t block = op->first_block(); block < end; ++index) {
    BlockRange piece = next_piece(block, end, store::kWriteBlocksMax);
    block = piece.end();
    read_blocks(piece, std::nullopt, [this, op, index](Result<SliceList> content) {
      Status status = content.status();
      if (status.ok()) op->parts[index] = std::move(*content);
      piece_done(op, std::move(status));
    });
  }
}

void VolumeEngine::run_extent(Op* op) {
  std::uint64_t block = op->first_block();
  if (std::optional<std::uint64_t> end = mapped_runs_.end_of_run(block)) {
    op->extent_mapped = true;
    op->extent_blocks = *end - block;
    return env_.post([this, op, alive = alive_] {
      if (!*alive || state_ == State::kStopped) return;
      answer(op, Status());
      finish(op);
    });
  }
  // All of the piece, and not only from `block` on: what is learned serves the questions to come.
  std::uint64_t first = block / store::kMapBlocksMax * store::kMapBlocksMax;
  BlockRange piece = next_piece(first, size_blocks_, store::kMapBlocksMax);
  map_blocks(piece, [this, op, piece, changes = mapped_changes_](Result<std::vector<std::uint8_t>> present) {
    if (present.ok()) note_mapped(op, piece, *present, changes == mapped_changes_);
    answer(op, present.status());
    finish(op);
  });
}

// `current`: nothing that takes data away began or ended since the replica was asked.
void VolumeEngine::note_mapped(Op* op, BlockRange piece, std::span<const std::uint8_t> present, bool current) {
  for (std::uint32_t i = 0; current && i < piece.count;) {
    bool mapped = (present[i / 8] >> (i % 8) & 1) != 0;
    std::uint32_t end = end_of_equal_bits(present, i, piece.count);
    if (mapped) mapped_runs_.add(piece.begin() + i, piece.begin() + end);
    i = end;
  }
  std::uint64_t block = op->first_block();
  auto index = static_cast<std::uint32_t>(block - piece.begin());
  op->extent_mapped = (present[index / 8] >> (index % 8) & 1) != 0;
  std::uint64_t end = piece.begin() + end_of_equal_bits(present, index, piece.count);
  if (*op->extent_mapped) end = std::max(end, mapped_runs_.end_of_run(block).value_or(end));
  op->extent_blocks = end - block;
}

// Called when a ZERO begins and again when it ends: what a replica says in between may be of before or after it.
void VolumeEngine::forget_mapped(const Op& op) {
  mapped_runs_.remove(op.first_block(), op.end_block());
  ++mapped_changes_;
}

// The same for a REVERT.
void VolumeEngine::forget_all_mapped() {
  mapped_runs_.clear();
  ++mapped_changes_;
}

void VolumeEngine::run_compare(Op* op) {
  BlockRange blocks{BlockIndex(op->first_block()), static_cast<std::uint32_t>(op->end_block() - op->first_block())};
  read_blocks(blocks, std::nullopt, [this, op](Result<SliceList> content) {
    if (!content.ok()) {
      answer(op, std::move(content).error());
      return finish(op);
    }
    compare(op, std::move(*content));
  });
}

void VolumeEngine::compare(Op* op, SliceList content) {
  std::uint64_t same = first_difference(cut(content, op->head_pad(), op->length), op->expected);
  if (same < op->length) {
    op->answered = true;
    CompareCallback done = std::move(op->compare_done);
    if (done) done(std::optional<std::uint64_t>(same));
    return finish(op);
  }
  SliceList whole = cut(content, 0, op->head_pad());
  for (Slice& part : op->data) whole.push_back(std::move(part));
  for (Slice& part : cut(content, op->head_pad() + op->length, op->tail_pad())) whole.push_back(std::move(part));
  op->data = std::move(whole);
  write_pieces(op);
}

// Content of the blocks that are written in part: at most the first and the last.
void VolumeEngine::read_edges(Op* op) {
  std::uint64_t first = op->first_block();
  std::uint64_t last = op->end_block() - 1;
  bool head = op->head_pad() > 0 || (op->tail_pad() > 0 && first == last);
  bool tail = op->tail_pad() > 0 && first != last;
  if (!head && !tail) return op->kind == Op::Kind::kZero ? zero_more(op) : write_pieces(op);
  op->pieces_pending = (head ? 1 : 0) + (tail ? 1 : 0);
  if (head) {
    read_blocks({BlockIndex(first), 1}, std::nullopt,
                [this, op](Result<SliceList> content) { on_edge(op, true, std::move(content)); });
  }
  if (tail) {
    read_blocks({BlockIndex(last), 1}, std::nullopt,
                [this, op](Result<SliceList> content) { on_edge(op, false, std::move(content)); });
  }
}

void VolumeEngine::on_edge(Op* op, bool head, Result<SliceList> content) {
  if (content.ok()) {
    CHECK(content->size() == 1 && (*content)[0].size() == kBlockSize);
    (head ? op->head_edge : op->tail_edge) = (*content)[0];
    if (head && op->end_block() - op->first_block() == 1) op->tail_edge = op->head_edge;
  } else {
    op->error = std::move(content).error();
  }
  if (--op->pieces_pending > 0) return;
  if (op->error) {
    answer(op, *op->error);
    return finish(op);
  }
  if (op->kind == Op::Kind::kZero) return zero_more(op);
  if (op->head_pad() > 0) op->data.insert(op->data.begin(), op->head_edge.sub(0, op->head_pad()));
  if (op->tail_pad() > 0) op->data.push_back(op->tail_edge.sub(kBlockSize - op->tail_pad(), op->tail_pad()));
  write_pieces(op);
}

// `data` holds whole blocks now.
void VolumeEngine::write_pieces(Op* op) {
  std::uint64_t first = op->first_block();
  std::uint64_t end = op->end_block();
  if (end - first <= store::kWriteBlocksMax) {
    return write_blocks(op, {BlockIndex(first), static_cast<std::uint32_t>(end - first)}, std::move(op->data));
  }
  SliceList data = std::move(op->data);
  SliceCutter cutter(data);
  while (first < end) {
    BlockRange piece = next_piece(first, end, store::kWriteBlocksMax);
    first = piece.end();
    write_blocks(op, piece, cutter.take(std::uint64_t{piece.count} * kBlockSize));
  }
}

void VolumeEngine::write_blocks(Op* op, BlockRange blocks, SliceList data) {
  PendingEntry* entry = new_entry(op, store::Op::kWrite);
  entry->entry.blocks = blocks;
  entry->data = std::move(data);
  submit(entry);
}

// A few entries at a time, since an UNMAP may cover terabytes.
void VolumeEngine::zero_more(Op* op) {
  std::uint64_t last = op->end_block() - 1;
  while (op->pieces_pending < kZeroPiecesMax && op->cursor_block <= last) {
    std::uint64_t block = op->cursor_block;
    std::uint32_t keep_before = block == op->first_block() ? op->head_pad() : 0;
    std::uint32_t keep_after = block == last ? op->tail_pad() : 0;
    if (keep_before > 0 || keep_after > 0) {
      SliceList data = zeros(kBlockSize - keep_before - keep_after);
      if (keep_before > 0) data.insert(data.begin(), op->head_edge.sub(0, keep_before));
      if (keep_after > 0) data.push_back(op->tail_edge.sub(kBlockSize - keep_after, keep_after));
      op->cursor_block = block + 1;
      write_blocks(op, {BlockIndex(block), 1}, std::move(data));
      continue;
    }
    BlockRange piece = next_piece(block, op->tail_pad() > 0 ? last : last + 1, store::kZeroBlocksMax);
    op->cursor_block = piece.end();
    PendingEntry* entry = new_entry(op, store::Op::kZero);
    entry->entry.blocks = piece;
    entry->entry.deallocate = op->deallocate;
    submit(entry);
  }
}

void VolumeEngine::piece_done(Op* op, Status status) {
  if (state_ == State::kStopped) return;
  if (!status.ok() && !op->error) op->error = std::move(status).error();
  --op->pieces_pending;
  if (op->kind == Op::Kind::kZero) zero_more(op);
  if (op->pieces_pending > 0) return;
  if (op->durable && !op->error) return flush_acknowledged({op, nullptr});
  answer(op, op->error ? Status(*op->error) : Status());
  finish(op);
}

void VolumeEngine::answer(Op* op, Status status) {
  if (op->answered) return;
  op->answered = true;
  switch (op->kind) {
    case Op::Kind::kRead: {
      ReadCallback done = std::move(op->read_done);
      if (!status.ok()) return done(std::move(status).error());
      ++reads_done_;
      record_latency(read_latency_, env_.now() - op->began);
      read_bytes_ += op->length;
      SliceList content = std::move(op->parts[0]);
      for (std::size_t i = 1; i < op->parts.size(); ++i) {
        for (Slice& part : op->parts[i]) content.push_back(std::move(part));
      }
      if (op->head_pad() > 0 || op->tail_pad() > 0) content = cut(content, op->head_pad(), op->length);
      return done(std::move(content));
    }
    case Op::Kind::kExtent: {
      Callback<void(Result<Extent>)> done = std::move(op->extent_done);
      if (!status.ok()) return done(std::move(status).error());
      std::uint64_t bytes = op->extent_blocks * kBlockSize - op->head_pad();
      return done(Extent{op->extent_mapped.value_or(true), std::min(bytes, op->length)});
    }
    case Op::Kind::kCompareAndWrite: {
      CompareCallback done = std::move(op->compare_done);
      if (!status.ok()) return done(std::move(status).error());
      ++writes_done_;
      record_latency(write_latency_, env_.now() - op->began);
      written_bytes_ += op->length;
      return done(std::optional<std::uint64_t>());
    }
    case Op::Kind::kWrite:
    case Op::Kind::kZero: {
      DoneCallback done = std::move(op->done);
      if (status.ok()) {
        ++writes_done_;
        record_latency(write_latency_, env_.now() - op->began);
        written_bytes_ += op->kind == Op::Kind::kWrite ? op->length : 0;
      }
      return done(std::move(status));
    }
    case Op::Kind::kRepair: {
      Callback<void(Result<RepairOutcome>)> done = std::move(op->repair_done);
      if (!done) return;
      if (!status.ok()) return done(std::move(status).error());
      return done(RepairOutcome{op->repaired_blocks});
    }
  }
}

// The operation is over: other operations on its blocks may go on.
void VolumeEngine::finish(Op* op) {
  if (state_ == State::kStopped) return;  // stop() has let go of all operations
  (op->previous ? op->previous->next : ops_first_) = op->next;
  (op->next ? op->next->previous : ops_last_) = op->previous;
  note_under_way(*op, -1);
  if (op->kind == Op::Kind::kRepair) --repairs_under_way_;
  if (op->kind == Op::Kind::kZero) forget_mapped(*op);
  op->clear();
  range_lock_.release(&op->lock);
  op_pool_.give_back(op);
  if (state_ == State::kClosing) close_when_idle();
}

SliceList VolumeEngine::zeros(std::uint64_t bytes) {
  if (zero_buffer_.empty()) {
    zero_buffer_ = env_.buffers().allocate(kZeroBufferBytes);
    std::memset(zero_buffer_.data(), 0, kZeroBufferBytes);
  }
  SliceList out;
  while (bytes > 0) {
    std::uint64_t n = std::min<std::uint64_t>(bytes, kZeroBufferBytes);
    out.push_back(zero_buffer_.sub(0, n));
    bytes -= n;
  }
  return out;
}

}  // namespace holdfast::engine
