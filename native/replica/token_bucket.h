// TokenBucket: a rate in bytes per second, with a small burst. Thread: any one.
#pragma once

#include <algorithm>
#include <cstdint>

#include "io/env.h"

namespace holdfast::replica {

class TokenBucket {
 public:
  // `rate` in bytes per second; 0: unlimited. `burst_bytes`: what may be taken at once; take() never asks for more.
  TokenBucket(std::uint64_t rate, std::uint64_t burst_bytes, Nanos now)
      : rate_(rate), burst_(static_cast<double>(burst_bytes)), tokens_(burst_), refilled_(now) {}

  void set_rate(std::uint64_t rate, Nanos now) {
    refill(now);
    rate_ = rate;
  }
  // Takes `bytes` and returns 0, or takes nothing and returns how long to wait before asking again.
  Nanos take(std::uint64_t bytes, Nanos now) {
    if (rate_ == 0) return Nanos(0);
    refill(now);
    double missing = static_cast<double>(bytes) - tokens_;
    if (missing <= 0) {
      tokens_ -= static_cast<double>(bytes);
      return Nanos(0);
    }
    return Nanos(static_cast<std::int64_t>(missing / static_cast<double>(rate_) * 1e9) + 1);
  }
  // Of what was taken, `bytes` were not needed.
  void give_back(std::uint64_t bytes) { tokens_ = std::min(tokens_ + static_cast<double>(bytes), burst_); }

 private:
  void refill(Nanos now) {
    double seconds = std::chrono::duration<double>(now - refilled_).count();
    tokens_ = std::min(tokens_ + seconds * static_cast<double>(rate_), burst_);
    refilled_ = now;
  }

  std::uint64_t rate_;
  double burst_;
  double tokens_;
  Nanos refilled_;
};

}  // namespace holdfast::replica
