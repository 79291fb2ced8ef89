// Making and deleting replicas, and what becomes of their records: a linked clone begins as a link to another space,
// and a space that clones see outlives its replica (space.h).
//
// Each change is one synced batch, so a crash leaves all of it or nothing. Spaces that were left and that no link leads
// to any more are removed by the next open, should a crash come between the two batches that this takes.
#include <algorithm>

#include "store/disk.h"

namespace holdfast::store {

namespace {

constexpr std::size_t kDeletePageRecords = 4'096;

// Where a space has chunk records.
std::vector<std::pair<std::string, std::string>> record_tables(SpaceId id) {
  ChunkIndex last(~std::uint64_t{0});
  return {{chunk_key(id, 0, ChunkIndex(0)), chunk_key(id, ~std::uint64_t{0}, last)},
          {layered_key(id, ChunkIndex(0), ~LayerNumber{0}), layered_key(id, last, LayerNumber{0})}};
}

}  // namespace

void put_space_removal(KvBatch& batch, SpaceId id) {
  for (auto& [from, to] : record_tables(id)) batch.remove_range(from, to);
  batch.remove_range(layer_index_key(id, 0, ChunkIndex(0)),
                     layer_index_key(id, ~LayerNumber{0}, ChunkIndex(~std::uint64_t{0})));
  for (char table : {kSnapshotTable, kMergeTable}) {
    batch.remove_range(layer_key(table, id, 0), layer_key(table, id, ~LayerNumber{0}));
  }
  for (char table : {kLayerStateTable, kLinkTable, kLeftTable}) batch.remove(space_key(table, id));
}

// ---- spaces ----

SpaceId Disk::unused_space_id() {
  for (;;) {
    SpaceId id(env_.random());
    if (!spaces_.contains(id) && !replicas_.contains(ReplicaId(id.value()))) return id;
  }
}

Space& Disk::add_space(SpaceId id, LayerTree tree, std::optional<SpaceLink> link) {
  auto [at, added] = spaces_.emplace(id, std::make_unique<Space>(id, std::move(tree), std::move(link)));
  CHECK(added, "numbers of spaces are used once");
  return *at->second;
}

void Disk::put_left(KvBatch& batch, const Space& space) const {
  batch.put(space_key(kLeftTable, space.id()), encode_left());
  batch.remove_range(layer_key(kSnapshotTable, space.id(), 0), layer_key(kSnapshotTable, space.id(), ~LayerNumber{0}));
  batch.remove_range(layer_key(kMergeTable, space.id(), 0), layer_key(kMergeTable, space.id(), ~LayerNumber{0}));
  space.put_merges(batch, {{0, 0}});
}

void Disk::leave(Space& space) {
  space.leave();
  space.clear_merges();
  space.add_merges({{0, 0}});
  records_.forget(space.id());
}

void Disk::wait_paused(Callback<void(bool)> done) {
  auto* waiting = new Callback<void(bool)>(std::move(done));
  destager_.pause([waiting] {
    std::unique_ptr<Callback<void(bool)>> owned(waiting);
    (*owned)(true);
  });
}

// ---- making ----

Status Disk::check_creatable(ReplicaId id) const {
  TRY(refusal());
  if (!replicas_.contains(id) && !creating_.contains(id)) return Status();
  return Error(ErrorCode::kAlreadyExists, "replica " + to_hex(id.value()) + " exists on disk " + label_.id);
}

ReplicaIdentity Disk::new_identity(ReplicaId id, VolumeId volume, bool complete) {
  ReplicaIdentity identity;
  identity.volume = volume;
  identity.complete = complete;
  // Never that of a former replica with the same id: its entries may still be in the journal.
  identity.log_generation = env_.random() >> 1 | 1;
  identity.space = SpaceId(id.value());
  if (!spaces_.contains(identity.space)) return identity;
  // What a former replica with this id left to clones.
  identity.space = unused_space_id();
  identity.linked = true;
  return identity;
}

void Disk::create_replica(ReplicaId id, VolumeId volume, std::uint64_t size_blocks, bool complete,
                          StatusCallback done) {
  if (Status valid = check_creatable(id); !valid.ok()) return deferred_.call(std::move(done), std::move(valid));
  ReplicaApplied applied;
  applied.size_blocks = size_blocks;
  spawn(run_create(id, new_identity(id, volume, complete), std::move(applied), std::nullopt, std::move(done)));
}

Task<void> Disk::run_create(ReplicaId id, ReplicaIdentity identity, ReplicaApplied applied,
                            std::optional<SpaceLink> link, StatusCallback done) {
  creating_.insert(id);
  KvBatch batch;
  batch.put(replica_key(kIdentityTable, id), encode_identity(identity));
  batch.put(replica_key(kAppliedTable, id), encode_applied(applied));
  if (link) batch.put(space_key(kLinkTable, identity.space), encode_link(*link));
  // Pinned from now on: what is read of the source by the time this is durable must not change any more.
  if (link) find_space(link->space)->pin(identity.space, link->snapshot);
  Space& space = add_space(identity.space, LayerTree(), std::move(link));
  Kv* kv = kv_.get();
  Status outcome = co_await suspend<Status>(
      [kv, &batch](StatusCallback next) { kv->write(std::move(batch), true, std::move(next)); });
  creating_.erase(id);
  if (outcome.ok()) {
    replicas_.emplace(id, std::make_unique<Replica>(*this, id, std::move(identity), std::move(applied), space));
  } else {
    fail(outcome.error());
  }
  done(std::move(outcome));
}

void Disk::create_linked(ReplicaId id, VolumeId volume, ReplicaId source, SnapshotId snapshot, StatusCallback done) {
  if (Status valid = check_creatable(id); !valid.ok()) return deferred_.call(std::move(done), std::move(valid));
  spawn(run_link(id, volume, source, snapshot, std::move(done)));
}

// Rounds stand still meanwhile, so that the snapshot is not being dropped while it is pinned.
Task<void> Disk::run_link(ReplicaId id, VolumeId volume, ReplicaId source, SnapshotId snapshot, StatusCallback done) {
  Disk* self = this;
  Status outcome = co_await settle_layers(source);
  if (!outcome.ok()) {
    done(std::move(outcome));
    co_return;
  }
  (void)co_await suspend<bool>([self](Callback<void(bool)> next) { self->wait_paused(std::move(next)); });
  outcome = check_creatable(id);
  Result<SpaceLink> link = find_link(source, snapshot);
  if (outcome.ok() && !link.ok()) outcome = link.status();
  if (outcome.ok()) {
    ReplicaApplied applied;
    applied.applied = kInheritedVersion;
    applied.committed = kInheritedVersion.seq;
    applied.history.push_back({kInheritedVersion.epoch, kInheritedVersion.seq});
    applied.size_blocks = link->snapshot.size_blocks;
    ReplicaIdentity identity = new_identity(id, volume, true);
    identity.linked = true;
    outcome = co_await suspend<Status>([&](StatusCallback next) {
      self->spawn_create(id, std::move(identity), std::move(applied), std::move(*link), std::move(next));
    });
  }
  destager_.resume();
  done(std::move(outcome));
}

void Disk::spawn_create(ReplicaId id, ReplicaIdentity identity, ReplicaApplied applied, SpaceLink link,
                        StatusCallback done) {
  spawn(run_create(id, std::move(identity), std::move(applied), std::move(link), std::move(done)));
}

// A snapshot that was only just taken is applied first.
Task<Status> Disk::settle_layers(ReplicaId source) {
  ReplicaStore* replica = find(source);
  if (!replica) {
    co_return Error(ErrorCode::kNotFound, "no replica " + to_hex(source.value()) + " on disk " + label_.id);
  }
  Result<LayerState> layers = co_await suspend<Result<LayerState>>(
      [replica](Callback<void(Result<LayerState>)> next) { replica->layers(std::move(next)); });
  co_return layers.status();
}

Result<SpaceLink> Disk::find_link(ReplicaId source, SnapshotId snapshot) const {
  auto at = replicas_.find(source);
  std::string name = "replica " + to_hex(source.value());
  if (at == replicas_.end() || at->second->deleted()) {
    return Error(ErrorCode::kNotFound, "no " + name + " on disk " + label_.id);
  }
  const Replica& replica = *at->second;
  if (!replica.complete()) {
    return Error(ErrorCode::kReplicaIncomplete, name + " is being rebuilt and cannot be cloned");
  }
  const SnapshotRecord* found = replica.tree().find(snapshot);
  if (!found) return Error(ErrorCode::kNotFound, name + " has no snapshot " + to_hex(snapshot.value()));
  return SpaceLink{replica.space().id(), *found};
}

// ---- deleting ----

void Disk::delete_replica(ReplicaId id, StatusCallback done) {
  Status usable = refusal();
  if (usable.ok() && !find(id)) {
    usable = Error(ErrorCode::kNotFound, "no replica " + to_hex(id.value()) + " on disk " + label_.id);
  }
  if (!usable.ok()) return deferred_.call(std::move(done), std::move(usable));
  Replica* replica = replicas_.find(id)->second.get();
  replica->mark_deleted();
  replica->fail_waiting(Error(ErrorCode::kNotFound, "replica " + to_hex(id.value()) + " was deleted"));
  spawn(run_delete(replica, std::move(done)));
}

Task<void> Disk::run_delete(Replica* replica, StatusCallback done) {
  Disk* self = this;
  Status outcome =
      co_await suspend<Status>([self](StatusCallback next) { self->journal_->after_completion(std::move(next)); });
  (void)co_await suspend<bool>([self](Callback<void(bool)> next) { self->wait_paused(std::move(next)); });
  Space* space = &replica->space();
  if (outcome.ok() && !space->pins().empty()) {
    outcome = co_await leave_to_clones(replica);
  } else if (outcome.ok()) {
    outcome = co_await remove_space(space, replica);
  }
  if (outcome.ok()) {
    auto node = replicas_.extract(replica->id());
    deleted_.push_back(std::move(node.mapped()));
  } else {
    fail(outcome.error());
  }
  destager_.resume();
  done(std::move(outcome));
  wake_writers();
}

// The replica and its log go, and what only they saw goes later; what clones see stays.
Task<Status> Disk::leave_to_clones(Replica* replica) {
  Space* space = &replica->space();
  KvBatch batch;
  put_left(batch, *space);
  std::vector<std::uint64_t> direct = replica->discard_log();
  space->add_used(-static_cast<std::int64_t>(direct.size()));
  Status outcome = co_await store_removal(replica, &batch, std::move(direct));
  if (outcome.ok()) leave(*space);
  co_return outcome;
}

// With everything in it. `replica`: the one that it belongs to, which goes, too; nullptr: the space was left.
Task<Status> Disk::remove_space(Space* space, Replica* replica) {
  Result<std::vector<std::uint64_t>> slots = co_await slots_of(space);
  if (!slots.ok()) co_return slots.status();
  if (replica) {
    std::vector<std::uint64_t> direct = replica->discard_log();
    slots->insert(slots->end(), direct.begin(), direct.end());
  }
  KvBatch batch;
  put_space_removal(batch, space->id());
  Space* below = space->link() ? find_space(space->link()->space) : nullptr;
  if (below) below->put_merges(batch, below->try_unpin(space->id()));
  Status outcome = co_await store_removal(replica, &batch, std::move(*slots));
  if (!outcome.ok()) co_return outcome;
  records_.forget(space->id());
  auto node = spaces_.extract(space->id());
  deleted_spaces_.push_back(std::move(node.mapped()));
  if (!below) co_return Status();
  below->add_merges(below->unpin(space->id()));
  if (below->left() && below->pins().empty()) outcome = co_await remove_space(below, nullptr);
  co_return outcome;
}

// The slots that its records own.
Task<Result<std::vector<std::uint64_t>>> Disk::slots_of(const Space* space) {
  std::vector<std::uint64_t> slots;
  for (const auto& [from, to] : record_tables(space->id())) {
    for (std::string at = from;;) {
      Kv* kv = kv_.get();
      const std::string* end = &to;
      Result<KvPairs> page = co_await suspend<Result<KvPairs>>([kv, &at, end](Callback<void(Result<KvPairs>)> next) {
        kv->range(at, *end, kDeletePageRecords, std::move(next));
      });
      if (!page.ok()) co_return std::move(page).error();
      for (const auto& [key, value] : *page) {
        Result<ChunkRecord> record = decode_chunk_record(value);
        if (record.ok() && record->slot != kNoSlot) slots.push_back(record->slot);
      }
      if (page->size() < kDeletePageRecords) break;
      at = page->back().first + std::string(1, '\0');
    }
  }
  co_return slots;
}

// Stores it, with what a replica has besides its records; then the slots are free.
Task<Status> Disk::store_removal(const Replica* replica, KvBatch* batch, std::vector<std::uint64_t> slots) {
  JournalState state = journal_->releasable();
  batch->put(kJournalKey, encode_journal_state(state));
  if (replica) {
    for (char table : {kIdentityTable, kAppliedTable}) batch->remove(replica_key(table, replica->id()));
  }
  Kv* kv = kv_.get();
  Status outcome = co_await suspend<Status>(
      [kv, batch](StatusCallback next) { kv->write(std::move(*batch), true, std::move(next)); });
  if (!outcome.ok()) co_return outcome;
  journal_->release(state);
  note_records_changed();
  Disk* self = this;
  (void)co_await suspend<bool>([self, &slots](Callback<void(bool)> next) {
    auto* waiting = new Callback<void(bool)>(std::move(next));
    self->free_slots_later(std::move(slots), [waiting] {
      std::unique_ptr<Callback<void(bool)>> owned(waiting);
      (*owned)(true);
    });
  });
  co_return Status();
}

}  // namespace holdfast::store
