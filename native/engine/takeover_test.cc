// Engines that die and are replaced: recovery, fencing, the lease, what a loss of power may take.
#include <algorithm>
#include <cstring>

#include "engine/engine_test_cluster.h"

namespace holdfast::engine {
namespace {

constexpr std::uint64_t kBlocks = 2'048;  // 8 MiB

TEST(TakeoverTest, ANewEpochHasEveryAcknowledgedWrite) {
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

// An engine that leaves a replica out and dies before it serves must not save its successor the wait for the lease.
TEST(TakeoverTest, ASuccessorOfATakeoverThatDiedDoesNotServeWithinTheOldLease) {
  EngineCluster cluster(99, kBlocks, 2);
  cluster.attach("old");
  for (int i = 0; i < 30; ++i) {  // reads renew the lease
    ASSERT_TRUE(cluster.write(0, pattern(4096, 'a')).ok());
    ASSERT_TRUE(cluster.read(0, 4096).ok());
    cluster.world.run_for(100ms);
  }
  auto cut = [&cluster](const std::string& host, const TestReplica& replica) {
    cluster.world.set_link(host, replica.node, false);
    cluster.world.set_link(replica.node, host, false);
  };
  cut("old", cluster.replicas[1]);
  cut("new", cluster.replicas[0]);
  cluster.membership->cut_off = cluster.membership->epoch;
  TestHost& dies = cluster.begin_attach("new");
  ASSERT_TRUE(cluster.run_until([&] { return dies.attached || cluster.membership->in_sync.size() == 1; }));
  cluster.kill(dies);
  cluster.attach("new");
  ASSERT_TRUE(cluster.write(0, pattern(4096, 'b')).ok());
  bool answered = false;
  cluster.hosts.front().engine->read(0, 4096, [&answered](Result<SliceList> content) { answered = content.ok(); });
  cluster.world.run_for(1s);
  EXPECT_FALSE(answered) << "the engine that was replaced still answers reads";
}

// The log that a replica tells at Open must not hold what its disk then failed to write.
TEST(TakeoverTest, WhatAFailingDiskCouldNotJournalIsNoPartOfTheLog) {
  EngineCluster cluster(98, kBlocks, 1);
  cluster.attach();
  ASSERT_TRUE(cluster.write(0, pattern(4096, 'a')).ok());
  cluster.world.delays().disk_min = cluster.world.delays().disk_max = 200ms;
  cluster.engine().write(0, {cluster.slice(pattern(4096, 'b'))}, BlockDevice::Durability::kJournalled, [](Status) {});
  cluster.world.run_for(10ms);  // on its way to the disk
  TestHost& next = cluster.begin_attach("other");
  cluster.world.run_for(20ms);
  cluster.world.disk_faults(cluster.replicas[0].node).write_error_ppm = 1'000'000;
  ASSERT_TRUE(cluster.run_until([&next] { return next.attached; }));
  EXPECT_TRUE(next.failure.has_value()) << "it serves entries that are in no journal";
}

// A write that a flush or FUA covered survives even when every host loses power in the same moment.
TEST(TakeoverTest, FlushedWritesSurviveALossOfPowerEverywhere) {
  for (std::uint64_t seed = 110; seed < 122; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    EngineCluster cluster(seed, kBlocks);
    cluster.attach();
    std::vector<std::vector<char>> allowed(64, {'\0'});
    auto put = [&](std::size_t block, char value, BlockDevice::Durability durability) {
      ASSERT_TRUE(cluster.write(block * 4096, std::string(4096, value), durability).ok());
      allowed[block].push_back(value);
    };
    sim::Random random(seed);
    for (char round = 1; round < 40; ++round) {
      std::size_t block = random.below(64);
      if (random.chance(1, 8)) {
        put(block, round, BlockDevice::Durability::kFlushed);
        allowed[block] = {round};
      } else {
        put(block, round, BlockDevice::Durability::kJournalled);
      }
      if (random.chance(1, 10)) {
        ASSERT_TRUE(cluster.flush().ok());
        for (std::vector<char>& values : allowed) values.assign(1, values.back());
      }
    }
    cluster.kill(cluster.hosts.back());
    for (TestReplica& replica : cluster.replicas) cluster.power_off(replica);
    for (TestReplica& replica : cluster.replicas) cluster.start(replica);
    cluster.attach();
    EXPECT_TRUE(cluster.wait_all_in_sync());
    for (std::size_t block = 0; block < 64; ++block) {
      Result<std::string> content = cluster.read(block * 4096, 4096);
      ASSERT_TRUE(content.ok());
      char value = (*content)[0];
      EXPECT_EQ(*content, std::string(4096, value));
      EXPECT_NE(std::count(allowed[block].begin(), allowed[block].end(), value), 0)
          << "block " << block << " holds " << int{value} << ", flushed was " << int{allowed[block][0]};
    }
    cluster.expect_identical();
    ASSERT_FALSE(testing::Test::HasFailure());
  }
}

TEST(TakeoverTest, AStaleEngineIsFenced) {
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

// Its last flush cannot end, and then another engine takes over: whoever waits for the close still hears of it.
TEST(TakeoverTest, AnEngineThatIsFencedWhileItClosesHasClosed) {
  EngineCluster cluster(69, kBlocks);
  TestHost& old_host = cluster.attach("host1");
  ASSERT_TRUE(cluster.write(0, pattern(4096, 'a')).ok());
  cluster.world.freeze(cluster.replicas[2].process);
  unsigned closed = 0;
  old_host.engine->close([&closed] { ++closed; });
  cluster.world.run_for(100ms);
  ASSERT_EQ(closed, 0u);
  cluster.attach("host2");
  EXPECT_TRUE(cluster.run_until([&] { return !cluster.membership->fenced_epochs.empty(); }));
  EXPECT_TRUE(cluster.run_until([&closed] { return closed > 0; }));
  cluster.world.run_for(15s);
  EXPECT_EQ(closed, 1u);
}

// The old engine still reaches one replica that the new one does not, and no metadata store tells it anything: only the
// lease keeps it from reading there what the new engine has overwritten.
TEST(TakeoverTest, ACutOffEngineServesNoStaleRead) {
  for (std::uint64_t seed = 71; seed < 79; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    EngineCluster cluster(seed, kBlocks);
    TestHost& old_host = cluster.attach("host1");
    ASSERT_TRUE(cluster.write(0, pattern(4096, 'a')).ok());
    for (const char* node : {"10.0.0.1", "10.0.0.2"}) {
      cluster.world.set_link("host1", node, false);
      cluster.world.set_link(node, "host1", false);
    }
    cluster.world.set_link("host2", "10.0.0.3", false);
    cluster.world.set_link("10.0.0.3", "host2", false);
    cluster.membership->cut_off = cluster.membership->epoch;
    bool overwritten = false;
    unsigned old_answers = 0, attempts = 0;
    auto read_old = [&] {
      ++attempts;
      old_host.engine->read(0, 4096, [&old_answers, after = overwritten](Result<SliceList> content) {
        if (!content.ok()) return;
        ++old_answers;
        EXPECT_FALSE(after) << "a stale read";
      });
      cluster.world.run_for(20ms);
    };
    for (std::uint64_t i = cluster.world.random().below(150); i > 0; --i) read_old();
    TestHost& new_host = cluster.begin_attach("host2");
    for (int i = 0; i < 800; ++i) {
      read_old();
      if (!overwritten && new_host.engine) {
        ASSERT_TRUE(cluster.write(0, pattern(4096, 'b')).ok());
        overwritten = true;
      }
    }
    EXPECT_TRUE(overwritten);
    EXPECT_GT(old_answers, 0u) << "within its lease it serves";
    EXPECT_LT(old_answers, attempts);
    cluster.world.heal_network();
    EXPECT_TRUE(cluster.run_until([&] { return old_host.engine->status().failure.find("EPOCH_SUPERSEDED") == 0; }));
    ASSERT_FALSE(testing::Test::HasFailure());
  }
}

// A replica leaves the set, and the old engine does not hear that this was stored (sim seed 9000375): the engine that
// takes over asks only those that stayed, and waits for no lease.
TEST(TakeoverTest, AReplicaThatMayHaveLeftServesNoRead) {
  for (std::uint64_t seed = 79; seed < 87; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    EngineCluster cluster(seed, kBlocks);
    TestHost& old_host = cluster.attach("host1");
    ASSERT_TRUE(cluster.write(0, pattern(4096, 'a')).ok());
    unsigned late = 0;
    bool overwritten = false;
    auto read_old = [&] {
      old_host.engine->read(0, 4096, [&](Result<SliceList> content) { late += overwritten && content.ok() ? 1 : 0; });
    };
    read_old();  // perhaps answered by the one that leaves, and after the change was asked for
    cluster.membership->cut_off = cluster.membership->epoch;
    std::vector<ReplicaConfig> staying = cluster.configs();
    staying.erase(staying.begin());
    old_host.engine->set_replicas(staying);
    cluster.membership->in_sync = {staying[0].id, staying[1].id};
    for (const ReplicaConfig& replica : staying) {
      std::string node = std::find_if(cluster.replicas.begin(), cluster.replicas.end(), [&](const TestReplica& each) {
                           return each.id == replica.id;
                         })->node;
      cluster.world.set_link("host1", node, false);
      cluster.world.set_link(node, "host1", false);
    }
    TestHost& new_host = cluster.begin_attach("host2");
    for (int i = 0; i < 200; ++i) {
      read_old();
      cluster.world.run_for(5ms);
      if (!overwritten && new_host.engine) {
        ASSERT_TRUE(cluster.write(0, pattern(4096, 'b')).ok());
        overwritten = true;
      }
    }
    EXPECT_TRUE(overwritten);
    EXPECT_EQ(late, 0u) << "stale reads";
    cluster.world.heal_network();
    EXPECT_TRUE(cluster.run_until([&] { return old_host.engine->status().failure.find("EPOCH_SUPERSEDED") == 0; }));
    ASSERT_FALSE(testing::Test::HasFailure());
  }
}

// What only one replica has of the old engine's last entries is given up; that replica must not keep any of it.
TEST(TakeoverTest, EntriesThatOnlyAReplicaLeftOutHasAreUndone) {
  for (std::uint64_t seed = 63; seed < 67; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    EngineCluster cluster(seed, kBlocks);
    cluster.attach();
    ASSERT_TRUE(cluster.write(0, pattern(4u << 20, 'o')).ok());
    cluster.world.run_for(1s);
    cluster.world.set_link("host", "10.0.0.2", false);
    cluster.world.set_link("host", "10.0.0.3", false);
    for (int i = 0; i < 8; ++i) {
      cluster.engine().write(i * (1u << 18), {cluster.slice(pattern(8192, 'x'))}, BlockDevice::Durability::kJournalled,
                             [](Status status) { EXPECT_FALSE(status.ok()); });
    }
    cluster.world.run_for(500ms);
    cluster.kill(cluster.hosts.back());
    Seq parted = cluster.replicas[0].disk->find(cluster.replicas[0].id)->info().last.seq;
    cluster.kill(cluster.replicas[0]);
    cluster.world.heal_network();
    cluster.attach();
    ASSERT_LT(cluster.engine().status().last, parted) << "the others do not have them";
    std::string model = pattern(4u << 20, 'o');
    for (int i = 0; i < 20; ++i) {
      std::size_t offset = (2u << 20) + static_cast<std::size_t>(i) * 4096 * 16;
      ASSERT_TRUE(cluster.write(offset, pattern(4096, 'n')).ok());
      model.replace(offset, 4096, pattern(4096, 'n'));
    }
    cluster.start(cluster.replicas[0]);
    EXPECT_TRUE(cluster.wait_all_in_sync());
    EXPECT_TRUE(*cluster.read(0, model.size()) == model);
    cluster.expect_identical();
    ASSERT_FALSE(testing::Test::HasFailure());
  }
}

// A large write is in its slot while it waits in the log, and the slot cannot be read (sim seed 50012103).
class UnreadableTailTest : public testing::Test {
 protected:
  static constexpr std::size_t kBytes = 256u << 10;

  void begin(unsigned replicas, std::uint64_t seed = 97) {
    cluster_ = std::make_unique<EngineCluster>(seed, kBlocks, replicas);
    cluster_->attach();
    ASSERT_TRUE(cluster_->write(0, old_).ok());
    ASSERT_TRUE(cluster_->flush().ok());
    cluster_->world.run_for(1s);
  }
  TestReplica& replica(std::size_t index) { return cluster_->replicas[index]; }
  // The newest write is in the logs of the others.
  void write_without(std::vector<std::size_t> cut) {
    for (std::size_t index : cut) cluster_->world.set_link("host", replica(index).node, false);
    cluster_->engine().write(0, {cluster_->slice(new_)}, BlockDevice::Durability::kJournalled, [](Status) {});
    cluster_->world.run_for(200ms);
    cluster_->kill(cluster_->hosts.back());
    cluster_->world.heal_network();
  }
  void make_unreadable(std::size_t index) {
    sim::SimFileData& data = *cluster_->world.disk(replica(index).node).find("/disk/data");
    for (auto& [page, held] : data.current) {
      if (std::memcmp(held->data(), new_.data() + bad_, kBlockSize) == 0) data.unreadable.insert(page);
    }
    ASSERT_EQ(data.unreadable.size(), 1u);
    Seq last = replica(index).disk->find(replica(index).id)->info().last.seq;
    auto log = cluster_->wait<Result<std::vector<store::Entry>>>(
        [&](auto done) { replica(index).disk->find(replica(index).id)->read_log(last, last, std::move(done)); });
    ASSERT_FALSE(log.ok());
    ASSERT_EQ(log.error().code(), ErrorCode::kCorrupt);
  }
  bool in_sync(std::size_t index) {
    const std::vector<ReplicaId>& set = cluster_->membership->in_sync;
    return std::find(set.begin(), set.end(), replica(index).id) != set.end();
  }

  std::string old_ = pattern(kBytes, 'o');
  std::string new_ = [] {
    std::string bytes = pattern(kBytes, 'n');
    for (std::size_t block = 0; block < kBytes / kBlockSize; ++block)
      bytes[block * kBlockSize] = static_cast<char>(block);
    return bytes;
  }();
  std::size_t bad_ = 20 * kBlockSize;
  std::unique_ptr<EngineCluster> cluster_;
};

TEST_F(UnreadableTailTest, AnotherReplicaHasIt) {
  begin(3);
  write_without({2});
  make_unreadable(0);
  cluster_->attach();
  EXPECT_EQ(cluster_->membership->in_sync.size(), 3u);
  EXPECT_EQ(cluster_->membership->changes, 0u);
  EXPECT_TRUE(*cluster_->read(0, kBytes) == new_);
}

TEST_F(UnreadableTailTest, ItWasNeverAcknowledgedAndIsGivenUpWithTheOnlyLogThatHasIt) {
  begin(3);
  write_without({1, 2});
  make_unreadable(0);
  cluster_->attach();
  EXPECT_FALSE(in_sync(0));
  EXPECT_TRUE(*cluster_->read(0, kBytes) == old_);
  EXPECT_TRUE(cluster_->wait_all_in_sync());
  EXPECT_TRUE(*cluster_->read(0, kBytes) == old_);
  cluster_->expect_identical();
}

TEST_F(UnreadableTailTest, ItWasAcknowledgedAndTheOtherLostItWithItsPower) {
  bool lost = false;
  for (std::uint64_t seed = 100; !lost && seed < 130; ++seed) {  // until it does
    begin(2, seed);
    ASSERT_TRUE(cluster_->write(0, new_).ok());
    store::ReplicaStore& first = *replica(0).disk->find(replica(0).id);
    ASSERT_TRUE(cluster_->run_until([&first] { return first.info().committed == first.info().last.seq; }));
    cluster_->kill(cluster_->hosts.back());
    cluster_->power_off(replica(1));
    cluster_->start(replica(1));
    lost = replica(1).disk->find(replica(1).id)->info().last.seq < first.info().last.seq;
  }
  ASSERT_TRUE(lost);
  make_unreadable(0);
  cluster_->attach();
  EXPECT_FALSE(in_sync(1));
  EXPECT_TRUE(*cluster_->read(0, bad_) == new_.substr(0, bad_)) << "what was acknowledged";
  EXPECT_FALSE(cluster_->read(bad_, kBlockSize).ok());
}

TEST(TakeoverTest, AttachLeavesOutAReplicaThatDoesNotAnswer) {
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

TEST(TakeoverTest, AttachFailsWhenNoReplicaAnswers) {
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

}  // namespace
}  // namespace holdfast::engine
