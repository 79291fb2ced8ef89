// Engine: the one owner of a volume's I/O while it is attached. Orders every change into the volume's log,
// sends it to all in-sync replicas, acknowledges when all have it, and rebuilds the replicas that fell out.
// docs/consistency.md is its specification. Thread: the reactor of its Env.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "base/block_device.h"
#include "base/result.h"
#include "base/task.h"
#include "base/types.h"
#include "io/env.h"
#include "rpc/rpc.h"
#include "store/store.h"

namespace holdfast::engine {

// Of a volume; 0: no limit.
struct QosLimits {
  std::uint64_t operations_per_second = 0;
  std::uint64_t bytes_per_second = 0;
  std::uint32_t burst_seconds = 1;  // how much of unused rate may be saved up
};

struct LatencyHistogram {
  // Operations that took less than 16 µs * 2^index, and not less than half of that; the last: all that took longer.
  std::array<std::uint64_t, 21> counts{};
  std::uint64_t total_micros = 0;
};

struct ReplicaConfig {
  ReplicaId id;
  Address address;
  bool local = false;    // on this node: preferred for reads
  bool in_sync = false;  // as stored in the metadata store
  // Not to be rebuilt now: others have their turn. A rebuild that runs goes on.
  bool hold_rebuild = false;
};

struct VolumeConfig {
  VolumeId volume;
  std::string name;              // for messages
  Epoch epoch;                   // granted by the metadata store, never used before
  std::uint64_t size_bytes = 0;  // as stored; the log decides after recovery
  std::uint32_t logical_block_size = 512;
  std::vector<ReplicaConfig> replicas;
  std::uint64_t rebuild_bytes_per_second = 0;  // 0: unlimited
  // What hosts get, in per cent, while they and rebuilds both work (see pace.cc); 0: rebuilds take what they can.
  std::uint32_t foreground_percent = 80;
  QosLimits qos;
  Nanos lease = 6s;            // reads stop when in-sync replicas were silent for this long
  Nanos replica_timeout = 3s;  // a replica silent for this long with work outstanding has failed
};

enum class ReplicaPhase : std::uint8_t { kInSync, kRebuilding, kFailed };

struct ReplicaStatus {
  ReplicaId id;
  ReplicaPhase phase = ReplicaPhase::kFailed;
  std::string reason;  // why it is not in-sync
  Seq journalled;
  std::uint64_t rebuild_chunks_total = 0;
  std::uint64_t rebuild_chunks_examined = 0;
  std::uint64_t rebuild_bytes_copied = 0;
  std::uint64_t rebuild_bytes_per_second = 0;
};

struct EngineStatus {
  Epoch epoch;
  Seq last;
  Seq committed;
  std::uint64_t size_bytes = 0;
  std::vector<ReplicaStatus> replicas;
  std::string failure;   // why I/O has stopped or waits; empty when it flows
  bool stopped = false;  // for good: this engine serves nothing any more
  // Stopped because every in-sync replica had lost acknowledged writes: what is left is older.
  bool lost_data = false;
  bool writes_paused = false;       // the disks of all in-sync replicas are full; reads go on
  Nanos lease_waited{};             // by the attach, for the lease of an engine before this one
  std::vector<ReplicaId> left_out;  // by the attach
  std::uint64_t reads = 0, writes = 0, flushes = 0;
  std::uint64_t read_bytes = 0, written_bytes = 0;
  std::uint64_t repaired_blocks = 0;
  std::uint64_t throttled = 0;  // operations that had to wait for a limit of QoS
  LatencyHistogram read_latency, write_latency, flush_latency;
};

// What the engine asks of the control plane. Calls arrive on the reactor; answers are given on it.
class Membership {
 public:
  virtual ~Membership() = default;
  // Compare-and-swap in the metadata store: while the volume's epoch is `epoch`, the in-sync set becomes `in_sync`
  // (never empty). ok: stored. EPOCH_SUPERSEDED: the engine is fenced and stops. The implementation retries for ever
  // while the store cannot be reached; I/O that depends on the answer waits.
  virtual void change(VolumeId volume, Epoch epoch, std::vector<ReplicaId> in_sync, std::string reason,
                      StatusCallback done) = 0;
  // Acknowledged writes are on no replica any more. ok: recorded, so that no later engine serves what is left unasked;
  // the engine stops then. EPOCH_SUPERSEDED: as above. Retries for ever, too. Without a record of its own there is
  // nothing to do.
  virtual void lost_data(VolumeId, Epoch, std::string, StatusCallback done) { done(Status()); }
  // A rebuilt replica has become in-sync with blocks that are damaged on every copy; somebody should know. Nothing
  // waits for it.
  virtual void damage_found(VolumeId, Epoch, std::string) {}
  // The engine found that another one owns the volume and serves nothing any more.
  virtual void fenced(VolumeId volume, Epoch epoch) = 0;
};

// How a repair ended.
struct RepairOutcome {
  std::uint32_t repaired_blocks = 0;  // written again from another copy; 0: nothing was wrong
};

class Engine : public BlockDevice {
 public:
  // Opens every in-sync replica with the epoch, makes them identical, starts serving (docs/consistency.md, "Attach").
  // NO_IN_SYNC_REPLICA when none could be opened within a few seconds; EPOCH_SUPERSEDED when fenced meanwhile.
  static Task<Result<std::unique_ptr<Engine>>> open(Env& env, VolumeConfig config, Membership& membership,
                                                    class ChannelPool& channels);

  virtual EngineStatus status() const = 0;
  // The set of replicas the volume should have, with current addresses: new ones are rebuilt, missing ones let go.
  virtual void set_replicas(std::vector<ReplicaConfig> replicas) = 0;
  virtual void set_rebuild_rate(std::uint64_t bytes_per_second, std::uint32_t foreground_percent) = 0;
  virtual void set_qos(const QosLimits& limits) = 0;
  // Reads the blocks (at most 256) from replica `bad` and, when they do not match their checksums there, writes what
  // another copy has over them: an ordinary WRITE under the range lock. `differs`: without looking at `bad`, because it
  // is known to differ from the others. CORRUPT: no good copy is left. NO_IN_SYNC_REPLICA: there is no other copy.
  virtual void repair(BlockRange blocks, ReplicaId bad, bool differs, Callback<void(Result<RepairOutcome>)> done) = 0;
  // Appends RESIZE; only growth. ok: every in-sync replica has it, safe from power loss, and hosts see the new size;
  // on_resized subscribers are told.
  virtual void resize(std::uint64_t size_bytes, StatusCallback done) = 0;

  // Snapshots, by ids that are never used again. ok: the entry is in the journal of every in-sync replica, and a flush
  // is on its way. A snapshot that exists already, or one to drop that does not, is success.
  virtual void snapshot(SnapshotId id, StatusCallback done) = 0;
  virtual void drop_snapshot(SnapshotId id, StatusCallback done) = 0;
  // The volume holds what the snapshot holds. Not while a front-end serves it. NOT_FOUND.
  virtual void revert(SnapshotId id, StatusCallback done) = 0;
  // As an in-sync replica has them, oldest first.
  virtual void list_snapshots(Callback<void(Result<std::vector<store::SnapshotInfo>>)> done) = 0;
  // Of a snapshot: the bytes of a range of whole 4 KiB blocks, at most 1 MiB; NOT_FOUND.
  virtual void read_snapshot(SnapshotId id, BlockRange blocks, ReadCallback done) = 0;
  // Which blocks of a snapshot hold data (bit i of byte i / 8); at most 64 MiB.
  virtual void map_snapshot(SnapshotId id, BlockRange blocks,
                            Callback<void(Result<std::vector<std::uint8_t>>)> done) = 0;

  // Finishes what is in flight, flushes, lets go of the replicas. I/O afterwards fails with CANCELLED.
  virtual void close(Callback<void()> done) = 0;
};

// One rpc::Channel per replica process, shared by the engines of a reactor.
class ChannelPool {
 public:
  explicit ChannelPool(Env& env, rpc::ChannelOptions options = {}) : env_(env), options_(std::move(options)) {}
  // For connections made from now on.
  void set_tls(tls::Options tls) { options_.tls = std::move(tls); }
  std::shared_ptr<rpc::Channel> get(const Address& address);

 private:
  Env& env_;
  rpc::ChannelOptions options_;
  std::vector<std::pair<Address, std::weak_ptr<rpc::Channel>>> channels_;
};

}  // namespace holdfast::engine
