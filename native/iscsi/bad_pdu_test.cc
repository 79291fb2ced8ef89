// Nonsense on the wire: refused or ignored, never the end of the process, and nobody else notices.
#include <gtest/gtest.h>

#include "iscsi/testing/fixture.h"

namespace holdfast::iscsi {
namespace {

using testing::pattern;
using testing::RawInitiator;
using testing::read16;
using testing::write16;

class BadPduTest : public testing::TargetTest {
 protected:
  int reject_reason(RawInitiator& host) {
    auto pdu = host.next();
    return pdu && pdu->code() == Opcode::kReject ? pdu->as<Reject>().Reason : -1;
  }

  std::uint64_t random(std::uint64_t bound) {
    random_state_ = random_state_ * 6364136223846793005ull + 1442695040888963407ull;
    return (random_state_ >> 33) % bound;
  }
  std::string random_pdu(RawInitiator& host) {
    ScsiCommand command;
    command.opcode = static_cast<std::uint8_t>(random(7));
    command.flags = static_cast<std::uint8_t>(random(256));
    command.InitiatorTaskTag = static_cast<std::uint32_t>(random(4));
    command.ExpectedDataTransferLength = static_cast<std::uint32_t>(random(5) * 512);
    command.CmdSN = host.cmd_sn++;
    auto cdb = random(2) ? read16(random(64), static_cast<std::uint32_t>(random(32)))
                         : write16(random(64), static_cast<std::uint32_t>(random(32)));
    std::copy(cdb.begin(), cdb.end(), command.CDB);
    return host.encode(command, pattern(random(600), 1));
  }
  std::string damaged(std::string bytes) {
    for (std::uint64_t count = random(4); count > 0; --count) {
      bytes[random(std::min<std::size_t>(bytes.size(), 60))] = static_cast<char>(random(256));
    }
    if (random(8) == 0) bytes.resize(random(bytes.size()) + 1);
    return bytes;
  }
  std::uint64_t random_state_ = 0;
};

TEST_F(BadPduTest, OpcodesThatNobodySendsToATarget) {
  RawInitiator& host = session();
  for (unsigned opcode = 0; opcode < 64; ++opcode) {
    switch (static_cast<Opcode>(opcode)) {
      case Opcode::kNopOut:
      case Opcode::kScsiCommand:
      case Opcode::kTaskManagementRequest:
      case Opcode::kLoginRequest:
      case Opcode::kTextRequest:
      case Opcode::kDataOut:
      case Opcode::kLogoutRequest:
        continue;
      default:
        break;
    }
    Header header;
    header.opcode = static_cast<std::uint8_t>(opcode);
    header.InitiatorTaskTag = 77;
    host.send(header, "some data");
    auto pdu = host.next();
    ASSERT_TRUE(pdu && pdu->code() == Opcode::kReject) << opcode;
    EXPECT_EQ(pdu->as<Reject>().Reason, static_cast<std::uint8_t>(RejectReason::kCommandNotSupported));
    EXPECT_EQ(pdu->data.substr(0, 1), std::string(1, static_cast<char>(opcode))) << "the header in question";
  }
  EXPECT_EQ(host.run(read16(0, 1), {.read = 512})->status, 0) << "the session goes on";
}

TEST_F(BadPduTest, ALoginInFullFeaturePhaseEndsTheConnection) {
  RawInitiator& host = session();
  EXPECT_EQ(host.login_step(1, 3, true, RawInitiator::text(RawInitiator::identity())), std::nullopt);
  EXPECT_TRUE(host.closed);
}

TEST_F(BadPduTest, AdditionalHeaderSegmentsAreSkipped) {
  RawInitiator& host = session({{"HeaderDigest", "CRC32C"}});
  for (unsigned words : {1u, 7u, 255u}) {
    NopOut ping;
    ping.opcode = static_cast<std::uint8_t>(Opcode::kNopOut) | kImmediateBit;
    ping.flags = kFinalBit;
    ping.TotalAHSLength = static_cast<std::uint8_t>(words);
    ping.InitiatorTaskTag = 5;
    ping.TargetTransferTag = kReservedTag;
    ping.CmdSN = host.cmd_sn;
    ping.DataSegmentLength = 4;
    std::string bytes(reinterpret_cast<const char*>(&ping), kHeaderBytes);
    bytes += pattern(words * 4, words);
    std::uint32_t crc = crc32c(as_bytes(bytes));
    for (int i = 0; i < 4; ++i) bytes.push_back(static_cast<char>(crc >> (8 * i)));
    host.send_bytes(bytes + "ping");
    auto answer = host.next();
    ASSERT_TRUE(answer) << words;
    EXPECT_EQ(answer->data, "ping");
  }
}

TEST_F(BadPduTest, TextThatIsNone) {
  RawInitiator& host = session();
  auto send_text = [&](std::string_view data, std::uint8_t flags, std::uint32_t transfer_tag) {
    TextRequest request;
    request.opcode = static_cast<std::uint8_t>(Opcode::kTextRequest) | kImmediateBit;
    request.flags = flags;
    request.InitiatorTaskTag = 5;
    request.TargetTransferTag = transfer_tag;
    request.CmdSN = host.cmd_sn;
    host.send(request, data);
  };
  send_text("no pair", kFinalBit, kReservedTag);
  EXPECT_EQ(reject_reason(host), static_cast<int>(RejectReason::kProtocolError));
  send_text("", kFinalBit, 1234);
  EXPECT_EQ(reject_reason(host), static_cast<int>(RejectReason::kInvalidPduField)) << "no answer is waiting";
  send_text(RawInitiator::text({{"X-key", "1"}}), kFinalBit, kReservedTag);
  EXPECT_EQ(host.next()->data, RawInitiator::text({{"X-key", "NotUnderstood"}}));
  std::string endless(60'000, 'x');
  send_text(endless, kContinueBit, kReservedTag);
  EXPECT_TRUE(host.next());
  send_text(endless, kContinueBit, kReservedTag);
  EXPECT_EQ(reject_reason(host), static_cast<int>(RejectReason::kProtocolError));
  EXPECT_TRUE(host.closed);
}

// Cut off at every byte of a session's beginning.
TEST_F(BadPduTest, AConnectionThatEndsAnywhere) {
  RawInitiator recorder(env, address);
  LoginRequest login;
  login.opcode = static_cast<std::uint8_t>(Opcode::kLoginRequest) | kImmediateBit;
  login.flags = 0x87;
  login.ISID = {0, 2, 3, 4, 5, 6};
  std::string bytes = recorder.encode(login, RawInitiator::text(RawInitiator::identity()));
  ScsiCommand write;
  write.opcode = static_cast<std::uint8_t>(Opcode::kScsiCommand);
  write.flags = kFinalBit | ScsiCommand::kWrite;
  write.ExpectedDataTransferLength = 8192;
  auto cdb = write16(0, 16);
  std::copy(cdb.begin(), cdb.end(), write.CDB);
  for (std::uint32_t i = 0; i < 3; ++i) {  // the first takes the unit attention
    write.CmdSN = i;
    write.InitiatorTaskTag = i;
    bytes += recorder.encode(write, pattern(64, i));
  }
  for (std::size_t size = 0; size <= bytes.size(); ++size) {
    RawInitiator host(env, address);
    host.send_bytes(std::string_view(bytes).substr(0, size));
    env.settle();
    host.disconnect();
    env.settle();
  }
  EXPECT_TRUE(target->sessions().empty());
  EXPECT_EQ(on_device(0, 8192), std::string(8192, '\0'));
  session();
}

// Valid sessions whose PDUs get random bytes changed.
TEST_F(BadPduTest, RandomDamage) {
  for (std::uint64_t seed = 1; seed <= 3000; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    random_state_ = seed;
    RawInitiator host(env, address);
    host.isid[5] = static_cast<std::uint8_t>(seed % 3);
    if (host.login({{"InitialR2T", "No"}, {"HeaderDigest", seed % 4 == 0 ? "CRC32C" : "None"}}) != 0) FAIL();
    host.clear_attentions();
    for (int i = 0; i < 4 && !host.closed; ++i) {
      std::string bytes = damaged(random_pdu(host));
      host.send_bytes(bytes);
      env.settle();
    }
    if (seed % 2) host.disconnect();
    env.settle();
  }
  for (int i = 0; i < 3; ++i) env.advance(60s);
  EXPECT_TRUE(target->sessions().empty());
  EXPECT_LT(env.buffers().bytes_in_use(), 1u << 20);
  session();
}

}  // namespace
}  // namespace holdfast::iscsi
