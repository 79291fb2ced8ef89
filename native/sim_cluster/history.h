// History: decides whether what clients saw of a volume can be explained by one register per block.
//
// Every write gives each of its blocks a value never used before (zeros are value 0), so a read tells what it saw. A
// block's history is linearizable when its operations can be put in one order that agrees with their intervals and in
// which every read returns the value before it. check() searches for such an order (Wing and Gong's algorithm with
// memory of the states visited, per block). A "block" here is whatever unit the caller writes as a whole.
//
// A write that failed, or whose engine died, has an unknown outcome: it may take effect at any time after its
// invocation, or never. taken_over() ends that: what has not taken effect when another engine begins to serve never
// will. Power loss of every copy at once may take back acknowledged writes that no flush covered: blackout() begins a
// new segment; the values it may start with are those that no flushed write had replaced.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "io/env.h"

namespace holdfast::sim {

using Value = std::uint64_t;

class History {
 public:
  // Before anything else of the block: what it holds at first, instead of zeros.
  void begins_with(std::uint64_t block, Value value) { at(block).initial = {value}; }
  // Returns a handle for what follows. `expected`: the write takes effect only on that value (compare and write).
  std::size_t write_begins(std::uint64_t block, Value value, Nanos now, std::optional<Value> expected = std::nullopt);
  // `durable`: acknowledged as surviving power loss. Ignored when a blackout came between.
  void write_acknowledged(std::uint64_t block, std::size_t handle, Nanos now, bool durable = false);
  // It is known that the write did not and will not happen.
  void write_refused(std::uint64_t block, std::size_t handle);
  // A read of the block that was invoked at `begun` returned `value` now. Ignored when it began before a blackout.
  void read_returned(std::uint64_t block, Value value, Nanos begun, Nanos now);
  // A comparison that was invoked at `begun` found another value than `value`.
  void read_differed(std::uint64_t block, Value value, Nanos begun, Nanos now);
  // A flush that was invoked at `begun` is acknowledged: every write acknowledged before `begun` is safe.
  void flush_acknowledged(Nanos begun) { flushed_until_ = std::max(flushed_until_, begun); }
  // Another engine serves from now on.
  void taken_over(Nanos now);
  // Another engine serves from now on, and every copy had lost its power before it could recover. `destroyed`: even
  // flushed writes may be gone, back to any time.
  void blackout(Nanos now, bool destroyed = false);

  // Nothing else was ever there, nor asked to be written.
  bool only_zeros(std::uint64_t block) const;
  // What is wrong with the first block that cannot be explained, or nullopt.
  std::optional<std::string> check() const;

 private:
  static constexpr Nanos kNever = Nanos::max();

  enum class Kind : std::uint8_t { kWrite, kRead, kDiffers, kRefused };
  struct Operation {
    Kind kind = Kind::kRead;
    Value value = 0;
    std::optional<Value> expected;
    Nanos begun{0};
    Nanos ended = kNever;   // kNever: outcome unknown
    Nanos latest = kNever;  // takes effect before this or never
    bool durable = false;
    bool write() const { return kind == Kind::kWrite; }
    // Whether it can take effect on a block that holds `now`.
    bool fits(Value now) const {
      if (kind == Kind::kWrite) return !expected || *expected == now;
      return kind == Kind::kRead ? value == now : value != now;
    }
  };
  struct Block {
    std::set<Value> initial{0};   // values the segment may start with
    std::vector<Operation> open;  // of the current segment
    std::vector<std::pair<std::set<Value>, std::vector<Operation>>> past;
    std::size_t handle_base = 0;
  };
  class Search;

  Block& at(std::uint64_t block);
  static bool explained(const std::set<Value>& initial, const std::vector<Operation>& operations);
  static std::string describe(std::uint64_t block, const std::set<Value>& initial,
                              const std::vector<Operation>& operations);

  std::vector<Block> blocks_;
  Nanos flushed_until_{-1};
  Nanos segment_began_{-1};
};

}  // namespace holdfast::sim
