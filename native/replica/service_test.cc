// The replica API against a real disk over real rpc: disk and replica methods, fencing, Append, Read, ReadLog,
// ListChunks, ReadChunks. Each test runs on the simulator and on io_uring.
#include <gtest/gtest.h>

#include "replica/test_cluster.h"

namespace holdfast::replica {
namespace {

constexpr ReplicaId kReplica(11);
constexpr std::uint64_t kSizeBlocks = 1'024;  // 4 MiB, 16 chunks
constexpr Epoch kEpoch(5);

class ServiceTest : public testing::TestWithParam<Backend> {
 protected:
  ServiceTest() : cluster_(GetParam()), node_(cluster_.add_node("node1")), client_(cluster_, node_) {}

  void create_and_open(Epoch epoch = kEpoch) {
    ASSERT_TRUE(client_.create(kReplica, kSizeBlocks).ok());
    ASSERT_TRUE(client_.open(kReplica, epoch).ok());
  }
  Env& env() { return cluster_.env(); }
  store::Entry write(std::uint64_t seq, std::uint64_t first_block, std::uint32_t blocks = 1, std::uint64_t tag = 0) {
    return write_entry(env(), {kEpoch, Seq(seq)}, first_block, blocks, tag ? tag : seq * 1'000);
  }
  void send(AppendClient& stream, store::Entry entry, Seq committed = Seq()) {
    stream.send(env(), message_with(std::move(entry), committed));
  }
  void send_committed(AppendClient& stream, std::uint64_t seq) {
    AppendRequest request;
    request.committed = Seq(seq);
    stream.send(env(), request);
  }
  void expect_journalled(AppendClient& stream, std::uint64_t seq) {
    ASSERT_TRUE(cluster_.run_until([&] { return stream.last.journalled >= Seq(seq) || stream.ended; }));
    ASSERT_FALSE(stream.ended) << stream.ended->error().to_string();
  }
  void expect_ended(TestStream& stream, ErrorCode code) {
    ASSERT_TRUE(cluster_.run_until([&] { return stream.ended.has_value(); }));
    ASSERT_FALSE(stream.ended->ok());
    EXPECT_EQ(stream.ended->error().code(), code) << stream.ended->error().to_string();
  }

  TestCluster cluster_;
  TestNode& node_;
  TestClient client_;
};

std::string backend_name(const testing::TestParamInfo<Backend>& info) {
  return info.param == Backend::kSim ? "Sim" : "Uring";
}
INSTANTIATE_TEST_SUITE_P(Backends, ServiceTest, testing::Values(Backend::kSim, Backend::kUring), backend_name);

// ---- the disk ----

TEST_P(ServiceTest, DiskTellsItsIdAndSpace) {
  Result<rpc::Message> message = client_.unary(kGetDiskPath, Slice());
  ASSERT_TRUE(message.ok());
  Disk disk;
  ASSERT_TRUE(decode(*message, disk).ok());
  EXPECT_EQ(disk.disk_id, node_.disk->disk_id());
  EXPECT_EQ(disk.disk_id.size(), 32u);
  EXPECT_EQ(disk.format_version, 1u);
  EXPECT_EQ(disk.space.total_bytes, 256u << 20);
  EXPECT_GT(disk.space.free_bytes, 0u);
  EXPECT_EQ(disk.failure, "");
}

TEST_P(ServiceTest, CreateListAndDelete) {
  EXPECT_TRUE(client_.create(kReplica, kSizeBlocks).ok());
  EXPECT_TRUE(client_.create(kReplica, kSizeBlocks).ok()) << "idempotent";
  EXPECT_EQ(client_.create(kReplica, kSizeBlocks + 1).error().code(), ErrorCode::kAlreadyExists);
  EXPECT_EQ(client_.create(kReplica, kSizeBlocks, true, VolumeId(8)).error().code(), ErrorCode::kAlreadyExists);
  EXPECT_EQ(client_.create(ReplicaId(0), kSizeBlocks).error().code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(client_.create(ReplicaId(12), 0).error().code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(client_.create(ReplicaId(12), ~0ull).error().code(), ErrorCode::kInvalidArgument);
  EXPECT_TRUE(client_.create(ReplicaId(12), 64, false).ok());

  Result<rpc::Message> message = client_.unary(kListReplicasPath, Slice());
  ASSERT_TRUE(message.ok());
  std::vector<ReplicaState> list;
  ASSERT_TRUE(decode(*message, list).ok());
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0].info.id, kReplica);
  EXPECT_EQ(list[0].info.volume, VolumeId(7));
  EXPECT_TRUE(list[0].info.complete);
  EXPECT_FALSE(list[1].info.complete);

  EXPECT_TRUE(client_.remove(kReplica).ok());
  EXPECT_TRUE(client_.remove(kReplica).ok()) << "idempotent";
  EXPECT_EQ(client_.get(kReplica).error().code(), ErrorCode::kNotFound);
  EXPECT_EQ(client_.open(kReplica, kEpoch).error().code(), ErrorCode::kNotFound);
  EXPECT_TRUE(client_.create(kReplica, kSizeBlocks * 2).ok()) << "the id is free again";
  EXPECT_EQ(client_.get(kReplica)->info.size_blocks, kSizeBlocks * 2);
}

TEST_P(ServiceTest, TwoCreatesAtOnceMakeOneReplica) {
  std::vector<Status> answers;
  for (int i = 0; i < 2; ++i) {
    client_.channel().unary(kCreateReplicaPath,
                            encode(env().buffers(), CreateReplicaRequest{kReplica, VolumeId(7), 64, true, {}, {}}),
                            std::nullopt, [&](Result<rpc::Message> answer) { answers.push_back(answer.status()); });
  }
  ASSERT_TRUE(cluster_.run_until([&] { return answers.size() == 2; }));
  int succeeded = 0;
  for (const Status& answer : answers) {
    succeeded += answer.ok();
    if (!answer.ok()) {
      EXPECT_EQ(answer.error().code(), ErrorCode::kInUse) << "asked while the other was being stored";
    }
  }
  EXPECT_GE(succeeded, 1);
  EXPECT_TRUE(client_.create(kReplica, 64).ok());
}

TEST_P(ServiceTest, MalformedRequestsAreAProtocolError) {
  for (const char* path : {kCreateReplicaPath, kDeleteReplicaPath, kOpenPath, kGetReplicaPath}) {
    Result<rpc::Message> answer = client_.unary(path, env().buffers().copy_of(as_bytes("\x0A\xFFgarbage")));
    ASSERT_FALSE(answer.ok());
    EXPECT_EQ(answer.error().code(), ErrorCode::kProtocol) << path;
  }
}

// ---- fencing ----

TEST_P(ServiceTest, OpenPromisesAndIsRemembered) {
  create_and_open(Epoch(5));
  EXPECT_TRUE(client_.open(kReplica, Epoch(5)).ok());
  EXPECT_EQ(client_.open(kReplica, Epoch(4)).error().code(), ErrorCode::kEpochSuperseded);
  EXPECT_EQ(client_.open(kReplica, Epoch(0)).error().code(), ErrorCode::kInvalidArgument);
  Result<ReplicaState> state = client_.open(kReplica, Epoch(9));
  ASSERT_TRUE(state.ok());
  EXPECT_EQ(state->info.promised, Epoch(9));
  cluster_.close(node_);
  cluster_.open(node_);
  TestClient again(cluster_, node_);
  EXPECT_EQ(again.get(kReplica)->info.promised, Epoch(9));
  EXPECT_EQ(again.open(kReplica, Epoch(8)).error().code(), ErrorCode::kEpochSuperseded);
}

TEST_P(ServiceTest, StreamsNeedThePromisedEpoch) {
  create_and_open(Epoch(5));
  expect_ended(*client_.append(kReplica, Epoch(4)), ErrorCode::kEpochSuperseded);
  expect_ended(*client_.append(kReplica, Epoch(6)), ErrorCode::kFailedPrecondition);
  expect_ended(*client_.append(ReplicaId(99), Epoch(5)), ErrorCode::kNotFound);
  expect_ended(*client_.read_stream(kReplica, Epoch(4)), ErrorCode::kEpochSuperseded);
  expect_ended(*client_.read_stream(kReplica, Epoch(6)), ErrorCode::kFailedPrecondition);
  EXPECT_EQ(client_.read_log(kReplica, Epoch(4), Seq(1), Seq(1)).error().code(), ErrorCode::kEpochSuperseded);
}

TEST_P(ServiceTest, ANewerOpenEndsOlderStreamsBeforeItsAnswer) {
  create_and_open();
  auto append = client_.append(kReplica, kEpoch);
  auto reads = client_.read_stream(kReplica, kEpoch);
  send(*append, write(1, 0));
  expect_journalled(*append, 1);

  bool answered = false;
  bool ended_before = false;
  client_.channel().unary(kOpenPath, encode(env().buffers(), OpenRequest{kReplica, Epoch(6)}), std::nullopt,
                          [&](Result<rpc::Message> answer) {
                            answered = answer.ok();
                            ended_before = append->ended && reads->ended;
                          });
  ASSERT_TRUE(cluster_.run_until([&] { return answered; }));
  EXPECT_TRUE(ended_before);
  EXPECT_EQ(append->code(), ErrorCode::kEpochSuperseded);
  EXPECT_EQ(reads->code(), ErrorCode::kEpochSuperseded);
}

TEST_P(ServiceTest, OpenTellsTheFinalLogWhileEntriesStream) {
  create_and_open();
  for (std::uint64_t round = 0; round < 10; ++round) {
    Epoch epoch(kEpoch.value() + round);
    std::uint64_t next = client_.get(kReplica)->info.last.seq.value() + 1;
    auto append = client_.append(kReplica, epoch);
    for (std::uint64_t i = 0; i < 200; ++i) {
      send(*append, write_entry(env(), {epoch, Seq(next + i)}, i, 1, i));
      if (i == 20 * round) cluster_.run_until([&] { return append->last.journalled >= Seq(next + i / 2); });
    }
    Result<ReplicaState> opened = client_.open(kReplica, epoch.next());
    ASSERT_TRUE(opened.ok());
    EXPECT_GE(opened->info.last.seq, append->last.journalled);
    cluster_.settle();
    EXPECT_EQ(client_.get(kReplica)->info.last, opened->info.last);
  }
}

// A revert is taken when all before it is applied. The engine that sent it died before it said that this was committed.
TEST_P(ServiceTest, OpenDoesNotWaitForARevertThatCannotBeTaken) {
  ASSERT_TRUE(client_.create(kReplica, kSizeBlocks).ok());
  ASSERT_TRUE(client_.open(kReplica, Epoch(3)).ok());
  auto stream = client_.append(kReplica, Epoch(3));
  auto send = [&](std::uint64_t seq, store::Op op) {
    store::Entry entry;
    entry.position = {Epoch(3), Seq(seq)};
    entry.op = op;
    entry.snapshot = SnapshotId(7);
    stream->send(env(), message_with(entry));
  };
  send(1, store::Op::kSnapshot);
  send(2, store::Op::kRevert);
  ASSERT_TRUE(cluster_.run_until([&] { return stream->last.journalled == Seq(1); }));
  Result<ReplicaState> opened = client_.open(kReplica, Epoch(4));
  ASSERT_TRUE(opened.ok()) << opened.status().error().to_string();
  EXPECT_EQ(opened->info.last.seq, Seq(1));
}

TEST_P(ServiceTest, ANewerAppendOfTheSameEpochEndsTheOlder) {
  create_and_open();
  auto first = client_.append(kReplica, kEpoch);
  send(*first, write(1, 0));
  expect_journalled(*first, 1);
  auto second = client_.append(kReplica, kEpoch);
  send(*second, write(2, 0));
  expect_journalled(*second, 2);
  expect_ended(*first, ErrorCode::kCancelled);
}

TEST_P(ServiceTest, OpeningAgainEndsTheAppendStreamButNotReads) {
  create_and_open();
  auto append = client_.append(kReplica, kEpoch);
  auto reads = client_.read_stream(kReplica, kEpoch);
  cluster_.settle();
  ASSERT_TRUE(client_.open(kReplica, kEpoch).ok());
  expect_ended(*append, ErrorCode::kCancelled);
  cluster_.settle();
  EXPECT_FALSE(reads->ended);
}

// ---- Append ----

TEST_P(ServiceTest, AppendedBlocksAreReadBack) {
  create_and_open();
  auto append = client_.append(kReplica, kEpoch);
  std::string expected(kSizeBlocks * kBlockSize, '\0');
  std::uint64_t seq = 0;
  auto put = [&](std::uint64_t first, std::uint32_t blocks) {
    ++seq;
    send(*append, write(seq, first, blocks), Seq(seq / 2));
    for (std::uint32_t i = 0; i < blocks; ++i) {
      expected.replace((first + i) * kBlockSize, kBlockSize, block_text(seq * 1'000 + i));
    }
  };
  put(0, 1);
  put(100, 200);
  put(256, 256);
  put(1'023, 1);
  put(0, 3);
  ++seq;
  send(*append, zero_entry({kEpoch, Seq(seq)}, 150, 80));
  expected.replace(150 * kBlockSize, 80 * kBlockSize, std::string(80 * kBlockSize, '\0'));
  expect_journalled(*append, seq);
  EXPECT_EQ(first_difference(client_.content(kReplica, kEpoch, kSizeBlocks), expected), std::nullopt)
      << "read your writes, destaged or not";

  send_committed(*append, seq);
  append->call->finish_sending();
  ASSERT_TRUE(cluster_.run_until([&] { return append->ended.has_value(); }));
  EXPECT_TRUE(append->ended->ok()) << "an orderly end";
  cluster_.close(node_);
  cluster_.open(node_);
  TestClient again(cluster_, node_);
  EXPECT_EQ(first_difference(again.content(kReplica, kEpoch, kSizeBlocks), expected), std::nullopt)
      << "and after a restart";
  EXPECT_EQ(again.get(kReplica)->info.applied, Seq(seq));
}

TEST_P(ServiceTest, AcknowledgementsAreCumulativeAndCoalesced) {
  create_and_open();
  auto append = client_.append(kReplica, kEpoch);
  for (std::uint64_t seq = 1; seq <= 500; ++seq) send(*append, write(seq, seq % kSizeBlocks), Seq(seq / 2));
  expect_journalled(*append, 500);
  EXPECT_LT(append->responses.size(), 400u);
  ReplicaState state = *client_.get(kReplica);
  EXPECT_EQ(state.info.last, (LogPosition{kEpoch, Seq(500)}));
  EXPECT_EQ(state.info.committed, Seq(250));
  ASSERT_EQ(state.info.history.size(), 1u);
  EXPECT_EQ(state.info.history[0].epoch, kEpoch);
}

TEST_P(ServiceTest, WhatDoesNotFollowEndsTheStream) {
  create_and_open();
  auto gap = client_.append(kReplica, kEpoch);
  send(*gap, write(1, 0));
  send(*gap, write(3, 0));
  expect_ended(*gap, ErrorCode::kLogGap);
  EXPECT_EQ(client_.get(kReplica)->info.last.seq, Seq(1));

  auto later_epoch = client_.append(kReplica, kEpoch);
  send(*later_epoch, write_entry(env(), {kEpoch.next(), Seq(2)}, 0, 1, 1));
  expect_ended(*later_epoch, ErrorCode::kInvalidArgument);

  auto earlier_epoch = client_.append(kReplica, kEpoch);
  send(*earlier_epoch, write_entry(env(), {Epoch(4), Seq(2)}, 0, 1, 1));
  expect_ended(*earlier_epoch, ErrorCode::kEpochSuperseded);

  auto outside = client_.append(kReplica, kEpoch);
  send(*outside, write(2, kSizeBlocks));
  expect_ended(*outside, ErrorCode::kInvalidArgument);

  auto damaged = client_.append(kReplica, kEpoch);
  store::Entry entry = write(2, 0);
  entry.data.data()[77] ^= std::byte{1};
  send(*damaged, std::move(entry));
  expect_ended(*damaged, ErrorCode::kCorrupt);

  auto good = client_.append(kReplica, kEpoch);
  send(*good, write(2, 0));
  expect_journalled(*good, 2);
}

TEST_P(ServiceTest, AVolumeGrowsWithinReason) {
  create_and_open();
  auto resize = [&](std::uint64_t seq, std::uint64_t size_blocks) {
    store::Entry entry;
    entry.position = {kEpoch, Seq(seq)};
    entry.op = store::Op::kResize;
    entry.size_blocks = size_blocks;
    return entry;
  };
  for (std::uint64_t size_blocks : {kSizeBlocks - 1, store::kSizeBlocksMax + 1, ~std::uint64_t{0}}) {
    auto refused = client_.append(kReplica, kEpoch);
    send(*refused, resize(1, size_blocks));
    expect_ended(*refused, ErrorCode::kInvalidArgument);
  }
  auto append = client_.append(kReplica, kEpoch);
  send(*append, resize(1, store::kSizeBlocksMax));
  send(*append, write(2, store::kSizeBlocksMax - 1));
  expect_journalled(*append, 2);
  EXPECT_EQ(client_.get(kReplica)->info.size_blocks, store::kSizeBlocksMax);
}

TEST_P(ServiceTest, EntriesKeepTheirOriginalPositions) {
  create_and_open(Epoch(3));
  auto append = client_.append(kReplica, Epoch(3));
  send(*append, write_entry(env(), {Epoch(1), Seq(1)}, 0, 1, 1));
  send(*append, write_entry(env(), {Epoch(2), Seq(2)}, 0, 1, 1));
  send(*append, write_entry(env(), {Epoch(3), Seq(3)}, 0, 1, 1));
  expect_journalled(*append, 3);
  EXPECT_EQ(client_.get(kReplica)->info.history.size(), 3u);
}

TEST_P(ServiceTest, HelloComesFirstAndOnce) {
  create_and_open();
  auto without = client_.append_raw();
  send(*without, write(1, 0));
  expect_ended(*without, ErrorCode::kProtocol);

  auto twice = client_.append(kReplica, kEpoch);
  AppendRequest hello;
  hello.hello = ReplicaHello{kReplica, kEpoch};
  twice->send(env(), hello);
  expect_ended(*twice, ErrorCode::kProtocol);

  auto late_join = client_.append(kReplica, kEpoch);
  AppendRequest join;
  join.join = Join{{Seq(1), Seq(0), kSizeBlocks, {}}, "127.0.0.1:1", ReplicaId(2), 0};
  late_join->send(env(), join);
  expect_ended(*late_join, ErrorCode::kProtocol);

  auto garbage = client_.append(kReplica, kEpoch);
  Slice bytes = env().buffers().copy_of(as_bytes("\x7A\xFF\xFF\xFF\xFF\x0F"));
  garbage->call->send(std::span(&bytes, 1));
  expect_ended(*garbage, ErrorCode::kProtocol);

  auto reads = std::make_unique<ReadClient>();
  reads->call = client_.channel().start(kReadPath, {}, std::nullopt, reads.get());
  SliceList parts;
  encode(env().buffers(), ReadRequest{std::nullopt, 1, {BlockIndex(0), 1}, false}, parts);
  reads->call->send(parts);
  expect_ended(*reads, ErrorCode::kProtocol);
}

TEST_P(ServiceTest, OneMessageMayCarryHelloEntryAndFlush) {
  create_and_open();
  auto append = client_.append_raw();
  AppendRequest request = message_with(write(1, 0));
  request.hello = ReplicaHello{kReplica, kEpoch};
  request.flush_id = 7;
  append->send(env(), request);
  ASSERT_TRUE(cluster_.run_until([&] { return append->last.flushed_id == 7; }));
  EXPECT_EQ(append->last.journalled, Seq(1)) << "a flush covers the entry of its own message";
}

TEST_P(ServiceTest, FlushIsAnsweredAfterWhatWasSentBefore) {
  create_and_open();
  auto append = client_.append(kReplica, kEpoch);
  std::uint64_t flush_id = 0;
  for (std::uint64_t seq = 1; seq <= 100; ++seq) {
    AppendRequest request = message_with(write(seq, seq));
    if (seq % 3 == 0) request.flush_id = ++flush_id;
    append->send(env(), request);
  }
  AppendRequest alone;
  alone.flush_id = 1'000;
  append->send(env(), alone);
  ASSERT_TRUE(cluster_.run_until([&] { return append->last.flushed_id == 1'000; }));
  for (const AppendResponse& response : append->responses) {
    if (response.flushed_id < 1'000) {
      EXPECT_GE(response.journalled.value(), 3 * response.flushed_id);
    } else {
      EXPECT_EQ(response.journalled, Seq(100));
    }
  }
  AppendRequest again;
  again.flush_id = 1'000;
  append->send(env(), again);
  expect_ended(*append, ErrorCode::kProtocol);
}

TEST_P(ServiceTest, FlushOfAnIdleReplicaIsAnswered) {
  create_and_open();
  auto append = client_.append(kReplica, kEpoch);
  AppendRequest request;
  request.flush_id = 1;
  append->send(env(), request);
  EXPECT_TRUE(cluster_.run_until([&] { return append->last.flushed_id == 1; }));
}

// Many times what the store keeps in memory: the service holds entries back and everything arrives in the end.
TEST_P(ServiceTest, MoreThanTheCacheHoldsArrives) {
  create_and_open();
  auto append = client_.append(kReplica, kEpoch);
  std::uint64_t seq = 0;
  for (std::uint64_t round = 0; round < 40; ++round) {
    for (std::uint64_t i = 0; i < 32; ++i) {
      ++seq;
      send(*append, write(seq, (seq * 37) % (kSizeBlocks - 32), 31), Seq(seq > 100 ? seq - 100 : 0));
    }
  }
  send_committed(*append, seq - 100);
  ASSERT_TRUE(cluster_.run_until([&] {
    // As an engine does: what is acknowledged is committed.
    if (append->last.journalled > Seq(0) && append->last.journalled < Seq(seq)) {
      send_committed(*append, append->last.journalled.value());
    }
    return append->last.journalled == Seq(seq) || append->ended;
  }));
  ASSERT_FALSE(append->ended) << append->ended->error().to_string();
}

// ---- Read ----

TEST_P(ServiceTest, ManyReadsAreAnsweredInAnyOrder) {
  create_and_open();
  auto append = client_.append(kReplica, kEpoch);
  send(*append, write(1, 0, 256));
  expect_journalled(*append, 1);
  auto reads = client_.read_stream(kReplica, kEpoch);
  SliceList parts;
  constexpr std::uint64_t kReads = 3'000;
  for (std::uint64_t id = 1; id <= kReads; ++id) {
    encode(env().buffers(), ReadRequest{std::nullopt, id, {BlockIndex(id % 250), 4}, id % 5 == 0}, parts);
    reads->call->send(parts);
    parts.clear();
  }
  ASSERT_TRUE(cluster_.run_until([&] { return reads->answers.size() == kReads || reads->ended; }));
  for (auto& [id, answer] : reads->answers) {
    ASSERT_TRUE(answer.status.ok());
    ASSERT_EQ(answer.present.size(), 1u);
    if (id % 5 == 0) {
      EXPECT_TRUE(answer.data.empty() && answer.crc.empty());
      continue;
    }
    std::size_t expected = 0;
    for (std::uint64_t i = 0; i < 4; ++i) {
      if (id % 250 + i < 256) {
        EXPECT_EQ(answer.data.text().substr(expected++ * kBlockSize, kBlockSize), block_text(1'000 + id % 250 + i));
      }
    }
    EXPECT_EQ(answer.data.size(), expected * kBlockSize);
  }
  reads->call->finish_sending();
  ASSERT_TRUE(cluster_.run_until([&] { return reads->ended.has_value(); }));
  EXPECT_TRUE(reads->ended->ok());
}

TEST_P(ServiceTest, WrongReadsFailAloneAndTheStreamGoesOn) {
  create_and_open();
  auto reads = client_.read_stream(kReplica, kEpoch);
  SliceList parts;
  auto ask = [&](std::uint64_t id, std::uint64_t first, std::uint32_t count) {
    encode(env().buffers(), ReadRequest{std::nullopt, id, {BlockIndex(first), count}, false}, parts);
    reads->call->send(parts);
    parts.clear();
  };
  ask(1, 0, 0);
  ask(2, 0, 257);
  ask(3, kSizeBlocks, 1);
  ask(4, ~0ull, 2);
  ask(5, 0, 256);
  ASSERT_TRUE(cluster_.run_until([&] { return reads->answers.size() == 5; }));
  for (std::uint64_t id : {1, 2, 3, 4}) {
    ASSERT_FALSE(reads->answers[id].status.ok()) << id;
    EXPECT_EQ(reads->answers[id].status.error().code(), ErrorCode::kInvalidArgument) << id;
  }
  ASSERT_TRUE(reads->answers[5].status.ok());
  EXPECT_EQ(reads->answers[5].present.text(), std::string(32, '\0')) << "nothing was ever written";
}

TEST_P(ServiceTest, AnIncompleteReplicaServesNothing) {
  ASSERT_TRUE(client_.create(kReplica, kSizeBlocks, false).ok());
  ASSERT_TRUE(client_.open(kReplica, kEpoch).ok());
  expect_ended(*client_.append(kReplica, kEpoch), ErrorCode::kReplicaIncomplete);
  auto reads = client_.read_stream(kReplica, kEpoch);
  SliceList parts;
  encode(env().buffers(), ReadRequest{std::nullopt, 1, {BlockIndex(0), 1}, false}, parts);
  reads->call->send(parts);
  ASSERT_TRUE(cluster_.run_until([&] { return reads->answers.size() == 1; }));
  EXPECT_EQ(reads->answers[1].status.error().code(), ErrorCode::kReplicaIncomplete);
  EXPECT_EQ(client_.list_chunks({kReplica, Seq(), Seq(), ChunkIndex(0), ChunkIndex(16)}).error().code(),
            ErrorCode::kReplicaIncomplete);
  EXPECT_EQ(client_.read_chunk(kReplica, ChunkIndex(0)).error().code(), ErrorCode::kReplicaIncomplete);
}

// ---- ReadLog ----

TEST_P(ServiceTest, TheLogIsReadBackWhileInTheJournal) {
  create_and_open();
  auto append = client_.append(kReplica, kEpoch);
  for (std::uint64_t seq = 1; seq <= 300; ++seq) {
    if (seq % 10 == 0) {
      send(*append, zero_entry({kEpoch, Seq(seq)}, seq, 5));
    } else {
      send(*append, write(seq, seq, seq % 7 == 0 ? 64 : 1));
    }
  }
  expect_journalled(*append, 300);
  Result<std::vector<store::Entry>> entries = client_.read_log(kReplica, kEpoch, Seq(2), Seq(299));
  ASSERT_TRUE(entries.ok()) << entries.error().to_string();
  ASSERT_EQ(entries->size(), 298u);
  for (std::uint64_t seq = 2; seq <= 299; ++seq) {
    const store::Entry& entry = (*entries)[seq - 2];
    EXPECT_EQ(entry.position, (LogPosition{kEpoch, Seq(seq)}));
    if (seq % 10 == 0) {
      EXPECT_EQ(entry.op, store::Op::kZero);
    } else {
      store::Entry expected = write(seq, seq, seq % 7 == 0 ? 64 : 1);
      EXPECT_EQ(entry.blocks, expected.blocks);
      EXPECT_EQ(entry.data.text(), expected.data.text());
      EXPECT_EQ(entry.crc.text(), expected.crc.text());
    }
  }
  EXPECT_FALSE(client_.read_log(kReplica, kEpoch, Seq(250), Seq(301)).ok());
  EXPECT_EQ(client_.read_log(kReplica, kEpoch, Seq(0), Seq(1)).error().code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(client_.read_log(kReplica, kEpoch, Seq(5), Seq(4)).error().code(), ErrorCode::kInvalidArgument);
}

// ---- ListChunks, ReadChunks ----

TEST_P(ServiceTest, ChunkVersionsComeInPages) {
  ASSERT_TRUE(client_.create(kReplica, 2'100 * kBlocksPerChunk).ok());
  ASSERT_TRUE(client_.open(kReplica, kEpoch).ok());
  auto append = client_.append(kReplica, kEpoch);
  // ZERO of an untouched chunk leaves a version too, and takes no space.
  for (std::uint64_t seq = 1; seq <= 2'100; ++seq) {
    send(*append, zero_entry({kEpoch, Seq(seq)}, (seq - 1) * kBlocksPerChunk, kBlocksPerChunk), Seq(seq - 1));
  }
  expect_journalled(*append, 2'100);
  auto all = client_.list_chunks({kReplica, Seq(2'100), Seq(), ChunkIndex(0), ChunkIndex(2'100)});
  ASSERT_TRUE(all.ok()) << all.error().to_string();
  ASSERT_EQ(all->size(), 2'100u);
  for (std::uint64_t i = 0; i < 2'100; ++i) {
    EXPECT_EQ((*all)[i].chunk, ChunkIndex(i));
    EXPECT_EQ((*all)[i].version, (LogPosition{kEpoch, Seq(i + 1)}));
  }
  auto some = client_.list_chunks({kReplica, Seq(), Seq(100), ChunkIndex(50), ChunkIndex(200)});
  ASSERT_TRUE(some.ok());
  ASSERT_EQ(some->size(), 100u);
  EXPECT_EQ(some->front().chunk, ChunkIndex(100));
  EXPECT_TRUE(client_.list_chunks({kReplica, Seq(), Seq(), ChunkIndex(5), ChunkIndex(5)})->empty());
  EXPECT_EQ(client_.list_chunks({kReplica, Seq(), Seq(), ChunkIndex(6), ChunkIndex(5)}).error().code(),
            ErrorCode::kInvalidArgument);
}

TEST_P(ServiceTest, ChunkReadsWaitForTheirSeq) {
  create_and_open();
  auto append = client_.append(kReplica, kEpoch);
  send(*append, write(1, 3));
  expect_journalled(*append, 1);

  TestStream chunks;
  chunks.call = client_.channel().start(kReadChunksPath, {}, std::nullopt, &chunks);
  SliceList parts;
  encode(env().buffers(), ReadChunkRequest{kReplica, 1, ChunkIndex(0), Seq(2)}, parts);
  chunks.call->send(parts);
  TestStream list;
  list.call = client_.channel().start(kListChunksPath, {}, std::nullopt, &list);
  Slice request = encode(env().buffers(), ListChunksRequest{kReplica, Seq(2), Seq(), ChunkIndex(0), ChunkIndex(16)});
  list.call->send(std::span(&request, 1));
  list.call->finish_sending();
  cluster_.settle();
  EXPECT_TRUE(chunks.messages.empty() && list.messages.empty() && !chunks.ended && !list.ended);

  send(*append, write(2, 5));
  ASSERT_TRUE(cluster_.run_until([&] { return chunks.messages.size() == 1 && list.ended; }));
  ReadChunkResponse response;
  ASSERT_TRUE(decode(chunks.messages[0], env().buffers(), response).ok());
  ASSERT_TRUE(response.status.ok());
  EXPECT_EQ(response.content.present, 0b101000u);
  EXPECT_EQ(response.content.version, (LogPosition{kEpoch, Seq(2)}));
  EXPECT_EQ(response.content.source_last, Seq(2));
  EXPECT_EQ(response.content.data.at(0).text().substr(0, kBlockSize), block_text(1'000));
}

TEST_P(ServiceTest, ChunksOutsideFailAlone) {
  create_and_open();
  EXPECT_EQ(client_.read_chunk(kReplica, ChunkIndex(16)).error().code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(client_.read_chunk(ReplicaId(99), ChunkIndex(0)).error().code(), ErrorCode::kNotFound);
  Result<store::ChunkContent> empty = client_.read_chunk(kReplica, ChunkIndex(15));
  ASSERT_TRUE(empty.ok());
  EXPECT_EQ(empty->present, 0u);
}

// A request that waits for a seq that never comes goes away with its stream.
TEST_P(ServiceTest, DroppedWaitersLeaveNothing) {
  create_and_open();
  for (int i = 0; i < 10; ++i) {
    TestStream list;
    list.call = client_.channel().start(kListChunksPath, {}, std::nullopt, &list);
    Slice request =
        encode(env().buffers(), ListChunksRequest{kReplica, Seq(~0ull), Seq(), ChunkIndex(0), ChunkIndex(1)});
    list.call->send(std::span(&request, 1));
    list.call->finish_sending();
    cluster_.settle();
    EXPECT_EQ(client_.remove(kReplica).error().code(), ErrorCode::kInUse);
    list.call.reset();
    cluster_.settle();
  }
  EXPECT_TRUE(client_.remove(kReplica).ok());
}

// ---- deletion and the end ----

TEST_P(ServiceTest, DeletionIsRefusedWhileStreamsAreOpen) {
  create_and_open();
  auto append = client_.append(kReplica, kEpoch);
  auto reads = client_.read_stream(kReplica, kEpoch);
  for (std::uint64_t seq = 1; seq <= 50; ++seq) send(*append, write(seq, seq));
  expect_journalled(*append, 1);
  EXPECT_EQ(client_.remove(kReplica).error().code(), ErrorCode::kInUse);
  EXPECT_TRUE(client_.remove(kReplica, true).ok());
  expect_ended(*append, ErrorCode::kNotFound);
  expect_ended(*reads, ErrorCode::kNotFound);
  EXPECT_EQ(client_.get(kReplica).error().code(), ErrorCode::kNotFound);
  EXPECT_EQ(node_.disk->space().journal_used_bytes, 0u);
}

TEST_P(ServiceTest, StoppingTheServiceEndsItsStreams) {
  create_and_open();
  auto append = client_.append(kReplica, kEpoch);
  auto reads = client_.read_stream(kReplica, kEpoch);
  for (std::uint64_t seq = 1; seq <= 50; ++seq) send(*append, write(seq, seq));
  expect_journalled(*append, 1);
  node_.service.reset();
  expect_ended(*append, ErrorCode::kConnectionLost);
  expect_ended(*reads, ErrorCode::kConnectionLost);
  EXPECT_EQ(client_.get(kReplica).error().code(), ErrorCode::kConnectionLost);
}

TEST_P(ServiceTest, ABrokenConnectionFreesTheReplica) {
  create_and_open();
  {
    TestClient other(cluster_, node_);
    auto append = other.append(kReplica, kEpoch);
    for (std::uint64_t seq = 1; seq <= 50; ++seq) send(*append, write(seq, seq));
    expect_journalled(*append, 1);
    append->call.reset();
  }
  ASSERT_TRUE(cluster_.run_until([&] { return client_.remove(kReplica).ok(); }));
}

}  // namespace
}  // namespace holdfast::replica
