// Opening a disk: format an empty folder, or read the label, the metadata and the journal back.
#include <algorithm>

#include "base/log.h"
#include "store/bytes.h"
#include "store/disk.h"
#include "store/journal_recovery.h"

namespace holdfast::store {

namespace {

constexpr std::size_t kRecordsPerPage = 4'096;
constexpr std::size_t kZeroesPerWrite = 1u << 20;
constexpr std::uint64_t kDeviceProbeBytes = 1u << 20;

}  // namespace

class DiskOpener {
 public:
  DiskOpener(Env& env, StoreOptions options, OpenKv open_kv)
      : env_(env), options_(options), open_kv_(std::move(open_kv)), disk_(std::make_unique<Disk>(env, options)) {}

  Task<Result<std::unique_ptr<DiskStore>>> run() {
    Status status = co_await open_label();
    if (!status.ok()) co_return std::move(status).error();
    status = co_await open_files();
    if (!status.ok()) co_return std::move(status).error();
    if (!formatted_) {
      status = co_await format();
      if (!status.ok()) co_return std::move(status).error();
    }
    status = check_label();
    if (!status.ok()) co_return std::move(status).error();
    set_sizes();
    status = co_await read_metadata();
    if (!status.ok()) co_return std::move(status).error();
    // Whoever formatted it may have failed to sync the label, which can be read all the same until the power fails.
    if (formatted_ && disk_->replicas_.empty()) status = co_await write_label();
    if (!status.ok()) co_return std::move(status).error();
    status = co_await read_chunk_records();
    if (!status.ok()) co_return std::move(status).error();
    status = co_await recover();
    if (!status.ok()) co_return std::move(status).error();
    disk_->grow_if_needed();
    if (disk_->destager_.any_work() || disk_->destager_.any_merges()) disk_->destager_.note_work(false);
    std::unique_ptr<DiskStore> opened = std::move(disk_);
    co_return opened;
  }

 private:
  Error explain(ErrorCode code, const std::string& what) const {
    return Error(code, "disk folder " + options_.directory + ": " + what);
  }

  Task<Result<std::unique_ptr<File>>> open_file(std::string path, FileOptions options) {
    Env* env = &env_;
    Result<std::unique_ptr<File>> file = co_await suspend<Result<std::unique_ptr<File>>>(
        [env, &path, options](OpenCallback done) { env->open_file(path, options, std::move(done)); });
    co_return std::move(file);
  }

  Task<Status> read_file(File* file, std::uint64_t offset, std::span<std::byte> into) {
    Status status = co_await suspend<Status>(
        [file, offset, into](StatusCallback done) { file->read(offset, into, std::move(done)); });
    co_return status;
  }
  Task<Status> write_file(File* file, std::uint64_t offset, std::span<const std::byte> bytes) {
    Status status = co_await suspend<Status>(
        [file, offset, &bytes](StatusCallback done) { file->write(offset, std::span(&bytes, 1), std::move(done)); });
    co_return status;
  }
  Task<Status> sync_file(File* file) {
    Status status = co_await suspend<Status>([file](StatusCallback done) { file->sync(std::move(done)); });
    co_return status;
  }
  Task<Status> allocate(File* file, std::uint64_t length) {
    Status status =
        co_await suspend<Status>([file, length](StatusCallback done) { file->allocate(0, length, std::move(done)); });
    co_return status;
  }

  // Takes the lock. The label is missing in a new folder, and incomplete when formatting was interrupted.
  Task<Status> open_label() {
    Result<std::unique_ptr<File>> file = co_await open_file(options_.directory + "/disk.json", {true, true});
    if (!file.ok()) co_return std::move(file).error();
    disk_->label_file_ = std::move(file).value();
    if (disk_->label_file_->size() < kBlockSize) co_return Status();
    Slice block = env_.buffers().allocate(kBlockSize);
    Status status = co_await read_file(disk_->label_file_.get(), 0, block.bytes());
    if (!status.ok()) co_return std::move(status).error();
    Result<DiskLabel> label = decode_disk_label(block.text());
    if (!label.ok() && label.error().code() == ErrorCode::kNotFound) co_return Status();
    if (!label.ok()) co_return explain(label.error().code(), label.error().message());
    disk_->label_ = std::move(label).value();
    formatted_ = true;
    co_return Status();
  }

  Task<Status> open_files() {
    Result<std::unique_ptr<File>> data = co_await open_file(options_.directory + "/data", {!formatted_, false});
    if (!data.ok()) co_return explain(data.error().code(), "cannot open its data file: " + data.error().message());
    disk_->data_ = std::move(data).value();
    std::string path = options_.journal_path.empty() ? options_.directory + "/journal" : options_.journal_path;
    Result<std::unique_ptr<File>> journal = co_await open_file(path, {!formatted_, true});
    if (!journal.ok())
      co_return explain(journal.error().code(), "cannot open its journal: " + journal.error().message());
    disk_->journal_file_ = std::move(journal).value();
    Task<Result<std::unique_ptr<Kv>>> opening = open_kv_(env_, options_.directory + "/meta");
    Result<std::unique_ptr<Kv>> kv = co_await std::move(opening);
    if (!kv.ok()) co_return explain(kv.error().code(), kv.error().message());
    disk_->kv_ = std::move(kv).value();
    disk_->kv_->on_space([disk = disk_.get()] { disk->wake_writers(); });
    co_return Status();
  }

  Status check_label() const {
    const DiskLabel& label = disk_->label_;
    if (!options_.expected_disk_id.empty() && label.id != options_.expected_disk_id) {
      return explain(ErrorCode::kWrongDisk, "it holds disk " + label.id + ", not " + options_.expected_disk_id +
                                                "; check what is mounted there");
    }
    if (disk_->journal_file_->size() < label.journal_bytes) {
      return explain(ErrorCode::kWrongDisk, "its journal is shorter than it was made; check the journal's path");
    }
    return Status();
  }

  // ---- formatting ----

  // Refuses to format over anything: data without a label is a disk that lost its label, not an empty folder.
  Task<Status> check_empty() {
    if (!options_.expected_disk_id.empty()) {
      co_return explain(ErrorCode::kWrongDisk, "it holds no disk, and disk " + options_.expected_disk_id +
                                                   " is expected there; check what is mounted");
    }
    Result<KvPairs> pairs(KvPairs{});
    Kv* kv = disk_->kv_.get();
    pairs = co_await suspend<Result<KvPairs>>(
        [kv](Callback<void(Result<KvPairs>)> done) { kv->range("", "\xff", 1, std::move(done)); });
    if (!pairs.ok()) co_return std::move(pairs).error();
    bool empty = true;
    for (auto& [key, value] : *pairs) {
      if (key != kJournalKey) empty = false;
    }
    std::uint64_t probe = std::min(disk_->journal_file_->size(), kDeviceProbeBytes) / kBlockSize * kBlockSize;
    if (probe > 0) {
      Slice start = env_.buffers().allocate(probe);
      Status status = co_await read_file(disk_->journal_file_.get(), 0, start.bytes());
      if (!status.ok()) co_return std::move(status).error();
      for (std::byte byte : start.bytes()) empty = empty && byte == std::byte{0};
    }
    if (disk_->data_->size() > 0) empty = false;
    if (!empty) {
      co_return explain(ErrorCode::kWrongDisk,
                        "there is data but no valid disk.json; if nothing of it is needed, empty the folder (and wipe "
                        "the start of the journal device) and try again");
    }
    co_return Status();
  }

  Task<Status> format() {
    Status status = co_await check_empty();
    if (!status.ok()) co_return std::move(status).error();
    File* journal = disk_->journal_file_.get();
    DiskLabel& label = disk_->label_;
    label.id = to_hex(env_.random()) + to_hex(env_.random());
    label.journal_key = env_.random();
    label.journal_bytes = options_.journal_bytes / kBlockSize * kBlockSize;
    if (label.journal_bytes < std::uint64_t{kJournalBlocksMin} * kBlockSize) {
      co_return explain(ErrorCode::kInvalidArgument, "a journal needs at least 4 MiB");
    }
    if (journal->size() < label.journal_bytes) {
      status = co_await allocate(journal, label.journal_bytes);
      if (!status.ok()) co_return std::move(status).error();
    }
    // Zeros once, so that an append later changes nothing but content.
    Slice zeros = env_.buffers().allocate(kZeroesPerWrite);
    std::memset(zeros.data(), 0, zeros.size());
    for (std::uint64_t at = 0; at < label.journal_bytes; at += kZeroesPerWrite) {
      std::uint64_t length = std::min<std::uint64_t>(kZeroesPerWrite, label.journal_bytes - at);
      status = co_await write_file(journal, at, zeros.bytes().first(length));
      if (!status.ok()) co_return std::move(status).error();
    }
    status = co_await sync_file(journal);
    if (!status.ok()) co_return std::move(status).error();
    JournalState state;
    state.runs.push_back({1, 1});
    status = co_await store_journal_state(state);
    if (!status.ok()) co_return std::move(status).error();
    status = co_await write_label();
    co_return status;
  }

  // Durable before there is anything to lose without it.
  Task<Status> write_label() {
    std::string text = encode_disk_label(disk_->label_);
    Slice block = env_.buffers().copy_of(std::as_bytes(std::span(text)));
    Status status = co_await write_file(disk_->label_file_.get(), 0, block.bytes());
    if (status.ok()) status = co_await sync_file(disk_->label_file_.get());
    co_return status;
  }

  Task<Status> store_journal_state(JournalState state) {
    KvBatch batch;
    batch.put(kJournalKey, encode_journal_state(state));
    Kv* kv = disk_->kv_.get();
    Status status = co_await suspend<Status>(
        [kv, &batch](StatusCallback done) { kv->write(std::move(batch), true, std::move(done)); });
    co_return status;
  }

  void set_sizes() {
    Disk& disk = *disk_;
    disk.slots_.set_size(disk.data_->size() / kChunkSize);
    disk.set_total_slots(disk.slots_possible());
  }

  // ---- reading back ----

  Task<Result<KvPairs>> read_table(char table) {
    Kv* kv = disk_->kv_.get();
    Result<KvPairs> pairs = co_await suspend<Result<KvPairs>>([kv, table](Callback<void(Result<KvPairs>)> done) {
      kv->range(table_begin(table), table_end(table), SIZE_MAX, std::move(done));
    });
    co_return std::move(pairs);
  }

  Task<Status> read_metadata() {
    Kv* kv = disk_->kv_.get();
    Result<std::optional<std::string>> state = co_await suspend<Result<std::optional<std::string>>>(
        [kv](Callback<void(Result<std::optional<std::string>>)> done) {
          kv->get(std::string(kJournalKey), std::move(done));
        });
    if (!state.ok()) co_return std::move(state).error();
    if (!*state) co_return explain(ErrorCode::kJournalDamaged, "its metadata is gone; remove the disk and format it");
    Result<JournalState> decoded = decode_journal_state(**state);
    if (!decoded.ok()) co_return std::move(decoded).error();
    journal_state_ = std::move(decoded).value();
    if (journal_state_.runs.empty()) co_return explain(ErrorCode::kCorrupt, "its metadata names no journal generation");
    Result<KvPairs> identities = co_await read_table(kIdentityTable);
    if (!identities.ok()) co_return std::move(identities).error();
    Result<KvPairs> applied = co_await read_table(kAppliedTable);
    if (!applied.ok()) co_return std::move(applied).error();
    if (identities->size() != applied->size())
      co_return explain(ErrorCode::kCorrupt, "its metadata contradicts itself");
    for (std::size_t i = 0; i < identities->size(); ++i) {
      ReplicaId id = replica_of_key((*identities)[i].first);
      Result<ReplicaIdentity> identity = decode_identity((*identities)[i].second);
      if (!identity.ok()) co_return std::move(identity).error();
      Result<ReplicaApplied> position = decode_applied((*applied)[i].second);
      if (!position.ok()) co_return std::move(position).error();
      if (replica_of_key((*applied)[i].first) != id) {
        co_return explain(ErrorCode::kCorrupt, "its metadata contradicts itself");
      }
      if (!identity->linked) identity->space = SpaceId(id.value());
      Status read = co_await read_space(identity->space, identity->layered);
      if (!read.ok()) co_return read;
      Space& space = *disk_->find_space(identity->space);
      auto replica =
          std::make_unique<Replica>(*disk_, id, std::move(identity).value(), std::move(position).value(), space);
      disk_->replicas_.emplace(id, std::move(replica));
    }
    Status linked = co_await read_links();
    co_return linked;
  }

  Task<Status> read_space(SpaceId id, bool layered) {
    if (disk_->find_space(id)) co_return explain(ErrorCode::kCorrupt, "two replicas claim the same records");
    Result<LayerTree> tree = LayerTree::decode("", {});
    if (layered) tree = co_await read_layers(id);
    if (!tree.ok()) co_return std::move(tree).error();
    Kv* kv = disk_->kv_.get();
    std::string key = space_key(kLinkTable, id);
    Result<std::optional<std::string>> value = co_await suspend<Result<std::optional<std::string>>>(
        [kv, &key](Callback<void(Result<std::optional<std::string>>)> done) { kv->get(key, std::move(done)); });
    if (!value.ok()) co_return std::move(value).error();
    std::optional<SpaceLink> link;
    if (*value) {
      Result<SpaceLink> decoded = decode_link(**value);
      if (!decoded.ok()) co_return std::move(decoded).error();
      link = std::move(decoded).value();
    }
    Status merges = co_await read_merges(&disk_->add_space(id, std::move(tree).value(), std::move(link)));
    co_return merges;
  }

  // The spaces that replicas have left, and what links to what.
  Task<Status> read_links() {
    Result<KvPairs> left = co_await read_table(kLeftTable);
    if (!left.ok()) co_return std::move(left).error();
    for (const auto& [key, value] : *left) {
      if (value != encode_left()) co_return explain(ErrorCode::kCorrupt, "its metadata contradicts itself");
      Status space = co_await read_space(space_of_key(key), true);
      if (!space.ok()) co_return space;
    }
    for (const auto& [id, space] : disk_->spaces_) {
      if (!space->link()) continue;
      Space* below = disk_->find_space(space->link()->space);
      if (!below) co_return explain(ErrorCode::kCorrupt, "a linked clone has lost what it is linked to");
      below->pin(id, space->link()->snapshot);
    }
    for (const auto& [key, value] : *left) {
      Space* space = disk_->find_space(space_of_key(key));
      if (!space) continue;
      if (!space->pins().empty()) {
        space->leave();
        continue;
      }
      Status removed = co_await remove_left(space);
      if (!removed.ok()) co_return removed;
    }
    co_return Status();
  }

  // A crash came before the space that nobody sees any more was removed. What it is linked to may be like that, too.
  Task<Status> remove_left(Space* space) {
    while (space) {
      KvBatch batch;
      put_space_removal(batch, space->id());
      Space* below = space->link() ? disk_->find_space(space->link()->space) : nullptr;
      if (below) {
        below->put_merges(batch, below->try_unpin(space->id()));
        below->add_merges(below->unpin(space->id()));
      }
      Kv* kv = disk_->kv_.get();
      Status removed = co_await suspend<Status>(
          [kv, &batch](StatusCallback done) { kv->write(std::move(batch), true, std::move(done)); });
      if (!removed.ok()) co_return removed;
      disk_->spaces_.erase(space->id());
      space = below && below->left() && below->pins().empty() ? below : nullptr;
    }
    co_return Status();
  }

  Task<Result<KvPairs>> read_layer_table(char table, SpaceId space) {
    Kv* kv = disk_->kv_.get();
    Result<KvPairs> pairs = co_await suspend<Result<KvPairs>>([=](Callback<void(Result<KvPairs>)> done) {
      kv->range(layer_key(table, space, 0), layer_key(table, space, ~LayerNumber{0}), SIZE_MAX, std::move(done));
    });
    co_return std::move(pairs);
  }

  Task<Result<LayerTree>> read_layers(SpaceId space) {
    Kv* kv = disk_->kv_.get();
    std::string key = space_key(kLayerStateTable, space);
    Result<std::optional<std::string>> state = co_await suspend<Result<std::optional<std::string>>>(
        [kv, &key](Callback<void(Result<std::optional<std::string>>)> done) { kv->get(key, std::move(done)); });
    if (!state.ok()) co_return std::move(state).error();
    Result<KvPairs> pairs = co_await read_layer_table(kSnapshotTable, space);
    if (!pairs.ok()) co_return std::move(pairs).error();
    std::vector<SnapshotRecord> snapshots;
    for (const auto& [name, value] : *pairs) {
      Result<SnapshotRecord> snapshot = decode_snapshot_record(value);
      if (!snapshot.ok()) co_return std::move(snapshot).error();
      snapshots.push_back(std::move(snapshot).value());
    }
    co_return LayerTree::decode(state->value_or(""), std::move(snapshots));
  }

  Task<Status> read_merges(Space* space) {
    Result<KvPairs> pairs = co_await read_layer_table(kMergeTable, space->id());
    if (!pairs.ok()) co_return std::move(pairs).error();
    for (const auto& [name, value] : *pairs) {
      Result<MergeJob> job = decode_merge_job(value);
      if (!job.ok()) co_return std::move(job).error();
      space->add_merge(ByteReader(std::string_view(name).substr(9)).u64_big_endian(), *job);
    }
    co_return Status();
  }

  Task<Status> read_chunk_records() {
    for (char table : {kChunkTable, kLayeredTable}) {
      Status read = co_await read_chunk_table(table);
      if (!read.ok()) co_return read;
    }
    co_return Status();
  }

  Task<Status> read_chunk_table(char table) {
    std::string from = table_begin(table);
    std::string to = table_end(table);
    for (bool more = true; more;) {
      Kv* kv = disk_->kv_.get();
      Result<KvPairs> page = co_await suspend<Result<KvPairs>>([kv, &from, &to](Callback<void(Result<KvPairs>)> done) {
        kv->range(from, to, kRecordsPerPage, std::move(done));
      });
      if (!page.ok()) co_return std::move(page).error();
      for (const auto& [key, value] : *page) {
        Status taken = take_record(key, value);
        if (!taken.ok()) co_return std::move(taken).error();
      }
      more = page->size() == kRecordsPerPage;
      if (more) from = page->back().first + std::string(1, '\0');
    }
    co_return Status();
  }

  Status take_record(const std::string& key, const std::string& value) {
    ASSIGN_OR_RETURN(ChunkRecord record, decode_chunk_record(value));
    Space* space = disk_->find_space(space_of_key(key));
    if (!space) return explain(ErrorCode::kCorrupt, "a chunk record has no replica");
    if (record.slot == kNoSlot) return Status();
    if (record.slot >= disk_->slots_.size()) {
      return explain(ErrorCode::kCorrupt, "its data file is shorter than its metadata says");
    }
    if (disk_->slots_.is_taken(record.slot)) return explain(ErrorCode::kCorrupt, "two chunks claim the same slot");
    disk_->slots_.take(record.slot);
    space->add_used(1);
    space->note_layer_slots(key[0] == kLayeredTable ? layer_of_layered_key(key) : kFirstLayer, 1);
    return Status();
  }

  bool is_needed(const EntryHeader& header) const {
    auto replica = disk_->replicas_.find(ReplicaId(header.replica));
    return replica != disk_->replicas_.end() && replica->second->identity().log_generation == header.log_generation &&
           header.seq > replica->second->last().seq.value();
  }

  Task<Status> recover() {
    Disk& disk = *disk_;
    JournalGeometry geometry{disk.label_.journal_key, disk.label_.journal_bytes / kBlockSize};
    Result<RecoveredJournal> found =
        co_await recover_journal(&env_, disk.journal_file_.get(), disk.data_.get(), geometry, journal_state_,
                                 [this](const EntryHeader& header) { return is_needed(header); });
    if (!found.ok()) co_return explain(found.error().code(), found.error().message());
    // What was found counts as durable from now on, and what was cut off can never come back.
    Status status = co_await sync_file(disk.journal_file_.get());
    if (!status.ok()) co_return std::move(status).error();
    status = co_await sync_file(disk.data_.get());
    if (!status.ok()) co_return std::move(status).error();
    journal_state_.runs.push_back({journal_state_.runs.back().generation + 1, found->next_number});
    journal_state_.prune();
    status = co_await store_journal_state(journal_state_);
    if (!status.ok()) co_return std::move(status).error();

    std::vector<Journal::Recovered> batches;
    for (const RecoveredBatch& batch : found->batches) {
      batches.push_back({batch.number, batch.position, batch.blocks, static_cast<std::uint32_t>(batch.entries.size())});
    }
    disk.journal_ = std::make_unique<Journal>(env_, *disk.journal_file_, *disk.data_, geometry, journal_state_,
                                              std::move(batches), found->next_position);
    Disk* self = &disk;
    disk.journal_->on_journalled([self](LogEntry& log) { self->on_journalled(log); });
    disk.journal_->on_full([self] { self->relieve_journal(); });
    disk.journal_->on_failure([self](const Error& error) { self->fail(error); });
    for (RecoveredBatch& batch : found->batches) {
      for (RecoveredEntry& entry : batch.entries) {
        status = replay(batch.number, entry);
        if (!status.ok()) co_return std::move(status).error();
      }
    }
    if (found->lost_acknowledged) {
      log_warn("store",
               "disk " + disk.label_.id + ": a power loss took entries that were acknowledged but never flushed");
    }
    co_return Status();
  }

  Status replay(std::uint64_t batch, RecoveredEntry& recovered) {
    const EntryHeader& header = recovered.header;
    LogEntry log;
    log.entry.position = {Epoch(header.epoch), Seq(header.seq)};
    log.entry.op = static_cast<Op>(header.op);
    if (log.changes_blocks()) {
      log.entry.blocks = {BlockIndex(header.first_block), header.block_count};
    } else if (log.changes_layers()) {
      log.entry.snapshot = SnapshotId(header.first_block);
    } else {
      log.entry.size_blocks = header.first_block;
    }
    log.entry.deallocate = (header.flags & 1) != 0;
    log.entry.crc = std::move(recovered.crc);
    log.entry.data = std::move(recovered.data);
    log.replica = ReplicaId(header.replica);
    log.log_generation = header.log_generation;
    log.committed = Seq(header.committed);
    log.batch = batch;
    log.journalled = true;
    for (const DirectPiece& piece : recovered.direct) {
      log.direct[log.direct_count++] = piece;
      if (disk_->slots_.is_taken(piece.slot)) {
        return explain(ErrorCode::kJournalDamaged, "a journal entry claims a slot that a chunk owns");
      }
      disk_->slots_.take(piece.slot);
    }
    log.weigh();
    return disk_->replicas_.find(log.replica)->second->recover(std::move(log));
  }

  Env& env_;
  StoreOptions options_;
  OpenKv open_kv_;
  std::unique_ptr<Disk> disk_;
  bool formatted_ = false;
  JournalState journal_state_;
};

namespace {

Task<Result<std::unique_ptr<DiskStore>>> open_disk(Env* env, StoreOptions options, OpenKv open_kv) {
  DiskOpener opener(*env, std::move(options), std::move(open_kv));
  Result<std::unique_ptr<DiskStore>> opened = co_await opener.run();
  co_return std::move(opened);
}

}  // namespace

Task<Result<std::unique_ptr<DiskStore>>> DiskStore::open(Env& env, StoreOptions options, OpenKv open_kv) {
  return open_disk(&env, std::move(options), std::move(open_kv));
}

}  // namespace holdfast::store
