// PollPolicy: whether a reactor that ran out of work spins for a while before it sleeps, and for how long.
//
// Waking a sleeping thread costs tens of microseconds on virtual machines, so spinning pays when the next event
// comes within about that time. The policy learns how often it does: a spin that found something and a sleep that ended
// soon are hits, the others misses; misses weigh more. A sleep counts as short up to four times the spin, because it
// includes being woken, and because two reactors that talk to each other would otherwise never begin to spin.
// When spins miss too often, the next attempt waits, twice as long after each failed attempt. Not spinning costs
// nothing: only sleeps are watched. A spin lets others have the CPU whenever they want it; where they take a good part
// of it, a sleep is as soon over, and spinning ends for a while.
// With several operations of hosts under way there is always something else to do soon, events gather while the thread
// sleeps, and its CPU is wanted elsewhere: then it does not spin.
// Pure: time and counters come in as arguments. Thread: one reactor.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "io/env.h"

namespace holdfast::io {

// So many operations are under way; what counts is the most of the last one or two milliseconds.
class RecentPeak {
 public:
  void note(std::uint32_t count, Nanos now) {
    roll(now);
    count_ = count;
    peak_ = std::max(peak_, count);
  }
  // More than a few.
  bool is_deep(Nanos now) {
    roll(now);
    return std::max(peak_, last_peak_) > kFew;
  }

 private:
  static constexpr std::uint32_t kFew = 4;
  static constexpr Nanos kWindow = 1ms;

  void roll(Nanos now) {
    if (now - since_ < kWindow) return;
    last_peak_ = now - since_ < 2 * kWindow ? peak_ : count_;
    peak_ = count_;
    since_ = now;
  }

  std::uint32_t count_ = 0;
  std::uint32_t peak_ = 0;  // of count_, in this window and in the one before
  std::uint32_t last_peak_ = 0;
  Nanos since_{0};
};

class PollPolicy {
 public:
  explicit PollPolicy(Nanos spin_max) : spin_max_(spin_max) {}

  // How long to spin now; zero: sleep at once.
  Nanos spin_budget(Nanos now) {
    if (spin_max_ == Nanos(0) || now < blocked_until_ || hit_rate_ < kWorthwhile || under_way_.is_deep(now))
      return Nanos(0);
    return spin_max_;
  }

  void under_way(std::uint32_t count, Nanos now) { under_way_.note(count, now); }

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

  // A spin took `duration`, of which other threads had the CPU for `lost`. Judged over a few milliseconds of spinning,
  // since what this thread waits for may be done on its own CPU.
  void shared(Nanos duration, Nanos lost, Nanos now) {
    spun_ += duration;
    lost_ += lost;
    if (spun_ < kShareWindow && lost_ * kShareMax <= kShareWindow) return;
    if (lost_ * kShareMax > spun_) {
      blocked_until_ = std::max(blocked_until_, now + contended_pause_);
      contended_pause_ = std::min(contended_pause_ * 2, kContendedPauseMax);
    } else {
      contended_pause_ = kContendedPauseMin;
    }
    spun_ = lost_ = Nanos(0);
  }

  double hit_rate() const { return hit_rate_ / 1024.0; }

 private:
  static constexpr std::int32_t kWorthwhile = 512;
  static constexpr std::int32_t kRetryRate = 256;
  static constexpr Nanos kPauseMin = 1ms;
  static constexpr Nanos kPauseMax = 256ms;
  static constexpr Nanos kShareWindow = 4ms;
  static constexpr int kShareMax = 4;  // a quarter of the time
  static constexpr Nanos kContendedPauseMin = 20ms;
  static constexpr Nanos kContendedPauseMax = 1s;

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
  Nanos spun_{0};
  Nanos lost_{0};
  RecentPeak under_way_;
};

// The longest spin that somebody wishes for by HOLDFAST_SPIN: "off", or microseconds (0 to 10000; 0 is off). Null
// pointer or empty text: `standard`. nullopt: it is none of these.
std::optional<Nanos> wished_spin(const char* text, Nanos standard);

// CPUs this process may use: its affinity, and the quota of its control group (version 2) where there is one.
unsigned usable_cpus();

}  // namespace holdfast::io
