// Kv: ordered keys with atomic batches, for chunk records and other metadata. RocksDB in production
// (store/rocks_kv), a model with the same contract in the simulator.
//
// Contract: a batch is applied as a whole or not at all, and batches become durable in the order of writing.
// After a crash of the process every batch whose callback came is there; after a power loss every batch up to the last
// one written with sync. Thread: calls and callbacks on the reactor of the Env.
//
// A full file system is no failure of a write: it waits, with all that come after it, and is repeated until there is
// room.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/task.h"
#include "io/env.h"

namespace rocksdb {
class Env;
}

namespace holdfast::store {

// Keys and values of all changes lie in one buffer: a round of the destager has thousands.
class KvBatch {
 public:
  enum class Kind : std::uint8_t { kPut, kRemove, kRemoveRange };
  struct Change {
    Kind kind;
    std::string_view key;    // kRemoveRange: the first
    std::string_view value;  // kPut; kRemoveRange: the key behind the last
  };
  void put(std::string_view key, std::string_view value) { add(Kind::kPut, key, value); }
  void remove(std::string_view key) { add(Kind::kRemove, key, {}); }
  void remove_range(std::string_view first, std::string_view end) { add(Kind::kRemoveRange, first, end); }
  bool empty() const { return changes_.empty(); }
  std::size_t bytes() const { return bytes_.size(); }
  std::size_t count() const { return changes_.size(); }
  // Calls visit(const Change&) for each, in order.
  template <typename Visit>
  void for_each(Visit visit) const {
    const char* at = bytes_.data();
    for (const Stored& stored : changes_) {
      visit(Change{stored.kind, {at, stored.key_size}, {at + stored.key_size, stored.value_size}});
      at += stored.key_size + stored.value_size;
    }
  }

 private:
  struct Stored {
    Kind kind;
    std::uint32_t key_size, value_size;
  };
  void add(Kind kind, std::string_view key, std::string_view value) {
    changes_.push_back({kind, static_cast<std::uint32_t>(key.size()), static_cast<std::uint32_t>(value.size())});
    bytes_.append(key).append(value);
  }

  std::string bytes_;
  std::vector<Stored> changes_;
};

using KvPairs = std::vector<std::pair<std::string, std::string>>;

class Kv {
 public:
  virtual ~Kv() = default;
  // Answers from memory without blocking: outer nullopt when a disk read would be needed.
  virtual std::optional<std::optional<std::string>> get_if_cached(std::string_view key) = 0;
  virtual void get(std::string key, Callback<void(Result<std::optional<std::string>>)> done) = 0;
  // Pairs with first <= key < end in order, at most `max`.
  virtual void range(std::string first, std::string end, std::size_t max, Callback<void(Result<KvPairs>)> done) = 0;
  virtual void write(KvBatch batch, bool sync, StatusCallback done) = 0;
  // Writes wait for room in the file system. `changed` is called when that begins and when it ends.
  virtual bool waits_for_space() const { return false; }
  virtual void on_space(Callback<void()> changed) { (void)changed; }
  // From now on a write that finds no room fails (kNoSpace): for whoever must come to an end.
  virtual void stop_waiting() {}
  // Rough size on disk in bytes.
  virtual std::uint64_t disk_bytes() = 0;
};

using OpenKv = std::function<Task<Result<std::unique_ptr<Kv>>>(Env& env, std::string directory)>;

// store/rocks_kv.cc. `cache_bytes`: block cache. `files`: tests give one that fails; null: the operating system's.
OpenKv rocks_kv(std::size_t cache_bytes, rocksdb::Env* files = nullptr);

}  // namespace holdfast::store
