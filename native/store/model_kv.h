// ModelKv: a Kv in memory with the contract of the real one, for tests and the simulator. What it holds belongs to a
// ModelKvDisk, which outlives the process: a kill keeps every batch that was applied, a power loss takes back all or
// some of the batches after the last synced one.
// Thread: reactor of the Env.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "store/kv.h"

namespace holdfast::store {

// The durable side: every database of one machine, by directory.
class ModelKvDisk {
 public:
  // Of every database: keeps the batches up to the last synced one and, of the later ones, the first
  // `random(later + 1)` (random(n) gives a number below n).
  void power_loss(const std::function<std::uint64_t(std::uint64_t)>& random);
  // From now on every write fails; 0 heals.
  void set_failing(bool failing) { failing_ = failing; }
  // Single keys that were asked for so far, in all databases.
  std::uint64_t lookups() const { return lookups_; }
  // Batches that were synced.
  std::uint64_t syncs() const { return syncs_; }
  // The content of one database as bytes, and back: for images of whole disks.
  std::string dump(const std::string& directory) const;
  void load(const std::string& directory, std::string_view bytes);

 private:
  friend class ModelKv;
  struct Database {
    std::map<std::string, std::string> synced;   // what a power loss keeps
    std::map<std::string, std::string> current;  // what the process sees
    std::vector<KvBatch> unsynced;
  };
  std::map<std::string, Database> databases_;
  bool failing_ = false;
  std::uint64_t lookups_ = 0;
  std::uint64_t syncs_ = 0;
};

// Opens databases on `disk`, which must outlive them.
OpenKv model_kv(ModelKvDisk* disk);

}  // namespace holdfast::store
