#include "sim_cluster/replica_node.h"

#include "sim/sim_file.h"

namespace holdfast::sim {

ReplicaNode::ReplicaNode(World& world, Oracle& oracle, std::string node, ReplicaId id, store::StoreOptions options)
    : world_(world), oracle_(oracle), node_(std::move(node)), id_(id), options_(std::move(options)) {}

void ReplicaNode::start(VolumeId volume, std::uint64_t size_blocks, bool complete) {
  CHECK(process_ == nullptr);
  process_ = world_.start_process(node_, "replica-" + std::to_string(id_.value()));
  state_ = State::kStarting;
  failure_.reset();
  spawn(run(this, process_, volume, size_blocks, complete));
}

Task<void> ReplicaNode::run(ReplicaNode* self, Process* process, VolumeId volume, std::uint64_t size_blocks,
                            bool complete) {
  Task<Result<std::unique_ptr<store::DiskStore>>> opening =
      store::DiskStore::open(*process->env, self->options_, store::model_kv(self->kv_.get()));
  Result<std::unique_ptr<store::DiskStore>> opened = co_await std::move(opening);
  Status status = opened.status();
  if (status.ok()) {
    self->disk_ = std::move(opened).value();
    if (self->disk_->find(self->id_) == nullptr && !self->forgotten_) {
      if (self->created_ && !self->damaged_) {
        self->oracle_.violated(self->node_ + ": the disk has forgotten its replica");
      }
      status = co_await suspend<Status>([self, volume, size_blocks, complete](StatusCallback done) {
        self->disk_->create_replica(self->id_, volume, size_blocks, complete, std::move(done));
      });
      self->created_ = self->created_ || status.ok();
    }
  }
  if (!status.ok()) {
    self->world_.trace(self->node_ + ": cannot serve: " + status.error().to_string());
    self->failure_ = status.error();
    self->state_ = State::kBroken;
    co_return;
  }
  self->server_ = rpc::Server::create(*process->env);
  self->service_ = replica::ReplicaService::create(*process->env, *self->disk_, *self->server_);
  Result<Address> address = self->server_->listen(self->address());
  CHECK(address.ok());
  self->state_ = State::kServing;
}

// The objects of a killed process are never destroyed, as after SIGKILL.
void ReplicaNode::abandon() {
  (void)service_.release();
  (void)server_.release();
  (void)disk_.release();
  process_ = nullptr;
  state_ = State::kDown;
}

void ReplicaNode::kill() {
  if (process_ == nullptr) return;
  world_.kill(process_);
  abandon();
}

void ReplicaNode::lost_power() {
  abandon();
  power_lost_at_ = world_.now();
  kv_->power_loss([this](std::uint64_t bound) { return world_.random().below(bound); });
}

void ReplicaNode::replace_disk(ReplicaId id) {
  CHECK(process_ == nullptr);
  world_.trace(node_ + ": new disk for replica " + std::to_string(id.value()));
  world_.disk(node_).remove_tree("/");
  (void)kv_.release();  // killed processes still refer to it
  kv_ = std::make_unique<store::ModelKvDisk>();
  id_ = id;
  created_ = journal_damaged_ = false;
  const DiskFaults& faults = world_.disk_faults(node_);
  damaged_ =
      faults.corrupt_read_ppm + faults.misdirected_read_ppm + faults.lost_write_ppm + faults.misdirected_write_ppm >
      0;  // still going on
}

}  // namespace holdfast::sim
