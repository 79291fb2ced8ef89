// Both sides of a rebuild (docs/consistency.md, "Rebuild"): versions of chunks, joining, filling, finishing.
#include <algorithm>

#include "base/crc32c.h"
#include "store/disk.h"
#include "store/replica.h"

namespace holdfast::store {

namespace {
constexpr std::size_t kRecordsPerPage = 1024;
}

// ---- versions ----

Task<Result<std::vector<ChunkVersion>>> Replica::collect_versions(ChunkIndex first, ChunkIndex end, Seq after,
                                                                  std::size_t max) {
  // Chunks with entries not applied when the scan begins: their records may change under it, the entries say enough.
  std::vector<ChunkVersion> unapplied;
  for (ChunkIndex chunk : overlay_.chunks(first, end)) {
    LogPosition version = overlay_.find(chunk)->pieces.back().log->entry.position;
    if (version.seq > after) unapplied.push_back({chunk, version, 0});
  }
  std::vector<ChunkVersion> found;
  std::string from = chunk_key(id_, identity_.head_layer, first);
  std::string to = chunk_key(id_, identity_.head_layer, end);
  auto next = unapplied.begin();
  for (bool more = true; more && found.size() < max;) {
    Disk* disk = &disk_;
    Result<KvPairs> page = co_await suspend<Result<KvPairs>>([disk, &from, &to](Callback<void(Result<KvPairs>)> done) {
      disk->kv().range(from, to, kRecordsPerPage, std::move(done));
    });
    if (!page.ok()) co_return std::move(page).error();
    more = page->size() == kRecordsPerPage;
    for (auto& [key, value] : *page) {
      Result<ChunkRecord> record = decode_chunk_record(value);
      if (!record.ok()) co_return std::move(record).error();
      ChunkIndex chunk = chunk_of_key(key);
      for (; next != unapplied.end() && next->chunk < chunk; ++next) found.push_back(*next);
      if (next != unapplied.end() && next->chunk == chunk) {
        found.push_back(*next++);
      } else if (record->version.seq > after) {
        found.push_back({chunk, record->version, chunk_digest(*record)});
      }
    }
    if (more) from = page->back().first + std::string(1, '\0');
  }
  if (found.size() < max) found.insert(found.end(), next, unapplied.end());
  if (found.size() > max) found.resize(max);
  co_return found;
}

Task<void> Replica::run_list(ChunkIndex first, ChunkIndex end, Seq after, std::size_t max,
                             Callback<void(Result<std::vector<ChunkVersion>>)> done) {
  Result<std::vector<ChunkVersion>> versions(std::vector<ChunkVersion>{});
  Status usable = check_usable();
  if (usable.ok()) {
    std::uint64_t token = disk_.reads().begin();  // close() waits for it
    versions = co_await collect_versions(first, end, after, max);
    disk_.reads().end(token);
  } else {
    versions = usable.error();
  }
  done(std::move(versions));
}

void Replica::list_chunks(ChunkIndex first, ChunkIndex end, Seq after, std::size_t max,
                          Callback<void(Result<std::vector<ChunkVersion>>)> done) {
  spawn(run_list(first, end, after, max, std::move(done)));
}

Task<void> Replica::run_unknown(ChunkIndex first, ChunkIndex end, std::vector<ChunkVersion> source,
                                Callback<void(Result<std::vector<ChunkIndex>>)> done) {
  std::uint64_t token = disk_.reads().begin();
  Result<std::vector<ChunkVersion>> own = co_await collect_versions(first, end, identity_.base, SIZE_MAX);
  disk_.reads().end(token);
  if (!own.ok()) {
    done(std::move(own).error());
    co_return;
  }
  std::vector<ChunkIndex> unknown;
  auto mine = own->begin();
  auto theirs = source.begin();
  while (mine != own->end() || theirs != source.end()) {
    if (theirs == source.end() || (mine != own->end() && mine->chunk < theirs->chunk)) {
      unknown.push_back((mine++)->chunk);
    } else if (mine == own->end() || theirs->chunk < mine->chunk) {
      unknown.push_back((theirs++)->chunk);
    } else {
      bool same = mine->version == theirs->version && mine->digest == theirs->digest && mine->digest != 0;
      if (!same) unknown.push_back(mine->chunk);
      ++mine;
      ++theirs;
    }
  }
  done(std::move(unknown));
}

void Replica::unknown_chunks(ChunkIndex first, ChunkIndex end, std::vector<ChunkVersion> source,
                             Callback<void(Result<std::vector<ChunkIndex>>)> done) {
  spawn(run_unknown(first, end, std::move(source), std::move(done)));
}

// ---- join ----

Epoch Replica::epoch_of(Seq seq) const {
  Epoch epoch;
  for (const EpochStart& start : history_) {
    if (start.first > seq) break;
    epoch = start.epoch;
  }
  return epoch;
}

void Replica::join(JoinRequest request, StatusCallback done) {
  Status usable = check_usable();
  if (usable.ok() && joining_) {
    usable = Error(ErrorCode::kFailedPrecondition, "replica " + to_hex(id_.value()) + " is already joining");
  }
  if (usable.ok() && (request.first.value() == 0 || request.base >= request.first)) {
    usable = Error(ErrorCode::kInvalidArgument, "a join needs first > base");
  }
  if (!usable.ok()) return disk_.deferred().call(std::move(done), std::move(usable));
  joining_ = true;
  complete_ = false;
  spawn(run_join(std::move(request), std::move(done)));
}

// The whole log is applied, even what was never committed: a destaging that a crash interrupted may have written parts
// of it over slots already, and the chunks it changed get versions after base, so all of them count as unknown.
Task<void> Replica::run_join(JoinRequest request, StatusCallback done) {
  Disk* disk = &disk_;
  fail_waiting(Error(ErrorCode::kCancelled, "a new join began"));
  Status outcome =
      co_await suspend<Status>([disk](StatusCallback next) { disk->journal().after_completion(std::move(next)); });
  if (outcome.ok()) {
    apply_all_ = true;
    (void)co_await suspend<bool>([disk](Callback<void(bool)> next) {
      auto* waiting = new Callback<void(bool)>(std::move(next));
      disk->destager().drain([waiting] {
        std::unique_ptr<Callback<void(bool)>> owned(waiting);
        (*owned)(true);
      });
    });
    apply_all_ = false;
    outcome = check_usable();
  }
  if (outcome.ok()) {
    CHECK(log_.empty() && overlay_.empty(), "everything was applied");
    ++identity_.log_generation;
    identity_.complete = false;
    identity_.base = request.base;
    history_.clear();
    for (const EpochStart& start : request.history) {
      if (start.first < request.first) history_.push_back(start);
    }
    Seq before(request.first.value() - 1);
    ReplicaApplied applied;
    applied.applied = {epoch_of(before), before};
    applied.committed = before;
    applied.size_blocks = request.size_blocks;
    applied.history = history_;
    last_ = applied.applied;
    committed_ = before;
    size_blocks_ = request.size_blocks;
    applied_ = applied;
    KvBatch batch;
    batch.put(replica_key(kIdentityTable, id_), encode_identity(identity_));
    batch.put(replica_key(kAppliedTable, id_), encode_applied(applied));
    outcome = co_await suspend<Status>(
        [disk, &batch](StatusCallback next) { disk->kv().write(std::move(batch), true, std::move(next)); });
    if (!outcome.ok()) disk_.fail(outcome.error());
  }
  joining_ = false;
  done(std::move(outcome));
  disk_.wake_writers();
}

// ---- filling ----

void Replica::fill_chunk(ChunkIndex chunk, ChunkContent content, StatusCallback done) {
  Status valid = check_usable();
  if (valid.ok() && (complete_ || joining_)) {
    valid = Error(ErrorCode::kFailedPrecondition, "replica " + to_hex(id_.value()) + " is not being rebuilt");
  }
  auto blocks = static_cast<std::size_t>(std::popcount(content.present));
  if (valid.ok() && (content.crc.size() != blocks || total_size(content.data) != blocks * kBlockSize)) {
    valid = Error(ErrorCode::kInvalidArgument, "the content of a chunk needs data and CRCs for all present blocks");
  }
  std::size_t index = 0;
  for (Slice& part : content.data) {
    if (!valid.ok()) break;
    if (part.size() % kBlockSize != 0) {
      valid = Error(ErrorCode::kInvalidArgument, "parts of a chunk's content are whole blocks");
      break;
    }
    if (reinterpret_cast<std::uintptr_t>(part.data()) % kBlockSize != 0) {
      part = disk_.env().buffers().copy_of(part.bytes());
    }
    for (std::size_t at = 0; at < part.size(); at += kBlockSize) {
      if (crc32c(part.bytes().subspan(at, kBlockSize)) != content.crc[index++]) {
        valid = Error(ErrorCode::kCorrupt, "the content fetched for chunk " + std::to_string(chunk.value()) +
                                               " does not match its checksums");
        break;
      }
    }
  }
  if (!valid.ok()) return disk_.deferred().call(std::move(done), std::move(valid));
  fills_[chunk].push_back({std::move(content), std::move(done)});
  disk_.destager().note_work(true);
}

void Replica::finish_rebuild(StatusCallback done) {
  Status usable = check_usable();
  if (usable.ok() && (complete_ || joining_)) {
    usable = Error(ErrorCode::kFailedPrecondition, "replica " + to_hex(id_.value()) + " is not being rebuilt");
  }
  if (!usable.ok()) return disk_.deferred().call(std::move(done), std::move(usable));
  spawn(run_finish(std::move(done)));
}

Task<void> Replica::run_finish(StatusCallback done) {
  Disk* disk = &disk_;
  std::uint64_t generation = identity_.log_generation;
  Status outcome = co_await suspend<Status>([disk](StatusCallback next) { disk->journal().flush(std::move(next)); });
  if (outcome.ok() && (joining_ || identity_.log_generation != generation)) {
    outcome = Error(ErrorCode::kCancelled, "a new join began");
  }
  if (outcome.ok()) {
    identity_.complete = true;
    identity_.base = Seq(0);
    Replica* self = this;
    outcome = co_await suspend<Status>([self](StatusCallback next) { self->store_identity(std::move(next)); });
    if (outcome.ok() && identity_.log_generation == generation && !joining_) {
      complete_ = true;
    } else if (!outcome.ok()) {
      disk_.fail(outcome.error());
    }
  }
  done(std::move(outcome));
}

}  // namespace holdfast::store
