#include "io/huge_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdint>

namespace holdfast::io {

namespace {

std::byte* buddy_of(std::byte* block, unsigned log2) {
  return reinterpret_cast<std::byte*>(reinterpret_cast<std::uintptr_t>(block) ^ (std::uintptr_t{1} << log2));
}

}  // namespace

HugeMemory::~HugeMemory() {
  for (std::byte* region : free_[kRegionLog2]) ::munmap(region, kRegionBytes);
}

std::byte* HugeMemory::allocate(std::size_t bytes) {
  DCHECK(bytes > 0 && bytes % 4096 == 0);
  if (bytes > kRegionBytes) return map(bytes);
  auto log2 = static_cast<unsigned>(std::bit_width(bytes - 1));
  std::byte* block = take(log2);
  // What lies behind the bytes that were asked for, in the largest blocks that may begin where they do.
  for (std::size_t rest = bytes; rest < std::size_t{1} << log2; rest += rest & -rest) {
    free_[static_cast<unsigned>(std::countr_zero(rest))].insert(block + rest);
  }
  return block;
}

void HugeMemory::free(std::byte* block, std::size_t bytes) {
  if (bytes > kRegionBytes) return unmap(block, bytes);
  for (std::size_t begin = 0; begin < bytes;) {
    std::size_t part = std::bit_floor(bytes - begin);
    give_back(block + begin, static_cast<unsigned>(std::countr_zero(part)));
    begin += part;
  }
}

std::byte* HugeMemory::take(unsigned log2) {
  unsigned from = log2;
  while (from < kRegionLog2 && free_[from].empty()) ++from;
  std::byte* block;
  if (free_[from].empty()) {
    block = map(kRegionBytes);
  } else {
    block = *free_[from].begin();
    free_[from].erase(free_[from].begin());
  }
  while (from > log2) {
    --from;
    free_[from].insert(block + (std::size_t{1} << from));
  }
  return block;
}

void HugeMemory::give_back(std::byte* block, unsigned log2) {
  while (log2 < kRegionLog2 && free_[log2].erase(buddy_of(block, log2)) > 0) {
    block = std::min(block, buddy_of(block, log2));
    ++log2;
  }
  // One region is kept, for whoever asks next.
  if (log2 == kRegionLog2 && !free_[log2].empty()) return unmap(block, kRegionBytes);
  free_[log2].insert(block);
}

// Aligned to a region: maps more, and gives back what is around.
std::byte* HugeMemory::map(std::size_t bytes) {
  void* mapped =
      ::mmap(nullptr, bytes + kRegionBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(mapped != MAP_FAILED, "out of memory");
  auto* begin = static_cast<std::byte*>(mapped);
  std::size_t before = (kRegionBytes - reinterpret_cast<std::uintptr_t>(begin) % kRegionBytes) % kRegionBytes;
  if (before > 0) ::munmap(begin, before);
  if (before < kRegionBytes) ::munmap(begin + before + bytes, kRegionBytes - before);
  // Only advice: without it the pages are small ones.
  (void)::madvise(begin + before, bytes, MADV_HUGEPAGE);
  bytes_mapped_ += bytes;
  return begin + before;
}

void HugeMemory::unmap(std::byte* block, std::size_t bytes) {
  CHECK(::munmap(block, bytes) == 0, "a block was freed that is not mapped");
  bytes_mapped_ -= bytes;
}

}  // namespace holdfast::io
