// SnapshotLog: which snapshots of the volume were asked for, and so which must, may and must not exist. The content of
// one is what a read of every block would have returned at some moment while it was being taken.
#pragma once

#include <map>
#include <optional>

#include "base/types.h"
#include "io/env.h"

namespace holdfast::sim {

class SnapshotLog {
 public:
  enum class Existence : std::uint8_t { kMust, kMay, kMustNot };
  struct Interval {
    Nanos begun, ended;
  };

  SnapshotId take_begins(Nanos now);
  // `committed`: the entry is not after it.
  void taken(SnapshotId id, Nanos now, Seq committed);
  void drop_begins(SnapshotId id);
  void dropped(SnapshotId id, Seq committed);
  // Another engine serves from now on: what has not happened will not.
  void taken_over(Nanos now);
  // Entries after `recovered` are lost.
  void lost_after(Seq recovered);

  Existence existence(SnapshotId id) const;
  // When it was taken.
  Interval interval(SnapshotId id, Nanos now) const;
  template <typename Visit>
  void for_each(Visit visit) const {
    for (const auto& [id, one] : snapshots_) visit(id);
  }

 private:
  struct One {
    Nanos begun{0};
    std::optional<Nanos> ended;  // it was taken before this, if at all
    std::optional<Seq> taken;    // known to be in the log, here or before
    bool drop_asked = false;     // now or in the past: it may be gone
    std::optional<Seq> dropped;  // known to be gone
  };
  std::map<SnapshotId, One> snapshots_;
  std::uint64_t next_id_ = 1;
};

}  // namespace holdfast::sim
