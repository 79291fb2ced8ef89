#include "fuse/loop_device.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/fuse.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <thread>

namespace holdfast::fuse {

namespace {

using namespace std::chrono_literals;

constexpr int kLoopMajor = 7;
constexpr int kAttempts = 100;
constexpr int kBusyAttempts = 40;
constexpr auto kAttemptPause = 20ms;
// What the kernel reads ahead of one that reads a file in order, instead of its usual 128 KiB: several requests of 1
// MiB at once, or each would wait for the whole way to a replica and back (docs/nfs.md, "Speed").
constexpr unsigned long kReadAheadSectors = (4u << 20) / 512;

struct Descriptor {
  explicit Descriptor(int number) : fd(number) {}
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  const int fd;
};

Error failure(const std::string& what, int error_number) {
  std::string message = what + ": " + std::strerror(error_number);
  switch (error_number) {
    case EPERM:
    case EACCES:
      return Error(ErrorCode::kFailedPrecondition, message + ": local devices take root");
    case EBUSY:
      return Error(ErrorCode::kInUse, message);
    case ENOENT:
    case ENODEV:
    case ENXIO:
      return Error(ErrorCode::kUnsupportedSystem, message + ": the kernel or container has no loop devices");
    default:
      return Error(ErrorCode::kInternal, message);
  }
}

std::string backing_file_of(const std::string& device) {
  std::ifstream in("/sys/block/" + device.substr(device.rfind('/') + 1) + "/loop/backing_file");
  std::string path;
  std::getline(in, path);
  return path;
}

bool has_backing_file(const std::string& device, const std::string& file) {
  std::string present = backing_file_of(device);
  // What was unmounted under the device is shown without its place.
  return present == file || present == file + " (deleted)";
}

int open_to_remove(const std::string& path, bool force) {
  for (int attempt = 0;; ++attempt) {
    int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | (force ? 0 : O_EXCL));
    if (fd >= 0 || errno != EBUSY || attempt == kBusyAttempts) return fd;
    std::this_thread::sleep_for(kAttemptPause);
  }
}

std::optional<loop_info64> information_of(const std::string& device) {
  Descriptor opened(::open(device.c_str(), O_RDONLY | O_CLOEXEC));
  loop_info64 info{};
  if (opened.fd < 0 || ::ioctl(opened.fd, LOOP_GET_STATUS64, &info) != 0) return std::nullopt;
  return info;
}

// What the kernel remembers of the name that a device was set up with.
std::string kept_name(const std::string& file) { return file.substr(0, LO_NAME_SIZE - 1); }

// Should somebody wait for what nobody answers, they get errors. Needs the kernel's control files for FUSE, where they
// are mounted.
void abort_connection(unsigned number) {
  std::ofstream out("/sys/fs/fuse/connections/" + std::to_string(number) + "/abort");
  out << "1\n";
}

// The node of device `number`, made where /dev is not kept by the kernel.
Result<std::string> node_of(int number) {
  std::string path = "/dev/loop" + std::to_string(number);
  if (::mknod(path.c_str(), S_IFBLK | 0660, makedev(kLoopMajor, static_cast<unsigned>(number))) != 0 &&
      errno != EEXIST) {
    return failure("cannot make " + path, errno);
  }
  return path;
}

}  // namespace

std::optional<std::string> find_loop_device(const std::string& file) {
  DIR* folder = ::opendir("/sys/block");
  if (!folder) return std::nullopt;
  std::optional<std::string> found;
  while (dirent* entry = ::readdir(folder)) {
    std::string device = std::string("/dev/") + entry->d_name;
    if (std::strncmp(entry->d_name, "loop", 4) == 0 && backing_file_of(device) == file) found = device;
  }
  ::closedir(folder);
  return found;
}

Result<std::string> make_loop_device(const std::string& file, std::uint32_t block_size) {
  Descriptor control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (control.fd < 0) return failure("cannot open /dev/loop-control", errno);
  Descriptor backing(::open(file.c_str(), O_RDWR | O_CLOEXEC));
  if (backing.fd < 0) return failure("cannot open " + file, errno);
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    int number = ::ioctl(control.fd, LOOP_CTL_GET_FREE);
    if (number < 0) return failure("cannot get a loop device", errno);
    ASSIGN_OR_RETURN(std::string path, node_of(number));
    Descriptor device(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (device.fd < 0) return failure("cannot open " + path, errno);
    loop_config config{};
    config.fd = static_cast<std::uint32_t>(backing.fd);
    config.block_size = block_size;
    config.info.lo_flags = LO_FLAGS_DIRECT_IO;
    std::string name = kept_name(file);
    std::memcpy(config.info.lo_file_name, name.data(), name.size());
    if (::ioctl(device.fd, LOOP_CONFIGURE, &config) == 0) {
      (void)::ioctl(device.fd, BLKRASET, kReadAheadSectors);  // slower without, and no worse
      return path;
    }
    if (errno != EBUSY) return failure("cannot set " + path + " up", errno);  // busy: somebody was faster
    std::this_thread::sleep_for(kAttemptPause);
  }
  return Error(ErrorCode::kInUse, "no loop device could be had: others take them all");
}

Status remove_loop_device(const std::string& path, const std::string& file, bool force) {
  if (!has_backing_file(path, file)) return {};
  {
    // Exclusive: fails while a file system is mounted from it, or somebody else claims it. A mount namespace that has
    // just begun as a copy of another may have it for a moment after it was unmounted.
    Descriptor device(open_to_remove(path, force));
    if (device.fd < 0 && errno == EBUSY) {
      return Error(ErrorCode::kInUse, path + " is in use: unmount its file system, or end what has it open");
    }
    if (device.fd < 0) return failure("cannot open " + path, errno);
    if (!has_backing_file(path, file)) return {};  // meanwhile it was ended otherwise, and may be somebody else's
    if (::ioctl(device.fd, LOOP_CLR_FD) != 0 && errno != ENXIO) return failure("cannot end " + path, errno);
  }
  if (force) return {};
  // The kernel lets go when the last descriptor is closed; programs that look at new devices may have one for a moment.
  for (int attempt = 0; attempt < kAttempts && has_backing_file(path, file); ++attempt) {
    std::this_thread::sleep_for(kAttemptPause);
  }
  if (!has_backing_file(path, file)) return {};
  return Error(ErrorCode::kInUse, path + " is still open somewhere, and ends when it is closed");
}

Status remember_loop_device(const std::string& device, const std::string& record) {
  std::optional<loop_info64> info = information_of(device);
  if (!info) return failure("cannot look at " + device, errno);
  std::ofstream out(record, std::ios::trunc);
  out << device << ' ' << info->lo_device << '\n';
  out.close();
  return out ? Status() : Error(ErrorCode::kDiskIo, "cannot write " + record);
}

void forget_loop_device(const std::string& file, const std::string& record) {
  std::ifstream in(record);
  std::string device;
  std::uint64_t file_system = 0;
  if (in >> device >> file_system) {
    // Its number may be somebody else's by now. The number of a file system is given again too, the name of its file is
    // that of one volume.
    std::optional<loop_info64> info = information_of(device);
    if (info && info->lo_device == file_system && info->lo_inode == FUSE_ROOT_ID &&
        reinterpret_cast<const char*>(info->lo_file_name) == kept_name(file)) {
      abort_connection(minor(info->lo_device));
      Descriptor opened(::open(device.c_str(), O_RDONLY | O_CLOEXEC));
      if (opened.fd >= 0) (void)::ioctl(opened.fd, LOOP_CLR_FD);
    }
  }
  (void)::unlink(record.c_str());
}

Status refresh_loop_device(const std::string& path, const std::string& file) {
  // Makes the kernel ask for the size of the file, which it otherwise remembers.
  struct stat status {};
  if (::stat(file.c_str(), &status) != 0) return failure("cannot look at " + file, errno);
  Descriptor device(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (device.fd < 0) return failure("cannot open " + path, errno);
  if (::ioctl(device.fd, LOOP_SET_CAPACITY, 0) == 0) return {};
  return failure("cannot resize " + path, errno);
}

}  // namespace holdfast::fuse
