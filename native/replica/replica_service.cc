#include "replica/replica_service.h"

#include "replica/append_stream.h"
#include "replica/methods.h"
#include "replica/read_streams.h"
#include "replica/scrub_stream.h"

namespace holdfast::replica {

namespace {

using UnaryCoroutine = Task<void> (*)(Ref<Core>, rpc::Message, Respond);

class Service final : public ReplicaService {
 public:
  Service(Env& env, store::DiskStore& disk, rpc::Server& server, rpc::ChannelOptions sources)
      : core_(make_ref<Core>(env, disk, std::move(sources))), server_(server) {
    unary(kGetDiskPath, get_disk);
    unary(kListReplicasPath, list_replicas);
    unary(kCreateReplicaPath, create_replica);
    unary(kDeleteReplicaPath, delete_replica);
    unary(kOpenPath, open_replica);
    unary(kGetReplicaPath, get_replica);
    stream<AppendStream>(kAppendPath);
    stream<ReadStream>(kReadPath);
    stream<ReadLogStream>(kReadLogPath);
    stream<ListChunksStream>(kListChunksPath);
    stream<ReadChunksStream>(kReadChunksPath);
    stream<SnapshotsStream>(kListSnapshotsPath);
    stream<ScrubStream>(kScrubPath);
  }
  ~Service() override { core_->stop(); }

 private:
  static Error stopping() { return Error(ErrorCode::kConnectionLost, "the replica process is stopping"); }

  // The server keeps the methods longer than the service lives; they keep the core.
  void unary(const char* path, UnaryCoroutine method) {
    server_.add_unary_method(path, [core = core_, method](rpc::Message request, const rpc::Metadata&, Respond respond) {
      if (core->stopped()) return respond(stopping());
      spawn(method(core, std::move(request), std::move(respond)));
    });
  }

  template <typename Stream>
  void stream(const char* path) {
    server_.add_stream_method(path, [core = core_](std::unique_ptr<rpc::ServerCall> call, rpc::CallHandler** handler) {
      if (core->stopped()) return call->finish(stopping());
      *handler = new Stream(core, std::move(call));  // owns itself while the call lasts
    });
  }

  Ref<Core> core_;
  rpc::Server& server_;
};

}  // namespace

std::unique_ptr<ReplicaService> ReplicaService::create(Env& env, store::DiskStore& disk, rpc::Server& server,
                                                       rpc::ChannelOptions sources) {
  return std::make_unique<Service>(env, disk, server, std::move(sources));
}

}  // namespace holdfast::replica
