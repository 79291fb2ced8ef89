// Replica processes, a membership store and engines on the simulator, for the tests of this module: everything real
// (rpc, service, store, engine) but disk, network and clock. A run is a function of its seed.
//
// Model: every 512-byte sector written holds the number of its write, repeated; sectors that were zeroed hold 0. The
// flat array keeps, per sector, the values that it may have.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "replica/messages.h"
#include "replica/replica_service.h"
#include "sim/sim_env.h"
#include "sim/sim_file.h"
#include "store/model_kv.h"

namespace holdfast::engine {

// The metadata store of one volume: answers after a moment, or not while it cannot be reached.
class FakeMembership final : public Membership {
 public:
  explicit FakeMembership(std::vector<ReplicaId> set) : in_sync(std::move(set)) {}

  // Grants the next epoch.
  Epoch grant() { return epoch = epoch.next(); }
  void change(VolumeId volume, Epoch of, std::vector<ReplicaId> set, std::string reason, StatusCallback done) override;
  void lost_data(VolumeId, Epoch of, std::string, StatusCallback done) override {
    lost_epochs.push_back(of);
    if (keeps_losses) return done(Status());
    unrecorded.push_back(std::move(done));
  }
  void damage_found(VolumeId, Epoch, std::string text) override { damage.push_back(std::move(text)); }
  void fenced(VolumeId volume, Epoch of) override { fenced_epochs.push_back(of); }
  // Answers what waited.
  void set_reachable(bool now_reachable);

  Env* env = nullptr;  // of the process that asks
  Epoch epoch;
  std::vector<ReplicaId> in_sync;
  bool reachable = true;
  Epoch cut_off;  // requests of this epoch are never answered
  unsigned changes = 0;
  std::vector<Epoch> fenced_epochs;
  std::vector<std::string> damage;  // as it was told
  bool keeps_losses = true;
  std::vector<Epoch> lost_epochs;
  std::vector<StatusCallback> unrecorded;

 private:
  struct Waiting {
    Epoch of;
    std::vector<ReplicaId> set;
    StatusCallback done;
  };
  void decide(Waiting waiting);
  std::deque<std::unique_ptr<Waiting>> waiting_;
};

struct TestReplica {
  std::string node;
  ReplicaId id;
  Address address;
  store::ModelKvDisk kv;
  std::uint64_t capacity_bytes = 256u << 20;  // from its next start on
  sim::Process* process = nullptr;
  std::unique_ptr<store::DiskStore> disk;
  std::unique_ptr<rpc::Server> server;
  std::unique_ptr<replica::ReplicaService> service;
};

// One process that may hold an engine.
struct TestHost {
  sim::Process* process = nullptr;
  std::unique_ptr<ChannelPool> channels;
  std::unique_ptr<Engine> engine;
  std::optional<Error> failure;  // of the attach
  bool attached = false;
};

class EngineCluster {
 public:
  static constexpr VolumeId kVolume{7};

  EngineCluster(std::uint64_t seed, std::uint64_t size_blocks, unsigned replicas = 3);
  ~EngineCluster();

  // ---- replicas ----
  void start(TestReplica& replica);
  void kill(TestReplica& replica);
  void power_off(TestReplica& replica);
  TestReplica& add_replica();
  void create_on(TestReplica& replica, bool complete);

  // ---- engines ----
  // A new process attaches the volume with a new epoch.
  TestHost& attach(const std::string& node = "host");
  TestHost& begin_attach(const std::string& node = "host");
  void kill(TestHost& host);
  Engine& engine() { return *hosts.back().engine; }
  Env& env() { return *hosts.back().process->env; }
  std::vector<ReplicaConfig> configs() const;

  bool run_until(const std::function<bool()>& done, Nanos limit = 120s) { return world.run_until(done, limit); }
  bool wait_all_in_sync();

  template <typename T, typename Start>
  T wait(Start start, Nanos limit = 120s) {
    auto outcome = std::make_shared<std::optional<T>>();
    start(Callback<void(T)>([outcome](T value) {
      EXPECT_FALSE(outcome->has_value()) << "a callback came twice";
      outcome->emplace(std::move(value));
    }));
    EXPECT_TRUE(run_until([&] { return outcome->has_value(); }, limit)) << "a callback did not come";
    return std::move(**outcome);
  }

  // ---- single operations ----
  Status write(std::uint64_t offset, std::string_view bytes,
               BlockDevice::Durability durability = BlockDevice::Durability::kJournalled);
  Result<std::string> read(std::uint64_t offset, std::uint64_t length);
  Status zero(std::uint64_t offset, std::uint64_t length);
  Status flush();
  Slice slice(std::string_view bytes) { return env().buffers().copy_of(as_bytes(bytes)); }

  // ---- comparing replicas ----
  // Every chunk's version and content of all in-sync replicas: equal, and CRCs right.
  void expect_identical();
  // Content of one replica, read behind the engine's back.
  std::string content_of(TestReplica& replica);

  sim::World world;
  std::uint64_t size_blocks;
  std::uint32_t logical_block_size = 512;
  std::uint64_t rebuild_rate = 0;
  std::deque<TestReplica> replicas;
  std::unique_ptr<FakeMembership> membership;
  std::deque<TestHost> hosts;

 private:
  static Task<void> open_disk(EngineCluster* cluster, TestReplica* replica, bool* opened);
  static Task<void> open_engine(EngineCluster* cluster, TestHost* host, VolumeConfig config);
  void abandon(TestReplica& replica);
};

// Random operations against the model.
class Workload {
 public:
  Workload(EngineCluster& cluster, std::uint64_t seed);

  // Keeps up to `depth` operations in flight until `count` more have been started and all answers came.
  void run(unsigned count, unsigned depth, const std::function<void(unsigned started)>& at_each = nullptr);
  void start_one();
  // Waits for everything in flight.
  void drain();
  // The engine died: what was in flight happened, or not, or (several entries) in part.
  void forget_in_flight();
  // Reads the whole volume and compares.
  void verify_all();

  unsigned in_flight = 0;
  unsigned completed = 0;
  unsigned failed = 0;
  bool expect_errors = false;

 private:
  static constexpr std::uint32_t kSector = 512;
  void start_write();
  void start_zero();
  void start_read();
  void start_compare();
  void start_flush();
  void apply(std::uint64_t first, std::uint64_t count, std::uint64_t value);
  void settle(std::uint64_t first, std::uint64_t count, std::uint64_t value);
  void pick_range(std::uint64_t* first, std::uint64_t* count);
  std::string expected(std::uint64_t first, std::uint64_t count) const;
  std::string content(std::uint64_t count, std::uint64_t value) const;
  void finished(bool ok);

  EngineCluster& cluster_;
  sim::Random random_;
  std::uint64_t sectors_;
  std::uint64_t next_value_ = 1;
  std::vector<std::uint64_t> newest_;                // the value after everything started
  std::vector<std::vector<std::uint64_t>> allowed_;  // what a crash may leave: the acknowledged and those in flight
  std::uint64_t generation_ = 0;                     // late answers of a dead engine are ignored
};

// Bytes that repeat late, different for every `seed`.
inline std::string pattern(std::size_t size, char seed) {
  std::string bytes(size, seed);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(seed + static_cast<char>(i * 7 % 251));
  return bytes;
}

}  // namespace holdfast::engine
