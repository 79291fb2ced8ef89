// Replicas that are slow or full, blocks that are bad on one copy, and rebuilds that wait for their turn or for hosts.
#include <algorithm>
#include <cstring>

#include "base/crc32c.h"
#include "engine/engine_test_cluster.h"

namespace holdfast::engine {
namespace {

constexpr std::uint64_t kBlocks = 2'048;  // 8 MiB, 32 chunks

ReplicaStatus status_of(EngineCluster& cluster, std::size_t index) {
  for (ReplicaStatus& status : cluster.engine().status().replicas) {
    if (status.id == cluster.replicas[index].id) return std::move(status);
  }
  ADD_FAILURE() << "the engine does not know the replica";
  return {};
}

bool in_set(EngineCluster& cluster, std::size_t index) {
  const std::vector<ReplicaId>& set = cluster.membership->in_sync;
  return std::find(set.begin(), set.end(), cluster.replicas[index].id) != set.end();
}

// ---- slow ----

TEST(LaggardsTest, AReplicaThatCrawlsLeavesAndNothingFails) {
  EngineCluster cluster(60, kBlocks);
  cluster.attach();
  Workload workload(cluster, 60);
  workload.run(50, 8);
  // It answers now and then, so that it never counts as silent; but what comes while it writes waits for the next write
  // too.
  sim::DiskFaults& faults = cluster.world.disk_faults(cluster.replicas[1].node);
  faults.slow_ppm = 1'000'000;
  faults.slow_max = 2500ms;
  for (int i = 0; i < 200 && in_set(cluster, 1); ++i) {
    if (workload.in_flight < 32) workload.start_one();
    cluster.world.run_for(100ms);
  }
  EXPECT_FALSE(in_set(cluster, 1));
  EXPECT_NE(status_of(cluster, 1).reason.find("slower than the others"), std::string::npos)
      << status_of(cluster, 1).reason;
  faults.slow_ppm = 0;
  Nanos start = cluster.world.now();
  workload.drain();
  EXPECT_LE(cluster.world.now() - start, Nanos(1s));
  EXPECT_EQ(workload.failed, 0u);
  EXPECT_TRUE(cluster.wait_all_in_sync());
  workload.verify_all();
  cluster.expect_identical();
}

// Each of these writes is answered within the time that a replica has. Eight that wait for each other are not.
TEST(LaggardsTest, ReplicasThatAreALittleSlowLeaveOnceOperationsQueueForLong) {
  EngineCluster cluster(64, kBlocks);
  cluster.attach();
  for (std::size_t slow : {1, 2}) {
    cluster.world.set_extra_latency("host", cluster.replicas[slow].node, 1'300ms);
  }
  std::optional<Status> alone;
  cluster.engine().write(0, {cluster.slice(pattern(4096, 'a'))}, BlockDevice::Durability::kJournalled,
                         [&](Status status) { alone = std::move(status); });
  ASSERT_TRUE(cluster.run_until([&] { return alone.has_value(); }));
  EXPECT_TRUE(alone->ok());
  EXPECT_EQ(cluster.membership->in_sync.size(), 3u) << "one that waits for itself is no reason";

  std::vector<std::optional<Status>> written(12);
  Nanos start = cluster.world.now();
  for (std::size_t i = 0; i < written.size(); ++i) {
    cluster.engine().write(0, {cluster.slice(pattern(4096, static_cast<char>('b' + i)))},
                           BlockDevice::Durability::kJournalled,
                           [&written, i](Status status) { written[i] = std::move(status); });
  }
  ASSERT_TRUE(cluster.run_until([&] { return written.back().has_value(); }));
  EXPECT_LE(cluster.world.now() - start, Nanos(12s)) << "initiators give up after 15 s";
  for (const std::optional<Status>& status : written) EXPECT_TRUE(status && status->ok());
  EXPECT_TRUE(in_set(cluster, 0));
  EXPECT_FALSE(in_set(cluster, 1));
  EXPECT_FALSE(in_set(cluster, 2));
}

TEST(LaggardsTest, OperationsThatTheVolumesOwnLimitsHoldBackCostNoReplica) {
  EngineCluster cluster(65, kBlocks);
  cluster.attach();
  cluster.world.set_extra_latency("host", cluster.replicas[1].node, 1'300ms);
  cluster.engine().set_qos({.operations_per_second = 1});
  std::vector<std::optional<Status>> written(20);
  Nanos start = cluster.world.now();
  for (std::size_t i = 0; i < written.size(); ++i) {
    cluster.engine().write(i * kBlockSize, {cluster.slice(pattern(4096, 'a'))}, BlockDevice::Durability::kJournalled,
                           [&written, i](Status status) { written[i] = std::move(status); });
  }
  ASSERT_TRUE(cluster.run_until([&] { return written.back().has_value(); }));
  EXPECT_GE(cluster.world.now() - start, Nanos(15s));
  EXPECT_EQ(cluster.membership->in_sync.size(), 3u);
}

TEST(LaggardsTest, WhatAllAreTogetherIsHeldAgainstNone) {
  EngineCluster cluster(61, kBlocks);
  cluster.attach();
  for (TestReplica& replica : cluster.replicas) cluster.world.freeze(replica.process);
  std::optional<Status> written;
  cluster.engine().write(0, {cluster.slice(pattern(4096, 'a'))}, BlockDevice::Durability::kJournalled,
                         [&](Status status) { written = std::move(status); });
  cluster.world.run_for(8s);
  EXPECT_EQ(cluster.membership->in_sync.size(), 3u);
  for (TestReplica& replica : cluster.replicas) cluster.world.thaw(replica.process);
  EXPECT_TRUE(cluster.run_until([&] { return written.has_value(); }));
  EXPECT_TRUE(written->ok());
  EXPECT_TRUE(cluster.wait_all_in_sync());
}

// ---- full ----

void fill_with_another_replica(EngineCluster& cluster, TestReplica& replica, std::uint64_t chunks_left) {
  ReplicaId other(900);
  ASSERT_TRUE(cluster
                  .wait<Status>([&](StatusCallback done) {
                    replica.disk->create_replica(other, VolumeId(9), 64 * 1'024, true, std::move(done));
                  })
                  .ok());
  store::ReplicaStore* store = replica.disk->find(other);
  std::uint64_t chunks = replica.disk->space().free_bytes / kChunkSize - chunks_left;
  for (std::uint64_t chunk = 0; chunk < chunks; ++chunk) {
    store::Entry entry;
    entry.position = {Epoch(1), Seq(chunk + 1)};
    entry.blocks = {BlockIndex(chunk * 64), 1};
    entry.data = replica.process->env->buffers().allocate(4096);
    std::memset(entry.data.data(), 0, 4096);
    entry.crc = replica.process->env->buffers().allocate(4);
    std::uint32_t crc = crc32c(entry.data.bytes());
    std::memcpy(entry.crc.data(), &crc, 4);
    Status appended =
        cluster.wait<Status>([&](StatusCallback done) { store->append(std::move(entry), std::move(done)); });
    ASSERT_TRUE(appended.ok()) << appended.error().to_string();
    store->set_committed(Seq(chunk + 1));
  }
}

void make_small(EngineCluster& cluster, TestReplica& replica) {
  replica.capacity_bytes = 40 * kChunkSize + (1u << 20);
  cluster.kill(replica);
  cluster.start(replica);
  fill_with_another_replica(cluster, replica, 10);
}

void make_room(EngineCluster& cluster, TestReplica& replica) {
  Status deleted =
      cluster.wait<Status>([&](StatusCallback done) { replica.disk->delete_replica(ReplicaId(900), std::move(done)); });
  EXPECT_TRUE(deleted.ok());
}

TEST(FullDisksTest, OneFullDiskLeavesTheSetAndComesBackWhenThereIsRoom) {
  EngineCluster cluster(62, kBlocks);
  make_small(cluster, cluster.replicas[1]);
  cluster.attach();
  Nanos start = cluster.world.now();
  for (std::uint64_t chunk = 0; chunk < 20; ++chunk) {
    ASSERT_TRUE(cluster.write(chunk * kChunkSize, pattern(4096, static_cast<char>(chunk))).ok());
  }
  EXPECT_LE(cluster.world.now() - start, Nanos(1s)) << "hosts hardly notice";
  EXPECT_FALSE(in_set(cluster, 1));
  EXPECT_NE(status_of(cluster, 1).reason.find("full"), std::string::npos);
  make_room(cluster, cluster.replicas[1]);
  EXPECT_TRUE(cluster.wait_all_in_sync());
  cluster.expect_identical();
}

TEST(FullDisksTest, WhenAllAreFullWritesWaitAndReadsGoOn) {
  EngineCluster cluster(63, kBlocks);
  for (TestReplica& replica : cluster.replicas) make_small(cluster, replica);
  cluster.attach();
  std::vector<std::optional<Status>> written(20);
  for (std::uint64_t chunk = 0; chunk < 20; ++chunk) {
    cluster.engine().write(chunk * kChunkSize, {cluster.slice(pattern(4096, static_cast<char>(chunk)))},
                           BlockDevice::Durability::kJournalled,
                           [&written, chunk](Status status) { written[chunk] = std::move(status); });
  }
  EXPECT_TRUE(cluster.run_until([&] { return cluster.engine().status().writes_paused; }));
  cluster.world.run_for(120s);
  EXPECT_TRUE(cluster.engine().status().writes_paused) << "for as long as it takes, and without an error";
  EXPECT_EQ(cluster.membership->in_sync.size(), 3u) << "nobody leaves";
  EXPECT_FALSE(written.back().has_value());
  EXPECT_EQ(*cluster.read(0, 4096), pattern(4096, 0));
  for (TestReplica& replica : cluster.replicas) make_room(cluster, replica);
  EXPECT_TRUE(cluster.run_until([&] { return written.back().has_value(); }));
  for (const std::optional<Status>& status : written) EXPECT_TRUE(status && status->ok());
  EXPECT_FALSE(cluster.engine().status().writes_paused);
  cluster.expect_identical();
}

// ---- repair on request ----

Result<RepairOutcome> repair(EngineCluster& cluster, BlockRange blocks, std::size_t bad, bool differs) {
  return cluster.wait<Result<RepairOutcome>>([&](Callback<void(Result<RepairOutcome>)> done) {
    cluster.engine().repair(blocks, cluster.replicas[bad].id, differs, std::move(done));
  });
}

TEST(RepairTest, WritesTheRightContentOverABadCopy) {
  EngineCluster cluster(64, kBlocks);
  cluster.attach();
  ASSERT_TRUE(cluster.write(0, pattern(64 * 4096, 'x')).ok());
  Result<RepairOutcome> nothing = repair(cluster, {BlockIndex(0), 64}, 0, false);
  ASSERT_TRUE(nothing.ok());
  EXPECT_EQ(nothing->repaired_blocks, 0u);
  EXPECT_TRUE(cluster.run_until(
      [&] { return cluster.replicas[0].disk->find(cluster.replicas[0].id)->info().applied == Seq(1); }));
  ASSERT_TRUE(cluster.world.disk("10.0.0.1").flip_stored_bit("/disk/data"));
  Result<RepairOutcome> repaired = repair(cluster, {BlockIndex(0), 64}, 0, false);
  ASSERT_TRUE(repaired.ok()) << repaired.error().to_string();
  EXPECT_EQ(repaired->repaired_blocks, 64u);
  EXPECT_EQ(cluster.content_of(cluster.replicas[0]).substr(0, 64 * 4096), pattern(64 * 4096, 'x'));
  cluster.expect_identical();
}

TEST(RepairTest, ReplacesACopyThatDiffersWithoutBeingDamaged) {
  EngineCluster cluster(65, kBlocks);
  cluster.attach();
  ASSERT_TRUE(cluster.write(0, pattern(4096, 'x')).ok());
  Result<RepairOutcome> repaired = repair(cluster, {BlockIndex(0), 1}, 0, true);
  ASSERT_TRUE(repaired.ok());
  EXPECT_EQ(repaired->repaired_blocks, 1u);
  cluster.expect_identical();
}

TEST(RepairTest, SaysWhenNoGoodCopyIsLeft) {
  EngineCluster cluster(66, kBlocks, 1);
  cluster.attach();
  ASSERT_TRUE(cluster.write(0, pattern(64 * 4096, 'x')).ok());
  EXPECT_TRUE(cluster.run_until(
      [&] { return cluster.replicas[0].disk->find(cluster.replicas[0].id)->info().applied == Seq(1); }));
  cluster.world.disk_faults(cluster.replicas[0].node).corrupt_read_ppm = 1'000'000;
  EXPECT_EQ(repair(cluster, {BlockIndex(0), 64}, 0, false).error().code(), ErrorCode::kCorrupt);
  EXPECT_EQ(repair(cluster, {BlockIndex(0), 1}, 0, true).error().code(), ErrorCode::kNoInSyncReplica);
  EXPECT_EQ(repair(cluster, {BlockIndex(0), 0}, 0, false).error().code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(repair(cluster, {BlockIndex(kBlocks), 1}, 0, false).error().code(), ErrorCode::kInvalidArgument);
}

// ---- turns ----

TEST(RebuildTurnsTest, AReplicaOnHoldIsRebuiltWhenItsTurnComes) {
  EngineCluster cluster(67, kBlocks);
  cluster.attach();
  ASSERT_TRUE(cluster.write(0, pattern(4096, 'a')).ok());
  std::vector<ReplicaConfig> configs = cluster.configs();
  for (ReplicaConfig& config : configs) config.hold_rebuild = config.id == cluster.replicas[2].id;
  cluster.engine().set_replicas(configs);
  cluster.kill(cluster.replicas[2]);
  ASSERT_TRUE(cluster.write(0, pattern(4096, 'b')).ok());
  cluster.start(cluster.replicas[2]);
  cluster.world.run_for(60s);
  EXPECT_FALSE(in_set(cluster, 2));
  EXPECT_EQ(status_of(cluster, 2).reason, "waits for its turn to be rebuilt");
  cluster.engine().set_replicas(cluster.configs());
  EXPECT_TRUE(cluster.wait_all_in_sync());
  cluster.expect_identical();
}

TEST(RebuildTurnsTest, AnAttachSaysWhomItLeftOutAndHowLongItWaited) {
  EngineCluster cluster(68, kBlocks);
  cluster.attach();
  ASSERT_TRUE(cluster.write(0, pattern(4096, 'a')).ok());
  cluster.kill(cluster.hosts.back());
  cluster.kill(cluster.replicas[2]);
  cluster.attach("another");
  EngineStatus status = cluster.engine().status();
  ASSERT_EQ(status.left_out.size(), 1u);
  EXPECT_EQ(status.left_out[0], cluster.replicas[2].id);
  EXPECT_GE(status.lease_waited, Nanos(2s));
}

}  // namespace
}  // namespace holdfast::engine
