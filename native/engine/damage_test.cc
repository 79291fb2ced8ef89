// Blocks that the source of a rebuild cannot give: they must not keep the rest from having a second copy, and stay
// known as damaged where nobody has them. docs/consistency.md, "Rebuild", "Damage at the source".
#include <algorithm>
#include <cstring>

#include "engine/engine_test_cluster.h"

namespace holdfast::engine {
namespace {

constexpr std::uint64_t kBlocks = 1'024;  // 4 MiB
constexpr std::uint64_t kBad = 10;
constexpr SnapshotId kSnapshot{0xA};

class DamageTest : public testing::Test {
 protected:
  void begin(unsigned replicas) {
    cluster_ = std::make_unique<EngineCluster>(7, kBlocks, replicas);
    cluster_->attach();
    content_ = pattern(kBlocks * kBlockSize, 'a');
    for (std::uint64_t block = 0; block < kBlocks; ++block) {
      std::memcpy(content_.data() + block * kBlockSize, &block, sizeof block);
    }
    ASSERT_TRUE(cluster_->write(0, content_).ok());
    settle();
  }
  // Everything is in its chunks afterwards.
  void settle() {
    ASSERT_TRUE(cluster_->flush().ok());
    cluster_->world.run_for(3s);
  }
  std::string block(std::uint64_t index) const { return content_.substr(index * kBlockSize, kBlockSize); }
  void write(std::uint64_t index, char seed) {
    content_.replace(index * kBlockSize, kBlockSize, pattern(kBlockSize, seed));
    ASSERT_TRUE(cluster_->write(index * kBlockSize, block(index)).ok());
  }
  sim::SimFileData& data(std::size_t replica) {
    return *cluster_->world.disk(cluster_->replicas[replica].node).find("/disk/data");
  }
  // Where a block with this content is.
  std::uint64_t page_of(std::size_t replica, const std::string& bytes) {
    for (auto& [page, held] : data(replica).current) {
      if (std::memcmp(held->data(), bytes.data(), kBlockSize) == 0) return page;
    }
    ADD_FAILURE() << "no such block";
    return 0;
  }
  void make_unreadable(std::size_t replica, const std::string& bytes) {
    data(replica).unreadable.insert(page_of(replica, bytes));
  }
  TestReplica& rebuild_another() {
    TestReplica& fresh = cluster_->add_replica();
    cluster_->create_on(fresh, false);
    cluster_->engine().set_replicas(cluster_->configs());
    return fresh;
  }
  // And the engine knows it, and has looked at what was damaged.
  bool in_sync(std::size_t count) {
    bool stored = cluster_->run_until([&] { return cluster_->membership->in_sync.size() == count; });
    cluster_->world.run_for(1s);
    return stored;
  }
  // A second copy of the only one, which cannot read kBad.
  TestReplica& rebuild_from_damage() {
    begin(1);
    make_unreadable(0, block(kBad));
    TestReplica& fresh = rebuild_another();
    EXPECT_TRUE(in_sync(2));
    return fresh;
  }
  // The others are gone: only this one can answer.
  void leave_alone(const TestReplica& one) {
    for (TestReplica& replica : cluster_->replicas) {
      if (&replica != &one && replica.process) cluster_->kill(replica);
    }
    ASSERT_TRUE(in_sync(1));
  }
  void expect_all_but(std::uint64_t bad) {
    for (std::uint64_t at = 0; at < kBlocks; ++at) {
      if (at == bad) continue;
      Result<std::string> read = cluster_->read(at * kBlockSize, kBlockSize);
      ASSERT_TRUE(read.ok()) << "block " << at << ": " << read.error().to_string();
      EXPECT_TRUE(*read == block(at)) << "block " << at;
    }
  }
  void expect_damaged(std::uint64_t index) {
    Result<std::string> read = cluster_->read(index * kBlockSize, kBlockSize);
    ASSERT_FALSE(read.ok());
    EXPECT_EQ(read.error().code(), ErrorCode::kCorrupt) << read.error().to_string();
  }
  Result<std::string> read_snapshot(std::uint64_t index) {
    auto outcome = cluster_->wait<Result<SliceList>>([&](auto done) {
      cluster_->engine().read_snapshot(kSnapshot, {BlockIndex(index), 1}, std::move(done));
    });
    if (!outcome.ok()) return outcome.error();
    std::string text;
    for (const Slice& part : *outcome) text += part.text();
    return text;
  }
  void take_snapshot() {
    ASSERT_TRUE(
        cluster_->wait<Status>([&](auto done) { cluster_->engine().snapshot(kSnapshot, std::move(done)); }).ok());
  }
  Result<RepairOutcome> repair(std::uint64_t index, const TestReplica& bad) {
    return cluster_->wait<Result<RepairOutcome>>([&](auto done) {
      cluster_->engine().repair({BlockIndex(index), 1}, bad.id, false, std::move(done));
    });
  }
  const std::vector<std::string>& told() const { return cluster_->membership->damage; }

  std::unique_ptr<EngineCluster> cluster_;
  std::string content_;
};

TEST_F(DamageTest, ABadSectorOfTheOnlyCopyKeepsNothingElseFromBeingCopied) {
  TestReplica& fresh = rebuild_from_damage();
  ASSERT_EQ(told().size(), 1u);
  EXPECT_NE(told()[0].find(" 1 blocks"), std::string::npos) << told()[0];
  EXPECT_NE(told()[0].find(": 10;"), std::string::npos) << told()[0];
  expect_damaged(kBad);
  expect_all_but(kBad);
  leave_alone(fresh);
  expect_damaged(kBad);
  expect_all_but(kBad);
}

TEST_F(DamageTest, ContentThatDoesNotMatchIsCopiedAsDamagedToo) {
  begin(1);
  (*data(0).current[page_of(0, block(kBad))])[7] ^= std::byte{1};
  TestReplica& fresh = rebuild_another();
  ASSERT_TRUE(in_sync(2));
  EXPECT_EQ(told().size(), 1u);
  leave_alone(fresh);
  expect_damaged(kBad);
  expect_all_but(kBad);
}

TEST_F(DamageTest, AWriteHealsItOnAllCopies) {
  TestReplica& fresh = rebuild_from_damage();
  write(kBad, 'w');
  settle();
  expect_all_but(kBlocks);
  cluster_->expect_identical();
  leave_alone(fresh);
  expect_all_but(kBlocks);
}

// A rebuild of a third copy finds nothing sound either.
TEST_F(DamageTest, DamageGoesOnFromCopyToCopyAsDamage) {
  TestReplica& second = rebuild_from_damage();
  leave_alone(second);
  TestReplica& third = rebuild_another();
  ASSERT_TRUE(in_sync(2));
  leave_alone(third);
  expect_damaged(kBad);
  expect_all_but(kBad);
}

TEST_F(DamageTest, WhatAnotherCopyHasIsTakenFromThere) {
  begin(2);
  make_unreadable(0, block(kBad));
  make_unreadable(1, block(kBad + 1));
  TestReplica& fresh = rebuild_another();
  ASSERT_TRUE(in_sync(3));
  EXPECT_TRUE(told().empty()) << told()[0];
  leave_alone(fresh);
  expect_all_but(kBlocks);
}

TEST_F(DamageTest, WhatTheReplicaHeldBeforeIsTakenFromIt) {
  begin(2);
  cluster_->kill(cluster_->replicas[1]);
  write(kBad + 1, 'n');  // in the same chunk
  settle();
  make_unreadable(0, block(kBad));
  cluster_->start(cluster_->replicas[1]);
  ASSERT_TRUE(in_sync(2));
  EXPECT_TRUE(told().empty()) << told()[0];
  leave_alone(cluster_->replicas[1]);
  expect_all_but(kBlocks);
}

TEST_F(DamageTest, ADeviceThatFailsForAMomentCostsNothing) {
  begin(1);
  make_unreadable(0, block(kBad));
  TestReplica& fresh = rebuild_another();
  cluster_->world.run_for(6s);
  EXPECT_EQ(cluster_->membership->in_sync.size(), 1u);
  data(0).unreadable.clear();
  ASSERT_TRUE(in_sync(2));
  EXPECT_TRUE(told().empty()) << told()[0];
  leave_alone(fresh);
  expect_all_but(kBlocks);
}

// The damage is known as such, so what finds and mends damage does so here.
TEST_F(DamageTest, ARepairMendsItOnceACopyHasItAgain) {
  TestReplica& fresh = rebuild_from_damage();
  Result<RepairOutcome> hopeless = repair(kBad, fresh);
  ASSERT_FALSE(hopeless.ok());
  EXPECT_EQ(hopeless.error().code(), ErrorCode::kCorrupt);
  data(0).unreadable.clear();
  Result<RepairOutcome> repaired = repair(kBad, fresh);
  ASSERT_TRUE(repaired.ok()) << repaired.error().to_string();
  EXPECT_EQ(repaired->repaired_blocks, 1u);
  settle();
  leave_alone(fresh);
  expect_all_but(kBlocks);
}

// What nobody had when a replica was rebuilt is looked at again when another one becomes in-sync.
TEST_F(DamageTest, AReplicaThatComesBackWithItMendsTheOthers) {
  begin(2);
  cluster_->kill(cluster_->replicas[1]);
  write(kBad + 1, 'n');
  settle();
  make_unreadable(0, block(kBad));
  TestReplica& fresh = rebuild_another();
  ASSERT_TRUE(in_sync(2));
  EXPECT_EQ(told().size(), 1u);
  cluster_->start(cluster_->replicas[1]);
  ASSERT_TRUE(in_sync(3));
  settle();
  leave_alone(fresh);
  expect_all_but(kBlocks);
}

TEST_F(DamageTest, OfASnapshotItIsCopiedLikewise) {
  begin(1);
  std::string before = block(kBad);
  take_snapshot();
  write(kBad, 's');
  settle();
  make_unreadable(0, before);
  TestReplica& fresh = rebuild_another();
  ASSERT_TRUE(in_sync(2));
  EXPECT_EQ(told().size(), 1u);
  leave_alone(fresh);
  expect_all_but(kBlocks);
  Result<std::string> damaged = read_snapshot(kBad);
  ASSERT_FALSE(damaged.ok());
  EXPECT_EQ(damaged.error().code(), ErrorCode::kCorrupt);
  Result<std::string> sound = read_snapshot(kBad + 1);
  ASSERT_TRUE(sound.ok());
  EXPECT_TRUE(*sound == block(kBad + 1));
}

TEST_F(DamageTest, OfASnapshotAnotherCopyIsAskedToo) {
  begin(2);
  std::string before = block(kBad);
  take_snapshot();
  write(kBad, 's');
  settle();
  make_unreadable(0, before);
  TestReplica& fresh = rebuild_another();
  ASSERT_TRUE(in_sync(3));
  EXPECT_TRUE(told().empty()) << told()[0];
  leave_alone(fresh);
  Result<std::string> sound = read_snapshot(kBad);
  ASSERT_TRUE(sound.ok());
  EXPECT_TRUE(*sound == before);
}

}  // namespace
}  // namespace holdfast::engine
