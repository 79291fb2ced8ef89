// ReplicaService: the gRPC service holdfast.v1.Replica (proto/holdfast/v1/replica.proto) on top of a
// store::DiskStore: epoch fencing of streams, acknowledgement batching, and the pulling side of rebuilds.
// Thread: the reactor of the Env.
#pragma once

#include <memory>

#include "io/env.h"
#include "rpc/rpc.h"
#include "store/store.h"

namespace holdfast::replica {

class ReplicaService {
 public:
  // Registers all methods with `server`. The store and the server must outlive the service.
  // `sources`: how rebuilds connect to the replicas that they copy from.
  static std::unique_ptr<ReplicaService> create(Env& env, store::DiskStore& disk, rpc::Server& server,
                                                rpc::ChannelOptions sources = {});
  virtual ~ReplicaService() = default;
};

}  // namespace holdfast::replica
