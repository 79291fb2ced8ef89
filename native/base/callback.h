// Callback<R(Args...)>: a move-only function object that never allocates.
//
// The callable lives inside the object (kCallbackCapacity bytes); one that does not fit is a compile
// error, so nothing on the I/O path can allocate by accident. Capture a pointer to a pooled object
// when more state is needed. A Callback may be dropped without being called (a crashed process in
// the simulator does that).
#pragma once

#include <cstddef>
#include <new>
#include <type_traits>
#include <utility>

#include "base/check.h"

namespace holdfast {

inline constexpr std::size_t kCallbackCapacity = 64;

template <typename Signature>
class Callback;

template <typename R, typename... Args>
class Callback<R(Args...)> {
 public:
  Callback() = default;
  Callback(std::nullptr_t) {}  // NOLINT: implicit

  template <typename F>
  requires(!std::is_same_v<std::remove_cvref_t<F>, Callback> && std::is_invocable_r_v<R, F&, Args...>)
      Callback(F&& f) {  // NOLINT: implicit
    using Stored = std::remove_cvref_t<F>;
    static_assert(sizeof(Stored) <= kCallbackCapacity, "the capture is too large: capture a pointer instead");
    static_assert(alignof(Stored) <= alignof(std::max_align_t));
    static_assert(std::is_nothrow_move_constructible_v<Stored>);
    new (storage_) Stored(std::forward<F>(f));
    invoke_ = [](void* object, Args... args) -> R {
      return (*static_cast<Stored*>(object))(std::forward<Args>(args)...);
    };
    manage_ = [](void* from, void* to) {
      auto* source = static_cast<Stored*>(from);
      if (to) new (to) Stored(std::move(*source));
      source->~Stored();
    };
  }

  Callback(Callback&& other) noexcept { take(other); }
  Callback& operator=(Callback&& other) noexcept {
    if (this != &other) {
      reset();
      take(other);
    }
    return *this;
  }
  Callback(const Callback&) = delete;
  Callback& operator=(const Callback&) = delete;
  ~Callback() { reset(); }

  explicit operator bool() const { return invoke_ != nullptr; }

  // May be called several times.
  R operator()(Args... args) {
    DCHECK(invoke_ != nullptr);
    return invoke_(storage_, std::forward<Args>(args)...);
  }

  void reset() {
    if (manage_) manage_(storage_, nullptr);
    invoke_ = nullptr;
    manage_ = nullptr;
  }

 private:
  void take(Callback& other) {
    if (other.manage_) other.manage_(other.storage_, storage_);
    invoke_ = std::exchange(other.invoke_, nullptr);
    manage_ = std::exchange(other.manage_, nullptr);
  }

  R (*invoke_)(void*, Args...) = nullptr;
  void (*manage_)(void* from, void* to) = nullptr;
  alignas(std::max_align_t) std::byte storage_[kCallbackCapacity];
};

}  // namespace holdfast
