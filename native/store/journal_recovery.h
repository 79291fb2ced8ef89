// Reading the journal back after a stop of any kind. docs/on-disk-format.md, "Recovery", has the rules and why they
// hold. Thread: reactor of the store.
#pragma once

#include <functional>
#include <vector>

#include "base/task.h"
#include "store/journal.h"

namespace holdfast::store {

struct RecoveredEntry {
  EntryHeader header{};
  Slice crc;
  Slice data;  // the whole entry; blocks of direct pieces are left out when `direct` is the entire entry
  std::vector<DirectPiece> direct;
};

struct RecoveredBatch {
  std::uint64_t number = 0;
  std::uint64_t position = 0;
  std::uint32_t blocks = 0;
  std::vector<RecoveredEntry> entries;  // those still needed, in order
};

struct RecoveredJournal {
  std::vector<RecoveredBatch> batches;
  std::uint64_t next_number = 1;
  std::uint64_t next_position = 0;
  bool lost_acknowledged = false;  // a power loss took batches that were written but never flushed
};

// `needed`: whether an entry has not been applied yet (its content is then verified). JOURNAL_DAMAGED when something
// that was durable cannot be read back; WRONG_DISK when the ring is not that of this disk; DISK_IO when the device
// fails.
Task<Result<RecoveredJournal>> recover_journal(Env* env, File* journal, File* data, JournalGeometry geometry,
                                               JournalState state, std::function<bool(const EntryHeader&)> needed);

}  // namespace holdfast::store
