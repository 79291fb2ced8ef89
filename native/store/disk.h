// Disk: the DiskStore. Owns the files, the metadata, the journal, the slots and the replicas, and decides about space
// and backpressure. Opening and recovery: disk_open.cc. Making and deleting replicas: disk_spaces.cc. Destaging:
// destager.h. One replica: replica.h.
//
// Space invariant: slots taken + slots reserved <= slots that exist in the data file. Every chunk that the log may have
// to give a slot has one reserved, so destaging never runs out. Thread: reactor of the Env.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "store/deferred.h"
#include "store/destager.h"
#include "store/disk_label.h"
#include "store/journal.h"
#include "store/read_tracker.h"
#include "store/record_cache.h"
#include "store/replica.h"
#include "store/slot_allocator.h"
#include "store/store.h"

namespace holdfast::store {

// All that the metadata has of a space.
void put_space_removal(KvBatch& batch, SpaceId id);

class Disk final : public DiskStore {
 public:
  Disk(Env& env, StoreOptions options);
  ~Disk() override;

  // ---- DiskStore ----
  const std::string& disk_id() const override { return label_.id; }
  SpaceInfo space() const override;
  std::string failure() const override { return failure_ ? failure_->message() : std::string(); }
  void create_replica(ReplicaId id, VolumeId volume, std::uint64_t size_blocks, bool complete,
                      StatusCallback done) override;
  void create_linked(ReplicaId id, VolumeId volume, ReplicaId source, SnapshotId snapshot,
                     StatusCallback done) override;
  void delete_replica(ReplicaId id, StatusCallback done) override;
  ReplicaStore* find(ReplicaId id) override;
  std::vector<ReplicaId> list() const override;
  void close(Callback<void()> done) override;

  // ---- for replicas and the destager ----
  Env& env() { return env_; }
  Kv& kv() { return *kv_; }
  File& data() { return *data_; }
  Journal& journal() { return *journal_; }
  SlotAllocator& slots() { return slots_; }
  RecordCache& records() { return records_; }
  ReadTracker& reads() { return reads_; }
  Destager& destager() { return destager_; }
  Deferred& deferred() { return deferred_; }
  const std::map<ReplicaId, std::unique_ptr<Replica>>& replicas() const { return replicas_; }
  const std::map<SpaceId, std::unique_ptr<Space>>& spaces() const { return spaces_; }
  Space* find_space(SpaceId id) {
    auto at = spaces_.find(id);
    return at == spaces_.end() ? nullptr : at->second.get();
  }

  bool failed() const { return failure_.has_value(); }
  const std::optional<Error>& failure_error() const { return failure_; }
  // Every operation from now on fails with DISK_IO.
  void fail(const Error& error);
  // Why new work is refused: failed or closing.
  Status refusal() const;

  // What the head sees of a chunk, if that is in memory; nullptr when it must be fetched.
  const ChunkView* view_if_cached(const Replica& replica, ChunkIndex chunk);
  // Brings it into memory.
  void fetch_view(const Replica& replica, ChunkIndex chunk, StatusCallback done);
  // The chunk changed in this space: nothing that clones see of it is in memory any more either.
  void forget_views(const Space& space, ChunkIndex chunk);
  // The records of all layers of a chunk as of one moment; only those that `viewpoint` needs, if there is one.
  void load_stack(const Space& space, ChunkIndex chunk, std::optional<LayerNumber> viewpoint,
                  Callback<void(Result<ChunkStack>)> done);
  // A batch that changed records was stored; fetches begun before it may have old values.
  void note_records_changed() { ++record_changes_; }
  std::uint64_t record_changes() const { return record_changes_; }

  // ---- spaces (disk_spaces.cc) ----
  SpaceId unused_space_id();
  Space& add_space(SpaceId id, LayerTree tree, std::optional<SpaceLink> link);
  // The replica of this space has gone from it, and clones see it still: as metadata, and in memory.
  void put_left(KvBatch& batch, const Space& space) const;
  void leave(Space& space);

  // ---- space, in slots ----
  struct Need {
    std::uint64_t certain = 0;   // chunks that have no slot for sure
    std::uint64_t possible = 0;  // chunks whose record was not in memory: may dip into the reserve
  };
  enum class Room { kYes, kGrowing, kNo };
  Room room_for(Need need);
  void reserve(std::uint64_t slots) { reserved_ += slots; }
  void unreserve(std::uint64_t slots) {
    CHECK(reserved_ >= slots);
    reserved_ -= slots;
  }
  // Grows the data file when little is left, or less than `wanted` slots that somebody waits for.
  void grow_if_needed(std::uint64_t wanted = 0);
  // Whether the file system, which had no room when it was last asked, is being asked again.
  bool hope_for_growth(std::uint64_t wanted);
  // Ends the use of a slot once no read that has begun can see it.
  void free_slots_later(std::vector<std::uint64_t> slots, Callback<void()> done);

  // ---- cache budget and backpressure ----
  void add_unapplied(const LogEntry& log) {
    cached_bytes_ += log.cached_bytes;
    unapplied_bytes_ += log.written_bytes;
  }
  void remove_unapplied(const LogEntry& log) {
    CHECK(cached_bytes_ >= log.cached_bytes && unapplied_bytes_ >= log.written_bytes);
    cached_bytes_ -= log.cached_bytes;
    unapplied_bytes_ -= log.written_bytes;
  }
  // For CRCs of entries.
  SmallCopies& small_copies() { return small_copies_; }
  // Destaging begins when more is cached, and a round takes about as much.
  std::uint64_t cache_low_mark() const { return options_.cache_bytes / 2; }
  bool above_limits() const;
  bool above_low_marks() const;
  // Has entries applied that nobody says are committed, if they hold up the journal of all replicas.
  void relieve_journal();
  // How many writes to chunks may be in flight: few while there is time, because appends wait behind them on the
  // device.
  std::size_t destage_depth() const;
  void on_journalled(LogEntry& log);
  // Something that writers may wait for has changed: tries waiting appends, tells those who were told to wait.
  void wake_writers();

 private:
  friend class DiskOpener;

  Task<void> run_load_stack(const Space* space, ChunkIndex chunk, std::optional<LayerNumber> viewpoint,
                            Callback<void(Result<ChunkStack>)> done);
  Task<Result<ChunkStack>> read_stack(const Space* space, ChunkIndex chunk, std::optional<LayerNumber> viewpoint);
  Task<Status> read_own_records(const Space* space, ChunkIndex chunk, std::optional<LayerNumber> viewpoint,
                                ChunkStack* stack);
  Task<void> run_fetch_view(const Replica& replica, ChunkIndex chunk, StatusCallback done);
  Task<void> run_delete(Replica* replica, StatusCallback done);
  Status check_creatable(ReplicaId id) const;
  ReplicaIdentity new_identity(ReplicaId id, VolumeId volume, bool complete);
  Task<void> run_create(ReplicaId id, ReplicaIdentity identity, ReplicaApplied applied, std::optional<SpaceLink> link,
                        StatusCallback done);
  Task<void> run_link(ReplicaId id, VolumeId volume, ReplicaId source, SnapshotId snapshot, StatusCallback done);
  void spawn_create(ReplicaId id, ReplicaIdentity identity, ReplicaApplied applied, SpaceLink link,
                    StatusCallback done);
  Task<Status> settle_layers(ReplicaId source);
  Result<SpaceLink> find_link(ReplicaId source, SnapshotId snapshot) const;
  Task<Status> leave_to_clones(Replica* replica);
  Task<Status> remove_space(Space* space, Replica* replica);
  Task<Result<std::vector<std::uint64_t>>> slots_of(const Space* space);
  Task<Status> store_removal(const Replica* replica, KvBatch* batch, std::vector<std::uint64_t> slots);
  void wait_paused(Callback<void(bool)> done);
  Task<void> run_close(Callback<void()> done);
  // As many as were stated, or as there is room for in the file system at this moment.
  std::uint64_t slots_possible() const;
  void set_total_slots(std::uint64_t slots);
  void on_grown(std::uint64_t slots, Status status);

  Env& env_;
  StoreOptions options_;
  DiskLabel label_;
  std::unique_ptr<File> label_file_;  // holds the lock
  std::unique_ptr<File> data_;
  std::unique_ptr<File> journal_file_;
  std::unique_ptr<Kv> kv_;
  std::unique_ptr<Journal> journal_;
  SlotAllocator slots_;
  SmallCopies small_copies_;
  RecordCache records_;
  ReadTracker reads_;
  Deferred deferred_;
  Destager destager_;
  std::map<SpaceId, std::unique_ptr<Space>> spaces_;
  std::map<ReplicaId, std::unique_ptr<Replica>> replicas_;
  std::set<ReplicaId> creating_;
  std::vector<std::unique_ptr<Replica>> deleted_;  // kept: callbacks may still name them
  std::vector<std::unique_ptr<Space>> deleted_spaces_;

  std::uint64_t total_slots_ = 0;  // less than is possible once the file system had no more
  std::uint64_t reserve_slots_ = 0;
  std::uint64_t reserved_ = 0;
  std::uint64_t grow_step_ = 0;
  bool growing_ = false;
  Nanos growth_refused_{};
  Callback<void(bool)> grown_;  // close() waits for this
  std::uint64_t record_changes_ = 0;
  std::uint64_t cached_bytes_ = 0;
  std::uint64_t unapplied_bytes_ = 0;  // of data in the logs, direct writes too
  mutable bool above_ = false;         // with hysteresis
  bool waking_ = false;
  bool closing_ = false;
  std::optional<Error> failure_;
};

}  // namespace holdfast::store
