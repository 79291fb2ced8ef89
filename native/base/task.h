// Task<T>: a coroutine for work off the I/O path (recovery, open, rebuild, login to the store).
//
// Lazy: it starts when awaited or spawned. Single-threaded like everything on a reactor. The hot path
// uses Callback; `co_await suspend<T>(...)` turns a callback-taking call into an awaitable:
//
//   Status status = co_await suspend<Status>([&](Callback<void(Status)> done) { file.sync(std::move(done)); });
//
// A coroutine's parameters must outlive it: pass by value, or pointers to what the owner keeps.
// Do not write a capturing lambda that is itself a coroutine (its captures die with the lambda object).
// g++ 12: give every awaited temporary a name first if it has a non-trivial destructor and the co_await
// stands inside a larger expression.
#pragma once

#include <coroutine>
#include <cstdlib>
#include <optional>
#include <utility>

#include "base/callback.h"
#include "base/check.h"

namespace holdfast {

template <typename T>
class Task;

namespace task_detail {

struct FinalAwaiter {
  bool await_ready() noexcept { return false; }
  template <typename Promise>
  std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> finished) noexcept {
    auto& promise = finished.promise();
    if (promise.continuation) return promise.continuation;
    if (promise.detached) finished.destroy();
    return std::noop_coroutine();
  }
  void await_resume() noexcept {}
};

struct PromiseBase {
  std::coroutine_handle<> continuation;
  bool detached = false;
  std::suspend_always initial_suspend() noexcept { return {}; }
  FinalAwaiter final_suspend() noexcept { return {}; }
  void unhandled_exception() noexcept { std::abort(); }
};

template <typename T>
struct Promise : PromiseBase {
  std::optional<T> value;
  Task<T> get_return_object();
  template <typename U>
  void return_value(U&& result) {
    value.emplace(std::forward<U>(result));
  }
  T take() { return std::move(*value); }
};

template <>
struct Promise<void> : PromiseBase {
  Task<void> get_return_object();
  void return_void() {}
  void take() {}
};

}  // namespace task_detail

template <typename T = void>
class [[nodiscard]] Task {
 public:
  using promise_type = task_detail::Promise<T>;

  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Task& operator=(Task&& other) noexcept {
    if (this != &other) {
      if (handle_) handle_.destroy();
      handle_ = std::exchange(other.handle_, nullptr);
    }
    return *this;
  }
  ~Task() {
    if (handle_) handle_.destroy();
  }

  auto operator co_await() && noexcept {
    struct Awaiter {
      std::coroutine_handle<promise_type> handle;
      bool await_ready() noexcept { return false; }
      std::coroutine_handle<> await_suspend(std::coroutine_handle<> awaiting) noexcept {
        handle.promise().continuation = awaiting;
        return handle;
      }
      T await_resume() { return handle.promise().take(); }
    };
    CHECK(handle_ != nullptr, "a task is awaited once");
    return Awaiter{handle_};
  }

 private:
  friend struct task_detail::Promise<T>;
  template <typename U>
  friend void spawn(Task<U> task);
  explicit Task(std::coroutine_handle<promise_type> handle) : handle_(handle) {}
  std::coroutine_handle<promise_type> handle_;
};

namespace task_detail {
template <typename T>
Task<T> Promise<T>::get_return_object() {
  return Task<T>(std::coroutine_handle<Promise<T>>::from_promise(*this));
}
inline Task<void> Promise<void>::get_return_object() {
  return Task<void>(std::coroutine_handle<Promise<void>>::from_promise(*this));
}
}  // namespace task_detail

// Starts a task nobody waits for; it frees itself at its end.
template <typename T>
void spawn(Task<T> task) {
  auto handle = std::exchange(task.handle_, nullptr);
  handle.promise().detached = true;
  handle.resume();
}

// Awaits the one call of the Callback<void(T)> that `start` receives. `start` may call it at once.
template <typename T, typename Start>
auto suspend(Start start) {
  struct Awaiter {
    Start start;
    std::optional<T> value;
    std::coroutine_handle<> waiting;
    bool in_start = false;

    bool await_ready() noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> handle) {
      waiting = handle;
      in_start = true;
      start(Callback<void(T)>([this](T result) {
        value.emplace(std::move(result));
        if (!in_start) waiting.resume();
      }));
      in_start = false;
      return !value.has_value();
    }
    T await_resume() { return std::move(*value); }
  };
  return Awaiter{std::move(start), std::nullopt, nullptr, false};
}

}  // namespace holdfast
