#include "io/timer_queue.h"

#include <algorithm>

namespace holdfast::io {

std::uint64_t TimerQueue::add(Nanos deadline, Callback<void()> work) {
  std::uint32_t slot;
  if (free_slots_.empty()) {
    slot = static_cast<std::uint32_t>(slots_.size());
    CHECK(slot < (1u << kSlotBits), "more than 16 million timers are armed");
    slots_.emplace_back();
  } else {
    slot = free_slots_.back();
    free_slots_.pop_back();
  }
  Slot& taken = slots_[slot];
  taken.work = std::move(work);
  ++taken.uses;
  heap_.emplace_back();
  sift_up(static_cast<std::uint32_t>(heap_.size() - 1), Entry{deadline, next_order_++, slot});
  return (taken.uses << kSlotBits) | slot;
}

void TimerQueue::cancel(std::uint64_t id) {
  std::uint64_t slot = id & ((1u << kSlotBits) - 1);
  if (slot >= slots_.size()) return;
  if (slots_[slot].uses != id >> kSlotBits || slots_[slot].position == kNotInHeap) return;
  // The callback dies at the end of this scope, when the queue is consistent again: its captures may call back in.
  Callback<void()> dropped = remove(slots_[slot].position);
}

std::optional<Nanos> TimerQueue::next_deadline() const {
  if (heap_.empty()) return std::nullopt;
  return heap_.front().deadline;
}

void TimerQueue::run_due(Nanos now) {
  std::uint64_t first_new_order = next_order_;
  while (!heap_.empty() && heap_.front().deadline <= now && heap_.front().order < first_new_order) {
    Callback<void()> due = remove(0);
    due();
  }
}

void TimerQueue::clear() {
  while (!heap_.empty()) Callback<void()> dropped = remove(static_cast<std::uint32_t>(heap_.size() - 1));
}

void TimerQueue::place(std::uint32_t position, const Entry& entry) {
  heap_[position] = entry;
  slots_[entry.slot].position = position;
}

void TimerQueue::sift_up(std::uint32_t position, const Entry& entry) {
  while (position > 0) {
    std::uint32_t parent = (position - 1) / 4;
    if (!before(entry, heap_[parent])) break;
    place(position, heap_[parent]);
    position = parent;
  }
  place(position, entry);
}

void TimerQueue::sift_down(std::uint32_t position, const Entry& entry) {
  std::size_t size = heap_.size();
  for (;;) {
    std::size_t first_child = std::size_t{position} * 4 + 1;
    if (first_child >= size) break;
    std::size_t least = first_child;
    for (std::size_t child = first_child + 1; child < std::min(first_child + 4, size); ++child) {
      if (before(heap_[child], heap_[least])) least = child;
    }
    if (!before(heap_[least], entry)) break;
    place(position, heap_[least]);
    position = static_cast<std::uint32_t>(least);
  }
  place(position, entry);
}

Callback<void()> TimerQueue::remove(std::uint32_t position) {
  Slot& slot = slots_[heap_[position].slot];
  Callback<void()> work = std::move(slot.work);
  slot.position = kNotInHeap;
  free_slots_.push_back(heap_[position].slot);
  Entry last = heap_.back();
  heap_.pop_back();
  if (position < heap_.size()) {
    if (position > 0 && before(last, heap_[(position - 1) / 4])) {
      sift_up(position, last);
    } else {
      sift_down(position, last);
    }
  }
  return work;
}

}  // namespace holdfast::io
