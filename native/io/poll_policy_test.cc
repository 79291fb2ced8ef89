#include "io/poll_policy.h"

#include <gtest/gtest.h>

namespace holdfast::io {
namespace {

constexpr Nanos kSpin = 50us;

void warm_up(PollPolicy& policy) {
  for (int i = 0; i < 20; ++i) policy.slept(20us);
}

TEST(PollPolicy, BeginsWithoutSpinningAndLearnsFromShortSleeps) {
  PollPolicy policy(kSpin);
  EXPECT_EQ(policy.spin_budget(1s), 0ns);
  warm_up(policy);
  EXPECT_EQ(policy.spin_budget(1s), kSpin);
}

TEST(PollPolicy, StopsAfterAFewMissesAndTriesAgainLessAndLess) {
  PollPolicy policy(kSpin);
  warm_up(policy);
  Nanos now = 1s;
  int misses = 0;
  while (policy.spin_budget(now) > 0ns) {
    policy.spun(false, now);
    ++misses;
  }
  EXPECT_LE(misses, 4);
  // Short sleeps alone bring spinning back, but only after a pause that doubles with every failed attempt.
  Nanos previous_pause{0};
  for (int attempt = 0; attempt < 5; ++attempt) {
    warm_up(policy);
    Nanos resumed = now;
    while (policy.spin_budget(resumed) == 0ns) resumed += 100us;
    EXPECT_GT(resumed - now, previous_pause);
    previous_pause = resumed - now;
    now = resumed;
    while (policy.spin_budget(now) > 0ns) policy.spun(false, now);
  }
  EXPECT_GE(previous_pause, 16ms);
  // One hit ends that.
  warm_up(policy);
  now += 1s;
  policy.spun(true, now);
  while (policy.spin_budget(now) > 0ns) policy.spun(false, now);
  warm_up(policy);
  EXPECT_GT(policy.spin_budget(now + 2ms), 0ns);
}

TEST(PollPolicy, AnIdleReactorStopsSpinning) {
  PollPolicy policy(kSpin);
  warm_up(policy);
  for (int i = 0; i < 3; ++i) policy.slept(1s);
  EXPECT_EQ(policy.spin_budget(10s), 0ns);
}

TEST(PollPolicy, ContendedCoresEndSpinningForAWhile) {
  PollPolicy policy(kSpin);
  warm_up(policy);
  policy.involuntary_switches(10, 1s);
  policy.involuntary_switches(11, 1s + 10ms);
  EXPECT_GT(policy.spin_budget(1s + 10ms), 0ns);  // those before do not count, one may happen
  for (int i = 0; i < 100; ++i) policy.involuntary_switches(11 + static_cast<unsigned>(i) / 5, 1s + i * 10ms);
  EXPECT_GT(policy.spin_budget(2s), 0ns);  // one in 50 ms: nothing unusual
  // One switch every 8 ms, as sharing a core with one busy thread gives; seen in steps too short to tell by themselves.
  Nanos now = 2s;
  for (std::uint64_t count = 31; policy.spin_budget(now) > 0ns; ++count) {
    ASSERT_LT(count, 40u);
    now += 8ms;
    policy.involuntary_switches(count, now);
  }
  EXPECT_EQ(policy.spin_budget(now + 49ms), 0ns);
  EXPECT_GT(policy.spin_budget(now + 50ms), 0ns);
}

TEST(PollPolicy, LastingContentionIsTriedLessAndLess) {
  PollPolicy policy(kSpin);
  warm_up(policy);
  Nanos now = 1s;
  std::uint64_t count = 0;
  policy.involuntary_switches(count, now);
  Nanos spinning{0};
  while (now < 21s) {
    if (policy.spin_budget(now) > 0ns) {
      spinning += 4ms;
      policy.involuntary_switches(++count, now + 4ms);
    }
    now += 4ms;
  }
  EXPECT_LT(spinning, 1s);  // of twenty
  // And forgotten when the cores are free again: the next contention blocks for the shortest pause only.
  while (policy.spin_budget(now) == 0ns) now += 1ms;
  for (int i = 0; i < 10; ++i) policy.involuntary_switches(count, now += 10ms);
  policy.involuntary_switches(count + 9, now += 10ms);
  EXPECT_EQ(policy.spin_budget(now), 0ns);
  EXPECT_GT(policy.spin_budget(now + 50ms), 0ns);
}

TEST(PollPolicy, ZeroMeansNever) {
  PollPolicy policy(0ns);
  warm_up(policy);
  for (int i = 0; i < 20; ++i) policy.slept(0ns);
  EXPECT_EQ(policy.spin_budget(1s), 0ns);
}

TEST(UsableCpus, IsAtLeastOne) { EXPECT_GE(usable_cpus(), 1u); }

}  // namespace
}  // namespace holdfast::io
