// Deferred: callbacks with their outcome, to be called in a later turn of the loop in the order of arrival.
// Thread: reactor of the Env, which must not run a posted drain after this object is gone.
#pragma once

#include <deque>
#include <utility>

#include "io/env.h"

namespace holdfast::store {

class Deferred {
 public:
  explicit Deferred(Env& env) : env_(env) {}

  void call(StatusCallback callback, Status outcome) {
    if (!callback) return;
    due_.emplace_back(std::move(callback), std::move(outcome));
    if (due_.size() == 1) env_.post([this] { drain(); });
  }
  bool empty() const { return due_.empty(); }

 private:
  void drain() {
    std::deque<std::pair<StatusCallback, Status>> due = std::exchange(due_, {});
    for (auto& [callback, outcome] : due) callback(std::move(outcome));
  }

  Env& env_;
  std::deque<std::pair<StatusCallback, Status>> due_;
};

}  // namespace holdfast::store
