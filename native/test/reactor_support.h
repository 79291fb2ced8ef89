// Helpers for tests that drive a real reactor on the test's own thread.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>

#include "base/callback.h"
#include "io/uring_env.h"

namespace holdfast::test {

// A reactor, or the end of the test program with the reason.
std::unique_ptr<Reactor> make_reactor(ReactorOptions options = {});

// Turns the reactor until `done` returns true. False when that took longer than `timeout`: a bound for tests that
// hang, not something to measure by.
bool run_until(Reactor& reactor, Callback<bool()> done, Nanos timeout = 30s);

// A folder for one test, removed with its content at the end. On the file system of $HOLDFAST_TEST_DIR, or of the
// system's folder for temporary files.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace holdfast::test
