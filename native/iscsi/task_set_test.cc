// Task attributes (SAM-5 section 8.6): what an ORDERED command waits for, what waits for it, and what lets go of it.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <random>

#include "iscsi/session.h"
#include "iscsi/testing/fixture.h"
#include "iscsi/testing/unit_fixture.h"

namespace holdfast::iscsi {
namespace {

using testing::CommandOptions;
using testing::pattern;
using testing::RawInitiator;
using testing::read16;
using testing::write16;

constexpr std::uint8_t kOrdered = 2, kHeadOfQueue = 3;

class TaskSetTest : public testing::TargetTest {
 protected:
  // A write of one block at `lba`, whose data comes when send_data() is called.
  static std::uint32_t open_write(RawInitiator& host, std::uint64_t lba, char fill, std::uint8_t attribute = 1) {
    std::uint32_t tag =
        host.command(write16(lba, 1), {.write = std::string(512, fill), .attribute = attribute, .answer_r2t = false});
    host.settle();
    return tag;
  }
  static void send_data(RawInitiator& host, std::uint32_t tag, char fill) {
    auto r2t =
        std::find_if(host.r2ts.begin(), host.r2ts.end(), [&](auto& each) { return each.InitiatorTaskTag == tag; });
    ASSERT_NE(r2t, host.r2ts.end());
    host.send_data(tag, r2t->TargetTransferTag, std::string(512, fill), 0, 512, 512);
    host.settle();
  }
  static std::uint32_t read_block(RawInitiator& host, std::uint8_t attribute = 1) {
    std::uint32_t tag = host.command(read16(0, 1), {.read = 512, .attribute = attribute});
    host.settle();
    return tag;
  }
};

TEST_F(TaskSetTest, AnOrderedCommandWaitsAndIsWaitedFor) {
  RawInitiator& host = session();
  device->hold();
  std::uint32_t before = read_block(host), ordered = read_block(host, kOrdered), after = read_block(host);
  std::uint32_t head = read_block(host, kHeadOfQueue);
  EXPECT_EQ(device->waiting(), 2u) << "the first one and the head of the queue";
  device->release();
  for (std::uint32_t tag : {before, ordered, after, head}) EXPECT_EQ(host.outcome(tag)->status, 0);
}

TEST_F(TaskSetTest, AnOrderedCommandWaitsForOlderOnesThatHaveNoDataYet) {
  RawInitiator& host = session({}, 1);
  RawInitiator& other = session({}, 2);
  std::uint32_t older = open_write(other, 0, 'a');
  std::uint32_t ordered = read_block(host, kOrdered), younger = read_block(host);
  EXPECT_FALSE(host.outcome(ordered)) << "the task set has commands of all initiators";
  EXPECT_FALSE(host.outcome(younger));
  std::uint32_t head = read_block(host, kHeadOfQueue);
  EXPECT_EQ(host.outcome(head)->data, std::string(512, '\0'));
  send_data(other, older, 'a');
  EXPECT_EQ(other.outcome(older)->status, 0);
  EXPECT_EQ(host.outcome(ordered)->data, std::string(512, 'a'));
  EXPECT_EQ(host.outcome(younger)->data, std::string(512, 'a'));
}

TEST_F(TaskSetTest, AnOrderedCommandWithoutItsDataIsWaitedFor) {
  RawInitiator& host = session();
  std::uint32_t first = open_write(host, 0, 'a', kOrdered);
  std::uint32_t reads_first = read_block(host);
  std::uint32_t second = open_write(host, 0, 'b', kOrdered);
  std::uint32_t reads_second = read_block(host);
  send_data(host, second, 'b');
  for (std::uint32_t tag : {first, reads_first, second, reads_second}) EXPECT_FALSE(host.outcome(tag));
  send_data(host, first, 'a');
  for (std::uint32_t tag : {first, second}) EXPECT_EQ(host.outcome(tag)->status, 0);
  EXPECT_EQ(host.outcome(reads_first)->data, std::string(512, 'a'));
  EXPECT_EQ(host.outcome(reads_second)->data, std::string(512, 'b'));
}

// ---- what lets go ----

TEST_F(TaskSetTest, AbortingAnOrderedCommandLetsTheOthersGo) {
  RawInitiator& host = session();
  device->hold();
  std::uint32_t before = read_block(host), ordered = read_block(host, kOrdered), after = read_block(host);
  host.task_function(TaskFunction::kAbortTask, ordered);
  auto answer = host.next();
  ASSERT_TRUE(answer && answer->code() == Opcode::kTaskManagementResponse) << "it has touched nothing";
  EXPECT_EQ(device->waiting(), 2u);
  device->release();
  EXPECT_EQ(host.outcome(before)->status, 0);
  EXPECT_EQ(host.outcome(after)->status, 0);
  EXPECT_FALSE(host.outcome(ordered));
}

TEST_F(TaskSetTest, TheEndOfWhatIsWaitedForLetsTheOthersGo) {
  for (int way = 0; way < 4; ++way) {
    start(512);
    RawInitiator& host = session({}, 1);
    RawInitiator& other = session({}, 2);
    std::uint32_t older = open_write(other, 0, 'a', way % 2 ? kOrdered : 1);
    std::uint32_t ordered = read_block(host, kOrdered), younger = read_block(host);
    EXPECT_FALSE(host.outcome(ordered));
    if (way < 2) {
      other.task_function(TaskFunction::kAbortTask, older);
    } else {
      other.settle();
      other.disconnect();
    }
    for (std::uint32_t tag : {ordered, younger}) {
      auto ended = host.outcome(tag);
      ASSERT_TRUE(ended) << way;
      EXPECT_EQ(ended->status, 0);
    }
  }
}

TEST_F(TaskSetTest, AResetEndsAllThatWaitsAndRunsNoneOfIt) {
  RawInitiator& host = session({}, 1);
  RawInitiator& other = session({}, 2);
  open_write(other, 0, 'a', kOrdered);
  CommandOptions write{.write = pattern(512, 1), .immediate = 512};
  std::uint32_t younger = host.command(write16(1, 1), write);
  write.attribute = kOrdered;
  std::uint32_t youngest = host.command(write16(2, 1), write);
  EXPECT_FALSE(host.outcome(younger));
  other.task_function(TaskFunction::kLogicalUnitReset);
  auto answer = other.next();
  ASSERT_TRUE(answer && answer->code() == Opcode::kTaskManagementResponse);
  EXPECT_EQ(host.outcome(younger)->status, 0x40) << "TASK ABORTED";
  EXPECT_EQ(host.outcome(youngest)->status, 0x40);
  EXPECT_EQ(on_device(512, 1024), std::string(1024, '\0'));
  host.clear_attentions();
  EXPECT_EQ(host.run(read16(0, 1), {.read = 512})->status, 0);
}

// What is held back holds memory; the command that it waits for may wait for memory itself.
TEST_F(TaskSetTest, MemoryOfWhatIsHeldBackHoldsNobodyUp) {
  RawInitiator& host =
      session({{"InitialR2T", "No"}, {"MaxBurstLength", "1048576"}, {"MaxRecvDataSegmentLength", "1048576"}});
  env.chunk_bytes = 64u << 20;
  constexpr std::uint32_t kBytes = 8u << 20;
  const std::string data(kBytes, 'x');
  device->hold();
  std::vector<std::uint32_t> tags;
  for (std::size_t i = 0; i < kSessionBytesMax / kBytes; ++i) {
    tags.push_back(host.command(read16(0, kBytes / 512), {.read = kBytes}));
  }
  tags.push_back(host.command(write16(0, kBytes / 512), {.write = data}));  // waits for memory
  tags.push_back(host.command({}, {.attribute = kOrdered}));
  for (std::size_t i = 0; i < kSessionBytesMax / kBytes; ++i) {
    tags.push_back(host.command(write16(0, kBytes / 512), {.write = data, .unsolicited = 65'536}));
  }
  host.settle();
  device->release();
  for (std::uint32_t tag : tags) {
    auto ended = host.outcome(tag);
    ASSERT_TRUE(ended) << "command " << tag - tags.front();
    EXPECT_EQ(ended->status, 0);
  }
}

// ---- any order of arrival, completion and abort ----

class RandomTaskSet : public testing::ScsiTest {
 protected:
  using State = scsi::Command::State;
  using Attribute = scsi::TaskAttribute;

  void arrive(Attribute attribute) {
    scsi::Command& command = commands_.emplace_back();
    testing::Cdb cdb = read16(0, 1);
    for (std::size_t i = 0; i < cdb.size(); ++i) command.cdb[i] = static_cast<std::byte>(cdb[i]);
    command.nexus = host;
    command.owner = this;
    command.attribute = attribute;
    ASSERT_TRUE(unit->admit(command, 0));
    set_.push_back(&command);
  }
  void command_done(scsi::Command& command) override { std::erase(set_, &command); }
  scsi::Command* any(State state, std::mt19937& random) {
    std::vector<scsi::Command*> found;
    for (scsi::Command* each : set_) {
      if (each->state == state) found.push_back(each);
    }
    return found.empty() ? nullptr : found[random() % found.size()];
  }
  // Of the complete ones exactly those run that nothing before them holds back.
  void check() {
    bool heads = std::any_of(set_.begin(), set_.end(), [](auto* each) { return is_head(*each); });
    bool older = false, older_ordered = false;
    for (scsi::Command* each : set_) {
      bool head = is_head(*each), ordered = each->attribute == Attribute::kOrdered;
      bool held_back = !head && (ordered ? older || heads : older_ordered);
      if (each->state == State::kQueued) {
        EXPECT_TRUE(held_back);
      }
      if (each->state == State::kRunning && !head) {  // and goes on to when a head of the queue comes
        EXPECT_FALSE(ordered ? older : older_ordered);
      }
      older = older || !head;
      older_ordered = older_ordered || ordered;
    }
  }
  static bool is_head(const scsi::Command& command) { return command.attribute == Attribute::kHeadOfQueue; }

  std::deque<scsi::Command> commands_;
  std::vector<scsi::Command*> set_;  // in order of arrival
};

TEST_F(RandomTaskSet, NothingOvertakesAndNothingStays) {
  for (unsigned seed = 1; seed <= 50; ++seed) {
    std::mt19937 random(seed);
    device->hold();
    for (int step = 0; step < 400; ++step) {
      switch (random() % 8) {
        case 0:
        case 1:
        case 2:
          arrive(random() % 4 ? Attribute::kSimple : random() % 3 ? Attribute::kOrdered : Attribute::kHeadOfQueue);
          break;
        case 3:
        case 4:
        case 5:
          if (scsi::Command* command = any(State::kAdmitted, random)) unit->execute(*command);
          break;
        case 6:
          device->release();
          env.settle();
          device->hold();
          break;
        default:
          if (scsi::Command* command = any(static_cast<State>(1 + random() % 3), random)) {
            unit->abort_task(*command, nullptr);
          }
      }
      check();
    }
    device->release();
    while (scsi::Command* command = any(State::kAdmitted, random)) unit->execute(*command);
    env.settle();
    EXPECT_TRUE(set_.empty()) << "seed " << seed;
    EXPECT_TRUE(unit->idle());
    ASSERT_FALSE(HasFailure()) << "seed " << seed;
    commands_.clear();
  }
}

}  // namespace
}  // namespace holdfast::iscsi
