#include "iscsi/memory_device.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/types.h"

namespace holdfast::iscsi {

namespace {
Error system_error(const std::string& what) { return Error(ErrorCode::kDiskIo, what + ": " + std::strerror(errno)); }
}  // namespace

Result<std::unique_ptr<MemoryDevice>> MemoryDevice::create(Env& env, std::uint64_t size_bytes, std::uint32_t block_size,
                                                           const std::string& path) {
  bool shaped = (block_size == 512 || block_size == 4096) && size_bytes > 0 && size_bytes % 4096 == 0;
  if (!shaped) {
    return Error(ErrorCode::kInvalidArgument,
                 "a device has blocks of 512 or 4096 bytes and a size that is a multiple of 4096");
  }
  int file = -1;
  if (!path.empty()) {
    file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) return system_error(path);
    if (::ftruncate(file, static_cast<off_t>(size_bytes)) != 0) {
      Error error = system_error(path);
      ::close(file);
      return error;
    }
  }
  int flags = file >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* memory = ::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, flags, file, 0);
  if (file >= 0) ::close(file);
  if (memory == MAP_FAILED) return system_error("memory of the device");
  return std::unique_ptr<MemoryDevice>(
      new MemoryDevice(env, static_cast<std::byte*>(memory), size_bytes, block_size, file >= 0));
}

MemoryDevice::MemoryDevice(Env& env, std::byte* memory, std::uint64_t size, std::uint32_t block_size, bool shared)
    : env_(env), memory_(memory), size_(size), created_size_(size), block_size_(block_size), file_backed_(shared) {
  mapped_.assign(size / kBlockSize, file_backed_);
}

MemoryDevice::~MemoryDevice() { ::munmap(memory_, created_size_); }

Status MemoryDevice::check(std::uint64_t offset, std::uint64_t length) const {
  if (failure_) return Error(*failure_, "made to fail");
  if (offset % block_size_ || length % block_size_ || offset > size_ || length > size_ - offset) {
    return Error(ErrorCode::kInvalidArgument, "the range is outside the device or not aligned");
  }
  return {};
}

void MemoryDevice::mark(std::uint64_t offset, std::uint64_t length, bool mapped) {
  // Blocks partly covered count as mapped.
  std::uint64_t first = mapped ? offset / kBlockSize : (offset + kBlockSize - 1) / kBlockSize;
  std::uint64_t end = mapped ? (offset + length + kBlockSize - 1) / kBlockSize : (offset + length) / kBlockSize;
  for (std::uint64_t block = first; block < end; ++block) mapped_[block] = mapped;
}

void MemoryDevice::read(std::uint64_t offset, std::uint64_t length, ReadCallback done) {
  Completion completion;
  completion.read = std::move(done);
  completion.status = check(offset, length);
  if (completion.status.ok()) completion.data.push_back(env_.buffers().copy_of({memory_ + offset, length}));
  complete(std::move(completion));
}

void MemoryDevice::write(std::uint64_t offset, SliceList data, Durability durability, DoneCallback done) {
  Completion completion;
  completion.done = std::move(done);
  std::uint64_t length = total_size(data);
  completion.status = check(offset, length);
  if (completion.status.ok()) {
    mark(offset, length, true);
    for (const Slice& part : data) {
      std::memcpy(memory_ + offset, part.data(), part.size());
      offset += part.size();
    }
    if (durability == Durability::kFlushed) ++flushed_writes_;
  }
  complete(std::move(completion));
}

void MemoryDevice::zero(std::uint64_t offset, std::uint64_t length, bool deallocate, DoneCallback done) {
  Completion completion;
  completion.done = std::move(done);
  completion.status = check(offset, length);
  if (completion.status.ok()) {
    std::memset(memory_ + offset, 0, length);
    mark(offset, length, !deallocate);
  }
  complete(std::move(completion));
}

void MemoryDevice::compare_and_write(std::uint64_t offset, SliceList expected, SliceList replacement,
                                     Durability durability, CompareCallback done) {
  Completion completion;
  completion.compare = std::move(done);
  completion.status = check(offset, total_size(expected));
  std::uint64_t at = 0;
  for (const Slice& part : expected) {
    if (!completion.status.ok() || completion.difference) break;
    const std::byte* here = memory_ + offset + at;
    auto differs = std::mismatch(here, here + part.size(), part.data());
    if (differs.first != here + part.size()) {
      completion.difference = at + static_cast<std::uint64_t>(differs.first - here);
    }
    at += part.size();
  }
  if (completion.status.ok() && !completion.difference) {
    mark(offset, at, true);
    for (const Slice& part : replacement) {
      std::memcpy(memory_ + offset, part.data(), part.size());
      offset += part.size();
    }
    if (durability == Durability::kFlushed) ++flushed_writes_;
  }
  complete(std::move(completion));
}

void MemoryDevice::flush(DoneCallback done) {
  Completion completion;
  completion.done = std::move(done);
  completion.status = check(0, 0);
  ++flushes_;
  if (file_backed_ && ::msync(memory_, created_size_, MS_SYNC) != 0) completion.status = system_error("msync");
  complete(std::move(completion));
}

void MemoryDevice::extent(std::uint64_t offset, std::uint64_t length, Callback<void(Result<Extent>)> done) {
  Completion completion;
  completion.extent = std::move(done);
  completion.status = check(offset, length);
  if (completion.status.ok()) {
    std::uint64_t block = offset / kBlockSize, end = (offset + length + kBlockSize - 1) / kBlockSize;
    bool mapped = mapped_[block];
    while (block < end && mapped_[block] == mapped) ++block;
    completion.found = {mapped, std::min(block * kBlockSize, offset + length) - offset};
  }
  complete(std::move(completion));
}

void MemoryDevice::complete(Completion completion) {
  completions_.push_back(std::move(completion));
  if (held_ || drain_posted_) return;
  drain_posted_ = true;
  env_.post([this] { drain(); });
}

void MemoryDevice::drain() {
  drain_posted_ = false;
  if (held_) return;
  draining_.swap(completions_);
  for (Completion& each : draining_) {
    if (each.done) {
      each.done(std::move(each.status));
    } else if (each.read) {
      each.read(each.status.ok() ? Result<SliceList>(std::move(each.data)) : Result<SliceList>(each.status.error()));
    } else if (each.compare) {
      using Outcome = Result<std::optional<std::uint64_t>>;
      each.compare(each.status.ok() ? Outcome(each.difference) : Outcome(each.status.error()));
    } else {
      each.extent(each.status.ok() ? Result<Extent>(each.found) : Result<Extent>(each.status.error()));
    }
  }
  draining_.clear();
}

void MemoryDevice::release() {
  held_ = false;
  if (completions_.empty() || drain_posted_) return;
  drain_posted_ = true;
  env_.post([this] { drain(); });
}

void MemoryDevice::shrink_to(std::uint64_t size_bytes) {
  CHECK(size_bytes <= created_size_ && size_bytes % 4096 == 0);
  size_ = size_bytes;
  if (resized_) resized_();
}

}  // namespace holdfast::iscsi
