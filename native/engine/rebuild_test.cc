// Replicas that are made in-sync under load.
#include <algorithm>
#include <cstring>

#include "engine/engine_test_cluster.h"

namespace holdfast::engine {
namespace {

constexpr std::uint64_t kBlocks = 2'048;  // 8 MiB

TEST(RebuildTest, ADeltaRebuildCopiesOnlyWhatChanged) {
  EngineCluster cluster(17, kBlocks);
  cluster.attach();
  ASSERT_TRUE(cluster.write(0, pattern(8u << 20, 'd')).ok());
  cluster.kill(cluster.replicas[1]);
  ASSERT_TRUE(cluster.write(0, pattern(4096, 'n')).ok());
  ASSERT_EQ(cluster.membership->in_sync.size(), 2u);
  cluster.start(cluster.replicas[1]);
  std::uint64_t copied = 0;
  EXPECT_TRUE(cluster.run_until([&] {
    for (const ReplicaStatus& replica : cluster.engine().status().replicas) {
      copied = std::max(copied, replica.rebuild_bytes_copied);
    }
    return cluster.membership->in_sync.size() == 3;
  }));
  EXPECT_LE(copied, 2u * kChunkSize);
  cluster.expect_identical();
}

TEST(RebuildTest, ReplacesAReplicaWithANewOneUnderLoad) {
  EngineCluster cluster(90, kBlocks);
  cluster.attach();
  Workload workload(cluster, 90);
  workload.run(100, 8);
  TestReplica& fresh = cluster.add_replica();
  cluster.create_on(fresh, false);
  std::vector<ReplicaConfig> configs = cluster.configs();
  configs.erase(configs.begin());  // the first replica goes
  cluster.engine().set_replicas(configs);
  workload.run(300, 8);
  EXPECT_TRUE(cluster.run_until([&] {
    return cluster.membership->in_sync == std::vector<ReplicaId>{ReplicaId(102), ReplicaId(103), ReplicaId(104)};
  }));
  workload.verify_all();
  cluster.expect_identical();
  EXPECT_EQ(cluster.engine().status().replicas.size(), 3u);
}

// What the source had in flight is in the copy, but in no log of the joined replica.
TEST(RebuildTest, ARebuiltReplicaIsNotInSyncBeforeAllHaveWhatItsCopyReflects) {
  EngineCluster cluster(96, kBlocks, 2);
  cluster.attach();
  ASSERT_TRUE(cluster.write(0, pattern(1u << 20, 'a')).ok());
  TestReplica& slow = cluster.replicas[1];
  TestReplica& fresh = cluster.add_replica();
  cluster.create_on(fresh, false);
  // One replica acknowledges nothing any more; the copy is made from the other, which has the write in flight.
  cluster.world.freeze(slow.process);
  bool written = false;
  cluster.engine().write(0, {cluster.slice(pattern(1u << 20, 'b'))}, BlockDevice::Durability::kJournalled,
                         [&written](Status status) { written = status.ok(); });
  cluster.engine().set_replicas(cluster.configs());
  auto in_set = [&cluster](const TestReplica& replica) {
    const std::vector<ReplicaId>& set = cluster.membership->in_sync;
    return std::count(set.begin(), set.end(), replica.id) > 0;
  };
  bool rebuilt_early = false;
  EXPECT_TRUE(cluster.run_until([&] {
    std::string reason = cluster.engine().status().replicas[2].reason;
    rebuilt_early = rebuilt_early || (in_set(slow) && reason.find("about to become") != std::string::npos);
    EXPECT_FALSE(in_set(fresh) && in_set(slow) && !written) << "it became in-sync too early";
    return in_set(fresh) && written;
  }));
  EXPECT_TRUE(rebuilt_early) << "the rebuild must end while the slow replica still counts, or this shows nothing";
  cluster.world.thaw(slow.process);
  EXPECT_TRUE(cluster.wait_all_in_sync());
  EXPECT_EQ(*cluster.read(0, 1u << 20), pattern(1u << 20, 'b'));
  cluster.expect_identical();
}

TEST(RebuildTest, ARebuildSurvivesTheLossOfItsSource) {
  for (std::uint64_t seed = 91; seed < 95; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    EngineCluster cluster(seed, kBlocks);
    cluster.rebuild_rate = 4u << 20;
    cluster.attach();
    Workload workload(cluster, seed);
    ASSERT_TRUE(cluster.write(0, pattern(8u << 20, 's')).ok());
    ASSERT_TRUE(cluster.zero(0, 8u << 20).ok());
    workload.run(100, 8);
    cluster.kill(cluster.replicas[0]);
    workload.run(200, 8);
    cluster.start(cluster.replicas[0]);
    EXPECT_TRUE(cluster.run_until([&] {
      for (const ReplicaStatus& replica : cluster.engine().status().replicas) {
        if (replica.phase == ReplicaPhase::kRebuilding) return true;
      }
      return false;
    }));
    cluster.kill(cluster.replicas[1 + seed % 2]);
    workload.run(100, 8);
    cluster.start(cluster.replicas[1 + seed % 2]);
    EXPECT_TRUE(cluster.wait_all_in_sync());
    workload.verify_all();
    cluster.expect_identical();
    ASSERT_FALSE(testing::Test::HasFailure());
  }
}

// It was about to become in-sync when nothing worked, and was taken out of the volume.
TEST(RebuildTest, AReplicaTakenOutBeforeItBecameInSyncIsNotWantedThereAnyMore) {
  EngineCluster cluster(98, kBlocks);
  cluster.attach();
  ASSERT_TRUE(cluster.write(0, pattern(1u << 20, 'a')).ok());
  std::vector<ReplicaConfig> former = cluster.configs();
  cluster.membership->set_reachable(false);
  cluster.kill(cluster.replicas[0]);
  cluster.world.run_for(500ms);  // its removal is under way
  TestReplica& fresh = cluster.add_replica();
  cluster.create_on(fresh, false);
  cluster.engine().set_replicas(cluster.configs());
  ASSERT_TRUE(cluster.run_until(
      [&] { return cluster.engine().status().replicas[3].reason.find("about to become") != std::string::npos; }));
  cluster.world.run_for(500ms);
  for (std::size_t i = 1; i < 3; ++i) cluster.kill(cluster.replicas[i]);
  cluster.kill(fresh);
  cluster.world.run_for(200ms);
  cluster.engine().set_replicas(former);
  cluster.world.run_for(200ms);
  for (std::size_t i = 0; i < 3; ++i) cluster.start(cluster.replicas[i]);
  cluster.membership->set_reachable(true);
  std::vector<ReplicaId> wanted{ReplicaId(101), ReplicaId(102), ReplicaId(103)};
  EXPECT_TRUE(cluster.run_until([&] { return cluster.membership->in_sync == wanted; }));
  cluster.world.run_for(5s);
  EXPECT_EQ(cluster.membership->in_sync, wanted);
  EXPECT_EQ(cluster.engine().status().replicas.size(), 3u);
  EXPECT_EQ(*cluster.read(0, 1u << 20), pattern(1u << 20, 'a'));
}

// One in-sync copy is damaged where nobody reads: copying from it fails for ever, from the other it works.
TEST(RebuildTest, ADamagedSourceIsNotTheOnlyOneTried) {
  EngineCluster cluster(97, kBlocks, 2);
  cluster.attach();
  ASSERT_TRUE(cluster.write(0, pattern(8u << 20, 'a')).ok());
  ASSERT_TRUE(cluster.flush().ok());
  cluster.world.run_for(2s);
  // The source that would be taken first.
  for (int flips = 0; flips < 64; ++flips) {
    ASSERT_TRUE(cluster.world.disk(cluster.replicas[0].node).flip_stored_bit("/disk/data"));
  }
  TestReplica& fresh = cluster.add_replica();
  cluster.create_on(fresh, false);
  cluster.engine().set_replicas(cluster.configs());
  EXPECT_TRUE(cluster.wait_all_in_sync());
  EXPECT_EQ(cluster.content_of(fresh), pattern(8u << 20, 'a'));
}

}  // namespace
}  // namespace holdfast::engine
