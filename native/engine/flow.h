// How much goes through a volume: latency histograms of its operations, and the limits of QoS. Pure: time is an
// argument.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

#include "base/types.h"
#include "engine/engine.h"

namespace holdfast::engine {

// Counts by powers of two: bucket i has what took less than 16 µs * 2^i (and not less than half of that); the last one
// the rest.
inline void record_latency(LatencyHistogram& histogram, Nanos took) {
  auto micros = static_cast<std::uint64_t>(std::max<std::int64_t>(0, took.count()) / 1'000);
  std::size_t bucket = std::bit_width(micros / 16);
  ++histogram.counts[std::min(bucket, histogram.counts.size() - 1)];
  histogram.total_micros += micros;
}

// A bucket that is filled at `rate` per second, up to a burst of some seconds' worth. It may be overdrawn by one
// operation, which lets large operations through at all, and whoever comes next waits until the debt is paid.
class TokenBucket {
 public:
  // rate 0: no limit.
  void set(std::uint64_t rate, std::uint32_t burst_seconds, Nanos now) {
    bool was_limited = rate_ > 0;
    rate_ = static_cast<double>(rate);
    burst_ = rate_ * std::max(1u, burst_seconds);
    // A running volume keeps its debt, so that changing a limit is no way around it.
    tokens_ = was_limited ? std::min(tokens_, burst_) : burst_;
    filled_at_ = now;
  }
  bool limited() const { return rate_ > 0; }
  bool ready(Nanos now) {
    fill(now);
    return !limited() || tokens_ > 0;
  }
  void take(std::uint64_t amount) {
    if (limited()) tokens_ -= static_cast<double>(amount);
  }
  // Until ready() is true.
  Nanos wait() const {
    if (!limited() || tokens_ > 0) return Nanos(0);
    return Nanos(static_cast<std::int64_t>((-tokens_ + 1e-3) / rate_ * 1e9) + 1);
  }

 private:
  void fill(Nanos now) {
    double seconds = static_cast<double>((now - filled_at_).count()) / 1e9;
    tokens_ = std::min(burst_, tokens_ + rate_ * std::max(0.0, seconds));
    filled_at_ = now;
  }

  double rate_ = 0;
  double burst_ = 0;
  double tokens_ = 0;
  Nanos filled_at_{};
};

// Both limits of a volume.
class Throttle {
 public:
  void set(const QosLimits& limits, Nanos now) {
    operations_.set(limits.operations_per_second, limits.burst_seconds, now);
    bytes_.set(limits.bytes_per_second, limits.burst_seconds, now);
  }
  bool limited() const { return operations_.limited() || bytes_.limited(); }
  // Whether an operation may begin now; it is counted then.
  bool admit(Nanos now, std::uint64_t length) {
    // Both are asked, so that both are filled.
    bool operation = operations_.ready(now);
    if (!bytes_.ready(now) || !operation) return false;
    operations_.take(1);
    bytes_.take(length);
    return true;
  }
  Nanos wait() const { return std::max(operations_.wait(), bytes_.wait()); }

 private:
  TokenBucket operations_;
  TokenBucket bytes_;
};

}  // namespace holdfast::engine
