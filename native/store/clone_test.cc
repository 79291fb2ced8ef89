// Linked clones: what they share, what it costs, and that nothing that happens to either side shows at the other.
#include "store/test_machine.h"

namespace holdfast::store {
namespace {

const ReplicaId kSource(1);
const ReplicaId kClone(2);
const ReplicaId kGrandchild(3);
const SnapshotId kSnap(0xA);
const SnapshotId kLater(0xB);
constexpr std::uint64_t kBlocks = 10 * kBlocksPerChunk;

class CloneTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(machine_.open().ok());
    ASSERT_TRUE(machine_.create(kSource, kBlocks).ok());
    write(kSource, 0, 256, 1000);
    write(kSource, 300, 20, 2000);
    change(kSource, Op::kSnapshot, kSnap);
  }

  ReplicaStore& replica(ReplicaId id) { return *machine_.disk->find(id); }
  void append(ReplicaId id, Entry entry) {
    ReplicaStore& store = replica(id);
    Seq seq = entry.position.seq;
    Status status =
        machine_.wait<Status>([&](StatusCallback done) { store.append(std::move(entry), std::move(done)); });
    ASSERT_TRUE(status.ok()) << status.error().to_string();
    store.set_committed(seq);
  }
  LogPosition next(ReplicaId id) { return at(1, replica(id).info().last.seq.value() + 1); }
  void write(ReplicaId id, std::uint64_t first, std::uint32_t count, std::uint64_t tag) {
    append(id, write_entry(machine_.env(), next(id), {BlockIndex(first), count}, tag));
  }
  void zero(ReplicaId id, std::uint64_t first, std::uint32_t count) {
    append(id, zero_entry(next(id), {BlockIndex(first), count}));
  }
  void change(ReplicaId id, Op op, SnapshotId snapshot) { append(id, layer_entry(next(id), op, snapshot)); }

  std::uint64_t tag_at(ReplicaId id, std::uint64_t block, std::optional<SnapshotId> snapshot = std::nullopt) {
    auto read = machine_.wait<Result<ReadOutcome>>([&](Callback<void(Result<ReadOutcome>)> done) {
      BlockRange one{BlockIndex(block), 1};
      if (snapshot) return replica(id).read_snapshot(*snapshot, one, false, std::move(done));
      replica(id).read(one, std::move(done));
    });
    EXPECT_TRUE(read.ok()) << read.error().to_string();
    return read.ok() ? tags_of(read->present, 1, read->crc, read->data)[0] : 0;
  }
  std::uint64_t used(ReplicaId id) { return replica(id).info().used_bytes; }
  SpaceInfo space() {
    machine_.settle();
    return machine_.disk->space();
  }
  void expect_source_content(ReplicaId id) {
    EXPECT_EQ(tag_at(id, 0), 1000u);
    EXPECT_EQ(tag_at(id, 255), 1255u);
    EXPECT_EQ(tag_at(id, 256), 0u);
    EXPECT_EQ(tag_at(id, 310), 2010u);
  }

  TestMachine machine_{11};
};

TEST_F(CloneTest, SharesBlocksAndKeepsWritesApart) {
  std::uint64_t before = space().used_bytes;
  ASSERT_TRUE(machine_.link(kClone, kSource, kSnap).ok());
  EXPECT_EQ(space().used_bytes, before);
  EXPECT_EQ(used(kClone), 0u);
  EXPECT_EQ(replica(kClone).info().size_blocks, kBlocks);
  EXPECT_EQ(replica(kClone).info().last, at(1, 1));
  EXPECT_TRUE(replica(kClone).info().complete);
  expect_source_content(kClone);
  write(kClone, 10, 1, 5000);
  write(kSource, 11, 1, 6000);
  zero(kClone, 12, 1);
  zero(kSource, 13, 1);
  machine_.settle();
  EXPECT_EQ(tag_at(kClone, 10), 5000u);
  EXPECT_EQ(tag_at(kSource, 10), 1010u);
  EXPECT_EQ(tag_at(kClone, 11), 1011u);
  EXPECT_EQ(tag_at(kSource, 11), 6000u);
  EXPECT_EQ(tag_at(kClone, 12), 0u);
  EXPECT_EQ(tag_at(kSource, 12), 1012u);
  EXPECT_EQ(tag_at(kClone, 13), 1013u);
  EXPECT_EQ(tag_at(kSource, 13), 0u);
  EXPECT_EQ(used(kClone), kChunkSize);
}

TEST_F(CloneTest, OutlivesTheSnapshotAndTheSource) {
  ASSERT_TRUE(machine_.link(kClone, kSource, kSnap).ok());
  write(kSource, 0, 256, 7000);
  change(kSource, Op::kDropSnapshot, kSnap);
  machine_.settle();
  expect_source_content(kClone);
  ASSERT_TRUE(machine_.remove(kSource).ok());
  // Nobody sees any more what the source wrote later.
  EXPECT_EQ(space().left_bytes, 5u * kChunkSize);
  EXPECT_EQ(space().used_bytes, 5u * kChunkSize);
  machine_.kill();
  ASSERT_TRUE(machine_.open().ok());
  expect_source_content(kClone);
  EXPECT_EQ(space().left_bytes, 5u * kChunkSize);
  ASSERT_TRUE(machine_.remove(kClone).ok());
  EXPECT_EQ(space().used_bytes, 0u);
  EXPECT_EQ(space().left_bytes, 0u);
}

TEST_F(CloneTest, DeletingTheLastCloneLetsTheDroppedSnapshotGo) {
  ASSERT_TRUE(machine_.link(kClone, kSource, kSnap).ok());
  ASSERT_TRUE(machine_.link(kGrandchild, kSource, kSnap).ok());
  write(kSource, 0, 256, 7000);
  change(kSource, Op::kDropSnapshot, kSnap);
  std::uint64_t both = space().used_bytes;
  ASSERT_TRUE(machine_.remove(kClone).ok());
  EXPECT_EQ(space().used_bytes, both);
  expect_source_content(kGrandchild);
  ASSERT_TRUE(machine_.remove(kGrandchild).ok());
  EXPECT_EQ(space().used_bytes, both - 4 * kChunkSize);
  EXPECT_EQ(tag_at(kSource, 0), 7000u);
  EXPECT_EQ(tag_at(kSource, 310), 2010u);
}

TEST_F(CloneTest, ChainsGoAwayFromTheirEnd) {
  ASSERT_TRUE(machine_.link(kClone, kSource, kSnap).ok());
  write(kClone, 20, 1, 5000);
  change(kClone, Op::kSnapshot, kLater);
  ASSERT_TRUE(machine_.link(kGrandchild, kClone, kLater).ok());
  write(kClone, 20, 1, 6000);
  ASSERT_TRUE(machine_.remove(kClone).ok());
  ASSERT_TRUE(machine_.remove(kSource).ok());
  machine_.kill();
  ASSERT_TRUE(machine_.open().ok());
  expect_source_content(kGrandchild);
  EXPECT_EQ(tag_at(kGrandchild, 20), 5000u);
  EXPECT_EQ(space().left_bytes, 6u * kChunkSize);
  ASSERT_TRUE(machine_.remove(kGrandchild).ok());
  EXPECT_EQ(space().used_bytes, 0u);
}

TEST_F(CloneTest, RevertsOfEitherSideAreItsOwn) {
  ASSERT_TRUE(machine_.link(kClone, kSource, kSnap).ok());
  write(kSource, 0, 64, 7000);
  change(kSource, Op::kRevert, kSnap);
  change(kClone, Op::kSnapshot, kLater);
  write(kClone, 5, 1, 8000);
  zero(kClone, 64, 64);
  machine_.settle();
  EXPECT_EQ(tag_at(kClone, 70), 0u);
  EXPECT_EQ(tag_at(kClone, 70, kLater), 1070u);
  change(kClone, Op::kRevert, kLater);
  machine_.settle();
  expect_source_content(kSource);
  expect_source_content(kClone);
  EXPECT_EQ(tag_at(kClone, 5), 1005u);
}

TEST_F(CloneTest, RefusesWhatIsNotThere) {
  EXPECT_EQ(machine_.link(kClone, kSource, kLater).error().code(), ErrorCode::kNotFound);
  EXPECT_EQ(machine_.link(kClone, kGrandchild, kSnap).error().code(), ErrorCode::kNotFound);
  EXPECT_EQ(machine_.link(kSource, kSource, kSnap).error().code(), ErrorCode::kAlreadyExists);
  ASSERT_TRUE(machine_.create(kGrandchild, kBlocks, false).ok());
  EXPECT_EQ(machine_.link(kClone, kGrandchild, kSnap).error().code(), ErrorCode::kReplicaIncomplete);
}

// The number of a replica that left something to a clone can be used again.
TEST_F(CloneTest, AReplicaMayComeBackWithItsNumber) {
  ASSERT_TRUE(machine_.link(kClone, kSource, kSnap).ok());
  ASSERT_TRUE(machine_.remove(kSource).ok());
  ASSERT_TRUE(machine_.create(kSource, kBlocks).ok());
  EXPECT_EQ(tag_at(kSource, 0), 0u);
  write(kSource, 0, 64, 9000);
  machine_.settle();
  machine_.kill();
  ASSERT_TRUE(machine_.open().ok());
  EXPECT_EQ(tag_at(kSource, 0), 9000u);
  expect_source_content(kClone);
}

// A crash between the removal of the last clone and that of what it alone saw: the next open finishes.
TEST_F(CloneTest, OpenRemovesWhatNobodySeesAnyMore) {
  ASSERT_TRUE(machine_.link(kClone, kSource, kSnap).ok());
  ASSERT_TRUE(machine_.remove(kSource).ok());
  machine_.settle();
  bool deleted = false;
  machine_.disk->delete_replica(kClone, [&](Status) { deleted = true; });
  for (int i = 0; i < 100'000 && machine_.disk->find(kClone) == nullptr && !deleted; ++i) {
    if (machine_.kv.dump("/disk/meta").find("L" + std::string("\0\0\0\0\0\0\0\2", 8)) == std::string::npos) break;
    machine_.world.run_for(1us);
  }
  EXPECT_FALSE(deleted);
  machine_.kill();
  ASSERT_TRUE(machine_.open().ok());
  EXPECT_EQ(machine_.disk->find(kClone), nullptr);
  EXPECT_EQ(space().used_bytes, 0u);
  EXPECT_EQ(space().left_bytes, 0u);
}

}  // namespace
}  // namespace holdfast::store
