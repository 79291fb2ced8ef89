#include "replica/token_bucket.h"

#include <gtest/gtest.h>

namespace holdfast::replica {
namespace {

TEST(TokenBucket, GivesTheRateAfterTheBurst) {
  Nanos now{5s};
  TokenBucket bucket(1'000, 100, now);
  EXPECT_EQ(bucket.take(100, now), Nanos(0));
  std::uint64_t taken = 0;
  Nanos end = now + 10s;
  while (now < end) {
    Nanos wait = bucket.take(100, now);
    if (wait == Nanos(0)) {
      taken += 100;
    } else {
      EXPECT_LE(wait, 101ms);
      now += wait;
    }
  }
  EXPECT_GE(taken, 9'900u);
  EXPECT_LE(taken, 10'100u);
}

TEST(TokenBucket, DoesNotSaveUp) {
  TokenBucket bucket(1'000, 100, Nanos(0));
  EXPECT_EQ(bucket.take(100, 100s), Nanos(0));
  EXPECT_GT(bucket.take(100, 100s), Nanos(0));
}

TEST(TokenBucket, GivesBack) {
  TokenBucket bucket(1, 100, Nanos(0));
  EXPECT_EQ(bucket.take(100, Nanos(0)), Nanos(0));
  bucket.give_back(60);
  EXPECT_EQ(bucket.take(60, Nanos(0)), Nanos(0));
  bucket.give_back(1'000);
  EXPECT_EQ(bucket.take(100, Nanos(0)), Nanos(0)) << "never more than the burst";
  EXPECT_GT(bucket.take(1, Nanos(0)), Nanos(0));
}

TEST(TokenBucket, ZeroIsUnlimitedAndTheRateChanges) {
  TokenBucket bucket(0, 100, Nanos(0));
  for (int i = 0; i < 1'000; ++i) EXPECT_EQ(bucket.take(100, Nanos(0)), Nanos(0));
  bucket.set_rate(10, Nanos(0));
  EXPECT_EQ(bucket.take(100, Nanos(0)), Nanos(0));
  Nanos wait = bucket.take(100, Nanos(0));
  EXPECT_GE(wait, 10s);
  EXPECT_LE(wait, 10s + 1us);
}

}  // namespace
}  // namespace holdfast::replica
