// Both sides of a rebuild (docs/consistency.md, "Rebuild"): versions of chunks, joining, filling, finishing.
#include <algorithm>

#include "base/crc32c.h"
#include "base/plant.h"
#include "store/damage_mark.h"
#include "store/disk.h"
#include "store/replica.h"

namespace holdfast::store {

namespace {
constexpr std::size_t kRecordsPerPage = 1024;
constexpr std::size_t kLayeredPerPage = 4096;
}  // namespace

// ---- versions ----

// The records of some chunks in a row, by chunk, from all layers. `next` is where the following page begins; what is
// there is of one moment.
struct Replica::StackPage {
  std::map<ChunkIndex, ChunkStack> stacks;
  ChunkIndex next;
};

Task<Result<Replica::StackPage>> Replica::read_stacks(ChunkIndex first, ChunkIndex end) {
  for (;;) {
    std::uint64_t changes = disk_.record_changes();
    const Space* space = space_;
    StackPage page;
    page.next = end;
    Status read = co_await read_space(space, first, &page);
    if (!read.ok()) co_return std::move(read).error();
    // With one layer a chunk has one record, so it does not matter of which moment the others are.
    bool alone = !space->tree().layered() && !space->link();
    if (alone || changes == disk_.record_changes()) co_return page;
  }
}

// Adds the records of [first, page->next) and lowers page->next when there are too many for a page.
Task<Status> Replica::read_space(const Space* space, ChunkIndex first, StackPage* page) {
  Disk* disk = &disk_;
  std::string from = chunk_key(space->id(), kFirstLayer, first);
  std::string to = chunk_key(space->id(), kFirstLayer, page->next);
  Result<KvPairs> base = co_await suspend<Result<KvPairs>>([disk, &from, &to](Callback<void(Result<KvPairs>)> done) {
    disk->kv().range(from, to, kRecordsPerPage, std::move(done));
  });
  if (!base.ok()) co_return std::move(base).error();
  if (base->size() == kRecordsPerPage) page->next = chunk_of_key(base->back().first).next();
  for (std::size_t layered_max = kLayeredPerPage; space->tree().layered(); layered_max *= 2) {
    from = layered_key(space->id(), first, ~LayerNumber{0});
    to = layered_key(space->id(), page->next, ~LayerNumber{0});
    Result<KvPairs> layered =
        co_await suspend<Result<KvPairs>>([disk, &from, &to, layered_max](Callback<void(Result<KvPairs>)> done) {
          disk->kv().range(from, to, layered_max, std::move(done));
        });
    if (!layered.ok()) co_return std::move(layered).error();
    // The last chunk may have more layers than were read.
    bool cut = layered->size() == layered_max;
    if (cut && chunk_of_layered_key(layered->back().first) == first) continue;
    if (cut) page->next = chunk_of_layered_key(layered->back().first);
    for (const auto& [key, value] : *layered) {
      ChunkIndex chunk = chunk_of_layered_key(key);
      if (chunk >= page->next) break;
      Result<ChunkRecord> record = decode_chunk_record(value);
      if (!record.ok()) co_return std::move(record).error();
      page->stacks[chunk].push_back({layer_of_layered_key(key), std::move(record).value()});
    }
    break;
  }
  for (const auto& [key, value] : *base) {
    ChunkIndex chunk = chunk_of_key(key);
    if (chunk >= page->next) break;
    Result<ChunkRecord> record = decode_chunk_record(value);
    if (!record.ok()) co_return std::move(record).error();
    page->stacks[chunk].push_back({kFirstLayer, std::move(record).value()});
  }
  Status inherited;
  if (space->link()) inherited = co_await read_inherited(space, first, page);
  co_return inherited;
}

Task<Status> Replica::read_inherited(const Space* space, ChunkIndex first, StackPage* page) {
  const Space* below = disk_.find_space(space->link()->space);
  StackPage inherited;
  inherited.next = page->next;
  Status read = co_await read_space(below, first, &inherited);
  if (!read.ok()) co_return std::move(read).error();
  page->next = inherited.next;
  page->stacks.erase(page->stacks.lower_bound(page->next), page->stacks.end());
  for (auto& [chunk, stack] : inherited.stacks) {
    inherit(page->stacks[chunk], std::move(stack), below->held(), space->link()->snapshot.layer);
  }
  co_return Status();
}

Task<Result<std::vector<ChunkVersion>>> Replica::collect_versions(ChunkIndex first, ChunkIndex end, Seq after,
                                                                  std::size_t max) {
  // Chunks with entries not applied when the scan begins: their records may change under it, the entries say enough.
  LayerNumber head = tree().head();
  std::map<ChunkIndex, LogPosition> unapplied;
  for (ChunkIndex chunk : overlay_.chunks(first, end)) {
    unapplied[chunk] = overlay_.find(chunk)->pieces.back().log->entry.position;
  }
  std::vector<ChunkVersion> found;
  auto waiting = unapplied.begin();
  auto add_unapplied_before = [&](ChunkIndex chunk) {
    for (; waiting != unapplied.end() && waiting->first < chunk && found.size() < max; ++waiting) {
      if (waiting->second.seq > after) found.push_back({waiting->first, waiting->second, 0, head});
    }
  };
  while (first < end && found.size() < max) {
    Result<StackPage> page(StackPage{});
    page = co_await read_stacks(first, end);
    if (!page.ok()) co_return std::move(page).error();
    for (const auto& [chunk, stack] : page->stacks) {
      add_unapplied_before(chunk);
      if (found.size() >= max) co_return found;
      bool changing = waiting != unapplied.end() && waiting->first == chunk;
      std::vector<GroupContent> groups = groups_of(stack, tree());
      std::sort(groups.begin(), groups.end(),
                [](const GroupContent& a, const GroupContent& b) { return a.group < b.group; });
      for (const GroupContent& group : groups) {
        if (changing && group.group == head) continue;
        if (group.version.seq > after) found.push_back({chunk, group.version, group.digest, group.group});
      }
      // The head's name is greater than any other's.
      if (changing && (waiting++)->second.seq > after) {
        found.push_back({chunk, std::prev(waiting)->second, 0, head});
      }
    }
    first = page->next;
  }
  if (first >= end) add_unapplied_before(end);
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
                                Callback<void(Result<std::vector<ChunkLayer>>)> done) {
  std::uint64_t token = disk_.reads().begin();
  Result<std::vector<ChunkVersion>> own = co_await collect_versions(first, end, identity_.base, SIZE_MAX);
  disk_.reads().end(token);
  if (!own.ok()) {
    done(std::move(own).error());
    co_return;
  }
  auto place_of = [](const ChunkVersion& version) { return ChunkLayer{version.chunk, version.layer}; };
  std::sort(source.begin(), source.end(),
            [&](const ChunkVersion& a, const ChunkVersion& b) { return place_of(a) < place_of(b); });
  std::vector<ChunkLayer> unknown;
  auto mine = own->begin();
  auto theirs = source.begin();
  auto add = [&](const ChunkVersion& version) {
    if (version.layer <= joined_head_) unknown.push_back(place_of(version));
  };
  while (mine != own->end() || theirs != source.end()) {
    if (theirs == source.end() || (mine != own->end() && place_of(*mine) < place_of(*theirs))) {
      add(*mine++);
    } else if (mine == own->end() || place_of(*theirs) < place_of(*mine)) {
      add(*theirs++);
    } else {
      bool same = mine->version == theirs->version && mine->digest == theirs->digest && mine->digest != 0;
      if (!same) add(*mine);
      ++mine;
      ++theirs;
    }
  }
  done(std::move(unknown));
}

void Replica::unknown_chunks(ChunkIndex first, ChunkIndex end, std::vector<ChunkVersion> source,
                             Callback<void(Result<std::vector<ChunkLayer>>)> done) {
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
  if (usable.ok() && request.size_blocks > kSizeBlocksMax) {
    usable = Error(ErrorCode::kInvalidArgument, "a volume has at most " + std::to_string(kSizeBlocksMax) + " blocks");
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
  // From here on already: in a full journal, what is to be completed next waits for the room that this log holds.
  apply_all_ = true;
  disk->destager().note_work(true);
  Status outcome =
      co_await suspend<Status>([disk](StatusCallback next) { disk->journal().after_completion(std::move(next)); });
  if (outcome.ok()) {
    const Replica* self = this;
    (void)co_await suspend<bool>([disk, self](Callback<void(bool)> next) {
      auto* waiting = new Callback<void(bool)>(std::move(next));
      disk->destager().drain(self, [waiting] {
        std::unique_ptr<Callback<void(bool)>> owned(waiting);
        (*owned)(true);
      });
    });
    outcome = check_usable();
  }
  apply_all_ = false;
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
    applied.size_blocks = HOLDFAST_PLANT(kJoinKeepsSize) ? size_blocks_ : request.size_blocks;
    applied.history = history_;
    last_ = applied.applied;
    committed_ = before;
    applied_through_ = Seq();
    size_blocks_ = applied.size_blocks;
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

void Replica::fill_chunk(ChunkLayer layer, ChunkContent content, StatusCallback done) {
  Status valid = check_usable();
  if (valid.ok() && tree().group_of(layer.layer) != layer.layer) {
    valid = Error(ErrorCode::kInvalidArgument,
                  "replica " + to_hex(id_.value()) + " has no layer " + std::to_string(layer.layer));
  }
  if (valid.ok() && (complete_ || joining_)) {
    valid = Error(ErrorCode::kFailedPrecondition, "replica " + to_hex(id_.value()) + " is not being rebuilt");
  }
  auto blocks = static_cast<std::size_t>(std::popcount(content.present));
  if (valid.ok() && (content.present & content.zero) != 0) {
    valid = Error(ErrorCode::kInvalidArgument, "a block of a chunk holds data or zeros, not both");
  }
  if (valid.ok() && (content.crc.size() != blocks || total_size(content.data) != blocks * kBlockSize)) {
    valid = Error(ErrorCode::kInvalidArgument, "the content of a chunk needs data and CRCs for all present blocks");
  }
  if (valid.ok() && (content.damaged & ~content.present) != 0) {
    valid = Error(ErrorCode::kInvalidArgument, "only blocks that are present can be damaged");
  }
  if (valid.ok()) valid = verify_fill(layer.chunk, content);
  if (!valid.ok()) return disk_.deferred().call(std::move(done), std::move(valid));
  fills_[layer].push_back({std::move(content), std::move(done)});
  disk_.destager().note_work(true);
}

// Every block matches its CRC afterwards, or is damaged and certainly does not.
Status Replica::verify_fill(ChunkIndex chunk, ChunkContent& content) {
  std::size_t index = 0;
  std::uint64_t left = content.present;
  for (Slice& part : content.data) {
    if (part.size() % kBlockSize != 0) {
      return Error(ErrorCode::kInvalidArgument, "parts of a chunk's content are whole blocks");
    }
    bool aligned = reinterpret_cast<std::uintptr_t>(part.data()) % kBlockSize == 0;
    if (!aligned || content.damaged != 0) part = disk_.env().buffers().copy_of(part.bytes());
    for (std::size_t at = 0; at < part.size(); at += kBlockSize, ++index, left &= left - 1) {
      std::span<std::byte> block = part.bytes().subspan(at, kBlockSize);
      if ((content.damaged & left & ~(left - 1)) != 0) {
        write_damage_mark(block, content.crc[index]);
      } else if (crc32c(block) != content.crc[index]) {
        return Error(ErrorCode::kCorrupt, "the content fetched for chunk " + std::to_string(chunk.value()) +
                                              " does not match its checksums");
      }
    }
  }
  return Status();
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
