// The methods with one request and one response. Each is a coroutine that keeps `core` and answers through `respond`.
// Thread: the reactor of the Env.
#pragma once

#include "base/task.h"
#include "replica/served_replica.h"
#include "rpc/rpc.h"

namespace holdfast::replica {

using Respond = Callback<void(Result<Slice>)>;

Task<void> get_disk(Ref<Core> core, rpc::Message message, Respond respond);
Task<void> list_replicas(Ref<Core> core, rpc::Message message, Respond respond);
Task<void> create_replica(Ref<Core> core, rpc::Message message, Respond respond);
Task<void> delete_replica(Ref<Core> core, rpc::Message message, Respond respond);
Task<void> open_replica(Ref<Core> core, rpc::Message message, Respond respond);
Task<void> get_replica(Ref<Core> core, rpc::Message message, Respond respond);

}  // namespace holdfast::replica
