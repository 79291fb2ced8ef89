#include "sim_cluster/scenario.h"

#include <algorithm>

namespace holdfast::sim {

namespace {
constexpr std::array<std::string_view, kFaults> kNames = {
    "kill-replica",  "kill-engine",     "restart-engine", "take-over",     "power-off-node",
    "power-off-all", "partition",       "reset",          "slow-link",     "freeze",
    "store-down",    "slow-disk",       "disk-errors",    "corrupt-reads", "flip-bits",
    "disk-full",     "replace-replica", "store-slow",     "clock-jump",    "power-off-replicas",
    "lose-disk",     "bad-sectors",     "lying-writes"};

// What can be done to a replica without touching anything else.
constexpr std::array kReplicaFaults = {Fault::kKillReplica,     Fault::kPowerOffNode, Fault::kPartition,
                                       Fault::kResetConnection, Fault::kSlowLink,     Fault::kFreeze,
                                       Fault::kSlowDisk,        Fault::kDiskErrors,   Fault::kCorruptReads,
                                       Fault::kFlipBits,        Fault::kDiskFull};
}  // namespace

// What is drawn without a theme.
constexpr std::size_t kFirstFaults = static_cast<std::size_t>(Fault::kPowerOffReplicas);

std::string_view fault_name(Fault fault) { return kNames[static_cast<std::size_t>(fault)]; }

Scenario Scenario::from(std::uint64_t seed) {
  Random random(seed ^ 0x5CE7A210u);
  Scenario scenario;
  scenario.replicas = static_cast<unsigned>(random.chance(2, 3) ? 3 : random.between(1, 4));
  scenario.hosts = static_cast<unsigned>(random.between(1, 3));
  scenario.colocated = random.chance(1, 2);
  if (scenario.colocated) scenario.hosts = std::min(scenario.hosts, scenario.replicas);
  scenario.size_blocks = 64 * random.between(2, random.chance(1, 4) ? 64 : 12) - (random.chance(1, 4) ? 8 : 0);
  scenario.logical_block_size = random.chance(1, 3) ? 512 : 4'096;
  scenario.journal_bytes = std::uint64_t{4u << 20} << (random.chance(1, 4) ? random.between(1, 2) : 0);
  scenario.cache_bytes = std::uint64_t{1} << random.between(18, 22);
  scenario.rebuild_bytes_per_second = random.chance(1, 4) ? random.between(1, 8) << 20 : 0;
  scenario.depth = static_cast<unsigned>(random.between(1, 32));
  scenario.think_max = Nanos(random.between(2'000'000, 30'000'000));
  scenario.large_percent = random.chance(1, 3) ? 10 : 2;
  scenario.faults_for = Nanos(random.between(3, 18) * 1'000'000'000);
  scenario.fault_gap_max = Nanos(random.between(200, 4'000) * 1'000'000);
  // Each run has few kinds of faults, so that some of them go on for long without the others.
  std::uint64_t kinds = random.below(8);
  for (std::uint64_t i = 0; i < kinds; ++i) scenario.weights[random.below(kFirstFaults)] = random.between(1, 4);
  scenario.clocks_differ = random.chance(1, 2);
  scenario.snapshots = random.chance(1, 2);
  std::uint64_t theme = random.below(12);
  if (theme < 2 && scenario.replicas > 1) scenario.spare_one(random);
  if (theme == 2) scenario.split_often();
  if (theme == 3) scenario.wear_disks_out();
  if (theme == 4) scenario.lose_copies();
  if (theme == 5 && scenario.replicas > 1) scenario.decay();
  scenario.size_blocks_max = scenario.size_blocks + (random.chance(1, 3) ? random.between(1, scenario.size_blocks) : 0);
  scenario.clones = scenario.snapshots && random.chance(1, 3);
  if (scenario.weight(Fault::kTakeOver) > 0 && scenario.hosts == 1) {
    scenario.hosts = 2;
    if (scenario.replicas == 1) scenario.colocated = false;
  }
  return scenario;
}

// Two engines at once, again and again, while replicas come and go.
void Scenario::split_often() {
  weights = {};
  weigh(Fault::kTakeOver, 6);
  weigh(Fault::kKillReplica, 1);
  weigh(Fault::kPartition, 1);
  weigh(Fault::kStoreUnavailable, 1);
  weigh(Fault::kSlowStore, 1);
  weigh(Fault::kReplaceReplica, 2);
  last_long();
}

// Writes take long and then fail, while engines change.
void Scenario::wear_disks_out() {
  weights = {};
  weigh(Fault::kDiskErrors, 4);
  weigh(Fault::kTakeOver, 4);
  weigh(Fault::kKillEngine, 2);
  last_long();
}

// The copies that count disappear, together or one after the other.
void Scenario::lose_copies() {
  weights = {};
  weigh(Fault::kPowerOffReplicas, 4);
  weigh(Fault::kLoseDisk, 2);
  weigh(Fault::kPowerOffNode, 2);
  weigh(Fault::kKillReplica, 2);
  weigh(Fault::kKillEngine, 1);
  weigh(Fault::kStoreUnavailable, 1);
  colocated = false;
  last_long();
}

// One disk loses what was written to it, piece by piece, while everything else happens, too.
void Scenario::decay() {
  weigh(Fault::kBadSectors, 4);
  weigh(Fault::kLyingWrites, 3);
  last_long();
}

bool Scenario::damages() const {
  return weight(Fault::kCorruptReads) + weight(Fault::kFlipBits) + weight(Fault::kBadSectors) +
             weight(Fault::kLyingWrites) >
         0;
}

void Scenario::lose_power_often() {
  weights = {};
  weigh(Fault::kPowerOffAll, 8);
  weigh(Fault::kPowerOffNode, 2);
  weigh(Fault::kKillReplica, 1);
  weigh(Fault::kKillEngine, 1);
  victims = 0;
  faults_for = 30s;
  fault_gap_max = 8s;
  power_cycles = true;
}

// Fewer operations in more time, and many faults.
void Scenario::last_long() {
  think_max = std::max(think_max, Nanos(15ms));
  faults_for = 24s;
  fault_gap_max = std::max(fault_gap_max, Nanos(2s));
}

void Scenario::spare_one(Random& random) {
  victims = random.chance(1, 2) ? 1 : replicas - 1;
  colocated = false;
  weights = {};
  for (std::uint64_t kinds = random.between(1, 4); kinds > 0; --kinds) {
    Fault fault = kReplicaFaults[random.below(kReplicaFaults.size())];
    weights[static_cast<std::size_t>(fault)] = random.between(1, 4);
  }
}

// Docs: a silent replica stalls the host for less than 5 s. Several may fall silent one after the other, and one that
// is slow but never silent for long enough makes everything wait for it again and again.
Nanos Scenario::stall_max() const {
  if (victims == 0) return Nanos::max();
  bool slow = weight(Fault::kSlowDisk) + weight(Fault::kSlowLink) + weight(Fault::kDiskErrors) > 0;
  return victims == 1 && !slow ? 5s : 14s;
}

bool Scenario::any_fault() const {
  return std::any_of(weights.begin(), weights.end(), [](std::uint64_t weight) { return weight > 0; });
}

std::string Scenario::describe() const {
  std::string text = std::to_string(replicas) + " replicas, " + std::to_string(hosts) +
                     (colocated ? " hosts beside them, " : " hosts, ") + std::to_string(size_blocks) + " blocks of " +
                     std::to_string(logical_block_size) + ", depth " + std::to_string(depth) + ", faults:";
  for (std::size_t i = 0; i < kFaults; ++i) {
    if (weights[i] > 0) text += " " + std::string(kNames[i]) + "*" + std::to_string(weights[i]);
  }
  if (snapshots) text += ", with snapshots";
  if (clones) text += " and a linked clone";
  if (resizes()) text += ", growing up to " + std::to_string(size_blocks_max) + " blocks";
  if (victims > 0) text += ", on " + std::to_string(victims) + " of the replicas only";
  return text;
}

}  // namespace holdfast::sim
