// Work that blocks, done on a helper thread while the coroutine that wants it waits. Thread: the reactor of the Env.
#pragma once

#include <memory>
#include <optional>
#include <utility>

#include "base/task.h"
#include "io/env.h"

namespace holdfast::fuse {

// Runs `work` on a helper thread; its result here. (Name the lambda before the co_await: see base/task.h.)
template <typename Result, typename Work>
Task<Result> blocking(Env* env, Work work) {
  struct State {
    Work work;
    std::optional<Result> result;
  };
  auto state = std::make_unique<State>(State{std::move(work), std::nullopt});
  State* shared = state.get();
  co_await holdfast::suspend<int>([&](Callback<void(int)> done) {
    auto resume = std::make_shared<Callback<void(int)>>(std::move(done));
    env->run_blocking([shared] { shared->result.emplace(shared->work()); }, [resume] { (*resume)(0); });
  });
  co_return std::move(*state->result);
}

}  // namespace holdfast::fuse
