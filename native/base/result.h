// Error, Status and Result<T>: how native code reports failure. No exceptions.
//
// An Error is one pointer wide, so that the successful path moves eight bytes and never allocates.
// Codes come from proto/errors.json, the one table that also feeds TypeScript and docs/errors.md.
// A message says what happened, to which object, and what to do; nobody ever matches on its text.
#pragma once

#include <memory>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

#include "base/check.h"
#include "base/error_codes.h"

namespace holdfast {

class [[nodiscard]] Error {
 public:
  Error(ErrorCode code, std::string message) : detail_(std::make_unique<Detail>(Detail{code, std::move(message)})) {}
  Error(const Error& other) : detail_(std::make_unique<Detail>(*other.detail_)) {}
  Error& operator=(const Error& other) {
    if (this != &other) detail_ = std::make_unique<Detail>(*other.detail_);
    return *this;
  }
  Error(Error&&) noexcept = default;
  Error& operator=(Error&&) noexcept = default;

  ErrorCode code() const { return detail_->code; }
  const std::string& message() const { return detail_->message; }
  std::string to_string() const { return std::string(error_code_name(code())) + ": " + message(); }

 private:
  friend class Status;
  struct Detail {
    ErrorCode code;
    std::string message;
  };
  Error() = default;
  std::unique_ptr<Detail> detail_;
};

// Success, or an Error.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Error error) : error_(std::move(error)) {}  // NOLINT: implicit, so that `return Error(...)` works

  bool ok() const { return error_.detail_ == nullptr; }
  explicit operator bool() const { return ok(); }
  // Only for a Status that is not ok().
  const Error& error() const& {
    DCHECK(!ok());
    return error_;
  }
  Error&& error() && {
    DCHECK(!ok());
    return std::move(error_);
  }
  Status(const Status& other) { *this = other; }
  Status& operator=(const Status& other) {
    if (this != &other) {
      if (other.ok()) {
        error_.detail_.reset();
      } else {
        error_ = Error(other.error_);
      }
    }
    return *this;
  }
  Status(Status&&) noexcept = default;
  Status& operator=(Status&&) noexcept = default;

 private:
  Error error_;
};

// A T, or an Error. The shape of std::expected<T, Error>.
template <typename T>
class [[nodiscard]] Result {
 public:
  using value_type = T;

  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}      // NOLINT: implicit
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT: implicit

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }
  T& value() & {
    CHECK(ok());
    return *std::get_if<0>(&state_);
  }
  const T& value() const& {
    CHECK(ok());
    return *std::get_if<0>(&state_);
  }
  T&& value() && {
    CHECK(ok());
    return std::move(*std::get_if<0>(&state_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  const Error& error() const& {
    CHECK(!ok());
    return *std::get_if<1>(&state_);
  }
  Error&& error() && {
    CHECK(!ok());
    return std::move(*std::get_if<1>(&state_));
  }
  Status status() const { return ok() ? Status() : Status(error()); }

 private:
  std::variant<T, Error> state_;
};

}  // namespace holdfast

// Returns the error of `expression` (a Status or Result) from the enclosing function if it failed.
#define TRY(expression)                                             \
  do {                                                              \
    auto try_outcome_ = (expression);                               \
    if (!try_outcome_.ok()) return std::move(try_outcome_).error(); \
  } while (0)

// ASSIGN_OR_RETURN(auto x, expression-giving-Result<X>);
#define HOLDFAST_CONCAT_(a, b) a##b
#define HOLDFAST_CONCAT(a, b) HOLDFAST_CONCAT_(a, b)
#define ASSIGN_OR_RETURN(declaration, expression) \
  HOLDFAST_ASSIGN_OR_RETURN_(HOLDFAST_CONCAT(outcome_, __LINE__), declaration, expression)
#define HOLDFAST_ASSIGN_OR_RETURN_(outcome, declaration, expression) \
  auto outcome = (expression);                                       \
  if (!outcome.ok()) return std::move(outcome).error();              \
  declaration = std::move(outcome).value()

// The same two inside a coroutine that returns Task<Status> or Task<Result<T>>.
#define CO_TRY(expression)                                             \
  do {                                                                 \
    auto try_outcome_ = (expression);                                  \
    if (!try_outcome_.ok()) co_return std::move(try_outcome_).error(); \
  } while (0)
#define CO_ASSIGN_OR_RETURN(declaration, expression) \
  HOLDFAST_CO_ASSIGN_OR_RETURN_(HOLDFAST_CONCAT(outcome_, __LINE__), declaration, expression)
#define HOLDFAST_CO_ASSIGN_OR_RETURN_(outcome, declaration, expression) \
  auto outcome = (expression);                                          \
  if (!outcome.ok()) co_return std::move(outcome).error();              \
  declaration = std::move(outcome).value()
