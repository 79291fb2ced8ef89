// AppendStream: the receiving end of method Append: the ordered log of one volume into one replica.
//
// Invariants:
//  1. Entries go to the store in the order of arrival, and only while the promised epoch is the stream's.
//  2. journalled_seq covers only entries that the store reported journalled; flushed_id only what a store flush that
//     began after them made durable.
//  3. Entries the store has no room for wait here, at most kHeldEntriesMax and kHeldBytesMax of them (then the peer's
//     flow-control credit stops). These bounds exceed the engine's window, so that the watermark that lets the store
//     make room is never stuck behind entries that wait for room.
//  4. At most one response a turn of the loop, and none while the peer does not read.
#pragma once

#include <deque>

#include "replica/rebuild.h"
#include "replica/replica_stream.h"

namespace holdfast::replica {

class AppendStream final : public ReplicaStream, private RebuildEvents {
 public:
  static constexpr std::size_t kHeldEntriesMax = 8'192;
  static constexpr std::uint64_t kHeldBytesMax = 64u << 20;

  // How often an entry that did not fit is tried again.
  static constexpr Nanos kSpaceRetry = 250ms;
  static constexpr Nanos kSpaceReport = 1s;

  AppendStream(Ref<Core> shared, std::unique_ptr<rpc::ServerCall> call)
      : ReplicaStream(std::move(shared), std::move(call)), space_timer_(core().env) {}

 private:
  enum class Phase : std::uint8_t { kHello, kJoining, kStreaming };
  struct WaitingFlush {
    std::uint64_t id;
    std::uint64_t after;  // count of entries that must be journalled first
  };

  // ReplicaStream
  void receive(rpc::Message message) override;
  void peer_finished() override;
  void drained() override;
  void on_end() override;

  // RebuildEvents
  void on_layers_adopted() override;
  void on_rebuild_progress(const RebuildProgress& progress) override;
  void on_damage_carried(DamagedChunk damaged) override;
  void on_rebuilt(Seq seq) override;
  void on_rebuild_failed(Error error) override;

  Status begin(AppendRequest& request);
  Status take(AppendRequest& request);
  void pump();
  void append(store::Entry entry);
  void journalled(Status status, Seq seq);
  void wait_for_space();
  void try_again();
  void hold_back_peer();
  void flush_when_due();
  void flushed(Status status, std::uint64_t id);
  void schedule_response();
  void respond();
  bool all_done() const;

  Phase phase_ = Phase::kHello;
  bool peer_finished_ = false;
  Seq committed_;  // greatest seen

  std::deque<store::Entry> held_;
  std::uint64_t held_bytes_ = 0;
  // Handed to the store, not answered yet; kept to be handed over again should the disk be full.
  std::deque<store::Entry> in_store_;
  std::size_t answers_due_ = 0;
  bool refused_ = false;   // one was refused for lack of space: those behind it come back too
  bool no_space_ = false;  // nothing but the first is tried until it fits
  Nanos space_reported_{};
  Timer space_timer_;
  bool paused_ = false;
  bool waiting_for_room_ = false;
  std::uint64_t received_ = 0;  // entries, counted
  std::uint64_t completed_ = 0;
  Seq journalled_;

  std::deque<WaitingFlush> flushes_;
  bool flushing_ = false;
  std::uint64_t requested_flush_ = 0;
  std::uint64_t flushed_ = 0;

  Ref<Rebuild> rebuild_;
  std::optional<Seq> rebuilt_;
  bool progress_due_ = false;
  std::vector<DamagedChunk> damaged_;  // not told yet

  bool response_scheduled_ = false;
  bool response_blocked_ = false;  // due, but the peer does not read
  AppendRequest request_;          // reused
  SliceList parts_;                // reused
};

}  // namespace holdfast::replica
