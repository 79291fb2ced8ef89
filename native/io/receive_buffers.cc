#include "io/receive_buffers.h"

#include <sys/mman.h>

#include <bit>
#include <cerrno>

#include "io/system_error.h"

namespace holdfast::io {

namespace {

void* map_memory(std::size_t bytes) {
  return mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

}  // namespace

Result<std::unique_ptr<ReceiveBuffers>> ReceiveBuffers::create(Ring& ring, unsigned count, std::size_t bytes_each) {
  CHECK(std::has_single_bit(count) && count <= 32'768, "the number of receive buffers must be a power of two");
  std::unique_ptr<ReceiveBuffers> buffers(new ReceiveBuffers(ring, count, bytes_each));
  void* shared = map_memory(count * sizeof(io_uring_buf));
  if (shared == MAP_FAILED) return Error(ErrorCode::kUnsupportedSystem, "no memory for receive buffers");
  buffers->shared_ = static_cast<io_uring_buf_ring*>(shared);
  void* memory = map_memory(count * bytes_each);
  if (memory == MAP_FAILED) return Error(ErrorCode::kUnsupportedSystem, "no memory for receive buffers");
  buffers->memory_ = static_cast<std::byte*>(memory);

  io_uring_buf_reg registration{};
  registration.ring_addr = reinterpret_cast<std::uint64_t>(shared);
  registration.ring_entries = count;
  registration.bgid = kGroup;
  int result = io_uring_register_buf_ring(ring.raw(), &registration, 0);
  if (result < 0) {
    return Error(ErrorCode::kUnsupportedSystem,
                 "io_uring refuses provided buffers: " + errno_text(-result) + " (Holdfast needs Linux 6.1 or newer)");
  }
  io_uring_buf_ring_init(buffers->shared_);
  for (unsigned id = 0; id < count; ++id) buffers->recycle(static_cast<std::uint16_t>(id));
  buffers->publish();
  return buffers;
}

ReceiveBuffers::~ReceiveBuffers() {
  // The ring has nothing in flight any more, so that the kernel no longer looks at either mapping.
  if (memory_) munmap(memory_, count_ * bytes_each_);
  if (shared_) munmap(shared_, count_ * sizeof(io_uring_buf));
}

void ReceiveBuffers::recycle(std::uint16_t id) {
  io_uring_buf_ring_add(shared_, memory_ + std::size_t{id} * bytes_each_, static_cast<unsigned>(bytes_each_), id,
                        io_uring_buf_ring_mask(count_), unpublished_);
  ++unpublished_;
}

void ReceiveBuffers::publish() {
  if (unpublished_ == 0) return;
  io_uring_buf_ring_advance(shared_, unpublished_);
  unpublished_ = 0;
}

}  // namespace holdfast::io
