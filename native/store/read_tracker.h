// ReadTracker: tells when every read that was under way at some point has ended. Slots are overwritten or given to
// others only after that. Thread: reactor of the store.
#pragma once

#include <deque>
#include <vector>

#include "base/callback.h"
#include "base/check.h"

namespace holdfast::store {

class ReadTracker {
 public:
  ReadTracker() : phases_(1) {}

  // The token of a read that begins now.
  std::uint64_t begin() {
    ++phases_.back().reads;
    return first_ + phases_.size() - 1;
  }
  void end(std::uint64_t token) {
    Phase& phase = phases_[token - first_];
    CHECK(phase.reads > 0);
    --phase.reads;
    advance();
  }
  // Calls back, perhaps at once, when all reads begun so far have ended.
  void after_current(Callback<void()> done) {
    phases_.back().waiters.push_back(std::move(done));
    phases_.emplace_back();
    advance();
  }

 private:
  struct Phase {
    std::uint64_t reads = 0;
    std::vector<Callback<void()>> waiters;
  };
  void advance() {
    while (phases_.size() > 1 && phases_.front().reads == 0) {
      std::vector<Callback<void()>> waiters = std::move(phases_.front().waiters);
      phases_.pop_front();
      ++first_;
      for (Callback<void()>& waiter : waiters) waiter();
    }
  }
  std::deque<Phase> phases_;
  std::uint64_t first_ = 0;
};

}  // namespace holdfast::store
