// Sectors of the data file that cannot be read while background work moves what they hold.
#include "store/damage_mark.h"
#include "store/test_machine.h"
#include "store/unreadable_blocks.h"

namespace holdfast::store {
namespace {

const ReplicaId kOne(1);
const SnapshotId kSnap(0xA);

// Blocks 0 to 15 of a chunk are in the layer of a snapshot, 0 to 3 in the head, too: when it is dropped, those are
// copied.
class BadSectorTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(machine_.open().ok());
    ASSERT_TRUE(machine_.create(kOne, 640).ok());
    append(write_entry(machine_.env(), next(), {BlockIndex(0), 16}, 100));
    append(layer_entry(next(), Op::kSnapshot, kSnap));
    append(write_entry(machine_.env(), next(), {BlockIndex(0), 4}, 200));
    machine_.settle();
    ASSERT_EQ(machine_.disk->space().used_bytes, 2 * kChunkSize);
  }

  ReplicaStore& one() { return *machine_.disk->find(kOne); }
  LogPosition next() { return at(1, one().info().last.seq.value() + 1); }
  void append(Entry entry) {
    Seq seq = entry.position.seq;
    Status status =
        machine_.wait<Status>([&](StatusCallback done) { one().append(std::move(entry), std::move(done)); });
    ASSERT_TRUE(status.ok()) << status.error().to_string();
    one().set_committed(seq);
  }
  // A whole chunk, blocks 64 to 127: straight to its slot, and not committed.
  Seq write_chunk_directly() {
    Entry whole = write_entry(machine_.env(), next(), {BlockIndex(64), 64}, 1000);
    Seq seq = whole.position.seq;
    Status status =
        machine_.wait<Status>([&](StatusCallback done) { one().append(std::move(whole), std::move(done)); });
    EXPECT_TRUE(status.ok());
    return seq;
  }
  sim::SimFileData& data() { return *machine_.world.disk("node").find("/disk/data"); }
  void make_unreadable(std::uint64_t tag) {
    std::vector<std::byte> block(kBlockSize);
    fill_block(block.data(), tag);
    for (auto& [page, bytes] : data().current) {
      if (std::memcmp(bytes->data(), block.data(), kBlockSize) == 0) data().unreadable.insert(page);
    }
    ASSERT_EQ(data().unreadable.size(), 1u);
  }
  bool merged() { return machine_.disk->space().used_bytes == kChunkSize; }
  Result<ReadOutcome> read(std::uint64_t block) {
    return machine_.wait<Result<ReadOutcome>>([&](auto done) { one().read({BlockIndex(block), 1}, std::move(done)); });
  }
  std::uint64_t tag_at(std::uint64_t block) {
    Result<ReadOutcome> outcome = read(block);
    EXPECT_TRUE(outcome.ok());
    return outcome.ok() ? tags_of(outcome->present, 1, outcome->crc, outcome->data)[0] : 0;
  }
  void expect_all_but(std::uint64_t bad) {
    for (std::uint64_t block = 0; block < 16; ++block) {
      if (block == bad) continue;
      EXPECT_EQ(tag_at(block), block < 4 ? 200 + block : 100 + block);
    }
  }

  TestMachine machine_{1};
};

TEST_F(BadSectorTest, OneThatIsReadableAgainCostsNothing) {
  make_unreadable(202);
  append(layer_entry(next(), Op::kDropSnapshot, kSnap));
  machine_.world.run_for(5s);
  EXPECT_TRUE(machine_.disk->failure().empty()) << machine_.disk->failure();
  EXPECT_FALSE(merged());
  expect_all_but(2);
  append(write_entry(machine_.env(), next(), {BlockIndex(20), 1}, 300));  // the disk goes on
  EXPECT_EQ(tag_at(20), 300u);
  data().unreadable.clear();
  machine_.world.run_for(5s);
  EXPECT_TRUE(merged());
  expect_all_but(16);
}

// For rebuilds and scrubs: the block is named, the others are there.
TEST_F(BadSectorTest, OneCostsItsBlockAloneWhenALayerIsRead) {
  make_unreadable(202);
  auto layers = machine_.wait<Result<LayerState>>([&](auto done) { one().layers(std::move(done)); });
  ASSERT_TRUE(layers.ok());
  auto content = machine_.wait<Result<ChunkContent>>([&](auto done) {
    one().read_layer({ChunkIndex(0), layers->head}, std::move(done));
  });
  ASSERT_TRUE(content.ok()) << content.error().to_string();
  EXPECT_EQ(content->present, 0b1111u);
  EXPECT_EQ(content->damaged, 0b0100u);
  ASSERT_EQ(content->data.size(), 1u);
  for (std::uint64_t block : {0, 1, 3}) {
    EXPECT_EQ(tag_of(content->data[0].data() + block * kBlockSize), 200 + block);
  }
  EXPECT_EQ(tag_of(content->data[0].data() + 2 * kBlockSize), 0u) << "nothing of somebody else's memory";
  std::vector<std::byte> right(kBlockSize);
  fill_block(right.data(), 202);
  EXPECT_EQ(content->crc[2], crc32c(right)) << "what it ought to be";
}

TEST_F(BadSectorTest, OneThatStaysCostsItsBlockAndNotTheDisk) {
  make_unreadable(202);
  append(layer_entry(next(), Op::kDropSnapshot, kSnap));
  machine_.world.run_for(5s);
  machine_.kill();
  ASSERT_TRUE(machine_.open().ok());
  machine_.world.run_for(UnreadableBlocks::kPatience + 5s);
  EXPECT_TRUE(machine_.disk->failure().empty()) << machine_.disk->failure();
  EXPECT_TRUE(merged());
  expect_all_but(2);
  // Whoever reads the block finds that it is not what it should be.
  Result<ReadOutcome> bad = read(2);
  ASSERT_TRUE(bad.ok());
  EXPECT_NE(crc32c(bad->data[0].bytes()), bad->crc[0]);
  append(write_entry(machine_.env(), next(), {BlockIndex(2), 1}, 202));
  machine_.settle();
  expect_all_but(16);
}

// A whole chunk goes straight to its slot, and waits in the log to be applied: what was flushed is known to be there.
TEST_F(BadSectorTest, OneUnderADirectWriteThatWasFlushedDoesNotKeepTheDiskFromOpening) {
  Seq seq = write_chunk_directly();
  ASSERT_TRUE(machine_.wait<Status>([&](StatusCallback done) { one().flush(std::move(done)); }).ok());
  append(write_entry(machine_.env(), next(), {BlockIndex(200), 1}, 2000));  // its batch tells of the flush
  machine_.kill();
  make_unreadable(1030);
  ASSERT_TRUE(machine_.open().ok());
  EXPECT_GT(one().info().last.seq, seq);
  EXPECT_EQ(tag_at(64 + 29), 1029u);
  EXPECT_EQ(tag_at(64 + 31), 1031u);
  EXPECT_FALSE(read(64 + 30).ok());
  one().set_committed(one().info().last.seq);
  machine_.settle();
  EXPECT_TRUE(machine_.disk->failure().empty()) << machine_.disk->failure();
  EXPECT_FALSE(read(64 + 30).ok());
  append(write_entry(machine_.env(), next(), {BlockIndex(64 + 30), 1}, 1030));
  machine_.settle();
  EXPECT_EQ(tag_at(64 + 30), 1030u);
}

// Whether all of it was written is read then; what cannot be read says nothing about that.
TEST_F(BadSectorTest, OneUnderADirectWriteThatWasNotFlushedDoesNotEither) {
  Seq seq = write_chunk_directly();
  machine_.kill();
  make_unreadable(1030);
  ASSERT_TRUE(machine_.open().ok());
  EXPECT_EQ(one().info().last.seq, seq);
  EXPECT_EQ(tag_at(64 + 29), 1029u);
  EXPECT_FALSE(read(64 + 30).ok());
  append(write_entry(machine_.env(), next(), {BlockIndex(64 + 30), 1}, 1030));
  machine_.settle();
  EXPECT_EQ(tag_at(64 + 30), 1030u);
  EXPECT_EQ(tag_at(64 + 31), 1031u);
}

TEST_F(BadSectorTest, OneUnderATornDirectWriteDoesNotMakeItWhole) {
  Seq seq = write_chunk_directly();
  machine_.kill();
  make_unreadable(1030);
  std::uint64_t page = *data().unreadable.begin();
  data().current[page + 20]->fill(std::byte{0});
  ASSERT_TRUE(machine_.open().ok());
  EXPECT_LT(one().info().last.seq, seq);
  EXPECT_EQ(tag_at(64), 0u);
}

TEST_F(BadSectorTest, ManyWithoutASingleGoodOneAreAFailingDisk) {
  write_chunk_directly();
  machine_.kill();
  make_unreadable(1000);
  std::uint64_t page = *data().unreadable.begin();
  for (std::uint64_t i = 1; i < kBlocksPerChunk; ++i) data().unreadable.insert(page + i);
  EXPECT_EQ(machine_.open().error().code(), ErrorCode::kDiskIo);
}

// Most of the journal holds nothing that is needed.
TEST_F(BadSectorTest, OneInTheJournalMattersWhereAnEntryMayBe) {
  append(write_entry(machine_.env(), next(), {BlockIndex(300), 1}, 900));
  Seq seq = one().info().last.seq;
  std::uint64_t blocks = machine_.disk->space().journal_bytes / kBlockSize;
  machine_.kill();
  sim::SimFileData& journal = *machine_.world.disk("node").find("/disk/journal");
  std::vector<std::uint64_t> needed;
  for (std::uint64_t page = 0; page < blocks; ++page) {
    journal.unreadable = {page};
    Status opened = machine_.open();
    if (!opened.ok()) {
      EXPECT_EQ(opened.error().code(), ErrorCode::kDiskIo);
      needed.push_back(page);
    } else {
      EXPECT_EQ(one().info().last.seq, seq);
    }
    machine_.kill();
  }
  EXPECT_GT(needed.size(), 0u);
  EXPECT_LT(needed.size(), 64u);
  journal.unreadable.clear();
  ASSERT_TRUE(machine_.open().ok());
  EXPECT_EQ(tag_at(300), 900u);
}

// Other replicas may lack the entry: they get those before it, and are told about it.
TEST_F(BadSectorTest, OneUnderADirectWriteCostsReadersOfTheLogThatEntryAlone) {
  append(write_entry(machine_.env(), next(), {BlockIndex(300), 1}, 900));
  Seq bad = next().seq;
  write_chunk_directly();
  append(write_entry(machine_.env(), next(), {BlockIndex(200), 1}, 2000));
  auto read_log = [&](Seq first, Seq last) {
    return machine_.wait<Result<std::vector<Entry>>>([&](auto done) { one().read_log(first, last, std::move(done)); });
  };
  Seq before(bad.value() - 1);
  auto expect_bad = [&] {
    Result<std::vector<Entry>> entries = read_log(before, bad.next());
    ASSERT_TRUE(entries.ok()) << entries.error().to_string();
    ASSERT_EQ(entries->size(), 1u);
    EXPECT_EQ((*entries)[0].position.seq, before);
    entries = read_log(bad, bad.next());
    ASSERT_FALSE(entries.ok());
    EXPECT_EQ(entries.error().code(), ErrorCode::kCorrupt);
    EXPECT_TRUE(read_log(bad.next(), bad.next()).ok());
  };
  ASSERT_TRUE(read_log(before, bad.next()).ok());
  make_unreadable(1030);
  expect_bad();
  std::uint64_t page = *data().unreadable.begin();
  data().unreadable.clear();
  ASSERT_TRUE(read_log(before, bad.next()).ok());
  (*data().current[page])[7] ^= std::byte{1};
  expect_bad();
}

// What was written since the join moves to the slot of what is fetched. The replicas that it is fetched from have it,
// too.
TEST_F(BadSectorTest, OneUnderWhatAFillKeepsCostsItsBlockAndNotTheDisk) {
  const ReplicaId kTwo(2);
  ASSERT_TRUE(machine_.create(kTwo, 640, false).ok());
  ReplicaStore& two = *machine_.disk->find(kTwo);
  JoinRequest join{Seq(1), Seq(0), 640, two.info().history};
  ASSERT_TRUE(machine_.wait<Status>([&](StatusCallback done) { two.join(join, std::move(done)); }).ok());
  for (std::uint64_t seq : {1, 2}) {
    Entry entry = write_entry(machine_.env(), at(1, seq), {BlockIndex(2 + seq), 1}, 900 + seq);
    ASSERT_TRUE(
        machine_.wait<Status>([&](StatusCallback done) { two.append(std::move(entry), std::move(done)); }).ok());
  }
  two.set_committed(Seq(2));
  machine_.settle();  // in a slot
  make_unreadable(901);

  Slice fetched = machine_.env().buffers().allocate(kBlockSize);
  fill_block(fetched.data(), 800);
  ChunkContent content{at(1, 2), Seq(2), 0b10, 0, {crc32c(fetched.bytes())}, {fetched}, 0};
  auto filled =
      machine_.wait<Status>([&](StatusCallback done) { two.fill_chunk({ChunkIndex(0)}, content, std::move(done)); });
  ASSERT_TRUE(filled.ok()) << filled.error().to_string();
  EXPECT_TRUE(machine_.disk->failure().empty()) << machine_.disk->failure();
  ASSERT_TRUE(machine_.wait<Status>([&](StatusCallback done) { two.finish_rebuild(std::move(done)); }).ok());
  auto block = [&](std::uint64_t index) {
    auto outcome = machine_.wait<Result<ReadOutcome>>([&](auto done) {
      two.read({BlockIndex(index), 1}, std::move(done));
    });
    EXPECT_TRUE(outcome.ok());
    return std::move(*outcome);
  };
  EXPECT_EQ(tag_of(block(1).data[0].data()), 800u);
  EXPECT_EQ(tag_of(block(4).data[0].data()), 902u);
  std::vector<std::byte> lost(kBlockSize);
  fill_block(lost.data(), 901);
  ReadOutcome marked = block(3);
  EXPECT_EQ(marked.crc[0], crc32c(std::span<const std::byte>(lost)));
  EXPECT_TRUE(is_damage_mark(marked.data[0].bytes(), marked.crc[0]));
}

}  // namespace
}  // namespace holdfast::store
