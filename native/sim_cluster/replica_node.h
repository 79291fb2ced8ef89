// ReplicaNode: one disk of a simulated cluster and the replica process that serves it: the real store, service and rpc
// server. The disk outlives the process.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/types.h"
#include "replica/replica_service.h"
#include "rpc/rpc.h"
#include "sim/sim_env.h"
#include "sim_cluster/oracle.h"
#include "store/model_kv.h"
#include "store/store.h"

namespace holdfast::sim {

class ReplicaNode {
 public:
  enum class State : std::uint8_t { kDown, kStarting, kServing, kBroken };

  ReplicaNode(World& world, Oracle& oracle, std::string node, ReplicaId id, store::StoreOptions options);

  // A new process opens the disk and serves. Its replica is made when the disk has none yet.
  void start(VolumeId volume, std::uint64_t size_blocks, bool complete);
  void kill();
  // The process is gone with its node: call after World::power_off().
  void lost_power();
  // Its replica is being deleted: it is not made again.
  void forget() { forgotten_ = true; }
  // The disk is replaced by an empty one, for a replica with this id.
  void replace_disk(ReplicaId id);

  const std::string& node() const { return node_; }
  ReplicaId id() const { return id_; }
  Address address() const { return Address{node_, 7000, ""}; }
  State state() const { return state_; }
  Process* process() const { return process_; }
  bool alive() const { return process_ != nullptr && process_->alive; }
  // nullptr unless it serves.
  store::DiskStore* disk() const { return state_ == State::kServing ? disk_.get() : nullptr; }
  store::ReplicaStore* store() const { return disk() ? disk_->find(id_) : nullptr; }
  const std::optional<Error>& failure() const { return failure_; }  // why it is broken
  const store::ModelKvDisk& kv() const { return *kv_; }
  const store::StoreOptions& options() const { return options_; }

  // When it last lost its power.
  Nanos power_lost_at() const { return power_lost_at_; }
  // Faults were injected that may destroy what this disk holds.
  bool damaged() const { return damaged_; }
  void set_damaged() { damaged_ = true; }
  // And so that it may not be opened any more.
  bool journal_damaged() const { return journal_damaged_; }
  void set_journal_damaged() { journal_damaged_ = true; }

 private:
  static Task<void> run(ReplicaNode* self, Process* process, VolumeId volume, std::uint64_t size_blocks, bool complete);
  void abandon();

  World& world_;
  Oracle& oracle_;
  std::string node_;
  ReplicaId id_;
  store::StoreOptions options_;
  std::unique_ptr<store::ModelKvDisk> kv_ = std::make_unique<store::ModelKvDisk>();
  State state_ = State::kDown;
  Process* process_ = nullptr;
  std::unique_ptr<store::DiskStore> disk_;
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<replica::ReplicaService> service_;
  std::optional<Error> failure_;
  bool created_ = false;
  bool damaged_ = false;
  bool journal_damaged_ = false;
  bool forgotten_ = false;
  Nanos power_lost_at_{-1};
};

}  // namespace holdfast::sim
