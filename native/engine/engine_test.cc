// The engine against real replicas on the simulator: content, ordering, failures, recovery.
#include <algorithm>
#include <cstring>

#include "engine/engine_test_cluster.h"

namespace holdfast::engine {
namespace {

constexpr std::uint64_t kBlocks = 2'048;  // 8 MiB

std::string pattern(std::size_t size, char seed) {
  std::string bytes(size, seed);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(seed + static_cast<char>(i * 7 % 251));
  return bytes;
}

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

// ---- a replica fails ----

TEST(EngineTest, GoesOnWithoutAKilledReplicaAndRebuildsIt) {
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

TEST(EngineTest, ADeltaRebuildCopiesOnlyWhatChanged) {
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

TEST(EngineTest, AFrozenReplicaIsLeftOutInTime) {
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

TEST(EngineTest, WaitsForTheMetadataStoreBeforeItAcknowledges) {
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
  cluster.membership->set_reachable(true);
  EXPECT_TRUE(cluster.run_until([&] { return written.has_value(); }));
  EXPECT_TRUE(written->ok());
  EXPECT_EQ(cluster.membership->in_sync.size(), 2u);
  EXPECT_EQ(*cluster.read(0, 4096), pattern(4096, 'b'));
}

TEST(EngineTest, TheLastReplicaStaysAndIOWaitsForIt) {
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

TEST(EngineTest, AllReplicasKilledAtOnceComeBackWithoutARebuild) {
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

TEST(EngineTest, WaitingIOFailsAfterAWhileAndGoesOnLater) {
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

TEST(EngineTest, ALastReplicaWithoutAcknowledgedWritesStopsTheEngine) {
  // Power loss may or may not take unflushed writes with it: some seed must show each outcome.
  unsigned stopped = 0;
  for (std::uint64_t seed = 30; seed < 42; ++seed) {
    EngineCluster cluster(seed, kBlocks, 1);
    cluster.attach();
    for (int i = 0; i < 20; ++i) ASSERT_TRUE(cluster.write(i * 4096, pattern(4096, static_cast<char>(i))).ok());
    cluster.power_off(cluster.replicas[0]);
    cluster.start(cluster.replicas[0]);
    Seq last = cluster.replicas[0].disk->find(cluster.replicas[0].id)->info().last.seq;
    cluster.world.run_for(10s);
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

// ---- the engine fails ----

TEST(EngineTest, ANewEpochHasEveryAcknowledgedWrite) {
  for (std::uint64_t seed = 50; seed < 62; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    EngineCluster cluster(seed, kBlocks);
    cluster.attach();
    Workload workload(cluster, seed);
    for (int round = 0; round < 3; ++round) {
      for (int i = 0; i < 60; ++i) {
        EXPECT_TRUE(cluster.run_until([&] { return workload.in_flight < 16; }));
        workload.start_one();
      }
      cluster.world.run_for(Nanos(cluster.world.random().below(2'000'000)));
      cluster.kill(cluster.hosts.back());
      workload.forget_in_flight();
      if (round == 1) cluster.kill(cluster.replicas[seed % 3]);
      cluster.attach();
      workload.verify_all();
      if (round == 1) cluster.start(cluster.replicas[seed % 3]);
    }
    EXPECT_TRUE(cluster.wait_all_in_sync());
    workload.run(50, 8);
    workload.verify_all();
    cluster.expect_identical();
    ASSERT_FALSE(testing::Test::HasFailure());
  }
}

TEST(EngineTest, AStaleEngineIsFenced) {
  EngineCluster cluster(70, kBlocks);
  TestHost& old_host = cluster.attach("host1");
  ASSERT_TRUE(cluster.write(0, pattern(4096, 'a')).ok());
  cluster.world.freeze(old_host.process);
  cluster.attach("host2");
  ASSERT_TRUE(cluster.write(0, pattern(4096, 'b')).ok());
  cluster.world.thaw(old_host.process);
  std::optional<Result<SliceList>> stale;
  old_host.engine->read(0, 4096, [&](Result<SliceList> content) { stale.emplace(std::move(content)); });
  EXPECT_TRUE(cluster.run_until([&] { return stale.has_value(); }));
  EXPECT_FALSE(stale->ok()) << "a fenced engine must not serve reads";
  EXPECT_EQ(stale->error().code(), ErrorCode::kEpochSuperseded);
  EXPECT_EQ(cluster.membership->fenced_epochs, std::vector<Epoch>{Epoch(1)});
  EXPECT_EQ(*cluster.read(0, 4096), pattern(4096, 'b'));
}

// The old engine still reaches one replica that the new one does not; only the lease keeps it from reading there.
TEST(EngineTest, ACutOffEngineServesNoStaleRead) {
  for (std::uint64_t seed = 71; seed < 76; ++seed) {
    EngineCluster cluster(seed, kBlocks);
    TestHost& old_host = cluster.attach("host1");
    ASSERT_TRUE(cluster.write(0, pattern(4096, 'a')).ok());
    for (const char* node : {"10.0.0.1", "10.0.0.2"}) {
      cluster.world.set_link("host1", node, false);
      cluster.world.set_link(node, "host1", false);
    }
    cluster.world.set_link("host2", "10.0.0.3", false);
    cluster.world.set_link("10.0.0.3", "host2", false);
    cluster.membership->set_reachable(false);  // the old engine's request must not win by luck
    unsigned old_answers = 0;
    old_host.engine->read(0, 4096, [&old_answers](Result<SliceList> content) { old_answers += content.ok() ? 1 : 0; });
    cluster.world.run_for(Nanos(10'000'000 + cluster.world.random().below(5'000'000'000)));
    TestHost& new_host = cluster.begin_attach("host2");
    cluster.world.run_for(10ms);
    cluster.membership->set_reachable(true);
    bool overwritten = false;
    // The old engine reads all the time; nothing that it answers after the overwrite may be old.
    for (int i = 0; i < 400; ++i) {
      cluster.world.run_for(50ms);
      if (new_host.attached && new_host.engine && !overwritten) {
        ASSERT_TRUE(cluster.write(0, pattern(4096, 'b')).ok());
        overwritten = true;
      }
      bool after = overwritten;
      old_host.engine->read(0, 4096, [&old_answers, after](Result<SliceList> content) {
        if (!content.ok()) return;
        ++old_answers;
        EXPECT_FALSE(after) << "a stale read";
      });
    }
    EXPECT_TRUE(overwritten);
    EXPECT_GT(old_answers, 0u) << "within its lease it serves";
    cluster.world.heal_network();
    ASSERT_FALSE(testing::Test::HasFailure());
  }
}

TEST(EngineTest, AttachLeavesOutAReplicaThatDoesNotAnswer) {
  EngineCluster cluster(80, kBlocks);
  cluster.attach();
  Workload workload(cluster, 80);
  workload.run(50, 8);
  cluster.kill(cluster.hosts.back());
  cluster.kill(cluster.replicas[1]);
  cluster.attach();
  EXPECT_EQ(cluster.membership->in_sync.size(), 2u);
  workload.run(50, 8);
  cluster.start(cluster.replicas[1]);
  EXPECT_TRUE(cluster.wait_all_in_sync());
  workload.verify_all();
  cluster.expect_identical();
}

TEST(EngineTest, AttachFailsWhenNoReplicaAnswers) {
  EngineCluster cluster(81, kBlocks);
  cluster.attach();
  cluster.kill(cluster.hosts.back());
  for (TestReplica& replica : cluster.replicas) cluster.kill(replica);
  TestHost& host = cluster.begin_attach();
  EXPECT_TRUE(cluster.run_until([&host] { return host.attached; }));
  ASSERT_TRUE(host.failure.has_value());
  EXPECT_EQ(host.failure->code(), ErrorCode::kNoInSyncReplica);
  EXPECT_EQ(cluster.membership->in_sync.size(), 3u);
}

// ---- rebuild ----

TEST(EngineTest, ReplacesAReplicaWithANewOneUnderLoad) {
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
TEST(EngineTest, ARebuiltReplicaIsNotInSyncBeforeAllHaveWhatItsCopyReflects) {
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

TEST(EngineTest, ARebuildSurvivesTheLossOfItsSource) {
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

// ---- corruption ----

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
