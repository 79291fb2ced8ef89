// What a flush costs and what it covers. Virtual time: one way through the network takes 1 ms, a sync 20 ms.
#include <gtest/gtest.h>

#include "engine/engine_test_cluster.h"
#include "engine/flush_habit.h"

namespace holdfast::engine {
namespace {

constexpr std::uint64_t kBlocks = 1'024;
constexpr Nanos kRoundTrip = 2ms;
constexpr Nanos kSync = 20ms;
constexpr Nanos kSlack = 1ms;  // journal writes and turns of the loops

void fix_delays(EngineCluster& cluster) {
  sim::Delays& delays = cluster.world.delays();
  delays.net_min = delays.net_max = kRoundTrip / 2;
  delays.disk_min = delays.disk_max = 20us;
  delays.sync_min = delays.sync_max = kSync;
}

template <typename Work>
Nanos duration_of(EngineCluster& cluster, Work work) {
  Nanos began = cluster.world.now();
  EXPECT_TRUE(work().ok());
  return cluster.world.now() - began;
}

Nanos write(EngineCluster& cluster, std::size_t block, char value, BlockDevice::Durability durability) {
  return duration_of(cluster, [&] { return cluster.write(block * 4096, std::string(4096, value), durability); });
}
Nanos write(EngineCluster& cluster, std::size_t block, char value) {
  return write(cluster, block, value, BlockDevice::Durability::kJournalled);
}
Nanos flush(EngineCluster& cluster) {
  return duration_of(cluster, [&] { return cluster.flush(); });
}

TEST(FlushTest, FuaTakesOneRoundTrip) {
  EngineCluster cluster(1, kBlocks);
  cluster.attach();
  fix_delays(cluster);
  Nanos took = write(cluster, 0, 'a', BlockDevice::Durability::kFlushed);
  EXPECT_GE(took, kRoundTrip + kSync);
  EXPECT_LT(took, kRoundTrip + kSync + kSlack);
}

TEST(FlushTest, WithNothingNewTakesNoSync) {
  EngineCluster cluster(2, kBlocks);
  cluster.attach();
  fix_delays(cluster);
  auto expect_round_trip = [&cluster] {
    Nanos took = flush(cluster);
    EXPECT_GE(took, kRoundTrip);
    EXPECT_LT(took, kRoundTrip + kSlack);
  };
  write(cluster, 0, 'a');
  EXPECT_GE(flush(cluster), kRoundTrip + kSync);
  expect_round_trip();
  write(cluster, 1, 'b', BlockDevice::Durability::kFlushed);
  expect_round_trip();
  write(cluster, 2, 'c');
  EXPECT_GE(flush(cluster), kRoundTrip + kSync);
}

// It knows of nothing new, but its successor may.
TEST(FlushTest, AnEngineThatWasReplacedUnawaresAnswersNone) {
  EngineCluster cluster(5, kBlocks);
  cluster.attach("old");
  write(cluster, 0, 'a');
  flush(cluster);
  for (const TestReplica& replica : cluster.replicas) {
    cluster.world.set_link("old", replica.node, false);
    cluster.world.set_link(replica.node, "old", false);
  }
  cluster.attach("new");
  write(cluster, 1, 'b');
  bool answered = false;
  cluster.hosts.front().engine->flush([&answered](Status status) { answered = status.ok(); });
  cluster.world.run_for(1s);
  EXPECT_FALSE(answered);
}

TEST(FlushTest, OfARecoveredLogIsNotFree) {
  EngineCluster cluster(3, kBlocks);
  cluster.attach();
  write(cluster, 0, 'a');
  cluster.kill(cluster.hosts.back());
  cluster.attach();
  fix_delays(cluster);
  EXPECT_GE(flush(cluster), kRoundTrip + kSync);
}

TEST(FlushTest, AHostThatFlushesEachWriteHasThemTogether) {
  EngineCluster cluster(4, kBlocks);
  cluster.attach();
  fix_delays(cluster);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_LT(write(cluster, i, 'a'), kRoundTrip + kSlack);
    EXPECT_GE(flush(cluster), kRoundTrip + kSync);
  }
  for (std::size_t i = 3; i < 6; ++i) {
    // The answer to the write does not wait for the sync, and the flush for no sync of its own.
    EXPECT_LT(write(cluster, i, 'b'), kRoundTrip + kSlack);
    Nanos took = flush(cluster);
    EXPECT_GE(took, kSync - kSlack);
    EXPECT_LT(took, kSync + kRoundTrip + kSlack);
  }
}

// The flush that went along with the first write has passed the replicas before the second one came.
TEST(FlushTest, OneThatNobodyAskedForCoversNoLaterWrite) {
  for (std::uint64_t seed = 10; seed < 22; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    EngineCluster cluster(seed, kBlocks);
    cluster.attach();
    fix_delays(cluster);
    for (std::size_t i = 0; i < 3; ++i) {
      write(cluster, i, 'a');
      flush(cluster);
    }
    write(cluster, 3, 'b');  // takes a flush along
    write(cluster, 4, 'c');
    EXPECT_GE(flush(cluster), kSync + kSlack);
    cluster.kill(cluster.hosts.back());
    for (TestReplica& replica : cluster.replicas) cluster.power_off(replica);
    for (TestReplica& replica : cluster.replicas) cluster.start(replica);
    cluster.attach();
    EXPECT_EQ(*cluster.read(3 * 4096, 4096), std::string(4096, 'b'));
    EXPECT_EQ(*cluster.read(4 * 4096, 4096), std::string(4096, 'c'));
    ASSERT_FALSE(testing::Test::HasFailure());
  }
}

// FUA of an operation of several entries ends when all of them are on disk, also beside other flushes.
TEST(FlushTest, FuaOfManyEntriesSurvivesALossOfPower) {
  for (std::uint64_t seed = 30; seed < 42; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    EngineCluster cluster(seed, 2'048);
    cluster.attach();
    std::string bytes = pattern(3u << 20, static_cast<char>(seed));
    unsigned ended = 0;
    if (seed % 2 == 0) cluster.engine().flush([&ended](Status) { ++ended; });
    ASSERT_TRUE(cluster.write(512, bytes, BlockDevice::Durability::kFlushed).ok());
    cluster.kill(cluster.hosts.back());
    for (TestReplica& replica : cluster.replicas) cluster.power_off(replica);
    for (TestReplica& replica : cluster.replicas) cluster.start(replica);
    cluster.attach();
    EXPECT_EQ(*cluster.read(512, bytes.size()), bytes);
    EXPECT_EQ(ended, seed % 2 == 0 ? 1u : 0u);
    ASSERT_FALSE(testing::Test::HasFailure());
  }
}

// Whoever is left answers; the copy that comes back has no say in a flush that is done.
TEST(FlushTest, OneUnderWayOutlivesALostReplica) {
  EngineCluster cluster(50, kBlocks);
  cluster.attach();
  fix_delays(cluster);
  for (std::size_t i = 0; i < 3; ++i) {
    write(cluster, i, 'a');
    flush(cluster);
  }
  write(cluster, 3, 'b');
  cluster.kill(cluster.replicas[1]);
  flush(cluster);
  cluster.start(cluster.replicas[1]);
  EXPECT_TRUE(cluster.wait_all_in_sync());
  write(cluster, 4, 'c');
  EXPECT_GE(flush(cluster), kSync - kSlack);
  cluster.expect_identical();
}

TEST(FlushHabitTest, ExpectsAFlushAfterThreeOfThemInARow) {
  FlushHabit habit;
  for (int i = 0; i < 3; ++i) {
    EXPECT_FALSE(habit.expects_flush());
    habit.wrote();
    habit.flushed();
  }
  EXPECT_TRUE(habit.expects_flush());
  habit.flushed();  // once more: changes nothing
  EXPECT_TRUE(habit.expects_flush());
  habit.wrote();
  EXPECT_FALSE(habit.expects_flush());
  habit.wrote();  // not this time
  habit.flushed();
  EXPECT_FALSE(habit.expects_flush());
  for (int i = 0; i < 3; ++i) {
    habit.wrote();
    habit.flushed();
  }
  EXPECT_TRUE(habit.expects_flush());
}

}  // namespace
}  // namespace holdfast::engine
