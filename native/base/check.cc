#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace holdfast {

void check_failed(const char* expression, const char* file, int line, const char* explanation) noexcept {
  std::fprintf(stderr, "holdfast: broken invariant at %s:%d: %s%s%s\n", file, line, expression, explanation ? ": " : "",
               explanation ? explanation : "");
  std::fflush(stderr);
  std::abort();
}

}  // namespace holdfast
