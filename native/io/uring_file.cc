#include "io/uring_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "io/system_error.h"

namespace holdfast::io {

namespace {

constexpr std::uint64_t kAlignment = 4096;
constexpr std::size_t kPartsMax = 1024;

void check_aligned(std::uint64_t offset, std::uint64_t length, const void* memory) {
  CHECK((offset | length | reinterpret_cast<std::uintptr_t>(memory)) % kAlignment == 0,
        "direct I/O needs offsets, lengths and memory that are multiples of 4096");
}

// Moves the front of a gather list `bytes` forward.
std::span<iovec> skip(std::span<iovec> parts, std::size_t bytes) {
  while (!parts.empty() && bytes >= parts.front().iov_len) {
    bytes -= parts.front().iov_len;
    parts = parts.subspan(1);
  }
  if (bytes > 0) {
    parts.front().iov_base = static_cast<std::byte*>(parts.front().iov_base) + bytes;
    parts.front().iov_len -= bytes;
  }
  return parts;
}

}  // namespace

class UringFile::Operation final : public Completion {
 public:
  void on_completion(std::int32_t result, std::uint32_t) override { file->completed(this, result); }

  UringFile* file = nullptr;
  Kind kind = Kind::kRead;
  std::uint64_t offset = 0;  // of what is still to be done
  std::uint64_t left = 0;
  std::vector<iovec> parts;    // keeps its capacity from use to use
  std::span<iovec> remaining;  // of `parts`
  StatusCallback done;
};

UringFile::UringFile(Loop& loop, std::string path, const OpenedFile& opened)
    : loop_(loop),
      path_(std::move(path)),
      fd_(opened.fd),
      is_block_device_(opened.is_block_device),
      size_(opened.size) {
  ++loop_.handles;
}

UringFile::~UringFile() {
  CHECK(in_flight_ == 0, "a file was destroyed with operations in flight");
  ::close(fd_);
  --loop_.handles;
}

UringFile::Operation* UringFile::begin(Kind kind, std::uint64_t offset, std::uint64_t length, StatusCallback done) {
  loop_.check_thread();
  if (loop_.closing()) return nullptr;
  std::unique_ptr<Operation> operation;
  if (free_.empty()) {
    operation = std::make_unique<Operation>();
    operation->file = this;
  } else {
    operation = std::move(free_.back());
    free_.pop_back();
  }
  operation->kind = kind;
  operation->offset = offset;
  operation->left = length;
  operation->parts.clear();
  operation->remaining = {};
  operation->done = std::move(done);
  ++in_flight_;
  return operation.release();  // finish() takes it back
}

void UringFile::read(std::uint64_t offset, std::span<std::byte> into, StatusCallback done) {
  check_aligned(offset, into.size(), into.data());
  Operation* operation = begin(Kind::kRead, offset, into.size(), std::move(done));
  if (operation == nullptr) return;
  operation->parts.push_back({into.data(), into.size()});
  operation->remaining = operation->parts;
  submit_read(operation);
}

void UringFile::write(std::uint64_t offset, std::span<const std::span<const std::byte>> parts, StatusCallback done) {
  CHECK(parts.size() <= kPartsMax, "at most 1,024 parts in one write");
  std::uint64_t length = 0;
  for (std::span<const std::byte> part : parts) {
    check_aligned(offset, part.size(), part.data());
    length += part.size();
  }
  Operation* operation = begin(Kind::kWrite, offset, length, std::move(done));
  if (operation == nullptr) return;
  for (std::span<const std::byte> part : parts) {
    if (!part.empty()) operation->parts.push_back({const_cast<std::byte*>(part.data()), part.size()});
  }
  operation->remaining = operation->parts;
  submit(operation);
}

void UringFile::sync(StatusCallback done) {
  if (Operation* operation = begin(Kind::kSync, 0, 0, std::move(done))) submit(operation);
}

void UringFile::allocate(std::uint64_t offset, std::uint64_t length, StatusCallback done) {
  check_aligned(offset, length, nullptr);
  if (Operation* operation = begin(Kind::kAllocate, offset, length, std::move(done))) submit(operation);
}

void UringFile::punch_hole(std::uint64_t offset, std::uint64_t length, StatusCallback done) {
  check_aligned(offset, length, nullptr);
  if (Operation* operation = begin(Kind::kPunch, offset, length, std::move(done))) submit(operation);
}

void UringFile::submit(Operation* operation) {
  loop_.ring().prepare(operation, [this, operation](io_uring_sqe* entry) {
    // Nothing to do, or nothing that the device has a notion of: an empty trip through the ring, so that the callback
    // comes later as always.
    bool is_transfer = operation->kind == Kind::kRead || operation->kind == Kind::kWrite;
    bool is_sync = operation->kind == Kind::kSync;
    if ((operation->left == 0 && !is_sync) || (is_block_device_ && operation->kind == Kind::kAllocate)) {
      io_uring_prep_nop(entry);
      return;
    }
    if (is_transfer && operation->remaining.size() == 1) {
      const iovec& part = operation->remaining.front();
      auto length = static_cast<unsigned>(std::min<std::size_t>(part.iov_len, 1u << 30));
      if (operation->kind == Kind::kRead) {
        io_uring_prep_read(entry, fd_, part.iov_base, length, operation->offset);
      } else {
        io_uring_prep_write(entry, fd_, part.iov_base, length, operation->offset);
      }
      return;
    }
    auto offset = static_cast<off_t>(operation->offset);
    auto length = static_cast<off_t>(operation->left);
    switch (operation->kind) {
      case Kind::kRead:
        io_uring_prep_readv(entry, fd_, operation->remaining.data(), operation->remaining.size(), operation->offset);
        break;
      case Kind::kWrite:
        io_uring_prep_writev(entry, fd_, operation->remaining.data(), operation->remaining.size(), operation->offset);
        break;
      case Kind::kSync:
        io_uring_prep_fsync(entry, fd_, IORING_FSYNC_DATASYNC);
        break;
      case Kind::kAllocate:
        io_uring_prep_fallocate(entry, fd_, 0, offset, length);
        break;
      case Kind::kPunch:
        io_uring_prep_fallocate(entry, fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
        break;
      case Kind::kZeroRange:
        io_uring_prep_fallocate(entry, fd_, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length);
        break;
    }
  });
}

// At once, unlike writes, which go out in groups: while a turn looks up where the next ones are, the device reads.
void UringFile::submit_read(Operation* operation) {
  submit(operation);
  loop_.ring().submit_early();
}

void UringFile::completed(Operation* operation, std::int32_t result) {
  if (loop_.closing()) return finish(operation, {});
  if (result == -EINTR || result == -EAGAIN) return submit(operation);
  if (result == -EOPNOTSUPP && operation->kind == Kind::kPunch) {
    // Not every file system has holes and not every device discards; zeros are what was promised.
    operation->kind = Kind::kZeroRange;
    return submit(operation);
  }
  if (result < 0) return finish(operation, status_of(*operation, -result));
  bool is_transfer = operation->kind == Kind::kRead || operation->kind == Kind::kWrite;
  if (!is_transfer) {
    if (operation->kind == Kind::kAllocate) {
      std::uint64_t end = operation->offset + operation->left;
      if (is_block_device_ && end > size_) return finish(operation, status_of(*operation, ENOSPC));
      size_ = std::max(size_, end);
    }
    return finish(operation, {});
  }
  auto transferred = static_cast<std::uint64_t>(result);
  if (transferred == 0 && operation->left > 0) {
    // The end of the file for a read; a write that makes no progress would go on for ever.
    return finish(operation, status_of(*operation, operation->kind == Kind::kRead ? ENODATA : EIO));
  }
  operation->offset += transferred;
  operation->left -= transferred;
  if (operation->kind == Kind::kWrite) size_ = std::max(size_, operation->offset);
  if (operation->left == 0) return finish(operation, {});
  operation->remaining = skip(operation->remaining, transferred);
  submit(operation);
}

void UringFile::finish(Operation* operation, Status status) {
  StatusCallback done = std::move(operation->done);
  free_.emplace_back(operation);
  --in_flight_;
  // Last: the callback may destroy this file.
  if (!loop_.closing()) done(std::move(status));
}

Status UringFile::status_of(const Operation& operation, int error_number) const {
  std::string_view verb;
  switch (operation.kind) {
    case Kind::kRead:
      verb = "read";
      break;
    case Kind::kWrite:
      verb = "write";
      break;
    case Kind::kSync:
      verb = "sync";
      break;
    case Kind::kAllocate:
      verb = "allocate space in";
      break;
    case Kind::kPunch:
    case Kind::kZeroRange:
      verb = "give back space of";
      break;
  }
  std::string where = path_;
  if (operation.kind != Kind::kSync) {
    where += " at " + std::to_string(operation.offset) + " (" + std::to_string(operation.left) + " bytes)";
  }
  if (error_number == ENODATA) {
    return Error(ErrorCode::kDiskIo, "read " + where + ": ends past the end of the file (" + std::to_string(size_) +
                                         " bytes); it was cut short or belongs to another disk");
  }
  return disk_error(verb, where, error_number);
}

}  // namespace holdfast::io
