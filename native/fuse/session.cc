#include "fuse/session.h"

#include <sys/stat.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/log.h"

namespace holdfast::fuse {

namespace {

// Small enough to be copied into one page of head room, large enough for the bulk of random writes.
constexpr std::size_t kSmallBytes = 16u << 10;
constexpr std::size_t kLargeBytes = kMaxIoBytes;
// Requests taken in one turn of the reactor, so that iSCSI and replication get theirs.
constexpr int kRequestsPerTurn = 32;
constexpr std::uint32_t kBlock = 4096;
constexpr std::size_t kLocksMax = 16;
constexpr std::uint64_t kAttributesValidSeconds = 1'000'000'000;

int error_number_of(const Error& error) {
  switch (error.code()) {
    case ErrorCode::kInvalidArgument:
      return EINVAL;
    case ErrorCode::kNoSpace:
      return ENOSPC;
    case ErrorCode::kTimedOut:
      return ETIMEDOUT;
    default:
      return EIO;
  }
}

template <typename T>
bool parse(std::span<const std::byte> argument, T& out) {
  if (argument.size() < sizeof(T)) return false;
  std::memcpy(&out, argument.data(), sizeof(T));
  return true;
}

}  // namespace

Session::Session(Env& env, int fd, bool can_resend, std::string name)
    : env_(env), fd_(fd), can_resend_(can_resend), name_(std::move(name)) {}

Session::~Session() {
  CHECK(in_flight_ == 0);
  *alive_ = false;
}

// ---- serving and not serving ----

Status Session::resume(BlockDevice* device, bool resend) {
  CHECK(device != nullptr && !closed_);
  locks_released_ = false;
  if (device_ == device) return {};
  device_ = device;
  ++generation_;
  if (resend && can_resend_) {
    fuse_out_header header{sizeof header, kNotifyResend, 0};
    iovec part{&header, sizeof header};
    send(&part, 1);
    locks_.clear();  // they come again, with other numbers
  }
  ASSIGN_OR_RETURN(watch_, env_.watch_readable(fd_, [this] { receive(); }));
  return {};
}

void Session::suspend() {
  device_ = nullptr;
  ++generation_;
  watch_.reset();
}

void Session::close(Callback<void()> done) {
  suspend();
  closed_ = std::move(done);
  if (in_flight_ == 0) env_.post(std::exchange(closed_, nullptr));
}

// ---- requests ----

void Session::receive() {
  for (int i = 0; i < kRequestsPerTurn; ++i) {
    if (device_ == nullptr || ended_ || !receive_one()) return;
  }
  if (std::exchange(receive_posted_, true)) return;
  env_.post([this, alive = alive_] {
    if (!*alive) return;
    receive_posted_ = false;
    receive();
  });
}

// False: there was none.
bool Session::receive_one() {
  if (small_.empty()) small_ = env_.buffers().allocate(kSmallBytes);
  if (large_.empty()) large_ = env_.buffers().allocate(kLargeBytes);
  iovec parts[] = {{head_.data(), head_.size()}, {small_.data(), kSmallBytes}, {large_.data(), kLargeBytes}};
  ssize_t got = ::readv(fd_, parts, 3);
  if (got < 0) {
    // ENOENT: the request was taken back before it was read.
    if (errno == EINTR || errno == ENOENT) return true;
    if (errno == EAGAIN) return false;
    ended_ = true;
    watch_.reset();
    if (errno != ENODEV) log_error("fuse", name_ + ": the connection ended: " + std::strerror(errno));
    return false;
  }
  auto bytes = static_cast<std::size_t>(got);
  fuse_in_header in;
  if (bytes < sizeof in) return true;
  std::memcpy(&in, head_.data(), sizeof in);
  if (in.len != bytes) {
    answer_error(in.unique, EIO);
    return true;
  }
  std::span<const std::byte> argument(head_.data() + sizeof in, std::min(bytes, head_.size()) - sizeof in);
  SliceList payload;
  if (in.opcode == FUSE_WRITE && bytes > head_.size()) {
    std::size_t data = bytes - head_.size();
    payload.push_back(small_.sub(0, std::min(data, kSmallBytes)));
    small_ = Slice();
    if (data > kSmallBytes) {
      payload.push_back(large_.sub(0, data - kSmallBytes));
      large_ = Slice();
    }
  }
  dispatch(in, argument, std::move(payload));
  return true;
}

void Session::dispatch(const fuse_in_header& in, std::span<const std::byte> argument, SliceList payload) {
  switch (in.opcode) {
    case FUSE_READ: {
      fuse_read_in read_in;
      return parse(argument, read_in) ? read(in.unique, read_in) : answer_error(in.unique, EINVAL);
    }
    case FUSE_WRITE: {
      fuse_write_in write_in;
      return parse(argument, write_in) ? write(in.unique, write_in, std::move(payload))
                                       : answer_error(in.unique, EINVAL);
    }
    case FUSE_FALLOCATE: {
      fuse_fallocate_in fallocate_in;
      return parse(argument, fallocate_in) ? allocate(in.unique, fallocate_in) : answer_error(in.unique, EINVAL);
    }
    case FUSE_LSEEK: {
      fuse_lseek_in seek_in;
      return parse(argument, seek_in) ? seek(in.unique, seek_in) : answer_error(in.unique, EINVAL);
    }
    case FUSE_FSYNC:
      return flush(in.unique);
    case FUSE_SETLKW:
      return lock(in.unique);
    case FUSE_SETLK:
      return answer_error(in.unique, EWOULDBLOCK);
    case FUSE_INIT:
      return initialize(in.unique, argument);
    case FUSE_GETATTR:
      return answer_attributes(in.unique);
    case FUSE_STATFS:
      return answer_capacity(in.unique);
    case FUSE_OPEN: {
      fuse_open_out out{};
      // Past the page cache, and with as many writes side by side as there are.
      out.open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
      return answer(in.unique, out);
    }
    case FUSE_SETATTR: {
      // Times and mode may be touched, to no effect. The size is the volume's.
      fuse_setattr_in set;
      bool resizes = !parse(argument, set) || (set.valid & FATTR_SIZE) != 0;
      return resizes ? answer_error(in.unique, EPERM) : answer_attributes(in.unique);
    }
    case FUSE_RELEASE:
      return answer_error(in.unique, 0);
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
      return;  // not to be answered
    default:
      // Also FLUSH and INTERRUPT: the kernel then sends no more of them. Nothing here can be interrupted.
      return answer_error(in.unique, ENOSYS);
  }
}

void Session::initialize(std::uint64_t unique, std::span<const std::byte> argument) {
  fuse_init_in in{};
  // Older kernels send a shorter message, whose fields come first.
  std::memcpy(&in, argument.data(), std::min(argument.size(), sizeof in));
  if (in.major != FUSE_KERNEL_VERSION || in.minor < 28) {
    log_error("fuse", name_ + ": the kernel speaks FUSE " + std::to_string(in.major) + "." + std::to_string(in.minor) +
                          ", 7.28 is the least");
    return answer_error(unique, EPROTO);
  }
  fuse_init_out out{};
  out.major = FUSE_KERNEL_VERSION;
  out.minor = std::min<std::uint32_t>(in.minor, FUSE_KERNEL_MINOR_VERSION);
  out.flags = in.flags & (FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_ASYNC_DIO | FUSE_MAX_PAGES | FUSE_FLOCK_LOCKS);
  out.max_readahead = 0;
  out.max_background = kMaxBackground;
  out.congestion_threshold = kMaxBackground * 3 / 4;
  out.max_write = kMaxIoBytes;
  out.max_pages = kMaxIoBytes / kBlock;
  out.time_gran = 1;
  answer(unique, out);
}

void Session::read(std::uint64_t unique, const fuse_read_in& in) {
  ++stats_.reads;
  std::uint64_t size = device_->size_bytes();
  std::uint64_t length = in.offset >= size ? 0 : std::min<std::uint64_t>(in.size, size - in.offset);
  if (length == 0) return answer_error(unique, 0);
  ++in_flight_;
  device_->read(in.offset, length, [this, unique, generation = generation_](Result<SliceList> data) {
    if (data.ok()) {
      answer_data(unique, *data);
    } else if (!abandoned(data.error(), generation)) {
      answer_status(unique, data.error());
    } else {
      ++stats_.dropped;
    }
    finish();
  });
}

void Session::write(std::uint64_t unique, const fuse_write_in& in, SliceList data) {
  ++stats_.writes;
  std::size_t bytes = total_size(data);
  if (bytes != in.size || bytes == 0) return answer_error(unique, EINVAL);
  if (in.offset >= device_->size_bytes() || bytes > device_->size_bytes() - in.offset) {
    return answer_error(unique, ENOSPC);
  }
  ++in_flight_;
  device_->write(in.offset, std::move(data), BlockDevice::Durability::kJournalled, completion(unique, in.size));
}

void Session::allocate(std::uint64_t unique, const fuse_fallocate_in& in) {
  bool punch = (in.mode & FALLOC_FL_PUNCH_HOLE) != 0;
  bool zero = (in.mode & FALLOC_FL_ZERO_RANGE) != 0;
  if (!punch && !zero) return answer_error(unique, EOPNOTSUPP);
  ++stats_.zeroes;
  std::uint64_t size = device_->size_bytes();
  if (in.offset >= size || in.length == 0) return answer_error(unique, in.length == 0 ? EINVAL : 0);
  ++in_flight_;
  device_->zero(in.offset, std::min(in.length, size - in.offset), punch, completion(unique, 0));
}

void Session::flush(std::uint64_t unique) {
  ++stats_.flushes;
  ++in_flight_;
  device_->flush(completion(unique, 0));
}

// Where the next data or hole is: lseek(2).
void Session::seek(std::uint64_t unique, const fuse_lseek_in& in) {
  if (in.whence != SEEK_DATA && in.whence != SEEK_HOLE) return answer_error(unique, EINVAL);
  if (in.offset >= device_->size_bytes()) return answer_error(unique, ENXIO);
  ++in_flight_;
  seek_from(unique, in.offset, in.whence == SEEK_DATA);
}

// Asks the device run by run. Counted as in flight.
void Session::seek_from(std::uint64_t unique, std::uint64_t offset, bool data) {
  std::uint64_t length = device_->size_bytes() - offset;
  auto found = [this, unique, offset, length, data, generation = generation_](Result<BlockDevice::Extent> extent) {
    bool ours = generation == generation_;
    if (!extent.ok() || !ours) {
      Error error = extent.ok() ? Error(ErrorCode::kCancelled, "the engine went away") : std::move(extent).error();
      if (abandoned(error, generation)) {
        ++stats_.dropped;
      } else {
        answer_status(unique, error);
      }
      return finish();
    }
    if (extent->mapped != data && extent->length > 0 && extent->length < length) {
      return seek_from(unique, offset + extent->length, data);
    }
    // The end of the file is a hole, and there is no data behind it.
    bool at_end = extent->mapped != data;
    if (at_end && data) {
      answer_error(unique, ENXIO);
    } else {
      answer(unique, fuse_lseek_out{at_end ? offset + length : offset});
    }
    finish();
  };
  device_->extent(offset, length, std::move(found));
}

void Session::lock(std::uint64_t unique) {
  if (locks_released_ || locks_.size() == kLocksMax) return answer_error(unique, ENOLCK);
  locks_.push_back(unique);
}

void Session::release_locks() {
  locks_released_ = true;
  for (std::uint64_t unique : std::exchange(locks_, {})) answer_error(unique, ENOLCK);
}

void Session::answer_attributes(std::uint64_t unique) {
  fuse_attr_out out{};
  // Whoever looks at the file of a device that waits for its engine must not wait as well: mkfs, for one, looks at the
  // backing files of all loop devices. Only the size ever changes, and resized() says when.
  out.attr_valid = kAttributesValidSeconds;
  out.attr.ino = FUSE_ROOT_ID;
  out.attr.size = device_->size_bytes();
  out.attr.blocks = out.attr.size / 512;
  out.attr.mode = S_IFREG | 0600;
  out.attr.nlink = 1;
  out.attr.uid = ::getuid();
  out.attr.gid = ::getgid();
  out.attr.blksize = kBlock;
  answer(unique, out);
}

void Session::answer_capacity(std::uint64_t unique) {
  fuse_statfs_out out{};
  out.st.blocks = device_->size_bytes() / kBlock;
  out.st.bsize = kBlock;  // the loop device takes its discard granularity from here
  out.st.frsize = kBlock;
  out.st.namelen = 255;
  answer(unique, out);
}

void Session::resized() {
  struct {
    fuse_out_header header;
    fuse_notify_inval_inode_out body;
  } message{};
  message.header = {sizeof message, FUSE_NOTIFY_INVAL_INODE, 0};
  message.body.ino = FUSE_ROOT_ID;
  message.body.off = -1;  // attributes only
  iovec part{&message, sizeof message};
  send(&part, 1);
}

// ---- completions and answers ----

BlockDevice::DoneCallback Session::completion(std::uint64_t unique, std::uint32_t written) {
  return [this, unique, written, generation = generation_](Status status) {
    if (!status.ok()) {
      if (abandoned(status.error(), generation)) {
        ++stats_.dropped;
      } else {
        answer_status(unique, status);
      }
    } else if (written == 0) {
      answer_error(unique, 0);
    } else {
      answer(unique, fuse_write_out{written, 0});
    }
    finish();
  };
}

bool Session::abandoned(const Error& error, std::uint64_t generation) const {
  if (!can_resend_) return false;
  if (error.code() == ErrorCode::kCancelled || error.code() == ErrorCode::kEpochSuperseded) return true;
  return generation != generation_;
}

void Session::finish() {
  CHECK(in_flight_ > 0);
  if (--in_flight_ == 0 && closed_) env_.post(std::exchange(closed_, nullptr));
}

template <typename T>
void Session::answer(std::uint64_t unique, const T& body) {
  fuse_out_header header{sizeof header + sizeof body, 0, unique};
  iovec parts[] = {{&header, sizeof header}, {const_cast<T*>(&body), sizeof body}};
  send(parts, 2);
}

void Session::answer_error(std::uint64_t unique, int error_number) {
  fuse_out_header header{sizeof header, -error_number, unique};
  iovec part{&header, sizeof header};
  send(&part, 1);
}

void Session::answer_status(std::uint64_t unique, const Status& status) {
  ++stats_.failures;
  log_warn("fuse", name_ + ": " + status.error().to_string());
  answer_error(unique, error_number_of(status.error()));
}

void Session::answer_data(std::uint64_t unique, const SliceList& data) {
  constexpr std::size_t kPartsMax = 1 + 512;
  fuse_out_header header{static_cast<std::uint32_t>(sizeof header + total_size(data)), 0, unique};
  iovec parts[kPartsMax];
  parts[0] = {&header, sizeof header};
  if (data.size() < kPartsMax) {
    for (std::size_t i = 0; i < data.size(); ++i) parts[i + 1] = {data[i].data(), data[i].size()};
    return send(parts, static_cast<int>(data.size() + 1));
  }
  Slice joined = env_.buffers().allocate(total_size(data));
  std::size_t at = 0;
  for (const Slice& part : data) {
    std::memcpy(joined.data() + at, part.data(), part.size());
    at += part.size();
  }
  parts[1] = {joined.data(), joined.size()};
  send(parts, 2);
}

void Session::send(const iovec* parts, int count) {
  for (;;) {
    if (::writev(fd_, parts, count) >= 0) return;
    if (errno == EINTR) continue;
    // ENOENT: nobody waits for this answer any more. ENODEV: the file was unmounted.
    if (errno != ENOENT && errno != ENODEV) {
      log_error("fuse", name_ + ": an answer was not taken: " + std::strerror(errno));
    }
    return;
  }
}

}  // namespace holdfast::fuse
