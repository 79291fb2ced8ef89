#include "replica/replica_stream.h"

namespace holdfast::replica {

namespace {
// Trailers go out behind what is queued, which a peer that does not read can block for ever. An end that fences must
// not wait for that (docs/consistency.md, "Lease"): a stream of answers with anything queued is reset instead. The few
// bytes of acknowledgements on an Append stream do not count: engines always read those.
constexpr std::size_t kQueuedAcknowledgementsMax = 64u << 10;
}  // namespace

ReplicaStream::ReplicaStream(Ref<Core> core, std::unique_ptr<rpc::ServerCall> call)
    : core_(std::move(core)), call_(std::move(call)), self_(this) {
  listed_ = core_->streams.insert(core_->streams.end(), this);
}

ReplicaStream::~ReplicaStream() { CHECK(ended(), "a stream outlives its call, never the other way round"); }

void ReplicaStream::bind(ServedReplica* replica, Fencing fencing, Epoch epoch) {
  CHECK(!replica_, "a stream belongs to one replica");
  replica_ = Ref<ServedReplica>(replica);
  fencing_ = fencing;
  epoch_ = epoch;
  replica_->add(this);
}

void ReplicaStream::end(Status status) {
  if (ended()) return;
  bool fences = !status.ok() && status.error().code() == ErrorCode::kEpochSuperseded;
  bool stuck = fences && call_->unsent_bytes() > (appends() ? kQueuedAcknowledgementsMax : 0);
  if (!stuck) call_->finish(std::move(status));
  let_go();
}

void ReplicaStream::let_go() {
  Ref<ReplicaStream> keep = std::move(self_);
  call_.reset();
  core_->streams.erase(listed_);
  if (replica_) replica_->remove(this);
  on_end();
}

void ReplicaStream::on_message(rpc::Message message) {
  Ref<ReplicaStream> keep(this);
  receive(std::move(message));
}

void ReplicaStream::on_peer_finished() {
  Ref<ReplicaStream> keep(this);
  peer_finished();
}

void ReplicaStream::on_drained() {
  Ref<ReplicaStream> keep(this);
  drained();
}

void ReplicaStream::on_ended(Status) {
  if (!ended()) let_go();
}

void OneRequestStream::receive(rpc::Message message) {
  if (std::exchange(received_, true)) return end(Error(ErrorCode::kProtocol, "this method takes one request"));
  request(message);
}

void OneRequestStream::peer_finished() {
  if (!received_) end(Error(ErrorCode::kProtocol, "the call ended before its request came"));
}

}  // namespace holdfast::replica
