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
  unsigned losses_accepted = 0;  // somebody was asked, and accepted less than was acknowledged
  unsigned blackouts = 0;        // unflushed writes that a power loss of all copies took
  std::string scenario;
  std::uint64_t kills = 0;         // processes
  std::uint64_t power_losses = 0;  // nodes
  std::uint64_t power_cycles = 0;  // of the whole cluster, after it had served
  double virtual_seconds = 0;
  double recovery_seconds = 0;  // the longest from the end of all faults until everything was in order
  double slowest_seconds = 0;   // the longest operation
};

// Leaves the memory of killed processes behind: run many in child processes.
struct Variant {
  bool power_cycles = false;  // little but kills and power losses, most of them of the whole cluster
  bool clones = false;        // some scenarios end with a linked clone that outlives its source
};

Outcome simulate(std::uint64_t seed, bool trace, Variant variant = {});

}  // namespace holdfast::sim
