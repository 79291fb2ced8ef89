// What travels through the engine: host operations, log entries in flight, reads of replicas. Plain pooled records.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/block_device.h"
#include "engine/engine.h"
#include "engine/range_lock.h"
#include "replica/messages.h"

namespace holdfast::engine {

class VolumeEngine;
struct Member;

// One operation of the front-end, from its arrival until its last entry is committed. It holds the range lock of all
// its blocks for that time, even when the host was told of a failure before (`answered`).
struct Op {
  enum class Kind : std::uint8_t { kRead, kWrite, kZero, kCompareAndWrite, kExtent, kRepair };

  RangeLock::Request lock;
  VolumeEngine* engine = nullptr;
  Op* previous = nullptr;  // list of all operations, in order of arrival
  Op* next = nullptr;

  Kind kind = Kind::kRead;
  bool durable = false;     // FUA
  bool deallocate = false;  // kZero
  bool answered = false;
  Nanos began{};             // when the host asked
  Nanos admitted{};          // when the volume's limits let it through
  std::uint64_t offset = 0;  // bytes
  std::uint64_t length = 0;
  SliceList data;                // to write; grown to whole blocks by the edges
  SliceList expected;            // kCompareAndWrite
  Slice head_edge;               // content of the first block before the operation, when it is written in part
  Slice tail_edge;               // the same of the last
  std::vector<SliceList> parts;  // what the pieces of a read gave
  std::uint64_t extent_blocks = 0;
  std::optional<bool> extent_mapped;

  std::uint32_t pieces_pending = 0;
  std::uint64_t cursor_block = 0;        // kZero: the next block that has no entry yet
  std::optional<ReplicaId> repair_from;  // kRepair: the copy that was bad
  bool repair_differs = false;           // kRepair: that copy is wrong whatever its checksums say
  std::uint32_t repaired_blocks = 0;     // kRepair
  std::optional<Error> error;

  BlockDevice::ReadCallback read_done;
  BlockDevice::DoneCallback done;
  BlockDevice::CompareCallback compare_done;
  Callback<void(Result<BlockDevice::Extent>)> extent_done;
  Callback<void(Result<RepairOutcome>)> repair_done;  // kRepair that somebody asked for

  std::uint64_t first_block() const { return offset / kBlockSize; }
  std::uint64_t end_block() const { return (offset + length + kBlockSize - 1) / kBlockSize; }
  std::uint32_t head_pad() const { return static_cast<std::uint32_t>(offset % kBlockSize); }
  // Forgets everything but the lock and the memory of the vectors.
  void clear();
  std::uint32_t tail_pad() const {
    return static_cast<std::uint32_t>((kBlockSize - (offset + length) % kBlockSize) % kBlockSize);
  }
};

inline void Op::clear() {
  engine = nullptr;
  previous = next = nullptr;
  durable = deallocate = answered = false;
  data.clear();
  expected.clear();
  head_edge = Slice();
  tail_edge = Slice();
  parts.clear();
  extent_blocks = 0;
  extent_mapped.reset();
  pieces_pending = 0;
  cursor_block = 0;
  repair_from.reset();
  repair_differs = false;
  repaired_blocks = 0;
  error.reset();
  read_done.reset();
  done.reset();
  compare_done.reset();
  extent_done.reset();
  repair_done.reset();
}

// The operation that a lock request is part of.
inline Op* op_of(RangeLock::Request* request) { return static_cast<Op*>(request->owner); }

// An entry of the log from its creation until it is committed.
struct PendingEntry {
  Op* op = nullptr;         // nullptr: a resize, or about snapshots
  store::Entry entry;       // data: empty, see below; position set when it enters the window
  SliceList data;           // kWrite: whole blocks, in parts of any size
  std::uint64_t bytes = 0;  // of data
  StatusCallback done;      // of an entry without an operation
};

// A read of some blocks, retried over the replicas until every block was read with the right CRC.
struct BlockRead {
  using Done = Callback<void(Result<SliceList>)>;
  using MapDone = Callback<void(Result<std::vector<std::uint8_t>>)>;

  std::uint64_t id = 0;
  BlockRange blocks;
  bool map_only = false;
  SnapshotId snapshot;           // 0: the volume
  Member* at = nullptr;          // where it is outstanding
  std::vector<ReplicaId> tried;  // gave a wrong or no answer
  std::optional<ReplicaId> first_choice;
  std::optional<ReplicaId> avoid;  // never to be read from
  std::vector<Slice> good;         // by block, once one copy was partly bad; empty slice: still missing
  bool found_bad = false;
  std::uint32_t bad_first = UINT32_MAX;  // the blocks, within the range, that some copy had wrong
  std::uint32_t bad_end = 0;
  std::optional<ReplicaId> bad_replica;
  std::optional<Error> last_error;
  Done done;
  MapDone map_done;

  void clear() {
    map_only = found_bad = false;
    snapshot = SnapshotId();
    at = nullptr;
    tried.clear();
    first_choice.reset();
    avoid.reset();
    good.clear();
    bad_first = UINT32_MAX;
    bad_end = 0;
    bad_replica.reset();
    last_error.reset();
    done.reset();
    map_done.reset();
  }
};

}  // namespace holdfast::engine
