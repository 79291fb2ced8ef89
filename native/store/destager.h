// Destager: moves committed entries from the logs into chunks, one round at a time:
//   1. choose entries (oldest first, up to half the cache); wait until their journal batches are durable, so that a
//      torn or early chunk write can always be replayed, and until reads that may use the slots have ended;
//   2. load the records of the touched chunks, work out new records and which blocks to write where;
//   3. write them, sorted and merged; sync the data file;
//   4. store records, applied positions and the journal's new oldest batch in one synced metadata batch;
//   5. drop the entries, free replaced slots once no read uses them, let the journal reuse the space.
// Content that a rebuild fetched (fills) goes the same way, always into a fresh slot. An entry that changes snapshots
// ends the part of its replica in a round: everything before belongs to the old layer, everything after to the new one.
// Only small rounds go on behind snapshots (Round::go_past_snapshots).
// Records that dropped snapshots leave behind are merged between the rounds, in bounded steps (layer_merge.h); a step
// that meets blocks it cannot read is tried again every kMergeRetry.
// When nothing is left to do there is no timer. Thread: reactor of the store.
#pragma once

#include <vector>

#include "base/task.h"
#include "io/env.h"
#include "store/unreadable_blocks.h"

namespace holdfast::store {

class Disk;
class Replica;
class Round;
class Space;

class Destager {
 public:
  static constexpr std::uint64_t kRoundEntriesMax = 16'384;
  static constexpr Nanos kIdleDelay = 500ms;

  static constexpr Nanos kMergeRetry = 1s;

  explicit Destager(Disk& disk, Env& env) : disk_(disk), env_(env), timer_(env), merge_timer_(env) {}

  // There may be something to do: at once when `urgent`, else after kIdleDelay.
  void note_work(bool urgent);
  // Whether entries are being or could be applied, so that waiting for room makes sense.
  bool busy() const { return running_ || work_pending_; }
  bool running() const { return running_; }
  bool draining() const { return !drain_waiters_.empty(); }
  // Calls back in turn when no round is running; rounds do not start until resume().
  void pause(Callback<void()> paused);
  void resume();
  // Calls back when everything that may be applied is, of this replica or (null) of all, or the disk has failed. Others
  // may be written without end meanwhile.
  void drain(const Replica* replica, Callback<void()> drained);

 private:
  friend class DiskOpener;
  struct DrainWaiter {
    const Replica* replica;
    Callback<void()> drained;
  };

  void start();
  void on_round_ended();
  void tell_drained(bool work);
  bool any_work() const;
  bool any_fills() const;
  Space* any_merges() const;
  void start_merge(Space& space);

  Disk& disk_;
  Env& env_;
  Timer timer_;
  Timer merge_timer_;  // armed: merges are put off
  UnreadableBlocks unreadable_;
  bool running_ = false;
  bool start_posted_ = false;
  bool work_pending_ = false;
  bool chosen_something_ = false;
  bool merged_last_ = false;
  bool cut_ = false;  // the round was
  int paused_ = 0;
  std::vector<Callback<void()>> pause_waiters_;
  std::vector<DrainWaiter> drain_waiters_;
};

}  // namespace holdfast::store
