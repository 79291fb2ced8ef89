// Method Scrub, and an Append stream on a full disk. On the simulator, where bits can be flipped and disks are small.
#include <gtest/gtest.h>

#include <bit>

#include "replica/test_cluster.h"
#include "sim/sim_env.h"
#include "sim/sim_file.h"

namespace holdfast::replica {
namespace {

constexpr ReplicaId kReplica(11);
constexpr std::uint64_t kSizeBlocks = 4'096;  // 64 chunks
constexpr Epoch kEpoch(5);

class ScrubTest : public testing::Test {
 protected:
  ScrubTest() : cluster_(Backend::kSim), node_(cluster_.add_node("node1")), client_(cluster_, node_) {}

  Env& env() { return cluster_.env(); }
  void open_stream() {
    ASSERT_TRUE(client_.create(kReplica, kSizeBlocks).ok());
    ASSERT_TRUE(client_.open(kReplica, kEpoch).ok());
    stream_ = client_.append(kReplica, kEpoch);
  }
  void write(std::uint64_t first, std::uint32_t blocks) {
    ++seq_;
    stream_->send(env(), message_with(write_entry(env(), {kEpoch, Seq(seq_)}, first, blocks, seq_ * 1'000)));
  }
  bool journalled(std::uint64_t seq) {
    return cluster_.run_until([&] { return stream_->last.journalled >= Seq(seq); });
  }
  // Everything is in its chunks afterwards.
  void destage() {
    AppendRequest request;
    request.committed = Seq(seq_);
    stream_->send(env(), request);
    ASSERT_TRUE(cluster_.run_until([&] { return client_.get(kReplica)->info.applied == Seq(seq_); }));
  }
  // All answers of one call.
  std::vector<ScrubProgress> scrub(ScrubRequest request) {
    TestStream stream;
    stream.call = client_.channel().start(kScrubPath, {}, std::nullopt, &stream);
    request.replica = kReplica;
    Slice message = encode(env().buffers(), request);
    stream.call->send(std::span(&message, 1));
    stream.call->finish_sending();
    EXPECT_TRUE(cluster_.run_until([&] { return stream.ended.has_value(); }));
    EXPECT_TRUE(stream.ended->ok()) << stream.ended->error().to_string();
    std::vector<ScrubProgress> out(stream.messages.size());
    for (std::size_t i = 0; i < out.size(); ++i) EXPECT_TRUE(decode(stream.messages[i], out[i]).ok());
    return out;
  }

  TestCluster cluster_;
  TestNode& node_;
  TestClient client_;
  std::unique_ptr<AppendClient> stream_;
  std::uint64_t seq_ = 0;
};

TEST_F(ScrubTest, ChecksEveryStoredBlock) {
  open_stream();
  write(0, 64);
  write(130, 3);
  write(4'000, 10);
  destage();
  std::vector<ScrubProgress> answers = scrub({});
  ASSERT_FALSE(answers.empty());
  EXPECT_TRUE(answers.back().finished);
  EXPECT_EQ(answers.back().blocks_checked, 77u);
  EXPECT_EQ(answers.back().chunks_total, 64u);
  EXPECT_EQ(answers.back().next, ChunkIndex(64));
  for (const ScrubProgress& answer : answers) EXPECT_TRUE(answer.damaged.empty());
}

TEST_F(ScrubTest, ChecksOnlyTheRangeAskedFor) {
  open_stream();
  write(0, 64);
  write(128, 5);
  destage();
  ScrubRequest request;
  request.first = ChunkIndex(1);
  request.end = ChunkIndex(3);
  EXPECT_EQ(scrub(request).back().blocks_checked, 5u);
}

TEST_F(ScrubTest, FindsFlippedBitsAndNamesTheBlock) {
  open_stream();
  for (std::uint64_t chunk = 0; chunk < 8; ++chunk) write(chunk * 64, 64);
  destage();
  sim::World& world = static_cast<sim::SimEnv&>(env()).world();
  ASSERT_TRUE(world.disk("10.0.0.1").flip_stored_bit("/disk/data"));
  std::vector<DamagedChunk> damaged;
  for (const ScrubProgress& answer : scrub({})) {
    damaged.insert(damaged.end(), answer.damaged.begin(), answer.damaged.end());
  }
  ASSERT_EQ(damaged.size(), 1u);
  EXPECT_LT(damaged[0].chunk, ChunkIndex(8));
  EXPECT_EQ(std::popcount(damaged[0].blocks), 1);
}

TEST_F(ScrubTest, KeepsToTheRateAndReports) {
  open_stream();
  for (std::uint64_t chunk = 0; chunk < 40; ++chunk) write(chunk * 64, 64);
  destage();
  Nanos start = env().now();
  ScrubRequest request;
  request.bytes_per_second = 4 * kChunkSize;
  std::vector<ScrubProgress> answers = scrub(request);
  EXPECT_GE(env().now() - start, Nanos(9s));
  EXPECT_GE(answers.size(), 8u);
  EXPECT_EQ(answers.back().blocks_checked, 40u * 64);
}

TEST_F(ScrubTest, RefusesWhatIsNotThere) {
  TestStream stream;
  stream.call = client_.channel().start(kScrubPath, {}, std::nullopt, &stream);
  Slice message = encode(env().buffers(), ScrubRequest{ReplicaId(99), ChunkIndex(0), ChunkIndex(0), 0});
  stream.call->send(std::span(&message, 1));
  ASSERT_TRUE(cluster_.run_until([&] { return stream.ended.has_value(); }));
  EXPECT_EQ(stream.code(), ErrorCode::kNotFound);
}

// ---- a full disk ----

class FullDiskTest : public ScrubTest {
 protected:
  FullDiskTest() {
    cluster_.close(node_);
    node_.kv = {};
    node_.options.directory = "/small";
    node_.options.capacity_bytes = 20 * kChunkSize;
    node_.options.reserve_bytes = 4 * kChunkSize;
    cluster_.open(node_);
  }
  bool waits() const { return !stream_->responses.empty() && stream_->responses.back().no_space; }
};

TEST_F(FullDiskTest, EntriesWaitInOrderAndGoOnWhenThereIsRoom) {
  // Another replica takes most of the disk.
  ASSERT_TRUE(client_.create(ReplicaId(12), kSizeBlocks).ok());
  ASSERT_TRUE(client_.open(ReplicaId(12), kEpoch).ok());
  std::unique_ptr<AppendClient> other = client_.append(ReplicaId(12), kEpoch);
  for (std::uint64_t chunk = 0; chunk < 12; ++chunk) {
    other->send(env(), message_with(write_entry(env(), {kEpoch, Seq(chunk + 1)}, chunk * 64, 64, chunk), Seq(chunk)));
  }
  ASSERT_TRUE(cluster_.run_until([&] { return other->last.journalled >= Seq(12); }));

  open_stream();
  for (std::uint64_t chunk = 0; chunk < 8; ++chunk) write(chunk * 64, 64);
  ASSERT_TRUE(cluster_.run_until([&] { return waits(); }));
  EXPECT_EQ(stream_->last.journalled, Seq(4));
  std::size_t before = stream_->responses.size();
  for (Nanos until = env().now() + 5s; env().now() < until;) cluster_.settle();
  EXPECT_FALSE(stream_->ended.has_value()) << "a full disk ends nothing";
  EXPECT_GT(stream_->responses.size(), before) << "it is still there, and says so";
  EXPECT_TRUE(waits());

  other->call.reset();
  ASSERT_TRUE(client_.remove(ReplicaId(12), true).ok());
  ASSERT_TRUE(journalled(8));
  ASSERT_TRUE(cluster_.run_until([&] { return !waits(); }));
  destage();
  EXPECT_EQ(client_.content(kReplica, kEpoch, 512), [&] {
    std::string expected;
    for (std::uint64_t seq = 1; seq <= 8; ++seq) {
      for (std::uint64_t i = 0; i < 64; ++i) expected += block_text(seq * 1'000 + i);
    }
    return expected;
  }());
}

}  // namespace
}  // namespace holdfast::replica
