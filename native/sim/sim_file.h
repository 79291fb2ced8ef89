// SimDisk: the files of one simulated node, with what a power loss does to them.
//
// A write becomes visible when it completes and durable with the next sync that starts after. Until then the file keeps
// what its pages held before; power loss turns every 512-byte sector of such a page into either version.
#pragma once

#include <array>
#include <deque>
#include <map>
#include <memory>
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
  std::set<std::uint64_t> unreadable;     // pages of bad sectors: reads fail until they are written
  // What was written since one sync began and before the next one did: the pages' content before (nullptr: zeros).
  struct Generation {
    std::uint64_t id;
    std::map<std::uint64_t, std::unique_ptr<Page>> before;
  };
  std::deque<Generation> unsynced;  // oldest first
  std::uint64_t next_generation = 1;
  std::uint64_t locked_by = 0;  // process id
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
  bool unreadable(const SimFileData& file, std::uint64_t offset, std::uint64_t length) const;
  // What is visible now becomes durable when end_sync() is called with what this returned.
  std::uint64_t begin_sync(SimFileData& file);
  void end_sync(SimFileData& file, std::uint64_t generation);
  std::uint64_t used_bytes() const;

  // Writes in flight of the process happen, do not happen, or happen for some sectors.
  void process_died(std::uint64_t process_id);
  void power_lost();
  // Flips a random stored bit of the file, on the platter: a sync does not undo it. False when the file holds nothing.
  bool flip_stored_bit(const std::string& path);
  // Makes a random page that holds something unreadable. False when the file holds nothing.
  bool lose_page(const std::string& path);
  std::vector<std::string> paths() const;

 private:
  void remember(SimFileData& file, std::uint64_t page);

  World& world_;
  std::string node_;
  std::map<std::string, SimFileData> files_;
  std::vector<SimWrite*> in_flight_;
};

}  // namespace holdfast::sim
