// Rebuild: the receiving side of a rebuild (docs/consistency.md, "Rebuild", steps 2 to 4), from a request to join to a
// complete replica. It first gets the source's snapshots and layers (ListSnapshots): a source that cannot be reached
// costs the replica nothing. Then the store joins and adopts them, and live entries may come. It walks
// the volume in ranges of chunks: gets the versions from the source (ListChunks), asks the store which chunks are
// unknown, fetches those (ReadChunks, up to kWindowMax at a time, throttled), checks and stores them; at the end it
// makes the replica complete. The store takes what has arrived in rounds: one half of a full window is written while
// the other is read from the source.
//
// Blocks that the source has damaged are looked for elsewhere (mending.h), and asked for again, since a device may fail
// for a moment only. What is damaged everywhere is copied as damaged when the join says so: it must not keep the rest
// from having a second copy.
//
// Ends once: on_rebuilt() or on_rebuild_failed(); neither comes after stop(). A source that is lost, wrong or silent
// for kSourceSilenceMax ends it with an error; the engine then joins again, perhaps with another source. Bounds: one
// range of versions (kRangeChunks) and the window in memory; the windows of all rebuilds of a disk share kSharedWindow.
// Thread: the reactor of the Env.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "replica/mending.h"
#include "replica/served_replica.h"
#include "replica/token_bucket.h"
#include "rpc/rpc.h"

namespace holdfast::replica {

class RebuildEvents {
 public:
  // The layers are those of the volume: live entries may be appended from now on.
  virtual void on_layers_adopted() = 0;
  virtual void on_rebuild_progress(const RebuildProgress& progress) = 0;  // about once a second
  // These blocks are damaged everywhere and are about to be stored so.
  virtual void on_damage_carried(DamagedChunk damaged) = 0;
  // The replica is complete as of every entry up to `seq`.
  virtual void on_rebuilt(Seq seq) = 0;
  virtual void on_rebuild_failed(Error error) = 0;

 protected:
  ~RebuildEvents() = default;
};

class Rebuild final : public RefCounted {
 public:
  static constexpr std::uint64_t kRangeChunks = 4'096;  // 1 GiB
  static constexpr std::size_t kWindowMin = 32;         // chunks; what every rebuild may have in flight
  static constexpr std::size_t kWindowMax = 256;        // 64 MiB
  static constexpr std::size_t kSharedWindow = 512;     // of all rebuilds of a disk, beyond their least
  static constexpr Nanos kProgressInterval = 1s;
  static constexpr Nanos kSourceSilenceMax = 30s;
  // How often a chunk with damaged blocks is asked for, and how long after the last answer.
  static constexpr unsigned kDamagedReadsMax = 5;
  static constexpr Nanos kDamagedRetry = 3s;

  // To join the store of `replica` as `join` says; nothing else changes its log meanwhile.
  Rebuild(Ref<Core> core, Ref<ServedReplica> replica, Join join, RebuildEvents& events);

  void start();
  // Ends it silently; the store may still finish what it was given.
  void stop();
  void set_rate(std::uint64_t bytes_per_second);

 private:
  // Hands the events of one client call on.
  class Source final : public rpc::CallHandler {
   public:
    Source(Rebuild& owner, void (Rebuild::*message)(rpc::Message), void (Rebuild::*ended)(Status))
        : owner_(owner), message_(message), ended_(ended) {}
    void on_message(rpc::Message message) override {
      Ref<Rebuild> keep(&owner_);
      (owner_.*message_)(std::move(message));
    }
    void on_ended(Status status) override {
      Ref<Rebuild> keep(&owner_);
      (owner_.*ended_)(std::move(status));
    }

   private:
    Rebuild& owner_;
    void (Rebuild::*message_)(rpc::Message);
    void (Rebuild::*ended_)(Status);
  };
  enum class ChunkState : std::uint8_t { kWaiting, kRequested, kArrived };
  struct WantedChunk {
    store::ChunkLayer place;
    ChunkState state = ChunkState::kWaiting;
    unsigned damaged_reads = 0;
  };
  struct Again {
    Nanos due;
    std::size_t index;
  };

  void list_layers();
  void on_layers(rpc::Message message);
  void on_layers_listed(Status status);
  void join_store();
  void adopt_layers();
  // One range after the other: list_range -> on_versions... -> on_listed -> on_unknown -> fetch -> next range.
  void list_range();
  void on_versions(rpc::Message message);
  void on_listed(Status status);
  void on_unknown(Result<std::vector<store::ChunkLayer>> unknown);
  void fetch();
  bool may_request() const;
  void request(std::size_t index);
  ReadChunkRequest request_for(std::size_t index) const;
  void ask(std::size_t index);
  void on_chunk(rpc::Message message);
  void on_chunks_ended(Status status);
  Result<std::uint64_t> check(const ReadChunkResponse& response);
  void mend(std::size_t index, store::ChunkContent content);
  void on_mended(std::size_t index, store::ChunkContent content);
  void ask_again_later(std::size_t index);
  void ask_again();
  void fill(std::size_t index, store::ChunkContent content);
  void on_filled(Status status);
  void end_range();
  void finish();

  void tick();
  void fail(Error error);
  Error source_error(const Error& error) const;

  Ref<Core> core_;
  Env& env_;
  Ref<ServedReplica> replica_;
  Join join_;
  RebuildEvents& events_;
  bool stopped_ = false;

  std::unique_ptr<rpc::Channel> channel_;
  Source layers_handler_;
  Source list_handler_;
  Source chunks_handler_;
  std::unique_ptr<rpc::ClientCall> list_call_;
  std::unique_ptr<rpc::ClientCall> chunks_call_;
  SliceList parts_;  // reused

  store::LayerState layers_;  // of the source
  bool layers_begun_ = false;
  std::uint64_t chunks_total_;
  std::uint64_t range_first_ = 0;
  std::uint64_t range_end_ = 0;
  std::vector<store::ChunkVersion> versions_;  // of the range
  std::vector<WantedChunk> wanted_;            // of the range; ids of requests are indexes, counted over all ranges
  std::uint64_t first_id_ = 1;                 // of wanted_[0]
  std::size_t next_wanted_ = 0;
  std::size_t in_flight_ = 0;   // requested, not yet stored
  std::size_t unanswered_ = 0;  // requested, not yet arrived
  std::size_t stored_ = 0;      // of wanted_
  Seq source_last_;

  std::vector<Donor> donors_;
  std::vector<Ref<Mending>> mendings_;
  std::deque<Again> again_;
  Timer again_timer_;

  TokenBucket bucket_;
  Timer throttle_;
  Timer ticker_;
  RebuildProgress progress_;
  std::uint64_t copied_at_tick_ = 0;
  Nanos ticked_{};
  Nanos source_heard_{};
};

}  // namespace holdfast::replica
