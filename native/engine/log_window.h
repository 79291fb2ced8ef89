// LogWindow: the entries that have a seq and are not committed, in order, within bounds of count and bytes.
// They are kept until every required replica has them, so that one can be sent again. Thread: the reactor of the
// engine.
#pragma once

#include <deque>

#include "base/types.h"
#include "engine/io_op.h"

namespace holdfast::engine {

class LogWindow {
 public:
  static constexpr std::size_t kEntriesMax = 1'024;
  static constexpr std::uint64_t kBytesMax = 32u << 20;

  // An entry larger than the bound is let in alone.
  bool has_room_for(std::uint64_t bytes) const {
    return entries_.size() < kEntriesMax && (entries_.empty() || bytes_ + bytes <= kBytesMax);
  }
  void push(PendingEntry* entry) {
    CHECK(entries_.empty() || entries_.back()->entry.position.seq.next() == entry->entry.position.seq);
    bytes_ += entry->bytes;
    entries_.push_back(entry);
  }
  PendingEntry* front() const { return entries_.front(); }
  void pop_front() {
    bytes_ -= entries_.front()->bytes;
    entries_.pop_front();
  }
  bool empty() const { return entries_.empty(); }
  std::size_t size() const { return entries_.size(); }
  // Calls visit(entry) for every entry after `seq`, in order.
  template <typename Visit>
  void for_each_after(Seq seq, Visit visit) const {
    for (PendingEntry* entry : entries_) {
      if (entry->entry.position.seq > seq) visit(*entry);
    }
  }

 private:
  std::deque<PendingEntry*> entries_;
  std::uint64_t bytes_ = 0;
};

}  // namespace holdfast::engine
