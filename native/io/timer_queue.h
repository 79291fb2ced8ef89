// TimerQueue: callbacks ordered by deadline; equal deadlines run in the order they were added.
//
// A 4-ary heap of small entries over a table of slots: add and cancel are O(log n), no allocation once the tables have
// grown. Ids carry the slot and how often it was used, so that they are never reused and a stale id is harmless.
// Thread: one reactor.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/callback.h"
#include "io/env.h"

namespace holdfast::io {

class TimerQueue {
 public:
  std::uint64_t add(Nanos deadline, Callback<void()> work);
  void cancel(std::uint64_t id);
  std::optional<Nanos> next_deadline() const;
  // Runs what was due at `now` when this began; what the callbacks add waits for the next call.
  void run_due(Nanos now);
  // Drops all callbacks without calling them. They may cancel others from their destructors.
  void clear();
  std::size_t size() const { return heap_.size(); }

 private:
  static constexpr std::uint32_t kNotInHeap = ~0u;
  static constexpr unsigned kSlotBits = 24;

  struct Entry {
    Nanos deadline;
    std::uint64_t order;
    std::uint32_t slot;
  };
  struct Slot {
    Callback<void()> work;
    std::uint64_t uses = 0;
    std::uint32_t position = kNotInHeap;
  };

  static bool before(const Entry& a, const Entry& b) {
    return a.deadline != b.deadline ? a.deadline < b.deadline : a.order < b.order;
  }
  void place(std::uint32_t position, const Entry& entry);
  void sift_up(std::uint32_t position, const Entry& entry);
  void sift_down(std::uint32_t position, const Entry& entry);
  Callback<void()> remove(std::uint32_t position);

  std::vector<Entry> heap_;
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_slots_;
  std::uint64_t next_order_ = 0;
};

}  // namespace holdfast::io
