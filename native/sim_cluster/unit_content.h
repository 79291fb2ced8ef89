// What a unit (one logical block) holds when a client wrote a value to it: words that no other value gives.
#pragma once

#include <cstddef>
#include <optional>

#include "sim_cluster/history.h"

namespace holdfast::sim {

// Value 0: zeros.
void fill_unit(std::byte* unit, std::size_t size, Value value);
// nullopt: no write ever made this.
std::optional<Value> value_of_unit(const std::byte* unit, std::size_t size);

}  // namespace holdfast::sim
