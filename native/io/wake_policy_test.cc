#include "io/wake_policy.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <semaphore>
#include <thread>

namespace holdfast::io {
namespace {

// What a thread meets in ten milliseconds after another, with several operations under way.
class Life {
 public:
  void pass(Nanos wait_per_turn, int turns, bool deep = true) {
    now_ += 10ms;
    waits_.total += wait_per_turn * turns;
    waits_.turns += static_cast<std::uint64_t>(turns);
    if (policy.wants_waits(deep, now_)) policy.waited(waits_, now_);
  }
  // Among threads that do not sleep, until it has seen that: returns how long that took.
  Nanos pass_slices() {
    Nanos began = now_;
    while (policy.yields() && now_ - began < 60s) pass(2ms, 4);
    return now_ - began;
  }
  // Until it yields again, or for a minute.
  Nanos until_it_yields() {
    Nanos began = now_;
    while (!policy.yields() && now_ - began < 60s) pass(20us, 5);
    return now_ - began;
  }

  WakePolicy policy;

 private:
  Nanos now_ = 1s;
  CpuWaits waits_;
};

TEST(WakePolicy, YieldsWhileSeveralOperationsAreUnderWay) {
  Life life;
  life.pass(100us, 5, false);
  EXPECT_FALSE(life.policy.yields());
  life.pass(100us, 5);
  EXPECT_TRUE(life.policy.yields());
  for (int i = 0; i < 5'000; ++i) {
    life.pass(i % 50 == 0 ? 350us : 150us, 30);  // somebody has more to do now and then
    ASSERT_TRUE(life.policy.yields()) << "waits for one another, after " << i;
  }
  life.pass(150us, 30, false);
  life.pass(150us, 30, false);
  EXPECT_FALSE(life.policy.yields());
}

TEST(WakePolicy, WaitsOfWholeSlicesEndItForLongerAndLonger) {
  Life life;
  life.pass(20us, 5);
  Nanos before{0};
  for (int attempt = 0; attempt < 5; ++attempt) {
    ASSERT_TRUE(life.policy.yields());
    ASSERT_LE(life.pass_slices(), 50ms);
    Nanos pause = life.until_it_yields();
    EXPECT_GT(pause, before);
    before = pause;
  }
  EXPECT_GE(before, 1s);
  for (int attempt = 0; attempt < 10; ++attempt) {
    life.pass_slices();
    EXPECT_LE(life.until_it_yields(), 11s);
  }
  // A second without such waits, and it counts as new.
  for (int i = 0; i < 110; ++i) life.pass(20us, 5);
  life.pass_slices();
  EXPECT_LE(life.until_it_yields(), 110ms);
}

// A database's thread works ten milliseconds without sleeping, twice a second.
TEST(WakePolicy, YieldsThroughBurstsOfOthers) {
  Life life;
  life.pass(100us, 5);
  for (int i = 0; i < 5'000; ++i) {
    bool burst = i % 50 == 0;
    life.pass(burst ? 2'500us : 120us, burst ? 4 : 60);
    ASSERT_TRUE(life.policy.yields()) << i;
  }
}

TEST(WakePolicy, WhatWasWaitedBeforeDoesNotCount) {
  Life life;
  for (int i = 0; i < 100; ++i) life.pass(2ms, 4, false);
  life.pass(2ms, 4);
  EXPECT_TRUE(life.policy.yields());
}

// On a thread of its own, since it changes the thread.
TEST(ThreadScheduling, ChangesTheCallingThreadAndItsWorkersBack) {
  int batch = -1, other = -1, worker_before = -1, worker_after = -1;
  std::optional<CpuWaits> waits;
  std::thread([&] {
    ThreadScheduling scheduling;
    waits = scheduling.waits();
    scheduling.yield_on_wake_up(true);
    batch = sched_getscheduler(0);
    std::binary_semaphore looked(0), restored(0);
    std::thread worker([&] {  // inherits it, as the kernel's workers do
      worker_before = sched_getscheduler(0);
      looked.release();
      restored.acquire();
      worker_after = sched_getscheduler(0);
    });
    looked.acquire();
    scheduling.yield_on_wake_up(false);
    other = sched_getscheduler(0);
    ThreadScheduling::restore_workers();
    restored.release();
    worker.join();
  }).join();
  ASSERT_TRUE(waits.has_value());
  EXPECT_GE(waits->turns, 1u);
  EXPECT_EQ(batch, SCHED_BATCH);
  EXPECT_EQ(other, SCHED_OTHER);
  EXPECT_EQ(worker_before, SCHED_BATCH);
  EXPECT_EQ(worker_after, SCHED_OTHER);
}

TEST(ThreadScheduling, LeavesAClassThatSomebodyChose) {
  std::optional<CpuWaits> waits = CpuWaits();
  std::thread([&] {
    sched_param parameters{};
    ASSERT_EQ(sched_setscheduler(0, SCHED_IDLE, &parameters), 0);
    ThreadScheduling scheduling;
    waits = scheduling.waits();
  }).join();
  EXPECT_FALSE(waits.has_value());
}

}  // namespace
}  // namespace holdfast::io
