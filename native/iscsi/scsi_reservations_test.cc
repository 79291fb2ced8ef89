// Persistent reservations (SPC-4 section 5.12): the rules, what conflicts, unit attentions, persistence.
#include <gtest/gtest.h>

#include "iscsi/testing/unit_fixture.h"

namespace holdfast::iscsi {
namespace {

using scsi::Access;
using scsi::Reservations;
using scsi::ReservationType;
using scsi::ReserveAction;
using scsi::ReserveRequest;
using scsi::ScsiStatus;
using testing::cdb;
using testing::Cdb;
using testing::number_at;
using testing::put_number;

constexpr ReservationType kTypes[] = {ReservationType::kWriteExclusive,
                                      ReservationType::kExclusiveAccess,
                                      ReservationType::kWriteExclusiveRegistrantsOnly,
                                      ReservationType::kExclusiveAccessRegistrantsOnly,
                                      ReservationType::kWriteExclusiveAllRegistrants,
                                      ReservationType::kExclusiveAccessAllRegistrants};

class ReservationsTest : public testing::ScsiTest {
 protected:
  void SetUp() override {
    start(512);
    other = nexus("iqn.other,i,0x2");
    stranger = nexus("iqn.stranger,i,0x3");
  }

  Ended out(scsi::Nexus* from, ReserveAction action, std::uint64_t key, std::uint64_t service_key, unsigned type = 0,
            std::uint8_t flags = 0) {
    Cdb made = cdb({0x5f, static_cast<std::uint8_t>(action), static_cast<std::uint8_t>(type)});
    testing::put(made, 5, 4, 24);
    std::string list(24, '\0');
    put_number(list, 0, 8, key);
    put_number(list, 8, 8, service_key);
    list[20] = static_cast<char>(flags);
    return run(made, list, from);
  }
  Ended enroll(scsi::Nexus* from, std::uint64_t key, std::uint8_t flags = 0) {
    return out(from, ReserveAction::kRegister, 0, key, 0, flags);
  }
  Ended reserve(scsi::Nexus* from, std::uint64_t key, ReservationType type) {
    return out(from, ReserveAction::kReserve, key, 0, static_cast<unsigned>(type));
  }
  std::string in(unsigned action) {
    Cdb made = cdb({0x5e, static_cast<std::uint8_t>(action)});
    testing::put(made, 7, 2, 1024);
    return run(made).data;
  }
  bool may(scsi::Nexus* from, const Cdb& command, std::string_view data = {}) {
    Ended ended = run(command, data, from);
    EXPECT_TRUE(ended.good() || ended.status == ScsiStatus::kReservationConflict) << ended.code();
    return ended.good();
  }
  bool may_read(scsi::Nexus* from) { return may(from, testing::read16(0, 1)); }
  bool may_write(scsi::Nexus* from) { return may(from, testing::write16(0, 1), block_of('a')); }
  static unsigned attention(scsi::Nexus* from) {
    if (from->attentions.empty()) return 0;
    unsigned code = from->attentions.front();
    from->attentions.erase(from->attentions.begin());
    return code;
  }

  scsi::Nexus* other = nullptr;
  scsi::Nexus* stranger = nullptr;
};

constexpr auto kConflict = ScsiStatus::kReservationConflict;

TEST_F(ReservationsTest, RegisterChangeUnregister) {
  EXPECT_TRUE(enroll(host, 0xa).good());
  EXPECT_EQ(enroll(host, 0xb).status, kConflict) << "the old key must be named";
  EXPECT_TRUE(out(host, ReserveAction::kRegister, 0xa, 0xb).good());
  EXPECT_EQ(number_at(in(0), 8, 8), 0xbu);
  EXPECT_TRUE(out(host, ReserveAction::kRegisterAndIgnore, 0x99, 0xc).good());
  EXPECT_EQ(number_at(in(0), 8, 8), 0xcu);
  EXPECT_TRUE(out(host, ReserveAction::kRegister, 0xc, 0).good());
  EXPECT_EQ(in(0).size(), 8u);
  EXPECT_EQ(number_at(in(0), 0, 4), 4u) << "PRGENERATION counts registrations";
  EXPECT_EQ(out(host, ReserveAction::kReserve, 0xc, 0, 1).status, kConflict) << "not registered";
}

// SPC-4 table 69, for every type and every kind of initiator.
TEST_F(ReservationsTest, WhoMayDoWhat) {
  for (ReservationType type : kTypes) {
    SCOPED_TRACE(static_cast<unsigned>(type));
    ASSERT_TRUE(enroll(host, 0xa).good() && enroll(other, 0xb).good());
    ASSERT_TRUE(reserve(host, 0xa, type).good());
    bool exclusive_access = type == ReservationType::kExclusiveAccess ||
                            type == ReservationType::kExclusiveAccessRegistrantsOnly ||
                            type == ReservationType::kExclusiveAccessAllRegistrants;
    bool registrants_too = type != ReservationType::kWriteExclusive && type != ReservationType::kExclusiveAccess;
    EXPECT_TRUE(may_read(host) && may_write(host));
    EXPECT_EQ(may_write(other), registrants_too);
    EXPECT_EQ(may_read(other), registrants_too || !exclusive_access);
    EXPECT_FALSE(may_write(stranger));
    EXPECT_EQ(may_read(stranger), !exclusive_access);
    // Commands that fencing tools and hosts need are allowed to everybody.
    for (const Cdb& each : {cdb({0x00}), testing::inquiry(std::nullopt), cdb({0x03, 0, 0, 0, 18}), cdb({0x25}),
                            cdb({0x1a, 0x08, 0x08, 0, 255})}) {
      EXPECT_TRUE(may(stranger, each)) << unsigned{each[0]};
    }
    EXPECT_FALSE(may(stranger, testing::cdb10(0x35, 0, 0)));
    EXPECT_FALSE(may(stranger, testing::cdb16(0x93, 0, 1, 0x01)));
    EXPECT_FALSE(may(stranger, testing::cdb10(0x42, 0, 0)));
    EXPECT_EQ(run(cdb({0x16}), {}, stranger).status, kConflict) << "RESERVE(6)";
    ASSERT_TRUE(out(host, ReserveAction::kClear, 0xa, 0).good());
    EXPECT_EQ(attention(other), 0x2a03u) << "RESERVATIONS PREEMPTED";
    EXPECT_TRUE(may_write(stranger));
  }
}

TEST_F(ReservationsTest, ReserveAgainAndRelease) {
  ASSERT_TRUE(enroll(host, 0xa).good() && enroll(other, 0xb).good());
  ASSERT_TRUE(reserve(host, 0xa, ReservationType::kWriteExclusiveRegistrantsOnly).good());
  EXPECT_TRUE(reserve(host, 0xa, ReservationType::kWriteExclusiveRegistrantsOnly).good()) << "the same again";
  EXPECT_EQ(reserve(host, 0xa, ReservationType::kExclusiveAccess).status, kConflict) << "another type";
  EXPECT_EQ(reserve(other, 0xb, ReservationType::kWriteExclusiveRegistrantsOnly).status, kConflict);
  EXPECT_EQ(reserve(host, 0xb, ReservationType::kWriteExclusive).status, kConflict) << "another's key";
  EXPECT_TRUE(out(other, ReserveAction::kRelease, 0xb, 0, 5).good()) << "not the holder: nothing happens";
  EXPECT_EQ(in(1).size(), 24u);
  EXPECT_EQ(out(host, ReserveAction::kRelease, 0xa, 0, 1).code(), 0x2604u) << "INVALID RELEASE";
  EXPECT_TRUE(out(host, ReserveAction::kRelease, 0xa, 0, 5).good());
  EXPECT_EQ(in(1).size(), 8u);
  EXPECT_EQ(attention(other), 0x2a04u) << "RESERVATIONS RELEASED, to registrants of a shared type";
  EXPECT_EQ(attention(stranger), 0u);
}

TEST_F(ReservationsTest, TheHolderTakesItsReservationAlong) {
  ASSERT_TRUE(enroll(host, 0xa).good() && enroll(other, 0xb).good());
  ASSERT_TRUE(reserve(host, 0xa, ReservationType::kExclusiveAccessRegistrantsOnly).good());
  ASSERT_TRUE(out(host, ReserveAction::kRegister, 0xa, 0).good());
  EXPECT_EQ(in(1).size(), 8u);
  EXPECT_EQ(attention(other), 0x2a04u);
}

TEST_F(ReservationsTest, AllRegistrantsHoldUntilTheLastLeaves) {
  ASSERT_TRUE(enroll(host, 0xa).good() && enroll(other, 0xb).good());
  ASSERT_TRUE(reserve(host, 0xa, ReservationType::kExclusiveAccessAllRegistrants).good());
  EXPECT_EQ(number_at(in(1), 8, 8), 0u) << "no single key holds it";
  ASSERT_TRUE(out(host, ReserveAction::kRegister, 0xa, 0).good());
  EXPECT_TRUE(may_write(other));
  EXPECT_FALSE(may_read(host));
  ASSERT_TRUE(out(other, ReserveAction::kRegister, 0xb, 0).good());
  EXPECT_TRUE(may_write(stranger));
}

TEST_F(ReservationsTest, PreemptTakesOver) {
  ASSERT_TRUE(enroll(host, 0xa).good() && enroll(other, 0xb).good());
  ASSERT_TRUE(reserve(host, 0xa, ReservationType::kWriteExclusive).good());
  ASSERT_TRUE(out(other, ReserveAction::kPreempt, 0xb, 0xa, 3).good());
  EXPECT_EQ(attention(host), 0x2a05u) << "REGISTRATIONS PREEMPTED";
  EXPECT_EQ(number_at(in(1), 8, 8), 0xbu);
  EXPECT_EQ(number_at(in(1), 21, 1), 3u);
  EXPECT_FALSE(may_read(host)) << "fenced";
  EXPECT_EQ(out(host, ReserveAction::kPreempt, 0xa, 0xb, 1).status, kConflict) << "and cannot take it back";
  EXPECT_EQ(out(other, ReserveAction::kPreempt, 0xb, 0x77, 3).status, kConflict) << "nobody has that key";
  EXPECT_EQ(out(other, ReserveAction::kPreempt, 0xb, 0, 3).code(), 0x2600u) << "key 0 is for all registrants";
}

TEST_F(ReservationsTest, PreemptOfARegistrantLeavesTheReservation) {
  ASSERT_TRUE(enroll(host, 0xa).good() && enroll(other, 0xb).good());
  ASSERT_TRUE(reserve(host, 0xa, ReservationType::kWriteExclusiveRegistrantsOnly).good());
  ASSERT_TRUE(out(host, ReserveAction::kPreempt, 0xa, 0xb, 1).good());
  EXPECT_EQ(number_at(in(1), 8, 8), 0xau);
  EXPECT_EQ(number_at(in(1), 21, 1), 5u) << "its type is not touched";
  EXPECT_EQ(attention(other), 0x2a05u);
  EXPECT_FALSE(may_write(other));
}

TEST_F(ReservationsTest, PreemptOfAllRegistrants) {
  ASSERT_TRUE(enroll(host, 0xa).good() && enroll(other, 0xb).good());
  ASSERT_TRUE(reserve(host, 0xa, ReservationType::kWriteExclusiveAllRegistrants).good());
  ASSERT_TRUE(out(other, ReserveAction::kPreempt, 0xb, 0, 1).good());
  EXPECT_EQ(attention(host), 0x2a05u);
  EXPECT_EQ(in(0).size(), 16u);
  EXPECT_FALSE(may_write(host));
}

// PREEMPT AND ABORT is answered when nothing of the preempted can reach the medium any more.
TEST_F(ReservationsTest, PreemptAndAbortEndsTheCommandsOfThePreempted) {
  ASSERT_TRUE(enroll(host, 0xa).good() && enroll(other, 0xb).good());
  ASSERT_TRUE(reserve(host, 0xa, ReservationType::kWriteExclusive).good());
  device->hold();
  scsi::Command writing, preempting;
  auto begin = [&](scsi::Command& command, scsi::Nexus* from, const Cdb& made, std::string_view data) {
    for (std::size_t i = 0; i < made.size(); ++i) command.cdb[i] = static_cast<std::byte>(made[i]);
    command.nexus = from;
    command.owner = this;
    command.expected_data_out = data.size();
    ASSERT_TRUE(unit->admit(command, 0));
    command.data_out.push_back(env.buffers().copy_of(as_bytes(data)));
    unit->execute(command);
    env.settle();
  };
  begin(writing, host, testing::write16(0, 1), block_of('a'));
  Cdb preempt = cdb({0x5f, 5, 3});
  testing::put(preempt, 5, 4, 24);
  std::string list(24, '\0');
  put_number(list, 0, 8, 0xb);
  put_number(list, 8, 8, 0xa);
  begin(preempting, other, preempt, list);
  EXPECT_EQ(preempting.state, scsi::Command::State::kRunning);
  EXPECT_EQ(writing.state, scsi::Command::State::kRunning);
  device->release();
  env.settle();
  EXPECT_EQ(writing.status, ScsiStatus::kTaskAborted);
  EXPECT_EQ(preempting.status, ScsiStatus::kGood);
  EXPECT_EQ(preempting.state, scsi::Command::State::kIdle);
}

TEST_F(ReservationsTest, RegisterAndMove) {
  ASSERT_TRUE(enroll(host, 0xa).good());
  ASSERT_TRUE(reserve(host, 0xa, ReservationType::kWriteExclusive).good());
  std::string port = "iqn.2026-11.com.example:other,i,0x00023d000001";
  scsi::Nexus* heir = nexus(port);
  std::string list(24, '\0');
  put_number(list, 0, 8, 0xa);
  put_number(list, 8, 8, 0xc);
  list[17] = 0x02;  // UNREG
  put_number(list, 18, 2, 1);
  std::string id(4 + (port.size() + 4) / 4 * 4, '\0');
  id[0] = 0x45;
  put_number(id, 2, 2, id.size() - 4);
  id.replace(4, port.size(), port);
  put_number(list, 20, 4, id.size());
  Cdb move = cdb({0x5f, 7, 1});
  testing::put(move, 5, 4, list.size() + id.size());
  EXPECT_EQ(run(move, list + id, other).status, kConflict) << "not its to move";
  ASSERT_TRUE(run(move, list + id).good());
  EXPECT_TRUE(may_write(heir));
  EXPECT_FALSE(may_write(host));
  EXPECT_EQ(number_at(in(1), 8, 8), 0xcu);
  std::string status = in(3);
  EXPECT_NE(status.find(port), std::string::npos);
  EXPECT_EQ(number_at(status, 8 + 12, 1), 0x03u) << "ALL_TG_PT, R_HOLDER";
}

TEST_F(ReservationsTest, CapabilitiesAndRefusals) {
  EXPECT_EQ(in(2), testing::bytes_of({0, 8, 0x05, 0x80, 0xea, 0x01, 0, 0}));
  ASSERT_TRUE(enroll(host, 0xa, 0x01).good());
  EXPECT_EQ(number_at(in(2), 3, 1), 0x81u) << "PTPL_A";
  EXPECT_EQ(reserve(host, 0xa, static_cast<ReservationType>(2)).code(), 0x2400u);
  EXPECT_EQ(out(host, ReserveAction::kReserve, 0xa, 0, 0x11).code(), 0x2400u) << "scope";
  EXPECT_EQ(enroll(other, 0xb, 0x08).code(), 0x2600u) << "SPEC_I_PT";
  Cdb shorter = cdb({0x5f});
  testing::put(shorter, 5, 4, 23);
  EXPECT_EQ(run(shorter, std::string(23, '\0')).code(), 0x1a00u);
  EXPECT_EQ(run(cdb({0x5f, 0x1e})).code(), 0x2400u);
}

TEST_F(ReservationsTest, TooManyRegistrantsAreRefused) {
  for (std::size_t i = 0; i < Reservations::kRegistrantsMax; ++i) {
    scsi::Nexus* each = nexus("iqn.n,i,0x" + std::to_string(i));
    ASSERT_TRUE(enroll(each, 1 + i).good());
  }
  EXPECT_EQ(enroll(host, 0xa).code(), 0x5504u);
}

// ---- old reservations ----

TEST_F(ReservationsTest, ReserveSix) {
  EXPECT_TRUE(run(cdb({0x16})).good());
  EXPECT_TRUE(may_write(host));
  EXPECT_FALSE(may_read(other));
  EXPECT_EQ(enroll(other, 0xb).status, kConflict);
  EXPECT_TRUE(run(cdb({0x17}), {}, other).good()) << "another's release does nothing";
  EXPECT_FALSE(may_read(other));
  EXPECT_TRUE(run(cdb({0x17})).good());
  EXPECT_TRUE(may_read(other));
  EXPECT_TRUE(run(cdb({0x16})).good());
  unit->detach_nexus(host);
  EXPECT_TRUE(may_read(other)) << "a nexus that is lost lets go";
  host = nullptr;
}

// ---- persistence ----

TEST_F(ReservationsTest, StateSurvivesARestart) {
  for (ReservationType type : kTypes) {
    start(512);
    other = nexus("iqn.other,i,0x2");
    ASSERT_TRUE(enroll(host, 0xfedcba9876543210ull, 1).good() && enroll(other, 0xb, 1).good());
    ASSERT_TRUE(reserve(host, 0xfedcba9876543210ull, type).good());
    Reservations before = unit->reservations();
    auto restored = Reservations::restore(saved);
    ASSERT_TRUE(restored.ok());
    EXPECT_EQ(*restored, before);
    start(512, *restored);
    stranger = nexus("iqn.stranger,i,0x3");
    EXPECT_TRUE(may_write(host));
    EXPECT_FALSE(may_write(stranger));
  }
}

// Without APTPL as well: a target that restarts, or takes over, is no loss of power of the unit. The bit itself is
// shown as it was asked for.
TEST_F(ReservationsTest, StateWithoutAptplSurvivesARestart) {
  ASSERT_TRUE(enroll(host, 0xa).good() && enroll(other, 0xb).good());
  ASSERT_TRUE(reserve(host, 0xa, ReservationType::kWriteExclusive).good());
  auto restored = Reservations::restore(saved);
  ASSERT_TRUE(restored.ok());
  start(512, *restored);
  other = nexus("iqn.other,i,0x2");
  EXPECT_FALSE(may_write(other)) << "it was fenced before";
  EXPECT_TRUE(may_write(host));
  EXPECT_EQ(number_at(in(2), 3, 1), 0x80u) << "PTPL_A is 0";
}

TEST_F(ReservationsTest, WhatCannotBeSavedIsRefusedAndNotInForce) {
  ASSERT_TRUE(enroll(host, 0xa).good());
  save_fails = true;
  EXPECT_EQ(reserve(host, 0xa, ReservationType::kExclusiveAccess).sense.key, scsi::SenseKey::kHardwareError);
  EXPECT_TRUE(may_write(stranger));
  save_fails = false;
  EXPECT_TRUE(reserve(host, 0xa, ReservationType::kExclusiveAccess).good());
  EXPECT_FALSE(may_write(stranger));
}

TEST(ReservationsText, Format) {
  Reservations state;
  ReserveRequest request{.action = ReserveAction::kRegister, .service_action_key = 0xdeadbeef, .aptpl = true};
  EXPECT_EQ(state.save(), "");
  state.apply("iqn.host,i,0x1", request);
  request = {.action = ReserveAction::kReserve, .type = 5, .key = 0xdeadbeef};
  state.apply("iqn.host,i,0x1", request);
  EXPECT_EQ(state.save(),
            "holdfast-reservations 1\n"
            "generation 1\n"
            "aptpl 1\n"
            "registrant 00000000deadbeef iqn.host,i,0x1\n"
            "reservation 5 iqn.host,i,0x1\n");
}

TEST(ReservationsText, MalformedStateIsRefused) {
  const std::string head = "holdfast-reservations 1\n";
  EXPECT_TRUE(Reservations::restore("").ok());
  EXPECT_TRUE(Reservations::restore(head).ok());
  EXPECT_EQ(Reservations::restore("holdfast-reservations 2\n").error().code(), ErrorCode::kFormatTooNew);
  for (const char* wrong : {"garbage\n", "generation x\n", "aptpl 2\n", "registrant 0 iqn.a\n", "registrant 1\n",
                            "registrant 1 a\nregistrant 2 a\n", "reservation 5 a\n", "reservation 2 a\n",
                            "registrant 1 a\nreservation 5\n", "registrant 1 a\nreservation 7 a\n",
                            "registrant 1 a\nreservation 5 a\nreservation 5 a\n", "registrant xyz a\n"}) {
    EXPECT_FALSE(Reservations::restore(head + wrong).ok()) << wrong;
  }
}

}  // namespace
}  // namespace holdfast::iscsi
