#include "fuse/mount.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>
#include <utility>

#include "base/log.h"
#include "fuse/protocol.h"

namespace holdfast::fuse {

namespace {

using namespace std::chrono_literals;

constexpr int kKeptDescriptor = 3;
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

// Field 22 of /proc/PID/stat; empty when there is no such process, or it is a zombie.
std::string start_time_of(int pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/stat");
  std::stringstream all;
  all << in.rdbuf();
  std::string text = all.str();
  std::size_t end_of_name = text.rfind(')');
  if (end_of_name == std::string::npos) return "";
  std::istringstream fields(text.substr(end_of_name + 1));
  std::string field;
  for (int number = 3; fields >> field; ++number) {
    if (number == 3 && (field == "Z" || field == "X")) return "";
    if (number == 22) return field;
  }
  return "";
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
  std::ifstream in(directory + "/keeper");
  int pid = 0;
  std::string start_time;
  if (!(in >> pid >> start_time) || pid <= 0 || start_time_of(pid) != start_time) return -1;
  int pidfd = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
  if (pidfd < 0) return -1;
  int fd = static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd, kKeptDescriptor, 0));
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
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  for (int standard = 0; standard < kKeptDescriptor; ++standard) {
    posix_spawn_file_actions_addopen(&actions, standard, "/dev/null", O_RDWR, 0);
  }
  // Without the close-on-exec of the original. Where the two numbers are the same, dup2 clears it as well.
  posix_spawn_file_actions_adddup2(&actions, fd, kKeptDescriptor);
  posix_spawn_file_actions_addchdir_np(&actions, "/");
  sigset_t none;
  sigset_t all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  // What `ps` shows should say what it is; coreutils' sleep does not mind.
  char name[] = "holdfast-device-keeper";
  char forever[] = "infinity";
  char* arguments[] = {name, forever, nullptr};
  char* environment[] = {nullptr};
  pid_t pid = 0;
  int error_number = ::posix_spawn(&pid, "/bin/sleep", &actions, &attributes, arguments, environment);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (error_number != 0) return failure("cannot start the keeper of " + directory, error_number);
  std::ofstream out(directory + "/keeper", std::ios::trunc);
  out << pid << ' ' << start_time_of(pid) << '\n';
  out.close();
  if (out) return pid;
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
  return Error(ErrorCode::kDiskIo, "cannot write " + directory + "/keeper");
}

void end_keeper(int pid) {
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);  // it may be somebody else's child: then this says so
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
  if (keeper_ != 0) end_keeper(keeper_);
  ::close(std::exchange(fd_, -1));
  (void)::unlink((directory_ + "/keeper").c_str());
  (void)::unlink(file_.c_str());
  (void)::rmdir(directory_.c_str());
}

Status clear_mount(const std::string& directory) {
  std::string file = directory + "/device";
  int keeper = 0;
  int fd = take_from_keeper(directory, keeper);
  if (fd >= 0) ::close(fd);
  if (keeper != 0) end_keeper(keeper);
  (void)::unlink((directory + "/keeper").c_str());
  // Several may lie over each other, from several deaths.
  while (::umount2(file.c_str(), MNT_DETACH) == 0) {
  }
  if (errno != EINVAL && errno != ENOENT) return failure("cannot unmount what is left at " + file, errno);
  if (::unlink(file.c_str()) != 0 && errno != ENOENT) return failure("cannot remove " + file, errno);
  return {};
}

}  // namespace holdfast::fuse
