// CHECK stops the process when an invariant is broken: stopping beats corrupting.
// It stays on in release builds. DCHECK is for per-byte paths and vanishes with NDEBUG.
#pragma once

namespace holdfast {

[[noreturn]] void check_failed(const char* expression, const char* file, int line, const char* explanation) noexcept;

}  // namespace holdfast

#define HOLDFAST_CHECK_SELECT(_1, _2, NAME, ...) NAME
#define HOLDFAST_CHECK_1(condition) \
  (__builtin_expect(!!(condition), 1) ? (void)0 : ::holdfast::check_failed(#condition, __FILE__, __LINE__, nullptr))
#define HOLDFAST_CHECK_2(condition, explanation) \
  (__builtin_expect(!!(condition), 1) ? (void)0 : ::holdfast::check_failed(#condition, __FILE__, __LINE__, explanation))

// CHECK(condition) or CHECK(condition, "what the broken invariant means").
#define CHECK(...) HOLDFAST_CHECK_SELECT(__VA_ARGS__, HOLDFAST_CHECK_2, HOLDFAST_CHECK_1)(__VA_ARGS__)

#ifdef NDEBUG
#define DCHECK(...) ((void)0)
#else
#define DCHECK(...) CHECK(__VA_ARGS__)
#endif
