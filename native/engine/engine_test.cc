// Host operations of the engine against real replicas on the simulator: content, ordering, closing, corruption.
#include <algorithm>
#include <cstring>

#include "engine/engine_test_cluster.h"

namespace holdfast::engine {
namespace {

constexpr std::uint64_t kBlocks = 2'048;  // 8 MiB

TEST(EngineTest, WritesAndReadsAtAnySectorAndSize) {
  EngineCluster cluster(1, kBlocks);
  cluster.attach();
  EXPECT_EQ(cluster.engine().size_bytes(), kBlocks * kBlockSize);
  EXPECT_EQ(*cluster.read(0, 4096), std::string(4096, '\0'));
  std::string model(kBlocks * kBlockSize, '\0');
  for (auto [offset, size] : std::vector<std::pair<std::size_t, std::size_t>>{{0, 512},
                                                                              {512, 512},
                                                                              {4096, 4096},
                                                                              {3584, 1024},
                                                                              {7 * 512, 12'800},
                                                                              {1'048'576 - 512, 1024},
                                                                              {4096, 3u << 20},
                                                                              {512, (2u << 20) + 512},
                                                                              {kBlocks * kBlockSize - 512, 512}}) {
    std::string bytes = pattern(size, static_cast<char>(size / 512 + offset));
    ASSERT_TRUE(cluster.write(offset, bytes).ok());
    model.replace(offset, size, bytes);
    ASSERT_TRUE(*cluster.read(offset, size) == bytes) << offset << " " << size;
  }
  for (auto [offset, size] : std::vector<std::pair<std::size_t, std::size_t>>{
           {512, 512}, {8192, 4096}, {1024, 9216}, {512, 3u << 20}, {4096, 2u << 20}}) {
    ASSERT_TRUE(cluster.zero(offset, size).ok());
    model.replace(offset, size, std::string(size, '\0'));
  }
  ASSERT_TRUE(cluster.flush().ok());
  EXPECT_TRUE(*cluster.read(0, model.size()) == model);
  cluster.expect_identical();
}

TEST(EngineTest, RefusesWhatIsOutsideOrUnaligned) {
  EngineCluster cluster(2, kBlocks);
  cluster.attach();
  std::uint64_t end = kBlocks * kBlockSize;
  EXPECT_EQ(cluster.read(end, 512).error().code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(cluster.read(end - 512, 1024).error().code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(cluster.read(100, 512).error().code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(cluster.read(0, 0).error().code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(cluster.read(~std::uint64_t{0} - 511, 512).error().code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(cluster.write(512, std::string(100, 'x')).error().code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(cluster.zero(512, end).error().code(), ErrorCode::kInvalidArgument);
}

TEST(EngineTest, EqualsAFlatArrayUnderRandomOperations) {
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    EngineCluster cluster(seed, kBlocks);
    cluster.logical_block_size = seed % 3 == 0 ? 4096 : 512;
    cluster.attach();
    Workload workload(cluster, seed);
    workload.run(600, seed % 2 == 0 ? 32 : 4);
    workload.verify_all();
    cluster.expect_identical();
    ASSERT_FALSE(testing::Test::HasFailure());
  }
}

TEST(EngineTest, CompareAndWriteIsAtomic) {
  EngineCluster cluster(3, kBlocks);
  cluster.attach();
  ASSERT_TRUE(cluster.write(0, std::string(512, 'a')).ok());
  // Of many that expect the same content exactly one wins.
  unsigned won = 0, lost = 0;
  for (int i = 0; i < 10; ++i) {
    cluster.engine().compare_and_write(
        0, {cluster.slice(std::string(512, 'a'))}, {cluster.slice(std::string(512, static_cast<char>('A' + i)))},
        BlockDevice::Durability::kFlushed, [&](Result<std::optional<std::uint64_t>> outcome) {
          ASSERT_TRUE(outcome.ok());
          outcome->has_value() ? ++lost : ++won;
        });
  }
  EXPECT_TRUE(cluster.run_until([&] { return won + lost == 10; }));
  EXPECT_EQ(won, 1u);
  EXPECT_EQ(*cluster.read(0, 512), std::string(512, 'A'));
}

TEST(EngineTest, TellsWhichBlocksAreMapped) {
  EngineCluster cluster(4, kBlocks);
  cluster.attach();
  ASSERT_TRUE(cluster.write(1u << 20, pattern(2u << 20, 'm')).ok());
  auto extent = [&](std::uint64_t offset, std::uint64_t length) {
    auto result = cluster.wait<Result<BlockDevice::Extent>>([&](Callback<void(Result<BlockDevice::Extent>)> done) {
      cluster.engine().extent(offset, length, std::move(done));
    });
    EXPECT_TRUE(result.ok());
    return *result;
  };
  EXPECT_FALSE(extent(0, 4u << 20).mapped);
  EXPECT_EQ(extent(0, 4u << 20).length, 1u << 20);
  EXPECT_TRUE(extent(1u << 20, 4u << 20).mapped);
  EXPECT_EQ(extent(1u << 20, 4u << 20).length, 2u << 20);
  EXPECT_EQ(extent((1u << 20) + 512, 1024).length, 1024u);
}

// qemu asks for the extent before each read that its own memory of extents does not cover.
TEST(EngineTest, KnownExtentsNeedNoReplica) {
  EngineCluster cluster(14, kBlocks);
  cluster.attach();
  ASSERT_TRUE(cluster.write(0, pattern(4u << 20, 'm')).ok());
  auto ask = [&](std::uint64_t offset, std::uint64_t length) {
    auto result = cluster.wait<Result<BlockDevice::Extent>>([&](Callback<void(Result<BlockDevice::Extent>)> done) {
      cluster.engine().extent(offset, length, std::move(done));
    });
    EXPECT_TRUE(result.ok());
    return result.ok() ? *result : BlockDevice::Extent{};
  };
  EXPECT_EQ(ask(2u << 20, 2u << 20).length, 2u << 20);
  ASSERT_TRUE(cluster.zero(1u << 20, 4096).ok());
  EXPECT_EQ(ask(0, 4u << 20).length, 1u << 20) << "asked for again, since the ZERO";
  EXPECT_FALSE(ask(1u << 20, 3u << 20).mapped);

  for (TestReplica& replica : cluster.replicas) cluster.kill(replica);
  EXPECT_EQ(ask(3u << 20, 1u << 20).length, 1u << 20) << "nobody is left to be asked";
  EXPECT_TRUE(ask(4096, 4096).mapped);
}

TEST(EngineTest, GrowsAndTellsItsFrontEnd) {
  EngineCluster cluster(5, kBlocks);
  cluster.attach();
  unsigned told = 0;
  cluster.engine().on_resized([&told] { ++told; });
  std::uint64_t size = 2 * kBlocks * kBlockSize;
  auto resize = [&](std::uint64_t to) {
    return cluster.wait<Status>([&](StatusCallback done) { cluster.engine().resize(to, std::move(done)); });
  };
  EXPECT_TRUE(resize(size).ok());
  EXPECT_EQ(told, 1u);
  EXPECT_EQ(cluster.engine().size_bytes(), size);
  EXPECT_EQ(resize(4096).error().code(), ErrorCode::kInvalidArgument);
  ASSERT_TRUE(cluster.write(size - 4096, pattern(4096, 'e')).ok());
  cluster.kill(cluster.hosts.back());
  cluster.attach();
  EXPECT_EQ(cluster.engine().size_bytes(), size);
  EXPECT_EQ(*cluster.read(size - 4096, 4096), pattern(4096, 'e'));
}

// The one asked for first may yet come to nothing, so the second is no news either.
TEST(EngineTest, AResizeUnderWayIsNoAnswerToAnother) {
  EngineCluster cluster(7, kBlocks);
  cluster.attach();
  std::uint64_t size = 2 * kBlocks * kBlockSize;
  for (TestReplica& replica : cluster.replicas) cluster.world.freeze(replica.process);
  unsigned answered = 0;
  for (int i = 0; i < 2; ++i) {
    cluster.engine().resize(size, [&answered](Status status) { answered += status.ok() ? 1 : 0; });
  }
  cluster.world.run_for(1s);
  EXPECT_EQ(answered, 0u);
  EXPECT_EQ(cluster.engine().size_bytes(), kBlocks * kBlockSize);
  for (TestReplica& replica : cluster.replicas) cluster.world.thaw(replica.process);
  EXPECT_TRUE(cluster.run_until([&answered] { return answered == 2; }));
  EXPECT_EQ(cluster.engine().size_bytes(), size);
}

TEST(EngineTest, AResizeSurvivesThePowerLossOfAllReplicas) {
  EngineCluster cluster(8, kBlocks);
  cluster.attach();
  std::uint64_t size = 2 * kBlocks * kBlockSize;
  Status status = cluster.wait<Status>([&](StatusCallback done) { cluster.engine().resize(size, std::move(done)); });
  EXPECT_TRUE(status.ok());
  cluster.kill(cluster.hosts.back());
  for (TestReplica& replica : cluster.replicas) cluster.power_off(replica);
  for (TestReplica& replica : cluster.replicas) cluster.start(replica);
  cluster.attach();
  EXPECT_EQ(cluster.engine().size_bytes(), size);
}

TEST(EngineTest, CloseFlushesAndLetsGo) {
  EngineCluster cluster(6, kBlocks);
  cluster.attach();
  Workload workload(cluster, 6);
  for (int i = 0; i < 20; ++i) workload.start_one();
  bool closed = false;
  cluster.engine().close([&closed] { closed = true; });
  EXPECT_EQ(cluster.read(0, 512).error().code(), ErrorCode::kCancelled);
  EXPECT_TRUE(cluster.run_until([&] { return closed; }));
  EXPECT_EQ(workload.in_flight, 0u) << "what was in flight ends well";
  EXPECT_EQ(workload.failed, 0u);
  for (TestReplica& replica : cluster.replicas) {
    store::ReplicaInfo info = replica.disk->find(replica.id)->info();
    EXPECT_EQ(info.committed, info.last.seq) << "the final watermark was sent";
  }
  cluster.attach();
  workload.drain();
  workload.verify_all();
}

TEST(EngineTest, ADestroyedEngineAnswersWhatIsInFlight) {
  for (std::uint64_t seed = 7; seed < 10; ++seed) {
    EngineCluster cluster(seed, kBlocks);
    TestHost& host = cluster.attach();
    Workload workload(cluster, seed);
    workload.expect_errors = true;
    for (int i = 0; i < 50; ++i) workload.start_one();
    cluster.world.run_for(Nanos(cluster.world.random().below(2'000'000)));
    host.engine.reset();
    EXPECT_EQ(workload.in_flight, 0u) << "every callback came, and once";
    cluster.world.run_for(10s);  // whatever was under way finds nothing to touch
    workload.expect_errors = false;
    cluster.attach();
    workload.verify_all();
  }
}

TEST(EngineTest, ACorruptBlockIsServedFromAnotherCopyAndRepaired) {
  EngineCluster cluster(100, kBlocks);
  cluster.attach();
  std::string bytes = pattern(64 * 4096, 'c');
  ASSERT_TRUE(cluster.write(0, bytes).ok());
  ASSERT_TRUE(cluster.write(1u << 20, pattern(1u << 20, 'z')).ok());
  ASSERT_TRUE(cluster.flush().ok());
  cluster.world.run_for(5s);  // destaged
  // One flipped bit in every read of one node: whatever it serves is bad, the others are good.
  cluster.world.disk_faults("10.0.0.1").corrupt_read_ppm = 1'000'000;
  cluster.kill(cluster.replicas[0]);
  cluster.world.disk_faults("10.0.0.1").corrupt_read_ppm = 0;
  cluster.start(cluster.replicas[0]);
  EXPECT_TRUE(cluster.wait_all_in_sync());
  cluster.world.run_for(5s);
  cluster.world.disk_faults("10.0.0.1").corrupt_read_ppm = 1'000'000;
  for (int i = 0; i < 32; ++i) {
    Result<std::string> content = cluster.read(0, bytes.size());
    ASSERT_TRUE(content.ok()) << content.error().to_string();
    EXPECT_TRUE(*content == bytes);
  }
  cluster.world.disk_faults("10.0.0.1").corrupt_read_ppm = 0;
  cluster.world.run_for(5s);
  EXPECT_GT(cluster.engine().status().repaired_blocks, 0u);
  EXPECT_EQ(*cluster.read(0, bytes.size()), bytes);
  cluster.expect_identical();
}

}  // namespace
}  // namespace holdfast::engine
