// Reading a replica, or one of its snapshots: newest pieces of the log over what the head sees of a chunk
// (chunk_view.h), contiguous blocks of the device in one read. What a snapshot sees is worked out for every read of it.
// What a read returns is decided in one go, when all records it needs are in memory; until it ends, the tracker keeps
// the slots it uses from being changed.
#include <algorithm>
#include <cstring>
#include <map>

#include "base/crc32c.h"
#include "store/disk.h"
#include "store/replica.h"

namespace holdfast::store {

namespace {

enum class Purpose : std::uint8_t { kRead, kMap, kChunk };

class ReadOperation {
 public:
  ReadOperation(Disk& disk, Replica& replica, BlockRange blocks, Purpose purpose,
                std::optional<SnapshotId> snapshot = std::nullopt)
      : disk_(disk),
        replica_(replica),
        blocks_(blocks),
        purpose_(purpose),
        snapshot_(snapshot),
        token_(disk.reads().begin()) {}

  Callback<void(Result<ReadOutcome>)> on_read;
  Callback<void(Result<ChunkContent>)> on_chunk;

  void start() {
    missing_.clear();
    if (Status found = find_viewpoint(); !found.ok()) {
      status_ = std::move(found);
      return disk_.env().post([this] { finish(); });
    }
    resolve();
    if (!missing_.empty()) return fetch_missing();
    read_device();
  }

 private:
  // Part of the answer: bytes in memory, or blocks of the data file.
  struct Segment {
    Slice memory;
    std::uint64_t file_block = 0;
    std::uint32_t count = 0;
  };
  // Where one block of a chunk comes from.
  struct Source {
    const Piece* piece;
    std::uint64_t file_block;
    std::uint32_t crc;
  };

  // It may change while records are fetched: a snapshot that was only in the log gets its layer.
  Status find_viewpoint() {
    ASSIGN_OR_RETURN(Replica::Viewpoint viewpoint, replica_.viewpoint_of(snapshot_));
    if (viewpoint.layer != viewpoint_.layer) views_.clear();
    viewpoint_ = viewpoint;
    return Status();
  }

  const ChunkView* view_of_chunk(ChunkIndex chunk) {
    if (!viewpoint_.layer) return disk_.view_if_cached(replica_, chunk);
    auto at = views_.find(chunk);
    return at == views_.end() ? nullptr : &at->second;
  }

  void resolve() {
    present_.assign((blocks_.count + 7) / 8, 0);
    crc_.clear();
    segments_.clear();
    version_ = {};
    for_each_chunk(blocks_, [&](ChunkIndex chunk, std::uint32_t first, std::uint32_t count, std::uint32_t at) {
      if (purpose_ == Purpose::kMap) return map_chunk(chunk, first, count, at);
      resolve_chunk(chunk, first, count, at);
    });
    last_ = replica_.last().seq;
  }

  // Which blocks hold data, and nothing else.
  void map_chunk(ChunkIndex chunk, std::uint32_t first, std::uint32_t count, std::uint32_t at) {
    std::uint64_t left = block_mask(first, count);
    std::uint64_t found = 0;
    if (const ChunkOverlay* overlay = viewpoint_.layer ? nullptr : replica_.overlay().find(chunk)) {
      for (auto piece = overlay->pieces.rbegin(); piece != overlay->pieces.rend() && left != 0; ++piece) {
        if (viewpoint_.limit && piece->seq >= *viewpoint_.limit) continue;
        std::uint64_t taken = piece->mask() & left;
        left &= ~taken;
        if (piece->kind != Piece::Kind::kZero) found |= taken;
      }
    }
    if (left != 0) {
      const ChunkView* view = view_of_chunk(chunk);
      if (!view) return missing_.push_back(chunk);
      if (view->own) {
        found |= view->own->data & left;
        left &= ~(view->own->data | view->own->zero);
      }
      found |= view->below_data() & left;
    }
    for (; found != 0; found &= found - 1) {
      std::uint32_t index = at + static_cast<std::uint32_t>(std::countr_zero(found)) - first;
      present_[index / 8] = static_cast<std::uint8_t>(present_[index / 8] | 1u << index % 8);
    }
  }

  void resolve_chunk(ChunkIndex chunk, std::uint32_t first, std::uint32_t count, std::uint32_t at) {
    Source sources[kBlocksPerChunk];
    std::uint64_t left = block_mask(first, count);
    std::uint64_t found = 0;
    const ChunkOverlay* overlay = viewpoint_.layer ? nullptr : replica_.overlay().find(chunk);
    if (overlay) take_pieces(*overlay, sources, left, found);
    if (left != 0 || purpose_ == Purpose::kChunk) {
      const ChunkView* view = view_of_chunk(chunk);
      if (!view) return missing_.push_back(chunk);
      if (view->own) {
        version_ = std::max(version_, view->own->version);
        std::uint64_t taken = view->own->data & left;
        found |= taken;
        left &= ~(view->own->data | view->own->zero);
        for (; taken != 0; taken &= taken - 1) {
          auto block = static_cast<std::uint32_t>(std::countr_zero(taken));
          sources[block] = {nullptr, view->own->slot * kBlocksPerChunk + block, view->own->crc[block]};
        }
      }
      if (view->below) {
        std::uint64_t taken = view->below->data & left;
        found |= taken;
        for (; taken != 0; taken &= taken - 1) {
          auto block = static_cast<std::uint32_t>(std::countr_zero(taken));
          sources[block] = {nullptr, view->below->slot_of(block) * kBlocksPerChunk + block, view->below->crc[block]};
        }
      }
    }
    for (std::uint64_t rest = found; rest != 0; rest &= rest - 1) {
      auto block = static_cast<std::uint32_t>(std::countr_zero(rest));
      std::uint32_t index = at + block - first;
      present_[index / 8] = static_cast<std::uint8_t>(present_[index / 8] | 1u << index % 8);
      crc_.push_back(sources[block].crc);
      add_block(sources[block], block);
    }
  }

  // The newest first; of a snapshot that is only in the log, those before it.
  void take_pieces(const ChunkOverlay& overlay, Source* sources, std::uint64_t& left, std::uint64_t& found) {
    for (auto piece = overlay.pieces.rbegin(); piece != overlay.pieces.rend() && left != 0; ++piece) {
      if (viewpoint_.limit && piece->seq >= *viewpoint_.limit) continue;
      std::uint64_t taken = piece->mask() & left;
      left &= ~taken;
      if (piece->kind == Piece::Kind::kZero) continue;
      found |= taken;
      for (; taken != 0; taken &= taken - 1) {
        auto block = static_cast<std::uint32_t>(std::countr_zero(taken));
        sources[block] = {piece->in_memory() ? &*piece : nullptr, piece->slot * kBlocksPerChunk + block,
                          piece->crc_of(block)};
      }
    }
    if (!overlay.pieces.empty()) version_ = overlay.pieces.back().log->entry.position;
  }

  // Appends a block to the answer, joined to the last segment where possible.
  void add_block(const Source& source, std::uint32_t block) {
    Segment* last = segments_.empty() ? nullptr : &segments_.back();
    if (source.piece) {
      const Slice& data = source.piece->log->entry.data;
      std::size_t offset = source.piece->data_offset(block);
      std::byte* end = last && !last->memory.empty() ? last->memory.data() + last->memory.size() : nullptr;
      if (end == data.data() + offset && last->memory.data() >= data.data()) {
        auto start = static_cast<std::size_t>(last->memory.data() - data.data());
        last->memory = data.sub(start, last->memory.size() + kBlockSize);
      } else {
        segments_.push_back({data.sub(offset, kBlockSize), 0, 1});
      }
      return;
    }
    if (last && last->memory.empty() && last->file_block + last->count == source.file_block) {
      ++last->count;
    } else {
      segments_.push_back({Slice(), source.file_block, 1});
    }
  }

  void fetch_missing() {
    pending_ = missing_.size();
    for (ChunkIndex chunk : std::exchange(missing_, {})) {
      if (!viewpoint_.layer) {
        disk_.fetch_view(replica_, chunk, [this](Status status) { on_fetched(std::move(status)); });
        continue;
      }
      disk_.load_stack(replica_.space(), chunk, viewpoint_.layer, [this, chunk](Result<ChunkStack> stack) {
        if (stack.ok()) views_[chunk] = view_of(*stack, replica_.space().held(), *viewpoint_.layer, false);
        on_fetched(stack.status());
      });
    }
  }

  void on_fetched(Status status) {
    if (!status.ok()) status_ = std::move(status);
    if (--pending_ > 0) return;
    if (!status_.ok()) return finish();
    start();
  }

  void read_device() {
    pending_ = 1;
    for (Segment& segment : segments_) {
      if (!segment.memory.empty()) continue;
      segment.memory = disk_.env().buffers().allocate(std::size_t{segment.count} * kBlockSize);
      ++pending_;
      disk_.data().read(segment.file_block * kBlockSize, segment.memory.bytes(), [this](Status status) {
        if (!status.ok()) {
          status_ = Error(ErrorCode::kDiskIo,
                          "reading replica " + to_hex(replica_.id().value()) + " failed: " + status.error().message());
        }
        if (--pending_ == 0) finish();
      });
    }
    if (--pending_ == 0) disk_.env().post([this] { finish(); });
  }

  void finish() {
    std::unique_ptr<ReadOperation> owned(this);
    disk_.reads().end(token_);
    if (purpose_ == Purpose::kChunk) {
      if (!status_.ok()) return on_chunk(std::move(status_).error());
      ChunkContent content;
      content.version = version_;
      content.source_last = last_;
      for (std::uint32_t block = 0; block < kBlocksPerChunk; ++block) {
        if (present_[block / 8] >> (block % 8) & 1) content.present |= std::uint64_t{1} << block;
      }
      content.crc = std::move(crc_);
      for (Segment& segment : segments_) content.data.push_back(std::move(segment.memory));
      return on_chunk(std::move(content));
    }
    if (!status_.ok()) return on_read(std::move(status_).error());
    ReadOutcome outcome;
    outcome.present = std::move(present_);
    outcome.crc = std::move(crc_);
    for (Segment& segment : segments_) outcome.data.push_back(std::move(segment.memory));
    on_read(std::move(outcome));
  }

  Disk& disk_;
  Replica& replica_;
  BlockRange blocks_;
  Purpose purpose_;
  std::optional<SnapshotId> snapshot_;
  Replica::Viewpoint viewpoint_;
  std::map<ChunkIndex, ChunkView> views_;  // of a snapshot
  std::uint64_t token_;
  std::vector<ChunkIndex> missing_;
  std::size_t pending_ = 0;
  Status status_;
  std::vector<std::uint8_t> present_;
  std::vector<std::uint32_t> crc_;
  std::vector<Segment> segments_;
  LogPosition version_;
  Seq last_;
};

// Gives a refusal in a later turn.
template <typename T>
void refuse(Disk& disk, Callback<void(Result<T>)> done, Error error) {
  auto* waiting = new Callback<void(Result<T>)>(std::move(done));
  disk.deferred().call(
      [waiting](Status status) {
        std::unique_ptr<Callback<void(Result<T>)>> owned(waiting);
        (*owned)(std::move(status).error());
      },
      std::move(error));
}

}  // namespace

namespace {

Status check_readable(const Replica& replica, Status usable, Status range) {
  TRY(std::move(usable));
  if (!replica.complete()) {
    return Error(ErrorCode::kReplicaIncomplete,
                 "replica " + to_hex(replica.id().value()) + " is being rebuilt and cannot be read yet");
  }
  return range;
}

}  // namespace

void Replica::read(BlockRange blocks, Callback<void(Result<ReadOutcome>)> done) {
  Status readable = check_readable(*this, check_usable(), check_range(blocks));
  if (readable.ok() && blocks.count > kWriteBlocksMax) {
    readable = Error(ErrorCode::kInvalidArgument, "a read has at most 256 blocks");
  }
  if (!readable.ok()) return refuse(disk_, std::move(done), std::move(readable).error());
  auto* operation = new ReadOperation(disk_, *this, blocks, Purpose::kRead);
  operation->on_read = std::move(done);
  operation->start();
}

void Replica::map(BlockRange blocks, Callback<void(Result<ReadOutcome>)> done) {
  Status readable = check_readable(*this, check_usable(), check_range(blocks));
  if (readable.ok() && blocks.count > kMapBlocksMax) {
    readable = Error(ErrorCode::kInvalidArgument, "a map has at most 16384 blocks");
  }
  if (!readable.ok()) return refuse(disk_, std::move(done), std::move(readable).error());
  auto* operation = new ReadOperation(disk_, *this, blocks, Purpose::kMap);
  operation->on_read = std::move(done);
  operation->start();
}

void Replica::read_snapshot(SnapshotId snapshot, BlockRange blocks, bool map_only,
                            Callback<void(Result<ReadOutcome>)> done) {
  Status readable = check_readable(*this, check_usable(), check_range(blocks));
  if (readable.ok() && !map_only && blocks.count > kWriteBlocksMax) {
    readable = Error(ErrorCode::kInvalidArgument, "a read has at most 256 blocks");
  }
  if (readable.ok()) readable = viewpoint_of(snapshot).status();
  if (!readable.ok()) return refuse(disk_, std::move(done), std::move(readable).error());
  auto* operation = new ReadOperation(disk_, *this, blocks, map_only ? Purpose::kMap : Purpose::kRead, snapshot);
  operation->on_read = std::move(done);
  operation->start();
}

void Replica::read_chunk(ChunkIndex chunk, Callback<void(Result<ChunkContent>)> done) {
  Status readable = check_readable(*this, check_usable(), Status());
  if (!readable.ok()) return refuse(disk_, std::move(done), std::move(readable).error());
  auto* operation = new ReadOperation(disk_, *this, {first_block_of(chunk), kBlocksPerChunk}, Purpose::kChunk);
  operation->on_chunk = std::move(done);
  operation->start();
}

// ---- the log ----

namespace {

constexpr int kLogReadAttempts = 3;

Status check_piece(const Entry& entry, const DirectPiece& piece) {
  for (std::uint32_t block = piece.first; block < piece.first + kBlocksPerChunk; ++block) {
    std::uint32_t crc = 0;
    std::memcpy(&crc, entry.crc.data() + std::size_t{block} * sizeof crc, sizeof crc);
    if (crc32c(entry.data.bytes().subspan(std::size_t{block} * kBlockSize, kBlockSize)) == crc) continue;
    return Error(ErrorCode::kCorrupt,
                 "block " + std::to_string(entry.blocks.first.value() + block) + " does not match its checksum");
  }
  return Status();
}

}  // namespace

void Replica::read_log(Seq first, Seq last, Callback<void(Result<std::vector<Entry>>)> done) {
  Status usable = check_usable();
  if (!usable.ok()) return refuse(disk_, std::move(done), std::move(usable).error());
  if (first > last || log_.empty() || first < log_.front().entry.position.seq || last > last_.seq) {
    return refuse(disk_, std::move(done),
                  Error(ErrorCode::kNotFound, "entries " + std::to_string(first.value()) + " to " +
                                                  std::to_string(last.value()) + " are not all in the journal"));
  }
  std::vector<Entry> entries;
  std::vector<LogPiece> pieces;
  std::uint64_t from = first.value() - log_.front().entry.position.seq.value();
  for (std::uint64_t i = 0; i <= last.value() - first.value(); ++i) {
    LogEntry& log = log_[from + i];
    const Entry& entry = log.entry;
    entries.push_back({entry.position, entry.op, entry.blocks, entry.deallocate, entry.snapshot, entry.size_blocks,
                       entry.crc, entry.data});
    if (!log.journalled || log.direct_count == 0) continue;
    // What is in slots is put together with what is in memory.
    Slice whole = disk_.env().buffers().allocate(std::size_t{entry.blocks.count} * kBlockSize);
    if (!entry.data.empty()) std::memcpy(whole.data(), entry.data.data(), whole.size());
    entries.back().data = std::move(whole);
    for (const DirectPiece& piece : log.direct_pieces()) pieces.push_back({entries.size() - 1, piece});
  }
  spawn(run_read_log(std::move(entries), std::move(pieces), disk_.reads().begin(), std::move(done)));
}

// Ends before the first entry that cannot be had; asked for that one, it fails.
Task<void> Replica::run_read_log(std::vector<Entry> entries, std::vector<LogPiece> pieces, std::uint64_t token,
                                 Callback<void(Result<std::vector<Entry>>)> done) {
  Disk* disk = &disk_;
  Status outcome;
  for (const LogPiece& piece : pieces) {
    Entry* entry = &entries[piece.entry];
    for (int attempt = 0; attempt < kLogReadAttempts; ++attempt) {
      outcome = co_await suspend<Status>([disk, entry, piece = piece.piece](StatusCallback read) {
        std::span<std::byte> into = entry->data.bytes().subspan(std::size_t{piece.first} * kBlockSize, kChunkSize);
        disk->data().read(piece.slot * kChunkSize, into, std::move(read));
      });
      if (outcome.ok()) outcome = check_piece(*entry, piece.piece);
      if (outcome.ok()) break;
    }
    if (outcome.ok()) continue;
    outcome = Error(ErrorCode::kCorrupt, "entry " + std::to_string(entry->position.seq.value()) + " of replica " +
                                             to_hex(id_.value()) +
                                             " cannot be read from its log: " + outcome.error().message());
    entries.resize(piece.entry);
    break;
  }
  if (pieces.empty()) {
    outcome =
        co_await suspend<Status>([disk](StatusCallback later) { disk->deferred().call(std::move(later), Status()); });
  }
  disk_.reads().end(token);
  if (outcome.ok() || !entries.empty()) {
    done(std::move(entries));
  } else {
    done(std::move(outcome).error());
  }
}

}  // namespace holdfast::store
