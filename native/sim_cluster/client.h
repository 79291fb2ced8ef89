// Client: issues random operations on one attached volume, as the front-ends of its process would, and tells the
// oracle what it asked and what it saw. Runs on the engine's process: it stops and dies with it.
//
// Every unit (logical block) written holds the value of its write; a unit of zeros holds value 0. A unit whose bytes
// are neither is a violation by itself.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/block_device.h"
#include "engine/engine.h"
#include "sim_cluster/oracle.h"
#include "sim_cluster/scenario.h"

namespace holdfast::sim {

// Values that clients saw last, to guess what a comparison should expect. Shared by all clients of a volume.
struct LastSeen {
  std::vector<Value> values;
  std::vector<SnapshotId> snapshots;  // taken, and not asked to go
  bool snapshots_change = false;      // each change makes rebuilds begin again, so this ends with the faults
  bool size_changes = false;
};

// What clients did, for the summary of a run.
struct ClientCounts {
  std::uint64_t operations = 0;
  std::uint64_t succeeded = 0;
  std::uint64_t failed = 0;
  Nanos slowest{0};
};

class Client {
 public:
  struct Setup {
    World* world;
    Env* env;  // of the engine's process
    Oracle* oracle;
    LastSeen* seen;
    ClientCounts* counts;
    const Scenario* scenario;
    Epoch epoch;
    // Asked when an operation failed: whether it may have with this code.
    std::function<bool(ErrorCode)> may_fail;
  };

  Client(Setup setup, engine::Engine& engine);

  // Issues operations until stop().
  void start();
  void stop() { running_ = false; }
  unsigned in_flight() const { return in_flight_; }
  // Reads everything once.
  void read_all();
  // The engine has told that it is fenced: nothing may succeed from now on.
  void fenced() { fenced_ = true; }
  void flush();
  bool flush_failed() const { return flush_failed_; }

 private:
  struct Op {
    const char* name = "";
    std::uint64_t first = 0;  // in units
    std::uint64_t count = 0;
    Nanos begun{0};
    bool late = false;     // a later engine served already when it began
    bool durable = false;  // FUA
    Seq acknowledged;      // when it began
    Value value = 0;
    std::vector<std::size_t> handles;  // of writes, one a unit
    std::vector<Value> expected;
    std::vector<Value> content;  // of a revert, instead of `value`
    SnapshotId snapshot;
    Value value_at(std::uint64_t i) const { return content.empty() ? value : content[i]; }
  };

  void tick();
  void issue();
  Op* begin(const char* name, std::uint64_t first, std::uint64_t count);
  void begin_write(Op* op);
  // False: nothing more is to be recorded of it.
  bool end(Op* op, const Status& status);
  void acknowledge(Op* op);
  void write();
  void zero();
  void read(std::uint64_t first, std::uint64_t count);
  void compare_and_write();
  void grow();
  void change_snapshots();
  void take_snapshot();
  void drop_snapshot();
  void revert();
  void read_for_revert(Op* op);
  void revert_to(Op* op);
  void on_read(Op* op, Result<SliceList> content);
  void on_compared(Op* op, Result<std::optional<std::uint64_t>> outcome);
  void pick_range(std::uint64_t* first, std::uint64_t* count, bool small);
  SliceList content(std::uint64_t count, const std::function<Value(std::uint64_t)>& value_of);
  BlockDevice::Durability durability(Op* op);

  Setup setup_;
  engine::Engine& engine_;
  Random random_;
  std::uint64_t unit_;
  std::uint64_t units_;
  std::uint64_t blocks_asked_;  // the size it is growing to
  bool running_ = false;
  bool fenced_ = false;
  bool flush_failed_ = false;
  bool pausing_ = false;  // for a revert
  unsigned in_flight_ = 0;
};

}  // namespace holdfast::sim
