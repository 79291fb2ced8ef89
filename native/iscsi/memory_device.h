// A BlockDevice in memory, sparse, or on a memory-mapped file: for the iscsi_memory program, benchmarks and tests.
// Operations take effect when called, which orders overlapping ones by arrival; callbacks come in a later turn, all of
// one turn together. Tests can hold callbacks back and make operations fail. Thread: one reactor.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/block_device.h"
#include "io/env.h"

namespace holdfast::iscsi {

class MemoryDevice final : public BlockDevice {
 public:
  // An empty path: anonymous memory. The file is made as large as the device.
  static Result<std::unique_ptr<MemoryDevice>> create(Env& env, std::uint64_t size_bytes, std::uint32_t block_size,
                                                      const std::string& path = "");
  ~MemoryDevice() override;

  std::uint64_t size_bytes() const override { return size_; }
  std::uint32_t logical_block_size() const override { return block_size_; }
  void read(std::uint64_t offset, std::uint64_t length, ReadCallback done) override;
  void write(std::uint64_t offset, SliceList data, Durability durability, DoneCallback done) override;
  void zero(std::uint64_t offset, std::uint64_t length, bool deallocate, DoneCallback done) override;
  void compare_and_write(std::uint64_t offset, SliceList expected, SliceList replacement, Durability durability,
                         CompareCallback done) override;
  void flush(DoneCallback done) override;
  void extent(std::uint64_t offset, std::uint64_t length, Callback<void(Result<Extent>)> done) override;
  void on_resized(Callback<void()> changed) override { resized_ = std::move(changed); }

  // For tests.
  void hold() { held_ = true; }  // callbacks wait until release()
  void release();
  std::size_t waiting() const { return completions_.size(); }
  void fail_with(std::optional<ErrorCode> code) { failure_ = code; }  // every operation from now on
  void shrink_to(std::uint64_t size_bytes);                           // resizes; at most the created size
  std::uint64_t flushes() const { return flushes_; }
  std::uint64_t flushed_writes() const { return flushed_writes_; }
  std::span<std::byte> bytes() { return {memory_, size_}; }

 private:
  struct Completion {
    DoneCallback done;
    ReadCallback read;
    CompareCallback compare;
    Callback<void(Result<Extent>)> extent;
    Status status;
    SliceList data;
    std::optional<std::uint64_t> difference;
    Extent found;
  };

  MemoryDevice(Env& env, std::byte* memory, std::uint64_t size, std::uint32_t block_size, bool shared);
  Status check(std::uint64_t offset, std::uint64_t length) const;
  void complete(Completion completion);
  void drain();
  void mark(std::uint64_t offset, std::uint64_t length, bool mapped);

  Env& env_;
  std::byte* memory_;
  std::uint64_t size_;
  std::uint64_t created_size_;
  std::uint32_t block_size_;
  bool file_backed_;
  std::vector<bool> mapped_;  // per 4 KiB
  Callback<void()> resized_;
  std::vector<Completion> completions_;
  std::vector<Completion> draining_;
  bool held_ = false;
  bool drain_posted_ = false;
  std::optional<ErrorCode> failure_;
  std::uint64_t flushes_ = 0;
  std::uint64_t flushed_writes_ = 0;
};

}  // namespace holdfast::iscsi
