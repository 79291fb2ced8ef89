#include "base/buffer.h"

#include <bit>
#include <cstdlib>

namespace holdfast {

namespace {

constexpr std::size_t kPage = 4096;

class HeapMemory final : public BufferMemory {
 public:
  std::byte* allocate(std::size_t bytes) override {
    void* block = std::aligned_alloc(kPage, bytes);
    CHECK(block != nullptr, "out of memory");
    return static_cast<std::byte*>(block);
  }
  void free(std::byte* block, std::size_t) override { std::free(block); }
};

}  // namespace

BufferMemory& heap_memory() {
  static HeapMemory memory;
  return memory;
}

BufferPool::~BufferPool() {
  for (Buffer* list : free_) {
    while (list) {
      Buffer* next = list->next_free;
      release(list);
      list = next;
    }
  }
}

// The steps from 2^(k-1) to 2^k are whole pages: below 16 KiB there are fewer.
BufferPool::SizeClass BufferPool::size_class(std::size_t size) {
  unsigned log2 = std::max<unsigned>(kSmallestLog2, static_cast<unsigned>(std::bit_width(size - 1)));
  std::size_t power = std::size_t{1} << log2;
  std::size_t step = std::max(kPage, power / (2 * kSteps));
  std::size_t bytes = (size + step - 1) / step * step;
  return {(log2 - kSmallestLog2 + 1) * kSteps - 1 - (power - bytes) / step, bytes};
}

Buffer* BufferPool::take(std::size_t size) {
  CHECK(size > 0 && size <= (std::size_t{1} << kLargestLog2), "buffer size out of range");
  auto [index, capacity] = size_class(size);
  last_taken_[index] = ++takes_;
  Buffer* buffer = take_free(index);
  if (buffer == nullptr) {
    buffer = new Buffer{memory_.allocate(capacity), static_cast<std::uint32_t>(capacity), 0, this, nullptr};
  }
  buffer->references = 1;
  bytes_in_use_ += capacity;
  return buffer;
}

// Null: there is none.
Buffer* BufferPool::take_free(std::size_t index) {
  Buffer* buffer = free_[index];
  if (buffer == nullptr) return nullptr;
  free_[index] = buffer->next_free;
  unused_[index] = std::min(unused_[index], --free_count_[index]);
  bytes_retained_ -= buffer->capacity;
  return buffer;
}

void BufferPool::give_back(Buffer* buffer) {
  auto [index, capacity] = size_class(buffer->capacity);
  bytes_in_use_ -= capacity;
  while (bytes_retained_ + capacity > retained_bytes_max_) {
    if (!make_room(index)) return release(buffer);
  }
  bytes_retained_ += capacity;
  buffer->next_free = free_[index];
  free_[index] = buffer;
  ++free_count_[index];
}

// Gives up a buffer of the size that was asked for least recently, unless that is `index` itself.
bool BufferPool::make_room(std::size_t index) {
  std::size_t oldest = index;
  for (std::size_t i = 0; i < kSizes; ++i) {
    if (free_[i] && last_taken_[i] < last_taken_[oldest]) oldest = i;
  }
  if (oldest == index) return false;
  release(take_free(oldest));
  return true;
}

void BufferPool::trim() {
  for (std::size_t i = 0; i < kSizes; ++i) {
    for (std::uint32_t left = (unused_[i] + 1) / 2; left > 0; --left) release(take_free(i));
    unused_[i] = free_count_[i];
  }
}

void BufferPool::release(Buffer* buffer) {
  memory_.free(buffer->data, buffer->capacity);
  delete buffer;
}

Slice BufferPool::allocate(std::size_t size) { return Slice(take(size), 0, static_cast<std::uint32_t>(size)); }

Slice BufferPool::allocate_end_aligned(std::size_t size) {
  std::size_t rounded = (size + kPage - 1) / kPage * kPage;
  return Slice(take(rounded), static_cast<std::uint32_t>(rounded - size), static_cast<std::uint32_t>(size));
}

Slice BufferPool::copy_of(std::span<const std::byte> bytes) {
  if (bytes.empty()) return Slice();
  Slice slice = allocate(bytes.size());
  std::memcpy(slice.data(), bytes.data(), bytes.size());
  return slice;
}

Slice SmallCopies::copy_of(std::span<const std::byte> bytes) {
  CHECK(bytes.size() <= kBytesMax);
  if (bytes.empty()) return Slice();
  if (page_.empty() || used_ + bytes.size() > kPage) {
    page_ = pool_.allocate(kPage);
    used_ = 0;
  }
  Slice copy = page_.sub(used_, bytes.size());
  std::memcpy(copy.data(), bytes.data(), bytes.size());
  used_ += bytes.size();
  return copy;
}

}  // namespace holdfast
