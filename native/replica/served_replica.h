// ServedReplica: one replica of the disk as the service sees it: its open streams, what of it is under way in the
// store, and who waits for its log to grow. Core: all of them, and the disk. Thread: the reactor of the Env.
//
// Invariants:
//  1. A stream is in `streams` of its replica from its hello until it ends; after that it starts nothing in the store.
//  2. The store's replica is deleted only when no stream is open and no operation is under way.
//  3. Open answers only when no change by an earlier stream is under way: the log it reports is final.
#pragma once

#include <list>
#include <map>
#include <vector>

#include "base/result.h"
#include "io/env.h"
#include "replica/messages.h"
#include "replica/ref.h"
#include "rpc/rpc.h"
#include "store/store.h"

namespace holdfast::replica {

class ReplicaStream;

class ServedReplica : public RefCounted {
 public:
  ServedReplica(ReplicaId id, store::ReplicaStore& store);

  ReplicaId id() const { return id_; }
  store::ReplicaStore& store() { return store_; }
  // State for Open and GetReplica, with the progress of a rebuild that runs.
  ReplicaState state() const;

  // ---- streams ----
  void add(ReplicaStream* stream) { streams_.push_back(stream); }
  void remove(ReplicaStream* stream);
  bool has_streams() const { return !streams_.empty(); }
  // Ends all streams that are fenced with an epoch below `epoch` (EPOCH_SUPERSEDED), and Append streams of `epoch`
  // itself (CANCELLED): whoever opens again has given those up.
  void supersede(Epoch epoch);
  void end_append_streams(const ReplicaStream* except, Epoch epoch);
  void end_all_streams(const Error& reason);

  // ---- operations under way in the store ----
  void begin_change() { ++changes_; }
  void end_change();
  void begin_read() { ++reads_; }
  void end_read();
  // Calls back (perhaps at once) when no change, or no operation at all, is under way.
  void when_unchanging(StatusCallback done);
  void when_idle(StatusCallback done);

  // ---- the log ----
  Seq journalled() const { return journalled_; }
  void set_journalled(Seq seq);
  // After the log was cut or replaced (join).
  void reset_journalled();
  // Calls back (perhaps at once) when every entry up to `seq` is journalled. `owner` may drop what it waits for.
  void when_journalled(Seq seq, ReplicaStream* owner, Callback<void()> ready);

  bool deleting = false;     // or deleted
  RebuildProgress progress;  // valid while `rebuilding`
  bool rebuilding = false;

 private:
  struct SeqWaiter {
    Seq seq;
    ReplicaStream* owner;
    Callback<void()> ready;
  };
  void end_streams_if(bool (*matches)(const ReplicaStream&, Epoch), Epoch epoch, const ReplicaStream* except,
                      const Error& reason);
  void run_quiet_waiters();

  ReplicaId id_;
  store::ReplicaStore& store_;
  std::vector<ReplicaStream*> streams_;  // in order of their hello
  std::uint32_t changes_ = 0;
  std::uint32_t reads_ = 0;
  std::vector<StatusCallback> unchanging_waiters_;
  std::vector<StatusCallback> idle_waiters_;
  Seq journalled_;
  std::vector<SeqWaiter> seq_waiters_;
};

// What all methods share. Lives as long as anything that refers to it; after stop() nothing of `env` or `disk` is used.
class Core : public RefCounted {
 public:
  Core(Env& reactor, store::DiskStore& store, rpc::ChannelOptions sources)
      : env(reactor), disk(store), source_options(std::move(sources)) {}

  // The replica, or nullptr when the disk has none of this id or is deleting it.
  ServedReplica* find(ReplicaId id);
  // Of a replica that the store has deleted.
  void forget(ReplicaId id) { replicas_.erase(id); }
  // Ends every stream.
  void stop();
  bool stopped() const { return stopped_; }

  Env& env;
  store::DiskStore& disk;
  const rpc::ChannelOptions source_options;
  std::list<ReplicaStream*> streams;  // every open one, bound to a replica or not
  std::size_t rebuild_chunks = 0;     // that rebuilds into this disk have requested and not stored yet

 private:
  std::map<ReplicaId, Ref<ServedReplica>> replicas_;
  bool stopped_ = false;
};

constexpr std::uint64_t chunks_of(std::uint64_t size_blocks) {
  return size_blocks / kBlocksPerChunk + (size_blocks % kBlocksPerChunk != 0);
}

Error no_such_replica(ReplicaId id);
// ok when `epoch` is the promised one. What the hello of a stream and ReadLog must pass.
Status check_promised(const store::ReplicaInfo& info, Epoch epoch);

}  // namespace holdfast::replica
