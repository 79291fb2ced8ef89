// FlushHabit: whether a host flushes after each single write, as databases do with their logs. Then the next write may
// take a flush along before the host asks for it. Only a guess: a wrong one costs one sync too many.
// Pure. Thread: the reactor of the engine.
#pragma once

#include <algorithm>
#include <cstdint>

namespace holdfast::engine {

class FlushHabit {
 public:
  // An entry goes out.
  void wrote() {
    if (++writes_ > 1) streak_ = 0;
  }
  // The host asks for a flush.
  void flushed() {
    if (writes_ == 1) streak_ = std::min(streak_ + 1, kStreak);
    writes_ = 0;
  }
  // Of the next entry.
  bool expects_flush() const { return streak_ == kStreak && writes_ == 0; }

 private:
  static constexpr std::uint32_t kStreak = 3;

  std::uint32_t writes_ = 0;  // since the last flush
  std::uint32_t streak_ = 0;  // of flushes after exactly one write
};

}  // namespace holdfast::engine
