// Work that blocks, done on a helper thread while the coroutine that wants it waits. Thread: the reactor of the Env.
#pragma once

#include <linux/close_range.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <thread>
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

// The same for work on a device that this very process serves. Should the process be killed meanwhile, the work stays
// in the kernel until somebody serves the device or its connection ends, and the connection must not wait for it: so
// the work runs on a thread that has no descriptors besides those it opens.
template <typename Result, typename Work>
Task<Result> apart(Env* env, Work work) {
  auto alone = [work = std::move(work)]() mutable {
    std::optional<Result> result;
    std::thread([&] {
      (void)::close_range(3, ~0u, CLOSE_RANGE_UNSHARE);
      result.emplace(work());
    }).join();
    return std::move(*result);
  };
  co_return co_await blocking<Result>(env, std::move(alone));
}

}  // namespace holdfast::fuse
