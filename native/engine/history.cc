#include "engine/history.h"

#include <algorithm>

namespace holdfast::engine {

namespace {
// The start that covers `seq`, or nullptr.
const store::EpochStart* start_of(std::span<const store::EpochStart> history, Seq seq) {
  for (std::size_t i = history.size(); i-- > 0;) {
    if (history[i].first <= seq) return &history[i];
  }
  return nullptr;
}
}  // namespace

Epoch epoch_at(std::span<const store::EpochStart> history, Seq seq) {
  const store::EpochStart* start = start_of(history, seq);
  return start ? start->epoch : Epoch();
}

Seq common_seq(std::span<const store::EpochStart> a, Seq a_last, std::span<const store::EpochStart> b, Seq b_last) {
  Seq seq = std::min(a_last, b_last);
  while (seq > Seq(0)) {
    const store::EpochStart* in_a = start_of(a, seq);
    const store::EpochStart* in_b = start_of(b, seq);
    if (!in_a || !in_b) return Seq(0);
    if (in_a->epoch == in_b->epoch) return seq;
    // Neither part of different epochs can hold a common entry: go on below both.
    seq = Seq(std::max(in_a->first, in_b->first).value() - 1);
  }
  return Seq(0);
}

}  // namespace holdfast::engine
