// Snapshots through the engine: under load, with replicas that fail and are rebuilt, the same on every copy.
#include <algorithm>
#include <map>

#include "base/crc32c.h"
#include "engine/engine_test_cluster.h"

namespace holdfast::engine {
namespace {

constexpr std::uint64_t kBlocks = 1'024;  // 4 MiB

Status change(EngineCluster& cluster, void (Engine::*what)(SnapshotId, StatusCallback), SnapshotId id) {
  return cluster.wait<Status>([&](StatusCallback done) { (cluster.engine().*what)(id, std::move(done)); });
}

std::string text_of(const SliceList& parts) {
  std::string text;
  for (const Slice& part : parts) text += part.text();
  return text;
}

// As the engine reads it.
std::string content_of(EngineCluster& cluster, SnapshotId id) {
  std::string all;
  for (std::uint64_t first = 0; first < kBlocks; first += 256) {
    Result<SliceList> part = cluster.wait<Result<SliceList>>([&](BlockDevice::ReadCallback done) {
      cluster.engine().read_snapshot(id, {BlockIndex(first), 256}, std::move(done));
    });
    EXPECT_TRUE(part.ok()) << part.error().to_string();
    if (part.ok()) all += text_of(*part);
  }
  return all;
}

// As one replica has it, behind the engine's back.
std::string content_of(EngineCluster& cluster, TestReplica& replica, SnapshotId id) {
  std::string all;
  for (std::uint64_t first = 0; first < kBlocks; first += 256) {
    auto read = cluster.wait<Result<store::ReadOutcome>>([&](Callback<void(Result<store::ReadOutcome>)> done) {
      replica.disk->find(replica.id)->read_snapshot(id, {BlockIndex(first), 256}, false, std::move(done));
    });
    EXPECT_TRUE(read.ok()) << read.error().to_string();
    if (!read.ok()) return all;
    std::string bytes = text_of(read->data);
    std::size_t index = 0;
    for (std::size_t block = 0; block < 256; ++block) {
      if ((read->present[block / 8] >> (block % 8) & 1) == 0) {
        all.append(kBlockSize, '\0');
        continue;
      }
      std::string_view one = std::string_view(bytes).substr(index * kBlockSize, kBlockSize);
      EXPECT_EQ(crc32c(as_bytes(one)), read->crc[index]);
      all += one;
      ++index;
    }
  }
  return all;
}

std::vector<SnapshotId> ids_of(TestReplica& replica) {
  std::vector<SnapshotId> ids;
  for (const store::SnapshotInfo& snapshot : replica.disk->find(replica.id)->snapshots()) ids.push_back(snapshot.id);
  return ids;
}

// The same snapshots with the same content everywhere, and equal digests of every layer.
void expect_same_snapshots(EngineCluster& cluster) {
  cluster.expect_identical();
  cluster.world.run_for(3s);
  std::vector<SnapshotId> ids = ids_of(cluster.replicas[0]);
  std::map<std::pair<std::uint64_t, std::uint64_t>, store::ChunkVersion> first;
  for (TestReplica& replica : cluster.replicas) {
    ASSERT_EQ(ids_of(replica), ids) << replica.node;
    for (SnapshotId id : ids) {
      ASSERT_TRUE(content_of(cluster, replica, id) == content_of(cluster, cluster.replicas[0], id))
          << replica.node << " has another snapshot " << id.value();
    }
    auto versions = cluster.wait<Result<std::vector<store::ChunkVersion>>>(
        [&](Callback<void(Result<std::vector<store::ChunkVersion>>)> done) {
          replica.disk->find(replica.id)->list_chunks(ChunkIndex(0), ChunkIndex(99), Seq(0), 99'999, std::move(done));
        });
    ASSERT_TRUE(versions.ok());
    for (const store::ChunkVersion& version : *versions) {
      auto [known, added] = first.emplace(std::pair(version.chunk.value(), version.layer), version);
      if (added) continue;
      EXPECT_EQ(known->second.version, version.version) << replica.node << " chunk " << version.chunk.value();
      EXPECT_EQ(known->second.digest, version.digest) << replica.node << " chunk " << version.chunk.value();
    }
    store::SpaceInfo space = replica.disk->space();
    EXPECT_EQ(space.used_bytes, replica.disk->find(replica.id)->info().used_bytes);
  }
  for (TestReplica& replica : cluster.replicas) {
    EXPECT_EQ(replica.disk->space().used_bytes, cluster.replicas[0].disk->space().used_bytes) << replica.node;
  }
}

class History {
 public:
  explicit History(std::uint64_t seed) : cluster_(seed, kBlocks), random_(seed + 5), workload_(cluster_, seed) {}

  void run() {
    cluster_.attach();
    for (int round = 0; round < 14 && !testing::Test::HasFailure(); ++round) step();
    for (TestReplica& replica : cluster_.replicas) {
      if (!replica.process) cluster_.start(replica);
    }
    ASSERT_TRUE(cluster_.wait_all_in_sync());
    workload_.verify_all();
    expect_same_snapshots(cluster_);
    for (const auto& [id, content] : taken_at_rest_) ASSERT_TRUE(content_of(cluster_, id) == content) << id.value();
  }

  EngineCluster& cluster() { return cluster_; }
  std::map<SnapshotId, std::string>& taken_at_rest() { return taken_at_rest_; }

 private:
  void step() {
    // Snapshots and drops in the middle of writes.
    workload_.run(40, 8, [&](unsigned) {
      if (random_.chance(1, 15)) take();
      if (random_.chance(1, 20)) drop();
    });
    if (random_.chance(1, 2)) {
      workload_.drain();
      SnapshotId id = take();
      ASSERT_TRUE(cluster_.run_until([&] { return pending_ == 0; }));
      Result<std::string> content = cluster_.read(0, kBlocks * kBlockSize);
      ASSERT_TRUE(content.ok());
      taken_at_rest_[id] = *content;
    }
    TestReplica& replica = cluster_.replicas[random_.below(3)];
    if (!replica.process) {
      cluster_.start(replica);
      if (random_.chance(1, 2)) ASSERT_TRUE(cluster_.wait_all_in_sync());
    } else if (random_.chance(1, 2) && cluster_.membership->in_sync.size() == 3) {
      cluster_.kill(replica);
    }
  }

  SnapshotId take() {
    SnapshotId id(++last_id_);
    known_.push_back(id);
    ++pending_;
    cluster_.engine().snapshot(id, [this](Status status) {
      EXPECT_TRUE(status.ok()) << status.error().to_string();
      --pending_;
    });
    return id;
  }
  void drop() {
    if (known_.empty()) return;
    std::size_t index = random_.below(known_.size());
    ++pending_;
    cluster_.engine().drop_snapshot(known_[index], [this](Status status) {
      EXPECT_TRUE(status.ok()) << status.error().to_string();
      --pending_;
    });
    taken_at_rest_.erase(known_[index]);
    known_.erase(known_.begin() + static_cast<std::ptrdiff_t>(index));
  }

  EngineCluster cluster_;
  sim::Random random_;
  Workload workload_;
  std::vector<SnapshotId> known_;
  std::map<SnapshotId, std::string> taken_at_rest_;
  std::uint64_t last_id_ = 0;
  int pending_ = 0;
};

TEST(SnapshotsTest, AreTheSameOnEveryCopyThroughFailuresAndRebuilds) {
  std::uint64_t first = 1, seeds = 12;
  if (const char* text = std::getenv("HOLDFAST_SNAPSHOT_SEED")) first = std::strtoull(text, nullptr, 10), seeds = 1;
  if (const char* text = std::getenv("HOLDFAST_SNAPSHOT_SEEDS")) seeds = std::strtoull(text, nullptr, 10);
  for (std::uint64_t seed = first; seed < first + seeds; ++seed) {
    History history(seed);
    history.run();
    ASSERT_FALSE(testing::Test::HasFailure()) << "replay with HOLDFAST_SNAPSHOT_SEED=" << seed;
  }
}

TEST(SnapshotsTest, ANewReplicaGetsAllOfThem) {
  EngineCluster cluster(5, kBlocks);
  cluster.attach();
  for (std::uint64_t i = 1; i <= 20; ++i) {
    ASSERT_TRUE(cluster.write(i * 64 * 1024, pattern(98'304, static_cast<char>(i))).ok());
    ASSERT_TRUE(change(cluster, &Engine::snapshot, SnapshotId(i)).ok());
  }
  std::vector<std::string> contents;
  for (std::uint64_t i = 1; i <= 20; ++i) contents.push_back(content_of(cluster, SnapshotId(i)));
  TestReplica& fresh = cluster.add_replica();
  cluster.create_on(fresh, false);
  cluster.engine().set_replicas(cluster.configs());
  ASSERT_TRUE(cluster.run_until([&] { return cluster.membership->in_sync.size() == 4; }));
  for (std::uint64_t i = 1; i <= 20; ++i) {
    ASSERT_TRUE(content_of(cluster, fresh, SnapshotId(i)) == contents[i - 1]) << i;
  }
  expect_same_snapshots(cluster);
}

TEST(SnapshotsTest, RevertBringsTheContentBackAndKeepsLaterSnapshots) {
  EngineCluster cluster(6, kBlocks);
  cluster.attach();
  ASSERT_TRUE(cluster.write(0, pattern(1u << 20, 'a')).ok());
  ASSERT_TRUE(change(cluster, &Engine::snapshot, SnapshotId(1)).ok());
  ASSERT_TRUE(cluster.write(300'000 / 512 * 512, pattern(1u << 19, 'b')).ok());
  ASSERT_TRUE(change(cluster, &Engine::snapshot, SnapshotId(2)).ok());
  ASSERT_TRUE(cluster.zero(0, 1u << 18).ok());
  std::string first = content_of(cluster, SnapshotId(1));
  std::string second = content_of(cluster, SnapshotId(2));
  EXPECT_EQ(change(cluster, &Engine::revert, SnapshotId(9)).error().code(), ErrorCode::kNotFound);
  ASSERT_TRUE(change(cluster, &Engine::revert, SnapshotId(1)).ok());
  ASSERT_TRUE(*cluster.read(0, kBlocks * kBlockSize) == first);
  ASSERT_TRUE(content_of(cluster, SnapshotId(2)) == second);
  ASSERT_TRUE(cluster.write(0, pattern(8192, 'c')).ok());
  ASSERT_TRUE(content_of(cluster, SnapshotId(1)) == first);
  expect_same_snapshots(cluster);
  ASSERT_TRUE(change(cluster, &Engine::drop_snapshot, SnapshotId(1)).ok());
  ASSERT_TRUE(change(cluster, &Engine::drop_snapshot, SnapshotId(2)).ok());
  ASSERT_TRUE(change(cluster, &Engine::drop_snapshot, SnapshotId(2)).ok()) << "again";
  expect_same_snapshots(cluster);
  std::string expected = pattern(8192, 'c') + first.substr(8192);
  ASSERT_TRUE(*cluster.read(0, kBlocks * kBlockSize) == expected);
  EXPECT_EQ(cluster.replicas[0].disk->space().used_bytes, 4u * kChunkSize);
}

// A revert that only some replicas have journalled when the engine dies, and entries behind it.
TEST(SnapshotsTest, ARevertInTheMiddleOfATakeOverIsAppliedOnceEverywhere) {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    EngineCluster cluster(700 + seed, kBlocks);
    sim::Random random(seed);
    cluster.attach();
    ASSERT_TRUE(cluster.write(0, pattern(1u << 20, 'a')).ok());
    ASSERT_TRUE(change(cluster, &Engine::snapshot, SnapshotId(1)).ok());
    ASSERT_TRUE(cluster.write(0, pattern(1u << 20, 'b')).ok());
    cluster.engine().revert(SnapshotId(1), [](Status) {});
    cluster.engine().write(8192, {cluster.slice(pattern(4096, 'w'))}, BlockDevice::Durability::kJournalled,
                           [](Status) {});
    cluster.world.run_for(Nanos(random.below(60'000'000)));
    cluster.kill(cluster.hosts.back());
    TestReplica& replica = cluster.replicas[random.below(3)];
    if (random.chance(1, 2)) {
      cluster.kill(replica);
      cluster.start(replica);
    }
    cluster.attach();
    ASSERT_TRUE(cluster.wait_all_in_sync());
    std::string content = *cluster.read(0, 1u << 20);
    std::string reverted = pattern(1u << 20, 'a');
    std::string both = reverted;
    both.replace(8192, 4096, pattern(4096, 'w'));
    ASSERT_TRUE(content == pattern(1u << 20, 'b') || content == reverted || content == both) << seed;
    ASSERT_TRUE(cluster.write(0, pattern(4096, 'z')).ok());
    expect_same_snapshots(cluster);
  }
}

}  // namespace
}  // namespace holdfast::engine
