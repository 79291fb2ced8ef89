// Replica: the ReplicaStore. Its log since `applied`, and what that changes (the overlay).
// Reading: replica_read.cc. Snapshots: replica_layers.cc. Rebuild: replica_rebuild.cc. Thread: reactor of the store.
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <vector>

#include "base/task.h"
#include "store/chunk_record.h"
#include "store/chunk_view.h"
#include "store/log_entry.h"
#include "store/overlay.h"
#include "store/space.h"
#include "store/store.h"

namespace holdfast::store {

class Disk;

// Epoch starts kept per replica; older ones are forgotten.
inline constexpr std::size_t kHistoryMax = 1'000;
// Payloads of so many blocks leave the message they came in.
inline constexpr std::uint32_t kCopiedBlocksMax = 2;

class Replica final : public ReplicaStore {
 public:
  Replica(Disk& disk, ReplicaId id, ReplicaIdentity identity, ReplicaApplied applied, Space& space);

  // ---- ReplicaStore ----
  ReplicaInfo info() const override;
  void promise(Epoch epoch, StatusCallback done) override;
  void append(Entry entry, StatusCallback done) override;
  void flush(StatusCallback done) override;
  bool accepts_more() const override;
  void on_ready(Callback<void()> ready) override { ready_ = std::move(ready); }
  void refuse_waiting() override;
  void set_committed(Seq seq) override;
  void read(BlockRange blocks, Callback<void(Result<ReadOutcome>)> done) override;
  void map(BlockRange blocks, Callback<void(Result<ReadOutcome>)> done) override;
  std::vector<SnapshotInfo> snapshots() const override;
  void read_snapshot(SnapshotId snapshot, BlockRange blocks, bool map_only,
                     Callback<void(Result<ReadOutcome>)> done) override;
  void read_log(Seq first, Seq last, Callback<void(Result<std::vector<Entry>>)> done) override;
  void layers(Callback<void(Result<LayerState>)> done) override;
  LogPosition layers_revision() const override;
  LogPosition layers_rearranged() const override { return rearranged_; }
  void list_chunks(ChunkIndex first, ChunkIndex end, Seq after, std::size_t max,
                   Callback<void(Result<std::vector<ChunkVersion>>)> done) override;
  void read_chunk(ChunkIndex chunk, Callback<void(Result<ChunkContent>)> done) override;
  void read_layer(ChunkLayer layer, Callback<void(Result<ChunkContent>)> done) override;
  void join(JoinRequest request, StatusCallback done) override;
  void adopt_layers(LayerState layers, StatusCallback done) override;
  void unknown_chunks(ChunkIndex first, ChunkIndex end, std::vector<ChunkVersion> source,
                      Callback<void(Result<std::vector<ChunkLayer>>)> done) override;
  void fill_chunk(ChunkLayer layer, ChunkContent content, StatusCallback done) override;
  void finish_rebuild(StatusCallback done) override;

  // ---- for the disk and the destager ----
  struct Fill {
    ChunkContent content;
    StatusCallback done;
  };

  ReplicaId id() const { return id_; }
  const ReplicaIdentity& identity() const { return identity_; }
  bool complete() const { return complete_; }
  bool deleted() const { return deleted_; }
  Overlay& overlay() { return overlay_; }
  std::deque<LogEntry>& log() { return log_; }
  std::map<ChunkLayer, std::deque<Fill>>& fills() { return fills_; }
  LogPosition last() const { return last_; }
  // Whether the oldest entry of the log may be applied now.
  bool may_apply(const LogEntry& log) const {
    return log.journalled && (apply_all_ || log.entry.position.seq <= std::max(committed_, applied_through_));
  }
  // Whether its log begins in this batch of the journal, with an entry that is not known to be committed.
  bool holds_up(std::uint64_t batch) const {
    return !log_.empty() && log_.front().journalled && log_.front().batch == batch && !may_apply(log_.front());
  }
  // Of what it has up to now. docs/consistency.md, "A log that nobody commits".
  void apply_uncommitted();
  bool has_work() const { return !fills_.empty() || (!log_.empty() && may_apply(log_.front())); }
  // What will be stored once entries up to `through` are applied.
  ReplicaApplied applied_at(const LogEntry* through) const;
  // The entries up to applied.applied are in records now.
  void on_applied(const ReplicaApplied& applied);
  // ---- layers ----
  Space& space() { return *space_; }
  const Space& space() const { return *space_; }
  // What the log says.
  const LayerTree& tree() const { return space_->tree(); }
  // The segment (overlay.h) of what is applied now, and of what is appended now.
  Seq applied_segment() const { return applied_segment_; }
  Seq segment() const { return segment_; }
  // Whether one of the pieces that are left is data of the segment that is being applied.
  bool has_data_to_apply(const ChunkOverlay& overlay) const;
  // Metadata of an entry that changes layers, after so many snapshots that are in the same batch; the replica itself
  // follows with on_applied().
  void put_layer_change(KvBatch& batch, const LogEntry& log, std::size_t snapshots_before);
  // Where a read begins: nullopt: what the head holds with all entries (below `limit`, if there is one).
  struct Viewpoint {
    std::optional<LayerNumber> layer;
    std::optional<Seq> limit;
  };
  Result<Viewpoint> viewpoint_of(std::optional<SnapshotId> snapshot) const;

  void on_journalled(const LogEntry& log);
  // Recovery: an entry that was in the journal. JOURNAL_DAMAGED when it does not follow.
  Status recover(LogEntry log);
  void try_waiting();
  // Fails what waits here.
  void fail_waiting(const Error& error);
  void tell_ready();
  void mark_deleted() { deleted_ = true; }
  // Deletion: forgets the log and gives back what it held; returns the slots of direct writes.
  std::vector<std::uint64_t> discard_log();

 private:
  struct Waiting {
    Entry entry;
    StatusCallback done;
  };
  // An entry of the log that changes layers and is not applied yet.
  struct PendingLayerOp {
    LogPosition position;
    Op op;
    SnapshotId snapshot;
    std::uint64_t size_blocks;  // of the volume at that point
  };
  enum class Admission { kYes, kNo, kWait };
  // A direct piece that read_log has to fetch from its slot.
  struct LogPiece {
    std::size_t entry;
    DirectPiece piece;
  };

  Status check_usable() const;
  Status check_range(BlockRange blocks) const;
  Status check_entry(const Entry& entry) const;
  bool try_append(Entry& entry, StatusCallback& done);
  bool has_slot_for_sure(ChunkIndex chunk);
  Admission admit(BlockRange blocks, bool& direct);
  bool room_with_direct(BlockRange blocks, Admission& admission);
  Admission room_in_place(BlockRange blocks);
  void add_to_log(Entry entry, StatusCallback done, bool direct);
  void settle_payload(Entry& entry);
  void take_direct_slots(LogEntry& log);
  void write_direct(LogEntry& log);
  void note_position(LogPosition position);
  void store_identity(StatusCallback done);
  Epoch epoch_of(Seq seq) const;
  void note_layer_op(const LogEntry& log);
  Status check_layer_entry(const Entry& entry) const;
  // As of every entry appended.
  bool knows_snapshot(SnapshotId id) const;
  bool has_pending(Op op) const;
  Seq end_of_head() const;
  void apply_layer_change(const LogEntry& log);
  bool is_base_sound(const LayerTree& volume) const;
  Task<void> run_adopt(LayerTree volume, StatusCallback done);
  Task<Status> store_adopted(const LayerTree& volume, bool sound);
  bool keeps_pins(bool sound) const;
  void adopt_in_place(KvBatch& batch, const LayerTree& volume);
  void begin_anew(KvBatch& batch, const LayerTree& volume);
  Task<void> run_layers(Callback<void(Result<LayerState>)> done);
  Task<void> run_read_layer(ChunkLayer layer, Callback<void(Result<ChunkContent>)> done);
  Task<std::uint64_t> read_one_by_one(std::uint64_t offset, std::span<std::byte> into);
  Status verify_fill(ChunkIndex chunk, ChunkContent& content);
  Task<void> run_join(JoinRequest request, StatusCallback done);
  Task<void> run_finish(StatusCallback done);
  struct StackPage;
  Task<Result<StackPage>> read_stacks(ChunkIndex first, ChunkIndex end);
  Task<Status> read_space(const Space* space, ChunkIndex first, StackPage* page);
  Task<Status> read_inherited(const Space* space, ChunkIndex first, StackPage* page);
  Task<Result<std::vector<ChunkVersion>>> collect_versions(ChunkIndex first, ChunkIndex end, Seq after,
                                                           std::size_t max);
  Task<void> run_list(ChunkIndex first, ChunkIndex end, Seq after, std::size_t max,
                      Callback<void(Result<std::vector<ChunkVersion>>)> done);
  Task<void> run_unknown(ChunkIndex first, ChunkIndex end, std::vector<ChunkVersion> source,
                         Callback<void(Result<std::vector<ChunkLayer>>)> done);
  Task<void> run_read_log(std::vector<Entry> entries, std::vector<LogPiece> pieces, std::uint64_t token,
                          Callback<void(Result<std::vector<Entry>>)> done);

  Disk& disk_;
  ReplicaId id_;
  ReplicaIdentity identity_;  // as last handed to the metadata
  bool complete_;             // as durable
  Epoch promised_;            // as durable
  ReplicaApplied applied_;    // as durable
  LogPosition last_;
  Seq committed_;
  Seq applied_through_;  // entries up to here may be applied though not known to be committed
  std::uint64_t size_blocks_;
  std::vector<EpochStart> history_;
  std::deque<LogEntry> log_;  // (applied, last]
  Overlay overlay_;
  std::map<ChunkLayer, std::deque<Fill>> fills_;
  Space* space_;            // the disk's
  LogPosition rearranged_;  // of the last DROP_SNAPSHOT or REVERT appended
  // While being rebuilt: the newest layer that the source was asked about.
  LayerNumber joined_head_ = ~LayerNumber{0};
  std::deque<PendingLayerOp> pending_layer_ops_;
  Seq segment_, applied_segment_;
  std::vector<StatusCallback> layer_waiters_;  // for pending_layer_ops_ to be applied
  std::deque<Waiting> waiting_;                // appends that wait for room or for a join
  std::optional<std::uint64_t> last_slot_;     // of the last direct write, to go on behind it
  bool joining_ = false;
  bool apply_all_ = false;
  bool deleted_ = false;
  mutable bool refused_ = false;  // accepts_more() said false
  Callback<void()> ready_;
};

}  // namespace holdfast::store
