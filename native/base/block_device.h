// BlockDevice: what a front-end (SCSI, FUSE) sees of a volume. The engine implements it; front-ends
// know nothing else of the engine. Thread: the reactor of the volume.
//
// Offsets and lengths are bytes, multiples of logical_block_size(); a range outside the volume or an
// unaligned one fails with INVALID_ARGUMENT. Operations in flight that overlap are ordered by arrival.
// An operation is never lost: its callback comes, with an error if the volume stops (see ErrorCode).
#pragma once

#include <cstdint>

#include "base/buffer.h"
#include "base/callback.h"
#include "base/result.h"

namespace holdfast {

class BlockDevice {
 public:
  // Slices in order that together hold the bytes read.
  using ReadCallback = Callback<void(Result<SliceList>)>;
  using DoneCallback = Callback<void(Status)>;
  // ok + nullopt: swapped. A value: first byte offset (from the start of the range) that differed; nothing was written.
  using CompareCallback = Callback<void(Result<std::optional<std::uint64_t>>)>;

  enum class Durability : std::uint8_t {
    kJournalled,  // in the journal of every in-sync replica: survives process kills and host panics
    kFlushed,     // also survives power loss of every host (FUA)
  };

  virtual ~BlockDevice() = default;

  virtual std::uint64_t size_bytes() const = 0;
  virtual std::uint32_t logical_block_size() const = 0;  // 512 or 4096; the physical block is always 4096

  virtual void read(std::uint64_t offset, std::uint64_t length, ReadCallback done) = 0;
  // `data` holds exactly the bytes to write, in any number of parts of any size.
  virtual void write(std::uint64_t offset, SliceList data, Durability durability, DoneCallback done) = 0;
  // Afterwards the range reads as zeros. `deallocate`: its space may be given back (UNMAP).
  virtual void zero(std::uint64_t offset, std::uint64_t length, bool deallocate, DoneCallback done) = 0;
  // Atomic against every other operation: compares `expected` and, when equal, writes `replacement` (same length).
  virtual void compare_and_write(std::uint64_t offset, SliceList expected, SliceList replacement, Durability durability,
                                 CompareCallback done) = 0;
  // Everything acknowledged before this call survives power loss once `done` gets ok.
  virtual void flush(DoneCallback done) = 0;

  // For GET LBA STATUS: whether the first block of the range is mapped, and how many bytes from `offset`
  // (at most `length`) share that state.
  struct Extent {
    bool mapped = true;
    std::uint64_t length = 0;
  };
  virtual void extent(std::uint64_t offset, std::uint64_t length, Callback<void(Result<Extent>)> done) = 0;

  // Called on this reactor after the size changed, once per subscriber. Pass nullptr to unsubscribe.
  virtual void on_resized(Callback<void()> changed) = 0;
};

}  // namespace holdfast
