// Rebuilds from one replica process to another: full, delta, with live writes, interrupted, throttled, from a source
// that is wrong. Content and versions of both replicas are compared in the end. On the simulator and on io_uring.
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "replica/test_cluster.h"
#include "sim/sim_env.h"
#include "sim/sim_file.h"

namespace holdfast::replica {
namespace {

constexpr ReplicaId kSource(1);
constexpr ReplicaId kTarget(2);
constexpr std::uint64_t kSizeBlocks = 4'096;  // 16 MiB, 64 chunks
constexpr std::uint64_t kChunks = kSizeBlocks / kBlocksPerChunk;
constexpr Epoch kEpoch(3);

// Stands in for the engine: numbers entries and keeps what the volume must contain.
class RebuildTest : public testing::TestWithParam<Backend> {
 protected:
  RebuildTest()
      : cluster_(GetParam()),
        source_node_(cluster_.add_node("source")),
        target_node_(cluster_.add_node("target")),
        source_(cluster_, source_node_),
        target_(cluster_, target_node_),
        expected_(kSizeBlocks * kBlockSize, '\0'),
        random_(7) {}

  void SetUp() override {
    ASSERT_TRUE(source_.create(kSource, kSizeBlocks).ok());
    ASSERT_TRUE(source_.open(kSource, kEpoch).ok());
    ASSERT_TRUE(target_.create(kTarget, kSizeBlocks, false).ok());
    ASSERT_TRUE(target_.open(kTarget, kEpoch).ok());
    source_stream_ = source_.append(kSource, kEpoch);
  }
  Env& env() { return cluster_.env(); }

  // Appends to the source, and to the target when it has a stream. `committed` follows closely.
  void append(const store::Entry& entry) {
    AppendRequest request = message_with(entry, Seq(seq_ > 10 ? seq_ - 10 : 0));
    source_stream_->send(env(), request);
    if (target_stream_) target_stream_->send(env(), request);
  }
  void write(std::uint64_t first, std::uint32_t blocks) {
    ++seq_;
    append(write_entry(env(), {kEpoch, Seq(seq_)}, first, blocks, seq_ * 1'000));
    for (std::uint32_t i = 0; i < blocks; ++i) {
      expected_.replace((first + i) * kBlockSize, kBlockSize, block_text(seq_ * 1'000 + i));
    }
  }
  void zero(std::uint64_t first, std::uint32_t blocks) {
    ++seq_;
    append(zero_entry({kEpoch, Seq(seq_)}, first, blocks));
    expected_.replace(first * kBlockSize, blocks * kBlockSize, std::string(blocks * kBlockSize, '\0'));
  }
  void random_writes(int count) {
    for (int i = 0; i < count; ++i) {
      std::uint64_t first = random_() % kSizeBlocks;
      auto blocks = static_cast<std::uint32_t>(std::min<std::uint64_t>(1 + random_() % 100, kSizeBlocks - first));
      random_() % 4 == 0 ? zero(first, blocks) : write(first, blocks);
    }
  }
  void wait_journalled(AppendClient& stream, Seq seq) {
    ASSERT_TRUE(cluster_.run_until([&] { return stream.last.journalled >= seq || stream.ended; }));
    ASSERT_FALSE(stream.ended) << stream.ended->error().to_string();
  }
  Join join(Seq base = Seq(), std::uint64_t rate = 0) {
    store::ReplicaInfo source = source_.get(kSource)->info;
    return Join{{Seq(seq_ + 1), base, kSizeBlocks, source.history}, source_node_.address.to_string(), kSource, rate};
  }
  void begin_rebuild(Seq base = Seq(), std::uint64_t rate = 0) {
    wait_journalled(*source_stream_, Seq(seq_));
    target_stream_ = target_.append(kTarget, kEpoch, join(base, rate));
  }
  void expect_rebuilt() {
    ASSERT_TRUE(cluster_.run_until([&] { return target_stream_->last.rebuilt || target_stream_->ended; }));
    ASSERT_FALSE(target_stream_->ended) << target_stream_->ended->error().to_string();
    EXPECT_TRUE(target_.get(kTarget)->info.complete);
  }
  // The chunks that hold anything. A chunk that was only ever zeroed may have a version on one side and none on the
  // other: it depends on when ZERO was destaged.
  std::vector<std::string> describe(TestClient& client, ReplicaId id,
                                    const std::vector<store::ChunkVersion>& versions) {
    std::vector<std::string> lines;
    for (const store::ChunkVersion& version : versions) {
      Result<store::ChunkContent> content = client.read_chunk(id, version.chunk);
      EXPECT_TRUE(content.ok());
      if (!content.ok() || content->present == 0) continue;
      lines.push_back("chunk " + std::to_string(version.chunk.value()) + " seq " +
                      std::to_string(version.version.seq.value()) + " digest " + to_hex(version.digest));
    }
    return lines;
  }
  // Everything on both sides, committed and destaged, is the same.
  void expect_identical() {
    wait_journalled(*source_stream_, Seq(seq_));
    if (seq_ > 0 && target_stream_->last.journalled > Seq(0)) wait_journalled(*target_stream_, Seq(seq_));
    AppendRequest committed;
    committed.committed = Seq(seq_);
    source_stream_->send(env(), committed);
    target_stream_->send(env(), committed);
    ASSERT_TRUE(cluster_.run_until([&] {
      return source_.get(kSource)->info.applied == Seq(seq_) && target_.get(kTarget)->info.applied == Seq(seq_);
    }));
    EXPECT_EQ(first_difference(source_.content(kSource, kEpoch, kSizeBlocks), expected_), std::nullopt);
    EXPECT_EQ(first_difference(target_.content(kTarget, kEpoch, kSizeBlocks), expected_), std::nullopt);
    auto ours = source_.list_chunks({kSource, Seq(), Seq(), ChunkIndex(0), ChunkIndex(kChunks)});
    auto theirs = target_.list_chunks({kTarget, Seq(), Seq(), ChunkIndex(0), ChunkIndex(kChunks)});
    ASSERT_TRUE(ours.ok() && theirs.ok());
    EXPECT_EQ(describe(source_, kSource, *ours), describe(target_, kTarget, *theirs));
  }
  // Starts a slow rebuild and waits until some of it is done.
  void begin_slow_rebuild() {
    for (std::uint64_t chunk = 0; chunk < kChunks; ++chunk) write(chunk * kBlocksPerChunk, kBlocksPerChunk);
    begin_rebuild(Seq(), 4u << 20);
    ASSERT_TRUE(cluster_.run_until([&] { return copied() > 0 || target_stream_->ended; }));
    ASSERT_FALSE(target_stream_->ended) << target_stream_->ended->error().to_string();
    ASSERT_FALSE(target_stream_->last.rebuilt);
  }
  void expect_ended(ErrorCode code) {
    ASSERT_TRUE(cluster_.run_until([&] { return target_stream_->ended.has_value(); }));
    ASSERT_FALSE(target_stream_->ended->ok());
    EXPECT_EQ(target_stream_->code(), code) << target_stream_->ended->error().to_string();
    EXPECT_FALSE(target_.get(kTarget)->info.complete);
    EXPECT_FALSE(target_.get(kTarget)->rebuild);
  }
  std::uint64_t copied() { return target_stream_->last.rebuild ? target_stream_->last.rebuild->bytes_copied : 0; }

  TestCluster cluster_;
  TestNode& source_node_;
  TestNode& target_node_;
  TestClient source_;
  TestClient target_;
  std::unique_ptr<AppendClient> source_stream_;
  std::unique_ptr<AppendClient> target_stream_;
  std::string expected_;
  std::uint64_t seq_ = 0;
  std::mt19937_64 random_;
};

std::string backend_name(const testing::TestParamInfo<Backend>& info) {
  return info.param == Backend::kSim ? "Sim" : "Uring";
}
INSTANTIATE_TEST_SUITE_P(Backends, RebuildTest, testing::Values(Backend::kSim, Backend::kUring), backend_name);

TEST_P(RebuildTest, AnEmptyVolume) {
  begin_rebuild();
  expect_rebuilt();
  EXPECT_EQ(target_stream_->last.rebuilt, std::optional<Seq>(0));
  write(5, 3);
  wait_journalled(*target_stream_, Seq(1));
  expect_identical();
}

TEST_P(RebuildTest, AllOfIt) {
  random_writes(60);
  begin_rebuild();
  expect_rebuilt();
  EXPECT_EQ(target_stream_->last.rebuilt, std::optional<Seq>(60));
  EXPECT_EQ(target_stream_->last.rebuild->chunks_total, kChunks);
  EXPECT_EQ(target_stream_->last.rebuild->chunks_examined, kChunks);
  EXPECT_FALSE(target_.get(kTarget)->rebuild) << "no rebuild runs any more";
  expect_identical();
}

TEST_P(RebuildTest, WhileTheVolumeIsWritten) {
  for (std::uint64_t chunk = 0; chunk < kChunks; ++chunk) write(chunk * kBlocksPerChunk, kBlocksPerChunk);
  begin_rebuild(Seq(), 40u << 20);  // slow enough for many writes to fall in between
  int writes = 0;
  ASSERT_TRUE(cluster_.run_until([&] {
    if (target_stream_->last.rebuilt || target_stream_->ended || writes >= 400) return true;
    Seq slower = std::min(target_stream_->last.journalled, source_stream_->last.journalled);
    if (slower.value() + 5 >= seq_ || target_stream_->last.journalled == Seq()) {
      if (seq_ < slower.value() + 20 || target_stream_->last.journalled == Seq()) random_writes(1), ++writes;
    }
    return false;
  }));
  expect_rebuilt();
  EXPECT_GE(*target_stream_->last.rebuilt, Seq(kChunks));
  random_writes(20);
  wait_journalled(*target_stream_, Seq(seq_));
  expect_identical();
}

TEST_P(RebuildTest, ADeltaCopiesOnlyWhatChanged) {
  for (std::uint64_t chunk = 0; chunk < kChunks; ++chunk) write(chunk * kBlocksPerChunk, kBlocksPerChunk);
  begin_rebuild();
  expect_rebuilt();
  expect_identical();
  EXPECT_EQ(copied(), kChunks * kChunkSize);
  Seq base(seq_);
  target_stream_->call.reset();  // the replica falls out
  target_stream_.reset();
  write(0, 1);
  write(10 * kBlocksPerChunk + 7, 2);
  zero(20 * kBlocksPerChunk, kBlocksPerChunk);
  ASSERT_TRUE(target_.open(kTarget, kEpoch).ok());
  begin_rebuild(base);
  expect_rebuilt();
  EXPECT_EQ(copied(), 2 * kChunkSize) << "two chunks with data, one emptied";
  write(1, 1);
  wait_journalled(*target_stream_, Seq(seq_));
  expect_identical();
}

// Entries that only the replica has (never committed) are undone by the rebuild.
TEST_P(RebuildTest, ADivergedTailIsUndone) {
  for (std::uint64_t chunk = 0; chunk < 8; ++chunk) write(chunk * kBlocksPerChunk, kBlocksPerChunk);
  begin_rebuild();
  expect_rebuilt();
  expect_identical();
  Seq base(seq_);
  // The target alone gets two more entries.
  AppendRequest stray = message_with(write_entry(env(), {kEpoch, Seq(seq_ + 1)}, 3, 2, 666));
  target_stream_->send(env(), stray);
  stray = message_with(write_entry(env(), {kEpoch, Seq(seq_ + 2)}, 40 * kBlocksPerChunk, 1, 667));
  target_stream_->send(env(), stray);
  wait_journalled(*target_stream_, Seq(seq_ + 2));
  target_stream_->call.reset();
  target_stream_.reset();
  write(70, 1);
  ASSERT_TRUE(target_.open(kTarget, kEpoch).ok());
  begin_rebuild(base);
  expect_rebuilt();
  write(71, 1);
  wait_journalled(*target_stream_, Seq(seq_));
  expect_identical();
}

TEST_P(RebuildTest, AnInterruptedOneGoesOnWhereItWas) {
  begin_slow_rebuild();
  target_stream_->call.reset();
  cluster_.settle();
  cluster_.close(target_node_);
  cluster_.open(target_node_);
  TestClient again(cluster_, target_node_);
  Result<ReplicaState> state = again.open(kTarget, kEpoch);
  ASSERT_TRUE(state.ok());
  EXPECT_FALSE(state->info.complete);
  target_stream_.reset();
  write(5, 1);
  wait_journalled(*source_stream_, Seq(seq_));
  target_stream_ = again.append(kTarget, kEpoch, join(state->info.base));
  ASSERT_TRUE(cluster_.run_until([&] { return target_stream_->last.rebuilt || target_stream_->ended; }));
  ASSERT_FALSE(target_stream_->ended) << target_stream_->ended->error().to_string();
  EXPECT_LT(copied(), kChunks * kChunkSize) << "what was there before is not copied again";
  EXPECT_GT(copied(), 0u);
  EXPECT_EQ(first_difference(again.content(kTarget, kEpoch, kSizeBlocks), expected_), std::nullopt);
}

TEST_P(RebuildTest, TheThrottleCanBeLifted) {
  begin_slow_rebuild();
  EXPECT_LE(target_stream_->last.rebuild->bytes_per_second, 5u << 20);
  AppendRequest faster;
  faster.rebuild_bytes_per_second = 0;
  target_stream_->send(env(), faster);
  expect_rebuilt();
  write(9, 1);
  wait_journalled(*target_stream_, Seq(seq_));
  expect_identical();
}

// Messages without the field leave the throttle as it is.
TEST_P(RebuildTest, TheThrottleHolds) {
  begin_slow_rebuild();
  Nanos began = env().now();
  std::uint64_t before = copied();
  write(0, 1);
  ASSERT_TRUE(cluster_.run_until([&] { return env().now() - began > 2s; }));
  EXPECT_LE(copied() - before, 11u << 20);
  EXPECT_FALSE(target_stream_->last.rebuilt);
}

TEST_P(RebuildTest, StateTellsTheProgress) {
  begin_slow_rebuild();
  Result<ReplicaState> state = target_.get(kTarget);
  ASSERT_TRUE(state.ok() && state->rebuild);
  EXPECT_EQ(state->rebuild->chunks_total, kChunks);
  EXPECT_GT(state->rebuild->chunks_examined, 0u);
  EXPECT_LT(state->rebuild->chunks_examined, kChunks);
}

TEST_P(RebuildTest, ALostSourceEndsTheStream) {
  begin_slow_rebuild();
  cluster_.close(source_node_);
  expect_ended(ErrorCode::kConnectionLost);
}

// It may be the newest copy that is left, and somebody may have to go on with it.
TEST_P(RebuildTest, ASourceThatCannotBeReachedCostsTheReplicaNothing) {
  for (std::uint64_t chunk = 0; chunk < 4; ++chunk) write(chunk * kBlocksPerChunk, kBlocksPerChunk);
  begin_rebuild();
  expect_rebuilt();
  expect_identical();
  std::string held = expected_;
  Seq base(seq_);
  target_stream_->call.reset();
  target_stream_.reset();
  write(0, 1);
  wait_journalled(*source_stream_, Seq(seq_));
  Join to_lost = join(base);
  cluster_.close(source_node_);
  ASSERT_TRUE(target_.open(kTarget, kEpoch).ok());
  target_stream_ = target_.append(kTarget, kEpoch, to_lost);
  ASSERT_TRUE(cluster_.run_until([&] { return target_stream_->ended.has_value(); }));
  EXPECT_EQ(target_stream_->code(), ErrorCode::kConnectionLost) << target_stream_->ended->error().to_string();
  Result<ReplicaState> state = target_.get(kTarget);
  ASSERT_TRUE(state.ok());
  EXPECT_TRUE(state->info.complete);
  EXPECT_EQ(state->info.last.seq, base);
  EXPECT_FALSE(state->rebuild);
  EXPECT_EQ(first_difference(target_.content(kTarget, kEpoch, kSizeBlocks), held), std::nullopt);
}

TEST_P(RebuildTest, ASourceThatIsGoneEndsTheStream) {
  begin_slow_rebuild();
  ASSERT_TRUE(source_.remove(kSource, true).ok());
  expect_ended(ErrorCode::kNotFound);
}

TEST_P(RebuildTest, WrongAddressesEndTheStream) {
  Join bad = join();
  bad.source_address = "not an address";
  target_stream_ = target_.append(kTarget, kEpoch, bad);
  expect_ended(ErrorCode::kInvalidArgument);
  ASSERT_TRUE(target_.open(kTarget, kEpoch).ok());
  bad = join();
  bad.source_replica = ReplicaId(77);
  target_stream_ = target_.append(kTarget, kEpoch, bad);
  expect_ended(ErrorCode::kNotFound);
  bad = join();
  bad.request.first = Seq(0);
  target_stream_ = target_.append(kTarget, kEpoch, bad);
  expect_ended(ErrorCode::kInvalidArgument);
  bad = join();
  bad.request.size_blocks = store::kSizeBlocksMax + 1;
  target_stream_ = target_.append(kTarget, kEpoch, bad);
  expect_ended(ErrorCode::kInvalidArgument);
}

TEST_P(RebuildTest, ItStopsWithItsStream) {
  begin_slow_rebuild();
  target_stream_->call.reset();
  // The source's streams end too: it may be deleted.
  source_stream_->call.reset();
  ASSERT_TRUE(cluster_.run_until([&] { return source_.remove(kSource).ok(); }));
  EXPECT_FALSE(target_.get(kTarget)->rebuild);
  EXPECT_FALSE(target_.get(kTarget)->info.complete);
}

TEST_P(RebuildTest, ANewerEngineStopsIt) {
  begin_slow_rebuild();
  ASSERT_TRUE(target_.open(kTarget, kEpoch.next()).ok());
  expect_ended(ErrorCode::kEpochSuperseded);
}

TEST_P(RebuildTest, AnEngineThatLetsGoStopsIt) {
  begin_slow_rebuild();
  target_stream_->call->finish_sending();
  ASSERT_TRUE(cluster_.run_until([&] { return target_stream_->ended.has_value(); }));
  EXPECT_TRUE(target_stream_->ended->ok());
  EXPECT_FALSE(target_.get(kTarget)->info.complete);
}

// ---- a source with a bad sector ----

// Tests of what becomes of the volume: native/engine/damage_test.cc.
class DamagedSourceTest : public RebuildTest {
 protected:
  static constexpr std::uint64_t kBad = 5;

  void write_and_damage() {
    for (std::uint64_t chunk = 0; chunk < 4; ++chunk) write(chunk * kBlocksPerChunk, kBlocksPerChunk);
    wait_journalled(*source_stream_, Seq(seq_));
    AppendRequest committed;
    committed.committed = Seq(seq_);
    source_stream_->send(env(), committed);
    ASSERT_TRUE(cluster_.run_until([&] { return source_.get(kSource)->info.applied == Seq(seq_); }));
    sim::SimFileData& data = *static_cast<sim::SimEnv&>(env()).world().disk("10.0.0.1").find("/disk/data");
    for (auto& [page, bytes] : data.current) {
      if (std::memcmp(bytes->data(), expected_.data() + kBad * kBlockSize, kBlockSize) == 0)
        data.unreadable.insert(page);
    }
    ASSERT_EQ(data.unreadable.size(), 1u);
  }
  std::vector<DamagedChunk> scrub(TestClient& client, ReplicaId replica) {
    TestStream stream;
    stream.call = client.channel().start(kScrubPath, {}, std::nullopt, &stream);
    Slice message = encode(env().buffers(), ScrubRequest{replica, ChunkIndex(0), ChunkIndex(0), 0});
    stream.call->send(std::span(&message, 1));
    stream.call->finish_sending();
    EXPECT_TRUE(cluster_.run_until([&] { return stream.ended.has_value(); }));
    std::vector<DamagedChunk> damaged;
    for (const rpc::Message& answer : stream.messages) {
      ScrubProgress progress;
      EXPECT_TRUE(decode(answer, progress).ok());
      damaged.insert(damaged.end(), progress.damaged.begin(), progress.damaged.end());
    }
    return damaged;
  }
};
INSTANTIATE_TEST_SUITE_P(Backends, DamagedSourceTest, testing::Values(Backend::kSim), backend_name);

// As from engines that know nothing of carrying damage over, and may have another source.
TEST_P(DamagedSourceTest, EndsTheRebuildUnlessTheJoinAllowsIt) {
  write_and_damage();
  begin_rebuild();
  expect_ended(ErrorCode::kDiskIo);
}

TEST_P(DamagedSourceTest, IsCopiedWithItsDamageWhenTheJoinAllowsIt) {
  write_and_damage();
  Join allowing = join();
  allowing.carry_damage = true;
  target_stream_ = target_.append(kTarget, kEpoch, allowing);
  expect_rebuilt();
  std::vector<DamagedChunk> told;
  for (const AppendResponse& response : target_stream_->responses) {
    told.insert(told.end(), response.damaged.begin(), response.damaged.end());
  }
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0].chunk, ChunkIndex(0));
  EXPECT_EQ(told[0].blocks, 1u << kBad);
  // Scrubs find it on both, and it alone.
  for (const std::vector<DamagedChunk>& found : {scrub(source_, kSource), scrub(target_, kTarget)}) {
    ASSERT_EQ(found.size(), 1u);
    EXPECT_EQ(found[0].chunk, ChunkIndex(0));
    EXPECT_EQ(found[0].blocks, 1u << kBad);
  }
  // By their versions and digests the two are equal: what the block ought to be is known on both.
  auto ours = source_.list_chunks({kSource, Seq(), Seq(), ChunkIndex(0), ChunkIndex(kChunks)});
  auto theirs = target_.list_chunks({kTarget, Seq(), Seq(), ChunkIndex(0), ChunkIndex(kChunks)});
  ASSERT_TRUE(ours.ok() && theirs.ok() && ours->size() == 4 && theirs->size() == 4);
  EXPECT_EQ((*ours)[0].digest, (*theirs)[0].digest);
  EXPECT_EQ((*ours)[0].version, (*theirs)[0].version);
  write(kBad, 1);
  wait_journalled(*target_stream_, Seq(seq_));
  expect_identical();
}

// ---- a source that answers wrongly ----

// Says that chunk 0 changed, and answers for it what `content` and `id` say.
class WrongSource {
 public:
  WrongSource(Env& env, const Address& listen_address) : env_(env), server_(rpc::Server::create(env)) {
    server_->add_stream_method(kListSnapshotsPath, [this](std::unique_ptr<rpc::ServerCall> call, rpc::CallHandler**) {
      Slice page = encode(env_.buffers(), SnapshotPage{{}, {}, store::kFirstLayer, {0}});
      call->send(std::span(&page, 1));
      call->finish(Status());
    });
    server_->add_stream_method(kListChunksPath, [this](std::unique_ptr<rpc::ServerCall> call, rpc::CallHandler**) {
      Slice versions = encode(env_.buffers(), std::vector<store::ChunkVersion>{{listed, {kEpoch, Seq(1)}, 1}});
      call->send(std::span(&versions, 1));
      call->finish(Status());
    });
    server_->add_stream_method(kReadChunksPath,
                               [this](std::unique_ptr<rpc::ServerCall> call, rpc::CallHandler** handler) {
                                 chunks_.owner = this;
                                 chunks_.call = std::move(call);
                                 *handler = &chunks_;
                               });
    Result<Address> bound = server_->listen(listen_address);
    EXPECT_TRUE(bound.ok());
    address = *bound;
  }
  Address address;
  ChunkIndex listed{0};
  std::uint64_t id_offset = 0;
  store::ChunkContent content;

 private:
  struct Chunks : rpc::CallHandler {
    void on_message(rpc::Message message) override {
      ReadChunkRequest request;
      ASSERT_TRUE(decode(message, request).ok());
      SliceList parts;
      encode_read_chunk_response(owner->env_.buffers(), request.id + owner->id_offset, owner->content, parts);
      call->send(parts);
    }
    void on_ended(Status) override { call.reset(); }
    WrongSource* owner;
    std::unique_ptr<rpc::ServerCall> call;
  };
  Env& env_;
  Chunks chunks_;
  std::unique_ptr<rpc::Server> server_;
};

TEST_P(RebuildTest, NothingWrongIsStored) {
  Address any = GetParam() == Backend::kSim ? Address{"10.0.0.2", 7'900, ""} : Address{"127.0.0.1", 0, ""};
  WrongSource wrong(*target_node_.env, any);
  store::ChunkContent good;
  good.version = {kEpoch, Seq(1)};
  good.present = 1;
  good.crc = {crc32c(as_bytes(block_text(1)))};
  good.data = {target_node_.env->buffers().copy_of(as_bytes(block_text(1)))};
  seq_ = 1;
  auto expect = [&](ErrorCode code) {
    Join from_wrong = join();
    from_wrong.source_address = wrong.address.to_string();
    target_stream_ = target_.append(kTarget, kEpoch, from_wrong);
    expect_ended(code);
  };
  wrong.content = good;
  wrong.content.crc[0] ^= 1;
  expect(ErrorCode::kCorrupt);
  wrong.content = good;
  wrong.content.present = 3;
  expect(ErrorCode::kProtocol);
  wrong.content = good;
  wrong.content.data.clear();
  expect(ErrorCode::kProtocol);
  wrong.content = good;
  wrong.id_offset = 1;
  expect(ErrorCode::kProtocol);
  wrong.id_offset = ~0ull;
  expect(ErrorCode::kProtocol);
  wrong.id_offset = 0;
  wrong.listed = ChunkIndex(kChunks);
  expect(ErrorCode::kProtocol);
  wrong.listed = ChunkIndex(0);
  wrong.content.source_last = Seq(42);
  Join from_wrong = join();
  from_wrong.source_address = wrong.address.to_string();
  target_stream_ = target_.append(kTarget, kEpoch, from_wrong);
  expect_rebuilt();  // the same source, telling no lies
  EXPECT_EQ(target_stream_->last.rebuilt, std::optional<Seq>(42)) << "what the source had when it answered";
}

}  // namespace
}  // namespace holdfast::replica
