// SimDisk: the files of one simulated node, with what a power loss does to them.
//
// A write becomes visible when it completes and durable with the next sync that starts after. Until then the file keeps
// what its pages held before; power loss turns every 512-byte sector of such a page into either version.
#pragma once

#include <array>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "io/env.h"
#include "sim/world.h"

namespace holdfast::sim {

inline constexpr std::size_t kSectorSize = 512;

// One page of content: moved from the write to the file, and from there to what a power loss may bring back, without
// being copied. Freed ones are kept for the next.
class SimPage {
 public:
  using Bytes = std::array<std::byte, 4096>;

  SimPage() = default;  // none
  static SimPage make();
  SimPage(SimPage&& other) noexcept : bytes_(std::exchange(other.bytes_, nullptr)) {}
  SimPage& operator=(SimPage&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~SimPage();

  explicit operator bool() const { return bytes_ != nullptr; }
  Bytes& operator*() const { return *bytes_; }
  Bytes* operator->() const { return bytes_; }

 private:
  Bytes* bytes_ = nullptr;
};

struct SimFileData {
  std::string path;
  std::uint64_t size = 0;
  std::map<std::uint64_t, SimPage> current;  // by page index; a missing page is zeros
  std::set<std::uint64_t> unreadable;        // pages of bad sectors: reads fail until they are written
  // What was written since one sync began and before the next one did: the pages' content before (none: zeros).
  struct Generation {
    std::uint64_t id;
    std::map<std::uint64_t, SimPage> before;
  };
  std::deque<Generation> unsynced;  // oldest first
  std::uint64_t next_generation = 1;
  std::uint64_t locked_by = 0;  // process id
};

struct SimWrite {
  SimFileData* file;
  std::uint64_t process_id;
  std::uint64_t offset;
  std::uint64_t length;  // of the pages' bytes; whole sectors
  std::vector<SimPage> pages;
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
  void fill_with_zeros(SimFileData& file, std::uint64_t offset, std::uint64_t length);
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
  void apply(SimFileData& file, std::uint64_t index, SimPage page);
  void apply(SimFileData& file, std::uint64_t offset, std::span<const std::byte> sectors);

  World& world_;
  std::string node_;
  std::map<std::string, SimFileData> files_;
  std::vector<SimWrite*> in_flight_;
};

}  // namespace holdfast::sim
