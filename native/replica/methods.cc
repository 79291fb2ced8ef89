#include "replica/methods.h"

namespace holdfast::replica {

namespace {

constexpr std::uint32_t kFormatVersion = 1;

Task<Result<Slice>> create(Ref<Core> core, rpc::Message message) {
  CreateReplicaRequest request;
  CO_TRY(decode(message, request));
  if (request.replica == ReplicaId() || request.volume == VolumeId()) {
    co_return Error(ErrorCode::kInvalidArgument, "CreateReplica needs a replica_id and a volume_id that are not 0");
  }
  if (request.size_blocks == 0 || request.size_blocks > store::kSizeBlocksMax) {
    co_return Error(ErrorCode::kInvalidArgument, "size_blocks must be 1 to " + std::to_string(store::kSizeBlocksMax));
  }
  Status created;
  if (core->disk.find(request.replica) == nullptr) {
    store::DiskStore* disk = &core->disk;
    created = co_await suspend<Status>([disk, &request](StatusCallback done) {
      if (request.source != ReplicaId()) {
        return disk->create_linked(request.replica, request.volume, request.source, request.snapshot, std::move(done));
      }
      disk->create_replica(request.replica, request.volume, request.size_blocks, request.complete, std::move(done));
    });
    if (created.ok()) co_return Slice();
    if (created.error().code() != ErrorCode::kAlreadyExists) co_return created.error();
  }
  store::ReplicaStore* existing = core->disk.find(request.replica);
  std::string name = "replica " + to_hex(request.replica.value());
  if (existing == nullptr) co_return Error(ErrorCode::kInUse, name + " is being made or deleted; try again");
  store::ReplicaInfo info = existing->info();
  if (info.volume == request.volume && (info.size_blocks == request.size_blocks || request.source != ReplicaId())) {
    co_return Slice();
  }
  co_return Error(ErrorCode::kAlreadyExists, name + " exists with another volume or size");
}

Task<Result<Slice>> remove(Ref<Core> core, rpc::Message message) {
  DeleteReplicaRequest request;
  CO_TRY(decode(message, request));
  Ref<ServedReplica> replica(core->find(request.replica));
  if (!replica) {
    if (core->disk.find(request.replica) == nullptr) co_return Slice();
    co_return Error(ErrorCode::kInUse, "replica " + to_hex(request.replica.value()) + " is being deleted already");
  }
  if (replica->has_streams() && !request.force) {
    co_return Error(ErrorCode::kInUse, "replica " + to_hex(request.replica.value()) +
                                           " is in use: detach its volume first, or delete it with force");
  }
  replica->deleting = true;
  replica->end_all_streams(Error(ErrorCode::kNotFound, "replica " + to_hex(request.replica.value()) + " was deleted"));
  ServedReplica* target = replica.get();
  target->store().refuse_waiting();
  (void)co_await suspend<Status>([target](StatusCallback done) { target->when_idle(std::move(done)); });
  store::DiskStore* disk = &core->disk;
  if (core->stopped()) co_return Error(ErrorCode::kConnectionLost, "the replica process is stopping");
  Status deleted = co_await suspend<Status>(
      [disk, &request](StatusCallback done) { disk->delete_replica(request.replica, std::move(done)); });
  if (!deleted.ok() && deleted.error().code() != ErrorCode::kNotFound) {
    replica->deleting = false;
    co_return deleted.error();
  }
  core->forget(request.replica);
  co_return Slice();
}

Task<Result<Slice>> open(Ref<Core> core, rpc::Message message) {
  OpenRequest request;
  CO_TRY(decode(message, request));
  Ref<ServedReplica> replica(core->find(request.replica));
  if (!replica) co_return no_such_replica(request.replica);
  if (request.epoch == Epoch()) co_return Error(ErrorCode::kInvalidArgument, "Open needs an epoch that is not 0");
  ServedReplica* target = replica.get();
  target->begin_read();  // deletion waits for this
  Status promised = co_await suspend<Status>(
      [target, &request](StatusCallback done) { target->store().promise(request.epoch, std::move(done)); });
  target->end_read();
  CO_TRY(std::move(promised));
  target->supersede(request.epoch);
  // What older streams have begun may still get into the log; the answer must tell the log's final end.
  target->store().refuse_waiting();
  (void)co_await suspend<Status>([target](StatusCallback done) { target->when_unchanging(std::move(done)); });
  if (core->stopped() || target->deleting) co_return no_such_replica(request.replica);
  // What could not be journalled is no part of the log, and nobody knows any more where that ends.
  if (std::string failure = core->disk.failure(); !failure.empty()) co_return Error(ErrorCode::kDiskIo, failure);
  ReplicaState state = target->state();
  CO_TRY(check_promised(state.info, request.epoch));  // an even newer one may have come
  co_return encode(core->env.buffers(), state);
}

}  // namespace

Task<void> get_disk(Ref<Core> core, rpc::Message, Respond respond) {
  Disk disk{core->disk.disk_id(), core->disk.space(), kFormatVersion, core->disk.failure()};
  respond(encode(core->env.buffers(), disk));
  co_return;
}

// Histories stay out: with many replicas they would not fit into a message.
Task<void> list_replicas(Ref<Core> core, rpc::Message, Respond respond) {
  std::vector<ReplicaState> states;
  for (ReplicaId id : core->disk.list()) {
    ServedReplica* replica = core->find(id);
    if (replica == nullptr) continue;
    states.push_back(replica->state());
    states.back().info.history.clear();
  }
  respond(encode(core->env.buffers(), states));
  co_return;
}

Task<void> create_replica(Ref<Core> core, rpc::Message message, Respond respond) {
  respond(co_await create(std::move(core), std::move(message)));
}

Task<void> delete_replica(Ref<Core> core, rpc::Message message, Respond respond) {
  respond(co_await remove(std::move(core), std::move(message)));
}

Task<void> open_replica(Ref<Core> core, rpc::Message message, Respond respond) {
  respond(co_await open(std::move(core), std::move(message)));
}

Task<void> get_replica(Ref<Core> core, rpc::Message message, Respond respond) {
  GetReplicaRequest request;
  Status decoded = decode(message, request);
  if (!decoded.ok()) {
    respond(decoded.error());
    co_return;
  }
  ServedReplica* replica = core->find(request.replica);
  if (replica == nullptr) {
    respond(no_such_replica(request.replica));
  } else {
    respond(encode(core->env.buffers(), replica->state()));
  }
}

}  // namespace holdfast::replica
