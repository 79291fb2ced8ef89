// SliceQueue: slices in order of arrival. Keeps its memory, so that steady traffic does not allocate.
// Thread: that of the slices' pool.
#pragma once

#include <span>
#include <vector>

#include "base/buffer.h"

namespace holdfast::io {

class SliceQueue {
 public:
  bool empty() const { return first_ == slices_.size(); }
  void push(Slice slice) { slices_.push_back(std::move(slice)); }
  Slice& front() { return slices_[first_]; }
  std::span<const Slice> all() const { return std::span<const Slice>(slices_).subspan(first_); }
  Slice pop() {
    Slice slice = std::move(slices_[first_++]);
    if (first_ == slices_.size()) {
      slices_.clear();
      first_ = 0;
    } else if (first_ >= kCompactAt && first_ * 2 >= slices_.size()) {
      slices_.erase(slices_.begin(), slices_.begin() + static_cast<std::ptrdiff_t>(first_));
      first_ = 0;
    }
    return slice;
  }
  void clear() {
    slices_.clear();
    first_ = 0;
  }

 private:
  static constexpr std::size_t kCompactAt = 64;
  std::vector<Slice> slices_;
  std::size_t first_ = 0;
};

}  // namespace holdfast::io
