// OverlayDevice: a BlockDevice over blocks that never change (a snapshot's), whose writes stay in memory. So a file
// system that was not unmounted can replay its journal when it is mounted, and the snapshot knows nothing of it.
//
// Offsets and lengths of any alignment. What is written takes at most so many bytes; then writes fail with NO_SPACE.
// Thread: one reactor. Everything under way has completed before it is destroyed.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <unordered_map>

#include "base/block_device.h"
#include "base/task.h"
#include "base/types.h"
#include "io/env.h"

namespace holdfast::fuse {

class OverlayDevice final : public BlockDevice {
 public:
  // Whole 4 KiB blocks of what lies below, at most kBelowBlocksMax of them.
  using ReadBelow = Callback<void(BlockRange, ReadCallback)>;
  static constexpr std::uint32_t kBelowBlocksMax = 256;

  // `first_byte`: where this device begins in what lies below (a partition); a multiple of 512.
  OverlayDevice(Env& env, ReadBelow read_below, std::uint64_t first_byte, std::uint64_t size_bytes,
                std::uint32_t block_size, std::uint64_t written_bytes_max);

  std::uint64_t size_bytes() const override { return size_; }
  std::uint32_t logical_block_size() const override { return block_size_; }
  void read(std::uint64_t offset, std::uint64_t length, ReadCallback done) override;
  void write(std::uint64_t offset, SliceList data, Durability durability, DoneCallback done) override;
  void zero(std::uint64_t offset, std::uint64_t length, bool deallocate, DoneCallback done) override;
  void compare_and_write(std::uint64_t offset, SliceList expected, SliceList replacement, Durability durability,
                         CompareCallback done) override;  // UNIMPLEMENTED
  void flush(DoneCallback done) override;                 // nothing of it is to last
  void extent(std::uint64_t offset, std::uint64_t length, Callback<void(Result<Extent>)> done) override;
  void on_resized(Callback<void()>) override {}

  std::uint64_t written_bytes() const { return written_.size() * kBlockSize; }

 private:
  using Block = std::array<std::byte, kBlockSize>;

  static Task<void> run_read(OverlayDevice* self, std::uint64_t offset, std::uint64_t length, ReadCallback done);
  static Task<void> run_write(OverlayDevice* self, std::uint64_t offset, std::uint64_t length, SliceList data,
                              DoneCallback done);
  // The content of blocks as it is now.
  Task<Result<Slice>> content(BlockRange blocks);
  // Makes sure that the block is among the written ones, with the content it has.
  Task<Status> keep(std::uint64_t block);
  Result<Block*> place(std::uint64_t block);
  Status check(std::uint64_t offset, std::uint64_t length) const;

  Env& env_;
  ReadBelow read_below_;
  const std::uint64_t first_byte_;
  const std::uint64_t size_;
  const std::uint32_t block_size_;
  const std::size_t blocks_max_;
  // By number of the block below.
  std::unordered_map<std::uint64_t, std::unique_ptr<Block>> written_;
};

}  // namespace holdfast::fuse
