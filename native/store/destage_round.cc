#include "store/destage_round.h"

#include <algorithm>
#include <bit>

#include "base/log.h"
#include "base/plant.h"
#include "store/damage_mark.h"
#include "store/disk.h"

namespace holdfast::store {

namespace {

constexpr std::size_t kLoadsInFlightMax = 64;
constexpr std::size_t kBlocksPerWriteMax = 256;  // also the number of parts of the write
constexpr std::size_t kFillsMax = 128;
// Chunks or entries that are worked on before appends and reads get their turn: some 0.1 to 0.2 ms.
constexpr std::size_t kSlice = 128;
constexpr int kCopyAttempts = 3;

// Awaited: goes on in a later turn of the loop.
struct NextTurn {
  Env& env;
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiting) {
    env.post([waiting] { waiting.resume(); });
  }
  void await_resume() const noexcept {}
};

}  // namespace

// ---- choosing ----

bool Round::choose() {
  for (const auto& [id, replica] : disk_.replicas()) {
    if (replica->deleted() || !replica->has_work()) continue;
    parts_.push_back({replica.get(), nullptr, 0, {}, {}, {}});
    choose_entries(parts_.back());
  }
  for (Part& part : parts_) {
    go_past_snapshots(part);
    std::sort(part.chunks.begin(), part.chunks.end());
    part.chunks.erase(std::unique(part.chunks.begin(), part.chunks.end()), part.chunks.end());
    part.applied = part.replica->applied_at(part.through);
  }
  list_changes();
  journal_state_ = {};
  return !parts_.empty() || disk_.journal().has_releasable();
}

bool Round::full() const { return bytes_ >= disk_.cache_low_mark() || entries_ >= Destager::kRoundEntriesMax; }

void Round::choose_entries(Part& part) {
  for (const LogEntry& log : part.replica->log()) {
    // At least one entry of every replica, so that none holds the journal's oldest batch for ever.
    if (!part.replica->may_apply(log) || (full() && part.entries > 0)) return;
    choose_entry(part, log);
    // What follows belongs to another layer.
    if (log.changes_layers()) return;
  }
}

void Round::choose_entry(Part& part, const LogEntry& log) {
  part.through = &log;
  ++part.entries;
  ++entries_;
  bytes_ += log.cached_bytes;
  ticket_ = std::max(ticket_, log.ticket);
  if (log.changes_blocks()) {
    auto snapshots = static_cast<std::uint32_t>(part.layer_changes.size());
    new_layers_ = new_layers_ || snapshots > 0;
    for_each_chunk(log.entry.blocks, [&](ChunkIndex chunk, std::uint32_t, std::uint32_t, std::uint32_t) {
      Touched touched{chunk, snapshots};
      if (!part.chunks.empty() && part.chunks.back() == touched) return;
      part.chunks.push_back(touched);
      ++touched_;
    });
  }
  if (log.changes_layers()) part.layer_changes.push_back(&log);
}

// Many snapshots of a volume that is hardly written would take a round each, with its syncs. So a round that would be
// small goes on behind them, as long as no chunk is changed in two layers: each change is then made to what there was
// before the round.
void Round::go_past_snapshots(Part& part) {
  const std::deque<LogEntry>& log = part.replica->log();
  while (!part.layer_changes.empty() && part.entries < log.size()) {
    const LogEntry& next = log[part.entries];
    if (!part.replica->may_apply(next)) return;
    if (!may_go_past(part, *part.layer_changes.back()) || !may_follow(part, next)) {
      cut_ = true;
      return;
    }
    choose_entry(part, next);
  }
}

// Not while content is being fetched, which may go to any layer.
bool Round::may_go_past(const Part& part, const LogEntry& change) const {
  return is_new_snapshot(part, change) && part.replica->complete() && part.replica->fills().empty() && !full() &&
         entries_ < kSlice && touched_ < kSlice;
}

bool Round::may_follow(const Part& part, const LogEntry& log) {
  if (log.changes_layers()) return is_new_snapshot(part, log);
  if (!log.changes_blocks()) return true;
  auto snapshots = static_cast<std::uint32_t>(part.layer_changes.size());
  ChunkIndex first = chunk_of(BlockIndex(log.entry.blocks.begin()));
  ChunkIndex last = chunk_of(BlockIndex(log.entry.blocks.end() - 1));
  // There are few.
  return std::none_of(part.chunks.begin(), part.chunks.end(), [&](const Touched& touched) {
    return touched.snapshots != snapshots && touched.chunk >= first && touched.chunk <= last;
  });
}

bool Round::is_new_snapshot(const Part& part, const LogEntry& log) {
  return log.entry.op == Op::kSnapshot && !part.replica->tree().find(log.entry.snapshot);
}

// The chunks that entries and fills touch, each once, in order of replica and chunk.
void Round::list_changes() {
  std::size_t count = 0;
  for (const Part& part : parts_) count += part.chunks.size();
  changes_.reserve(count);
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    LayerNumber head = parts_[i].replica->tree().head();
    for (const Touched& touched : parts_[i].chunks) {
      changes_.push_back({i, {touched.chunk, head + touched.snapshots}, nullptr, {}, 0, {}});
    }
    choose_fills(*parts_[i].replica, i);
  }
}

// Of the time when its entries are applied.
bool Round::in_head(const Change& change) const {
  return change.place.layer >= parts_[change.part].replica->tree().head();
}

// Until the part is applied.
bool Round::in_new_layer(const Change& change) const {
  return change.place.layer > parts_[change.part].replica->tree().head();
}

// overlay.h
Seq Round::segment_of(const Change& change) const {
  const Part& part = parts_[change.part];
  LayerNumber snapshots = change.place.layer - part.replica->tree().head();
  return snapshots == 0 ? part.replica->applied_segment() : part.layer_changes[snapshots - 1]->entry.position.seq;
}

// One fill per chunk, layer and round; each needs a slot of its own.
void Round::choose_fills(Replica& replica, std::size_t part) {
  std::size_t first = 0;
  while (first < changes_.size() && changes_[first].part != part) ++first;
  std::size_t taken = 0;
  auto& fills = replica.fills();
  for (auto at = fills.begin(); at != fills.end() && taken < kFillsMax;) {
    Disk::Room room = disk_.room_for({1, 0});
    if (room == Disk::Room::kGrowing) break;
    Replica::Fill fill = std::move(at->second.front());
    at->second.pop_front();
    ChunkLayer wanted = at->first;
    at = at->second.empty() ? fills.erase(at) : std::next(at);
    if (room == Disk::Room::kNo) {
      disk_.deferred().call(std::move(fill.done),
                            Error(ErrorCode::kNoSpace, "disk " + disk_.disk_id() + " is full; free space on it"));
      continue;
    }
    disk_.reserve(1);
    ++taken;
    auto begin = changes_.begin() + static_cast<std::ptrdiff_t>(first);
    auto place = std::lower_bound(begin, changes_.end(), wanted,
                                  [](const Change& change, ChunkLayer sought) { return change.place < sought; });
    if (place == changes_.end() || place->place != wanted) {
      place = changes_.insert(place, {part, wanted, nullptr, {}, 0, {}});
    }
    place->fill = std::make_unique<Replica::Fill>(std::move(fill));
  }
}

// ---- applying ----

Task<void> Round::run() {
  Status outcome = co_await apply();
  if (!outcome.ok()) {
    disk_.fail(outcome.error());
    for (Change& change : changes_) {
      if (change.fill) disk_.deferred().call(std::move(change.fill->done), outcome);
    }
    co_return;
  }
  co_await free_slots();
}

Task<Status> Round::apply() {
  Status status = co_await wait_until_safe();
  if (!status.ok()) co_return std::move(status).error();
  status = co_await load_records();
  if (!status.ok()) co_return std::move(status).error();
  status = co_await make_plans();
  if (!status.ok()) co_return std::move(status).error();
  co_await copy_blocks();
  list_runs();
  status = co_await write_blocks();
  if (!status.ok()) co_return std::move(status).error();
  if (!runs_.empty() && !HOLDFAST_PLANT(kReuseJournalBeforeSync)) {
    Disk* disk = &disk_;
    status = co_await suspend<Status>([disk](StatusCallback done) { disk->data().sync(std::move(done)); });
    if (!status.ok()) co_return std::move(status).error();
  }
  status = co_await store_metadata();
  if (!status.ok()) co_return std::move(status).error();
  co_await commit();
  co_return Status();
}

// The journal must be durable up to the chosen entries before anything is written over chunks in use: if a power loss
// tears such a write, replay repairs it. Reads that began before may still need what is overwritten.
Task<Status> Round::wait_until_safe() {
  Disk* disk = &disk_;
  std::uint64_t ticket = ticket_;
  Status flushed = co_await suspend<Status>(
      [disk, ticket](StatusCallback done) { disk->journal().flush_to(ticket, std::move(done)); });
  if (!flushed.ok()) co_return std::move(flushed).error();
  (void)co_await suspend<bool>([disk](Callback<void(bool)> done) {
    auto* waiting = new Callback<void(bool)>(std::move(done));
    disk->reads().after_current([waiting] {
      std::unique_ptr<Callback<void(bool)>> owned(waiting);
      (*owned)(true);
    });
  });
  co_return Status();
}

Task<Status> Round::load_records() {
  Round* self = this;
  Status status = co_await suspend<Status>([self](StatusCallback done) {
    self->next_ = self->in_flight_ = 0;
    self->load_next(new StatusCallback(std::move(done)));
  });
  co_return status;
}

// Loads records until enough fetches are in flight; goes on when one ends; owns `done` until the last.
void Round::load_next(StatusCallback* done) {
  for (std::size_t looked = 0; next_ < changes_.size() && in_flight_ < kLoadsInFlightMax && status_.ok(); ++looked) {
    if (looked == kSlice) {
      ++in_flight_;
      return disk_.env().post([this, done] {
        --in_flight_;
        load_next(done);
      });
    }
    Change& change = changes_[next_];
    Replica* replica = parts_[change.part].replica;
    std::size_t index = next_++;
    auto loaded = [this, index, done](Status status) {
      --in_flight_;
      Change& found = changes_[index];
      if (status.ok()) {
        // It was brought in by this very call; nothing changes records while a round runs.
        const ChunkView* view = disk_.view_if_cached(*parts_[found.part].replica, found.place.chunk);
        CHECK(view != nullptr);
        take_old_view(found, *view);
      } else {
        status_ = std::move(status);
      }
      load_next(done);
    };
    if (!in_head(change) || (change.fill && replica->space().shares())) {
      ++in_flight_;
      load_stack(change, [this, done](Status status) {
        --in_flight_;
        if (!status.ok()) status_ = std::move(status);
        load_next(done);
      });
    } else if (const ChunkView* view = disk_.view_if_cached(*replica, change.place.chunk)) {
      take_old_view(change, *view);
    } else {
      ++in_flight_;
      disk_.fetch_view(*replica, change.place.chunk, std::move(loaded));
    }
  }
  if (in_flight_ > 0 || (next_ < changes_.size() && status_.ok())) return;
  std::unique_ptr<StatusCallback> owned(done);
  (*owned)(status_);
}

// After a snapshot the head has nothing of its own: what it had lies below.
void Round::take_old_view(Change& change, const ChunkView& view) {
  change.old = view;
  if (!in_new_layer(change) || !view.own) return;
  change.old.below = put_over(view.below, *view.own);
  change.old.own.reset();
}

// What a fill replaces. Layers are adopted without anything to merge, so there is one record at most that may be
// changed. Below it, of the same group, there may be others that clones see, or that this clone is linked to: the fill
// must hide what they hold.
void Round::take_old_records(Change& change, const ChunkStack& stack) {
  const Space& space = parts_[change.part].replica->space();
  for (const LayerRecord& one : stack) {
    if (space.tree().group_of(one.layer) != change.place.layer) continue;
    if (one.layer == kInheritedLayer || space.held().group_of(one.layer) != change.place.layer) {
      change.shadowed |= one.record.data;
    } else if (!in_head(change)) {
      change.old.own = one.record;
      change.old.own_layer = one.layer;
    }
  }
  if (in_head(change)) change.old = view_of(stack, space.held(), space.held().head(), true);
}

void Round::load_stack(Change& change, StatusCallback done) {
  struct Loading {
    Change* change;
    Replica* replica;
    StatusCallback done;
  };
  auto* loading = new Loading{&change, parts_[change.part].replica, std::move(done)};
  disk_.load_stack(loading->replica->space(), change.place.chunk, std::nullopt,
                   [this, loading](Result<ChunkStack> stack) {
                     std::unique_ptr<Loading> owned(loading);
                     if (!stack.ok()) return owned->done(std::move(stack).error());
                     take_old_records(*owned->change, *stack);
                     owned->done(Status());
                   });
}

// Entries that are appended between the slices are not part of the round.
Task<Status> Round::make_plans() {
  writes_.reserve(entries_);
  ChunkWrites writes;
  std::optional<std::uint64_t> near;  // slot of the chunk before: files that are read in order should lie in order
  for (std::size_t i = 0; i < changes_.size(); ++i) {
    if (i % kSlice == kSlice - 1) co_await NextTurn{disk_.env()};
    Change& change = changes_[i];
    const Part& part = parts_[change.part];
    Replica& replica = *part.replica;
    std::span<const Piece> pieces;
    ChunkOverlay* overlay = in_head(change) ? replica.overlay().find(change.place.chunk) : nullptr;
    if (overlay) {
      auto end = std::find_if(overlay->pieces.begin(), overlay->pieces.end(),
                              [&](const Piece& piece) { return piece.seq > part.applied.applied.seq; });
      pieces = {overlay->pieces.data(), static_cast<std::size_t>(end - overlay->pieces.begin())};
    }
    std::optional<std::uint64_t> generation;
    if (!replica.identity().complete) generation = replica.identity().log_generation;
    if (change.fill) change.fill->content.zero |= change.shadowed & ~change.fill->content.present;
    plan_chunk(change.old.own, change.old.below_data(), pieces, change.fill ? &change.fill->content : nullptr,
               generation, change.plan, writes);
    if (change.fill) disk_.unreserve(1);
    if (change.plan.needs_slot) {
      if (!change.fill && overlay && overlay->reserved.take(segment_of(change))) disk_.unreserve(1);
      std::optional<SlotAllocator::Run> run = disk_.slots().allocate(1, near);
      if (!run) co_return Error(ErrorCode::kNoSpace, "no slot is free although one was set aside");
      change.plan.next.slot = run->first;
      replica.space().add_used(1);
    }
    if (change.plan.next.slot != kNoSlot) near = change.plan.next.slot;
    for (std::uint64_t left = writes.blocks; left != 0; left &= left - 1) {
      auto block = static_cast<std::uint32_t>(std::countr_zero(left));
      add_write(change, block, writes.bytes[block]);
    }
  }
  co_return Status();
}

// Of a replica that is being rebuilt. A block that cannot be read costs itself, and not the disk: the others have it.
Task<void> Round::copy_blocks() {
  for (Change& change : changes_) {
    for (std::uint64_t left = change.plan.copies; left != 0; left &= left - 1) {
      auto block = static_cast<std::uint32_t>(std::countr_zero(left));
      Slice copy = disk_.env().buffers().allocate(kBlockSize);
      File* data = &disk_.data();
      std::uint64_t offset = change.old.own->slot * kChunkSize + std::uint64_t{block} * kBlockSize;
      std::span<std::byte> into = copy.bytes();
      Status status;
      for (int attempt = 0; attempt < kCopyAttempts; ++attempt) {
        status = co_await suspend<Status>(
            [data, offset, into](StatusCallback done) { data->read(offset, into, std::move(done)); });
        if (status.ok()) break;
      }
      if (!status.ok()) {
        log_warn("store", disk_.disk_id() + ": block " + std::to_string(block) + " of chunk " +
                              std::to_string(change.place.chunk.value()) +
                              " of a replica that is being rebuilt cannot be read: " + status.error().message());
        write_damage_mark(into, change.plan.next.crc[block]);
      }
      add_write(change, block, copy.data());
      copied_.push_back(std::move(copy));
    }
  }
}

// ---- writing ----

void Round::add_write(const Change& change, std::uint32_t block, const std::byte* bytes) {
  writes_.push_back({change.plan.next.slot * kBlocksPerChunk + block, bytes});
}

void Round::list_runs() {
  std::sort(writes_.begin(), writes_.end(),
            [](const BlockWrite& a, const BlockWrite& b) { return a.file_block < b.file_block; });
  for (std::size_t i = 0; i < writes_.size(); ++i) {
    bool joins = !runs_.empty() && runs_.back().file_block + runs_.back().count == writes_[i].file_block &&
                 runs_.back().count < kBlocksPerWriteMax;
    if (joins) {
      ++runs_.back().count;
    } else {
      runs_.push_back({writes_[i].file_block, i, 1});
    }
  }
}

Task<Status> Round::write_blocks() {
  if (runs_.empty()) co_return Status();
  Round* self = this;
  Status status = co_await suspend<Status>([self](StatusCallback done) {
    self->next_ = self->in_flight_ = 0;
    self->write_next(new StatusCallback(std::move(done)));
  });
  co_return status;
}

void Round::write_next(StatusCallback* done) {
  // Several at a time: each submission costs a call of the device.
  std::size_t depth = disk_.destage_depth();
  if (in_flight_ > depth / 2) return;
  while (next_ < runs_.size() && in_flight_ < depth && status_.ok()) {
    const BlockRun& run = runs_[next_++];
    // Parts that follow each other in memory become one.
    auto* parts = new std::vector<std::span<const std::byte>>;
    for (std::size_t i = run.first; i < run.first + run.count; ++i) {
      const std::byte* bytes = writes_[i].bytes;
      if (!parts->empty() && parts->back().data() + parts->back().size() == bytes) {
        parts->back() = {parts->back().data(), parts->back().size() + kBlockSize};
      } else {
        parts->push_back({bytes, kBlockSize});
      }
    }
    ++in_flight_;
    disk_.data().write(run.file_block * kBlockSize, *parts, [this, parts, done](Status status) {
      delete parts;
      --in_flight_;
      if (!status.ok()) status_ = std::move(status);
      write_next(done);
    });
  }
  if (in_flight_ > 0) return;
  std::unique_ptr<StatusCallback> owned(done);
  (*owned)(status_);
}

// ---- committing ----

Task<Status> Round::store_metadata() {
  KvBatch batch;
  for (std::size_t i = 0; i < changes_.size(); ++i) {
    if (i % kSlice == kSlice - 1) co_await NextTurn{disk_.env()};
    const Change& change = changes_[i];
    const Replica& replica = *parts_[change.part].replica;
    std::string key = record_key(replica.space().id(), change.place.chunk, change.layer());
    bool indexed = change.layer() != kFirstLayer;
    if (change.plan.remove) {
      if (!change.old.own) continue;
      batch.remove(key);
      if (indexed) batch.remove(layer_index_key(replica.space().id(), change.layer(), change.place.chunk));
    } else {
      batch.put(key, encode_chunk_record(change.plan.next));
      if (indexed && !change.old.own) {
        batch.put(layer_index_key(replica.space().id(), change.layer(), change.place.chunk), "");
      }
    }
  }
  for (const Part& part : parts_) {
    std::size_t left = part.entries;
    for (const LogEntry& log : part.replica->log()) {
      if (left-- == 0) break;
      disk_.journal().retire(log.batch);
    }
    for (std::size_t i = 0; i < part.layer_changes.size(); ++i) {
      part.replica->put_layer_change(batch, *part.layer_changes[i], i);
    }
    batch.put(replica_key(kAppliedTable, part.replica->id()), encode_applied(part.applied));
  }
  journal_state_ = disk_.journal().releasable();
  batch.put(kJournalKey, encode_journal_state(journal_state_));
  Disk* disk = &disk_;
  Status status = co_await suspend<Status>(
      [disk, &batch](StatusCallback done) { disk->kv().write(std::move(batch), true, std::move(done)); });
  co_return status;
}

void Round::note_record(const Change& change) {
  Replica& replica = *parts_[change.part].replica;
  bool had_slot = change.old.own && change.old.own->slot != kNoSlot;
  bool has_slot = !change.plan.remove && change.plan.next.slot != kNoSlot;
  if (had_slot != has_slot) replica.space().note_layer_slots(change.layer(), has_slot ? 1 : -1);
  if (in_head(change) && !in_new_layer(change)) put_view(change);
}

void Round::put_view(const Change& change) {
  Replica& replica = *parts_[change.part].replica;
  ChunkView view = change.old;
  view.own.reset();
  if (!change.plan.remove) view.own = change.plan.next;
  view.own_layer = change.layer();
  disk_.records().put(replica.space().id(), change.place.chunk, std::move(view));
}

// In slices. What is in between is as good as before or after: the records in memory have what the log still has over
// them, as those in the metadata have since they were stored. In one go when layers begin in this round: what is in
// them must not be seen before they are there.
Task<void> Round::commit() {
  disk_.note_records_changed();
  for (std::size_t i = 0; i < changes_.size(); ++i) {
    if (i % kSlice == kSlice - 1 && !new_layers_) co_await NextTurn{disk_.env()};
    note_record(changes_[i]);
  }
  // A view knows of what lies below the head only what the head's record did not hide when it was worked out. Entries
  // never uncover anything; a fill of the head may, and one of another layer changes what lies below.
  for (const Change& change : changes_) {
    if (change.fill) disk_.forget_views(parts_[change.part].replica->space(), change.place.chunk);
  }
  for (Part& part : parts_) co_await drop_entries(part);
  for (Change& change : changes_) {
    // Entries that came meanwhile must find a slot if this chunk has none any more.
    bool slotless = change.plan.next.slot == kNoSlot;
    Replica& replica = *parts_[change.part].replica;
    ChunkOverlay* overlay = slotless && in_head(change) ? replica.overlay().find(change.place.chunk) : nullptr;
    if (overlay && !overlay->reserved.has(replica.applied_segment()) && replica.has_data_to_apply(*overlay)) {
      overlay->reserved.add(replica.applied_segment());
      disk_.reserve(1);
    }
    if (change.fill) disk_.deferred().call(std::move(change.fill->done), Status());
  }
  disk_.journal().release(journal_state_);
}

// All but the last slice end before an entry that changes layers: it is the last of its part, or the part is small.
Task<void> Round::drop_entries(Part& part) {
  Replica& replica = *part.replica;
  for (; part.entries > kSlice; part.entries -= kSlice) {
    replica.on_applied(replica.applied_at(&replica.log()[kSlice - 1]));
    co_await NextTurn{disk_.env()};
  }
  std::vector<const Change*> in_new_layers;
  for (const Change& change : changes_) {
    if (new_layers_ && parts_[change.part].replica == &replica && in_new_layer(change))
      in_new_layers.push_back(&change);
  }
  // What began in between saw the layers before these entries.
  if (!part.layer_changes.empty()) disk_.note_records_changed();
  replica.on_applied(part.applied);
  for (const Change* change : in_new_layers) put_view(*change);
}

Task<void> Round::free_slots() {
  std::vector<std::uint64_t> slots;
  for (Change& change : changes_) {
    slots.insert(slots.end(), change.plan.freed.begin(), change.plan.freed.end());
    parts_[change.part].replica->space().add_used(-static_cast<std::int64_t>(change.plan.freed.size()));
  }
  if (slots.empty() || HOLDFAST_PLANT(kLeakSlots)) co_return;
  Disk* disk = &disk_;
  (void)co_await suspend<bool>([disk, &slots](Callback<void(bool)> done) {
    auto* waiting = new Callback<void(bool)>(std::move(done));
    disk->free_slots_later(std::move(slots), [waiting] {
      std::unique_ptr<Callback<void(bool)>> owned(waiting);
      (*owned)(true);
    });
  });
}

}  // namespace holdfast::store
