#include "store/layer_merge.h"

#include <algorithm>
#include <bit>

#include "base/log.h"
#include "store/disk.h"

namespace holdfast::store {

Task<bool> LayerMerge::run() {
  Status outcome = co_await step();
  if (!outcome.ok()) {
    disk_.fail(outcome.error());
    co_return true;
  }
  if (put_off_) co_return false;
  unreadable_.clear();
  if (space_.merges().empty()) space_.tell_merged(disk_.deferred(), Status());
  if (freed_.empty()) co_return true;
  Disk* disk = &disk_;
  std::vector<std::uint64_t>* freed = &freed_;
  (void)co_await suspend<bool>([disk, freed](Callback<void(bool)> done) {
    auto* waiting = new Callback<void(bool)>(std::move(done));
    disk->free_slots_later(std::move(*freed), [waiting] {
      std::unique_ptr<Callback<void(bool)>> owned(waiting);
      (*owned)(true);
    });
  });
  co_return true;
}

Task<Status> LayerMerge::step() {
  Status status = co_await choose_chunks();
  if (!status.ok()) co_return status;
  // Reads of a snapshot that was just dropped may still use what is about to be overwritten.
  Disk* disk = &disk_;
  (void)co_await suspend<bool>([disk](Callback<void(bool)> done) {
    auto* waiting = new Callback<void(bool)>(std::move(done));
    disk->reads().after_current([waiting] {
      std::unique_ptr<Callback<void(bool)>> owned(waiting);
      (*owned)(true);
    });
  });
  std::size_t tidied = 0;
  for (const Place& place : places_) {
    if (merges_ >= kMergesMax) break;
    // What this step did to a chunk is not in the metadata yet: one that has records in several layers comes once.
    if (std::find(changed_.begin(), changed_.end(), place.chunk) == changed_.end()) {
      status = co_await tidy_chunk(place.chunk);
      if (!status.ok()) co_return status;
    }
    // A chunk that is not done yet is looked at again by the next step.
    if (merges_ >= kMergesMax) break;
    job_.cursor_layer = place.layer;
    job_.cursor_chunk = place.chunk.next();
    ++tidied;
  }
  if (put_off_) co_return Status();
  exhausted_ = exhausted_ && tidied == places_.size();
  status = co_await store();
  co_return status;
}

// The next chunks that have records in the job's layers.
Task<Status> LayerMerge::choose_chunks() {
  bool by_chunk = job_.layers.last == 0;
  LayerNumber layer = std::max(job_.cursor_layer, job_.layers.first);
  std::string from = by_chunk ? layered_key(space_.id(), job_.cursor_chunk, ~LayerNumber{0})
                              : layer_index_key(space_.id(), layer, job_.cursor_chunk);
  std::string to = by_chunk ? layered_key(space_.id(), ChunkIndex(~std::uint64_t{0}), 0)
                            : layer_index_key(space_.id(), job_.layers.last + 1, ChunkIndex(0));
  while (places_.size() < kChunksMax && !exhausted_) {
    Disk* disk = &disk_;
    Result<KvPairs> page = co_await suspend<Result<KvPairs>>([disk, &from, &to](Callback<void(Result<KvPairs>)> next) {
      disk->kv().range(from, to, kChunksMax, std::move(next));
    });
    if (!page.ok()) co_return std::move(page).error();
    exhausted_ = page->size() < kChunksMax;
    for (const auto& [key, value] : *page) {
      if (!by_chunk) {
        places_.push_back({layer_of_index_key(key), chunk_of_index_key(key)});
      } else if (places_.empty() || places_.back().chunk != chunk_of_layered_key(key)) {
        places_.push_back({0, chunk_of_layered_key(key)});
      }
    }
    if (!exhausted_) {
      from = by_chunk ? layered_key(space_.id(), places_.back().chunk.next(), ~LayerNumber{0})
                      : page->back().first + std::string(1, '\0');
    }
  }
  co_return Status();
}

void LayerMerge::remove_record(ChunkIndex chunk, LayerNumber layer) {
  batch_.remove(record_key(space_.id(), chunk, layer));
  if (layer != kFirstLayer) batch_.remove(layer_index_key(space_.id(), layer, chunk));
}

Task<Status> LayerMerge::tidy_chunk(ChunkIndex chunk) {
  Disk* disk = &disk_;
  Space* space = &space_;
  Result<ChunkStack> stack =
      co_await suspend<Result<ChunkStack>>([disk, space, chunk](Callback<void(Result<ChunkStack>)> done) {
        disk->load_stack(*space, chunk, std::nullopt, std::move(done));
      });
  if (!stack.ok()) co_return std::move(stack).error();
  MergePlan plan = plan_merges(*stack, space_.held());
  if (plan.empty()) co_return Status();
  changed_.push_back(chunk);
  for (std::size_t index : plan.unseen) {
    const LayerRecord& gone = (*stack)[index];
    remove_record(chunk, gone.layer);
    ++merges_;
    if (gone.record.slot == kNoSlot) continue;
    freed_.push_back(gone.record.slot);
    --layer_slots_[gone.layer];
  }
  for (const std::vector<std::size_t>& members : plan.groups) {
    Status status = co_await merge_group(chunk, *stack, members);
    if (!status.ok()) co_return status;
  }
  co_return Status();
}

// One record of all members, in the layer of the newest.
Task<Status> LayerMerge::merge_group(ChunkIndex chunk, const ChunkStack& stack,
                                     const std::vector<std::size_t>& members) {
  const LayerRecord& newest = stack[members.front()];
  ChunkRecord merged = newest.record;
  for (std::size_t i = 1; i < members.size() && merges_ < kMergesMax; ++i, ++merges_) {
    const LayerRecord& older = stack[members[i]];
    MergedRecord next = merge_records(merged, older.record);
    if (next.copies != 0) {
      Status status = co_await copy_blocks(next.from, next.record.slot, next.copies);
      if (!status.ok()) co_return status;
    }
    if (next.freed != kNoSlot) freed_.push_back(next.freed);
    if (older.record.slot != kNoSlot) --layer_slots_[older.layer];
    if (merged.slot == kNoSlot && next.record.slot != kNoSlot) ++layer_slots_[newest.layer];
    remove_record(chunk, older.layer);
    merged = next.record;
  }
  batch_.put(record_key(space_.id(), chunk, newest.layer), encode_chunk_record(merged));
  co_return Status();
}

// Blocks keep the CRCs of their records, so what was damaged before is found out by the reader as always.
Task<Status> LayerMerge::copy_blocks(std::uint64_t from, std::uint64_t to, std::uint64_t blocks) {
  copied_ = true;
  while (blocks != 0) {
    auto first = static_cast<std::uint32_t>(std::countr_zero(blocks));
    auto count = static_cast<std::uint32_t>(std::countr_one(blocks >> first));
    blocks &= ~block_mask(first, count);
    Status status = co_await copy_run(from * kBlocksPerChunk + first, to * kBlocksPerChunk + first, count);
    if (!status.ok()) co_return status;
  }
  co_return Status();
}

Task<Status> LayerMerge::copy_run(std::uint64_t from_block, std::uint64_t to_block, std::uint32_t count) {
  Slice bytes = disk_.env().buffers().allocate(std::size_t{count} * kBlockSize);
  std::span<std::byte> into = bytes.bytes();
  std::span<const std::byte> part = into;
  File* data = &disk_.data();
  Status status = co_await suspend<Status>(
      [data, from_block, into](StatusCallback done) { data->read(from_block * kBlockSize, into, std::move(done)); });
  if (!status.ok() && status.error().code() == ErrorCode::kDiskIo) {
    if (count > 1) {
      status = co_await copy_one_by_one(from_block, to_block, count);
      co_return status;
    }
    if (unreadable_.note(from_block, disk_.env().now())) {
      log_warn("store", "block " + std::to_string(from_block) +
                            " of the data file cannot be read and is given up: " + status.error().message());
    } else {
      put_off_ = true;
    }
    co_return Status();
  }
  if (!status.ok()) co_return status;
  status = co_await suspend<Status>([data, to_block, &part](StatusCallback done) {
    data->write(to_block * kBlockSize, std::span(&part, 1), std::move(done));
  });
  co_return status;
}

Task<Status> LayerMerge::copy_one_by_one(std::uint64_t from_block, std::uint64_t to_block, std::uint32_t count) {
  for (std::uint32_t i = 0; i < count; ++i) {
    Status status = co_await copy_run(from_block + i, to_block + i, 1);
    if (!status.ok()) co_return status;
  }
  co_return Status();
}

Task<Status> LayerMerge::store() {
  Disk* disk = &disk_;
  if (copied_) {
    Status synced = co_await suspend<Status>([disk](StatusCallback done) { disk->data().sync(std::move(done)); });
    if (!synced.ok()) co_return synced;
  }
  std::string key = layer_key(kMergeTable, space_.id(), job_.number);
  if (exhausted_) {
    batch_.remove(key);
  } else {
    batch_.put(key, encode_merge_job(job_));
  }
  KvBatch* batch = &batch_;
  // Synced only when slots are given to others; otherwise repeating the step does no harm.
  bool sync = !freed_.empty() || copied_;
  Status stored = co_await suspend<Status>(
      [disk, batch, sync](StatusCallback done) { disk->kv().write(std::move(*batch), sync, std::move(done)); });
  if (!stored.ok()) co_return stored;
  disk_.note_records_changed();
  for (ChunkIndex chunk : changed_) disk_.forget_views(space_, chunk);
  for (auto [layer, slots] : layer_slots_) space_.note_layer_slots(layer, slots);
  space_.add_used(-static_cast<std::int64_t>(freed_.size()));
  if (exhausted_) {
    space_.merges().pop_front();
  } else {
    space_.merges().front() = job_;
  }
  co_return Status();
}

}  // namespace holdfast::store
