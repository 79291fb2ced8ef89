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
  EXPECT_GT(policy.spin_budget(1s), 0ns);  // ten in the second before: nothing unusual
  policy.involuntary_switches(13, 1s + 10ms);
  EXPECT_EQ(policy.spin_budget(1s + 11ms), 0ns);
  EXPECT_GT(policy.spin_budget(1s + 70ms), 0ns);
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
