// Payload memory: page-aligned buffers with a plain reference count, and slices of them.
//
// Thread: a pool, its buffers and all slices of them belong to one reactor; nothing here is atomic.
// Another thread may look at the bytes of a slice while the reactor keeps the slice, no more.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"

namespace holdfast {

class BufferPool;

// Where a pool takes memory from: blocks of a multiple of 4096 bytes, aligned to 4096 at least. Not for every buffer: a
// pool keeps what it has used before.
class BufferMemory {
 public:
  virtual ~BufferMemory() = default;
  // Never null: without memory the process ends.
  virtual std::byte* allocate(std::size_t bytes) = 0;
  // `bytes`: as allocated.
  virtual void free(std::byte* block, std::size_t bytes) = 0;
};

// malloc's. Thread: any.
BufferMemory& heap_memory();

// One allocation. `data` is aligned to 4096 bytes, as O_DIRECT wants it.
struct Buffer {
  std::byte* data;
  std::uint32_t capacity;
  std::uint32_t references;
  BufferPool* pool;
  Buffer* next_free;
};

// A counted reference to part of a buffer. Copying counts; moving does not.
class Slice {
 public:
  Slice() = default;
  Slice(const Slice& other) : buffer_(other.buffer_), offset_(other.offset_), size_(other.size_) {
    if (buffer_) ++buffer_->references;
  }
  Slice(Slice&& other) noexcept
      : buffer_(std::exchange(other.buffer_, nullptr)),
        offset_(std::exchange(other.offset_, 0)),
        size_(std::exchange(other.size_, 0)) {}
  Slice& operator=(Slice other) noexcept {
    std::swap(buffer_, other.buffer_);
    std::swap(offset_, other.offset_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Slice();

  std::byte* data() const { return buffer_ ? buffer_->data + offset_ : nullptr; }
  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  std::span<std::byte> bytes() const { return {data(), size_}; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data()), size_}; }

  // A further reference to [offset, offset + size) of this slice.
  Slice sub(std::size_t offset, std::size_t size) const {
    DCHECK(offset + size <= size_);
    Slice part(*this);
    part.offset_ += static_cast<std::uint32_t>(offset);
    part.size_ = static_cast<std::uint32_t>(size);
    return part;
  }

 private:
  friend class BufferPool;
  Slice(Buffer* buffer, std::uint32_t offset, std::uint32_t size) : buffer_(buffer), offset_(offset), size_(size) {}

  Buffer* buffer_ = nullptr;
  std::uint32_t offset_ = 0;
  std::uint32_t size_ = 0;
};

// Keeps freed buffers by size for the next user, in four sizes from one power of two to the next: a message of 1 MiB
// and its header does not take 2 MiB. Memory goes back to the system only beyond `retained_bytes_max`, and then that of
// the size that was asked for least recently: what is kept follows what is in use. Must outlive every slice it gave
// out.
class BufferPool {
 public:
  // `memory` must outlive the pool.
  explicit BufferPool(std::size_t retained_bytes_max = 64u << 20, BufferMemory& memory = heap_memory())
      : memory_(memory), retained_bytes_max_(retained_bytes_max) {}
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  // `size` bytes, not cleared, starting at a page boundary. 1 <= size <= 64 MiB.
  Slice allocate(std::size_t size);
  // `size` bytes that end at a page boundary: a message whose last field is n * 4096 bytes of payload
  // then has that payload aligned for O_DIRECT.
  Slice allocate_end_aligned(std::size_t size);
  Slice copy_of(std::span<const std::byte> bytes);

  // A user that holds much for a while, over and over, raises the limit: what it gives back serves it again.
  void retain_at_least(std::size_t bytes) { retained_bytes_max_ = std::max(retained_bytes_max_, bytes); }
  // Gives up half of what was kept and not asked for since the last call: called now and then, what a load has left
  // behind is gone soon after it, and what is in use over and over stays.
  void trim();

  // Bytes handed out and not yet returned (by capacity).
  std::size_t bytes_in_use() const { return bytes_in_use_; }
  // Bytes kept for the next user.
  std::size_t bytes_retained() const { return bytes_retained_; }

 private:
  friend class Slice;
  static constexpr unsigned kSmallestLog2 = 12;
  static constexpr unsigned kLargestLog2 = 27;

  static constexpr std::size_t kSteps = 4;  // from one power of two to the next
  static constexpr std::size_t kSizes = (kLargestLog2 - kSmallestLog2 + 1) * kSteps;

  struct SizeClass {
    std::size_t index, bytes;
  };
  static SizeClass size_class(std::size_t size);

  Buffer* take(std::size_t size);
  Buffer* take_free(std::size_t index);
  void give_back(Buffer* buffer);
  bool make_room(std::size_t index);
  void release(Buffer* buffer);

  BufferMemory& memory_;
  std::array<Buffer*, kSizes> free_{};
  std::array<std::uint32_t, kSizes> free_count_{};
  std::array<std::uint32_t, kSizes> unused_{};      // the least of free_count_ since trim()
  std::array<std::uint64_t, kSizes> last_taken_{};  // in terms of takes_
  std::uint64_t takes_ = 0;
  std::size_t bytes_in_use_ = 0;
  std::size_t bytes_retained_ = 0;
  std::size_t retained_bytes_max_;
};

inline Slice::~Slice() {
  if (buffer_ && --buffer_->references == 0) buffer_->pool->give_back(buffer_);
}

// Copies of a few bytes each that lie one after the other in shared buffers of a page. A page is in use until the last
// of its copies is gone: for what goes about in the order in which it came. Thread: the pool's.
class SmallCopies {
 public:
  explicit SmallCopies(BufferPool& pool) : pool_(pool) {}

  // At most kBytesMax.
  Slice copy_of(std::span<const std::byte> bytes);

  static constexpr std::size_t kBytesMax = 1024;

 private:
  BufferPool& pool_;
  Slice page_;
  std::size_t used_ = 0;
};

// A message in parts, sent in order without being joined.
using SliceList = std::vector<Slice>;
inline std::size_t total_size(std::span<const Slice> parts) {
  std::size_t total = 0;
  for (const Slice& part : parts) total += part.size();
  return total;
}

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

}  // namespace holdfast
