// Journal: the ring of batches, writing side. Entries gather while batches are in flight and go out together (group
// commit); each batch is one gather write straight from the entries' buffers.
//
// Invariants:
//  - Entries are reported journalled in order of append, when their batch, all batches before and the direct writes of
//    all their entries were written.
//  - A batch is overwritten only after release() of a state whose oldest batch is a later one, which the caller has
//  made
//    durable in the metadata.
//  - flushed_number in a header never exceeds what two completed syncs (journal, and data for direct writes) cover.
// Bounds: kBatchesInFlightMax batches in flight; entries that find no room wait here, in order.
// Thread: reactor of the store. Callbacks of entries may call append() and flush().
#pragma once

#include <deque>
#include <vector>

#include "io/env.h"
#include "store/deferred.h"
#include "store/journal_format.h"
#include "store/log_entry.h"

namespace holdfast::store {

struct JournalGeometry {
  std::uint64_t key = 0;
  std::uint64_t blocks = 0;  // size of the ring
};

class Journal {
 public:
  static constexpr std::uint32_t kBatchesInFlightMax = 4;

  // A batch that recovery found and that still has entries in use.
  struct Recovered {
    std::uint64_t number;
    std::uint64_t position;
    std::uint32_t blocks;
    std::uint32_t live;
  };

  // `state` ends with the run that new batches belong to and is durable. `recovered`: all batches from the oldest on,
  // in order, all of them durable. The files must outlive the journal.
  Journal(Env& env, File& file, File& data, JournalGeometry geometry, JournalState state,
          std::vector<Recovered> recovered, std::uint64_t next_position);

  // The entry must stay where it is until its callback. Its direct writes may be in flight; tell direct_written().
  void append(LogEntry& entry);
  void direct_written(LogEntry& entry);
  // `done` when everything appended before is durable.
  void flush(StatusCallback done) { flush_to(last_ticket_, std::move(done)); }
  void flush_to(std::uint64_t ticket, StatusCallback done);
  // `done` when everything appended before was reported.
  void after_completion(StatusCallback done);

  // An entry of this batch is needed no more.
  void retire(std::uint64_t batch);
  // The state that may be stored now, given what was retired.
  JournalState releasable() const;
  // `state` is durable: space before its oldest batch may be overwritten.
  void release(const JournalState& state);
  bool has_releasable() const { return releasable().oldest_number != state_.oldest_number; }

  std::uint64_t used_blocks() const { return next_position_ - state_.oldest_position; }
  std::uint64_t size_blocks() const { return geometry_.blocks; }
  bool waiting_for_room() const { return waiting_for_room_; }
  // The oldest batch that has an entry in use.
  std::uint64_t oldest_in_use() const { return releasable().oldest_number; }
  bool idle() const { return in_flight_ == 0 && pending_.empty() && !syncing_; }

  // Called for every entry just before its own callback.
  void on_journalled(Callback<void(LogEntry&)> journalled) { on_journalled_ = std::move(journalled); }
  // Called when entries begin to wait for room.
  void on_full(Callback<void()> full) { on_full_ = std::move(full); }
  // Called once, before the callbacks that get the error.
  void on_failure(Callback<void(const Error&)> failed) { on_failure_ = std::move(failed); }
  // Everything that waits or comes later fails with this.
  void fail(const Error& error);

 private:
  struct Batch {
    std::uint64_t number;
    std::uint64_t position;
    std::uint32_t blocks;
    std::uint32_t live;
    std::uint32_t direct_pending;
    bool written;
    std::uint64_t last_ticket;
    std::vector<LogEntry*> entries;  // emptied once reported
    Slice header;
    std::vector<std::span<const std::byte>> parts;
  };
  struct Waiter {
    std::uint64_t ticket;
    StatusCallback done;
  };
  struct Shape {
    std::uint32_t entries = 0;
    std::uint32_t header_blocks = 0;
    std::uint32_t payload_blocks = 0;
    std::uint32_t blocks() const { return header_blocks + payload_blocks; }
  };

  void schedule_pump();
  void pump();
  Shape shape_of_pending(std::uint32_t entries_max) const;
  std::optional<std::uint64_t> place(std::uint32_t blocks) const;
  bool write_batch();
  void compose(Batch& batch, const Shape& shape);
  void on_written(std::uint64_t number, Status status);
  void report_completed();
  void start_sync();
  void on_synced(Status status);
  void finish_sync();
  Batch& batch_of(std::uint64_t number);

  Env& env_;
  File& file_;
  File& data_;
  JournalGeometry geometry_;
  JournalState state_;  // durable in the metadata
  std::uint32_t batch_blocks_max_;

  std::deque<Batch> batches_;  // from the oldest in use to the newest
  std::uint64_t next_number_;
  std::uint64_t next_position_;
  std::deque<LogEntry*> pending_;
  std::uint64_t last_ticket_ = 0;
  std::uint32_t in_flight_ = 0;
  bool pump_posted_ = false;
  bool waiting_for_room_ = false;

  std::uint64_t completed_number_;
  std::uint64_t completed_ticket_ = 0;
  std::uint64_t flushed_number_;
  std::uint64_t flushed_ticket_ = 0;
  std::vector<Waiter> completion_waiters_;
  std::vector<Waiter> flush_waiters_;
  bool data_dirty_ = false;  // direct writes since the last data sync began
  bool syncing_ = false;
  int syncs_pending_ = 0;
  std::uint64_t sync_number_ = 0;
  std::uint64_t sync_ticket_ = 0;
  std::optional<Error> failure_;
  Callback<void(LogEntry&)> on_journalled_;
  Callback<void()> on_full_;
  Callback<void(const Error&)> on_failure_;
  Deferred deferred_;
};

}  // namespace holdfast::store
