#include "io/shared_rings.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "io/system_error.h"

namespace holdfast::io {

namespace {

constexpr char kVersion = 1;
constexpr std::size_t kControlBytes = 4096;
constexpr std::size_t kMemoryBytes = kControlBytes + 2 * SharedRings::kBytes;
constexpr std::size_t kMappedBytes = kControlBytes + 4 * SharedRings::kBytes;
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
constexpr std::size_t kDescriptors = 3;

Error cannot(std::string_view what) {
  return Error(ErrorCode::kUnsupportedSystem, std::string(what) + ": " + errno_text(errno));
}

OwnedFd make_bell() { return OwnedFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); }

}  // namespace

OwnedFd::~OwnedFd() {
  if (fd_ >= 0) ::close(fd_);
}

SharedRings::SharedRings(SharedRings&& other) noexcept
    : base_(std::exchange(other.base_, nullptr)),
      own_(other.own_),
      peer_(other.peer_),
      out_(other.out_),
      in_(other.in_),
      own_bell_(std::move(other.own_bell_)),
      peer_bell_(std::move(other.peer_bell_)),
      written_(other.written_),
      read_(other.read_),
      peer_read_(other.peer_read_),
      broken_(other.broken_) {}

SharedRings::~SharedRings() {
  if (base_ != nullptr) munmap(base_, kMappedBytes);
}

// ---- making and taking ----

Result<SharedRings> SharedRings::offer(int socket) {
  OwnedFd memory(memfd_create("holdfast-rings", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (memory.get() < 0 || ftruncate(memory.get(), kMemoryBytes) != 0 || fcntl(memory.get(), F_ADD_SEALS, kSeals) != 0) {
    return cannot("memory to share");
  }
  OwnedFd own_bell = make_bell(), peer_bell = make_bell();
  if (own_bell.get() < 0 || peer_bell.get() < 0) return cannot("eventfd");

  int descriptors[kDescriptors] = {memory.get(), peer_bell.get(), own_bell.get()};
  alignas(cmsghdr) std::byte control[CMSG_SPACE(sizeof descriptors)] = {};
  char version = kVersion;
  iovec text{&version, 1};
  msghdr message{};
  message.msg_iov = &text;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof descriptors);
  std::memcpy(CMSG_DATA(header), descriptors, sizeof descriptors);
  if (sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) != 1) return cannot("offering memory to share");
  return adopt(std::move(memory), std::move(own_bell), std::move(peer_bell), true);
}

SharedRings::Offered::Offered() {
  static_assert(CMSG_SPACE(sizeof(int) * kDescriptors) <= sizeof control_);
  place_ = {&version_, 1};
  message_.msg_iov = &place_;
  message_.msg_iovlen = 1;
  message_.msg_control = control_.data();
  message_.msg_controllen = CMSG_LEN(sizeof(int) * kDescriptors);  // no room for more
}

Result<SharedRings> SharedRings::Offered::take(std::size_t received) {
  std::array<OwnedFd, kDescriptors> descriptors;
  std::size_t count = 0;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message_); header != nullptr; header = CMSG_NXTHDR(&message_, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    for (std::size_t i = 0; i < (header->cmsg_len - CMSG_LEN(0)) / sizeof(int) && count < kDescriptors; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
      descriptors[count++] = OwnedFd(fd);
    }
  }
  if (received != 1 || version_ != kVersion || count != kDescriptors) {
    return Error(ErrorCode::kProtocol, "the peer offers no memory to share that this version knows");
  }
  int memory = descriptors[0].get();
  struct stat status {};
  if (fcntl(memory, F_GET_SEALS) != kSeals || fstat(memory, &status) != 0 ||
      status.st_size != static_cast<off_t>(kMemoryBytes)) {
    return Error(ErrorCode::kProtocol, "the memory that the peer offers is of another size, or could shrink");
  }
  return adopt(std::move(descriptors[0]), std::move(descriptors[1]), std::move(descriptors[2]), false);
}

Result<SharedRings> SharedRings::adopt(OwnedFd memory, OwnedFd own_bell, OwnedFd peer_bell, bool offers) {
  SharedRings rings;
  TRY(rings.map(memory.get(), offers));
  rings.own_bell_ = std::move(own_bell);
  rings.peer_bell_ = std::move(peer_bell);
  return rings;
}

// The ring that the offering side writes lies first.
Status SharedRings::map(int memory, bool offers) {
  void* reserved = mmap(nullptr, kMappedBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return cannot("address space for memory to share");
  base_ = static_cast<std::byte*>(reserved);
  auto place = [&](std::byte* at, std::size_t bytes, std::size_t offset, bool writable) {
    int access = PROT_READ | (writable ? PROT_WRITE : 0);
    return mmap(at, bytes, access, MAP_SHARED | MAP_FIXED, memory, static_cast<off_t>(offset)) != MAP_FAILED;
  };
  std::byte* first = base_ + kControlBytes;
  std::byte* second = first + 2 * kBytes;
  bool mapped = place(base_, kControlBytes, 0, true) && place(first, kBytes, kControlBytes, offers) &&
                place(first + kBytes, kBytes, kControlBytes, offers) &&
                place(second, kBytes, kControlBytes + kBytes, !offers) &&
                place(second + kBytes, kBytes, kControlBytes + kBytes, !offers);
  if (!mapped) return cannot("mapping memory to share");
  auto* sides = reinterpret_cast<Side*>(base_);
  own_ = &sides[offers ? 0 : 1];
  peer_ = &sides[offers ? 1 : 0];
  out_ = offers ? first : second;
  in_ = offers ? second : first;
  return {};
}

// ---- writing and reading ----

std::size_t SharedRings::room() {
  if (written_ - peer_read_ > kGoodRoom) {
    std::uint64_t read = peer_->read.load(std::memory_order_acquire);
    if (read >= peer_read_ && read <= written_) peer_read_ = read;
  }
  return kBytes - static_cast<std::size_t>(written_ - peer_read_);
}

void SharedRings::put(std::span<const std::byte> bytes) {
  CHECK(bytes.size() <= kBytes - (written_ - peer_read_), "more than there is room for");
  std::memcpy(out_ + written_ % kBytes, bytes.data(), bytes.size());
  written_ += bytes.size();
}

std::span<const std::byte> SharedRings::input() {
  std::uint64_t available = peer_->written.load(std::memory_order_acquire) - read_;
  if (available > kBytes) broken_ = true;
  if (broken_) return {};
  return {in_ + read_ % kBytes, static_cast<std::size_t>(available)};
}

void SharedRings::consumed(std::size_t count) {
  read_ += count;
  own_->read.store(read_, std::memory_order_release);
}

// ---- sleeping ----

void SharedRings::tell_of_input() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (peer_->sleeps.load(std::memory_order_relaxed) != kAwake) wake_peer();
}

void SharedRings::tell_of_room() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (peer_->sleeps.load(std::memory_order_relaxed) != kForRoom) return;
  if (peer_->written.load(std::memory_order_relaxed) - read_ <= kBytes - kGoodRoom) wake_peer();
}

void SharedRings::wake_peer() {
  if (peer_->sleeps.exchange(kAwake, std::memory_order_relaxed) == kAwake) return;
  std::uint64_t one = 1;
  // Fails only when the counter is full, and then the peer has been woken.
  while (::write(peer_bell_.get(), &one, sizeof one) < 0 && errno == EINTR) {
  }
}

}  // namespace holdfast::io
