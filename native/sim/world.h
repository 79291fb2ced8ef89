// World: everything that simulated processes share: virtual time, the event queue, randomness, disks, network.
// One seed decides all of it. Single-threaded; a run is a pure function of the seed and the calls made on the World.
//
// Two runs of one seed are equal event by event: nothing here depends on addresses, wall-clock time or hash order.
//
// Words: a node is a host (its disks survive it); a process is one incarnation of a program on a node and owns one
// SimEnv. A crashed process is abandoned: its objects are never destroyed and never called again, as after SIGKILL.
// Their memory stays allocated, but for free buffers; run many seeds in child processes to bound it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <set>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/callback.h"
#include "io/env.h"

namespace holdfast::sim {

class SimEnv;
class SimDisk;
class SimStream;
class SimListener;
class World;

// xoshiro256**: small, fast, the same on every machine.
class Random {
 public:
  explicit Random(std::uint64_t seed);
  std::uint64_t next();
  std::uint64_t below(std::uint64_t bound) { return bound == 0 ? 0 : next() % bound; }
  std::uint64_t between(std::uint64_t low, std::uint64_t high) { return low + below(high - low + 1); }
  // True with probability `numerator` in `denominator`.
  bool chance(std::uint64_t numerator, std::uint64_t denominator) { return below(denominator) < numerator; }

 private:
  std::uint64_t state_[4];
};

// What a fault does to operations of one node's disks. Probabilities are per million operations.
struct DiskFaults {
  std::uint64_t read_error_ppm = 0;
  std::uint64_t write_error_ppm = 0;
  std::uint64_t corrupt_read_ppm = 0;       // one flipped bit in what is returned; the stored bytes stay good
  std::uint64_t misdirected_read_ppm = 0;   // blocks from elsewhere in the file are returned
  std::uint64_t lost_write_ppm = 0;         // acknowledged, and nothing is written
  std::uint64_t misdirected_write_ppm = 0;  // written to elsewhere in the file
  std::uint64_t slow_ppm = 0;               // operations that take slow_max instead
  Nanos slow_max = 50ms;
  std::uint64_t capacity_bytes = UINT64_MAX;  // of all files of the node together
};

// Delays of the simulated hardware, uniformly random between the bounds.
struct Delays {
  Nanos post_max = 2us;
  Nanos disk_min = 20us, disk_max = 300us;
  Nanos sync_min = 50us, sync_max = 2ms;
  Nanos net_min = 10us, net_max = 500us;
};

// What was done to processes and nodes so far.
struct CrashCounts {
  std::uint64_t kills = 0;         // processes, by SIGKILL
  std::uint64_t power_losses = 0;  // nodes
};

// How the clocks of one node differ from virtual time.
struct NodeClock {
  Nanos offset{0};             // of the monotonic clock, as if the node had started at another time
  std::int64_t drift_ppm = 0;  // how much faster the monotonic clock runs
  Nanos wall_clock_error{0};   // may change at any time, as when an operator or NTP sets the clock
};

struct Process {
  std::uint64_t id = 0;
  std::string node;
  std::string name;
  bool alive = true;
  bool frozen = false;
  Nanos last_post{0};
  std::unique_ptr<SimEnv> env;
};

class World {
 public:
  explicit World(std::uint64_t seed, bool trace = false);
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  Nanos now() const { return now_; }
  Random& random() { return random_; }
  Delays& delays() { return delays_; }

  // ---- processes ----
  // `node` is also the process's network address (the host part of an Address).
  Process* start_process(const std::string& node, const std::string& name);
  // SIGKILL: completed writes stay, writes in flight happen or not or in part, peers see their connections break.
  void kill(Process* process);
  // Every process of the node dies, unsynced writes may be lost or torn by sector, peers hear nothing.
  void power_off(const std::string& node);
  // SIGSTOP / SIGCONT: nothing of the process runs; what arrives waits.
  void freeze(Process* process);
  void thaw(Process* process);

  // ---- network ----
  // Cuts or mends one direction. What was sent meanwhile arrives after the mending.
  void set_link(const std::string& from, const std::string& to, bool up);
  void set_extra_latency(const std::string& from, const std::string& to, Nanos extra);
  void heal_network();
  // Breaks one random open connection (of `node`, unless that is empty), if any.
  void reset_random_connection(const std::string& node = {});

  // ---- clocks ----
  // Offset and drift are for processes that start later: the clock of a process never jumps.
  NodeClock& clock(const std::string& node) { return clocks_[node]; }

  // ---- disks ----
  SimDisk& disk(const std::string& node);
  DiskFaults& disk_faults(const std::string& node) { return disk_faults_[node]; }

  // For a world that will not run again: gives back the memory of its disks and of the buffers that nobody uses.
  void retire();

  // ---- running ----
  // Runs `work` at `time` on behalf of `process` (nullptr: the world itself, e.g. fault injection).
  // Returns an id for cancel(). Events of a dead process are dropped, of a frozen one deferred.
  std::uint64_t schedule(Nanos time, Process* process, Callback<void()> work, const char* what);
  void cancel(std::uint64_t id);
  // One event. False when none is left.
  bool step();
  // Until `done` holds (checked after every event): true; until no events or `limit` of virtual time passed: false.
  bool run_until(const std::function<bool()>& done, Nanos limit);
  void run_for(Nanos duration);

  std::uint64_t events() const { return events_; }
  const CrashCounts& crashes() const { return crashes_; }
  // Hash over all events so far: equal runs have equal hashes.
  std::uint64_t hash() const { return hash_; }
  void trace(const std::string& line);
  bool tracing() const { return trace_; }

 private:
  friend class SimEnv;
  friend class SimStream;
  friend class SimListener;

  struct Event {
    Nanos time;
    std::uint64_t id = 0;
    Process* process = nullptr;
    Callback<void()> work;
    const char* what = "";
  };
  struct Later {
    bool operator()(const Event* a, const Event* b) const {
      return a->time != b->time ? a->time > b->time : a->id > b->id;
    }
  };

  bool link_up(const std::string& from, const std::string& to) const;
  Nanos net_delay(const std::string& from, const std::string& to);
  void died(Process* process);
  void abandon_work(Event* event);

  Random random_;
  Delays delays_;
  Nanos now_{0};
  std::uint64_t next_event_id_ = 1;
  std::priority_queue<Event*, std::vector<Event*>, Later> queue_;
  std::set<std::uint64_t> cancelled_;
  std::vector<std::unique_ptr<Process>> processes_;
  std::vector<Event*> deferred_;  // of frozen processes
  std::map<std::string, std::unique_ptr<SimDisk>> disks_;
  std::map<std::string, DiskFaults> disk_faults_;
  std::map<std::string, NodeClock> clocks_;
  std::set<std::pair<std::string, std::string>> cuts_;
  std::map<std::pair<std::string, std::string>, Nanos> extra_latency_;
  std::map<std::string, SimListener*> listeners_;  // by "host:port" or "node/unix:path"
  std::vector<SimStream*> streams_;                // open ends of living processes
  std::uint64_t next_port_ = 20'000;
  std::uint64_t next_process_id_ = 1;
  std::uint64_t events_ = 0;
  CrashCounts crashes_;
  std::uint64_t hash_ = 0x9E3779B97F4A7C15ull;
  bool trace_;
};

}  // namespace holdfast::sim
