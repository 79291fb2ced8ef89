// Opening a file for direct I/O: on a helper thread, because every step of it may wait for the disk.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/log.h"
#include "io/system_error.h"
#include "io/uring_file.h"

namespace holdfast::io {

namespace {

constexpr mode_t kMode = 0600;
// The kernel gives a killed process's locks back only when its last I/O has ended, which may take a moment. This is
// also why the lock is what a restarted process must take before it trusts the content: no write of the dead one can
// follow.
constexpr int kLockAttempts = 50;
constexpr long kLockPauseNanos = 20'000'000;

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

std::string parent_of(const std::string& path) {
  std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

Status sync_folder(const std::string& path) {
  Descriptor folder(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() < 0) return disk_error("open folder", path, errno);
  if (fsync(folder.get()) != 0) return disk_error("sync folder", path, errno);
  return {};
}

void pause_for_lock() {
  timespec pause{0, kLockPauseNanos};
  nanosleep(&pause, nullptr);
}

int open_retrying(const std::string& path, int flags) {
  for (int attempt = 1;;) {
    int fd = open(path.c_str(), flags, kMode);
    if (fd >= 0) return fd;
    // EBUSY: a block device that somebody has for himself, perhaps a process that is just ending.
    if (errno == EBUSY && attempt++ < kLockAttempts) {
      pause_for_lock();
    } else if (errno != EINTR) {
      return -1;
    }
  }
}

struct Opened {
  int fd = -1;
  bool buffered = false;
};

Error in_use(const std::string& path) {
  return Error(ErrorCode::kInUse, path + " is in use by another process, or mounted: stop that first");
}

Result<Opened> open_direct(const std::string& path, const FileOptions& options, int extra_flags) {
  int flags = O_RDWR | O_CLOEXEC | O_NOCTTY | extra_flags;
  if (options.create) flags |= O_CREAT;
  Opened opened{.fd = open_retrying(path, flags | O_DIRECT)};
  if (opened.fd < 0 && errno == EINVAL) {
    // Some file systems (tmpfs before Linux 6.6) have no direct I/O. Everything stays correct, only buffered.
    opened = {.fd = open_retrying(path, flags), .buffered = true};
  }
  if (opened.fd < 0 && errno == EBUSY) return in_use(path);
  if (opened.fd < 0) return disk_error("open", path, errno);
  return opened;
}

Status lock(int fd, const std::string& path) {
  for (int attempt = 1;; ++attempt) {
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) return {};
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK) return disk_error("lock", path, errno);
    if (attempt == kLockAttempts) return in_use(path);
    pause_for_lock();
  }
}

Result<std::uint64_t> size_of(int fd, const struct stat& status, const std::string& path) {
  if (S_ISREG(status.st_mode)) return static_cast<std::uint64_t>(status.st_size);
  std::uint64_t bytes = 0;
  if (ioctl(fd, BLKGETSIZE64, &bytes) != 0) return disk_error("ask the size of", path, errno);
  return bytes;
}

}  // namespace

Result<OpenedFile> open_blocking(const std::string& path, const FileOptions& wanted) {
  struct stat before {};
  bool is_device = stat(path.c_str(), &before) == 0 && S_ISBLK(before.st_mode);
  FileOptions options = wanted;
  // A device is there or not; to create and to have it for oneself would mean to insist on a new file.
  if (is_device) options.create = false;
  // On a block device O_EXCL keeps mounts, and other users of the kernel, away.
  ASSIGN_OR_RETURN(Opened opened, open_direct(path, options, is_device && options.exclusive ? O_EXCL : 0));
  Descriptor file(opened.fd);
  struct stat status {};
  if (fstat(file.get(), &status) != 0) return disk_error("look at", path, errno);
  if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode)) {
    return Error(ErrorCode::kInvalidArgument, path + " is neither a file nor a block device");
  }
  if (opened.buffered) log_warn("io", path + ": its file system has no direct I/O; using the page cache");
  if (options.exclusive) TRY(lock(file.get(), path));
  if (options.create) {
    // Also when it was there already: who made it may have died before this.
    if (fsync(file.get()) != 0) return disk_error("sync", path, errno);
    TRY(sync_folder(parent_of(path)));
  }
  // Asked after the lock: a process that was still ending may have grown the file until then.
  if (fstat(file.get(), &status) != 0) return disk_error("look at", path, errno);
  ASSIGN_OR_RETURN(std::uint64_t size, size_of(file.get(), status, path));
  return OpenedFile{file.release(), size, S_ISBLK(status.st_mode)};
}

}  // namespace holdfast::io
