#include "sim_cluster/history.h"

#include <gtest/gtest.h>

#include "sim_cluster/oracle.h"

namespace holdfast::sim {
namespace {

// [begun, ended]; ended 0: unknown outcome.
struct Step {
  bool write;
  Value value;
  int begun, ended;
};

bool explained(std::vector<Step> steps) {
  History history;
  for (const Step& step : steps) {
    if (step.write) {
      std::size_t handle = history.write_begins(0, step.value, Nanos(step.begun));
      if (step.ended != 0) history.write_acknowledged(0, handle, Nanos(step.ended));
    } else {
      history.read_returned(0, step.value, Nanos(step.begun), Nanos(step.ended));
    }
  }
  return !history.check().has_value();
}

TEST(History, KnowsWhatNeverHeldAnything) {
  History history;
  history.write_acknowledged(1, history.write_begins(1, 0, Nanos(1)), Nanos(2));
  history.write_begins(2, 7, Nanos(1));
  history.write_acknowledged(3, history.write_begins(3, 7, Nanos(1)), Nanos(2), true);
  history.write_acknowledged(3, history.write_begins(3, 0, Nanos(3)), Nanos(4), true);
  history.begins_with(4, 7);
  history.blackout(Nanos(5));
  history.write_acknowledged(4, history.write_begins(4, 0, Nanos(6)), Nanos(7), true);
  history.blackout(Nanos(8));
  for (std::uint64_t zeros : {0, 1, 5}) EXPECT_TRUE(history.only_zeros(zeros)) << zeros;
  for (std::uint64_t written : {2, 3, 4}) EXPECT_FALSE(history.only_zeros(written)) << written;
}

TEST(History, AcceptsWhatARegisterDoes) {
  EXPECT_TRUE(explained({{false, 0, 1, 2}, {true, 7, 3, 4}, {false, 7, 5, 6}}));
  EXPECT_TRUE(explained({{true, 7, 1, 10}, {false, 0, 2, 3}, {false, 7, 4, 5}}));
  EXPECT_TRUE(explained({{true, 7, 1, 0}, {false, 0, 20, 21}, {false, 7, 30, 31}}));
  EXPECT_TRUE(explained({{true, 7, 1, 0}, {false, 0, 20, 21}}));
  EXPECT_TRUE(explained({{true, 7, 1, 2}, {true, 0, 3, 4}, {false, 0, 5, 6}, {true, 8, 7, 8}, {true, 0, 9, 10}}));
}

// An engine that has lost its volume leaves many of them behind.
TEST(History, ManyWritesOfUnknownOutcomeTakeNoTime) {
  std::vector<Step> steps = {{false, 0, 1, 2}, {true, 5, 3, 4}};
  for (int i = 0; i < 60; ++i) steps.push_back({true, 0, 10 + i, 0});
  for (Step step : {Step{false, 5, 100, 101}, Step{true, 6, 102, 103}, Step{false, 6, 104, 105}}) steps.push_back(step);
  EXPECT_TRUE(explained(steps));
}

TEST(History, RejectsLostStaleAndInventedValues) {
  EXPECT_FALSE(explained({{true, 7, 1, 2}, {false, 0, 3, 4}}));                                     // lost
  EXPECT_FALSE(explained({{true, 7, 1, 2}, {true, 8, 3, 4}, {false, 7, 5, 6}}));                    // stale
  EXPECT_FALSE(explained({{false, 9, 1, 2}}));                                                      // invented
  EXPECT_FALSE(explained({{false, 7, 1, 2}, {true, 7, 3, 4}}));                                     // from the future
  EXPECT_FALSE(explained({{true, 7, 1, 10}, {false, 7, 2, 3}, {false, 0, 4, 5}}));                  // seen, then gone
  EXPECT_FALSE(explained({{true, 7, 1, 0}, {false, 7, 2, 3}, {true, 8, 4, 5}, {false, 7, 6, 7}}));  // came back
}

TEST(History, ABlackoutMayTakeBackOnlyWhatWasNotFlushed) {
  auto run = [](bool flush, Value seen_after) {
    History history;
    history.write_acknowledged(0, history.write_begins(0, 7, Nanos(1)), Nanos(2));
    history.write_acknowledged(0, history.write_begins(0, 8, Nanos(3)), Nanos(4));
    if (flush) history.flush_acknowledged(Nanos(5));
    history.blackout(Nanos(9));
    history.read_returned(0, seen_after, Nanos(10), Nanos(11));
    return !history.check().has_value();
  };
  EXPECT_TRUE(run(true, 8));
  EXPECT_FALSE(run(true, 7));
  EXPECT_FALSE(run(true, 0));
  EXPECT_TRUE(run(false, 8));
  EXPECT_TRUE(run(false, 7));
  EXPECT_TRUE(run(false, 0));
  EXPECT_FALSE(run(false, 9));
}

TEST(History, AWriteOfADeadEngineHappensBeforeTheNextOneServesOrNever) {
  auto run = [](int taken_over, Value first, Value second) {
    History history;
    history.write_begins(0, 7, Nanos(1));
    history.taken_over(Nanos(taken_over));
    history.read_returned(0, first, Nanos(20), Nanos(21));
    history.read_returned(0, second, Nanos(30), Nanos(31));
    return !history.check().has_value();
  };
  EXPECT_TRUE(run(10, 7, 7));
  EXPECT_TRUE(run(10, 0, 0));
  EXPECT_FALSE(run(10, 0, 7));
  EXPECT_TRUE(run(25, 0, 7));
  EXPECT_FALSE(run(25, 7, 0));
}

TEST(History, AReadDoesNotHideAnEarlierWriteBehindAnEqualValue) {
  History history;
  history.write_begins(0, 7, Nanos(1));
  history.taken_over(Nanos(10));
  history.read_returned(0, 7, Nanos(2), Nanos(40));
  history.write_acknowledged(0, history.write_begins(0, 0, Nanos(3)), Nanos(40));
  history.read_returned(0, 0, Nanos(20), Nanos(40));
  EXPECT_EQ(history.check(), std::nullopt);
}

TEST(History, ACompareAndWriteNeedsItsExpectedValue) {
  auto run = [](Value expected, Value after) {
    History history;
    history.write_acknowledged(0, history.write_begins(0, 7, Nanos(1)), Nanos(2));
    history.write_acknowledged(0, history.write_begins(0, 8, Nanos(3), expected), Nanos(4));
    history.read_returned(0, after, Nanos(5), Nanos(6));
    return !history.check().has_value();
  };
  EXPECT_TRUE(run(7, 8));
  EXPECT_FALSE(run(7, 7));
  EXPECT_FALSE(run(6, 8));
}

TEST(History, AComparisonThatDiffersIsARead) {
  auto run = [](Value not_this) {
    History history;
    history.write_acknowledged(0, history.write_begins(0, 7, Nanos(1)), Nanos(2));
    std::size_t swap = history.write_begins(0, 8, Nanos(3), not_this);
    history.write_refused(0, swap);
    history.read_differed(0, not_this, Nanos(3), Nanos(4));
    history.read_returned(0, 7, Nanos(5), Nanos(6));
    return !history.check().has_value();
  };
  EXPECT_TRUE(run(6));
  EXPECT_FALSE(run(7));
}

// Seed 90002375: the copy ends with entries that an earlier loss had undone, at greater seqs than what it lacks.
TEST(Oracle, AnOlderCopyThatWasAskedForMayLackAnything) {
  auto fails = [](bool asked) {
    World world(1);
    Oracle oracle(world);
    oracle.serving({.epoch = Epoch(3), .last = Seq(20), .power_lost = {}});
    oracle.sending(Epoch(3), Seq(20));
    std::size_t handle = oracle.history().write_begins(0, 7, Nanos(1));
    oracle.history().write_acknowledged(0, handle, Nanos(2), true);
    oracle.acknowledged(Epoch(3), Seq(21));
    oracle.serving({.epoch = Epoch(5), .last = Seq(31), .older_accepted = asked, .power_lost = {}});
    oracle.history().read_returned(0, 0, Nanos(3), Nanos(4));
    return oracle.history().check().has_value() || !oracle.violation().empty();
  };
  EXPECT_FALSE(fails(true));
  EXPECT_TRUE(fails(false));
}

// Seed 120008451: a write whose engine died is found in the log, read from there, and lost with the power, unflushed.
TEST(Oracle, WhatARecoveryFoundAndAReadSawMayGoWithThePowerOnly) {
  auto fails = [](bool lost_power, bool read) {
    World world(1);
    Oracle oracle(world);
    History& history = oracle.history();
    oracle.serving({.epoch = Epoch(3), .last = Seq(20), .power_lost = {}});
    world.run_for(1s);
    oracle.sending(Epoch(3), Seq(20));
    history.write_begins(0, 7, world.now());
    world.run_for(1s);
    oracle.serving({.epoch = Epoch(4), .last = Seq(21), .power_lost = {}});
    Nanos begun = world.now();
    world.run_for(1s);
    if (read) history.read_returned(0, 7, begun, world.now());
    oracle.acknowledged(Epoch(4), Seq(21));
    world.run_for(1s);
    Nanos when = lost_power ? world.now() : Nanos(0);
    world.run_for(1s);
    oracle.serving({.epoch = Epoch(5), .last = Seq(20), .power_lost = {when}});
    begun = world.now();
    world.run_for(1s);
    history.read_returned(0, 0, begun, world.now());
    return history.check().has_value() || !oracle.violation().empty();
  };
  EXPECT_FALSE(fails(true, true));
  EXPECT_TRUE(fails(false, true));
  EXPECT_TRUE(fails(false, false));
}

}  // namespace
}  // namespace holdfast::sim
