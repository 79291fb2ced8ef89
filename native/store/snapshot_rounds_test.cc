// Small rounds of the destager that go on behind snapshots: what each snapshot holds, what they cost, and the loss of
// power at any moment.
#include <algorithm>

#include "sim/world.h"
#include "store/test_machine.h"

namespace holdfast::store {
namespace {

const ReplicaId kReplica(1);
constexpr std::uint64_t kChunks = 40;

class SnapshotRoundsTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(machine_.open().ok());
    ASSERT_TRUE(machine_.create(kReplica, kChunks * kBlocksPerChunk).ok());
    expected_.assign(kChunks, 0);
  }

  ReplicaStore& replica() { return *machine_.disk->find(kReplica); }
  LogPosition next() { return at(1, replica().info().last.seq.value() + 1); }
  void append(Entry entry) {
    ReplicaStore& store = replica();
    Status status =
        machine_.wait<Status>([&](StatusCallback done) { store.append(std::move(entry), std::move(done)); });
    ASSERT_TRUE(status.ok()) << status.error().to_string();
  }
  // The first block of a chunk.
  void write(std::uint64_t chunk) {
    expected_[chunk] = ++tag_;
    append(write_entry(machine_.env(), next(), {BlockIndex(chunk * kBlocksPerChunk), 1}, tag_));
  }
  void zero(std::uint64_t chunk) {
    expected_[chunk] = 0;
    append(zero_entry(next(), {BlockIndex(chunk * kBlocksPerChunk), kBlocksPerChunk}));
  }
  void snapshot() {
    SnapshotId id(snapshots_.size() + 1);
    snapshots_.push_back(expected_);
    append(layer_entry(next(), Op::kSnapshot, id));
  }
  void commit_all() { replica().set_committed(replica().info().last.seq); }
  std::uint64_t tag_at(std::uint64_t chunk, std::optional<SnapshotId> snapshot) {
    auto read = machine_.wait<Result<ReadOutcome>>([&](Callback<void(Result<ReadOutcome>)> done) {
      BlockRange one{BlockIndex(chunk * kBlocksPerChunk), 1};
      if (snapshot) return replica().read_snapshot(*snapshot, one, false, std::move(done));
      replica().read(one, std::move(done));
    });
    EXPECT_TRUE(read.ok()) << read.error().to_string();
    return read.ok() ? tags_of(read->present, 1, read->crc, read->data)[0] : 0;
  }
  void verify() {
    for (std::uint64_t chunk = 0; chunk < kChunks; ++chunk) {
      ASSERT_EQ(tag_at(chunk, std::nullopt), expected_[chunk]) << "chunk " << chunk;
      for (std::size_t i = 0; i < snapshots_.size(); ++i) {
        ASSERT_EQ(tag_at(chunk, SnapshotId(i + 1)), snapshots_[i][chunk]) << "chunk " << chunk << " snapshot " << i;
      }
    }
  }
  std::uint64_t used_slots() { return replica().info().used_bytes / kChunkSize; }

  TestMachine machine_{17};
  std::vector<std::uint64_t> expected_;                // by chunk
  std::vector<std::vector<std::uint64_t>> snapshots_;  // by id
  std::uint64_t tag_ = 0;
};

TEST_F(SnapshotRoundsTest, SnapshotsOfAVolumeThatIsHardlyWrittenShareARound) {
  write(0);
  for (std::uint64_t i = 1; i <= 20; ++i) {
    snapshot();
    if (i % 2 == 0) write(i);
  }
  verify();
  std::uint64_t before = machine_.kv.syncs();
  commit_all();
  machine_.settle();
  EXPECT_LE(machine_.kv.syncs() - before, 2u);
  EXPECT_EQ(used_slots(), 11u);
  verify();
  machine_.close();
  ASSERT_TRUE(machine_.open().ok());
  verify();
}

TEST_F(SnapshotRoundsTest, AChunkThatIsWrittenInTwoLayersKeepsBoth) {
  for (std::uint64_t i = 0; i < 6; ++i) {
    write(3);
    write(i + 4);
    snapshot();
    if (i == 2) zero(3);
  }
  commit_all();
  machine_.settle();
  verify();
  EXPECT_EQ(used_slots(), 12u);
  for (std::uint64_t id = 1; id <= 6; ++id) {
    append(layer_entry(next(), Op::kDropSnapshot, SnapshotId(id)));
    commit_all();
  }
  snapshots_.clear();
  machine_.settle();
  verify();
  EXPECT_EQ(used_slots(), 7u);
}

TEST_F(SnapshotRoundsTest, SnapshotsThatAreDroppedAgainInTheSameLog) {
  write(1);
  snapshot();
  write(2);
  append(layer_entry(next(), Op::kDropSnapshot, SnapshotId(1)));
  write(5);
  snapshot();
  write(6);
  commit_all();  // a revert waits for all before it
  append(layer_entry(next(), Op::kRevert, SnapshotId(2)));
  commit_all();
  machine_.settle();
  expected_ = snapshots_[1];
  snapshots_.clear();
  verify();
  EXPECT_EQ(tag_at(5, SnapshotId(2)), expected_[5]);
  EXPECT_EQ(used_slots(), 3u);
}

TEST(SnapshotRounds, PowerIsLostAtAnyMoment) {
  class Run : public SnapshotRoundsTest {
   public:
    void TestBody() override {}
    void run(std::uint64_t seed) {
      SetUp();
      sim::Random random(seed);
      for (int session = 0; session < 4 && !HasFatalFailure(); ++session) {
        for (int i = 0; i < 30; ++i) {
          std::uint64_t chunk = random.below(kChunks);
          if (random.chance(1, 2)) {
            snapshot();
          } else if (random.chance(1, 8)) {
            zero(chunk);
          } else {
            write(chunk);
          }
          if (random.chance(1, 10)) commit_all();
        }
        commit_all();
        Status flushed = machine_.wait<Status>([&](StatusCallback done) { replica().flush(std::move(done)); });
        ASSERT_TRUE(flushed.ok());
        machine_.world.run_for(Nanos(random.below(600'000'000)));
        machine_.power_off();
        ASSERT_TRUE(machine_.open().ok());
        verify();
      }
      commit_all();
      machine_.settle();
      verify();
      machine_.close();
    }
  };
  for (std::uint64_t seed = 1; seed <= 25; ++seed) {
    ASSERT_TRUE(passes_in_child([&] { Run().run(seed); })) << "seed " << seed;
  }
}

}  // namespace
}  // namespace holdfast::store
