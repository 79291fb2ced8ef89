// Task management with commands in every state: waiting for data, in the device, held back, not yet come.
#include <gtest/gtest.h>

#include "iscsi/testing/fixture.h"

namespace holdfast::iscsi {
namespace {

using testing::pattern;
using testing::RawInitiator;
using testing::read16;
using testing::write16;

class TaskManagementTest : public testing::TargetTest {
 protected:
  // The response to the newest function; -1 while there is none.
  static int response(RawInitiator& host, std::uint32_t tag) {
    auto pdu = host.next();
    if (!pdu || pdu->code() != Opcode::kTaskManagementResponse) return -1;
    EXPECT_EQ(pdu->header.InitiatorTaskTag, tag);
    return pdu->as<TaskManagementResponse>().Response;
  }
  static constexpr int kComplete = 0, kPending = -1;
};

TEST_F(TaskManagementTest, AbortTaskWaitsForTheDeviceAndSilencesTheCommand) {
  RawInitiator& host = session();
  device->hold();
  std::uint32_t command = host.command(write16(0, 1), {.write = pattern(512, 1), .immediate = 512});
  std::uint32_t tag = host.task_function(TaskFunction::kAbortTask, command, host.cmd_sn - 1);
  EXPECT_EQ(response(host, tag), kPending) << "it could still reach the medium";
  device->release();
  EXPECT_EQ(response(host, tag), kComplete);
  EXPECT_FALSE(host.outcome(command));
  EXPECT_EQ(host.run({})->status, 0);
}

TEST_F(TaskManagementTest, AbortTaskThatWaitsForData) {
  RawInitiator& host = session();
  std::uint32_t command = host.command(write16(0, 8), {.write = pattern(4096, 1), .answer_r2t = false});
  host.settle();
  ASSERT_EQ(host.r2ts.size(), 1u);
  std::uint32_t tag = host.task_function(TaskFunction::kAbortTask, command, host.cmd_sn - 1);
  EXPECT_EQ(response(host, tag), kComplete);
  host.send_data(command, host.r2ts[0].TargetTransferTag, pattern(4096, 1), 0, 4096, 4096);
  EXPECT_FALSE(host.outcome(command));
  EXPECT_EQ(on_device(0, 4096), std::string(4096, '\0'));
  EXPECT_EQ(host.run({})->status, 0);
}

TEST_F(TaskManagementTest, AbortTaskThatFailedAndStillGetsItsData) {
  RawInitiator& host = session({{"InitialR2T", "No"}});
  ScsiCommand pdu;  // out of range, with unsolicited data to come
  pdu.opcode = static_cast<std::uint8_t>(Opcode::kScsiCommand);
  pdu.flags = ScsiCommand::kWrite | 1;
  pdu.InitiatorTaskTag = 9;
  pdu.ExpectedDataTransferLength = 1024;
  pdu.CmdSN = host.cmd_sn++;
  auto cdb = write16(1ull << 40, 2);
  std::copy(cdb.begin(), cdb.end(), pdu.CDB);
  host.send(pdu);
  std::uint32_t tag = host.task_function(TaskFunction::kAbortTask, 9, host.cmd_sn - 1);
  EXPECT_EQ(response(host, tag), kComplete);
  EXPECT_FALSE(host.outcome(9));
}

TEST_F(TaskManagementTest, AbortTaskThatDoesNotExist) {
  RawInitiator& host = session();
  host.run({});
  EXPECT_EQ(response(host, host.task_function(TaskFunction::kAbortTask, 4711, host.cmd_sn - 1)), 1);
}

// RFC 7143 section 11.5.5: counts as received and aborted; when it comes, nothing happens.
TEST_F(TaskManagementTest, AbortTaskThatHasNotComeYet) {
  RawInitiator& host = session();
  std::uint32_t missing = host.cmd_sn++;
  EXPECT_EQ(response(host, host.task_function(TaskFunction::kAbortTask, 4711, missing)), kComplete);
  std::uint32_t late =
      host.command(write16(0, 1), {.write = pattern(512, 1), .immediate = 512, .tag = 4711, .cmd_sn = missing});
  EXPECT_FALSE(host.outcome(late));
  EXPECT_EQ(on_device(0, 512), std::string(512, '\0'));
  EXPECT_EQ(host.run({})->status, 0) << "those after it go on";
}

// And when it never comes (it was lost with the initiator's own abort), those after it must not wait for it.
TEST_F(TaskManagementTest, AnAbortedCmdSnIsNotWaitedFor) {
  RawInitiator& host = session();
  std::uint32_t missing = host.cmd_sn++;
  std::uint32_t after = host.command({});
  EXPECT_FALSE(host.outcome(after));
  EXPECT_EQ(response(host, host.task_function(TaskFunction::kAbortTask, 4711, missing)), kComplete);
  EXPECT_TRUE(host.outcome(after));
}

TEST_F(TaskManagementTest, AbortTaskThatIsHeldBackByAnEarlierOne) {
  RawInitiator& host = session();
  std::uint32_t missing = host.cmd_sn++;
  std::uint32_t held = host.command(write16(0, 1), {.write = pattern(512, 1), .immediate = 512});
  EXPECT_EQ(response(host, host.task_function(TaskFunction::kAbortTask, held, host.cmd_sn - 1)), kComplete);
  EXPECT_TRUE(host.outcome(host.command({}, {.cmd_sn = missing})));
  EXPECT_FALSE(host.outcome(held));
  EXPECT_EQ(on_device(0, 512), std::string(512, '\0'));
  EXPECT_EQ(host.run({})->status, 0);
}

TEST_F(TaskManagementTest, AbortTaskSetIsForTheOwnNexus) {
  RawInitiator& host = session({}, 1);
  RawInitiator& other = session({}, 2);
  device->hold();
  std::uint32_t a = host.command(read16(0, 1), {.read = 512}), b = host.command(read16(0, 1), {.read = 512});
  std::uint32_t theirs = other.command(read16(0, 1), {.read = 512});
  other.settle();
  std::uint32_t tag = host.task_function(TaskFunction::kAbortTaskSet);
  EXPECT_EQ(response(host, tag), kPending);
  device->release();
  EXPECT_EQ(response(host, tag), kComplete);
  EXPECT_FALSE(host.outcome(a) || host.outcome(b));
  EXPECT_EQ(other.outcome(theirs)->status, 0);
}

TEST_F(TaskManagementTest, ClearTaskSetAndResetsAbortForEverybody) {
  struct Case {
    TaskFunction function;
    std::uint16_t attention_of_others;
    bool attends_itself;
  };
  for (const Case& each :
       {Case{TaskFunction::kClearTaskSet, 0x2f00, false}, Case{TaskFunction::kLogicalUnitReset, 0x2903, true},
        Case{TaskFunction::kTargetWarmReset, 0x2903, true}}) {
    RawInitiator& host = session({}, 1);
    RawInitiator& other = session({}, 2);
    device->hold();
    std::uint32_t mine = host.command(read16(0, 1), {.read = 512});
    std::uint32_t theirs = other.command(read16(0, 1), {.read = 512});
    std::uint32_t waits = other.command(write16(0, 8), {.write = pattern(4096, 1), .answer_r2t = false});
    other.settle();
    std::uint32_t tag = host.task_function(each.function);
    EXPECT_EQ(response(host, tag), kPending);
    device->release();
    EXPECT_EQ(response(host, tag), kComplete);
    EXPECT_FALSE(host.outcome(mine)) << "silent for the one that asked";
    EXPECT_EQ(other.outcome(theirs)->status, 0x40) << "TASK ABORTED: TAS is 1";
    EXPECT_EQ(other.outcome(waits)->status, 0x40);
    auto told = other.run({});
    EXPECT_EQ(told->sense_code(), each.attention_of_others);
    EXPECT_EQ(host.run({})->sense_code(), each.attends_itself ? 0x2903 : 0);
    EXPECT_EQ(other.run({})->status, 0);
  }
}

TEST_F(TaskManagementTest, ResetGivesUpModesAndOldReservations) {
  RawInitiator& host = session({}, 1);
  RawInitiator& other = session({}, 2);
  EXPECT_EQ(host.run(testing::cdb({0x16}))->status, 0);
  EXPECT_EQ(other.run({})->status, 0x18) << "reserved";
  EXPECT_EQ(response(other, other.task_function(TaskFunction::kLogicalUnitReset)), kComplete);
  other.clear_attentions();
  EXPECT_EQ(other.run({})->status, 0);
}

TEST_F(TaskManagementTest, ColdResetAlsoEndsTheSessions) {
  RawInitiator& host = session({}, 1);
  RawInitiator& other = session({}, 2);
  EXPECT_EQ(response(host, host.task_function(TaskFunction::kTargetColdReset)), kComplete);
  host.settle();
  EXPECT_TRUE(host.closed);
  EXPECT_TRUE(other.closed);
  EXPECT_EQ(session().run({})->status, 0);
}

TEST_F(TaskManagementTest, WhatIsNotSupportedSaysSo) {
  RawInitiator& host = session();
  EXPECT_EQ(response(host, host.task_function(TaskFunction::kTaskReassign, 1)), 4);
  EXPECT_EQ(response(host, host.task_function(TaskFunction::kClearAca)), 5);
  EXPECT_EQ(response(host, host.task_function(static_cast<TaskFunction>(77))), 255);
  EXPECT_EQ(response(host, host.task_function(TaskFunction::kAbortTaskSet, kReservedTag, 0, 5ull << 48)), 2);
  EXPECT_EQ(response(host, host.task_function(TaskFunction::kLogicalUnitReset, kReservedTag, 0, ~0ull)), 2);
  EXPECT_FALSE(host.closed);
}

TEST_F(TaskManagementTest, AFunctionOfASessionThatEndsMeanwhile) {
  RawInitiator& host = session();
  device->hold();
  host.command(read16(0, 1), {.read = 512});
  host.task_function(TaskFunction::kLogicalUnitReset);
  host.settle();
  host.disconnect();
  env.settle();
  device->release();
  env.settle();
  EXPECT_EQ(session().run({})->status, 0);
}

}  // namespace
}  // namespace holdfast::iscsi
