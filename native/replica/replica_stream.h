// ReplicaStream: what all streaming methods have in common: registration, fencing data, and an end that happens once.
//
// A stream owns itself while its call lasts; callbacks under way in the store keep it (Ref) until they came. After
// end() the call is gone and on_end() has run: nothing is sent or started any more. Thread: the reactor of the Env.
#pragma once

#include <list>
#include <memory>

#include "replica/served_replica.h"
#include "rpc/rpc.h"

namespace holdfast::replica {

class ReplicaStream : public RefCounted, public rpc::CallHandler {
 public:
  enum class Fencing : std::uint8_t { kNone, kReads, kAppends };

  // Ends the call with `status`. Later calls do nothing.
  void end(Status status);
  bool ended() const { return call_ == nullptr; }

  // From hello on: whether an Open with a newer epoch ends it.
  bool fenced() const { return fencing_ != Fencing::kNone; }
  bool appends() const { return fencing_ == Fencing::kAppends; }
  Epoch epoch() const { return epoch_; }

  // rpc::CallHandler
  void on_message(rpc::Message message) final;
  void on_peer_finished() final;
  void on_drained() final;
  void on_ended(Status status) final;

 protected:
  ReplicaStream(Ref<Core> core, std::unique_ptr<rpc::ServerCall> call);
  ~ReplicaStream() override;

  virtual void receive(rpc::Message message) = 0;
  virtual void peer_finished() = 0;
  virtual void drained() {}
  // The stream has ended, one way or the other: let go of everything. Called once.
  virtual void on_end() {}

  // Binds the stream to a replica (once).
  void bind(ServedReplica* replica, Fencing fencing, Epoch epoch);
  bool bound() const { return static_cast<bool>(replica_); }
  ServedReplica& replica() const { return *replica_; }
  store::ReplicaStore& store() const { return replica_->store(); }
  const Ref<ServedReplica>& replica_ref() const { return replica_; }
  Core& core() const { return *core_; }
  const Ref<Core>& core_ref() const { return core_; }
  BufferPool& pool() const { return core_->env.buffers(); }
  rpc::ServerCall& call() const { return *call_; }

  // Sends the message in `parts` and empties it, so that its memory is used again.
  void send(SliceList& parts) {
    call_->send(parts);
    parts.clear();
  }

 private:
  void let_go();

  Ref<Core> core_;
  std::unique_ptr<rpc::ServerCall> call_;
  Ref<ReplicaStream> self_;  // while the call lasts
  std::list<ReplicaStream*>::iterator listed_;
  Ref<ServedReplica> replica_;
  Fencing fencing_ = Fencing::kNone;
  Epoch epoch_;
};

// The first and only request of a method with one request and a stream of responses.
class OneRequestStream : public ReplicaStream {
 protected:
  using ReplicaStream::ReplicaStream;
  virtual void request(const rpc::Message& message) = 0;

 private:
  void receive(rpc::Message message) final;
  void peer_finished() final;
  bool received_ = false;
};

}  // namespace holdfast::replica
