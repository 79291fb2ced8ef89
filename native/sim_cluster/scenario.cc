#include "sim_cluster/scenario.h"

#include <algorithm>

namespace holdfast::sim {

namespace {
constexpr std::array<std::string_view, kFaults> kNames = {
    "kill-replica", "kill-engine",   "restart-engine", "take-over", "power-off-node", "power-off-all",
    "partition",    "reset",         "slow-link",      "freeze",    "store-down",     "slow-disk",
    "disk-errors",  "corrupt-reads", "flip-bits",      "disk-full", "replace-replica"};
}  // namespace

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
  scenario.journal_bytes = std::uint64_t{1} << random.between(22, 24);
  scenario.cache_bytes = std::uint64_t{1} << random.between(18, 22);
  scenario.rebuild_bytes_per_second = random.chance(1, 4) ? random.between(1, 8) << 20 : 0;
  scenario.depth = static_cast<unsigned>(random.between(1, 32));
  scenario.think_max = Nanos(random.between(1'000'000, 20'000'000));
  scenario.large_percent = random.chance(1, 3) ? 10 : 2;
  scenario.faults_for = Nanos(random.between(5, 30) * 1'000'000'000);
  scenario.fault_gap_max = Nanos(random.between(200, 4'000) * 1'000'000);
  // Each run has few kinds of faults, so that some of them go on for long without the others.
  std::uint64_t kinds = random.below(8);
  for (std::uint64_t i = 0; i < kinds; ++i) scenario.weights[random.below(kFaults)] = random.between(1, 4);
  return scenario;
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
  return text;
}

}  // namespace holdfast::sim
