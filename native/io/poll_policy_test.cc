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

TEST(PollPolicy, SharedCoresEndSpinningForAWhile) {
  PollPolicy policy(kSpin);
  warm_up(policy);
  Nanos now = 1s;
  // A tenth for others is what an initiator on the same CPU takes.
  for (int i = 0; i < 1'000; ++i) policy.shared(40us, 4us, now += 100us);
  EXPECT_GT(policy.spin_budget(now), 0ns);
  // One long turn of somebody else ends it at once.
  policy.shared(3ms, 3ms, now);
  EXPECT_EQ(policy.spin_budget(now + 19ms), 0ns);
  EXPECT_GT(policy.spin_budget(now + 20ms), 0ns);
  // Many short ones do too, once they have added up.
  now += 20ms;
  int spins = 0;
  while (policy.spin_budget(now) > 0ns) {
    policy.shared(40us, 20us, now += 100us);
    ++spins;
  }
  EXPECT_NEAR(spins, 50, 1);
}

TEST(PollPolicy, LastingContentionIsTriedLessAndLess) {
  PollPolicy policy(kSpin);
  warm_up(policy);
  Nanos now = 1s;
  Nanos spinning{0};
  while (now < 21s) {
    if (policy.spin_budget(now) > 0ns) {
      spinning += 4ms;
      policy.shared(4ms, 3ms, now + 4ms);
    }
    now += 4ms;
  }
  EXPECT_LT(spinning, 200ms);  // of twenty seconds
  // And forgotten when the cores are free again: the next contention blocks for the shortest pause only.
  while (policy.spin_budget(now) == 0ns) now += 1ms;
  policy.shared(4ms, 0ns, now);
  policy.shared(4ms, 3ms, now);
  EXPECT_EQ(policy.spin_budget(now), 0ns);
  EXPECT_GT(policy.spin_budget(now + 20ms), 0ns);
}

TEST(PollPolicy, ManyOperationsAtOnceEndSpinningForAsLongAsTheyCome) {
  PollPolicy policy(kSpin);
  warm_up(policy);
  Nanos now = 1s;
  // A few are no reason, however fast they come.
  for (int i = 0; i < 100; ++i) {
    for (std::uint32_t count : {1u, 2u, 3u, 4u, 3u, 2u, 1u, 0u}) policy.under_way(count, now += 10us);
    EXPECT_EQ(policy.spin_budget(now), kSpin);
  }
  // Many are, also in the moments in which all of them have ended.
  for (int i = 0; i < 100; ++i) {
    policy.under_way(5, now += 400us);
    EXPECT_EQ(policy.spin_budget(now), 0ns);
    policy.under_way(0, now += 400us);
    EXPECT_EQ(policy.spin_budget(now), 0ns);
  }
  EXPECT_EQ(policy.spin_budget(now + 2ms), kSpin);
  // Some that stay under way, since they wait for something.
  policy.under_way(40, now += 10ms);
  EXPECT_EQ(policy.spin_budget(now + 1s), 0ns);
  policy.under_way(1, now += 1s);
  EXPECT_EQ(policy.spin_budget(now + 2ms), kSpin);
}

TEST(PollPolicy, ZeroMeansNever) {
  PollPolicy policy(0ns);
  warm_up(policy);
  for (int i = 0; i < 20; ++i) policy.slept(0ns);
  EXPECT_EQ(policy.spin_budget(1s), 0ns);
}

TEST(WishedSpin, IsOffOrMicroseconds) {
  EXPECT_EQ(wished_spin(nullptr, 250us), 250us);
  EXPECT_EQ(wished_spin("", 250us), 250us);
  EXPECT_EQ(wished_spin("off", 250us), 0ns);
  EXPECT_EQ(wished_spin("0", 250us), 0ns);
  EXPECT_EQ(wished_spin("40", 250us), 40us);
  EXPECT_EQ(wished_spin("10000", 250us), 10ms);
  for (const char* wrong : {"on", "-1", "10001", "40us", " 40", "99999999999999999999"}) {
    EXPECT_EQ(wished_spin(wrong, 250us), std::nullopt) << wrong;
  }
}

TEST(UsableCpus, IsAtLeastOne) { EXPECT_GE(usable_cpus(), 1u); }

}  // namespace
}  // namespace holdfast::io
