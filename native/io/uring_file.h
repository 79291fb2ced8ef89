// UringFile: File on io_uring. Operations are pooled objects; a short transfer is continued until the whole range is
// done, so callers see all or an error.
// Thread: one reactor; open_blocking() on any.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <string>
#include <vector>

#include "io/env.h"
#include "io/loop.h"

namespace holdfast::io {

// What opening found. The descriptor belongs to the receiver.
struct OpenedFile {
  int fd = -1;
  std::uint64_t size = 0;
  bool is_block_device = false;
};

// Opens, locks, and makes the entry of a created file durable. Blocks.
Result<OpenedFile> open_blocking(const std::string& path, const FileOptions& options);

class UringFile final : public File {
 public:
  UringFile(Loop& loop, std::string path, const OpenedFile& opened);
  ~UringFile() override;

  void read(std::uint64_t offset, std::span<std::byte> into, StatusCallback done) override;
  void write(std::uint64_t offset, std::span<const std::span<const std::byte>> parts, StatusCallback done) override;
  void sync(StatusCallback done) override;
  void allocate(std::uint64_t offset, std::uint64_t length, StatusCallback done) override;
  void punch_hole(std::uint64_t offset, std::uint64_t length, StatusCallback done) override;
  std::uint64_t size() const override { return size_; }

 private:
  class Operation;
  enum class Kind : std::uint8_t { kRead, kWrite, kSync, kAllocate, kPunch, kZeroRange };

  Operation* begin(Kind kind, std::uint64_t offset, std::uint64_t length, StatusCallback done);
  void submit(Operation* operation);
  void submit_read(Operation* operation);
  void completed(Operation* operation, std::int32_t result);
  void finish(Operation* operation, Status status);
  Status status_of(const Operation& operation, int error_number) const;

  Loop& loop_;
  const std::string path_;
  const int fd_;
  const bool is_block_device_;
  std::uint64_t size_;
  unsigned in_flight_ = 0;
  // Finished operations for reuse, at most as many as were ever in flight together.
  std::vector<std::unique_ptr<Operation>> free_;
};

}  // namespace holdfast::io
