// Oracle: what a volume has promised so far, and whether it keeps it. Fed by the clients and the control plane of a
// simulated cluster; knows nothing of how promises are kept.
//
// Beyond the history of every block it watches the log from outside: which seq was acknowledged, which flushed, and
// when. A recovery that ends before an acknowledged seq is only right when every copy lost its power after that entry
// had been sent, and never for a flushed one.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/types.h"
#include "sim/world.h"
#include "sim_cluster/history.h"
#include "sim_cluster/snapshot_log.h"

namespace holdfast::sim {

class Oracle {
 public:
  explicit Oracle(World& world) : world_(world) {}

  History& history() { return history_; }
  SnapshotLog& snapshots() { return snapshots_; }

  // The first thing that went wrong.
  void violated(const std::string& what);
  const std::string& violation() const { return violation_; }

  // ---- engines ----
  struct Recovery {
    Epoch epoch;
    Seq last;  // where the recovered log ends
    std::uint64_t size_blocks = 0;
    bool older_accepted = false;    // it was accepted that the volume goes on with an older copy
    bool all_damaged = false;       // faults may have destroyed what any of the copies held
    std::vector<Nanos> power_lost;  // when each of the undamaged copies last lost its power
  };
  // An engine serves from now on. The copies are those that its recovery could use: in the stored in-sync set when its
  // epoch was granted, and not left out since.
  void serving(const Recovery& recovery);
  // A later engine serves: nothing that begins on this one may succeed any more.
  bool superseded(Epoch epoch) const { return epoch < serving_; }
  Epoch serving_epoch() const { return serving_; }
  unsigned losses() const { return losses_; }

  // ---- log ----
  // Before an operation is given to the engine whose last seq this is.
  void sending(Epoch epoch, Seq last);
  // An operation of this engine has succeeded: whoever asked knows of entries up to this one, perhaps.
  void acknowledged(Epoch epoch, Seq committed);
  Seq acknowledged_seq() const { return acknowledged_; }
  // A flush that began when `acknowledged_then` was acknowledged has succeeded.
  void flushed(Seq acknowledged_then) { flushed_ = std::max(flushed_, acknowledged_then); }

  // ---- size ----
  void size_asked(std::uint64_t blocks) { size_asked_ = std::max(size_asked_, blocks); }
  // No power loss takes it back.
  void size_acknowledged(std::uint64_t blocks) { size_acknowledged_ = std::max(size_acknowledged_, blocks); }
  std::uint64_t size_acknowledged() const { return size_acknowledged_; }

  Value new_value() { return next_value_++; }
  void values_from(Value first) { next_value_ = first; }

 private:
  // No entry after `last` had been sent at `time`.
  struct Sample {
    Nanos time;
    Seq last;
  };

  World& world_;
  History history_;
  SnapshotLog snapshots_;
  std::string violation_;
  Epoch serving_;
  Seq acknowledged_;
  Seq flushed_;
  std::vector<Sample> samples_;
  Value next_value_ = 1;
  std::uint64_t size_asked_ = 0;
  std::uint64_t size_acknowledged_ = 0;
  unsigned losses_ = 0;
};

}  // namespace holdfast::sim
