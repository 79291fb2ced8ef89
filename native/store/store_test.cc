// The store's promises one by one: refusals, space, backpressure, damage, failing devices, formatting.
#include "store/store.h"

#include "store/journal_format.h"
#include "store/test_machine.h"

namespace holdfast::store {
namespace {

const ReplicaId kOne(1);
constexpr std::uint64_t kBlocks = 4096;  // 64 chunks, 16 MiB

class StoreTest : public testing::Test {
 protected:
  StoreTest() : machine(1) {}
  void open(std::uint64_t blocks = kBlocks) {
    ASSERT_TRUE(machine.open().ok());
    ASSERT_TRUE(machine.create(kOne, blocks).ok());
  }
  ReplicaStore& one() { return *machine.disk->find(kOne); }
  Status append(Entry entry) {
    return machine.wait<Status>([&](StatusCallback done) { one().append(std::move(entry), std::move(done)); });
  }
  Status write(std::uint64_t seq, BlockRange blocks, std::uint64_t tag) {
    return append(write_entry(machine.env(), at(1, seq), blocks, tag));
  }
  Result<ReadOutcome> read(BlockRange blocks) {
    return machine.wait<Result<ReadOutcome>>([&](auto done) { one().read(blocks, std::move(done)); });
  }
  std::vector<std::uint64_t> tags(BlockRange blocks) {
    Result<ReadOutcome> outcome = read(blocks);
    EXPECT_TRUE(outcome.ok()) << outcome.error().to_string();
    if (!outcome.ok()) return {};
    return tags_of(outcome->present, blocks.count, outcome->crc, outcome->data);
  }
  sim::SimFileData* file(const std::string& name) { return machine.world.disk("node").find("/disk/" + name); }
  // The first batch header in the journal with a number of at least `number`.
  std::uint64_t find_batch(std::uint64_t number) {
    for (auto& [page, bytes] : file("journal")->current) {
      BatchHeader header;
      std::memcpy(&header, bytes->data(), sizeof header);
      if (header.magic == kJournalMagic && header.number == number) return page;
    }
    ADD_FAILURE() << "no batch " << number;
    return 0;
  }
  void damage(const std::string& name, std::uint64_t page, std::size_t byte) {
    auto found = file(name)->current.find(page);
    if (found != file(name)->current.end()) (*found->second)[byte] ^= std::byte{1};
  }

  TestMachine machine;
};

BlockRange range(std::uint64_t first, std::uint32_t count) { return {BlockIndex(first), count}; }

std::map<std::uint64_t, sim::SimPage::Bytes> bytes_of(const sim::SimFileData& file) {
  std::map<std::uint64_t, sim::SimPage::Bytes> bytes;
  for (const auto& [index, page] : file.current) bytes[index] = *page;
  return bytes;
}
sim::SimPage page_of(std::byte byte) {
  sim::SimPage page = sim::SimPage::make();
  page->fill(byte);
  return page;
}

// ---- entries that are refused ----

TEST_F(StoreTest, RefusesWhatDoesNotFollow) {
  open();
  ASSERT_TRUE(append(write_entry(machine.env(), at(2, 1), range(0, 1), 5)).ok());
  EXPECT_EQ(append(write_entry(machine.env(), at(2, 3), range(0, 1), 5)).error().code(), ErrorCode::kLogGap);
  EXPECT_EQ(append(write_entry(machine.env(), at(2, 1), range(0, 1), 5)).error().code(), ErrorCode::kLogGap);
  EXPECT_EQ(append(write_entry(machine.env(), at(1, 2), range(0, 1), 5)).error().code(), ErrorCode::kEpochSuperseded);
  EXPECT_EQ(append(write_entry(machine.env(), at(2, 2), range(kBlocks - 1, 2), 5)).error().code(),
            ErrorCode::kInvalidArgument);
  Entry bad = write_entry(machine.env(), at(2, 2), range(0, 2), 5);
  bad.data.data()[4096] ^= std::byte{1};
  EXPECT_EQ(append(std::move(bad)).error().code(), ErrorCode::kCorrupt);
  Entry snapshot;
  snapshot.position = at(2, 2);
  snapshot.op = Op::kSnapshot;
  EXPECT_EQ(append(std::move(snapshot)).error().code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(append(resize_entry(at(2, 2), kBlocks - 1)).error().code(), ErrorCode::kInvalidArgument);
  EXPECT_TRUE(append(write_entry(machine.env(), at(2, 2), range(0, 1), 6)).ok());
  EXPECT_EQ(tags(range(0, 2)), (std::vector<std::uint64_t>{6, 0}));
}

TEST_F(StoreTest, PromisesSurviveAndNeverFall) {
  open();
  auto promise = [&](std::uint64_t epoch) {
    return machine.wait<Status>([&](StatusCallback done) { one().promise(Epoch(epoch), std::move(done)); });
  };
  ASSERT_TRUE(promise(5).ok());
  machine.power_off();
  ASSERT_TRUE(machine.open().ok());
  EXPECT_EQ(one().info().promised, Epoch(5));
  EXPECT_TRUE(promise(5).ok());
  EXPECT_EQ(promise(4).error().code(), ErrorCode::kEpochSuperseded);
  EXPECT_TRUE(promise(6).ok());
}

TEST_F(StoreTest, ReadLogGivesEntriesBack) {
  open();
  ASSERT_TRUE(write(1, range(3, 2), 100).ok());
  ASSERT_TRUE(write(2, range(30, 200), 200).ok());  // unaligned around two whole chunks
  ASSERT_TRUE(append(zero_entry(at(1, 3), range(0, 50))).ok());
  for (bool reopened : {false, true}) {
    if (reopened) {
      machine.kill();
      ASSERT_TRUE(machine.open().ok());
    }
    auto log =
        machine.wait<Result<std::vector<Entry>>>([&](auto done) { one().read_log(Seq(1), Seq(3), std::move(done)); });
    ASSERT_TRUE(log.ok());
    ASSERT_EQ(log->size(), 3u);
    const Entry& second = (*log)[1];
    EXPECT_EQ(second.blocks, range(30, 200));
    ASSERT_EQ(second.data.size(), 200u * kBlockSize);
    for (std::uint32_t i = 0; i < 200; ++i) ASSERT_EQ(tag_of(second.data.data() + i * kBlockSize), 200 + i);
    EXPECT_EQ((*log)[2].op, Op::kZero);
    EXPECT_TRUE((*log)[2].deallocate);
  }
  one().set_committed(Seq(2));
  machine.settle();
  auto gone =
      machine.wait<Result<std::vector<Entry>>>([&](auto done) { one().read_log(Seq(2), Seq(3), std::move(done)); });
  EXPECT_EQ(gone.error().code(), ErrorCode::kNotFound);
}

// ---- space ----

TEST_F(StoreTest, SpaceIsExactAndComesBack) {
  open();
  SpaceInfo empty = machine.disk->space();
  EXPECT_EQ(empty.used_bytes, 0u);
  ASSERT_TRUE(write(1, range(0, 1), 1).ok());
  ASSERT_TRUE(write(2, range(64, 128), 10).ok());
  one().set_committed(Seq(2));
  machine.settle();
  EXPECT_EQ(machine.disk->space().used_bytes, 3u * kChunkSize);
  EXPECT_EQ(one().info().used_bytes, 3u * kChunkSize);
  ASSERT_TRUE(append(zero_entry(at(1, 3), range(64, 64))).ok());
  one().set_committed(Seq(3));
  machine.settle();
  EXPECT_EQ(machine.disk->space().used_bytes, 2u * kChunkSize);
  ASSERT_TRUE(write(4, range(200, 100), 400).ok());  // neither committed nor destaged
  Status deleted =
      machine.wait<Status>([&](StatusCallback done) { machine.disk->delete_replica(kOne, std::move(done)); });
  ASSERT_TRUE(deleted.ok());
  EXPECT_EQ(machine.disk->find(kOne), nullptr);
  SpaceInfo after = machine.disk->space();
  EXPECT_EQ(after.used_bytes, 0u);
  EXPECT_EQ(after.free_bytes, empty.free_bytes);
  EXPECT_EQ(after.cached_bytes, 0u);
  // A new replica with the same id has nothing of the old one, also after recovery.
  ASSERT_TRUE(machine.create(kOne, kBlocks).ok());
  machine.kill();
  ASSERT_TRUE(machine.open().ok());
  EXPECT_EQ(one().info().last.seq, Seq(0));
  EXPECT_EQ(tags(range(200, 2)), (std::vector<std::uint64_t>{0, 0}));
}

TEST_F(StoreTest, FullDiskRefusesNewChunksAndStillTakesOverwrites) {
  machine.options.capacity_bytes = 20 * kChunkSize;
  machine.options.reserve_bytes = 4 * kChunkSize;
  open();
  std::uint64_t seq = 0;
  Status last;
  for (std::uint64_t chunk = 0; chunk < 20 && last.ok(); ++chunk) {
    last = write(seq + 1, range(chunk * 64 + 5, 1), 100 + chunk);
    if (last.ok()) one().set_committed(Seq(++seq));
  }
  ASSERT_FALSE(last.ok());
  EXPECT_EQ(last.error().code(), ErrorCode::kNoSpace);
  EXPECT_EQ(seq, 16u);
  machine.settle();
  EXPECT_EQ(machine.disk->space().used_bytes, 16u * kChunkSize);
  EXPECT_EQ(machine.disk->space().free_bytes, 0u);
  // Chunks that have a slot: single blocks, and whole chunks, which are then written in place.
  for (std::uint64_t chunk = 0; chunk < 16; ++chunk) {
    ASSERT_TRUE(write(++seq, range(chunk * 64 + 7, 1), 200 + chunk).ok());
    ASSERT_TRUE(write(++seq, range(chunk * 64, 64), 1000 + chunk * 64).ok());
    one().set_committed(Seq(seq));
  }
  machine.settle();
  EXPECT_EQ(tags(range(15 * 64 + 7, 1)), (std::vector<std::uint64_t>{1000 + 15 * 64 + 7}));
  EXPECT_EQ(write(seq + 1, range(17 * 64, 1), 1).error().code(), ErrorCode::kNoSpace);
  // Zeroing makes room.
  ASSERT_TRUE(append(zero_entry(at(1, ++seq), range(0, 128))).ok());
  one().set_committed(Seq(seq));
  machine.settle();
  ASSERT_TRUE(write(++seq, range(17 * 64, 64), 5000).ok());
  one().set_committed(Seq(seq));
  machine.settle();
  EXPECT_EQ(machine.disk->space().used_bytes, 15u * kChunkSize);
}

// Somebody else fills the file system, and frees it again. What is left in the data file then is less than the reserve,
// and more than a growth ahead of need leaves.
TEST_F(StoreTest, RoomThatComesBackIsUsed) {
  machine.options.capacity_bytes = 128 * kChunkSize;
  machine.options.reserve_bytes = 32 * kChunkSize;
  open();
  std::uint64_t seq = 0;
  auto write_chunk = [&](std::uint64_t chunk) {
    Status status = write(seq + 1, range(chunk * 64, 64), 100 + chunk);
    if (status.ok()) one().set_committed(Seq(++seq));
    return status;
  };
  for (std::uint64_t chunk = 0; chunk < 8; ++chunk) ASSERT_TRUE(write_chunk(chunk).ok());
  machine.settle();
  machine.world.disk_faults("node").capacity_bytes = machine.world.disk("node").used_bytes();
  std::uint64_t chunk = 8;
  Status last;
  while (chunk < 64 && (last = write_chunk(chunk)).ok()) ++chunk;
  ASSERT_FALSE(last.ok());
  EXPECT_EQ(last.error().code(), ErrorCode::kNoSpace);
  ASSERT_TRUE(append(zero_entry(at(1, ++seq), range(0, 8 * 64))).ok());
  one().set_committed(Seq(seq));
  machine.settle();
  EXPECT_EQ(write_chunk(chunk).error().code(), ErrorCode::kNoSpace);
  machine.world.disk_faults("node").capacity_bytes = UINT64_MAX;
  machine.world.run_for(3s);
  for (; chunk < 64; ++chunk) ASSERT_TRUE(write_chunk(chunk).ok()) << "chunk " << chunk;
  machine.settle();
  EXPECT_EQ(machine.disk->space().used_bytes, 56u * kChunkSize);
}

// ---- backpressure ----

TEST_F(StoreTest, FullCacheSlowsWritersUntilDestaged) {
  machine.options.cache_bytes = 256u << 10;
  open();
  std::uint64_t seq = 0;
  std::uint64_t acknowledged = 0;
  // Nothing committed: waiting would help nobody, so it goes on accepting.
  for (; seq < 100;) {
    ++seq;
    one().append(write_entry(machine.env(), at(1, seq), range(seq * 7, 1), seq), [&](Status status) {
      EXPECT_TRUE(status.ok());
      ++acknowledged;
    });
  }
  ASSERT_TRUE(machine.world.run_until([&] { return acknowledged == seq; }, 10s));
  EXPECT_TRUE(one().accepts_more());
  bool ready = false;
  one().on_ready([&] { ready = true; });
  one().set_committed(Seq(seq));
  EXPECT_FALSE(one().accepts_more());
  ASSERT_TRUE(machine.world.run_until([&] { return ready; }, 10s));
  EXPECT_TRUE(one().accepts_more());
  machine.settle();
  EXPECT_EQ(machine.disk->space().cached_bytes, 0u);
  EXPECT_EQ(one().info().applied, Seq(seq));
}

// Each of these touches every chunk, and has no payload.
TEST_F(StoreTest, ZerosOfManyChunksWaitLikeData) {
  machine.options.cache_bytes = 64 << 10;
  open();
  std::uint64_t seq = 0;
  while (one().accepts_more() && seq < 100) {
    ++seq;
    ASSERT_TRUE(append(zero_entry(at(1, seq), range(0, kBlocks))).ok());
    one().set_committed(Seq(seq));
  }
  EXPECT_EQ(seq, 3u) << "64 chunks of 512 bytes";
  machine.settle();
  EXPECT_TRUE(one().accepts_more());
  EXPECT_EQ(machine.disk->space().cached_bytes, 0u);
  EXPECT_EQ(one().info().applied, Seq(seq));
}

TEST_F(StoreTest, FullJournalWaitsAndWrapsForEver) {
  open();
  std::uint64_t appended = 0;
  std::uint64_t acknowledged = 0;
  // 12 MiB through a ring of 4 MiB, the commit watermark one MiB behind.
  while (appended < 3 * 1024) {
    ++appended;
    one().append(write_entry(machine.env(), at(1, appended), range(appended % 50 * 64 + 1, 1), appended),
                 [&](Status status) {
                   EXPECT_TRUE(status.ok());
                   ++acknowledged;
                 });
    if (acknowledged > 256) one().set_committed(Seq(acknowledged - 256));
    if (appended % 32 == 0) machine.world.run_for(3ms);
  }
  ASSERT_TRUE(machine.world.run_until(
      [&] {
        one().set_committed(Seq(acknowledged));
        return acknowledged == appended;
      },
      60s));
  machine.kill();
  ASSERT_TRUE(machine.open().ok());
  EXPECT_EQ(one().info().last.seq, Seq(appended));
  EXPECT_EQ(tags(range(appended % 50 * 64 + 1, 1)), (std::vector<std::uint64_t>{appended}));
}

// A tiny disk grows by less than one entry may need: the entry waits for several steps, not for ever.
TEST_F(StoreTest, AppendsOnATinyDiskWaitUntilItHasGrown) {
  machine.options.capacity_bytes = 32 * kChunkSize;
  open();
  for (std::uint64_t seq = 1; seq <= 4; ++seq) {
    one().set_committed(Seq(seq - 1));
    ASSERT_TRUE(write(seq, range((seq - 1) * 300 + 32, 256), seq * 1000).ok());
  }
}

// Without free slots whole chunks are written through the journal, where even the largest entry fits the smallest ring.
TEST_F(StoreTest, LargestEntryFitsTheSmallestJournal) {
  machine.options.capacity_bytes = 9 * kChunkSize;  // 5 for data, 4 in reserve
  open();
  for (std::uint64_t seq = 1; seq <= 12; ++seq) {
    ASSERT_TRUE(write(seq, range(0, 256), seq * 1000).ok());
    one().set_committed(Seq(seq));
    machine.settle();
  }
  EXPECT_EQ(tags(range(255, 1)), std::vector<std::uint64_t>{12'255});
}

// What a read costs besides the device: the record of each chunk is looked up once, and then it is in memory.
TEST_F(StoreTest, ReadsLookEachRecordUpOnce) {
  open();
  ASSERT_TRUE(write(1, range(0, 256), 1).ok());  // four chunks
  one().set_committed(Seq(1));
  machine.settle();
  ASSERT_EQ(one().info().applied, Seq(1));
  auto lookups_of = [this](auto work) {
    std::uint64_t before = machine.kv.lookups();
    work();
    return machine.kv.lookups() - before;
  };
  auto read_all = [this] {
    for (std::uint64_t block = 0; block < 256; block += 3) EXPECT_EQ(tags(range(block, 1))[0], block + 1);
  };
  EXPECT_EQ(lookups_of(read_all), 0u) << "destaging left the records in memory";
  machine.close();
  ASSERT_TRUE(machine.open().ok());
  EXPECT_LE(lookups_of(read_all), 4u);
  EXPECT_EQ(lookups_of(read_all), 0u);
  auto map_all = [this] {
    auto mapped = machine.wait<Result<ReadOutcome>>([&](auto done) { one().map(range(0, 512), std::move(done)); });
    ASSERT_TRUE(mapped.ok());
    EXPECT_EQ(std::count(mapped->present.begin(), mapped->present.end(), 0xff), 32);
    EXPECT_TRUE(mapped->data.empty());
  };
  EXPECT_LE(lookups_of(map_all), 4u) << "of the chunks that were never written";
  EXPECT_EQ(lookups_of(map_all), 0u);
}

TEST_F(StoreTest, IdleStoreHasNoTimers) {
  open();
  ASSERT_TRUE(write(1, range(0, 100), 1).ok());
  one().set_committed(Seq(1));
  machine.settle();
  EXPECT_EQ(one().info().applied, Seq(1));
  EXPECT_EQ(machine.disk->space().journal_used_bytes, 0u);
  EXPECT_FALSE(machine.world.step()) << "something still wakes up";
}

// The read is decided before the overwrite, and its device reads take long: destaging must not change what they see.
TEST_F(StoreTest, SlowReadsNeverSeeSlotsChange) {
  open();
  ASSERT_TRUE(write(1, range(0, 64), 100).ok());
  one().set_committed(Seq(1));
  machine.settle();
  for (bool in_place : {true, false}) {
    std::uint64_t seq = one().info().last.seq.value();
    std::vector<std::uint64_t> before = tags(range(0, 64));
    sim::Delays usual = machine.world.delays();
    machine.world.delays().disk_min = machine.world.delays().disk_max = 5s;
    std::optional<Result<ReadOutcome>> slow;
    one().read(range(0, 64), [&](Result<ReadOutcome> outcome) { slow.emplace(std::move(outcome)); });
    machine.world.run_for(1ms);  // the record was fetched, the device is busy
    machine.world.delays() = usual;
    // A block in place, or the whole chunk elsewhere and its old slot to the next one that needs a slot.
    ASSERT_TRUE(write(seq + 1, in_place ? range(5, 1) : range(0, 64), 1000).ok());
    one().set_committed(Seq(seq + 1));
    machine.world.run_for(2s);
    ASSERT_FALSE(slow.has_value());
    for (std::uint64_t i = 2; i < 20; ++i) ASSERT_TRUE(write(seq + i, range(i * 128, 64), i * 5000).ok());
    ASSERT_TRUE(machine.world.run_until([&] { return slow.has_value(); }, 10s));
    ASSERT_TRUE(slow->ok());
    EXPECT_EQ(tags_of((*slow)->present, 64, (*slow)->crc, (*slow)->data), before);
    one().set_committed(one().info().last.seq);
    machine.settle();
  }
}

// ---- torn tails and damage ----

TEST_F(StoreTest, TornTailIsCutOffAndNeverComesBack) {
  open();
  for (std::uint64_t seq = 1; seq <= 4; ++seq) ASSERT_TRUE(write(seq, range(seq, 1), seq).ok());
  machine.kill();
  damage("journal", find_batch(3) + 1, 77);  // the payload of the third; nothing was flushed
  ASSERT_TRUE(machine.open().ok());
  EXPECT_EQ(one().info().last.seq, Seq(2));
  EXPECT_EQ(tags(range(1, 4)), (std::vector<std::uint64_t>{1, 2, 0, 0}));
  // The batch that takes the place of the third has its size: the old fourth must not be taken for its successor.
  ASSERT_TRUE(write(3, range(9, 1), 33).ok());
  machine.kill();
  ASSERT_TRUE(machine.open().ok());
  EXPECT_EQ(one().info().last.seq, Seq(3));
  EXPECT_EQ(tags(range(4, 1)), (std::vector<std::uint64_t>{0}));
  EXPECT_EQ(tags(range(9, 1)), (std::vector<std::uint64_t>{33}));
}

TEST_F(StoreTest, DamageBeforeFlushedBatchesIsReported) {
  open();
  for (std::uint64_t seq = 1; seq <= 4; ++seq) {
    ASSERT_TRUE(write(seq, range(seq, 1), seq).ok());
    Status flushed = machine.wait<Status>([&](StatusCallback done) { one().flush(std::move(done)); });
    ASSERT_TRUE(flushed.ok());
  }
  machine.kill();
  damage("journal", find_batch(2), 20);
  Status opened = machine.open();
  ASSERT_FALSE(opened.ok());
  EXPECT_EQ(opened.error().code(), ErrorCode::kJournalDamaged);
}

// What is cut off is overwritten soon: a bit that was wrong once, on its way from the disk, must not decide that. (Of
// the last batch nothing else tells that it was written.)
TEST(JournalTest, OneThatIsMisreadOnceLosesNothing) {
  constexpr std::uint64_t kEntries = 12;
  unsigned opened = 0;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    TestMachine machine(seed);
    ASSERT_TRUE(machine.open().ok());
    ASSERT_TRUE(machine.create(kOne, kBlocks).ok());
    // Most of the journal's 1,024 blocks; less than whole chunks, which would go elsewhere.
    for (std::uint64_t seq = 1; seq <= kEntries; ++seq) {
      Entry entry = write_entry(machine.env(), at(1, seq), range(seq * 64 + 1, 60), seq);
      Status written = machine.wait<Status>(
          [&](StatusCallback done) { machine.disk->find(kOne)->append(std::move(entry), std::move(done)); });
      ASSERT_TRUE(written.ok());
    }
    machine.kill();
    machine.world.disk_faults("node").corrupt_read_ppm = 100'000;
    if (!machine.open().ok()) continue;
    ++opened;
    EXPECT_GE(machine.disk->find(kOne)->info().last.seq, Seq(kEntries - 1));
  }
  EXPECT_GT(opened, 30u);
}

TEST_F(StoreTest, WhatAnOpenFoundIsDurableFromThenOn) {
  open();
  for (std::uint64_t seq = 1; seq <= 3; ++seq) ASSERT_TRUE(write(seq, range(seq, 1), seq).ok());
  machine.kill();
  ASSERT_TRUE(machine.open().ok());
  machine.power_off();
  ASSERT_TRUE(machine.open().ok());
  EXPECT_EQ(one().info().last.seq, Seq(3));
  machine.kill();
  damage("journal", find_batch(2), 20);
  EXPECT_EQ(machine.open().error().code(), ErrorCode::kJournalDamaged);
}

// Devices change their names, and journals are replaced: what is found then must neither pass for a journal whose end
// was lost, nor be written over.
TEST_F(StoreTest, AnotherJournalInThePlaceOfItsOwnIsRefused) {
  machine.options.journal_path = "/fast/journal";
  sim::SimDisk& files = machine.world.disk("node");
  auto refused_with = [&](sim::SimFileData& in_place) {
    sim::SimFileData* journal = files.find("/fast/journal");
    std::map<std::uint64_t, sim::SimPage::Bytes> before = bytes_of(in_place);
    std::swap(journal->current, in_place.current);
    Status opened = machine.open();
    ASSERT_FALSE(opened.ok());
    EXPECT_EQ(opened.error().code(), ErrorCode::kWrongDisk) << opened.error().to_string();
    machine.kill();
    EXPECT_EQ(bytes_of(*journal), before) << "nothing is written to it";
    std::swap(journal->current, in_place.current);
  };
  sim::SimFileData blank, foreign, another;
  foreign.current[0] = page_of(std::byte{'x'});
  {
    TestMachine other(2);
    ASSERT_TRUE(other.open().ok());
    ASSERT_TRUE(other.create(kOne, kBlocks).ok());
    ASSERT_TRUE(other
                    .wait<Status>([&](StatusCallback done) {
                      other.disk->find(kOne)->append(write_entry(other.env(), at(1, 1), range(0, 4), 1),
                                                     std::move(done));
                    })
                    .ok());
    std::swap(another.current, other.world.disk("node").find("/disk/journal")->current);
  }

  open();
  machine.kill();
  refused_with(foreign);  // before the first batch
  refused_with(another);
  ASSERT_TRUE(machine.open().ok());
  for (std::uint64_t seq = 1; seq <= 3; ++seq) ASSERT_TRUE(write(seq, range(seq, 1), seq).ok());
  machine.close();  // everything is applied: the journal is not needed for what was written so far
  ASSERT_TRUE(machine.open().ok());
  ASSERT_TRUE(write(4, range(4, 1), 4).ok());
  ASSERT_TRUE(machine.wait<Status>([&](StatusCallback done) { one().flush(std::move(done)); }).ok());
  machine.kill();
  refused_with(blank);
  refused_with(foreign);
  refused_with(another);
  ASSERT_TRUE(machine.open().ok()) << "its own is good as before";
  EXPECT_EQ(tags(range(1, 4)), (std::vector<std::uint64_t>{1, 2, 3, 4}));
}

// Of entries that wait in the log: nothing of those that were written directly, and a page for one block.
TEST_F(StoreTest, TheLogHoldsNoMoreMemoryThanItsPayload) {
  open();
  auto in_use = [&] { return machine.env().buffers().bytes_in_use(); };
  std::uint64_t before = in_use();
  for (std::uint64_t seq = 1; seq <= 8; ++seq) ASSERT_TRUE(write(seq, range(0, 128), seq * 1'000).ok());
  EXPECT_EQ(machine.disk->space().cached_bytes, 0u);
  EXPECT_LE(in_use() - before, 2 * kBlockSize) << "CRCs, and no message";
  for (std::uint64_t seq = 9; seq <= 40; ++seq) ASSERT_TRUE(write(seq, range(seq, 1), seq).ok());
  EXPECT_EQ(machine.disk->space().cached_bytes, 32 * kBlockSize);
  EXPECT_LE(in_use() - before, (32 + 2) * kBlockSize);
  machine.kill();
  ASSERT_TRUE(machine.open().ok());
  EXPECT_EQ(machine.disk->space().cached_bytes, 32 * kBlockSize);
  EXPECT_LE(in_use(), (32 + 2) * kBlockSize) << "as recovered";
}

TEST_F(StoreTest, LostDirectDataCutsTheLogUnlessItWasFlushed) {
  for (bool flushed : {false, true}) {
    machine.kill();
    machine.options.directory = flushed ? "/disk2" : "/disk";
    open();
    ASSERT_TRUE(write(1, range(0, 64), 1).ok());
    ASSERT_TRUE(write(2, range(64, 64), 100).ok());
    ASSERT_TRUE(write(3, range(500, 1), 300).ok());
    if (flushed) {
      ASSERT_TRUE(machine.wait<Status>([&](StatusCallback done) { one().flush(std::move(done)); }).ok());
      ASSERT_TRUE(write(4, range(501, 1), 301).ok());
    }
    machine.kill();
    sim::SimFileData* data = machine.world.disk("node").find(machine.options.directory + "/data");
    std::size_t before = data->current.size();
    ASSERT_EQ(before, 128u);
    for (auto& [page, bytes] : data->current) {
      std::uint64_t word;
      std::memcpy(&word, bytes->data(), 8);
      if (word == 130 * 0x9E3779B97F4A7C15ull) (*bytes)[0] ^= std::byte{1};
    }
    ASSERT_TRUE(machine.open().ok());
    if (flushed) {
      // It was on the disk: that is rot, of one block.
      EXPECT_EQ(one().info().last.seq, Seq(4));
      Result<ReadOutcome> rotten = read(range(64 + 30, 1));
      ASSERT_TRUE(rotten.ok());
      EXPECT_NE(crc32c(rotten->data[0].bytes()), rotten->crc[0]);
      EXPECT_EQ(tags(range(93, 1)), (std::vector<std::uint64_t>{129}));
      EXPECT_EQ(tags(range(95, 1)), (std::vector<std::uint64_t>{131}));
      EXPECT_EQ(tags(range(500, 2)), (std::vector<std::uint64_t>{300, 301}));
      continue;
    }
    EXPECT_EQ(one().info().last.seq, Seq(1));
    EXPECT_EQ(machine.disk->space().used_bytes, std::uint64_t{kChunkSize});
  }
}

// ---- devices that fail ----

TEST_F(StoreTest, FailingJournalWriteFailsTheDisk) {
  open();
  ASSERT_TRUE(write(1, range(0, 1), 1).ok());
  machine.world.disk_faults("node").write_error_ppm = 1'000'000;
  EXPECT_EQ(write(2, range(1, 1), 2).error().code(), ErrorCode::kDiskIo);
  EXPECT_NE(machine.disk->failure(), "");
  machine.world.disk_faults("node").write_error_ppm = 0;
  EXPECT_EQ(write(2, range(1, 1), 2).error().code(), ErrorCode::kDiskIo);
  EXPECT_EQ(read(range(0, 1)).error().code(), ErrorCode::kDiskIo);
  EXPECT_EQ(machine.wait<Status>([&](StatusCallback done) { one().flush(std::move(done)); }).error().code(),
            ErrorCode::kDiskIo);
  machine.kill();
  ASSERT_TRUE(machine.open().ok());
  EXPECT_EQ(tags(range(0, 1)), (std::vector<std::uint64_t>{1}));
}

TEST_F(StoreTest, LabelThatCouldNotBeSyncedIsWrittenAgain) {
  // Writing the label ends the formatting; the disk fails once it is written, before it is synced.
  sim::Process* watcher = machine.world.start_process("other", "watcher");
  Timer timer(*watcher->env);
  std::function<void()> watch = [&] {
    sim::SimFileData* label = file("disk.json");
    if (label && label->size >= kBlockSize) {
      machine.world.disk_faults("node").write_error_ppm = 1'000'000;
    } else {
      timer.arm_after(10us, [&] { watch(); });
    }
  };
  watch();
  EXPECT_EQ(machine.open().error().code(), ErrorCode::kDiskIo);
  machine.world.disk_faults("node").write_error_ppm = 0;
  machine.kill();
  open();
  ASSERT_TRUE(write(1, range(0, 1), 1).ok());
  ASSERT_TRUE(machine.wait<Status>([&](StatusCallback done) { one().flush(std::move(done)); }).ok());
  machine.power_off();
  ASSERT_TRUE(machine.open().ok());
  EXPECT_EQ(tags(range(0, 1)), (std::vector<std::uint64_t>{1}));
}

TEST_F(StoreTest, FailingMetadataFailsTheDisk) {
  open();
  ASSERT_TRUE(write(1, range(0, 1), 1).ok());
  machine.kv.set_failing(true);
  one().set_committed(Seq(1));
  machine.settle();
  EXPECT_NE(machine.disk->failure(), "");
  machine.kv.set_failing(false);
  machine.kill();
  ASSERT_TRUE(machine.open().ok());
  EXPECT_EQ(tags(range(0, 1)), (std::vector<std::uint64_t>{1}));
}

TEST_F(StoreTest, FailingReadFailsThatReadOnly) {
  open();
  ASSERT_TRUE(write(1, range(0, 64), 1).ok());
  one().set_committed(Seq(1));
  machine.settle();
  machine.world.disk_faults("node").read_error_ppm = 1'000'000;
  EXPECT_EQ(read(range(0, 1)).error().code(), ErrorCode::kDiskIo);
  machine.world.disk_faults("node").read_error_ppm = 0;
  EXPECT_EQ(tags(range(0, 1)), (std::vector<std::uint64_t>{1}));
  EXPECT_EQ(machine.disk->failure(), "");
}

// ---- formatting and labels ----

// Keeps what was opened: its process dies in the middle, so it is never destroyed.
Task<void> open_and_keep(Env* env, StoreOptions options, ModelKvDisk* kv) {
  static auto* kept = new std::vector<Result<std::unique_ptr<DiskStore>>>;
  Task<Result<std::unique_ptr<DiskStore>>> opening = DiskStore::open(*env, options, model_kv(kv));
  Result<std::unique_ptr<DiskStore>> opened = co_await std::move(opening);
  kept->push_back(std::move(opened));
}

TEST_F(StoreTest, InterruptedFormattingIsRepeated) {
  for (int events = 1; events < 120; events += 3) {
    machine.options.directory = "/disk" + std::to_string(events);
    machine.process = machine.world.start_process("node", "store");
    spawn(open_and_keep(&machine.env(), machine.options, &machine.kv));
    for (int i = 0; i < events; ++i) machine.world.step();
    machine.power_off();
    Status opened = machine.open();
    ASSERT_TRUE(opened.ok()) << events << ": " << opened.error().to_string();
    ASSERT_TRUE(machine.create(kOne, kBlocks).ok());
    ASSERT_TRUE(write(1, range(0, 1), 1).ok());
    machine.kill();
  }
}

TEST_F(StoreTest, DataWithoutLabelIsNeverFormattedOver) {
  open();
  ASSERT_TRUE(write(1, range(0, 1), 1).ok());
  machine.kill();
  damage("disk.json", 0, 10);
  EXPECT_EQ(machine.open().error().code(), ErrorCode::kWrongDisk);
}

TEST_F(StoreTest, WrongAndLockedDisksAreRefused) {
  open();
  std::string id = machine.disk->disk_id();
  EXPECT_EQ(id.size(), 32u);
  // A second process.
  sim::Process* first = machine.process;
  std::unique_ptr<DiskStore> held = std::move(machine.disk);
  EXPECT_EQ(machine.open().error().code(), ErrorCode::kInUse);
  machine.kill();
  machine.process = first;
  machine.disk = std::move(held);
  machine.kill();
  machine.options.expected_disk_id = std::string(32, '0');
  EXPECT_EQ(machine.open().error().code(), ErrorCode::kWrongDisk);
  machine.kill();
  machine.options.expected_disk_id = id;
  EXPECT_TRUE(machine.open().ok());
}

}  // namespace
}  // namespace holdfast::store
