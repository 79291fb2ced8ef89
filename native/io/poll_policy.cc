#include "io/poll_policy.h"

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>

namespace holdfast::io {

namespace {

constexpr unsigned kWishedSpinMax = 10'000;  // microseconds

unsigned cpus_in_affinity() {
  cpu_set_t set;
  CPU_ZERO(&set);
  // Fails on hosts with more than 1,024 CPUs, where they are not scarce.
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1'024;
  return static_cast<unsigned>(CPU_COUNT(&set));
}

// Rounded down; 0 when there is no quota.
unsigned cpus_in_quota() {
  std::ifstream groups("/proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line)) {
    if (!line.starts_with("0::")) continue;
    std::ifstream file("/sys/fs/cgroup" + line.substr(3) + "/cpu.max");
    std::string quota;
    double period = 0;
    if (!(file >> quota >> period) || quota == "max" || period <= 0) return 0;
    return std::max(1u, static_cast<unsigned>(std::strtod(quota.c_str(), nullptr) / period));
  }
  return 0;
}

}  // namespace

std::optional<Nanos> wished_spin(const char* text, Nanos standard) {
  std::string_view wish = text == nullptr ? std::string_view() : text;
  if (wish.empty()) return standard;
  if (wish == "off") return Nanos(0);
  unsigned micros = 0;
  auto [end, error] = std::from_chars(wish.data(), wish.data() + wish.size(), micros);
  if (error != std::errc() || end != wish.data() + wish.size() || micros > kWishedSpinMax) return std::nullopt;
  return std::chrono::microseconds(micros);
}

unsigned usable_cpus() {
  unsigned quota = cpus_in_quota();
  unsigned affinity = cpus_in_affinity();
  return quota == 0 ? affinity : std::min(affinity, quota);
}

}  // namespace holdfast::io
