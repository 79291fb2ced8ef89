// SlotAllocator: which 256 KiB slots of the data file are taken. Rebuilt from the chunk records at every open.
// Invariant: a slot is taken once and freed once (CHECKed); used() is exact. Thread: reactor of the store.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace holdfast::store {

class SlotAllocator {
 public:
  // Slots that exist in the file. Only grows.
  void set_size(std::uint64_t slots);
  std::uint64_t size() const { return size_; }
  std::uint64_t used() const { return used_; }
  std::uint64_t free() const { return size_ - used_; }

  bool is_taken(std::uint64_t slot) const { return (words_[slot / 64] >> (slot % 64)) & 1; }
  void take(std::uint64_t slot);
  void give_back(std::uint64_t slot);

  struct Run {
    std::uint64_t first;
    std::uint32_t count;
  };
  // Between 1 and `wanted` slots in a row, preferably `after` the given one; nullopt when none is free.
  std::optional<Run> allocate(std::uint32_t wanted, std::optional<std::uint64_t> after = std::nullopt);

 private:
  Run run_at(std::uint64_t first, std::uint32_t wanted) const;
  std::optional<std::uint64_t> next_free(std::uint64_t from, std::uint64_t end) const;

  std::vector<std::uint64_t> words_;  // bit set: taken
  std::uint64_t size_ = 0;
  std::uint64_t used_ = 0;
  std::uint64_t next_ = 0;  // where the search starts
};

}  // namespace holdfast::store
