// Round: one pass of the destager (destager.h lists its steps). Thread: reactor of the store.
#pragma once

#include <vector>

#include "base/task.h"
#include "store/chunk_plan.h"
#include "store/journal_format.h"
#include "store/replica.h"

namespace holdfast::store {

class Disk;

class Round {
 public:
  explicit Round(Disk& disk) : disk_(disk) {}

  // What to apply; false when there is nothing. Called once, first.
  bool choose();
  // Whether entries that could be applied were left for the next round because layers change.
  bool cut() const { return cut_; }
  // Applies it. On failure the disk has failed.
  Task<void> run();

 private:
  // A chunk that entries touch, after so many of the part's snapshots.
  struct Touched {
    ChunkIndex chunk;
    std::uint32_t snapshots;

    bool operator==(const Touched&) const = default;
    auto operator<=>(const Touched&) const = default;
  };
  // The entries of one replica up to `through` (perhaps none, only fills).
  struct Part {
    Replica* replica;
    const LogEntry* through;
    std::size_t entries;
    ReplicaApplied applied;
    std::vector<Touched> chunks;                 // each once, ascending
    std::vector<const LogEntry*> layer_changes;  // one of any kind, or snapshots
  };
  // One chunk to change in one layer: but for fills that of the head, or of the head after some of the part's
  // snapshots.
  struct Change {
    std::size_t part;
    ChunkLayer place;
    std::unique_ptr<Replica::Fill> fill;
    ChunkView old;               // of another layer than the head's: only `own`
    std::uint64_t shadowed = 0;  // of a fill: blocks that records below hold, which are not its to change
    ChunkPlan plan;

    // Where the record is, or will be.
    LayerNumber layer() const { return old.own ? old.own_layer : place.layer; }
  };
  struct BlockWrite {
    std::uint64_t file_block;
    const std::byte* bytes;
  };
  struct BlockRun {
    std::uint64_t file_block;
    std::size_t first;  // index of its first block in writes_
    std::size_t count;
  };

  bool full() const;
  void choose_entries(Part& part);
  void choose_entry(Part& part, const LogEntry& log);
  void go_past_snapshots(Part& part);
  bool may_go_past(const Part& part, const LogEntry& change) const;
  static bool may_follow(const Part& part, const LogEntry& log);
  static bool is_new_snapshot(const Part& part, const LogEntry& log);
  void choose_fills(Replica& replica, std::size_t part);
  void list_changes();
  Task<Status> apply();
  Task<Status> wait_until_safe();
  Task<Status> load_records();
  void load_next(StatusCallback* done);
  void load_stack(Change& change, StatusCallback done);
  void take_old_view(Change& change, const ChunkView& view);
  void take_old_records(Change& change, const ChunkStack& stack);
  bool in_head(const Change& change) const;
  bool in_new_layer(const Change& change) const;
  Seq segment_of(const Change& change) const;
  Task<Status> make_plans();
  Task<void> copy_blocks();
  void add_write(const Change& change, std::uint32_t block, const std::byte* bytes);
  void list_runs();
  Task<Status> write_blocks();
  void write_next(StatusCallback* done);
  Task<Status> store_metadata();
  void note_record(const Change& change);
  void put_view(const Change& change);
  Task<void> commit();
  Task<void> drop_entries(Part& part);
  Task<void> free_slots();

  Disk& disk_;
  std::vector<Part> parts_;
  std::vector<Change> changes_;
  std::vector<BlockWrite> writes_;
  std::vector<Slice> copied_;  // of the slots that fills replace
  std::vector<BlockRun> runs_;
  JournalState journal_state_;
  std::uint64_t bytes_ = 0;  // of the cache
  std::uint64_t entries_ = 0;
  std::uint64_t touched_ = 0;  // chunks, some perhaps twice
  bool cut_ = false;
  bool new_layers_ = false;   // some change is in a layer that begins in this round
  std::uint64_t ticket_ = 0;  // greatest of the chosen entries
  std::size_t next_ = 0;
  std::size_t in_flight_ = 0;
  Status status_;
};

}  // namespace holdfast::store
