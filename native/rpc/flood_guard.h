// FloodGuard: a token bucket over frames that cost the sender nothing and us something (RST_STREAM, PING, SETTINGS,
// PRIORITY, CONTINUATION, empty DATA, invalid frames). A peer that runs it dry loses its connection.
#pragma once

#include <algorithm>
#include <cstdint>

#include "io/env.h"

namespace holdfast::rpc {

class FloodGuard {
 public:
  // False when the peer exceeded its rate.
  bool take(Nanos now, std::int64_t tokens = 1) {
    std::int64_t refill = (now - refilled_at_).count() / kNanosPerToken;
    if (refill > 0) {
      tokens_ = std::min(kBurst, tokens_ + std::min(refill, kBurst));
      refilled_at_ += Nanos(refill * kNanosPerToken);
    }
    tokens_ -= tokens;
    return tokens_ >= 0;
  }

 private:
  // Far above what cancelling calls and keep-alives need, far below what hurts.
  static constexpr std::int64_t kBurst = 10'000;
  static constexpr std::int64_t kNanosPerToken = 500'000;  // 2,000 a second

  std::int64_t tokens_ = kBurst;
  Nanos refilled_at_{0};
};

}  // namespace holdfast::rpc
