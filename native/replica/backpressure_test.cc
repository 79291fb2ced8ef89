// The service over a store that does what the test says: when it has room, when it answers. What cannot be brought
// about with a real store on purpose.
#include <gtest/gtest.h>

#include <deque>

#include "replica/test_cluster.h"

namespace holdfast::replica {
namespace {

constexpr ReplicaId kReplica(11);
constexpr Epoch kEpoch(5);

class FakeReplica final : public store::ReplicaStore {
 public:
  explicit FakeReplica(Env& env) : env_(env) {
    state.id = kReplica;
    state.volume = VolumeId(7);
    state.size_blocks = 1u << 20;
    state.promised = kEpoch;
    state.complete = true;
  }

  store::ReplicaInfo info() const override { return state; }
  void promise(Epoch epoch, StatusCallback done) override {
    state.promised = epoch;
    later(std::move(done));
  }
  void append(store::Entry entry, StatusCallback done) override {
    appended.push_back(entry.position.seq.value());
    state.last = entry.position;
    if (hold_answers) {
      waiting.push_back(std::move(done));
    } else {
      later(std::move(done));
    }
  }
  void refuse_waiting() override {}
  void flush(StatusCallback done) override { later(std::move(done)); }
  bool accepts_more() const override { return room > 0 ? --room, true : false; }
  void on_ready(Callback<void()> ready) override { ready_ = std::move(ready); }
  void set_committed(Seq seq) override { state.committed = std::max(state.committed, seq); }
  void read(BlockRange, Callback<void(Result<store::ReadOutcome>)> done) override { reads.push_back(std::move(done)); }
  void map(BlockRange, Callback<void(Result<store::ReadOutcome>)>) override {}
  void read_log(Seq, Seq, Callback<void(Result<std::vector<store::Entry>>)>) override {}
  void list_chunks(ChunkIndex, ChunkIndex, Seq, std::size_t,
                   Callback<void(Result<std::vector<store::ChunkVersion>>)>) override {}
  void read_chunk(ChunkIndex, Callback<void(Result<store::ChunkContent>)>) override {}
  void read_layer(store::ChunkLayer, Callback<void(Result<store::ChunkContent>)>) override {}
  std::vector<store::SnapshotInfo> snapshots() const override { return {}; }
  void read_snapshot(SnapshotId, BlockRange, bool, Callback<void(Result<store::ReadOutcome>)>) override {}
  void layers(Callback<void(Result<store::LayerState>)> done) override { done(store::LayerState{}); }
  LogPosition layers_revision() const override { return {}; }
  void adopt_layers(store::LayerState, StatusCallback done) override { later(std::move(done)); }
  void join(store::JoinRequest, StatusCallback done) override { joins.push_back(std::move(done)); }
  void unknown_chunks(ChunkIndex, ChunkIndex, std::vector<store::ChunkVersion>,
                      Callback<void(Result<std::vector<store::ChunkLayer>>)>) override {}
  void fill_chunk(store::ChunkLayer, store::ChunkContent, StatusCallback) override {}
  void finish_rebuild(StatusCallback) override {}

  // ---- the script ----
  void give_room(std::uint64_t entries) {
    room = entries;
    Callback<void()> ready = std::move(ready_);
    if (ready) ready();
  }
  void answer_all() {
    hold_answers = false;
    while (!waiting.empty()) {
      later(std::move(waiting.front()));
      waiting.pop_front();
    }
  }

  store::ReplicaInfo state;
  mutable std::uint64_t room = ~0ull;
  bool hold_answers = false;
  std::vector<std::uint64_t> appended;
  std::deque<StatusCallback> waiting;
  std::deque<StatusCallback> joins;
  std::deque<Callback<void(Result<store::ReadOutcome>)>> reads;

 private:
  void later(StatusCallback done) {
    auto kept = std::make_unique<StatusCallback>(std::move(done));
    env_.post([kept = std::move(kept)] { (*kept)(Status()); });
  }
  Env& env_;
  Callback<void()> ready_;
};

class FakeDisk final : public store::DiskStore {
 public:
  explicit FakeDisk(Env& env) : replica(env) {}
  const std::string& disk_id() const override { return id_; }
  store::SpaceInfo space() const override { return {}; }
  std::string failure() const override { return {}; }
  void create_replica(ReplicaId, VolumeId, std::uint64_t, bool, StatusCallback) override {}
  void create_linked(ReplicaId, VolumeId, ReplicaId, SnapshotId, StatusCallback) override {}
  void delete_replica(ReplicaId, StatusCallback done) override {
    deleted = true;
    done(Status());
  }
  store::ReplicaStore* find(ReplicaId id) override { return id == kReplica && !deleted ? &replica : nullptr; }
  std::vector<ReplicaId> list() const override { return {kReplica}; }
  void close(Callback<void()>) override {}

  FakeReplica replica;
  bool deleted = false;

 private:
  std::string id_ = "0123456789abcdef0123456789abcdef";
};

class BackpressureTest : public testing::Test {
 protected:
  BackpressureTest() : cluster_(Backend::kSim), node_(cluster_.add_node("node")) {
    node_.service.reset();
    node_.server.reset();
    fake_ = std::make_unique<FakeDisk>(*node_.env);
    node_.server = rpc::Server::create(*node_.env);
    node_.service = ReplicaService::create(*node_.env, *fake_, *node_.server);
    EXPECT_TRUE(node_.server->listen(node_.address).ok());
    client_ = std::make_unique<TestClient>(cluster_, node_);
  }
  ~BackpressureTest() override {
    client_.reset();
    node_.service.reset();
    node_.server.reset();
    cluster_.settle();
  }
  FakeReplica& store() { return fake_->replica; }
  Env& env() { return cluster_.env(); }
  // An entry that costs nothing to send.
  void send_small(AppendClient& stream, std::uint64_t seq, Seq committed = Seq()) {
    stream.send(env(), message_with(zero_entry({kEpoch, Seq(seq)}, 0, 1), committed));
  }

  TestCluster cluster_;
  TestNode& node_;
  std::unique_ptr<FakeDisk> fake_;
  std::unique_ptr<TestClient> client_;
};

TEST_F(BackpressureTest, EntriesWaitForRoomAndTheWatermarkDoesNot) {
  store().room = 3;
  auto append = client_->append(kReplica, kEpoch);
  for (std::uint64_t seq = 1; seq <= 10; ++seq) send_small(*append, seq, Seq(seq / 2));
  cluster_.settle();
  EXPECT_EQ(store().appended, (std::vector<std::uint64_t>{1, 2, 3}));
  EXPECT_EQ(store().state.committed, Seq(5)) << "what would make room got through";
  EXPECT_EQ(append->last.journalled, Seq(3));
  store().give_room(4);
  cluster_.settle();
  EXPECT_EQ(store().appended.size(), 7u);
  store().give_room(100);
  cluster_.settle();
  EXPECT_EQ(store().appended, (std::vector<std::uint64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}));
  EXPECT_EQ(append->last.journalled, Seq(10));
}

TEST_F(BackpressureTest, AFlushWaitsForEntriesThatWaitForRoom) {
  store().room = 1;
  auto append = client_->append(kReplica, kEpoch);
  AppendRequest second = message_with(zero_entry({kEpoch, Seq(2)}, 0, 1));
  second.flush_id = 1;
  send_small(*append, 1);
  append->send(env(), second);
  cluster_.settle();
  EXPECT_EQ(append->last.journalled, Seq(1));
  EXPECT_EQ(append->last.flushed_id, 0u);
  store().give_room(10);
  cluster_.settle();
  EXPECT_EQ(append->last.flushed_id, 1u);
}

// However much a peer sends, only a bounded part of it leaves the peer.
TEST_F(BackpressureTest, APeerThatSendsTooMuchIsHeldBack) {
  store().room = 0;
  auto append = client_->append(kReplica, kEpoch);
  constexpr std::uint64_t kEntries = 200;  // 1 MiB each
  Slice data = env().buffers().allocate(256 * kBlockSize);
  Slice crc = env().buffers().allocate(4 * 256);
  for (std::uint64_t seq = 1; seq <= kEntries; ++seq) {
    store::Entry entry;
    entry.position = {kEpoch, Seq(seq)};
    entry.blocks = {BlockIndex(0), 256};
    entry.crc = crc;
    entry.data = data;
    append->send(env(), message_with(std::move(entry)));
  }
  for (int i = 0; i < 20; ++i) cluster_.settle();
  std::size_t held = node_.env->buffers().bytes_in_use();
  EXPECT_LT(held, 200u << 20) << "two bytes of buffer for one of payload, and the flow-control window";
  EXPECT_GT(append->call->unsent_bytes(), 100u << 20);
  store().give_room(kEntries);
  ASSERT_TRUE(cluster_.run_until([&] { return append->last.journalled == Seq(kEntries); }));
  EXPECT_EQ(store().appended.size(), kEntries);
}

TEST_F(BackpressureTest, ManySmallEntriesAreHeldBackToo) {
  store().room = 0;
  auto append = client_->append(kReplica, kEpoch);
  constexpr std::uint64_t kEntries = 600'000;
  for (std::uint64_t seq = 1; seq <= kEntries; ++seq) send_small(*append, seq);
  for (int i = 0; i < 20; ++i) cluster_.settle();
  EXPECT_GT(append->call->unsent_bytes(), 0u);
  store().give_room(kEntries);
  ASSERT_TRUE(cluster_.run_until([&] { return append->last.journalled == Seq(kEntries); }));
}

TEST_F(BackpressureTest, ReadyAfterTheStreamEndedIsHarmless) {
  store().room = 0;
  auto first = client_->append(kReplica, kEpoch);
  send_small(*first, 1);
  cluster_.settle();
  auto second = client_->append(kReplica, kEpoch);
  cluster_.settle();
  ASSERT_TRUE(first->ended);
  store().give_room(10);
  cluster_.settle();
  EXPECT_TRUE(store().appended.empty()) << "what an ended stream held is gone";
  send_small(*second, 1);
  cluster_.settle();
  EXPECT_EQ(store().appended.size(), 1u);
}

TEST_F(BackpressureTest, OpenWaitsForWhatOlderStreamsHaveUnderWay) {
  store().hold_answers = true;
  auto append = client_->append(kReplica, kEpoch);
  for (std::uint64_t seq = 1; seq <= 5; ++seq) send_small(*append, seq);
  cluster_.settle();
  std::optional<Result<rpc::Message>> answer;
  client_->channel().unary(kOpenPath, encode(env().buffers(), OpenRequest{kReplica, Epoch(6)}), std::nullopt,
                           [&](Result<rpc::Message> message) { answer.emplace(std::move(message)); });
  cluster_.settle();
  EXPECT_EQ(append->code(), ErrorCode::kEpochSuperseded);
  EXPECT_FALSE(answer) << "the log may still grow";
  store().answer_all();
  cluster_.settle();
  ASSERT_TRUE(answer && answer->ok());
}

TEST_F(BackpressureTest, AJoinWaitsForWhatTheOlderStreamHasUnderWay) {
  store().hold_answers = true;
  auto first = client_->append(kReplica, kEpoch);
  send_small(*first, 1);
  cluster_.settle();
  // It copies from itself, which is as good as any other for what is tested here.
  auto second =
      client_->append(kReplica, kEpoch, Join{{Seq(2), Seq(), 64, {}}, node_.address.to_string(), kReplica, 0});
  send_small(*second, 2, Seq(1));
  cluster_.settle();
  EXPECT_TRUE(store().joins.empty());
  store().answer_all();
  cluster_.settle();
  ASSERT_EQ(store().joins.size(), 1u);
  EXPECT_EQ(store().appended.size(), 1u) << "live entries wait for the join";
  EXPECT_EQ(store().state.committed, Seq()) << "and so does the watermark, which is about the new log";
  store().state.last = {kEpoch, Seq(1)};
  store().joins.front()(Status());
  cluster_.settle();
  EXPECT_EQ(store().appended, (std::vector<std::uint64_t>{1, 2}));
  EXPECT_EQ(store().state.committed, Seq(1));
}

TEST_F(BackpressureTest, DeletionWaitsForEverythingUnderWay) {
  auto reads = client_->read_stream(kReplica, kEpoch);
  SliceList parts;
  encode(env().buffers(), ReadRequest{std::nullopt, 1, {BlockIndex(0), 1}, false}, parts);
  reads->call->send(parts);
  cluster_.settle();
  ASSERT_EQ(store().reads.size(), 1u);
  std::optional<Status> answer;
  client_->channel().unary(kDeleteReplicaPath, encode(env().buffers(), DeleteReplicaRequest{kReplica, true}),
                           std::nullopt, [&](Result<rpc::Message> message) { answer = message.status(); });
  cluster_.settle();
  EXPECT_TRUE(reads->ended);
  EXPECT_FALSE(answer);
  EXPECT_FALSE(fake_->deleted);
  EXPECT_EQ(client_->open(kReplica, Epoch(9)).error().code(), ErrorCode::kNotFound) << "gone for everybody else";
  store().reads.front()(store::ReadOutcome{});
  cluster_.settle();
  EXPECT_TRUE(answer && answer->ok());
  EXPECT_TRUE(fake_->deleted);
}

// At most so many reads are in the store at once; the rest waits and is answered.
TEST_F(BackpressureTest, ReadsInTheStoreAreBounded) {
  auto reads = client_->read_stream(kReplica, kEpoch);
  constexpr std::uint64_t kReads = 5'000;
  SliceList parts;
  for (std::uint64_t id = 1; id <= kReads; ++id) {
    encode(env().buffers(), ReadRequest{std::nullopt, id, {BlockIndex(0), 256}, false}, parts);
    reads->call->send(parts);
    parts.clear();
  }
  cluster_.settle();
  EXPECT_LE(store().reads.size(), 32u) << "1 MiB each";
  std::size_t most = 0;
  ASSERT_TRUE(cluster_.run_until([&] {
    most = std::max(most, store().reads.size());
    if (!store().reads.empty()) {
      auto done = std::move(store().reads.front());
      store().reads.pop_front();
      done(store::ReadOutcome{});
    }
    return reads->answers.size() == kReads;
  }));
  EXPECT_LE(most, 32u);
}

// A stream that must end because of a newer engine does so at once, though its peer does not read what is queued.
TEST_F(BackpressureTest, AFencedStreamEndsThoughItsPeerDoesNotRead) {
  auto reads = client_->read_stream(kReplica, kEpoch);
  reads->call->pause_receiving();
  SliceList parts;
  for (std::uint64_t id = 1; id <= 32; ++id) {
    encode(env().buffers(), ReadRequest{std::nullopt, id, {BlockIndex(0), 256}, false}, parts);
    reads->call->send(parts);
    parts.clear();
  }
  cluster_.settle();
  Slice megabyte = node_.env->buffers().allocate(256 * kBlockSize);
  while (!store().reads.empty()) {
    auto done = std::move(store().reads.front());
    store().reads.pop_front();
    done(store::ReadOutcome{{}, {}, {megabyte}});
  }
  cluster_.settle();
  EXPECT_FALSE(reads->ended);
  ASSERT_TRUE(client_->open(kReplica, Epoch(6)).ok());
  EXPECT_TRUE(reads->ended) << "before the answer to Open";
}

}  // namespace
}  // namespace holdfast::replica
