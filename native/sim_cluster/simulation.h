// simulate(): one seed, from the making of a cluster to the last check.
#pragma once

#include <cstdint>
#include <string>

namespace holdfast::sim {

struct Outcome {
  std::string violation;  // empty: every promise was kept
  bool lost = false;      // injected damage took the last copies; the volume says so
  std::uint64_t hash = 0;
  std::uint64_t events = 0;
  std::uint64_t operations = 0;
  std::uint64_t failed_operations = 0;
  std::uint64_t epochs = 0;
  unsigned blackouts = 0;  // unflushed writes that a power loss of all copies took
  std::string scenario;
  double virtual_seconds = 0;
  double recovery_seconds = 0;  // the longest from the end of all faults until everything was in order
  double slowest_seconds = 0;   // the longest operation
};

// Leaves the memory of killed processes behind: run many in child processes.
Outcome simulate(std::uint64_t seed, bool trace);

}  // namespace holdfast::sim
