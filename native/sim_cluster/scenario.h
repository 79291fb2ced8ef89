// Scenario: everything about one simulated run that is decided before it begins, from its seed.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "io/env.h"
#include "sim/world.h"

namespace holdfast::sim {

enum class Fault : std::uint8_t {
  kKillReplica,
  kKillEngine,
  kRestartEngine,  // closed in order, attached again
  kTakeOver,       // attached on another host while the first engine runs on
  kPowerOffNode,
  kPowerOffAll,
  kPartition,
  kResetConnection,
  kSlowLink,
  kFreeze,
  kStoreUnavailable,
  kSlowDisk,
  kDiskErrors,
  kCorruptReads,
  kFlipBits,
  kDiskFull,
  kReplaceReplica,
  kSlowStore,
  kClockJump,
  kPowerOffReplicas,
  kLoseDisk,
  kBadSectors,
  kLyingWrites,
};
inline constexpr std::size_t kFaults = 23;

std::string_view fault_name(Fault fault);

struct Scenario {
  static Scenario from(std::uint64_t seed);
  // Instead of its own faults: processes and nodes die, and most of all the whole cluster at once.
  void lose_power_often();
  bool any_fault() const;
  std::uint64_t weight(Fault fault) const { return weights[static_cast<std::size_t>(fault)]; }
  std::string describe() const;
  // The longest that an operation may take; Nanos::max(): no limit.
  Nanos stall_max() const;

  unsigned replicas = 3;
  unsigned hosts = 2;      // nodes that may attach the volume
  bool colocated = false;  // they are nodes of replicas, too
  std::uint64_t size_blocks = 1'024;
  std::uint32_t logical_block_size = 4'096;
  std::uint64_t journal_bytes = 4u << 20;
  std::uint64_t cache_bytes = 1u << 20;
  std::uint64_t rebuild_bytes_per_second = 0;
  unsigned depth = 16;    // operations in flight
  Nanos think_max = 8ms;  // between two of a client
  std::uint64_t large_percent = 5;
  Nanos faults_for = 20s;
  Nanos fault_gap_max = 2s;
  std::array<std::uint64_t, kFaults> weights{};
  // Faults that leave one disk with content other than what was written there.
  bool damages() const;
  // 0: faults hit anything. Else they hit only that many replicas, one of which is spared always: then no operation may
  // fail, and none may take long.
  unsigned victims = 0;
  bool clocks_differ = false;
  bool power_cycles = false;  // by lose_power_often()
  bool snapshots = false;
  bool clones = false;                // a linked clone is made at the end
  std::uint64_t size_blocks_max = 0;  // clients make the volume grow, up to this
  bool resizes() const { return size_blocks_max > size_blocks; }

 private:
  void spare_one(Random& random);
  void split_often();
  void wear_disks_out();
  void lose_copies();
  void decay();
  void last_long();
  void weigh(Fault fault, std::uint64_t weight) { weights[static_cast<std::size_t>(fault)] = weight; }
};

}  // namespace holdfast::sim
