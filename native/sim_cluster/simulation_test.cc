// The simulation itself: seeds pass, and a seed is the same run every time. Many more seeds: `npm run sim`.
#include "sim_cluster/simulation.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "base/log.h"

namespace holdfast::sim {
namespace {

struct Digest {
  bool passed = false;
  std::uint64_t hash = 0;
  std::uint64_t events = 0;
  std::uint64_t operations = 0;
  bool operator==(const Digest&) const = default;
};

// In a child process, as always: killed simulated processes leave their memory behind. The children differ in where
// their memory lies, which must not matter.
Digest run(std::uint64_t seed, std::size_t ballast) {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  pid_t child = fork();
  if (child == 0) {
    set_log_level(LogLevel::kError);
    char* moved = new char[ballast];
    std::memset(moved, 1, ballast);
    Outcome outcome = simulate(seed, false);
    Digest digest{outcome.violation.empty(), outcome.hash, outcome.events, outcome.operations};
    bool sent = write(ends[1], &digest, sizeof digest) == static_cast<ssize_t>(sizeof digest);
    _exit(sent ? 0 : 1);
  }
  close(ends[1]);
  Digest digest;
  EXPECT_EQ(read(ends[0], &digest, sizeof digest), static_cast<ssize_t>(sizeof digest))
      << "seed " << seed << " crashed";
  close(ends[0]);
  waitpid(child, nullptr, 0);
  return digest;
}

TEST(Simulation, TheSameSeedIsTheSameRun) {
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Digest first = run(seed, 1);
    Digest again = run(seed, 100'003);
    EXPECT_TRUE(first.passed);
    EXPECT_EQ(first, again);
    EXPECT_GT(first.operations, 0u);
  }
}

TEST(Simulation, SeedsDiffer) { EXPECT_NE(run(1, 1).hash, run(2, 1).hash); }

}  // namespace
}  // namespace holdfast::sim
