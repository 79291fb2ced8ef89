// Asking replicas directly, from outside of the simulation.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "sim_cluster/cluster.h"

namespace holdfast::sim {

// Runs the world until the callback that `start` was given came; nullopt: it did not.
template <typename T, typename Start>
std::optional<T> wait(Cluster& cluster, Start start) {
  auto outcome = std::make_shared<std::optional<T>>();
  start(Callback<void(T)>([outcome](T value) { outcome->emplace(std::move(value)); }));
  if (!cluster.run_until([outcome] { return outcome->has_value(); }, 60s) || !outcome->has_value()) return std::nullopt;
  return std::move(**outcome);
}

inline std::string name_of(const ReplicaNode& node) { return "replica " + std::to_string(node.id().value()); }

}  // namespace holdfast::sim
