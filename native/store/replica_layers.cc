// Snapshots of one replica: entries that change layers, from the log to the metadata; what the volume's layers were
// when this replica joins. docs/consistency.md, "Snapshots".
#include <algorithm>
#include <bit>

#include "store/disk.h"
#include "store/replica.h"

namespace holdfast::store {

// ---- entries ----

bool Replica::has_pending(Op op) const {
  return std::any_of(pending_layer_ops_.begin(), pending_layer_ops_.end(),
                     [op](const PendingLayerOp& pending) { return pending.op == op; });
}

bool Replica::knows_snapshot(SnapshotId id) const {
  for (auto pending = pending_layer_ops_.rbegin(); pending != pending_layer_ops_.rend(); ++pending) {
    if (pending->snapshot != id) continue;
    if (pending->op == Op::kSnapshot) return true;
    if (pending->op == Op::kDropSnapshot) return false;
  }
  return tree().find(id) != nullptr;
}

Status Replica::check_layer_entry(const Entry& entry) const {
  std::string name = "snapshot " + to_hex(entry.snapshot.value());
  if (entry.snapshot == SnapshotId()) return Error(ErrorCode::kInvalidArgument, "a snapshot needs an id that is not 0");
  if (!complete_ && entry.op != Op::kSnapshot) {
    return Error(ErrorCode::kFailedPrecondition,
                 "replica " + to_hex(id_.value()) + " is being rebuilt while snapshots go; its rebuild begins again");
  }
  if (entry.op == Op::kSnapshot && knows_snapshot(entry.snapshot)) {
    return Error(ErrorCode::kAlreadyExists, name + " exists in replica " + to_hex(id_.value()));
  }
  if (entry.op == Op::kRevert && !knows_snapshot(entry.snapshot)) {
    return Error(ErrorCode::kNotFound, "replica " + to_hex(id_.value()) + " has no " + name);
  }
  return Status();
}

void Replica::note_layer_op(const LogEntry& log) {
  pending_layer_ops_.push_back({log.entry.position, log.entry.op, log.entry.snapshot, size_blocks_});
  if (log.entry.op == Op::kSnapshot) {
    segment_ = log.entry.position.seq;
  } else {
    rearranged_ = log.entry.position;
  }
}

LogPosition Replica::layers_revision() const {
  return pending_layer_ops_.empty() ? tree().revision() : pending_layer_ops_.back().position;
}

// Entries from here on belong to a layer that has not begun yet.
Seq Replica::end_of_head() const {
  for (const PendingLayerOp& pending : pending_layer_ops_) {
    if (pending.op == Op::kSnapshot) return pending.position.seq;
  }
  return Seq(UINT64_MAX);
}

bool Replica::has_data_to_apply(const ChunkOverlay& overlay) const {
  Seq end = end_of_head();
  return std::any_of(overlay.pieces.begin(), overlay.pieces.end(),
                     [end](const Piece& piece) { return piece.kind == Piece::Kind::kData && piece.seq < end; });
}

// ---- applying ----

void Replica::put_layer_change(KvBatch& batch, const LogEntry& log, std::size_t snapshots_before) {
  const Entry& entry = log.entry;
  const PendingLayerOp& pending = pending_layer_ops_[snapshots_before];
  CHECK(pending.position == entry.position && (snapshots_before == 0 || entry.op == Op::kSnapshot));
  std::vector<LayerRange> work;
  const LayerTree& tree = space_->tree();
  std::string state = tree.encode_state_at(entry.position);
  const SnapshotRecord* known = tree.find(entry.snapshot);
  if (entry.op == Op::kSnapshot && !known) {
    SnapshotRecord record{entry.snapshot, tree.head() + snapshots_before, entry.position, pending.size_blocks};
    batch.put(layer_key(kSnapshotTable, space_->id(), record.layer), encode_snapshot_record(record));
    state = tree.encode_state_after_snapshot(entry.position, snapshots_before);
  } else if (entry.op == Op::kDropSnapshot && known) {
    batch.remove(layer_key(kSnapshotTable, space_->id(), known->layer));
    work = space_->try_drop(entry.snapshot);
  } else if (entry.op == Op::kRevert && known) {
    work = space_->try_revert(entry.snapshot);
    state = tree.encode_state_after_revert(entry.snapshot, entry.position);
  }
  batch.put(space_key(kLayerStateTable, space_->id()), state);
  space_->put_merges(batch, work);
  if (!identity_.layered) {
    identity_.layered = true;
    batch.put(replica_key(kIdentityTable, id_), encode_identity(identity_));
  }
}

void Replica::apply_layer_change(const LogEntry& log) {
  const Entry& entry = log.entry;
  CHECK(!pending_layer_ops_.empty() && pending_layer_ops_.front().position == entry.position);
  std::vector<LayerRange> work;
  if (entry.op == Op::kSnapshot) {
    space_->take_snapshot(entry.snapshot, entry.position, pending_layer_ops_.front().size_blocks);
    applied_segment_ = entry.position.seq;
  } else if (entry.op == Op::kDropSnapshot) {
    work = space_->drop_snapshot(entry.snapshot, entry.position);
  } else if (tree().find(entry.snapshot)) {
    work = space_->revert_to(entry.snapshot, entry.position);
    disk_.records().forget(space_->id());
  }
  space_->add_merges(work);
  pending_layer_ops_.pop_front();
  if (!pending_layer_ops_.empty()) return;
  for (StatusCallback& waiter : std::exchange(layer_waiters_, {})) disk_.deferred().call(std::move(waiter), Status());
}

// ---- looking ----

std::vector<SnapshotInfo> Replica::snapshots() const {
  std::vector<SnapshotInfo> all;
  auto id_of = [](const SnapshotRecord* record) { return record ? record->id : SnapshotId(); };
  const LayerTree& tree = space_->tree();
  SnapshotId head = id_of(tree.parent_of(tree.head()));
  for (const auto& [layer, snapshot] : tree.snapshots()) {
    all.push_back({snapshot.id, id_of(tree.parent_of(layer)), snapshot.position, snapshot.size_blocks,
                   space_->slots_of_group(layer) * kChunkSize});
  }
  // What is not applied yet changes the list in the same way.
  for (const PendingLayerOp& pending : pending_layer_ops_) {
    auto known =
        std::find_if(all.begin(), all.end(), [&](const SnapshotInfo& one) { return one.id == pending.snapshot; });
    if (pending.op == Op::kSnapshot && known == all.end()) {
      all.push_back({pending.snapshot, head, pending.position, pending.size_blocks, 0});
      head = pending.snapshot;
    } else if (pending.op == Op::kDropSnapshot && known != all.end()) {
      SnapshotInfo gone = *known;
      all.erase(known);
      for (SnapshotInfo& one : all) {
        if (one.parent == gone.id) one.parent = gone.parent;
      }
      if (head == gone.id) head = gone.parent;
    }
  }
  return all;
}

Result<Replica::Viewpoint> Replica::viewpoint_of(std::optional<SnapshotId> snapshot) const {
  if (!snapshot) {
    for (const PendingLayerOp& pending : pending_layer_ops_) {
      if (pending.op != Op::kRevert) continue;
      return Viewpoint{tree().find(pending.snapshot)->layer, std::nullopt};
    }
    return Viewpoint{};
  }
  if (!knows_snapshot(*snapshot)) {
    return Error(ErrorCode::kNotFound,
                 "replica " + to_hex(id_.value()) + " has no snapshot " + to_hex(snapshot->value()));
  }
  if (const SnapshotRecord* record = tree().find(*snapshot)) return Viewpoint{record->layer, std::nullopt};
  for (const PendingLayerOp& pending : pending_layer_ops_) {
    if (pending.op == Op::kSnapshot && pending.snapshot == *snapshot) {
      return Viewpoint{std::nullopt, pending.position.seq};
    }
  }
  return Error(ErrorCode::kInternal, "a snapshot that is known is nowhere");
}

void Replica::layers(Callback<void(Result<LayerState>)> done) { spawn(run_layers(std::move(done))); }

Task<void> Replica::run_layers(Callback<void(Result<LayerState>)> done) {
  Status usable = check_usable();
  if (usable.ok() && !complete_) {
    usable = Error(ErrorCode::kReplicaIncomplete,
                   "replica " + to_hex(id_.value()) + " is being rebuilt and cannot be copied from");
  }
  if (usable.ok() && !pending_layer_ops_.empty()) {
    Replica* self = this;
    usable = co_await suspend<Status>([self](StatusCallback next) {
      self->layer_waiters_.push_back(std::move(next));
      self->disk_.destager().note_work(true);
    });
  }
  if (usable.ok() && applied_.applied.seq > committed_) {
    usable = Error(ErrorCode::kFailedPrecondition,
                   "replica " + to_hex(id_.value()) +
                       " has applied entries that are not known to be committed; attach its volume first");
  }
  if (!usable.ok()) {
    done(std::move(usable).error());
  } else {
    done(tree().state());
  }
}

// ---- copying ----

void Replica::read_layer(ChunkLayer layer, Callback<void(Result<ChunkContent>)> done) {
  spawn(run_read_layer(layer, std::move(done)));
}

namespace {

struct LayerPiece {
  const std::byte* memory = nullptr;
  std::uint64_t slot = kNoSlot;
  std::uint32_t crc = 0;
};

}  // namespace

// What the records of the group hold; in the head, the entries that are not applied yet lie over it.
Task<void> Replica::run_read_layer(ChunkLayer layer, Callback<void(Result<ChunkContent>)> done) {
  Disk* disk = &disk_;
  const Space* space = space_;
  Status usable = check_usable();
  if (!usable.ok()) {
    done(std::move(usable).error());
    co_return;
  }
  std::uint64_t token = disk_.reads().begin();
  ChunkIndex chunk = layer.chunk;
  Result<ChunkStack> stack =
      co_await suspend<Result<ChunkStack>>([disk, space, chunk](Callback<void(Result<ChunkStack>)> next) {
        disk->load_stack(*space, chunk, std::nullopt, std::move(next));
      });
  if (!stack.ok()) {
    disk_.reads().end(token);
    done(std::move(stack).error());
    co_return;
  }
  ChunkContent content;
  std::vector<Slice> kept;  // entries' data, while it is copied
  std::array<LayerPiece, kBlocksPerChunk> pieces;
  for (GroupContent& group : groups_of(*stack, space->tree())) {
    if (group.group != layer.layer) continue;
    content.version = group.version;
    content.present = group.blocks.data;
    content.zero = group.zero;
    for (std::uint32_t block = 0; block < kBlocksPerChunk; ++block) {
      pieces[block] = {nullptr, group.blocks.slot_of(block), group.blocks.crc[block]};
    }
  }
  content.source_last = last_.seq;
  ChunkOverlay* overlay = layer.layer == tree().head() ? overlay_.find(chunk) : nullptr;
  if (overlay) {
    Seq end = end_of_head();
    for (const Piece& piece : overlay->pieces) {
      if (piece.seq >= end) break;
      content.version = piece.log->entry.position;
      bool zero = piece.kind == Piece::Kind::kZero;
      content.present = zero ? content.present & ~piece.mask() : content.present | piece.mask();
      content.zero = zero ? content.zero | piece.mask() : content.zero & ~piece.mask();
      if (zero) continue;
      if (piece.in_memory()) kept.push_back(piece.log->entry.data);
      for (std::uint32_t block = piece.first; block < std::uint32_t{piece.first} + piece.count; ++block) {
        const std::byte* memory = piece.in_memory() ? piece.log->entry.data.data() + piece.data_offset(block) : nullptr;
        pieces[block] = {memory, piece.slot, piece.crc_of(block)};
      }
    }
  }
  Status outcome;
  for (std::uint64_t left = content.present; left != 0 && outcome.ok(); left &= left - 1) {
    const LayerPiece& piece = pieces[static_cast<std::size_t>(std::countr_zero(left))];
    content.crc.push_back(piece.crc);
  }
  auto blocks = static_cast<std::size_t>(std::popcount(content.present));
  Slice bytes = blocks > 0 ? disk_.env().buffers().allocate(blocks * kBlockSize) : Slice();
  std::size_t at = 0;
  for (std::uint64_t left = content.present; left != 0 && outcome.ok();) {
    auto first = static_cast<std::uint32_t>(std::countr_zero(left));
    std::span<std::byte> into = bytes.bytes().subspan(at * kBlockSize);
    std::uint32_t count = 1;
    if (pieces[first].memory) {
      std::memcpy(into.data(), pieces[first].memory, kBlockSize);
    } else {
      while (first + count < kBlocksPerChunk && (left >> (first + count) & 1) && !pieces[first + count].memory &&
             pieces[first + count].slot == pieces[first].slot) {
        ++count;
      }
      into = into.first(std::size_t{count} * kBlockSize);
      std::uint64_t offset = pieces[first].slot * kChunkSize + std::uint64_t{first} * kBlockSize;
      outcome = co_await suspend<Status>(
          [disk, offset, into](StatusCallback next) { disk->data().read(offset, into, std::move(next)); });
      if (!outcome.ok() && outcome.error().code() == ErrorCode::kDiskIo) {
        outcome = Status();
        content.damaged |= co_await read_one_by_one(offset, into) << first;
      }
    }
    left &= ~block_mask(first, count);
    at += count;
  }
  disk_.reads().end(token);
  if (!outcome.ok()) {
    done(Error(ErrorCode::kDiskIo, "reading replica " + to_hex(id_.value()) + " failed: " + outcome.error().message()));
    co_return;
  }
  if (blocks > 0) content.data.push_back(std::move(bytes));
  done(std::move(content));
}

// Blocks that are not to be read as a whole. The answer has a bit for each that cannot be read at all.
Task<std::uint64_t> Replica::read_one_by_one(std::uint64_t offset, std::span<std::byte> into) {
  Disk* disk = &disk_;
  std::uint64_t unreadable = 0;
  for (std::size_t at = 0; at < into.size(); at += kBlockSize) {
    std::uint64_t from = offset + at;
    std::span<std::byte> block = into.subspan(at, kBlockSize);
    Status outcome = co_await suspend<Status>(
        [disk, from, block](StatusCallback next) { disk->data().read(from, block, std::move(next)); });
    if (outcome.ok()) continue;
    std::memset(block.data(), 0, block.size());
    unreadable |= std::uint64_t{1} << at / kBlockSize;
  }
  co_return unreadable;
}

// ---- joining ----

// Whether what this replica has of the time up to base can be brought into the volume's layers: it has every snapshot
// of that time, has reverted no more often than the volume, and what it has of that time is still in the same layers.
bool Replica::is_base_sound(const LayerTree& volume) const {
  const LayerTree& tree = space_->tree();
  if (tree.forks().size() > volume.forks().size()) return false;
  if (!std::equal(tree.forks().begin(), tree.forks().end(), volume.forks().begin())) return false;
  if (!tree.keeps_apart(volume)) return false;
  return std::all_of(volume.snapshots().begin(), volume.snapshots().end(), [&](const auto& entry) {
    const SnapshotRecord& snapshot = entry.second;
    if (snapshot.position.seq > identity_.base) return true;
    const SnapshotRecord* own = tree.find(snapshot.id);
    return own && *own == snapshot;
  });
}

void Replica::adopt_layers(LayerState layers, StatusCallback done) {
  Status valid = check_usable();
  if (valid.ok() && (complete_ || joining_)) {
    valid = Error(ErrorCode::kFailedPrecondition, "replica " + to_hex(id_.value()) + " is not being rebuilt");
  }
  Result<LayerTree> tree = LayerTree::from_state(layers);
  if (valid.ok() && !tree.ok()) valid = tree.error();
  if (valid.ok() && !log_.empty()) {
    valid = Error(ErrorCode::kFailedPrecondition, "layers are adopted before the first entry");
  }
  if (!valid.ok()) return disk_.deferred().call(std::move(done), std::move(valid));
  spawn(run_adopt(std::move(tree).value(), std::move(done)));
}

namespace {

void put_tree(KvBatch& batch, SpaceId space, const LayerTree& tree) {
  batch.remove_range(layer_key(kSnapshotTable, space, 0), layer_key(kSnapshotTable, space, ~LayerNumber{0}));
  for (const auto& [layer, snapshot] : tree.snapshots()) {
    batch.put(layer_key(kSnapshotTable, space, layer), encode_snapshot_record(snapshot));
  }
  batch.put(space_key(kLayerStateTable, space), tree.encode_state());
}

}  // namespace

// Records in layers that the volume does not have are removed, and those of one group merged, before the first entry
// can begin a layer with a number that was used here for something else.
Task<void> Replica::run_adopt(LayerTree volume, StatusCallback done) {
  Replica* self = this;
  Status outcome;
  std::uint64_t generation = identity_.log_generation;
  joined_head_ = volume.head();
  bool sound = is_base_sound(volume);
  bool same = tree().same_layers(volume) && tree().revision() == volume.revision();
  if (!sound || !same || !keeps_pins(sound)) outcome = co_await store_adopted(volume, sound);
  if (outcome.ok() && !space_->merges().empty()) {
    outcome = co_await suspend<Status>([self](StatusCallback next) {
      self->space_->when_merged(std::move(next));
      self->disk_.destager().note_work(true);
    });
  }
  if (outcome.ok() && (joining_ || identity_.log_generation != generation)) {
    outcome = Error(ErrorCode::kCancelled, "a new join began");
  }
  // Not what its own log did after that: it is gone.
  if (outcome.ok()) rearranged_ = volume.revision();
  done(std::move(outcome));
}

// Whether what clones see of this replica is the volume's still, and stays what it is: it was there at base.
bool Replica::keeps_pins(bool sound) const {
  return space_->pins().empty() ||
         (sound && std::all_of(space_->pins().begin(), space_->pins().end(),
                               [this](const auto& pin) { return pin.second.position.seq <= identity_.base; }));
}

void Replica::adopt_in_place(KvBatch& batch, const LayerTree& volume) {
  SpaceId space = space_->id();
  put_tree(batch, space, volume);
  batch.remove_range(layer_key(kMergeTable, space, 0), layer_key(kMergeTable, space, ~LayerNumber{0}));
  space_->put_merges(batch, {{0, 0}});
  space_->adopt(volume);
  space_->clear_merges();
  space_->add_merges({{0, 0}});
  disk_.records().forget(space);
}

// Nothing of what is here counts any more. Clones do see some of it: it is left to them.
void Replica::begin_anew(KvBatch& batch, const LayerTree& volume) {
  disk_.put_left(batch, *space_);
  disk_.leave(*space_);
  space_ = &disk_.add_space(disk_.unused_space_id(), LayerTree(), std::nullopt);
  space_->adopt(volume);
  put_tree(batch, space_->id(), volume);
  identity_.base = Seq(0);
  identity_.linked = true;
  identity_.space = space_->id();
}

Task<Status> Replica::store_adopted(const LayerTree& volume, bool sound) {
  Disk* disk = &disk_;
  (void)co_await suspend<bool>([disk](Callback<void(bool)> next) {
    auto* waiting = new Callback<void(bool)>(std::move(next));
    disk->destager().pause([waiting] {
      std::unique_ptr<Callback<void(bool)>> owned(waiting);
      (*owned)(true);
    });
  });
  identity_.layered = true;
  if (!sound) identity_.base = Seq(0);
  KvBatch batch;
  if (keeps_pins(sound)) {
    adopt_in_place(batch, volume);
  } else {
    begin_anew(batch, volume);
  }
  batch.put(replica_key(kIdentityTable, id_), encode_identity(identity_));
  disk_.note_records_changed();
  Status stored = co_await suspend<Status>(
      [disk, &batch](StatusCallback next) { disk->kv().write(std::move(batch), true, std::move(next)); });
  if (!stored.ok()) disk_.fail(stored.error());
  disk_.destager().resume();
  co_return stored;
}

}  // namespace holdfast::store
