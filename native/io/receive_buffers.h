// ReceiveBuffers: the memory that all streams of a reactor receive into.
//
// One ring of provided buffers, shared with the kernel, which picks one whenever bytes arrive: idle connections hold
// no memory. A buffer goes back right after the handler has seen it, and the kernel takes buffers only while the
// reactor is inside the ring, so running out (ENOBUFS) only means that more arrived at once than one turn can hold.
// Thread: one reactor.
#pragma once

#include <liburing.h>

#include <cstddef>
#include <memory>
#include <span>

#include "base/result.h"
#include "io/ring.h"

namespace holdfast::io {

class ReceiveBuffers {
 public:
  static constexpr std::uint16_t kGroup = 0;

  // `count` is a power of two, at most 32,768. `ring` must outlive this.
  static Result<std::unique_ptr<ReceiveBuffers>> create(Ring& ring, unsigned count, std::size_t bytes_each);
  ~ReceiveBuffers();
  ReceiveBuffers(const ReceiveBuffers&) = delete;
  ReceiveBuffers& operator=(const ReceiveBuffers&) = delete;

  std::size_t bytes_each() const { return bytes_each_; }
  std::span<const std::byte> get(std::uint16_t id, std::size_t size) const {
    return {memory_ + std::size_t{id} * bytes_each_, size};
  }
  // The kernel may use the buffer again after the next publish().
  void recycle(std::uint16_t id);
  void publish();

 private:
  ReceiveBuffers(Ring& ring, unsigned count, std::size_t bytes_each)
      : ring_(ring), count_(count), bytes_each_(bytes_each) {}

  Ring& ring_;
  const unsigned count_;
  const std::size_t bytes_each_;
  io_uring_buf_ring* shared_ = nullptr;
  std::byte* memory_ = nullptr;
  int unpublished_ = 0;
};

}  // namespace holdfast::io
