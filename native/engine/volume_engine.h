// VolumeEngine: the implementation of Engine. One class, cut by concern over several files:
//
//   attach.cc      recovery of the log when an engine takes a volume over
//   lifecycle.cc   serving, stopping, closing, configuration, status
//   io_path.cc     host operations: range lock, 512-byte edges, splitting, completion
//   log.cc         numbering, sending, committing entries; flush; the committed watermark
//   read_path.cc   routing, CRC checks, other copies, repair, the lease
//   members.cc     replicas that fail and come back; the stored in-sync set
//   rebuild.cc     joining and promoting replicas
//   snapshots.cc   entries about snapshots, listing and reading them
//   pace.cc        how fast rebuilds may go while hosts work
//   laggards.cc    replicas that are silent, slower than the others, or full
//   repair.cc      blocks that are bad on one copy
//
// docs/consistency.md is the specification; I1..I5 below refer to it. Thread: the reactor of the Env.
//
// Invariants:
//  1. A required member (InSyncSet) that has failed keeps its last `journalled`, so nothing it lacks is acknowledged
//  (I1).
//  2. Every operation is in `ops_` until its lock is released; its host callback is called exactly once.
//  3. Nothing is called after stop() but callbacks that stop() itself calls; late callbacks of Env and rpc find
//     `*alive_` false or a newer generation and do nothing.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <unordered_set>
#include <vector>

#include "engine/engine.h"
#include "engine/flow.h"
#include "engine/flush_habit.h"
#include "engine/in_sync_set.h"
#include "engine/io_op.h"
#include "engine/log_window.h"
#include "engine/mapped_runs.h"
#include "engine/object_pool.h"
#include "engine/range_lock.h"
#include "engine/replica_link.h"

namespace holdfast::engine {

enum class MemberPhase : std::uint8_t {
  kFailed,     // no link
  kOpening,    // Open was sent
  kStreaming,  // in-sync: journalled counts
  kJoining,    // a rebuild is running
  kPromoting,  // rebuilt; its journalled counts from now on, and it is about to be stored as in-sync
};

struct Member {
  explicit Member(Env& env, ReplicaConfig initial) : config(std::move(initial)), retry(env) {}

  ReplicaConfig config;
  bool wanted = true;  // false: the control plane took it out of the volume
  MemberPhase phase = MemberPhase::kFailed;
  std::string reason;                     // why it is not in-sync
  std::shared_ptr<rpc::Channel> opening;  // kOpening: keeps the call alive; then the link's channel
  std::unique_ptr<ReplicaLink> link;

  Seq journalled;
  std::uint64_t flushed = 0;  // of the present link
  // The last moment for which the replica is known to have promised nothing newer.
  Nanos confirmed{};
  Nanos append_progress{};  // when it last answered with entries or flushes outstanding, or they began
  Nanos read_progress{};
  Nanos failed_at{};
  std::uint32_t reads_outstanding = 0;
  bool lost_acknowledged = false;  // came back without entries that were acknowledged
  bool no_space = false;           // its disk has no room for the next entry

  // What others had when this one was seen to lack it, and since when. 0: nothing.
  struct Lag {
    std::uint64_t target = 0;
    Nanos began{};
  };
  Lag entry_lag, flush_lag;
  std::uint32_t strikes = 0;  // how often lately it left for being slow or silent
  Nanos in_sync_since{};

  // Rebuild.
  Seq first_live;
  std::optional<Seq> rebuilt;
  ReplicaId source;
  std::vector<ReplicaId> poor_sources;  // copying from them ended in failure; others are tried first
  std::uint64_t promotion_flush = 0;
  replica::RebuildProgress progress;
  // Blocks that no copy had as they should be: copied as damaged since it was last in-sync. A bit per block.
  std::map<ChunkIndex, std::uint64_t> damaged;

  // Attach.
  std::optional<store::ReplicaInfo> opened;
  bool promised = false;  // it has promised our epoch
  bool unusable = false;

  std::uint64_t generation = 0;  // rises with every attempt and failure; late answers carry an older one
  std::uint32_t attempts = 0;    // since it last was in-sync
  Timer retry;

  bool counts() const { return phase == MemberPhase::kStreaming || phase == MemberPhase::kPromoting; }
};

class VolumeEngine final : public Engine, private LinkEvents {
 public:
  VolumeEngine(Env& env, VolumeConfig config, Membership& membership, ChannelPool& channels);
  ~VolumeEngine() override;

  // attach.cc
  Task<Status> attach();

  // BlockDevice
  std::uint64_t size_bytes() const override { return size_blocks_ * kBlockSize; }
  std::uint32_t logical_block_size() const override { return config_.logical_block_size; }
  void read(std::uint64_t offset, std::uint64_t length, ReadCallback done) override;
  void write(std::uint64_t offset, SliceList data, Durability durability, DoneCallback done) override;
  void zero(std::uint64_t offset, std::uint64_t length, bool deallocate, DoneCallback done) override;
  void compare_and_write(std::uint64_t offset, SliceList expected, SliceList replacement, Durability durability,
                         CompareCallback done) override;
  void flush(DoneCallback done) override;
  void extent(std::uint64_t offset, std::uint64_t length, Callback<void(Result<Extent>)> done) override;
  void on_resized(Callback<void()> changed) override { resized_ = std::move(changed); }

  // Engine
  EngineStatus status() const override;
  void set_replicas(std::vector<ReplicaConfig> replicas) override;
  void set_rebuild_rate(std::uint64_t bytes_per_second, std::uint32_t foreground_percent) override;
  void set_qos(const QosLimits& limits) override;
  void repair(BlockRange blocks, ReplicaId bad, bool differs, Callback<void(Result<RepairOutcome>)> done) override;
  void resize(std::uint64_t size_bytes, StatusCallback done) override;
  void snapshot(SnapshotId id, StatusCallback done) override;
  void drop_snapshot(SnapshotId id, StatusCallback done) override;
  void revert(SnapshotId id, StatusCallback done) override;
  void list_snapshots(Callback<void(Result<std::vector<store::SnapshotInfo>>)> done) override;
  void read_snapshot(SnapshotId id, BlockRange blocks, ReadCallback done) override;
  void map_snapshot(SnapshotId id, BlockRange blocks, Callback<void(Result<std::vector<std::uint8_t>>)> done) override;
  void close(Callback<void()> done) override;

 private:
  enum class State : std::uint8_t { kAttaching, kServing, kClosing, kStopped };
  struct FlushWaiter {
    Op* op = nullptr;  // a FUA write; else:
    DoneCallback done;
    Nanos began{};
  };
  struct SnapshotRequest {
    store::Op op;
    SnapshotId id;
    StatusCallback done;
  };
  class LogReader;
  class SnapshotLister;

  // ---- attach.cc ----
  Task<Status> recover_round(bool* again);
  void open_for_attach(Member& member);
  void on_attach_opened(Member& member, Result<rpc::Message> answer, Nanos asked);
  Task<void> open_in_sync();
  Task<Status> leave_out(std::vector<Member*> members, std::string reason);
  Task<Status> store_in_sync_set(std::string reason);
  Task<Status> ship_tails(std::vector<Member*> members, Member* authority, bool* again);
  Task<Status> ship_tail(Member* from, Member* to, Seq committed);
  // Until wake_attach() or `until`; may return early, so callers look again.
  Task<void> wait_for_event(Nanos until);
  void wake_attach();
  void begin_serving(const store::ReplicaInfo& authority);

  // ---- lifecycle.cc ----
  // Ends everything: all waiting operations get `error`.
  void stop(Error error);
  void fence();
  void fail_waiting(const Error& error);
  void close_when_idle();
  void finish_close();
  // nullopt: I/O may come. Otherwise why not.
  std::optional<Error> refusal() const;

  // ---- io_path.cc ----
  Op* new_op(Op::Kind kind, std::uint64_t offset, std::uint64_t length);
  std::optional<Error> check_range(std::uint64_t offset, std::uint64_t length) const;
  void begin(Op* op);
  void note_under_way(const Op& op, int change);
  bool throttled(Op* op);
  void begin_throttled();
  void ask_for_lock(Op* op);
  static void on_granted(RangeLock::Request* request);
  void run(Op* op);
  void run_read(Op* op);
  void run_extent(Op* op);
  void note_mapped(Op* op, BlockRange piece, std::span<const std::uint8_t> present, bool current);
  void forget_mapped(const Op& op);
  void forget_all_mapped();
  void run_compare(Op* op);
  void compare(Op* op, SliceList content);
  void read_edges(Op* op);
  void on_edge(Op* op, bool head, Result<SliceList> content);
  void write_pieces(Op* op);
  void write_blocks(Op* op, BlockRange blocks, SliceList data);
  void zero_more(Op* op);
  void piece_done(Op* op, Status status);
  void finish(Op* op);
  void answer(Op* op, Status status);
  SliceList zeros(std::uint64_t bytes);

  // ---- log.cc ----
  PendingEntry* new_entry(Op* op, store::Op kind);
  void submit(PendingEntry* entry);
  void admit();
  void number_and_send(PendingEntry* entry);
  void send_to(Member& member, std::span<const Slice> parts);
  void resend(Member& member, Seq after);
  void advance_commit();
  void complete(PendingEntry* entry);
  void announce_commit_later();
  void announce_commit();
  void finish_resize(std::uint64_t size_blocks, StatusCallback done);  // lifecycle.cc
  void flush_acknowledged(FlushWaiter waiter);
  void flush_after_commit(FlushWaiter waiter);
  bool flushes_with(const PendingEntry& entry) const;
  void begin_flush();
  void issue_flush();
  void advance_flush();
  void serve_flush(FlushWaiter& waiter);
  void send_flush(Member& member);
  void on_append_response(Member& member, const replica::AppendResponse& response) override;

  // ---- read_path.cc ----
  void read_blocks(BlockRange blocks, std::optional<ReplicaId> first_choice, BlockRead::Done done);
  void map_blocks(BlockRange blocks, BlockRead::MapDone done);
  BlockRead* new_read(BlockRange blocks);
  void route(BlockRead* read);
  Member* choose_for_read(const BlockRead& read);
  bool may_be_left(const BlockRead& read) const;
  bool may_answer_from(const Member& member);
  void on_read_response(Member& member, replica::ReadResponse response) override;
  void take_answer(BlockRead* read, Member& member, replica::ReadResponse& response);
  bool take_blocks(BlockRead* read, const replica::ReadResponse& response, SliceList* whole);
  void try_other_copy(BlockRead* read, Member& bad, Error error);
  void finish_read(BlockRead* read, Result<SliceList> outcome);
  void finish_map(BlockRead* read, Result<std::vector<std::uint8_t>> outcome);
  void fail_read(BlockRead* read, Error error);
  BlockRead* take_read(std::uint64_t id);
  void release_read(BlockRead* read);
  void reroute_reads_of(Member& member);
  bool lease_valid();
  void stall(BlockRead* read);
  void retry_stalled();

  // ---- repair.cc ----
  void note_damage(Member& member, const std::vector<replica::DamagedChunk>& chunks);
  void take_damage_over(Member& member);
  void tell_damage(Member& member);
  void look_at_carried_damage();
  void repair_later(BlockRange blocks, ReplicaId bad);
  void run_repair(Op* op);

  // ---- laggards.cc ----
  void watch_silence();
  void check_silence();
  bool work_outstanding(const Member& member) const;
  bool hosts_wait() const;
  bool is_slow(Member& member, Nanos limit);
  void note_space(Member& member, bool no_space);
  void decide_about_full_disks();
  bool all_required_full() const;

  // ---- members.cc ----
  Member* find(ReplicaId id);
  bool required(const Member& member) const { return in_sync_.required(member.config.id); }
  void on_link_ended(Member& member, Error reason) override;
  void fail_member(Member& member, Error reason);
  void update_in_sync_set(std::string reason);
  void store_change(std::vector<ReplicaId> set);
  void on_change_outcome(Status status);
  void leave_soon(std::string reason);
  void leave_out_failed();
  bool any_required_counts() const;
  const Member* failed_required_member() const;
  void watch_availability();
  void try_later(Member& member);
  void try_now(Member& member);
  void on_opened(Member& member, Result<rpc::Message> answer, Nanos asked);
  void declare_data_lost();
  void come_back(Member& member, const store::ReplicaInfo& info);
  void give_up_attempt(Member& member, std::string why);
  void start_link(Member& member, std::optional<replica::Join> join);
  void end_link(Member& member);
  void drop_unwanted_later();

  // ---- snapshots.cc ----
  void change_snapshots(store::Op op, SnapshotId id, StatusCallback done);
  void learn_snapshots();
  void run_snapshot_requests();
  // Those of the volume itself belong to operations.
  void fail_snapshot_reads(const Error& error);
  std::optional<Error> check_blocks(BlockRange blocks, std::uint32_t max) const;

  // ---- rebuild.cc ----
  void join(Member& member, const store::ReplicaInfo& info);
  Member* choose_source(const Member& joiner);
  std::vector<store::EpochStart> history_before(Seq seq) const;
  std::uint64_t rebuild_share() const;
  void share_rebuild_rate();
  void advance_rebuild(Member& member);
  void promote_when_caught_up(Member& member);
  void restart_rebuilds_from(ReplicaId source);
  bool may_copy_from(const Member& member) const;

  // ---- pace.cc ----
  std::uint64_t allowed_rebuild_rate() const;
  void pace_rebuilds();

  Env& env_;
  VolumeConfig config_;
  Membership& membership_;
  ChannelPool& channels_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);

  State state_ = State::kAttaching;
  std::optional<Error> stop_reason_;
  bool lost_data_ = false;
  std::vector<std::unique_ptr<Member>> members_;
  InSyncSet in_sync_;
  std::string change_reason_;
  Timer change_timer_;

  // Attach.
  Callback<void(bool)> attach_waiter_;
  Timer attach_timer_;
  std::optional<Nanos> first_promise_;  // when the first replica had promised our epoch

  // Log.
  std::vector<store::EpochStart> history_;  // of the volume: recovered, and our own epoch
  Seq next_seq_;
  Seq committed_;
  Seq committed_sent_;
  std::uint64_t size_blocks_ = 0;           // committed and flushed: what hosts see
  std::uint64_t size_blocks_numbered_ = 0;  // with every RESIZE in flight
  std::uint64_t size_blocks_asked_ = 0;     // with those that wait to be numbered
  LogWindow window_;
  std::deque<PendingEntry*> waiting_for_room_;
  Timer announce_timer_;
  SliceList wire_;                          // reused
  std::vector<FlushWaiter> flush_next_;     // for the flush after the one under way
  std::vector<FlushWaiter> flush_current_;  // for the one under way
  std::uint64_t flush_issued_ = 0;          // last flush id sent to any replica
  bool flush_under_way_ = false;            // perhaps nobody has asked for it yet
  std::uint64_t flush_wanted_ = 0;          // id of the flush under way
  Seq flush_covers_;                        // by the flush under way: all entries up to this one
  Seq flushed_to_;                          // what flushes made durable on all replicas that count
  FlushHabit flush_habit_;

  // Host operations.
  RangeLock range_lock_;
  Op* ops_first_ = nullptr;
  Op* ops_last_ = nullptr;
  ObjectPool<Op> op_pool_;
  ObjectPool<PendingEntry> entry_pool_;
  ObjectPool<BlockRead> read_pool_;
  std::vector<BlockRead*> reads_;  // by slot
  std::vector<std::uint32_t> free_read_slots_;
  std::uint64_t read_counter_ = 0;
  std::vector<BlockRead*> stalled_reads_;
  Timer stalled_timer_;
  std::uint32_t repairs_under_way_ = 0;
  struct CarriedDamage {
    ReplicaId replica;
    BlockIndex block;
  };
  std::deque<CarriedDamage> carried_damage_;  // to be looked at once more; the first one is
  std::vector<CarriedDamage> unmended_;       // no copy had it then; another one may become in-sync
  int writes_under_way_ = 0;
  int reads_under_way_ = 0;
  Nanos read_warning_next_{};
  bool read_found_bad_ = false;  // during a read's callback: some copy was bad
  Slice zero_buffer_;
  MappedRuns mapped_runs_;
  std::uint64_t mapped_changes_ = 0;  // operations that take data away, begun and ended

  // QoS: operations that wait for their turn, in order of arrival.
  Throttle throttle_;
  std::deque<Op*> throttled_;

  // Replicas.
  Timer space_timer_;  // after a disk was full: shows whether all are
  Timer pace_timer_;
  bool pace_timer_running_ = false;  // so that the counters below are of the last interval
  std::uint64_t pace_ = 0;           // what foreground I/O leaves to rebuilds, bytes per second; 0: everything
  std::uint64_t paced_ops_ = 0, paced_bytes_ = 0;
  Nanos lease_waited_{};
  std::vector<ReplicaId> left_out_;
  Timer silence_timer_;
  Nanos silence_checked_{};
  Timer leave_timer_;   // after a failure: waits a moment for more of them
  Timer gather_timer_;  // after all had failed and one came back: waits a little for the others
  Timer unavailable_timer_;
  bool failing_io_ = false;

  // Snapshots. What exists is asked of a replica before the first change, and followed from then on.
  std::optional<std::unordered_set<SnapshotId>> known_snapshots_;
  std::deque<SnapshotRequest> snapshot_requests_;  // while it is not known
  Timer snapshot_flush_timer_;                     // after one was taken or dropped: one flush for several
  bool learning_snapshots_ = false;

  Callback<void()> resized_;
  Callback<void()> closed_;
  Timer close_timer_;
  Timer throttle_timer_;
  bool close_flush_begun_ = false;
  std::uint64_t reads_done_ = 0, writes_done_ = 0, flushes_done_ = 0;
  std::uint64_t read_bytes_ = 0, written_bytes_ = 0, repaired_blocks_ = 0;
  std::uint64_t throttled_ops_ = 0;
  LatencyHistogram read_latency_, write_latency_, flush_latency_;
};

}  // namespace holdfast::engine
