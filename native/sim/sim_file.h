// SimDisk: the files of one simulated node, with what a power loss does to them.
//
// Each file has what readers see now and what is durable, by 512-byte sector. A write becomes visible when it completes
// and durable with the next sync that starts after. Power loss turns every sector that differs into either version.
#pragma once

#include <array>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "io/env.h"
#include "sim/world.h"

namespace holdfast::sim {

inline constexpr std::size_t kSectorSize = 512;

struct SimFileData {
  using Page = std::array<std::byte, 4096>;
  std::string path;
  std::uint64_t size = 0;
  std::map<std::uint64_t, Page> current;  // by page index; a missing page is zeros
  std::map<std::uint64_t, Page> durable;
  std::set<std::uint64_t> dirty;  // pages where current may differ from durable
  std::uint64_t locked_by = 0;    // process id
};

struct SimWrite {
  SimFileData* file;
  std::uint64_t process_id;
  std::uint64_t offset;
  std::vector<std::byte> bytes;
};

class SimDisk {
 public:
  SimDisk(World& world, std::string node) : world_(world), node_(std::move(node)) {}

  SimFileData* find(const std::string& path);
  SimFileData* create(const std::string& path);
  void remove_tree(const std::string& prefix);

  // Used by SimFile.
  void begin_write(SimWrite* write) { in_flight_.push_back(write); }
  void finish_write(SimWrite* write);
  void apply(SimFileData& file, std::uint64_t offset, std::span<const std::byte> bytes);
  void read(SimFileData& file, std::uint64_t offset, std::span<std::byte> into) const;
  std::uint64_t used_bytes() const;

  // Writes in flight of the process happen, do not happen, or happen for some sectors.
  void process_died(std::uint64_t process_id);
  void power_lost();
  // Flips a random stored bit of the file, on the platter: a sync does not undo it. False when the file holds nothing.
  bool flip_stored_bit(const std::string& path);
  std::vector<std::string> paths() const;

 private:
  World& world_;
  std::string node_;
  std::map<std::string, SimFileData> files_;
  std::vector<SimWrite*> in_flight_;
};

}  // namespace holdfast::sim
