// Cutting and summing slice lists without joining them. Pure functions.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/buffer.h"
#include "base/crc32c.h"
#include "base/types.h"

namespace holdfast::engine {

// Takes bytes off the front of a list, in order.
class SliceCutter {
 public:
  explicit SliceCutter(const SliceList& from) : from_(from) {}

  SliceList take(std::uint64_t bytes) {
    SliceList out;
    while (bytes > 0) {
      CHECK(index_ < from_.size(), "a slice list is shorter than its length says");
      const Slice& part = from_[index_];
      std::size_t n = std::min<std::uint64_t>(bytes, part.size() - offset_);
      if (n > 0) out.push_back(part.sub(offset_, n));
      bytes -= n;
      offset_ += n;
      if (offset_ == part.size()) {
        ++index_;
        offset_ = 0;
      }
    }
    return out;
  }

  void skip(std::uint64_t bytes) { take(bytes); }

 private:
  const SliceList& from_;
  std::size_t index_ = 0;
  std::size_t offset_ = 0;
};

inline SliceList cut(const SliceList& from, std::uint64_t offset, std::uint64_t bytes) {
  SliceCutter cutter(from);
  cutter.skip(offset);
  return cutter.take(bytes);
}

// Calls each(crc) with the CRC32C of every block of `data`, which holds whole blocks in parts of any size.
template <typename Each>
void for_each_block_crc(const SliceList& data, Each each) {
  std::uint32_t crc = 0;
  std::size_t have = 0;  // bytes of the present block seen
  for (const Slice& part : data) {
    std::span<const std::byte> bytes = part.bytes();
    while (!bytes.empty()) {
      std::size_t n = std::min<std::size_t>(bytes.size(), kBlockSize - have);
      crc = have == 0 ? crc32c(bytes.first(n)) : crc32c_extend(crc, bytes.first(n));
      bytes = bytes.subspan(n);
      have += n;
      if (have == kBlockSize) {
        each(crc);
        have = 0;
      }
    }
  }
  CHECK(have == 0, "data of an entry is whole blocks");
}

// Offset of the first byte that differs, or the length when none does. Both hold the same number of bytes.
std::uint64_t first_difference(const SliceList& a, const SliceList& b);

}  // namespace holdfast::engine
