#include "test/reactor_support.h"

#include <stdlib.h>

#include <algorithm>

namespace holdfast::test {

std::unique_ptr<Reactor> make_reactor(ReactorOptions options) {
  Result<std::unique_ptr<Reactor>> reactor = Reactor::create(options);
  CHECK(reactor.ok(), reactor.ok() ? nullptr : reactor.error().message().c_str());
  return std::move(*reactor);
}

bool run_until(Reactor& reactor, Callback<bool()> done, Nanos timeout) {
  auto end = std::chrono::steady_clock::now() + timeout;
  while (!done()) {
    Nanos left = end - std::chrono::steady_clock::now();
    if (left <= Nanos(0)) return false;
    reactor.turn(left);
  }
  return true;
}

TempDir::TempDir() {
  const char* base = getenv("HOLDFAST_TEST_DIR");
  path_ = (base ? std::string(base) : std::filesystem::temp_directory_path().string()) + "/holdfast-test-XXXXXX";
  CHECK(mkdtemp(path_.data()) != nullptr, "no temporary folder can be made");
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace holdfast::test
