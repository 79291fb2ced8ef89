#include "store/journal_recovery.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/crc32c.h"
#include "base/log.h"
#include "base/plant.h"
#include "store/chunk_record.h"

namespace holdfast::store {

namespace {

constexpr std::uint64_t kWindowBlocks = 1024;
constexpr int kAttempts = 3;
constexpr std::size_t kSectorSize = 512;  // what a device writes whole, at least

// Numbers of batches up to which headers say that all was durable, and was written.
struct Watermarks {
  std::uint64_t flushed_number = 0;
  std::uint64_t completed_number = 0;
};

std::uint32_t crc_at(std::span<const std::byte> crcs, std::uint32_t block) {
  std::uint32_t crc;
  std::memcpy(&crc, crcs.data() + std::size_t{block} * 4, 4);
  return crc;
}

bool only_zeros(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte byte) { return byte == std::byte{0}; });
}

// Reads the ring in large pieces and gives out parts of them; around what cannot be read, block by block.
class RingReader {
 public:
  RingReader(Env& env, File& file, std::uint64_t blocks) : env_(env), file_(file), blocks_(blocks) {}

  // `count` blocks from ring block `first`; INVALID_ARGUMENT if they pass the end of the ring, DISK_IO when one of them
  // cannot be read.
  Task<Result<Slice>> read(std::uint64_t first, std::uint64_t count) {
    if (first + count > blocks_) co_return Error(ErrorCode::kInvalidArgument, "a batch passes the end of the ring");
    if (first < window_first_ || first + count > window_first_ + window_blocks_) {
      bool careful = first >= careful_first_ && first < careful_end_;
      std::uint64_t wanted = careful ? count : std::min(std::max(count, kWindowBlocks), blocks_ - first);
      Status status = co_await fill(first, wanted);
      if (!status.ok() && !careful) {
        careful_first_ = first;
        careful_end_ = first + wanted;
      }
      for (int attempt = 0; attempt < kAttempts && !status.ok(); ++attempt) status = co_await fill(first, count);
      if (!status.ok()) {
        co_return Error(ErrorCode::kDiskIo, "reading block " + std::to_string(first) +
                                                " of the journal failed: " + status.error().message());
      }
    }
    co_return window_.sub((first - window_first_) * kBlockSize, count * kBlockSize);
  }

 private:
  Task<Status> fill(std::uint64_t first, std::uint64_t count) {
    window_ = env_.buffers().allocate(count * kBlockSize);
    window_first_ = first;
    window_blocks_ = 0;
    Status status = co_await suspend<Status>(
        [this](StatusCallback done) { file_.read(window_first_ * kBlockSize, window_.bytes(), std::move(done)); });
    if (status.ok()) window_blocks_ = count;
    co_return status;
  }

  Env& env_;
  File& file_;
  std::uint64_t blocks_;
  Slice window_;
  std::uint64_t window_first_ = 0;
  std::uint64_t window_blocks_ = 0;
  std::uint64_t careful_first_ = 0, careful_end_ = 0;  // a large read failed here
};

class Recovery {
 public:
  Recovery(Env& env, File& journal, File& data, JournalGeometry geometry, JournalState state,
           std::function<bool(const EntryHeader&)> needed, Watermarks& marks)
      : env_(env),
        data_(data),
        geometry_(geometry),
        state_(std::move(state)),
        needed_(std::move(needed)),
        marks_(marks),
        small_copies_(env.buffers()),
        ring_(env, journal, geometry.blocks) {}

  Task<Result<RecoveredJournal>> run() {
    Status walked = co_await walk();
    if (!walked.ok()) co_return std::move(walked).error();
    Status scanned = co_await scan_rest();
    if (!scanned.ok()) co_return std::move(scanned).error();
    if (unreadable_ && !own_) co_return *unreadable_;
    if (foreign()) {
      co_return Error(ErrorCode::kWrongDisk,
                      "its journal holds nothing that this disk wrote: another file or device is in its place, or it "
                      "was emptied; nothing was changed there. Check the journal's path; if the journal is lost, the "
                      "replicas on this disk must be rebuilt: remove the disk, format it, and add it again");
    }
    Status verified = co_await verify_direct();
    if (!verified.ok()) co_return std::move(verified).error();
    std::uint64_t cut = first_incomplete();
    if (HOLDFAST_PLANT(kDropLastBatch) && cut > state_.runs.back().first_number && cut > marks_.flushed_number + 1)
      --cut;
    if (cut < state_.runs.back().first_number) co_return damaged(cut);
    if (cut <= marks_.flushed_number) co_return damaged(cut);
    out_.lost_acknowledged = cut <= marks_.completed_number;
    while (!out_.batches.empty() && out_.batches.back().number >= cut) out_.batches.pop_back();
    out_.next_number = cut;
    out_.next_position =
        out_.batches.empty() ? state_.oldest_position : out_.batches.back().position + out_.batches.back().blocks;
    co_return std::move(out_);
  }

 private:
  struct DirectCheck {
    std::uint64_t batch;
    ReplicaId replica;
    std::uint64_t order;  // of the entry over the whole run
    std::uint64_t chunk;
    std::uint64_t slot;
    Slice crc;
    std::uint32_t first;    // block within the entry
    std::uint64_t bad = 0;  // blocks that the slot does not hold
  };

  Error damaged(std::uint64_t number) const {
    return Error(ErrorCode::kJournalDamaged,
                 "batch " + std::to_string(number) +
                     " of the journal was durable and cannot be read back; the replicas on this disk must be rebuilt: "
                     "remove the disk, format it, and add it again");
  }

  // Follows the batches from the oldest on until one is missing.
  Task<Status> walk() {
    next_number_ = state_.oldest_number;
    next_position_ = state_.oldest_position;
    for (;;) {
      std::uint64_t skip = (geometry_.blocks - next_position_ % geometry_.blocks) % geometry_.blocks;
      Result<bool> found = co_await take_batch(next_position_);
      if (!found.ok()) co_return std::move(found).error();
      if (!*found && skip > 0) {
        found = co_await take_batch(next_position_ + skip);
        if (!found.ok()) co_return std::move(found).error();
      }
      if (!*found) co_return Status();
    }
  }

  // Takes the batch with the next number if it is at this position and whole.
  Task<Result<bool>> take_batch(std::uint64_t position) {
    if (position >= state_.oldest_position + geometry_.blocks) co_return false;
    std::uint64_t first = position % geometry_.blocks;
    Result<Slice> block = co_await ring_.read(first, 1);
    if (!block.ok()) co_return std::move(block).error();
    std::optional<BatchHeader> header = peek_batch(block->bytes(), geometry_.key);
    if (!header || header->number != next_number_ || header->position != position ||
        header->generation != state_.generation_of(next_number_)) {
      co_return false;
    }
    std::uint32_t blocks = header->header_blocks + header->payload_blocks;
    if (first + blocks > geometry_.blocks) co_return false;
    Result<Slice> bytes = co_await ring_.read(first, blocks);
    if (!bytes.ok()) co_return std::move(bytes).error();
    std::size_t header_bytes = std::size_t{header->header_blocks} * kBlockSize;
    if (!batch_crc_ok(bytes->bytes().first(header_bytes))) co_return false;
    note_watermarks(*header);
    RecoveredBatch batch{next_number_, position, blocks, {}};
    if (!take_entries(*bytes, header_bytes, batch)) co_return false;
    out_.batches.push_back(std::move(batch));
    ++next_number_;
    next_position_ = position + blocks;
    own_ = true;
    co_return true;
  }

  // False when the payload of a needed entry is torn.
  bool take_entries(const Slice& bytes, std::size_t header_bytes, RecoveredBatch& batch) {
    Result<std::vector<ParsedEntry>> parsed = parse_entries(bytes.bytes().first(header_bytes));
    if (!parsed.ok()) return false;
    for (ParsedEntry& entry : *parsed) {
      if (!needed_(entry.header)) continue;
      RecoveredEntry recovered;
      recovered.header = entry.header;
      recovered.direct = std::move(entry.direct);
      if (static_cast<Op>(entry.header.op) == Op::kWrite) {
        recovered.crc = small_copies_.copy_of(entry.crc);
        std::size_t at = header_bytes + std::size_t{entry.payload_first} * kBlockSize;
        if (!take_payload(recovered, bytes.bytes().subspan(at))) return false;
      }
      batch.entries.push_back(std::move(recovered));
    }
    return true;
  }

  bool take_payload(RecoveredEntry& entry, std::span<const std::byte> payload) {
    std::uint32_t count = entry.header.block_count;
    if (entry.direct.size() * kBlocksPerChunk == count) return true;
    entry.data = env_.buffers().allocate(std::size_t{count} * kBlockSize);
    auto direct = entry.direct.begin();
    for (std::uint32_t block = 0; block < count;) {
      if (direct != entry.direct.end() && direct->first == block) {
        block += kBlocksPerChunk;
        ++direct;
        continue;
      }
      std::span<const std::byte> bytes = payload.first(kBlockSize);
      payload = payload.subspan(kBlockSize);
      if (crc32c(bytes) != crc_at(entry.crc.bytes(), block) && !HOLDFAST_PLANT(kTakeTornBatch)) return false;
      std::memcpy(entry.data.data() + std::size_t{block} * kBlockSize, bytes.data(), kBlockSize);
      ++block;
    }
    return true;
  }

  // Of genuine batches of the last run, whole or not: how far it was durable, and written.
  void note_watermarks(const BatchHeader& header) {
    if (header.generation != state_.runs.back().generation) return;
    marks_.flushed_number = std::max(marks_.flushed_number, header.flushed_number);
    marks_.completed_number = std::max(marks_.completed_number, header.completed_number);
  }

  // Looks for batches beyond the first missing one. What cannot be read there is in no entry that is needed.
  Task<Status> scan_rest() {
    std::uint64_t end = state_.oldest_position + geometry_.blocks;
    for (std::uint64_t position = next_position_; position < end; ++position) {
      std::uint64_t first = position % geometry_.blocks;
      Result<Slice> block = co_await ring_.read(first, 1);
      if (!block.ok()) {
        unreadable_ = block.error();
        continue;
      }
      own_ = own_ || begins_batch(block->bytes(), geometry_.key);
      if (first == 0) starts_with_zeros_ = only_zeros(block->bytes().first(kSectorSize));
      std::optional<BatchHeader> header = peek_batch(block->bytes(), geometry_.key);
      if (!header || header->position % geometry_.blocks != first) continue;
      if (first + header->header_blocks > geometry_.blocks) continue;
      Result<Slice> blocks = co_await ring_.read(first, header->header_blocks);
      if (!blocks.ok()) continue;
      if (!batch_crc_ok(blocks->bytes())) continue;
      if (header->generation > state_.runs.back().generation || header->oldest_number > state_.oldest_number) {
        co_return Error(ErrorCode::kJournalDamaged,
                        "the journal is newer than the metadata: synced metadata was lost; the replicas on this disk "
                        "must be rebuilt: remove the disk, format it, and add it again");
      }
      if (header->number >= next_number_) note_watermarks(*header);
    }
    co_return Status();
  }

  // Whether the ring cannot be that of this disk. There is always a batch in it, be it a torn one, once the metadata
  // tells of one; before that it begins with zeros or with the first batch. (One that is torn is torn between sectors.)
  bool foreign() const {
    if (own_) return false;
    bool made = state_.oldest_number > 1 || state_.runs.back().first_number > 1;
    return made || !starts_with_zeros_;
  }

  // Every batch up to here was durable, with the direct data of its entries.
  std::uint64_t durable_number() const { return std::max(marks_.flushed_number, state_.runs.back().first_number - 1); }

  // Reads what direct writes left in their slots, of those that a power loss may have torn. What was durable and cannot
  // be read is rot like that of any chunk: it costs its blocks, which have their CRCs, and not the disk.
  Task<Status> verify_direct() {
    std::uint64_t order = 0;
    for (const RecoveredBatch& batch : out_.batches) {
      for (const RecoveredEntry& entry : batch.entries) {
        ++order;
        for (const DirectPiece& piece : entry.direct) {
          DirectCheck check{batch.number, ReplicaId(entry.header.replica),
                            order,        (entry.header.first_block + piece.first) / kBlocksPerChunk,
                            piece.slot,   entry.crc,
                            piece.first};
          if (check.slot >= data_.size() / kChunkSize) {
            check.bad = kAllBlocks;  // the growth of the file was lost
          } else if (batch.number > durable_number()) {
            Status status = co_await read_direct(&check);
            if (!status.ok()) co_return std::move(status).error();
          }
          if (check.bad != 0) failed_checks_.push_back(std::move(check));
        }
      }
    }
    co_return Status();
  }

  Task<Status> read_direct(DirectCheck* check) {
    check->bad = kAllBlocks;
    Slice content = env_.buffers().allocate(kChunkSize);
    File* data = &data_;
    std::uint64_t offset = check->slot * kChunkSize;
    std::span<std::byte> into = content.bytes();
    Status status = co_await suspend<Status>(
        [data, offset, into](StatusCallback done) { data->read(offset, into, std::move(done)); });
    if (!status.ok()) {
      status = co_await read_block_by_block(check, into);
      co_return status;
    }
    compare(check, into, kAllBlocks);
    co_return Status();
  }

  // A torn write leaves what was there before, and that can be read. So a block that cannot be says nothing about the
  // entry: it is a bad sector, which costs itself, when all others are as they should be.
  Task<Status> read_block_by_block(DirectCheck* check, std::span<std::byte> content) {
    std::uint64_t readable = 0;
    Status status;
    for (std::uint32_t block = 0; block < kBlocksPerChunk; ++block) {
      File* data = &data_;
      std::uint64_t offset = check->slot * kChunkSize + std::uint64_t{block} * kBlockSize;
      std::span<std::byte> into = content.subspan(std::size_t{block} * kBlockSize, kBlockSize);
      for (int attempt = 0; attempt < kAttempts; ++attempt) {
        status = co_await suspend<Status>(
            [data, offset, into](StatusCallback done) { data->read(offset, into, std::move(done)); });
        if (!status.ok()) continue;
        readable |= std::uint64_t{1} << block;
        break;
      }
    }
    if (readable == 0) co_return Error(ErrorCode::kDiskIo, "reading chunk data failed: " + status.error().message());
    log_warn("store", std::to_string(kBlocksPerChunk - std::popcount(readable)) + " blocks of slot " +
                          std::to_string(check->slot) + " cannot be read; they stay damaged until they are written");
    compare(check, content, readable);
    check->bad &= readable;
    co_return Status();
  }

  void compare(DirectCheck* check, std::span<const std::byte> content, std::uint64_t readable) const {
    for (std::uint32_t block = 0; block < kBlocksPerChunk; ++block) {
      if ((readable >> block & 1) == 0) continue;
      std::span<const std::byte> bytes = content.subspan(std::size_t{block} * kBlockSize, kBlockSize);
      if (crc32c(bytes) == crc_at(check->crc.bytes(), check->first + block)) {
        check->bad &= ~(std::uint64_t{1} << block);
      }
    }
  }

  // Blocks of the chunk that entries after `check` and before batch `cut` change: destaging may have written those
  // over the slot already (it syncs the journal first, so these entries cannot be missing then).
  std::uint64_t changed_later(const DirectCheck& check, std::uint64_t cut) const {
    std::uint64_t changed = 0;
    std::uint64_t order = 0;
    std::uint64_t first = check.chunk * kBlocksPerChunk;
    for (const RecoveredBatch& batch : out_.batches) {
      if (batch.number >= cut) break;
      for (const RecoveredEntry& entry : batch.entries) {
        if (++order <= check.order || entry.header.replica != check.replica.value()) continue;
        // What comes after a snapshot goes to other slots.
        if (static_cast<Op>(entry.header.op) == Op::kSnapshot) return changed;
        std::uint64_t begin = std::max(first, entry.header.first_block);
        std::uint64_t end = std::min(first + kBlocksPerChunk, entry.header.first_block + entry.header.block_count);
        if (begin < end) {
          changed |= block_mask(static_cast<std::uint32_t>(begin - first), static_cast<std::uint32_t>(end - begin));
        }
      }
    }
    return changed;
  }

  std::uint64_t first_incomplete() const {
    std::uint64_t cut = next_number_;
    for (bool changed = true; changed;) {
      changed = false;
      for (const DirectCheck& check : failed_checks_) {
        if (check.batch < cut && (check.bad & ~changed_later(check, cut)) != 0) {
          cut = check.batch;
          changed = true;
        }
      }
    }
    return cut;
  }

  Env& env_;
  File& data_;
  JournalGeometry geometry_;
  JournalState state_;
  std::function<bool(const EntryHeader&)> needed_;
  Watermarks& marks_;
  SmallCopies small_copies_;
  RingReader ring_;
  RecoveredJournal out_;
  std::uint64_t next_number_ = 1;
  std::uint64_t next_position_ = 0;
  std::optional<Error> unreadable_;  // of what the walk did not need
  bool own_ = false;                 // a batch of this journal was found, whole or not
  bool starts_with_zeros_ = false;   // the first sector
  std::vector<DirectCheck> failed_checks_;
};

}  // namespace

Task<Result<RecoveredJournal>> recover_journal(Env* env, File* journal, File* data, JournalGeometry geometry,
                                               JournalState state, std::function<bool(const EntryHeader&)> needed) {
  CHECK(!state.runs.empty());
  // What the journal says was written, or was durable, and is not found is looked for again: a block that is misread
  // once looks like one that was never written, and what is cut off here is overwritten soon.
  Watermarks marks;
  std::optional<Result<RecoveredJournal>> best;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    Recovery recovery(*env, *journal, *data, geometry, state, needed, marks);
    Result<RecoveredJournal> outcome = co_await recovery.run();
    bool doubtful = outcome.ok() ? outcome->lost_acknowledged : outcome.error().code() != ErrorCode::kDiskIo;
    if (!doubtful) co_return outcome;
    if (!best || !outcome.ok() || (best->ok() && outcome->next_number > (*best)->next_number))
      best = std::move(outcome);
  }
  co_return std::move(*best);
}

}  // namespace holdfast::store
