#include "fuse/mount.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>

#include "base/log.h"
#include "fuse/helper_process.h"
#include "fuse/loop_device.h"
#include "fuse/protocol.h"

namespace holdfast::fuse {

namespace {

using namespace std::chrono_literals;

constexpr int kAttempts = 100;
constexpr auto kAttemptPause = 20ms;

Error failure(const std::string& what, int error_number) {
  std::string message = what + ": " + std::strerror(error_number);
  switch (error_number) {
    case EPERM:
    case EACCES:
      return Error(ErrorCode::kFailedPrecondition, message + ": local devices take root (CAP_SYS_ADMIN)");
    case ENODEV:
    case ENOENT:
    case ENXIO:
      return Error(ErrorCode::kUnsupportedSystem, message + ": the kernel or container has no FUSE");
    case EBUSY:
      return Error(ErrorCode::kInUse, message);
    default:
      return Error(ErrorCode::kInternal, message);
  }
}

// 7.41 came with Linux 6.9.
bool kernel_can_resend() {
  utsname name{};
  if (::uname(&name) != 0) return false;
  int major = 0;
  int minor = 0;
  if (std::sscanf(name.release, "%d.%d", &major, &minor) != 2) return false;
  return major > 6 || (major == 6 && minor >= 9);
}

bool is_fuse_device(int fd) {
  struct stat status {};
  return ::fstat(fd, &status) == 0 && S_ISCHR(status.st_mode) && status.st_rdev == makedev(10, 229);
}

// The descriptor that a live keeper of this folder holds; -1 when there is none.
int take_from_keeper(const std::string& directory, int& keeper) {
  int pid = find_helper(directory + "/keeper");
  if (pid == 0) return -1;
  int pidfd = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
  if (pidfd < 0) return -1;
  int fd = static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd, kHelperDescriptor, 0));
  int error_number = errno;
  ::close(pidfd);
  if (fd < 0) {
    log_error("fuse", directory + ": the descriptor cannot be taken from its keeper: " + std::strerror(error_number));
    return -1;
  }
  if (!is_fuse_device(fd)) {
    ::close(fd);
    return -1;
  }
  keeper = pid;
  return fd;
}

Result<int> start_keeper(const std::string& directory, int fd) {
  return start_helper({"/bin/sleep", {"holdfast-device-keeper", "infinity"}, "/", fd}, directory + "/keeper");
}

Status make_folder(const std::string& directory) {
  if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) return failure("cannot make " + directory, errno);
  std::string file = directory + "/device";
  int fd = ::open(file.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  if (fd < 0) return failure("cannot make " + file, errno);
  ::close(fd);
  return {};
}

Status mount_over(const std::string& file, int fd, const std::string& name) {
  // The root of this file system is a regular file (0100600).
  std::string options = "fd=" + std::to_string(fd) + ",rootmode=100600,user_id=" + std::to_string(::getuid()) +
                        ",group_id=" + std::to_string(::getgid()) + ",max_read=" + std::to_string(kMaxIoBytes);
  std::string source = "holdfast:" + name;
  unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME;
  if (::mount(source.c_str(), file.c_str(), "fuse.holdfast", flags, options.c_str()) == 0) return {};
  return failure("cannot mount over " + file, errno);
}

}  // namespace

Mount::Mount(Mount&& other) noexcept { *this = std::move(other); }

Mount& Mount::operator=(Mount&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(keeper_, other.keeper_);
  std::swap(anchor_, other.anchor_);
  std::swap(found_, other.found_);
  std::swap(can_resend_, other.can_resend_);
  std::swap(directory_, other.directory_);
  std::swap(file_, other.file_);
  return *this;
}

Mount::~Mount() {
  if (fd_ >= 0) ::close(fd_);
}

Result<Mount> Mount::find_or_make(const std::string& directory, const std::string& name) {
  Mount mount;
  mount.directory_ = directory;
  mount.file_ = directory + "/device";
  mount.can_resend_ = kernel_can_resend();
  mount.fd_ = take_from_keeper(directory, mount.keeper_);
  if (mount.fd_ >= 0) {
    mount.found_ = true;
    return mount;
  }
  TRY(mount.mount_anew(name));
  Result<int> keeper = start_keeper(directory, mount.fd_);
  if (!keeper.ok()) {
    (void)::umount2(mount.file_.c_str(), MNT_DETACH);
    return std::move(keeper).error();
  }
  mount.keeper_ = *keeper;
  return mount;
}

Status Mount::ensure_anchor() {
  std::string record = directory_ + "/anchor";
  anchor_ = find_helper(record);
  if (anchor_ != 0) return {};
  // The path is not among its arguments: who ends all processes of a folder cannot end this one.
  ASSIGN_OR_RETURN(anchor_,
                   start_helper({"/usr/bin/flock", {"holdfast-device-anchor", "device", "true"}, directory_}, record));
  return {};
}

Result<Mount> Mount::make_own(const std::string& directory, const std::string& name) {
  Mount mount;
  mount.directory_ = directory;
  mount.file_ = directory + "/device";
  TRY(mount.mount_anew(name));
  return mount;
}

Status Mount::mount_anew(const std::string& name) {
  TRY(clear_mount(directory_));
  TRY(make_folder(directory_));
  fd_ = ::open("/dev/fuse", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (fd_ < 0) return failure("cannot open /dev/fuse", errno);
  return mount_over(file_, fd_, name);
}

Status Mount::unmount(bool force) {
  // The last user may have closed the file this moment, and the kernel be about to let go of it.
  int attempt = 0;
  while (::umount2(file_.c_str(), force ? MNT_DETACH : 0) != 0) {
    if (errno == EINVAL || errno == ENOENT) break;  // not mounted
    if (errno != EBUSY || ++attempt == kAttempts) return failure("cannot unmount " + file_, errno);
    std::this_thread::sleep_for(kAttemptPause);
  }
  return {};
}

void Mount::end() {
  end_helper(keeper_);
  ::close(std::exchange(fd_, -1));
  end_helper(anchor_);
  for (const char* name : {"/keeper", "/anchor", "/loop", "/device"}) (void)::unlink((directory_ + name).c_str());
  (void)::rmdir(directory_.c_str());
}

Status clear_mount(const std::string& directory) {
  std::string file = directory + "/device";
  int keeper = 0;
  int fd = take_from_keeper(directory, keeper);
  if (fd >= 0) ::close(fd);
  end_helper(keeper);
  forget_loop_device(file, directory + "/loop");
  for (const char* name : {"/keeper", "/anchor"}) (void)::unlink((directory + name).c_str());
  // Several may lie over each other, from several deaths.
  while (::umount2(file.c_str(), MNT_DETACH) == 0) {
  }
  if (errno != EINVAL && errno != ENOENT) return failure("cannot unmount what is left at " + file, errno);
  if (::unlink(file.c_str()) != 0 && errno != ENOENT) return failure("cannot remove " + file, errno);
  return {};
}

}  // namespace holdfast::fuse
