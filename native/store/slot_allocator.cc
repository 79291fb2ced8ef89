#include "store/slot_allocator.h"

#include <bit>

#include "base/check.h"

namespace holdfast::store {

namespace {
// Runs looked at before the longest of them is taken.
constexpr int kCandidatesMax = 16;
}  // namespace

void SlotAllocator::set_size(std::uint64_t slots) {
  CHECK(slots >= size_);
  words_.resize((slots + 63) / 64, 0);
  size_ = slots;
}

void SlotAllocator::take(std::uint64_t slot) {
  CHECK(slot < size_ && !is_taken(slot), "a slot has two owners");
  words_[slot / 64] |= std::uint64_t{1} << (slot % 64);
  ++used_;
}

void SlotAllocator::give_back(std::uint64_t slot) {
  CHECK(slot < size_ && is_taken(slot), "a slot was freed twice");
  words_[slot / 64] &= ~(std::uint64_t{1} << (slot % 64));
  --used_;
}

std::optional<std::uint64_t> SlotAllocator::next_free(std::uint64_t from, std::uint64_t end) const {
  while (from < end) {
    std::uint64_t free = ~words_[from / 64] >> (from % 64);
    if (free != 0) {
      std::uint64_t slot = from + static_cast<std::uint64_t>(std::countr_zero(free));
      return slot < end ? std::optional(slot) : std::nullopt;
    }
    from = (from / 64 + 1) * 64;
  }
  return std::nullopt;
}

SlotAllocator::Run SlotAllocator::run_at(std::uint64_t first, std::uint32_t wanted) const {
  std::uint32_t count = 0;
  while (count < wanted && first + count < size_ && !is_taken(first + count)) ++count;
  return {first, count};
}

std::optional<SlotAllocator::Run> SlotAllocator::allocate(std::uint32_t wanted, std::optional<std::uint64_t> after) {
  if (free() == 0) return std::nullopt;
  Run best{0, 0};
  if (after && *after + 1 < size_) best = run_at(*after + 1, wanted);
  std::uint64_t from = next_ < size_ ? next_ : 0;
  bool wrapped = from == 0;
  for (int tries = 0; best.count < wanted && tries < kCandidatesMax;) {
    std::optional<std::uint64_t> slot = next_free(from, size_);
    if (!slot) {
      if (wrapped) break;
      wrapped = true;
      from = 0;
      continue;
    }
    ++tries;
    Run run = run_at(*slot, wanted);
    if (run.count > best.count) best = run;
    from = *slot + run.count;
  }
  CHECK(best.count > 0);
  for (std::uint32_t i = 0; i < best.count; ++i) take(best.first + i);
  next_ = best.first + best.count;
  return best;
}

}  // namespace holdfast::store
