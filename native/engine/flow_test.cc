// Latency histograms and token buckets, without a volume.
#include "engine/flow.h"

#include <gtest/gtest.h>

namespace holdfast::engine {
namespace {

TEST(LatencyHistogramTest, CountsByPowersOfTwo) {
  LatencyHistogram histogram;
  record_latency(histogram, 15us);
  record_latency(histogram, 16us);
  record_latency(histogram, 31us);
  record_latency(histogram, 32us);
  record_latency(histogram, 3600s);
  record_latency(histogram, -5us);
  EXPECT_EQ(histogram.counts[0], 2u);
  EXPECT_EQ(histogram.counts[1], 2u);
  EXPECT_EQ(histogram.counts[2], 1u);
  EXPECT_EQ(histogram.counts.back(), 1u);
  EXPECT_EQ(histogram.total_micros, 15u + 16 + 31 + 32 + 3'600'000'000u);
}

// Admits as much as it can, waiting as long as it is told: what went through in that time.
double rate_of(Throttle& throttle, std::uint64_t length, Nanos duration) {
  Nanos now{};
  std::uint64_t admitted = 0;
  while (now < duration) {
    if (throttle.admit(now, length)) {
      ++admitted;
    } else {
      EXPECT_GT(throttle.wait(), Nanos(0));
      now += throttle.wait();
    }
  }
  return static_cast<double>(admitted) / (static_cast<double>(duration.count()) / 1e9);
}

TEST(ThrottleTest, LimitsOperationsAndBytesOverTime) {
  Throttle operations;
  operations.set({.operations_per_second = 100}, Nanos(0));
  EXPECT_NEAR(rate_of(operations, 1 << 20, 100s), 100, 2);
  Throttle bytes;
  bytes.set({.bytes_per_second = 10 << 20}, Nanos(0));
  EXPECT_NEAR(rate_of(bytes, 4096, 100s), 2560, 30);
  // An operation that is larger than the burst goes through all the same, only less often.
  Throttle large;
  large.set({.bytes_per_second = 1 << 20}, Nanos(0));
  EXPECT_NEAR(rate_of(large, 4 << 20, 100s), 0.25, 0.03);
}

TEST(ThrottleTest, NoLimitAdmitsEverything) {
  Throttle none;
  none.set({}, Nanos(0));
  EXPECT_FALSE(none.limited());
  for (int i = 0; i < 1'000; ++i) EXPECT_TRUE(none.admit(Nanos(0), 1 << 20));
}

TEST(ThrottleTest, AnIdleVolumeMayBurst) {
  Throttle throttle;
  throttle.set({.operations_per_second = 10, .burst_seconds = 5}, Nanos(0));
  int admitted = 0;
  while (throttle.admit(3600s, 0)) ++admitted;
  EXPECT_EQ(admitted, 50);
}

TEST(ThrottleTest, ChangingALimitForgivesNoDebt) {
  Throttle throttle;
  throttle.set({.bytes_per_second = 1'000}, Nanos(0));
  EXPECT_TRUE(throttle.admit(Nanos(0), 11'000));
  throttle.set({.bytes_per_second = 1'000}, Nanos(0));
  EXPECT_FALSE(throttle.admit(9s, 1));
  EXPECT_TRUE(throttle.admit(11s, 1));
}

}  // namespace
}  // namespace holdfast::engine
