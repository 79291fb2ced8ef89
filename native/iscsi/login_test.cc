// Login over the wire: stages, identity, refusals, redirects, discovery, and what negotiation leaves in force.
#include "iscsi/login.h"

#include <gtest/gtest.h>

#include "iscsi/connection.h"
#include "iscsi/target_server.h"
#include "iscsi/testing/fixture.h"

namespace holdfast::iscsi {
namespace {

using testing::Pdu;
using testing::RawInitiator;
using Keys = RawInitiator::Keys;

class LoginTest : public testing::TargetTest {
 protected:
  static std::uint16_t step(RawInitiator& host, int csg, int nsg, bool transit, const Keys& keys) {
    return RawInitiator::status_of(host.login_step(csg, nsg, transit, RawInitiator::text(keys)));
  }
};

TEST_F(LoginTest, StraightToFullFeature) {
  RawInitiator& host = connect();
  EXPECT_EQ(host.login(), 0);
  EXPECT_NE(host.tsih, 0);
  EXPECT_EQ(host.answers["TargetPortalGroupTag"], "1");
  EXPECT_EQ(host.answers["TargetAlias"], "test");
  EXPECT_EQ(host.answers["MaxRecvDataSegmentLength"], std::to_string(kMaxRecvDataSegmentLength));
  EXPECT_EQ(host.exp_cmd_sn, host.cmd_sn);
  EXPECT_EQ(host.max_cmd_sn, host.cmd_sn + kCommandWindow - 1);
}

TEST_F(LoginTest, ThroughAllStages) {
  RawInitiator& host = connect();
  Keys who = RawInitiator::identity();
  who.emplace_back("AuthMethod", "None");
  EXPECT_EQ(step(host, 0, 1, true, who), 0);
  EXPECT_EQ(step(host, 1, 1, false, {{"HeaderDigest", "CRC32C"}}), 0);
  EXPECT_EQ(step(host, 1, 3, true, {{"DataDigest", "CRC32C"}}), 0);
  EXPECT_TRUE(host.header_digest && host.data_digest);
  EXPECT_EQ(host.answers["AuthMethod"], "None");
  host.clear_attentions();
}

TEST_F(LoginTest, TextInSeveralRequests) {
  RawInitiator& host = connect();
  std::string all = RawInitiator::text(RawInitiator::identity());
  EXPECT_EQ(RawInitiator::status_of(host.login_step(1, 1, false, all.substr(0, 20), true)), 0);
  EXPECT_EQ(RawInitiator::status_of(host.login_step(1, 3, true, all.substr(20))), 0);
  EXPECT_TRUE(host.full_feature());
}

TEST_F(LoginTest, TooMuchTextEndsIt) {
  RawInitiator& host = connect();
  std::string filler(60'000, 'x');
  EXPECT_EQ(RawInitiator::status_of(host.login_step(1, 1, false, filler, true)), 0);
  EXPECT_EQ(RawInitiator::status_of(host.login_step(1, 1, false, filler, true)), 0x0200);
  EXPECT_TRUE(host.closed);
}

TEST_F(LoginTest, RefusalsSayWhy) {
  auto status = [&](const Keys& keys, int csg = 1, int nsg = 3) { return step(connect(), csg, nsg, true, keys); };
  EXPECT_EQ(status({}), 0x0207) << "no InitiatorName";
  EXPECT_EQ(status({{"InitiatorName", "nonsense"}, {"TargetName", std::string(testing::kTargetName)}}), 0x0200);
  EXPECT_EQ(status({{"InitiatorName", std::string(testing::kInitiatorName)}}), 0x0207) << "no TargetName";
  EXPECT_EQ(status(RawInitiator::identity("Normal", "iqn.2026-11.io.holdfast:other")), 0x0203);
  EXPECT_EQ(status({{"InitiatorName", std::string(testing::kInitiatorName)}, {"SessionType", "Odd"}}), 0x0209);
  Keys illegal = RawInitiator::identity();
  illegal.emplace_back("MaxBurstLength", "1");
  EXPECT_EQ(status(illegal), 0x0200);
  EXPECT_EQ(status(RawInitiator::identity(), 1, 0), 0x0200) << "a stage backwards";
  EXPECT_EQ(status(RawInitiator::identity(), 3, 3), 0x0200) << "no stage of login";
  EXPECT_EQ(RawInitiator::status_of(connect().login_step(1, 3, true, "garbage")), 0x0200);
}

TEST_F(LoginTest, NothingIsNegotiatedTwice) {
  auto status = [&](const Keys& more) { return connect().login(more); };
  EXPECT_EQ(status({{"MaxBurstLength", "65536"}, {"MaxBurstLength", "65536"}}), 0x0200);
  EXPECT_EQ(status({{"HeaderDigest", "None"}, {"HeaderDigest", "CRC32C"}}), 0x0200);
  EXPECT_EQ(status({{"X-vendor", "1"}, {"X-vendor", "1"}}), 0x0200);
  EXPECT_EQ(status({{"InitiatorName", "iqn.1994-05.com.example:other"}}), 0x0200) << "who is it?";
  RawInitiator& host = connect();
  Keys first = RawInitiator::identity();
  first.emplace_back("InitialR2T", "No");
  EXPECT_EQ(step(host, 1, 1, false, first), 0);
  EXPECT_EQ(step(host, 1, 3, true, {{"InitialR2T", "Yes"}}), 0x0200) << "in a later request either";
  EXPECT_TRUE(host.closed);
}

// As some initiators do in each stage.
TEST_F(LoginTest, WhoIsWhoMayBeSaidAgain) {
  RawInitiator& host = connect();
  Keys again = RawInitiator::identity();
  again.emplace_back("MaxRecvDataSegmentLength", "8192");
  EXPECT_EQ(step(host, 1, 1, false, again), 0);
  EXPECT_EQ(step(host, 1, 3, true, again), 0);
  EXPECT_TRUE(host.full_feature());
}

TEST_F(LoginTest, KeysWithoutEndAreRefused) {
  RawInitiator& host = connect();
  ASSERT_EQ(step(host, 1, 1, false, RawInitiator::identity()), 0);
  std::uint16_t status = 0;
  for (int round = 0; round < 10 && status == 0; ++round) {
    Keys keys;
    for (int i = 0; i < 100; ++i) keys.emplace_back("X-" + std::to_string(100 * round + i), "");
    status = step(host, 1, 1, false, keys);
  }
  EXPECT_EQ(status, 0x0200);
}

// Connections that say nothing, and discovery sessions that stay, do not keep hosts out.
TEST_F(LoginTest, AFloodOfStrangersKeepsNobodyOut) {
  RawInitiator& host = session();
  RawInitiator& oldest = connect();
  for (std::size_t i = 0; i < kStrangersMax + 10; ++i) {
    if (i % 2 == 0) {
      connect();
    } else {
      ASSERT_EQ(connect().login({}, RawInitiator::identity("Discovery")), 0);
    }
  }
  EXPECT_TRUE(oldest.closed);
  EXPECT_EQ(host.run(testing::read16(0, 1), {.read = 512})->status, 0);
  RawInitiator& late = connect();
  late.isid[5] = 2;
  EXPECT_EQ(late.login(), 0);
}

TEST_F(LoginTest, NoRoomForAnotherSession) {
  for (std::size_t i = 0; i < scsi::kNexusesMax; ++i) {
    RawInitiator& host = connect();
    host.isid[4] = static_cast<std::uint8_t>(i >> 8);
    host.isid[5] = static_cast<std::uint8_t>(i);
    ASSERT_EQ(host.login(), 0);
  }
  RawInitiator& late = connect();
  late.isid[3] = 1;
  auto refused = late.login_step(1, 3, true, RawInitiator::text(RawInitiator::identity()));
  EXPECT_EQ(RawInitiator::status_of(refused), 0x0302);
  EXPECT_EQ(refused->header.InitiatorTaskTag, 1u) << "or the initiator does not know what was refused";
  EXPECT_EQ(refused->as<LoginResponse>().ISID, late.isid);
}

// Whoever has not logged in yet cannot make the target hold megabytes of answers.
TEST_F(LoginTest, ALoginThatReadsNothingIsNotReadFrom) {
  RawInitiator& host = connect();
  ASSERT_EQ(step(host, 1, 1, false, RawInitiator::identity()), 0);
  const std::string& unsent = env.newest().ends[0].inbound;
  host.stop_reading();
  LoginRequest request;
  request.opcode = static_cast<std::uint8_t>(Opcode::kLoginRequest) | kImmediateBit;
  request.flags = 0x04;
  request.ISID = host.isid;
  request.CID = 7;
  for (std::size_t sent = 0; sent < 4 * kLoginUnsentBytesMax; sent += kHeaderBytes) host.send(request);
  host.settle();
  EXPECT_LE(unsent.size(), 2 * kLoginUnsentBytesMax);
}

TEST_F(LoginTest, AnUnknownSessionOrASecondConnection) {
  RawInitiator& stranger = connect();
  stranger.tsih = 77;
  EXPECT_EQ(stranger.login(), 0x020a);
  RawInitiator& first = session();
  RawInitiator& second = connect();
  second.tsih = first.tsih;
  EXPECT_EQ(second.login(), 0x0206) << "MaxConnections is 1";
  EXPECT_EQ(first.run({})->status, 0) << "the session is not disturbed";
}

TEST_F(LoginTest, AnUnsupportedVersion) {
  RawInitiator& host = connect();
  LoginRequest request;
  request.opcode = static_cast<std::uint8_t>(Opcode::kLoginRequest) | kImmediateBit;
  request.flags = 0x87;
  request.VersionMax = request.VersionMin = 1;
  host.send(request, RawInitiator::text(RawInitiator::identity()));
  EXPECT_EQ(RawInitiator::status_of(host.next()), 0x0205);
}

TEST_F(LoginTest, AnythingElseBeforeLoginIsRefused) {
  for (Opcode code : {Opcode::kScsiCommand, Opcode::kNopOut, Opcode::kTextRequest, Opcode::kDataOut,
                      Opcode::kLogoutRequest, Opcode::kTaskManagementRequest, Opcode::kLoginResponse}) {
    RawInitiator& host = connect();
    Header header;
    header.opcode = static_cast<std::uint8_t>(code);
    host.send(header);
    EXPECT_EQ(RawInitiator::status_of(host.next()), 0x020b);
    EXPECT_TRUE(host.closed);
  }
}

TEST_F(LoginTest, ALoginThatDoesNotEndIsCutOff) {
  RawInitiator& silent = connect();
  RawInitiator& slow = connect();
  EXPECT_EQ(step(slow, 1, 1, false, RawInitiator::identity()), 0);
  env.advance(kLoginTimeout + 1s);
  EXPECT_TRUE(silent.closed);
  EXPECT_TRUE(slow.closed);
}

TEST_F(LoginTest, OnlyAllowedInitiators) {
  start(512, [](TargetConfig& config) { config.initiator_allow_list = {"iqn.1994-05.com.example:friend"}; });
  EXPECT_EQ(connect().login(), 0x0202);
  Keys friend_keys = RawInitiator::identity();
  friend_keys[0].second = "iqn.1994-05.com.example:friend";
  EXPECT_EQ(connect().login({}, friend_keys), 0);
}

TEST_F(LoginTest, Redirects) {
  target->set_redirects({{"iqn.2026-11.io.holdfast:moved", {"192.0.2.7", 3260, ""}}});
  RawInitiator& host = connect();
  EXPECT_EQ(host.login({}, RawInitiator::identity("Normal", "iqn.2026-11.io.holdfast:moved")), 0x0101);
  EXPECT_EQ(host.answers["TargetAddress"], "192.0.2.7:3260");
  EXPECT_TRUE(host.closed);
  target->set_redirects({});
  EXPECT_EQ(connect().login({}, RawInitiator::identity("Normal", "iqn.2026-11.io.holdfast:moved")), 0x0203);
}

// A process that has just started does not know yet what it will serve; then it knows, and it takes a while.
TEST_F(LoginTest, ATargetThatIsExpected) {
  auto status = [&](std::string_view iqn) { return connect().login({}, RawInitiator::identity("Normal", iqn)); };
  target->expect_targets();
  EXPECT_EQ(status("iqn.2026-11.io.holdfast:soon"), 0x0301);
  EXPECT_EQ(status("iqn.2026-11.io.holdfast:never"), 0x0301);
  EXPECT_EQ(status(testing::kTargetName), 0) << "it is there";
  target->set_expected({"iqn.2026-11.io.holdfast:soon", std::string(testing::kTargetName)});
  EXPECT_EQ(status("iqn.2026-11.io.holdfast:soon"), 0x0301);
  EXPECT_EQ(status("iqn.2026-11.io.holdfast:never"), 0x0203);
  EXPECT_EQ(status(testing::kTargetName), 0);
  target->set_redirects({{"iqn.2026-11.io.holdfast:soon", {"192.0.2.7", 3260, ""}}});
  EXPECT_EQ(status("iqn.2026-11.io.holdfast:soon"), 0x0101) << "it has moved";
  target->set_redirects({});
  target->set_expected({});
  EXPECT_EQ(status("iqn.2026-11.io.holdfast:soon"), 0x0203);
}

// What is here is served here, whatever an older table says.
TEST_F(LoginTest, ALocalTargetIsNeverRedirected) {
  target->set_redirects({{std::string(testing::kTargetName), {"192.0.2.7", 3260, ""}}});
  EXPECT_EQ(connect().login(), 0);
}

TEST_F(LoginTest, DiscoveryListsTargetsAndPortals) {
  RawInitiator& host = connect();
  ASSERT_EQ(host.login({}, RawInitiator::identity("Discovery")), 0);
  auto ask = [&](const std::string& value) {
    TextRequest request;
    request.opcode = static_cast<std::uint8_t>(Opcode::kTextRequest) | kImmediateBit;
    request.flags = kFinalBit;
    request.InitiatorTaskTag = 5;
    request.TargetTransferTag = kReservedTag;
    request.CmdSN = host.cmd_sn;
    host.send(request, RawInitiator::text({{"SendTargets", value}}));
    auto answer = host.next();
    return answer ? answer->data : std::string("(none)");
  };
  std::string listed = RawInitiator::text(
      {{"TargetName", std::string(testing::kTargetName)}, {"TargetAddress", address.to_string() + ",1"}});
  EXPECT_EQ(ask("All"), listed);
  EXPECT_EQ(ask(std::string(testing::kTargetName)), listed);
  EXPECT_EQ(ask("iqn.2026-11.io.holdfast:other"), "");
  host.command(testing::read16(0, 1), {.read = 512});
  auto refused = host.next();
  ASSERT_TRUE(refused && refused->code() == Opcode::kReject) << "no SCSI in a discovery session";
  EXPECT_TRUE(host.closed);
}

// A long answer comes in pieces of what the initiator takes; it asks for each.
TEST_F(LoginTest, ALongAnswerToSendTargets) {
  for (int i = 0; i < 40; ++i) {
    TargetConfig config;
    config.iqn = "iqn.2026-11.io.holdfast:volume-" + std::to_string(i);
    config.device = device.get();
    ASSERT_TRUE(target->add_target(std::move(config)).ok());
  }
  RawInitiator& host = connect();
  ASSERT_EQ(host.login({{"MaxRecvDataSegmentLength", "512"}}, RawInitiator::identity("Discovery")), 0);
  std::string all;
  std::uint32_t transfer_tag = kReservedTag;
  for (int i = 0; i < 20; ++i) {
    TextRequest request;
    request.opcode = static_cast<std::uint8_t>(Opcode::kTextRequest) | kImmediateBit;
    request.flags = kFinalBit;
    request.TargetTransferTag = transfer_tag;
    request.CmdSN = host.cmd_sn;
    host.send(request, transfer_tag == kReservedTag ? RawInitiator::text({{"SendTargets", "All"}}) : "");
    auto answer = host.next();
    ASSERT_TRUE(answer && answer->code() == Opcode::kTextResponse);
    all += answer->data;
    transfer_tag = answer->as<TextResponse>().TargetTransferTag;
    if (answer->header.flags & kFinalBit) break;
  }
  EXPECT_EQ(transfer_tag, kReservedTag);
  auto pairs = parse_text(all);
  ASSERT_TRUE(pairs.ok());
  EXPECT_EQ(pairs->size(), 2u * 41);
  for (auto& [key, value] : *pairs) EXPECT_TRUE(key == "TargetName" || key == "TargetAddress") << key;
}

}  // namespace
}  // namespace holdfast::iscsi
