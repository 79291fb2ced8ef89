#include "replica/messages.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

namespace holdfast::replica {
namespace {

// ---- helpers ----

Slice bytes_of(BufferPool& pool, std::initializer_list<int> values) {
  std::string text;
  for (int value : values) text.push_back(static_cast<char>(value));
  return pool.copy_of(as_bytes(text));
}

Slice filled(BufferPool& pool, std::size_t size, int seed) {
  Slice slice = pool.allocate(size);
  for (std::size_t i = 0; i < size; ++i) slice.data()[i] = static_cast<std::byte>(seed + i * 7 + i / 251);
  return slice;
}

std::string joined(const SliceList& parts) {
  std::string text;
  for (const Slice& part : parts) text.append(part.text());
  return text;
}

// As rpc delivers a message: one buffer that ends at a page boundary.
Slice received(BufferPool& pool, const SliceList& parts) {
  Slice message = pool.allocate_end_aligned(std::max<std::size_t>(total_size(parts), 1));
  std::size_t at = message.size() - total_size(parts);
  Slice exact = message.sub(at, total_size(parts));
  std::size_t offset = 0;
  for (const Slice& part : parts) {
    if (!part.empty()) std::memcpy(exact.data() + offset, part.data(), part.size());
    offset += part.size();
  }
  return exact;
}

bool page_aligned(const Slice& slice) { return reinterpret_cast<std::uintptr_t>(slice.data()) % 4096 == 0; }
bool within(const Slice& part, const Slice& whole) {
  return part.data() >= whole.data() && part.data() + part.size() <= whole.data() + whole.size();
}

store::Entry write_entry(BufferPool& pool, std::uint32_t blocks) {
  store::Entry entry;
  entry.position = {Epoch(7), Seq(1'000'000'000'123)};
  entry.op = store::Op::kWrite;
  entry.blocks = {BlockIndex(0xFFFF'FFFF'FFull), blocks};
  entry.crc = filled(pool, 4 * blocks, 3);
  entry.data = filled(pool, 4096u * blocks, 9);
  return entry;
}

void expect_equal(const store::Entry& a, const store::Entry& b) {
  EXPECT_EQ(a.position, b.position);
  EXPECT_EQ(a.op, b.op);
  EXPECT_EQ(a.blocks, b.blocks);
  EXPECT_EQ(a.deallocate, b.deallocate);
  EXPECT_EQ(a.snapshot, b.snapshot);
  EXPECT_EQ(a.size_blocks, b.size_blocks);
  EXPECT_EQ(a.crc.text(), b.crc.text());
  EXPECT_EQ(a.data.text(), b.data.text());
}

ReplicaState sample_state() {
  ReplicaState state;
  state.info.id = ReplicaId(0xFEDC'BA98'7654'3210ull);
  state.info.volume = VolumeId(2);
  state.info.size_blocks = 1u << 20;
  state.info.promised = Epoch(9);
  state.info.last = {Epoch(8), Seq(77)};
  state.info.committed = Seq(76);
  state.info.applied = Seq(70);
  state.info.history = {{Epoch(1), Seq(1)}, {Epoch(8), Seq(50)}};
  state.info.complete = true;
  state.info.base = Seq(5);
  state.info.used_bytes = 262'144;
  state.rebuild = RebuildProgress{4096, 17, 1u << 30, 100'000'000};
  return state;
}

void expect_equal(const ReplicaState& a, const ReplicaState& b) {
  EXPECT_EQ(a.info.id, b.info.id);
  EXPECT_EQ(a.info.volume, b.info.volume);
  EXPECT_EQ(a.info.size_blocks, b.info.size_blocks);
  EXPECT_EQ(a.info.promised, b.info.promised);
  EXPECT_EQ(a.info.last, b.info.last);
  EXPECT_EQ(a.info.committed, b.info.committed);
  EXPECT_EQ(a.info.applied, b.info.applied);
  ASSERT_EQ(a.info.history.size(), b.info.history.size());
  for (std::size_t i = 0; i < a.info.history.size(); ++i) {
    EXPECT_EQ(a.info.history[i].epoch, b.info.history[i].epoch);
    EXPECT_EQ(a.info.history[i].first, b.info.history[i].first);
  }
  EXPECT_EQ(a.info.complete, b.info.complete);
  EXPECT_EQ(a.info.base, b.info.base);
  EXPECT_EQ(a.info.used_bytes, b.info.used_bytes);
  ASSERT_EQ(a.rebuild.has_value(), b.rebuild.has_value());
  if (a.rebuild) {
    EXPECT_EQ(a.rebuild->chunks_total, b.rebuild->chunks_total);
    EXPECT_EQ(a.rebuild->chunks_examined, b.rebuild->chunks_examined);
    EXPECT_EQ(a.rebuild->bytes_copied, b.rebuild->bytes_copied);
    EXPECT_EQ(a.rebuild->bytes_per_second, b.rebuild->bytes_per_second);
  }
}

// ---- the bytes on the wire ----

TEST(Messages, EntryHasTheBytesProtobufGives) {
  BufferPool pool;
  store::Entry entry;
  entry.position = {Epoch(1), Seq(300)};
  entry.op = store::Op::kWrite;
  entry.blocks = {BlockIndex(5), 1};
  entry.crc = bytes_of(pool, {0xAA, 0xBB, 0xCC, 0xDD});
  entry.data = bytes_of(pool, {1, 2, 3});
  SliceList out;
  encode(pool, entry, out);
  EXPECT_EQ(joined(out), std::string("\x08\x01"                  // epoch
                                     "\x10\xAC\x02"              // seq
                                     "\x18\x01"                  // op
                                     "\x20\x05"                  // first_block
                                     "\x28\x01"                  // block_count
                                     "\x32\x04\xAA\xBB\xCC\xDD"  // crc
                                     "\x7A\x03\x01\x02\x03",     // data
                                     22));
}

TEST(Messages, DefaultsAreOmitted) {
  BufferPool pool;
  SliceList out;
  encode(pool, AppendRequest{}, out);
  EXPECT_EQ(total_size(out), 0u);
  EXPECT_TRUE(encode(pool, GetReplicaRequest{}).empty());
  EXPECT_TRUE(encode(pool, std::vector<ReplicaState>{}).empty());
}

// ---- hot messages: round trip, no copies ----

TEST(Messages, AppendRequestCarriesItsPayloadUncopiedAndAligned) {
  BufferPool pool;
  for (std::uint32_t blocks : {1u, 2u, 31u, 32u, 256u}) {
    AppendRequest request;
    request.committed = Seq(41);
    request.entry = write_entry(pool, blocks);
    SliceList out;
    encode(pool, request, out);
    ASSERT_EQ(out.size(), 2u);
    EXPECT_EQ(out[1].data(), request.entry->data.data());
    EXPECT_LE(out[0].size(), 100 + 4 * blocks);

    Slice message = received(pool, out);
    AppendRequest decoded;
    ASSERT_TRUE(decode(message, pool, decoded).ok());
    EXPECT_EQ(decoded.committed, Seq(41));
    ASSERT_TRUE(decoded.entry);
    expect_equal(*decoded.entry, *request.entry);
    EXPECT_TRUE(page_aligned(decoded.entry->data));
    EXPECT_TRUE(within(decoded.entry->data, message)) << "copied";
    EXPECT_FALSE(decoded.hello || decoded.join || decoded.rebuild_bytes_per_second);
  }
}

TEST(Messages, FirstAppendRequestCarriesHelloAndJoin) {
  BufferPool pool;
  AppendRequest request;
  request.hello = ReplicaHello{ReplicaId(0x8000'0000'0000'0001ull), Epoch(4)};
  request.flush_id = 12;
  request.rebuild_bytes_per_second = 0;  // present: unlimited
  request.join = Join{{Seq(100), Seq(90), 1u << 18, {{Epoch(1), Seq(1)}, {Epoch(3), Seq(80)}}},
                      "[::1]:9000",
                      ReplicaId(5),
                      1'000'000,
                      {{"[::1]:9001", ReplicaId(6)}, {"[::1]:9002", ReplicaId(7)}},
                      true};
  for (std::uint64_t i = 4; i < 1'000; ++i) request.join->request.history.push_back({Epoch(i), Seq(i << 40)});
  SliceList out;
  encode(pool, request, out);
  AppendRequest decoded;
  ASSERT_TRUE(decode(received(pool, out), pool, decoded).ok());
  ASSERT_TRUE(decoded.hello && decoded.join);
  EXPECT_EQ(decoded.hello->replica, request.hello->replica);
  EXPECT_EQ(decoded.hello->epoch, Epoch(4));
  EXPECT_EQ(decoded.flush_id, 12u);
  EXPECT_EQ(decoded.rebuild_bytes_per_second, std::optional<std::uint64_t>(0));
  EXPECT_EQ(decoded.join->request.first, Seq(100));
  EXPECT_EQ(decoded.join->request.base, Seq(90));
  EXPECT_EQ(decoded.join->request.size_blocks, 1u << 18);
  ASSERT_EQ(decoded.join->request.history.size(), 998u);
  EXPECT_EQ(decoded.join->request.history[997].first, Seq(std::uint64_t{999} << 40));
  EXPECT_EQ(decoded.join->source_address, "[::1]:9000");
  EXPECT_EQ(decoded.join->source_replica, ReplicaId(5));
  EXPECT_EQ(decoded.join->bytes_per_second, 1'000'000u);
  ASSERT_EQ(decoded.join->others.size(), 2u);
  EXPECT_EQ(decoded.join->others[1].address, "[::1]:9002");
  EXPECT_EQ(decoded.join->others[1].replica, ReplicaId(7));
  EXPECT_TRUE(decoded.join->carry_damage);
  EXPECT_FALSE(decoded.entry);
}

TEST(Messages, EntriesWithoutPayload) {
  BufferPool pool;
  store::Entry zero;
  zero.position = {Epoch(2), Seq(3)};
  zero.op = store::Op::kZero;
  zero.blocks = {BlockIndex(64), store::kZeroBlocksMax};
  zero.deallocate = true;
  store::Entry resize;
  resize.position = {Epoch(~0ull), Seq(~0ull)};
  resize.op = store::Op::kResize;
  resize.size_blocks = ~0ull;
  store::Entry snapshot;
  snapshot.op = store::Op::kSnapshot;
  snapshot.snapshot = SnapshotId(~0ull);
  for (const store::Entry& entry : {zero, resize, snapshot}) {
    SliceList out;
    encode(pool, entry, out);
    EXPECT_EQ(out.size(), 1u);
    store::Entry decoded;
    ASSERT_TRUE(decode(received(pool, out), pool, decoded).ok());
    expect_equal(decoded, entry);
  }
}

TEST(Messages, AppendResponse) {
  BufferPool pool;
  AppendResponse response{Seq(9), 3,
                          Seq(8), RebuildProgress{~0ull, ~0ull, ~0ull, ~0ull},
                          true,   {{ChunkIndex(5), 6, "unreadable"}, {ChunkIndex(~0ull), ~0ull, ""}}};
  SliceList out;
  encode(pool, response, out);
  AppendResponse decoded;
  ASSERT_TRUE(decode(received(pool, out), decoded).ok());
  EXPECT_EQ(decoded.journalled, Seq(9));
  EXPECT_EQ(decoded.flushed_id, 3u);
  EXPECT_EQ(decoded.rebuilt, std::optional<Seq>(8));
  ASSERT_TRUE(decoded.rebuild);
  EXPECT_EQ(decoded.rebuild->bytes_per_second, ~0ull);
  EXPECT_TRUE(decoded.no_space);
  ASSERT_EQ(decoded.damaged.size(), 2u);
  EXPECT_EQ(decoded.damaged[0].chunk, ChunkIndex(5));
  EXPECT_EQ(decoded.damaged[0].blocks, 6u);
  EXPECT_EQ(decoded.damaged[0].message, "unreadable");
  EXPECT_EQ(decoded.damaged[1].blocks, ~0ull);
}

TEST(Messages, ReadRequest) {
  BufferPool pool;
  ReadRequest request{ReplicaHello{ReplicaId(3), Epoch(2)}, 8, {BlockIndex(1u << 30), 256}, true};
  SliceList out;
  encode(pool, request, out);
  ReadRequest decoded;
  ASSERT_TRUE(decode(received(pool, out), decoded).ok());
  ASSERT_TRUE(decoded.hello);
  EXPECT_EQ(decoded.hello->replica, ReplicaId(3));
  EXPECT_EQ(decoded.id, 8u);
  EXPECT_EQ(decoded.blocks, request.blocks);
  EXPECT_TRUE(decoded.map_only);
}

TEST(Messages, ReadResponseSendsTheStoresSlicesUncopied) {
  BufferPool pool;
  store::ReadOutcome outcome;
  outcome.present = {0b101};
  outcome.crc = {0x01020304, 0xA0B0C0D0};
  outcome.data = {filled(pool, 4096, 1), filled(pool, 4096, 2)};
  SliceList out;
  encode_read_response(pool, 77, outcome, out);
  ASSERT_EQ(out.size(), 3u);
  EXPECT_EQ(out[1].data(), outcome.data[0].data());
  Slice message = received(pool, out);
  ReadResponse decoded;
  ASSERT_TRUE(decode(message, decoded).ok());
  EXPECT_TRUE(decoded.status.ok());
  EXPECT_EQ(decoded.id, 77u);
  EXPECT_EQ(decoded.present.text(), "\x05");
  EXPECT_EQ(decoded.crc.text(), std::string_view("\x04\x03\x02\x01\xD0\xC0\xB0\xA0", 8));
  EXPECT_EQ(decoded.data.text(), joined(outcome.data));
  EXPECT_TRUE(within(decoded.data, message));
  EXPECT_TRUE(page_aligned(decoded.data));
}

TEST(Messages, ErrorsKeepTheirCodeAndTheirTextIsBounded) {
  BufferPool pool;
  for (const ErrorCodeRow& row : kErrorCodes) {
    SliceList read, chunk;
    encode_read_response(pool, 5, Error(row.code, "why"), read);
    encode_read_chunk_response(pool, 6, Error(row.code, std::string(100'000, 'x')), chunk);
    ReadResponse read_response;
    ASSERT_TRUE(decode(received(pool, read), read_response).ok());
    ASSERT_FALSE(read_response.status.ok());
    EXPECT_EQ(read_response.status.error().code(), row.code);
    EXPECT_EQ(read_response.status.error().message(), "why");
    ReadChunkResponse chunk_response;
    ASSERT_TRUE(decode(received(pool, chunk), pool, chunk_response).ok());
    ASSERT_FALSE(chunk_response.status.ok());
    EXPECT_EQ(chunk_response.status.error().code(), row.code);
    EXPECT_EQ(chunk_response.status.error().message().size(), 1'000u);
  }
}

TEST(Messages, AnErrorCodeOfALaterVersionIsInternal) {
  BufferPool pool;
  ReadResponse response;
  ASSERT_TRUE(decode(bytes_of(pool, {0x10, 0xFF, 0x01}), response).ok());
  ASSERT_FALSE(response.status.ok());
  EXPECT_EQ(response.status.error().code(), ErrorCode::kInternal);
}

TEST(Messages, ChunkContent) {
  BufferPool pool;
  store::ChunkContent content{
      {Epoch(3), Seq(4)}, Seq(10), 1ull << 63 | 1, 6, {1, 2}, {filled(pool, 4096, 5), filled(pool, 4096, 6)},
      1ull << 63};
  SliceList out;
  encode_read_chunk_response(pool, 2, content, out);
  Slice message = received(pool, out);
  ReadChunkResponse decoded;
  ASSERT_TRUE(decode(message, pool, decoded).ok());
  EXPECT_EQ(decoded.id, 2u);
  EXPECT_EQ(decoded.content.version, content.version);
  EXPECT_EQ(decoded.content.source_last, Seq(10));
  EXPECT_EQ(decoded.content.present, content.present);
  EXPECT_EQ(decoded.content.zero, 6u);
  EXPECT_EQ(decoded.content.damaged, 1ull << 63);
  EXPECT_EQ(decoded.content.crc, content.crc);
  EXPECT_EQ(joined(decoded.content.data), joined(content.data));
  EXPECT_TRUE(page_aligned(decoded.content.data.at(0)));
  EXPECT_TRUE(within(decoded.content.data[0], message));
}

TEST(Messages, ReadChunkRequest) {
  BufferPool pool;
  SliceList out;
  encode(pool, ReadChunkRequest{ReplicaId(~0ull), ~0ull, ChunkIndex(~0ull), Seq(~0ull), ~0ull, Seq(~0ull), true}, out);
  ReadChunkRequest decoded;
  ASSERT_TRUE(decode(received(pool, out), decoded).ok());
  EXPECT_EQ(decoded.replica, ReplicaId(~0ull));
  EXPECT_EQ(decoded.id, ~0ull);
  EXPECT_EQ(decoded.chunk, ChunkIndex(~0ull));
  EXPECT_EQ(decoded.min_seq, Seq(~0ull));
  EXPECT_EQ(decoded.layer, ~0ull);
  EXPECT_EQ(decoded.layers, Seq(~0ull));
  EXPECT_TRUE(decoded.damaged_too);
}

TEST(Messages, Snapshots) {
  BufferPool pool;
  ListSnapshotsRequest request{ReplicaId(9), Seq(8), true};
  ListSnapshotsRequest same;
  ASSERT_TRUE(decode(encode(pool, request), same).ok());
  EXPECT_EQ(same.replica, request.replica);
  EXPECT_EQ(same.min_seq, request.min_seq);
  EXPECT_TRUE(same.settled);
  SnapshotPage page;
  page.snapshots.push_back({{SnapshotId(~0ull), SnapshotId(3), {Epoch(4), Seq(5)}, 6, 7}, 8});
  page.snapshots.push_back({{SnapshotId(2), SnapshotId(), {}, 0, 0}, 0});
  page.revision = {Epoch(1), Seq(2)};
  page.head = 1ull << 32 | 1;
  page.forks = {0, 5};
  SnapshotPage decoded;
  ASSERT_TRUE(decode(encode(pool, page), decoded).ok());
  ASSERT_EQ(decoded.snapshots.size(), 2u);
  EXPECT_EQ(decoded.snapshots[0].info.id, SnapshotId(~0ull));
  EXPECT_EQ(decoded.snapshots[0].info.parent, SnapshotId(3));
  EXPECT_EQ(decoded.snapshots[0].info.position, (LogPosition{Epoch(4), Seq(5)}));
  EXPECT_EQ(decoded.snapshots[0].info.size_blocks, 6u);
  EXPECT_EQ(decoded.snapshots[0].info.used_bytes, 7u);
  EXPECT_EQ(decoded.snapshots[0].layer, 8u);
  EXPECT_EQ(decoded.revision, page.revision);
  EXPECT_EQ(decoded.head, page.head);
  EXPECT_EQ(decoded.forks, page.forks);
}

TEST(Messages, HotEncodingReusesItsMemory) {
  BufferPool pool;
  AppendRequest request;
  request.entry = write_entry(pool, 1);
  SliceList out;
  encode(pool, request, out);
  const Slice* memory = out.data();
  std::byte* header = out[0].data();
  std::size_t in_use = pool.bytes_in_use();
  for (int i = 0; i < 100; ++i) {
    out.clear();
    encode(pool, request, out);
    EXPECT_EQ(out.data(), memory);
    EXPECT_EQ(out[0].data(), header);
    EXPECT_EQ(pool.bytes_in_use(), in_use);
  }
}

// ---- cold messages ----

TEST(Messages, ReplicaStateAndList) {
  BufferPool pool;
  ReplicaState state = sample_state();
  ReplicaState decoded;
  ASSERT_TRUE(decode(encode(pool, state), decoded).ok());
  expect_equal(decoded, state);

  std::vector<ReplicaState> list{state, ReplicaState{}}, decoded_list;
  list[1].info.id = ReplicaId(1);
  ASSERT_TRUE(decode(encode(pool, list), decoded_list).ok());
  ASSERT_EQ(decoded_list.size(), 2u);
  expect_equal(decoded_list[0], list[0]);
  expect_equal(decoded_list[1], list[1]);
}

TEST(Messages, RestOfTheRequests) {
  BufferPool pool;
  Disk disk{"0123456789abcdef0123456789abcdef", {1, 2, 3, 4, 5, 6, 7, 8}, 1, "broken"}, disk_out;
  ASSERT_TRUE(decode(encode(pool, disk), disk_out).ok());
  EXPECT_EQ(disk_out.disk_id, disk.disk_id);
  EXPECT_EQ(disk_out.space.total_bytes, 1u);
  EXPECT_EQ(disk_out.space.used_bytes, 2u);
  EXPECT_EQ(disk_out.space.reserve_bytes, 3u);
  EXPECT_EQ(disk_out.space.free_bytes, 4u);
  EXPECT_EQ(disk_out.space.journal_bytes, 5u);
  EXPECT_EQ(disk_out.space.journal_used_bytes, 6u);
  EXPECT_EQ(disk_out.space.cached_bytes, 7u);
  EXPECT_EQ(disk_out.space.left_bytes, 8u);
  EXPECT_EQ(disk_out.format_version, 1u);
  EXPECT_EQ(disk_out.failure, "broken");

  CreateReplicaRequest create_out;
  ASSERT_TRUE(
      decode(encode(pool, CreateReplicaRequest{ReplicaId(1), VolumeId(2), 3, true, ReplicaId(4), SnapshotId(5)}),
             create_out)
          .ok());
  EXPECT_EQ(create_out.replica, ReplicaId(1));
  EXPECT_EQ(create_out.volume, VolumeId(2));
  EXPECT_EQ(create_out.size_blocks, 3u);
  EXPECT_TRUE(create_out.complete);
  EXPECT_EQ(create_out.source, ReplicaId(4));
  EXPECT_EQ(create_out.snapshot, SnapshotId(5));

  DeleteReplicaRequest delete_out;
  ASSERT_TRUE(decode(encode(pool, DeleteReplicaRequest{ReplicaId(4), true}), delete_out).ok());
  EXPECT_EQ(delete_out.replica, ReplicaId(4));
  EXPECT_TRUE(delete_out.force);

  OpenRequest open_out;
  ASSERT_TRUE(decode(encode(pool, OpenRequest{ReplicaId(5), Epoch(6)}), open_out).ok());
  EXPECT_EQ(open_out.replica, ReplicaId(5));
  EXPECT_EQ(open_out.epoch, Epoch(6));

  GetReplicaRequest get_out;
  ASSERT_TRUE(decode(encode(pool, GetReplicaRequest{ReplicaId(7)}), get_out).ok());
  EXPECT_EQ(get_out.replica, ReplicaId(7));

  ReadLogRequest log_out;
  ASSERT_TRUE(decode(encode(pool, ReadLogRequest{ReplicaId(1), Epoch(2), Seq(3), Seq(4)}), log_out).ok());
  EXPECT_EQ(log_out.epoch, Epoch(2));
  EXPECT_EQ(log_out.first, Seq(3));
  EXPECT_EQ(log_out.last, Seq(4));

  ListChunksRequest list_out;
  ListChunksRequest list{ReplicaId(1), Seq(2), Seq(3), ChunkIndex(4), ChunkIndex(5)};
  ASSERT_TRUE(decode(encode(pool, list), list_out).ok());
  EXPECT_EQ(list_out.replica, ReplicaId(1));
  EXPECT_EQ(list_out.min_seq, Seq(2));
  EXPECT_EQ(list_out.after, Seq(3));
  EXPECT_EQ(list_out.first, ChunkIndex(4));
  EXPECT_EQ(list_out.end, ChunkIndex(5));

  std::vector<store::ChunkVersion> chunks{{ChunkIndex(0), {Epoch(1), Seq(2)}, 3}, {ChunkIndex(9), {}, 0}}, chunks_out;
  ASSERT_TRUE(decode(encode(pool, chunks), chunks_out).ok());
  ASSERT_EQ(chunks_out.size(), 2u);
  EXPECT_EQ(chunks_out[0].version, chunks[0].version);
  EXPECT_EQ(chunks_out[0].digest, 3u);
  EXPECT_EQ(chunks_out[1].chunk, ChunkIndex(9));
}

// A nested message without a field is there all the same: protozero takes one back that it was given nothing for.
TEST(Messages, NestedMessagesWhoseFieldsAreAllDefaultsArrive) {
  BufferPool pool;
  ReplicaState state, state_out;
  state.rebuild.emplace();
  state.info.history.push_back({});
  ASSERT_TRUE(decode(encode(pool, state), state_out).ok());
  EXPECT_TRUE(state_out.rebuild) << "a rebuild that has only begun is one";
  EXPECT_EQ(state_out.info.history.size(), 1u);

  std::vector<store::ChunkVersion> chunks(2), chunks_out;
  ASSERT_TRUE(decode(encode(pool, chunks), chunks_out).ok());
  EXPECT_EQ(chunks_out.size(), 2u);

  SnapshotPage page, page_out;
  page.snapshots.resize(1);
  ASSERT_TRUE(decode(encode(pool, page), page_out).ok());
  EXPECT_EQ(page_out.snapshots.size(), 1u);

  ScrubProgress scrub, scrub_out;
  scrub.damaged.resize(1);
  ASSERT_TRUE(decode(encode(pool, scrub), scrub_out).ok());
  EXPECT_EQ(scrub_out.damaged.size(), 1u);
}

// ---- what other implementations may send ----

TEST(Messages, AChunkOfAReplicaThatKnowsNoLayersIsInTheFirst) {
  BufferPool pool;
  std::vector<store::ChunkVersion> silent, spoken;
  ASSERT_TRUE(decode(pool.copy_of(as_bytes(std::string("\x0A\x02\x10\x05", 4))), silent).ok());
  ASSERT_TRUE(decode(pool.copy_of(as_bytes(std::string("\x0A\x04\x10\x05\x28\x00", 6))), spoken).ok());
  ASSERT_EQ(silent.size(), 1u);
  ASSERT_EQ(spoken.size(), 1u);
  EXPECT_EQ(silent[0].layer, store::kFirstLayer);
  EXPECT_EQ(spoken[0].layer, store::kFirstLayer);
}

TEST(Messages, DataThatIsNotLastIsCopiedToAlignedMemory) {
  BufferPool pool;
  std::string payload(filled(pool, 4096, 1).text());
  // entry { data (first), seq, op }, then committed_seq after the entry.
  std::string entry = std::string("\x7A\x80\x20", 3) + payload + std::string("\x10\x05\x18\x01", 4);
  std::string text = std::string("\x7A\x87\x20", 3) + entry + std::string("\x10\x04", 2);
  SliceList parts{pool.copy_of(as_bytes(text))};
  Slice message = received(pool, parts);
  AppendRequest decoded;
  Status status = decode(message, pool, decoded);
  ASSERT_TRUE(status.ok()) << status.error().to_string();
  ASSERT_TRUE(decoded.entry);
  EXPECT_EQ(decoded.entry->position.seq, Seq(5));
  EXPECT_EQ(decoded.committed, Seq(4));
  EXPECT_EQ(decoded.entry->data.text(), payload);
  EXPECT_TRUE(page_aligned(decoded.entry->data));
  EXPECT_FALSE(within(decoded.entry->data, message));
}

TEST(Messages, UnknownFieldsAndForeignWireTypesAreSkipped) {
  BufferPool pool;
  AppendResponse decoded;
  Slice message = bytes_of(pool, {0xA0, 0x06, 0x01,                             // field 100, varint
                                  0xA2, 0x06, 0x02, 0xFF, 0xFF,                 // field 100, bytes
                                  0xA5, 0x06, 1,    2,    3,    4,              // field 100, fixed32
                                  0xA1, 0x06, 1,    2,    3,    4, 5, 6, 7, 8,  // field 100, fixed64
                                  0x0A, 0x01, 0x07,                             // journalled_seq as bytes
                                  0x08, 0x2A});                                 // journalled_seq = 42
  ASSERT_TRUE(decode(message, decoded).ok());
  EXPECT_EQ(decoded.journalled, Seq(42));
}

TEST(Messages, NestedMessagesThatComeTwiceAreMerged) {
  BufferPool pool;
  ReadRequest decoded;
  Slice message = bytes_of(pool, {0x0A, 0x09, 0x09, 1, 0, 0, 0, 0, 0, 0, 0, 0x0A, 0x02, 0x10, 0x05});
  ASSERT_TRUE(decode(message, decoded).ok());
  ASSERT_TRUE(decoded.hello);
  EXPECT_EQ(decoded.hello->replica, ReplicaId(1));
  EXPECT_EQ(decoded.hello->epoch, Epoch(5));
}

TEST(Messages, EmptyMessagesAreAllDefaults) {
  BufferPool pool;
  AppendRequest append;
  EXPECT_TRUE(decode(Slice(), pool, append).ok());
  EXPECT_FALSE(append.hello || append.entry || append.join || append.rebuild_bytes_per_second);
  ReadResponse read;
  EXPECT_TRUE(decode(Slice(), read).ok());
  EXPECT_TRUE(read.status.ok() && read.data.empty());
}

// ---- malformed ----

template <typename Decode>
void expect_protocol_error(BufferPool& pool, std::initializer_list<int> bytes, Decode decode_it) {
  Status status = decode_it(bytes_of(pool, bytes));
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code(), ErrorCode::kProtocol) << status.error().to_string();
}

TEST(Messages, MalformedBytesAreAProtocolError) {
  BufferPool pool;
  auto append = [&](const Slice& message) {
    AppendRequest into;
    return decode(message, pool, into);
  };
  expect_protocol_error(pool, {0x08}, append);        // tag without value
  expect_protocol_error(pool, {0x10, 0xFF}, append);  // varint cut
  expect_protocol_error(pool, {0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01},
                        append);                                        // long
  expect_protocol_error(pool, {0x0A, 0x05, 0x10}, append);              // nested message longer than what is there
  expect_protocol_error(pool, {0x0A, 0x02, 0x10, 0x80}, append);        // varint cut inside the nested message
  expect_protocol_error(pool, {0x7A, 0x03, 0x7A, 0x05, 0x00}, append);  // entry.data beyond the entry
  expect_protocol_error(pool, {0x00, 0x00}, append);                    // field number 0
  expect_protocol_error(pool, {0x0B}, append);                          // group
  expect_protocol_error(pool, {0x0F}, append);                          // wire type 7
  expect_protocol_error(pool, {0x09, 1, 2, 3}, append);                 // fixed64 cut
  expect_protocol_error(pool, {0x7A, 0x02, 0x10, 0x05}, append);        // entry without op
  expect_protocol_error(pool, {0x42, 0x03, 1, 2, 3}, [&](const Slice& message) {  // crc of three bytes
    ReadChunkResponse into;
    return decode(message, pool, into);
  });
}

TEST(Messages, AnOpOfALaterVersionIsUnimplemented) {
  BufferPool pool;
  AppendRequest into;
  for (int op : {7, 0x7F}) {
    Status status = decode(bytes_of(pool, {0x7A, 0x02, 0x18, op}), pool, into);
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code(), ErrorCode::kUnimplemented);
  }
  Status wraps = decode(bytes_of(pool, {0x7A, 0x03, 0x18, 0x81, 0x02}), pool, into);  // 257: not op 1
  EXPECT_FALSE(wraps.ok());
}

// Cutting a valid message anywhere, or flipping any byte, gives a message or an error, and never touches memory
// outside it (the sanitizers watch).
TEST(Messages, CutAndFlippedMessages) {
  BufferPool pool;
  AppendRequest request;
  request.hello = ReplicaHello{ReplicaId(1), Epoch(2)};
  request.join = Join{{Seq(3), Seq(2), 9, {{Epoch(1), Seq(1)}}}, "127.0.0.1:1", ReplicaId(2), 5};
  request.entry = write_entry(pool, 1);
  request.entry->data = filled(pool, 40, 1);
  SliceList out;
  encode(pool, request, out);
  std::string whole = joined(out);
  std::mt19937 random(1);
  for (std::size_t i = 0; i < whole.size(); ++i) {
    std::string cut = whole.substr(0, i);
    std::string flipped = whole;
    flipped[i] = static_cast<char>(random());
    for (const std::string& text : {cut, flipped}) {
      Slice message = pool.copy_of(as_bytes(text));
      AppendRequest append;
      (void)decode(message, pool, append).ok();
      ReadResponse response;
      (void)decode(message, response).ok();
      ReplicaState state;
      (void)decode(message, state).ok();
    }
  }
}

}  // namespace
}  // namespace holdfast::replica
