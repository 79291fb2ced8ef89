// HugeMemory: payload memory of a reactor in huge pages. A direct write of 1 MiB from one is a single piece for the
// kernel and the device instead of 256, and copies from and to sockets miss the TLB less often.
//
// A buddy allocator over regions of 2 MiB: a block of a power of two is split in halves for smaller ones, and free
// halves become one again, so that what small buffers gave back serves large ones. Of a block for 1.25 MiB the rest of
// 2 MiB stays free. Off the I/O path: the pool on top keeps what is in use over and over. Where the kernel has no huge
// page to give (or transparent huge pages are off), the same memory is made of small ones.
//
// Thread: one reactor.
#pragma once

#include <array>
#include <cstddef>
#include <set>

#include "base/buffer.h"

namespace holdfast::io {

class HugeMemory final : public BufferMemory {
 public:
  static constexpr std::size_t kRegionBytes = std::size_t{1} << 21;  // a huge page of x86-64 and arm64

  HugeMemory() = default;
  // Whatever was not freed stays allocated.
  ~HugeMemory() override;
  HugeMemory(const HugeMemory&) = delete;
  HugeMemory& operator=(const HugeMemory&) = delete;

  std::byte* allocate(std::size_t bytes) override;
  void free(std::byte* block, std::size_t bytes) override;

  // Bytes that are mapped, free ones included.
  std::size_t bytes_mapped() const { return bytes_mapped_; }

 private:
  static constexpr unsigned kRegionLog2 = 21;

  std::byte* take(unsigned log2);
  void give_back(std::byte* block, unsigned log2);
  std::byte* map(std::size_t bytes);
  void unmap(std::byte* block, std::size_t bytes);

  // Free blocks by the logarithm of their size; the lowest address is taken first, which empties the other regions.
  std::array<std::set<std::byte*>, kRegionLog2 + 1> free_;
  std::size_t bytes_mapped_ = 0;
};

}  // namespace holdfast::io
