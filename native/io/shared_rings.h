// SharedRings: two rings of bytes, one for each direction, in memory that two processes of a host have mapped.
//
// One side makes them and offers them over a unix socket, the other one takes them from there. A ring has one writer
// and one reader, which count bytes from the beginning: what lies between `written` and `read` is in it. Its bytes are
// mapped twice in a row, so that any part of it is one span.
//
// Invariant (no lost wake-up): a side that is about to sleep says so (announce_sleep()) before it looks at the rings a
// last time; the other one publishes what it did before it looks whether somebody sleeps. A sequentially
// consistent fence lies between the two steps on either side, so at least one of them sees the other. Who sleeps is
// woken once, by an eventfd.
//
// The other side may be at fault: its counters are checked, and never trusted with an address. The memory cannot
// shrink (it is sealed). What was read may change until it was copied, so whoever needs that it does not, copies first.
// Thread: one reactor for each side.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <span>
#include <utility>

#include "base/result.h"

namespace holdfast::io {

// A descriptor that closes itself.
class OwnedFd {
 public:
  OwnedFd() = default;
  explicit OwnedFd(int fd) : fd_(fd) {}
  OwnedFd(OwnedFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  OwnedFd& operator=(OwnedFd other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~OwnedFd();
  int get() const { return fd_; }

 private:
  int fd_ = -1;
};

class SharedRings {
 public:
  static constexpr std::size_t kBytes = 1u << 20;  // of one ring

  SharedRings() = default;
  SharedRings(SharedRings&& other) noexcept;
  SharedRings& operator=(SharedRings&&) = delete;
  ~SharedRings();

  // Makes rings and sends them to the peer of `socket`, a unix socket just connected. Does not block.
  static Result<SharedRings> offer(int socket);
  // The other end: `received` is what recvmsg() of message() gave. PROTOCOL when that was no offer.
  class Offered;

  // ---- writing ----
  // How many more bytes there is room for. Looks at the reader's counter only when there is little.
  std::size_t room();
  // Copies them in; at most room(). Seen by the reader after publish().
  void put(std::span<const std::byte> bytes);
  // Whether the reader has read all that was published.
  bool all_read() const { return peer_->read.load(std::memory_order_acquire) == written_; }
  void publish() { own_->written.store(written_, std::memory_order_release); }

  // ---- reading ----
  // What is there to be read, at most all of a ring.
  std::span<const std::byte> input();
  // The first `count` bytes of input() are no longer needed.
  void consumed(std::size_t count);
  // The writer's counter made no sense; input() is empty from then on.
  bool broken() const { return broken_; }

  // ---- sleeping ----
  // Changes are to be told from now on: new input, and if `for_room` also room. A fence must follow, and a last look.
  void announce_sleep(bool for_room) { own_->sleeps.store(for_room ? kForRoom : kForInput, std::memory_order_relaxed); }
  void woke_up() { own_->sleeps.store(kAwake, std::memory_order_relaxed); }
  // After publish(): wakes the other side if it sleeps.
  void tell_of_input();
  // After consumed(): wakes the other side if it sleeps and waits for room, and there is a good part of a ring.
  void tell_of_room();
  // Becomes readable when this side is to wake up.
  int bell() const { return own_bell_.get(); }
  // So much room is worth waking up for.
  static constexpr std::size_t kGoodRoom = kBytes / 2;

 private:
  enum Sleep : std::uint32_t { kAwake, kForInput, kForRoom };

  // What one side writes and the other one reads.
  struct Side {
    alignas(64) std::atomic<std::uint64_t> written;
    alignas(64) std::atomic<std::uint64_t> read;  // of the other side's ring
    alignas(64) std::atomic<std::uint32_t> sleeps;
  };
  static_assert(std::atomic<std::uint64_t>::is_always_lock_free && sizeof(Side) == 192);

  Status map(int memory, bool offers);
  void wake_peer();
  static Result<SharedRings> adopt(OwnedFd memory, OwnedFd own_bell, OwnedFd peer_bell, bool offers);

  std::byte* base_ = nullptr;  // of the mapping: the page of both sides, then each ring twice
  Side* own_ = nullptr;
  Side* peer_ = nullptr;
  std::byte* out_ = nullptr;
  const std::byte* in_ = nullptr;
  OwnedFd own_bell_, peer_bell_;
  std::uint64_t written_ = 0;
  std::uint64_t read_ = 0;
  std::uint64_t peer_read_ = 0;  // as last seen
  bool broken_ = false;
};

// Where an offer is received.
class SharedRings::Offered {
 public:
  Offered();
  Offered(const Offered&) = delete;
  Offered& operator=(const Offered&) = delete;

  // For recvmsg() with MSG_CMSG_CLOEXEC.
  msghdr* message() { return &message_; }
  // `received`: what it returned, more than 0.
  Result<SharedRings> take(std::size_t received);

 private:
  msghdr message_{};
  iovec place_{};
  char version_ = 0;
  alignas(cmsghdr) std::array<std::byte, 64> control_;
};

}  // namespace holdfast::io
