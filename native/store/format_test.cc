// The on-disk structures: round trips, golden images (bytes that older versions wrote and every later one must read),
// and a folder that was written long ago.
#include <fstream>

#include "base/crc32c.h"
#include "store/chunk_record.h"
#include "store/disk_label.h"
#include "store/journal_format.h"
#include "store/test_machine.h"

#ifndef HOLDFAST_SOURCE_DIR
#define HOLDFAST_SOURCE_DIR "."
#endif

namespace holdfast::store {
namespace {

std::string golden_path(const std::string& name) {
  return std::string(HOLDFAST_SOURCE_DIR) + "/native/store/golden/" + name;
}

// Compares with the checked-in image; HOLDFAST_WRITE_GOLDEN=1 makes it (only for a new format version).
void expect_golden(const std::string& name, std::string_view bytes) {
  if (std::getenv("HOLDFAST_WRITE_GOLDEN")) std::ofstream(golden_path(name), std::ios::binary) << bytes;
  std::ifstream file(golden_path(name), std::ios::binary);
  ASSERT_TRUE(file.good()) << golden_path(name);
  std::string expected((std::istreambuf_iterator<char>(file)), {});
  EXPECT_EQ(bytes.size(), expected.size());
  EXPECT_TRUE(bytes == expected) << name << " is written differently now: that needs a new format version";
}

ChunkRecord example_record() {
  ChunkRecord record;
  record.slot = 77;
  record.data = 0x8000'0000'0000'0005;
  record.zero = 0x10;
  record.fresh = 0x4;
  record.fresh_generation = 9;
  record.version = {Epoch(3), Seq(1234)};
  record.crc[0] = 0x11111111;
  record.crc[2] = 0x22222222;
  record.crc[63] = 0x33333333;
  return record;
}

TEST(StoreFormat, ChunkRecord) {
  ChunkRecord record = example_record();
  std::string bytes = encode_chunk_record(record);
  expect_golden("chunk-record.bin", bytes);
  Result<ChunkRecord> decoded = decode_chunk_record(bytes);
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(encode_chunk_record(*decoded), bytes);
  EXPECT_EQ(decoded->crc, record.crc);
  for (std::size_t cut = 0; cut < bytes.size(); ++cut) EXPECT_FALSE(decode_chunk_record(bytes.substr(0, cut)).ok());
  EXPECT_FALSE(decode_chunk_record(bytes + "x").ok());
  std::string newer = bytes;
  newer[0] = 2;
  EXPECT_EQ(decode_chunk_record(newer).error().code(), ErrorCode::kFormatTooNew);
  std::string overlapping = bytes;
  overlapping[24] = 5;  // zero and data say the same block
  EXPECT_EQ(decode_chunk_record(overlapping).error().code(), ErrorCode::kCorrupt);
}

TEST(StoreFormat, DigestSeesContentOnly) {
  ChunkRecord record = example_record();
  std::uint32_t digest = chunk_digest(record);
  EXPECT_NE(digest, 0u);
  record.slot = 5;
  record.zero = record.fresh = 0;
  record.version = {};
  record.crc[1] = 99;  // of a block that holds nothing
  EXPECT_EQ(chunk_digest(record), digest);
  record.crc[2] ^= 1;
  EXPECT_NE(chunk_digest(record), digest);
}

TEST(StoreFormat, KeysSortByChunk) {
  EXPECT_LT(chunk_key(SpaceId(1), 1, ChunkIndex(255)), chunk_key(SpaceId(1), 1, ChunkIndex(256)));
  EXPECT_LT(chunk_key(SpaceId(1), 1, ChunkIndex(~0ull)), chunk_key(SpaceId(1), 2, ChunkIndex(0)));
  EXPECT_LT(chunk_key(SpaceId(1), 9, ChunkIndex(9)), chunk_key(SpaceId(256), 1, ChunkIndex(0)));
  std::string key = chunk_key(SpaceId(0x0102030405060708), 1, ChunkIndex(0x1122));
  expect_golden("chunk-key.bin", key);
  EXPECT_EQ(replica_of_key(key), ReplicaId(0x0102030405060708));
  EXPECT_EQ(chunk_of_key(key), ChunkIndex(0x1122));
}

TEST(StoreFormat, ReplicaRecords) {
  ReplicaIdentity identity{VolumeId(7), Epoch(12), 3, false, Seq(100), kFirstLayer, false, false, {}};
  expect_golden("replica-identity.bin", encode_identity(identity));
  Result<ReplicaIdentity> same = decode_identity(encode_identity(identity));
  ASSERT_TRUE(same.ok());
  EXPECT_EQ(encode_identity(*same), encode_identity(identity));
  ReplicaApplied applied{{Epoch(12), Seq(500)}, Seq(510), 4096, {{Epoch(1), Seq(1)}, {Epoch(12), Seq(400)}}};
  expect_golden("replica-applied.bin", encode_applied(applied));
  Result<ReplicaApplied> again = decode_applied(encode_applied(applied));
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(encode_applied(*again), encode_applied(applied));
  EXPECT_FALSE(decode_applied(encode_applied(applied).substr(1)).ok());
  EXPECT_FALSE(decode_identity("").ok());
}

TEST(StoreFormat, RecordsOfLinkedClones) {
  ReplicaIdentity identity{VolumeId(7), Epoch(12), 3, true, Seq(0), kFirstLayer, true, true, SpaceId(0xB0B)};
  expect_golden("replica-identity-linked.bin", encode_identity(identity));
  Result<ReplicaIdentity> same = decode_identity(encode_identity(identity));
  ASSERT_TRUE(same.ok());
  EXPECT_EQ(same->space, identity.space);
  EXPECT_TRUE(same->layered && same->complete);
  EXPECT_EQ(encode_identity(*same), encode_identity(identity));
  EXPECT_FALSE(decode_identity(encode_identity(identity).substr(0, 40)).ok());
  SpaceLink link{SpaceId(0xA), {SnapshotId(0xA1), first_layer_of(1) + 3, at(2, 7), 1000}};
  expect_golden("space-link.bin", encode_link(link));
  Result<SpaceLink> again = decode_link(encode_link(link));
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->space, link.space);
  EXPECT_EQ(again->snapshot, link.snapshot);
  EXPECT_FALSE(decode_link(encode_link(link).substr(1)).ok());
  EXPECT_FALSE(decode_link("").ok());
  expect_golden("space-left.bin", encode_left());
}

TEST(StoreFormat, LayerRecords) {
  LayerTree tree;
  tree.take_snapshot(SnapshotId(0xA1), at(2, 7), 1000);
  tree.take_snapshot(SnapshotId(0xA2), at(2, 9), 1100);
  tree.revert_to(SnapshotId(0xA1), at(3, 12));
  expect_golden("layer-state.bin", tree.encode_state());
  const SnapshotRecord& snapshot = *tree.find(SnapshotId(0xA2));
  expect_golden("snapshot-record.bin", encode_snapshot_record(snapshot));
  EXPECT_EQ(*decode_snapshot_record(encode_snapshot_record(snapshot)), snapshot);
  EXPECT_FALSE(decode_snapshot_record(encode_snapshot_record(snapshot).substr(1)).ok());
  MergeJob job{0, {first_layer_of(1), first_layer_of(1) + 4}, first_layer_of(1) + 2, ChunkIndex(77)};
  expect_golden("merge-job.bin", encode_merge_job(job));
  Result<MergeJob> same = decode_merge_job(encode_merge_job(job));
  ASSERT_TRUE(same.ok());
  EXPECT_EQ(encode_merge_job(*same), encode_merge_job(job));
  EXPECT_FALSE(decode_merge_job("").ok());

  std::string key = layered_key(SpaceId(0x0102030405060708), ChunkIndex(0x1122), first_layer_of(3) + 1);
  expect_golden("layered-key.bin", key);
  EXPECT_EQ(chunk_of_layered_key(key), ChunkIndex(0x1122));
  EXPECT_EQ(layer_of_layered_key(key), first_layer_of(3) + 1);
  EXPECT_EQ(replica_of_key(key), ReplicaId(0x0102030405060708));
  // The newest layer of a chunk comes first.
  EXPECT_LT(layered_key(SpaceId(1), ChunkIndex(5), 9), layered_key(SpaceId(1), ChunkIndex(5), 8));
  EXPECT_LT(layered_key(SpaceId(1), ChunkIndex(5), 1), layered_key(SpaceId(1), ChunkIndex(6), ~LayerNumber{0}));
  std::string index = layer_index_key(SpaceId(4), 9, ChunkIndex(6));
  EXPECT_EQ(layer_of_index_key(index), 9u);
  EXPECT_EQ(chunk_of_index_key(index), ChunkIndex(6));

  // Versions that know no layers refuse the replica.
  ReplicaIdentity identity{VolumeId(7), Epoch(12), 3, true, Seq(0), kFirstLayer, true};
  std::string bytes = encode_identity(identity);
  EXPECT_EQ(bytes[0], 2);
  ASSERT_TRUE(decode_identity(bytes).ok());
  EXPECT_TRUE(decode_identity(bytes)->layered);
}

TEST(StoreFormat, JournalState) {
  JournalState state{41, 9000, {{1, 1}, {2, 30}, {5, 50}}};
  expect_golden("journal-state.bin", encode_journal_state(state));
  Result<JournalState> same = decode_journal_state(encode_journal_state(state));
  ASSERT_TRUE(same.ok());
  EXPECT_EQ(encode_journal_state(*same), encode_journal_state(state));
  EXPECT_EQ(state.generation_of(29), 1u);
  EXPECT_EQ(state.generation_of(30), 2u);
  EXPECT_EQ(state.generation_of(5000), 5u);
  state.prune();
  ASSERT_EQ(state.runs.size(), 2u);
  EXPECT_EQ(state.runs[0].generation, 2u);
  // A run without batches gives way to the next one.
  state.runs.push_back({6, 50});
  state.prune();
  ASSERT_EQ(state.runs.size(), 2u);
  EXPECT_EQ(state.runs[1].generation, 6u);
}

TEST(StoreFormat, BatchHeader) {
  std::vector<std::byte> block(kBlockSize);
  EntryHeader write{};
  write.replica = 0xABCD;
  write.log_generation = 4;
  write.epoch = 2;
  write.seq = 10;
  write.committed = 9;
  write.first_block = 100;
  write.block_count = 3;
  write.op = 1;
  std::uint32_t crcs[3] = {1, 2, 3};
  EntryHeader direct = write;
  direct.seq = 11;
  direct.first_block = 60;
  direct.block_count = 70;
  direct.direct_count = 1;
  std::vector<std::uint32_t> many(70, 7);
  DirectPiece piece{4, 55};
  EntryHeader zero = write;
  zero.seq = 12;
  zero.op = 2;
  zero.flags = 1;
  zero.block_count = 16'384;
  std::size_t at = sizeof(BatchHeader);
  at += put_entry_descriptor(block.data() + at, write, std::as_bytes(std::span(crcs)), {});
  at += put_entry_descriptor(block.data() + at, direct, std::as_bytes(std::span(many)), std::span(&piece, 1));
  at += put_entry_descriptor(block.data() + at, zero, {}, {});
  BatchHeader header{};
  header.key = 0x1234;
  header.generation = 2;
  header.number = 17;
  header.position = 4000;
  header.header_blocks = 1;
  header.payload_blocks = 3 + 6;
  header.entry_count = 3;
  header.entry_bytes = static_cast<std::uint32_t>(at - sizeof(BatchHeader));
  header.flushed_number = 15;
  header.completed_number = 16;
  header.oldest_number = 3;
  seal_batch(block, header);
  expect_golden("batch-header.bin", std::string_view(reinterpret_cast<const char*>(block.data()), block.size()));

  EXPECT_FALSE(peek_batch(block, 0x9999).has_value());
  ASSERT_TRUE(peek_batch(block, 0x1234).has_value());
  ASSERT_TRUE(batch_crc_ok(block));
  Result<std::vector<ParsedEntry>> entries = parse_entries(block);
  ASSERT_TRUE(entries.ok());
  ASSERT_EQ(entries->size(), 3u);
  EXPECT_EQ((*entries)[1].payload_first, 3u);
  EXPECT_EQ((*entries)[1].payload_blocks, 6u);
  EXPECT_EQ((*entries)[1].direct[0].slot, 55u);
  EXPECT_EQ((*entries)[2].header.flags, 1);
  for (std::size_t byte = 0; byte < block.size(); byte += 13) {
    block[byte] ^= std::byte{4};
    EXPECT_FALSE(peek_batch(block, 0x1234).has_value() && batch_crc_ok(block)) << byte;
    block[byte] ^= std::byte{4};
  }
}

TEST(StoreFormat, DiskLabel) {
  DiskLabel label{"0123456789abcdef0123456789abcdef", 0xFEDCBA9876543210, 1u << 30};
  std::string text = encode_disk_label(label);
  ASSERT_EQ(text.size(), kBlockSize);
  expect_golden("disk.json", text);
  Result<DiskLabel> same = decode_disk_label(text);
  ASSERT_TRUE(same.ok());
  EXPECT_EQ(encode_disk_label(*same), text);
  EXPECT_EQ(decode_disk_label(text.substr(0, 100)).error().code(), ErrorCode::kNotFound);
  EXPECT_EQ(decode_disk_label(std::string(kBlockSize, '\0')).error().code(), ErrorCode::kNotFound);
  std::string newer = text.substr(0, text.find(",\"crc32c\""));
  newer.replace(newer.find("\"format\":1"), 10, "\"format\":2");
  newer += ",\"crc32c\":\"" + to_hex(crc32c(std::as_bytes(std::span(newer)))).substr(8) + "\"}";
  EXPECT_EQ(decode_disk_label(newer).error().code(), ErrorCode::kFormatTooNew);
}

// ---- a whole folder ----

constexpr std::string_view kImageFiles[] = {"disk.json", "data", "journal"};

// "name size\n" then for each stored page that is not zero: "index " + 4096 bytes; an image of the sparse files.
void save_folder(TestMachine& machine, std::string& out) {
  for (std::string_view name : kImageFiles) {
    sim::SimFileData* file = machine.world.disk("node").find("/disk/" + std::string(name));
    std::string pages;
    std::uint64_t count = 0;
    for (auto& [index, page] : file->current) {
      if (*page == sim::SimPage::Bytes{}) continue;
      pages.append(reinterpret_cast<const char*>(&index), 8);
      pages.append(reinterpret_cast<const char*>(page->data()), page->size());
      ++count;
    }
    out.append(reinterpret_cast<const char*>(&file->size), 8);
    out.append(reinterpret_cast<const char*>(&count), 8);
    out += pages;
  }
}

void load_folder(TestMachine& machine, std::string_view in) {
  auto u64 = [&in] {
    std::uint64_t value;
    std::memcpy(&value, in.data(), 8);
    in.remove_prefix(8);
    return value;
  };
  for (std::string_view name : kImageFiles) {
    sim::SimFileData* file = machine.world.disk("node").create("/disk/" + std::string(name));
    file->size = u64();
    for (std::uint64_t left = u64(); left > 0; --left) {
      sim::SimPage page = sim::SimPage::make();
      std::uint64_t index = u64();
      std::memcpy(page->data(), in.data(), page->size());
      in.remove_prefix(page->size());
      file->current[index] = std::move(page);
    }
  }
}

std::string read_golden(const std::string& name) {
  std::ifstream file(golden_path(name), std::ios::binary);
  EXPECT_TRUE(file.good()) << golden_path(name);
  return std::string((std::istreambuf_iterator<char>(file)), {});
}

// The folder was left by a killed process: a replica with destaged chunks, and entries of every kind in the journal.
TEST(StoreFormat, FolderOfVersion1StillOpens) {
  TestMachine machine(5);
  const ReplicaId id(0x10);
  if (std::getenv("HOLDFAST_WRITE_GOLDEN")) {
    ASSERT_TRUE(machine.open().ok());
    ASSERT_TRUE(machine.create(id, 1000).ok());
    ReplicaStore& replica = *machine.disk->find(id);
    auto append = [&](Entry entry) {
      ASSERT_TRUE(
          machine.wait<Status>([&](StatusCallback done) { replica.append(std::move(entry), std::move(done)); }).ok());
    };
    append(write_entry(machine.env(), at(1, 1), {BlockIndex(10), 3}, 100));
    append(zero_entry(at(1, 2), {BlockIndex(11), 1}));
    replica.set_committed(Seq(2));
    machine.settle();
    append(write_entry(machine.env(), at(2, 3), {BlockIndex(60), 70}, 200));
    append(resize_entry(at(2, 4), 1100));
    append(zero_entry(at(2, 5), {BlockIndex(62), 3}));
    machine.kill();
    std::string image;
    save_folder(machine, image);
    std::ofstream(golden_path("folder-v1.img"), std::ios::binary) << image;
    std::ofstream(golden_path("folder-v1.kv"), std::ios::binary) << machine.kv.dump("/disk/meta");
  }
  TestMachine later(6);
  load_folder(later, read_golden("folder-v1.img"));
  later.kv.load("/disk/meta", read_golden("folder-v1.kv"));
  ASSERT_TRUE(later.open().ok());
  ReplicaStore* replica = later.disk->find(id);
  ASSERT_NE(replica, nullptr);
  ReplicaInfo info = replica->info();
  EXPECT_EQ(info.last, at(2, 5));
  EXPECT_EQ(info.applied, Seq(2));
  EXPECT_EQ(info.size_blocks, 1100u);
  auto read = later.wait<Result<ReadOutcome>>([&](auto done) { replica->read({BlockIndex(0), 140}, std::move(done)); });
  ASSERT_TRUE(read.ok());
  std::vector<std::uint64_t> tags = tags_of(read->present, 140, read->crc, read->data);
  for (std::uint64_t block = 0; block < 140; ++block) {
    std::uint64_t expected = block == 10 || block == 12 ? 90 + block : 0;
    if (block >= 60 && block < 130) expected = 140 + block;
    if (block >= 62 && block < 65) expected = 0;
    EXPECT_EQ(tags[block], expected) << block;
  }
}

}  // namespace
}  // namespace holdfast::store
