// Replicas that fail, stay silent or come back while the engine serves.
#include <algorithm>
#include <cstring>

#include <gmock/gmock.h>

#include "engine/engine_test_cluster.h"

namespace holdfast::engine {
namespace {

constexpr std::uint64_t kBlocks = 2'048;  // 8 MiB

TEST(ReplicaFailureTest, GoesOnWithoutAKilledReplicaAndRebuildsIt) {
  for (std::uint64_t seed = 10; seed < 16; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    EngineCluster cluster(seed, kBlocks);
    cluster.attach();
    Workload workload(cluster, seed);
    workload.run(300, 16, [&](unsigned started) {
      if (started == 60) cluster.kill(cluster.replicas[seed % 3]);
      if (started == 200) cluster.start(cluster.replicas[seed % 3]);
    });
    EXPECT_TRUE(cluster.wait_all_in_sync());
    EXPECT_EQ(cluster.membership->in_sync.size(), 3u);
    workload.run(100, 16);
    workload.verify_all();
    cluster.expect_identical();
    ASSERT_FALSE(testing::Test::HasFailure());
  }
}

TEST(ReplicaFailureTest, AFrozenReplicaIsLeftOutInTime) {
  EngineCluster cluster(18, kBlocks);
  cluster.attach();
  ASSERT_TRUE(cluster.write(0, pattern(4096, 'a')).ok());
  cluster.world.freeze(cluster.replicas[2].process);
  Nanos start = cluster.world.now();
  ASSERT_TRUE(cluster.write(0, pattern(4096, 'b')).ok());
  EXPECT_LE(cluster.world.now() - start, Nanos(5s));
  EXPECT_EQ(cluster.membership->in_sync.size(), 2u);
  cluster.world.thaw(cluster.replicas[2].process);
  EXPECT_TRUE(cluster.wait_all_in_sync());
  cluster.expect_identical();
}

TEST(ReplicaFailureTest, WaitsForTheMetadataStoreBeforeItAcknowledges) {
  EngineCluster cluster(19, kBlocks);
  cluster.attach();
  ASSERT_TRUE(cluster.write(0, pattern(4096, 'a')).ok());
  cluster.membership->set_reachable(false);
  cluster.kill(cluster.replicas[0]);
  std::optional<Status> written;
  cluster.engine().write(0, {cluster.slice(pattern(4096, 'b'))}, BlockDevice::Durability::kJournalled,
                         [&](Status status) { written = std::move(status); });
  cluster.world.run_for(20s);
  EXPECT_FALSE(written.has_value()) << "the stored set still has the dead replica";
  EXPECT_EQ(cluster.membership->in_sync.size(), 3u);
  EXPECT_THAT(cluster.engine().status().failure, testing::HasSubstr("writes wait"));
  cluster.membership->set_reachable(true);
  EXPECT_TRUE(cluster.run_until([&] { return written.has_value(); }));
  EXPECT_TRUE(written->ok());
  EXPECT_EQ(cluster.membership->in_sync.size(), 2u);
  EXPECT_EQ(cluster.engine().status().failure, "");
  EXPECT_EQ(*cluster.read(0, 4096), pattern(4096, 'b'));
}

TEST(ReplicaFailureTest, ADeadReplicaHoldsAQuietVolumeUpForAMomentOnly) {
  for (std::uint64_t seed = 30; seed < 34; ++seed) {
    EngineCluster cluster(seed, kBlocks);
    cluster.attach();
    ASSERT_TRUE(cluster.write(0, pattern(4096, 'a')).ok());
    cluster.world.run_for(100ms * (seed - 29));
    std::optional<Status> written;
    cluster.engine().write(0, {cluster.slice(pattern(4096, 'b'))}, BlockDevice::Durability::kJournalled,
                           [&](Status status) { written = std::move(status); });
    // It dies after the others have answered and gone quiet.
    cluster.world.freeze(cluster.replicas[0].process);
    cluster.world.run_for(50ms);
    cluster.kill(cluster.replicas[0]);
    cluster.world.run_for(150ms);
    EXPECT_TRUE(written && written->ok()) << "nobody asked the others whether they live";
  }
}

TEST(ReplicaFailureTest, TheLastReplicaStaysAndIOWaitsForIt) {
  EngineCluster cluster(20, kBlocks);
  cluster.attach();
  Workload workload(cluster, 20);
  workload.run(50, 8);
  cluster.kill(cluster.replicas[0]);
  workload.run(20, 8);
  cluster.kill(cluster.replicas[1]);
  workload.run(20, 8);
  ASSERT_EQ(cluster.membership->in_sync.size(), 1u);
  for (int i = 0; i < 8; ++i) workload.start_one();
  cluster.kill(cluster.replicas[2]);
  cluster.world.run_for(10s);
  EXPECT_GT(workload.in_flight, 0u);
  EXPECT_FALSE(cluster.engine().status().failure.empty());
  EXPECT_EQ(cluster.membership->in_sync.size(), 1u) << "the last one is never removed";
  for (TestReplica& replica : cluster.replicas) cluster.start(replica);
  workload.drain();
  EXPECT_TRUE(cluster.wait_all_in_sync());
  workload.run(50, 8);
  workload.verify_all();
  cluster.expect_identical();
}

TEST(ReplicaFailureTest, AllReplicasKilledAtOnceComeBackWithoutARebuild) {
  EngineCluster cluster(21, kBlocks);
  cluster.attach();
  Workload workload(cluster, 21);
  workload.run(50, 8);
  for (int i = 0; i < 8; ++i) workload.start_one();
  for (TestReplica& replica : cluster.replicas) cluster.kill(replica);
  unsigned changes = cluster.membership->changes;
  for (TestReplica& replica : cluster.replicas) cluster.start(replica);
  workload.drain();
  EXPECT_TRUE(cluster.wait_all_in_sync());
  EXPECT_EQ(cluster.membership->changes, changes);
  workload.verify_all();
  cluster.expect_identical();
}

TEST(ReplicaFailureTest, WaitingIOFailsAfterAWhileAndGoesOnLater) {
  EngineCluster cluster(22, kBlocks, 1);
  cluster.attach();
  Workload workload(cluster, 22);
  workload.run(30, 8);
  cluster.kill(cluster.replicas[0]);
  workload.expect_errors = true;
  for (int i = 0; i < 8; ++i) workload.start_one();
  Nanos start = cluster.world.now();
  EXPECT_TRUE(cluster.run_until([&] { return workload.in_flight == 0; }));
  EXPECT_GE(cluster.world.now() - start, Nanos(29s));
  EXPECT_GT(workload.failed, 0u);
  start = cluster.world.now();
  EXPECT_EQ(cluster.read(0, 512).error().code(), ErrorCode::kNoInSyncReplica);
  EXPECT_LE(cluster.world.now() - start, Nanos(1s)) << "new I/O fails at once";
  workload.expect_errors = false;
  cluster.start(cluster.replicas[0]);
  EXPECT_TRUE(cluster.run_until([&] { return cluster.engine().status().failure.empty(); }));
  // Operations that failed had been taken in order; they happen, in that order, before newer ones.
  workload.run(50, 8);
  workload.verify_all();
}

TEST(ReplicaFailureTest, ALastReplicaWithoutAcknowledgedWritesStopsTheEngine) {
  // Power loss may or may not take unflushed writes with it: some seed must show each outcome.
  unsigned stopped = 0;
  for (std::uint64_t seed = 30; seed < 42; ++seed) {
    EngineCluster cluster(seed, kBlocks, 1);
    cluster.attach();
    for (int i = 0; i < 20; ++i) ASSERT_TRUE(cluster.write(i * 4096, pattern(4096, static_cast<char>(i))).ok());
    cluster.membership->keeps_losses = false;
    cluster.power_off(cluster.replicas[0]);
    cluster.start(cluster.replicas[0]);
    Seq last = cluster.replicas[0].disk->find(cluster.replicas[0].id)->info().last.seq;
    cluster.world.run_for(10s);
    if (last < Seq(20)) {
      // It stops only once that is recorded where the next engine begins: until then I/O waits.
      ASSERT_EQ(cluster.membership->lost_epochs, std::vector<Epoch>{cluster.membership->epoch});
      EXPECT_FALSE(cluster.engine().status().stopped);
      cluster.membership->unrecorded.front()(Status());
      cluster.world.run_for(1s);
    } else {
      EXPECT_TRUE(cluster.membership->lost_epochs.empty());
    }
    Result<std::string> content = cluster.read(19 * 4096, 4096);
    if (last < Seq(20)) {
      ++stopped;
      ASSERT_FALSE(content.ok());
      EXPECT_EQ(content.error().code(), ErrorCode::kCorrupt);
      EXPECT_NE(cluster.engine().status().failure.find("DATA LOSS"), std::string::npos);
    } else {
      ASSERT_TRUE(content.ok());
      EXPECT_EQ(*content, pattern(4096, 19));
    }
  }
  EXPECT_GT(stopped, 0u);
}

}  // namespace
}  // namespace holdfast::engine
