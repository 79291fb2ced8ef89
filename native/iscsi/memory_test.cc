// The memory of a target under data that comes unasked: with the command, or after it without an R2T.
#include <gtest/gtest.h>

#include <algorithm>

#include "iscsi/session.h"
#include "iscsi/testing/fixture.h"

namespace holdfast::iscsi {
namespace {

using testing::CommandOptions;
using testing::RawInitiator;
using testing::read16;
using testing::write16;

class MemoryTest : public testing::TargetTest {
 protected:
  static constexpr std::uint64_t kBytesMax = 4u << 20;
  static constexpr std::uint32_t kBurst = 65'536;
  static constexpr std::size_t kSessions = 8;
  static constexpr std::uint8_t kTaskSetFull = 0x28;

  void SetUp() override {
    bytes_max = kBytesMax;
    env.chunk_bytes = 1u << 20;
    start(512);
  }
  std::vector<RawInitiator*> sessions(const RawInitiator::Keys& keys = {}) {
    std::vector<RawInitiator*> made;
    for (std::size_t i = 0; i < kSessions; ++i) made.push_back(&session(keys, static_cast<std::uint8_t>(i + 1)));
    return made;
  }
  static std::uint32_t send(RawInitiator& host, const CommandOptions& options) {
    return host.command(write16(0, static_cast<std::uint32_t>(options.write.size() / 512)), options);
  }
  // Every session sends that command as often as it may at once. Returns the tags, by session.
  std::vector<std::vector<std::uint32_t>> flood(const std::vector<RawInitiator*>& hosts,
                                                const CommandOptions& options) {
    std::vector<std::vector<std::uint32_t>> tags;
    for (RawInitiator* host : hosts) {
      tags.emplace_back();
      for (std::uint32_t i = 0; i < kCommandWindow; ++i) tags.back().push_back(send(*host, options));
    }
    env.settle();
    return tags;
  }
  // What a session that holds nothing may always take.
  static constexpr std::uint64_t kHeldMax = kBytesMax + kSessions * kBurst;
};

TEST_F(MemoryTest, ImmediateDataOfManySessionsIsBounded) {
  auto hosts = sessions();
  std::size_t before = env.buffers().bytes_in_use();
  device->hold();
  const CommandOptions options{.write = std::string(kBurst, 'x'), .immediate = kBurst};
  auto tags = flood(hosts, options);
  EXPECT_GE(device->waiting(), kBytesMax / kBurst);
  EXPECT_LE(device->waiting(), kHeldMax / kBurst);
  EXPECT_LE(env.buffers().bytes_in_use() - before, kHeldMax + (1u << 20)) << "and some for answers";
  device->release();
  std::size_t refused = 0;
  for (std::size_t i = 0; i < kSessions; ++i) {
    for (std::uint32_t tag : tags[i]) {
      auto ended = hosts[i]->outcome(tag);
      ASSERT_TRUE(ended);
      if (ended->status == 0) continue;
      EXPECT_EQ(ended->status, kTaskSetFull);
      ++refused;
    }
    EXPECT_EQ(hosts[i]->outcome(send(*hosts[i], options))->status, 0) << "now there is room";
  }
  EXPECT_GT(refused, 0u);
  EXPECT_LE(env.buffers().bytes_in_use() - before, 1u << 20);
}

// The commands are long, of which only FirstBurstLength may come unasked; the data of those refused is thrown away.
TEST_F(MemoryTest, UnsolicitedDataOfManySessionsIsBounded) {
  auto hosts = sessions({{"InitialR2T", "No"}, {"ImmediateData", "No"}, {"MaxBurstLength", "1048576"}});
  std::size_t before = env.buffers().bytes_in_use();
  const CommandOptions options{.write = std::string(1u << 20, 'x'), .unsolicited = kBurst, .answer_r2t = false};
  auto tags = flood(hosts, options);
  EXPECT_LE(env.buffers().bytes_in_use() - before, kHeldMax + kSessions * (2u << 20)) << "one command each goes on";
  for (std::size_t i = 0; i < kSessions; ++i) {
    hosts[i]->task_function(TaskFunction::kAbortTaskSet);
    env.settle();
    EXPECT_EQ(hosts[i]->run(write16(0, 128), {.write = std::string(kBurst, 'y'), .unsolicited = kBurst})->status, 0);
  }
  EXPECT_LE(env.buffers().bytes_in_use() - before, 1u << 20);
}

// Long writes hold their immediate data while they wait for the memory of the rest, in all sessions at once.
TEST_F(MemoryTest, WritesThatHoldDataAndWaitForMemoryAllEnd) {
  for (bool unsolicited : {false, true}) {
    start(512);
    auto hosts = sessions({{"InitialR2T", unsolicited ? "No" : "Yes"}});
    CommandOptions options{.write = std::string(1u << 20, 'x'), .immediate = unsolicited ? 4'096 : kBurst};
    if (unsolicited) options.unsolicited = kBurst - 4'096;
    device->hold();
    auto tags = flood(hosts, options);
    device->release();
    std::size_t good = 0;
    for (std::size_t i = 0; i < kSessions; ++i) {
      for (std::uint32_t tag : tags[i]) {
        auto ended = hosts[i]->outcome(tag);
        ASSERT_TRUE(ended) << "session " << i;
        if (ended->status == 0) ++good;
      }
    }
    EXPECT_GE(good, kSessions);
  }
}

// All memory goes to writes that wait for more of it.
TEST_F(MemoryTest, WritesThatHoldAllMemoryAndWaitForMoreEnd) {
  RawInitiator& other = session({}, 1);
  RawInitiator& host = session({}, 2);
  std::vector<std::uint32_t> others, tags;
  for (std::uint64_t held = 0; held < kBytesMax / 4 * 3; held += kBurst) {
    others.push_back(send(other, {.write = std::string(kBurst, 'x'), .answer_r2t = false}));
  }
  other.settle();
  const std::string data(kBurst + 4'096, 'y');
  auto send_one = [&] { tags.push_back(send(host, {.write = data, .immediate = kBurst, .answer_r2t = false})); };
  for (std::uint64_t held = kBytesMax / 4 * 3 + 4'096; held + kBurst <= kBytesMax; held += kBurst) send_one();
  for (std::uint32_t tag : others) {  // as these go, more of the others come
    other.task_function(TaskFunction::kAbortTask, tag);
    env.settle();
    send_one();
    env.settle();
  }
  EXPECT_EQ(host.r2ts.size(), 1u) << "the first one always goes on";
  for (std::size_t i = 0; i < host.r2ts.size(); ++i) {
    R2t r2t = host.r2ts[i];
    host.send_data(r2t.InitiatorTaskTag, r2t.TargetTransferTag, data, r2t.BufferOffset, 4'096, 4'096);
    host.settle();
  }
  for (std::uint32_t tag : tags) {
    auto ended = host.outcome(tag);
    ASSERT_TRUE(ended);
    EXPECT_EQ(ended->status, 0);
  }
}

// Two writes of a session, of which each waits for what the other one holds.
TEST_F(MemoryTest, OneOfTheWritesThatAllWaitGoesOn) {
  RawInitiator& other = session({}, 1);
  RawInitiator& host = session({{"InitialR2T", "No"}}, 2);
  device->hold();
  const CommandOptions full{.write = std::string(kBurst, 'x'), .immediate = kBurst};
  for (std::uint64_t held = 0; held <= kBytesMax / 4 * 3; held += kBurst) send(other, full);
  other.settle();
  const std::string data(1u << 20, 'y');
  ScsiCommand pdu;
  pdu.opcode = static_cast<std::uint8_t>(Opcode::kScsiCommand);
  pdu.flags = ScsiCommand::kWrite | 1;
  pdu.InitiatorTaskTag = 9;
  pdu.ExpectedDataTransferLength = 1u << 20;
  pdu.CmdSN = host.cmd_sn++;
  auto cdb = write16(0, (1u << 20) / 512);
  std::copy(cdb.begin(), cdb.end(), pdu.CDB);
  host.send(pdu);
  std::uint32_t second = send(host, {.write = data, .immediate = kBurst, .answer_r2t = false});
  host.settle();
  EXPECT_TRUE(host.r2ts.empty()) << "the first one may yet end by itself";
  host.send_data(9, kReservedTag, data, 0, kBurst, kBurst);
  host.settle();
  ASSERT_EQ(host.r2ts.size(), 1u);
  EXPECT_EQ(host.r2ts[0].InitiatorTaskTag, second);
}

TEST_F(MemoryTest, ASessionThatHoldsNothingAlwaysGoesOn) {
  auto hosts = sessions();
  device->hold();
  const CommandOptions options{.write = std::string(kBurst, 'x'), .immediate = kBurst};
  flood({hosts[0]}, options);
  std::size_t waiting = device->waiting();
  std::uint32_t first = send(*hosts[1], options), second = send(*hosts[1], options);
  EXPECT_EQ(hosts[1]->outcome(second)->status, kTaskSetFull);
  EXPECT_EQ(device->waiting(), waiting + 1);
  hosts[1]->ping("still here");
  ASSERT_TRUE(hosts[1]->next()) << "what needs no memory is answered";
  device->release();
  EXPECT_EQ(hosts[1]->outcome(first)->status, 0);
}

TEST_F(MemoryTest, TheCommandWindowShrinksWhileMemoryIsScarce) {
  auto hosts = sessions();
  auto window = [&](RawInitiator& host) { return host.max_cmd_sn - host.exp_cmd_sn + 1; };
  device->hold();
  flood({hosts[0]}, {.write = std::string(kBurst, 'x'), .immediate = kBurst});
  EXPECT_EQ(window(*hosts[0]), 0u);
  for (std::uint32_t i = 0; i < kCommandWindow; ++i) EXPECT_EQ(hosts[1]->run({})->status, 0);
  EXPECT_EQ(window(*hosts[1]), kScarceCommandWindow) << "never closed in an answer after which nothing is outstanding";
  device->release();
  env.settle();
  EXPECT_EQ(hosts[1]->run({})->status, 0);
  EXPECT_EQ(window(*hosts[1]), kCommandWindow);
  EXPECT_EQ(hosts[0]->run({})->status, 0);
  EXPECT_EQ(window(*hosts[0]), kCommandWindow);
}

TEST_F(MemoryTest, RequestsBeforeTheirTurnCount) {
  RawInitiator& host = session({}, 1);
  RawInitiator& other = session({}, 2);
  const CommandOptions options{.write = std::string(kBurst, 'x'), .immediate = kBurst};
  std::uint32_t missing = host.cmd_sn++;
  for (std::uint64_t i = 0; i < kBytesMax / kBurst; ++i) send(host, options);
  EXPECT_EQ(other.run({})->status, 0);
  device->hold();
  std::uint32_t first = send(other, options), second = send(other, options);
  EXPECT_EQ(other.outcome(second)->status, kTaskSetFull);
  host.command({}, {.cmd_sn = missing});
  host.settle();
  EXPECT_FALSE(host.closed);
  device->release();
  EXPECT_EQ(other.outcome(first)->status, 0);
  host.disconnect();
  env.settle();
  EXPECT_EQ(other.run({})->status, 0);
}

}  // namespace
}  // namespace holdfast::iscsi
