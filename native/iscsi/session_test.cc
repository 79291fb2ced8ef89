// Sessions: the command window, order, keep-alive, logout, reinstatement, removal of targets.
#include "iscsi/session.h"

#include <gtest/gtest.h>

#include "iscsi/testing/fixture.h"

namespace holdfast::iscsi {
namespace {

using testing::pattern;
using testing::RawInitiator;
using testing::read16;
using testing::write16;

class SessionTest : public testing::TargetTest {
 protected:
  std::uint8_t reject_reason(RawInitiator& host) {
    auto pdu = host.next();
    if (!pdu || pdu->code() != Opcode::kReject) return 0;
    return pdu->as<Reject>().Reason;
  }
};

// ---- order ----

TEST_F(SessionTest, CommandsTakeEffectInCmdSnOrder) {
  RawInitiator& host = session();
  std::uint32_t first = host.cmd_sn;
  host.cmd_sn += 3;
  auto write = [&](std::uint64_t seed, std::uint32_t cmd_sn) {
    return host.command(write16(0, 1), {.write = pattern(512, seed), .immediate = 512, .cmd_sn = cmd_sn});
  };
  std::uint32_t third = write(3, first + 2), second = write(2, first + 1);
  EXPECT_FALSE(host.outcome(third)) << "held back";
  EXPECT_FALSE(host.outcome(second));
  EXPECT_EQ(on_device(0, 512), std::string(512, '\0'));
  std::uint32_t last = write(1, first);
  EXPECT_TRUE(host.outcome(last));
  EXPECT_TRUE(host.outcome(second));
  EXPECT_TRUE(host.outcome(third));
  EXPECT_EQ(on_device(0, 512), pattern(512, 3));
  EXPECT_EQ(host.exp_cmd_sn, first + 3);
}

TEST_F(SessionTest, CommandsOutsideOfTheWindowAreIgnored) {
  RawInitiator& host = session();
  std::uint32_t old = host.command({}, {.cmd_sn = host.cmd_sn - 1});
  std::uint32_t early = host.command({}, {.cmd_sn = host.max_cmd_sn + 1});
  EXPECT_FALSE(host.outcome(old));
  EXPECT_FALSE(host.outcome(early));
  std::uint32_t twice = host.command({});
  EXPECT_TRUE(host.outcome(twice));
  std::uint32_t again = host.command({}, {.cmd_sn = host.cmd_sn - 1});
  EXPECT_FALSE(host.outcome(again)) << "a duplicate CmdSN";
}

// The window closes while commands are outstanding and opens when they end.
TEST_F(SessionTest, TheWindowBoundsOutstandingCommands) {
  RawInitiator& host = session();
  device->hold();
  std::vector<std::uint32_t> tags;
  while (!serial_less(host.max_cmd_sn, host.cmd_sn)) {
    ASSERT_LT(tags.size(), 1000u) << "the window never closes";
    tags.push_back(host.command(read16(0, 1), {.read = 512}));
    host.ping("");
    host.settle();
  }
  EXPECT_EQ(tags.size(), kCommandWindow);
  std::uint32_t beyond = host.command(read16(0, 1), {.read = 512});
  EXPECT_EQ(device->waiting(), kCommandWindow);
  device->release();
  for (std::uint32_t tag : tags) EXPECT_TRUE(host.outcome(tag));
  EXPECT_FALSE(host.outcome(beyond));
  EXPECT_EQ(host.max_cmd_sn - host.exp_cmd_sn + 1, kCommandWindow);
}

TEST_F(SessionTest, ImmediateCommandsPassTheOthersAndAreBounded) {
  RawInitiator& host = session();
  std::uint32_t held = host.command({}, {.cmd_sn = host.cmd_sn + 1});
  EXPECT_TRUE(host.run({}, {.urgent = true}));
  EXPECT_FALSE(host.outcome(held));
  device->hold();
  std::size_t rejected = 0;
  for (std::size_t i = 0; i < kCommandWindow + kImmediateTasksMax + 10; ++i) {
    host.command(read16(0, 1), {.read = 512, .urgent = true});
    if (auto pdu = host.next()) {
      ASSERT_EQ(pdu->code(), Opcode::kReject);
      EXPECT_EQ(pdu->as<Reject>().Reason, static_cast<std::uint8_t>(RejectReason::kTooManyImmediateCommands));
      ++rejected;
    }
  }
  EXPECT_EQ(rejected, 10u);
  device->release();
  host.settle();
  EXPECT_FALSE(host.closed);
}

TEST_F(SessionTest, ATagInUseIsRejected) {
  RawInitiator& host = session();
  device->hold();
  std::uint32_t tag = host.command(read16(0, 1), {.read = 512});
  host.command(read16(0, 1), {.read = 512, .tag = tag});
  EXPECT_EQ(reject_reason(host), static_cast<std::uint8_t>(RejectReason::kTaskInProgress));
  device->release();
  EXPECT_TRUE(host.outcome(tag));
  EXPECT_TRUE(host.run(read16(0, 1), {.read = 512, .tag = tag})) << "free again";
}

// ---- keep-alive ----

TEST_F(SessionTest, PingsAreEchoed) {
  RawInitiator& host = session();
  for (bool urgent : {true, false}) {
    std::uint32_t tag = host.ping("hello", urgent);
    auto answer = host.next();
    ASSERT_TRUE(answer && answer->code() == Opcode::kNopIn);
    EXPECT_EQ(answer->header.InitiatorTaskTag, tag);
    EXPECT_EQ(answer->data, "hello");
  }
}

TEST_F(SessionTest, AnEchoIsCutAtWhatTheInitiatorTakes) {
  RawInitiator& host = session({{"MaxRecvDataSegmentLength", "512"}});
  host.ping(std::string(4096, 'x'));
  EXPECT_EQ(host.next()->data.size(), 512u);
}

TEST_F(SessionTest, ASilentInitiatorIsPingedAndThenDropped) {
  RawInitiator& host = session();
  env.advance(kIdleBeforePing + kKeepaliveInterval);
  auto ping = host.next();
  ASSERT_TRUE(ping && ping->code() == Opcode::kNopIn);
  EXPECT_EQ(ping->header.InitiatorTaskTag, kReservedTag);
  EXPECT_NE(ping->as<NopIn>().TargetTransferTag, kReservedTag);
  EXPECT_FALSE(host.closed);
  env.advance(kIdleBeforeClose);
  EXPECT_TRUE(host.closed);
  EXPECT_TRUE(target->sessions().empty());
}

TEST_F(SessionTest, AnAnsweredPingKeepsTheSession) {
  RawInitiator& host = session();
  for (int i = 0; i < 10; ++i) {
    env.advance(kIdleBeforePing + kKeepaliveInterval);
    auto ping = host.next();
    ASSERT_TRUE(ping && ping->code() == Opcode::kNopIn) << i;
    NopOut answer;
    answer.opcode = static_cast<std::uint8_t>(Opcode::kNopOut) | kImmediateBit;
    answer.flags = kFinalBit;
    answer.InitiatorTaskTag = kReservedTag;
    answer.TargetTransferTag = ping->as<NopIn>().TargetTransferTag;
    answer.CmdSN = host.cmd_sn;
    host.send(answer);
    host.settle();
  }
  EXPECT_FALSE(host.closed);
  EXPECT_TRUE(host.inbox.empty()) << "an answer is not answered";
}

// ---- text ----

TEST_F(SessionTest, ANewSegmentLengthIsHonoured) {
  RawInitiator& host = session({{"MaxRecvDataSegmentLength", "8192"}});
  auto ask = [&](const RawInitiator::Keys& keys) {
    TextRequest request;
    request.opcode = static_cast<std::uint8_t>(Opcode::kTextRequest) | kImmediateBit;
    request.flags = kFinalBit;
    request.TargetTransferTag = kReservedTag;
    request.CmdSN = host.cmd_sn;
    host.send(request, RawInitiator::text(keys));
    auto answer = host.next();
    return answer ? answer->data : std::string("(none)");
  };
  EXPECT_EQ(ask({{"MaxRecvDataSegmentLength", "512"}}), "");
  host.max_receive = 512;
  EXPECT_EQ(host.run(read16(0, 8), {.read = 4096})->data_in_pdus, 8u);
  EXPECT_EQ(ask({{"MaxRecvDataSegmentLength", "1"}, {"HeaderDigest", "CRC32C"}, {"X-other", "1"}}),
            RawInitiator::text(
                {{"MaxRecvDataSegmentLength", "Reject"}, {"HeaderDigest", "Reject"}, {"X-other", "NotUnderstood"}}));
  EXPECT_EQ(host.run(read16(0, 1), {.read = 512})->status, 0);
}

TEST_F(SessionTest, ANormalSessionMayAskForItsOwnTarget) {
  RawInitiator& host = session();
  TextRequest request;
  request.opcode = static_cast<std::uint8_t>(Opcode::kTextRequest) | kImmediateBit;
  request.flags = kFinalBit;
  request.TargetTransferTag = kReservedTag;
  request.CmdSN = host.cmd_sn;
  host.send(request, RawInitiator::text({{"SendTargets", ""}}));
  auto answer = host.next();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->data, RawInitiator::text({{"TargetName", std::string(testing::kTargetName)},
                                              {"TargetAddress", address.to_string() + ",1"}}));
}

// The target answers each part with a transfer tag, by which the initiator goes on (RFC 7143 section 11.10.4).
TEST_F(SessionTest, ATextRequestInSeveralPdus) {
  RawInitiator& host = session();
  auto part = [&](std::string_view text, std::uint32_t tag, std::uint32_t transfer_tag, bool more) {
    TextRequest request;
    request.opcode = static_cast<std::uint8_t>(Opcode::kTextRequest) | kImmediateBit;
    request.flags = more ? kContinueBit : kFinalBit;
    request.InitiatorTaskTag = tag;
    request.TargetTransferTag = transfer_tag;
    request.CmdSN = host.cmd_sn;
    host.send(request, text);
    return host.next();
  };
  auto first = part("SendTar", 5, kReservedTag, true);
  ASSERT_TRUE(first && first->code() == Opcode::kTextResponse);
  EXPECT_EQ(first->header.flags & (kFinalBit | kContinueBit), 0);
  EXPECT_EQ(first->data, "");
  auto last = part(std::string("gets=\0", 6), 5, first->as<TextResponse>().TargetTransferTag, false);
  ASSERT_TRUE(last && last->code() == Opcode::kTextResponse);
  EXPECT_TRUE(last->header.final());
  EXPECT_EQ(last->as<TextResponse>().TargetTransferTag, kReservedTag);
  EXPECT_EQ(last->data, RawInitiator::text({{"TargetName", std::string(testing::kTargetName)},
                                            {"TargetAddress", address.to_string() + ",1"}}));
  // Another exchange does not begin with what is left of one that was given up.
  ASSERT_TRUE(part("X-left=", 6, kReservedTag, true));
  auto other = part(std::string("X-new=1\0", 8), 7, kReservedTag, false);
  EXPECT_EQ(other->data, RawInitiator::text({{"X-new", "NotUnderstood"}}));
}

// ---- logout ----

TEST_F(SessionTest, Logout) {
  for (std::uint8_t reason : {0, 1}) {
    RawInitiator& host = session();
    host.logout(reason);
    auto answer = host.next();
    ASSERT_TRUE(answer && answer->code() == Opcode::kLogoutResponse);
    EXPECT_EQ(answer->as<LogoutResponse>().Response, 0);
    EXPECT_TRUE(host.closed);
    EXPECT_TRUE(target->sessions().empty());
  }
}

TEST_F(SessionTest, LogoutOfWhatIsNotThere) {
  RawInitiator& host = session();
  host.logout(1, 99);
  EXPECT_EQ(host.next()->as<LogoutResponse>().Response, 1) << "no such connection";
  host.logout(2);
  EXPECT_EQ(host.next()->as<LogoutResponse>().Response, 2) << "no recovery at ErrorRecoveryLevel 0";
  EXPECT_FALSE(host.closed);
}

// ---- several sessions ----

TEST_F(SessionTest, SessionsAreIndependent) {
  RawInitiator& first = session({}, 1);
  RawInitiator& second = session({}, 2);
  EXPECT_NE(first.tsih, second.tsih);
  EXPECT_EQ(target->sessions().size(), 2u);
  auto wrote = first.run(write16(5, 1), {.write = pattern(512, 1), .immediate = 512});
  EXPECT_EQ(wrote->status, 0);
  EXPECT_EQ(second.run(read16(5, 1), {.read = 512})->data, pattern(512, 1));
  first.disconnect();
  EXPECT_EQ(second.run(read16(5, 1), {.read = 512})->status, 0);
  EXPECT_EQ(target->sessions().size(), 1u);
}

// RFC 7143 section 6.3.5: a login with TSIH 0 and the ISID of a session replaces that session.
TEST_F(SessionTest, ReinstatementEndsTheOlderSession) {
  RawInitiator& older = session();
  device->hold();
  std::uint32_t running = older.command(write16(0, 1), {.write = pattern(512, 1), .immediate = 512});
  older.settle();
  RawInitiator& newer = connect();
  EXPECT_EQ(newer.login(), 0);
  EXPECT_TRUE(older.closed);
  device->release();
  EXPECT_FALSE(older.outcome(running));
  newer.clear_attentions();
  EXPECT_EQ(target->sessions().size(), 1u);
  EXPECT_EQ(newer.run(read16(0, 1), {.read = 512})->status, 0);
}

// ---- the initiator or the device goes away ----

TEST_F(SessionTest, AConnectionThatBreaksWithCommandsInTheDevice) {
  device->hold();
  for (int i = 0; i < 3; ++i) {
    RawInitiator& host = session({}, static_cast<std::uint8_t>(i));
    host.command(read16(0, 128), {.read = 65'536});
    host.command(write16(0, 1), {.write = pattern(512, 1), .immediate = 512});
    host.command(write16(0, 64), {.write = pattern(32'768, 1), .answer_r2t = false});
    host.settle();
    host.disconnect();
    env.settle();
  }
  EXPECT_TRUE(target->sessions().empty());
  device->release();
  env.settle();
  EXPECT_EQ(session().run(read16(0, 1), {.read = 512})->status, 0);
}

// The volume was taken over elsewhere: no sense data could say so, the host has to log in again.
TEST_F(SessionTest, ADeviceThatStoppedServingDropsTheConnection) {
  for (ErrorCode code : {ErrorCode::kCancelled, ErrorCode::kEpochSuperseded}) {
    RawInitiator& host = session();
    device->fail_with(code);
    EXPECT_FALSE(host.run(read16(0, 1), {.read = 512}));
    EXPECT_TRUE(host.closed);
    device->fail_with(std::nullopt);
  }
}

TEST_F(SessionTest, ANewSizeIsAUnitAttention) {
  RawInitiator& host = session();
  device->shrink_to(8u << 20);
  auto told = host.run({});
  EXPECT_EQ(told->sense_key(), 6);
  EXPECT_EQ(told->sense_code(), 0x2a09);
  EXPECT_EQ(host.run({})->status, 0) << "once";
  EXPECT_EQ(host.run(read16((8u << 20) / 512, 1), {.read = 512})->sense_code(), 0x2100);
}

// ---- removal ----

TEST_F(SessionTest, RemovalAsksInitiatorsToLogOut) {
  RawInitiator& host = session();
  bool removed = false;
  target->remove_target(std::string(testing::kTargetName), [&] { removed = true; });
  auto message = host.next();
  ASSERT_TRUE(message && message->code() == Opcode::kAsyncMessage);
  EXPECT_EQ(message->as<AsyncMessage>().AsyncEvent, 1) << "logout request";
  EXPECT_FALSE(removed);
  EXPECT_EQ(host.run(read16(0, 1), {.read = 512})->status, 0) << "served until it leaves";
  EXPECT_EQ(connect().login(), 0x0203) << "nobody new";
  host.logout(0);
  host.settle();
  EXPECT_TRUE(removed);
}

TEST_F(SessionTest, RemovalWaitsForTheDeviceButNotForTheInitiator) {
  RawInitiator& host = session();
  device->hold();
  host.command(read16(0, 1), {.read = 512});
  host.settle();
  bool removed = false;
  target->remove_target(std::string(testing::kTargetName), [&] { removed = true; });
  env.advance(10s);
  EXPECT_TRUE(host.closed);
  EXPECT_FALSE(removed) << "the device still works on a command";
  device->release();
  env.settle();
  EXPECT_TRUE(removed);
}

TEST_F(SessionTest, RemovalWithoutSessions) {
  bool removed = false;
  target->remove_target(std::string(testing::kTargetName), [&] { removed = true; });
  EXPECT_FALSE(removed) << "never from inside the call";
  env.settle();
  EXPECT_TRUE(removed);
}

TEST_F(SessionTest, TheTargetMayEndWithEverythingUnderWay) {
  device->hold();
  RawInitiator& host = session();
  connect();
  host.command(read16(0, 128), {.read = 65'536});
  host.command(write16(0, 64), {.write = pattern(32'768, 1), .answer_r2t = false});
  host.task_function(TaskFunction::kLogicalUnitReset);
  host.settle();
  target.reset();
  device.reset();
  env.settle();
  EXPECT_TRUE(host.closed);
}

// ---- memory ----

// Commands that want more memory than a session may have wait their turn; each of them ends.
TEST_F(SessionTest, LargeCommandsWaitForMemory) {
  RawInitiator& host = session({{"MaxRecvDataSegmentLength", "1048576"}, {"MaxBurstLength", "1048576"}});
  constexpr std::uint32_t kBytes = 4u << 20;
  env.chunk_bytes = 64u << 20;
  std::vector<std::uint32_t> tags;
  device->hold();
  for (int i = 0; i < 60; ++i) {
    bool write = i % 2;
    tags.push_back(write ? host.command(write16(0, kBytes / 512), {.write = pattern(kBytes, 1)})
                         : host.command(read16(0, kBytes / 512), {.read = kBytes}));
  }
  host.settle();
  EXPECT_LE(device->waiting() * kBytes, kSessionBytesMax);
  EXPECT_LE(env.buffers().bytes_in_use(), 2 * kSessionBytesMax);
  device->release();
  for (std::uint32_t tag : tags) {
    auto ended = host.outcome(tag);
    ASSERT_TRUE(ended);
    EXPECT_EQ(ended->status, 0);
  }
}

// One large read after another, and nothing of the answers is taken.
TEST_F(SessionTest, AnInitiatorThatDoesNotReadGetsNoFurtherWithReads) {
  env.chunk_bytes = 64u << 20;
  RawInitiator& host = session({{"MaxRecvDataSegmentLength", "1048576"}});
  const std::string& unsent = env.newest().ends[0].inbound;
  constexpr std::uint32_t kBytes = 4u << 20;
  host.stop_reading();
  std::vector<std::uint32_t> tags;
  for (int i = 0; i < 30; ++i) {
    tags.push_back(host.command(read16(0, kBytes / 512), {.read = kBytes}));
    env.settle();
  }
  EXPECT_LE(unsent.size(), kSessionBytesMax + kBytes);
  host.go_on_reading();
  for (std::uint32_t tag : tags) EXPECT_TRUE(host.outcome(tag)) << "all of them end once it reads again";
}

TEST_F(SessionTest, AnInitiatorThatDoesNotReadGetsNoFurtherWithPings) {
  env.chunk_bytes = 64u << 20;
  RawInitiator& host = session({{"MaxRecvDataSegmentLength", "1048576"}});
  const std::string& unsent = env.newest().ends[0].inbound;
  host.stop_reading();
  for (int i = 0; i < 150; ++i) {
    host.ping(std::string(1u << 20, 'x'));
    env.settle();
  }
  EXPECT_LE(unsent.size(), kUnsentBytesMax + (2u << 20));
  host.go_on_reading();
  env.settle();
  EXPECT_EQ(host.inbox.size(), 150u);
}

TEST_F(SessionTest, DataOutOfOrderIsBounded) {
  RawInitiator& host = session();
  ++host.cmd_sn;  // never comes
  std::size_t sent = 0;
  while (!host.closed && sent < 100) {
    host.ping(std::string(1u << 20, 'x'), false);
    host.settle();
    ++sent;
  }
  EXPECT_TRUE(host.closed);
  EXPECT_EQ(sent, kHeldBytesMax / (1u << 20) + 1);
}

// ---- persistent reservations reach the store, and come back from it ----

// Whatever APTPL says: see docs/iscsi-compliance.md.
TEST_F(SessionTest, ReservationsSurviveTheTarget) {
  for (char aptpl : {0, 1}) {
    start(512);
    RawInitiator& host = session({}, 1);
    auto reserve = [&](std::uint8_t action, std::uint8_t type, std::uint64_t key, std::uint64_t service_key) {
      testing::Cdb command = testing::cdb({0x5f, action, type});
      testing::put(command, 5, 4, 24);
      std::string list(24, '\0');
      store_be(std::as_writable_bytes(std::span(list)), 0, 8, key);
      store_be(std::as_writable_bytes(std::span(list)), 8, 8, service_key);
      if (action == 0) list[20] = aptpl;
      return host.command(command, {.write = list, .immediate = 24});
    };
    EXPECT_EQ(host.outcome(reserve(0, 0, 0, 0xabc))->status, 0);
    store.held = true;
    std::uint32_t waiting = reserve(1, 3, 0xabc, 0);
    EXPECT_FALSE(host.outcome(waiting)) << "answered only when it is stored";
    store.held = false;
    store.answer();
    EXPECT_EQ(host.outcome(waiting)->status, 0);
    std::string saved = store.saved[std::string(testing::kTargetName)];
    start(512, [&](TargetConfig& config) { config.reservations = saved; });
    RawInitiator& again = session({}, 1);
    RawInitiator& stranger = session({}, 2);
    EXPECT_EQ(again.run(write16(0, 1), {.write = pattern(512, 1), .immediate = 512})->status, 0);
    EXPECT_EQ(stranger.run(read16(0, 1), {.read = 512})->status, 0x18) << "exclusive access";
  }
}

}  // namespace
}  // namespace holdfast::iscsi
