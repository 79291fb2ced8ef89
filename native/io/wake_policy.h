// WakePolicy: whether a reactor that is woken takes the CPU at once from whoever runs there, or waits until that one
// sleeps (SCHED_BATCH).
//
// While several operations are under way and threads share CPUs, a reactor that runs for every event serves them one by
// one, and wakes others for each. One that waits finds several, and so do those it wakes. On an idle CPU nothing
// changes. Beside threads that do not sleep of their own accord, such waits are whole slices, some milliseconds:
// that is what waited() looks for, and yielding ends for a while, longer after each attempt that ended so.
// Pure: time and counters come in as arguments. Thread: one reactor.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "io/env.h"

namespace holdfast::io {

// What a thread waited for a CPU while it could have run, since it began.
struct CpuWaits {
  Nanos total{0};
  std::uint64_t turns = 0;  // how often it got one
};

class WakePolicy {
 public:
  bool yields() const { return yields_; }

  // Before a sleep. `deep`: several operations are under way. Whether waited() is to be told now.
  bool wants_waits(bool deep, Nanos now) {
    if (deep) deep_until_ = now + kDeepFor;
    if (now >= deep_until_ || now < blocked_until_) {
      yields_ = false;
      return false;
    }
    return !yields_ || now - looked_ >= kWindow;
  }

  void waited(CpuWaits waits, Nanos now) {
    Nanos longer = waits.total - waits_.total;
    auto turns = static_cast<std::int64_t>(waits.turns - waits_.turns);
    bool contended = yields_ && longer > kWaitPerTurn * std::max<std::int64_t>(turns, 1);
    if (yields_) tried_ += now - looked_;
    if (contended) {
      blocked_until_ = now + pause_;
      pause_ = std::min(pause_ * 2, kPauseMax);
      tried_ = Nanos(0);
    } else if (tried_ > kTrusted) {
      pause_ = kPauseMin;
    }
    yields_ = !contended;
    waits_ = waits;
    looked_ = now;
  }

 private:
  // Longer than a burst of work of somebody who sleeps otherwise, such as the database's thread at the end of a round.
  static constexpr Nanos kWindow = 50ms;
  // Among threads that sleep soon, waits are as long as one of them runs, 20 to 150 us at the mean; a slice is 1 to 3
  // ms.
  static constexpr Nanos kWaitPerTurn = 400us;
  // How many are under way goes up and down within a millisecond.
  static constexpr Nanos kDeepFor = 20ms;
  static constexpr Nanos kPauseMin = 100ms;
  static constexpr Nanos kPauseMax = 10s;
  static constexpr Nanos kTrusted = 1s;

  bool yields_ = false;
  CpuWaits waits_;
  Nanos looked_{0};
  Nanos deep_until_{0};
  Nanos blocked_until_{0};
  Nanos pause_ = kPauseMin;
  Nanos tried_{0};  // without contention, since it was last met
};

// The scheduling of the calling thread. Where the kernel does not tell of waits, or somebody has chosen another class
// for it (real time, say), it stays as it is.
class ThreadScheduling {
 public:
  ThreadScheduling() = default;
  ~ThreadScheduling();
  ThreadScheduling(const ThreadScheduling&) = delete;
  ThreadScheduling& operator=(const ThreadScheduling&) = delete;

  // nullopt: leave it as it is.
  std::optional<CpuWaits> waits();
  void yield_on_wake_up(bool yields);
  bool yields() const { return yields_; }
  // The kernel's own workers for this thread's I/O are made with its scheduling, and keep it: back to the usual.
  static void restore_workers();

 private:
  int file_ = -1;
  bool unknown_ = false;
  bool yields_ = false;
};

}  // namespace holdfast::io
