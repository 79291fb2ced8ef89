#include "fuse/device_content.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <scsi/sg.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace holdfast::fuse {

namespace {

constexpr std::size_t kReadBytes = 1u << 20;
constexpr std::size_t kAlignment = 4096;
constexpr std::size_t kLbaStatusBytes = 8 + 16;  // with one descriptor
constexpr unsigned kCommandTimeoutMs = 60'000;

std::uint64_t big_endian(std::span<const std::byte> bytes) {
  std::uint64_t value = 0;
  for (std::byte each : bytes) value = value << 8 | std::to_integer<std::uint64_t>(each);
  return value;
}

struct Run {
  bool data = true;
  std::uint64_t end = 0;
};

class Content {
 public:
  Content(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  ~Content() { ::close(fd_); }
  Content(const Content&) = delete;
  Content& operator=(const Content&) = delete;

  Result<std::optional<std::uint64_t>> first_data();

 private:
  Status measure();
  Run run_at(std::uint64_t offset);
  std::optional<Run> scsi_run_at(std::uint64_t offset);
  Result<std::optional<std::uint64_t>> scan(std::uint64_t begin, std::uint64_t end);
  Error failure(const char* what) const {
    return Error(ErrorCode::kDiskIo, std::string("cannot ") + what + " " + path_ + ": " + std::strerror(errno));
  }

  const int fd_;
  const std::string path_;
  std::uint64_t size_ = 0;
  bool is_device_ = false;
  std::uint32_t block_size_ = 0;
  bool scsi_answers_ = false;
  std::unique_ptr<std::byte, decltype(&std::free)> buffer_{nullptr, &std::free};
};

Status Content::measure() {
  struct stat status {};
  if (::fstat(fd_, &status) != 0) return failure("look at");
  is_device_ = S_ISBLK(status.st_mode);
  size_ = static_cast<std::uint64_t>(status.st_size);
  if (!is_device_) return {};
  int block_size = 0;
  if (::ioctl(fd_, BLKGETSIZE64, &size_) != 0 || ::ioctl(fd_, BLKSSZGET, &block_size) != 0) return failure("measure");
  block_size_ = static_cast<std::uint32_t>(block_size);
  scsi_answers_ = block_size_ > 0;
  // What programs wrote through the kernel's cache is on its way to the device.
  if (::fsync(fd_) != 0) return failure("flush");
  return {};
}

// Of a device that answers no question, everything is data.
Run Content::run_at(std::uint64_t offset) {
  if (is_device_) {
    std::optional<Run> found = scsi_answers_ ? scsi_run_at(offset) : std::nullopt;
    scsi_answers_ = found.has_value();
    return found.value_or(Run{true, size_});
  }
  off_t data = ::lseek(fd_, static_cast<off_t>(offset), SEEK_DATA);
  if (data < 0) return {errno != ENXIO, size_};
  if (static_cast<std::uint64_t>(data) > offset) return {false, static_cast<std::uint64_t>(data)};
  off_t hole = ::lseek(fd_, data, SEEK_HOLE);
  return {true, hole <= data ? size_ : static_cast<std::uint64_t>(hole)};
}

std::optional<Run> Content::scsi_run_at(std::uint64_t offset) {
  std::array<unsigned char, 16> command{0x9e, 0x12};
  std::uint64_t lba = offset / block_size_;
  for (int i = 0; i < 8; ++i)
    command[static_cast<std::size_t>(2 + i)] = static_cast<unsigned char>(lba >> (56 - 8 * i));
  command[13] = kLbaStatusBytes;
  std::array<std::byte, kLbaStatusBytes> answer{};
  std::array<unsigned char, 32> sense{};
  sg_io_hdr_t io{};
  io.interface_id = 'S';
  io.dxfer_direction = SG_DXFER_FROM_DEV;
  io.cmd_len = command.size();
  io.cmdp = command.data();
  io.dxfer_len = answer.size();
  io.dxferp = answer.data();
  io.mx_sb_len = sense.size();
  io.sbp = sense.data();
  io.timeout = kCommandTimeoutMs;
  if (::ioctl(fd_, SG_IO, &io) != 0 || (io.info & SG_INFO_OK_MASK) != SG_INFO_OK || io.resid != 0) return std::nullopt;
  std::optional<MappedRun> run = parse_lba_status(answer, lba);
  if (!run || run->blocks > (size_ - offset) / block_size_) return std::nullopt;
  return Run{run->mapped, offset + run->blocks * block_size_};
}

Result<std::optional<std::uint64_t>> Content::scan(std::uint64_t begin, std::uint64_t end) {
  for (std::uint64_t at = begin; at < end;) {
    std::size_t wanted = static_cast<std::size_t>(std::min<std::uint64_t>(kReadBytes, end - at));
    ssize_t got = ::pread(fd_, buffer_.get(), wanted, static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return failure("read");
    if (got == 0) return Error(ErrorCode::kDiskIo, path_ + " ends at " + std::to_string(at));
    const std::byte* last = buffer_.get() + got;
    const std::byte* found = std::find_if(static_cast<const std::byte*>(buffer_.get()), last,
                                          [](std::byte each) { return each != std::byte{0}; });
    if (found != last) return std::optional(at + static_cast<std::uint64_t>(found - buffer_.get()));
    at += static_cast<std::uint64_t>(got);
  }
  return std::optional<std::uint64_t>();
}

Result<std::optional<std::uint64_t>> Content::first_data() {
  TRY(measure());
  buffer_.reset(static_cast<std::byte*>(std::aligned_alloc(kAlignment, kReadBytes)));
  for (std::uint64_t at = 0; at < size_;) {
    Run run = run_at(at);
    if (run.data) {
      ASSIGN_OR_RETURN(std::optional<std::uint64_t> found, scan(at, run.end));
      if (found) return found;
    }
    at = run.end;
  }
  return std::optional<std::uint64_t>();
}

}  // namespace

std::optional<MappedRun> parse_lba_status(std::span<const std::byte> answer, std::uint64_t lba) {
  if (answer.size() < kLbaStatusBytes || big_endian(answer.first(4)) < kLbaStatusBytes - 4) return std::nullopt;
  std::span<const std::byte> descriptor = answer.subspan(8, 16);
  std::uint64_t blocks = big_endian(descriptor.subspan(8, 4));
  if (big_endian(descriptor.first(8)) != lba || blocks == 0) return std::nullopt;
  // Deallocated only: what is anchored is no data either, and costs a read to say so.
  return MappedRun{(std::to_integer<unsigned>(descriptor[12]) & 0xf) != 1, blocks};
}

Result<std::optional<std::uint64_t>> first_data(const std::string& path) {
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return Error(ErrorCode::kDiskIo, "cannot open " + path + ": " + std::strerror(errno));
  return Content(fd, path).first_data();
}

}  // namespace holdfast::fuse
