// PollPolicy: whether a reactor that ran out of work spins for a while before it sleeps, and for how long.
//
// Waking a sleeping thread costs tens of microseconds on virtual machines, so spinning pays when the next event
// comes within about that time. The policy learns how often it does: a spin that found something and a sleep that ended
// soon are hits, the others misses; misses weigh more. A sleep counts as short up to four times the spin, because it
// includes being woken, and because two reactors that talk to each other would otherwise never begin to spin.
// When spins miss too often, the next attempt waits, twice as long after each failed attempt. Not spinning costs
// nothing: only sleeps are watched. Involuntary context switches of this thread mean contended cores, and end
// spinning for a while.
// Pure: time and counters come in as arguments. Thread: one reactor.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "io/env.h"

namespace holdfast::io {

class PollPolicy {
 public:
  explicit PollPolicy(Nanos spin_max) : spin_max_(spin_max) {}

  // How long to spin now; zero: sleep at once.
  Nanos spin_budget(Nanos now) const {
    if (spin_max_ == Nanos(0) || now < blocked_until_ || hit_rate_ < kWorthwhile) return Nanos(0);
    return spin_max_;
  }

  // Whether sleeps are of interest: to tell a wait from what submitting itself takes costs a system call.
  bool watches_sleeps(Nanos now) const { return spin_max_ > Nanos(0) && now >= blocked_until_; }

  // A spin found something, or not.
  void spun(bool hit, Nanos now) {
    learn(hit);
    if (hit) {
      pause_ = kPauseMin;
    } else if (hit_rate_ < kWorthwhile) {
      blocked_until_ = now + pause_;
      pause_ = std::min(pause_ * 2, kPauseMax);
      hit_rate_ = kRetryRate;
    }
  }
  // A sleep without a spin before it ended after `duration`.
  void slept(Nanos duration) { learn(duration <= spin_max_ * 4); }

  // `count`: involuntary context switches of this thread so far. To be fed every few milliseconds while spinning.
  void involuntary_switches(std::uint64_t count, Nanos now) {
    // What happened while this thread did not spin says nothing about spinning.
    bool gap = now - std::exchange(switches_fed_at_, now) > 4 * kSwitchInterval;
    if (gap) switches_seen_at_ = now;
    if (gap) switches_ = count;
    std::uint64_t more = count - switches_;
    Nanos elapsed = now - switches_seen_at_;
    // Over a short time a single switch says nothing: gather until two of them, or long enough, have passed.
    if (more < 2 && elapsed < 4 * kSwitchInterval) return;
    if (Nanos(static_cast<std::int64_t>(more) * kSwitchInterval) > elapsed) {
      blocked_until_ = now + contended_pause_;
      contended_pause_ = std::min(contended_pause_ * 2, kContendedPauseMax);
    } else {
      contended_pause_ = kContendedPauseMin;
    }
    switches_ = count;
    switches_seen_at_ = now;
  }

  double hit_rate() const { return hit_rate_ / 1024.0; }

 private:
  static constexpr std::int32_t kWorthwhile = 512;
  static constexpr std::int32_t kRetryRate = 256;
  static constexpr Nanos kPauseMin = 1ms;
  static constexpr Nanos kPauseMax = 256ms;
  // A switch costs a few milliseconds, a hit saves tens of microseconds: thousands of hits a second outweigh dozens of
  // switches, but not those of a core shared half and half.
  static constexpr Nanos kSwitchInterval = 10ms;  // more often than this: contended
  static constexpr Nanos kContendedPauseMin = 50ms;
  static constexpr Nanos kContendedPauseMax = 500ms;

  void learn(bool hit) {
    if (hit) {
      hit_rate_ += (1024 - hit_rate_) / 8;
    } else {
      hit_rate_ -= hit_rate_ / 4;
    }
  }

  Nanos spin_max_;
  Nanos blocked_until_{0};
  Nanos pause_ = kPauseMin;
  Nanos contended_pause_ = kContendedPauseMin;
  std::int32_t hit_rate_ = 0;  // of 1024
  std::uint64_t switches_ = 0;
  Nanos switches_seen_at_{0};
  Nanos switches_fed_at_{0};
};

// CPUs this process may use: its affinity, and the quota of its control group (version 2) where there is one.
unsigned usable_cpus();

}  // namespace holdfast::io
