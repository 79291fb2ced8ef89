#include "io/timer_queue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>

namespace holdfast::io {
namespace {

TEST(TimerQueue, RunsByDeadlineThenByOrderOfArming) {
  TimerQueue timers;
  std::string order;
  timers.add(30ns, [&] { order += 'd'; });
  timers.add(10ns, [&] { order += 'a'; });
  timers.add(20ns, [&] { order += 'b'; });
  timers.add(20ns, [&] { order += 'c'; });
  EXPECT_EQ(timers.next_deadline(), 10ns);
  timers.run_due(9ns);
  EXPECT_EQ(order, "");
  timers.run_due(20ns);
  EXPECT_EQ(order, "abc");
  timers.run_due(1s);
  EXPECT_EQ(order, "abcd");
  EXPECT_EQ(timers.next_deadline(), std::nullopt);
}

TEST(TimerQueue, WhatACallbackArmsWaitsForTheNextRun) {
  TimerQueue timers;
  int runs = 0;
  timers.add(1ns, [&] {
    ++runs;
    timers.add(1ns, [&] { ++runs; });
  });
  timers.run_due(5ns);
  EXPECT_EQ(runs, 1);
  timers.run_due(5ns);
  EXPECT_EQ(runs, 2);
}

TEST(TimerQueue, ACallbackCancelsItsNeighbourAndItself) {
  TimerQueue timers;
  std::uint64_t self = 0;
  std::uint64_t neighbour = 0;
  int runs = 0;
  self = timers.add(1ns, [&] {
    ++runs;
    timers.cancel(self);
    timers.cancel(neighbour);
  });
  neighbour = timers.add(1ns, [&] { runs += 100; });
  timers.run_due(1ns);
  EXPECT_EQ(runs, 1);
  EXPECT_EQ(timers.size(), 0u);
}

TEST(TimerQueue, IdsAreNeverReused) {
  TimerQueue timers;
  std::uint64_t first = timers.add(1ns, [] {});
  timers.cancel(first);
  bool ran = false;
  std::uint64_t second = timers.add(1ns, [&] { ran = true; });
  EXPECT_NE(first, second);
  EXPECT_GT(first, 0u);
  timers.cancel(first);  // stale: must not touch the second, which took its slot
  timers.cancel(0);
  timers.cancel(~std::uint64_t{0});
  timers.run_due(1ns);
  EXPECT_TRUE(ran);
}

// Its destructor calls back into the queue, as a destroyed owner of timers does.
struct CancelsAnother {
  TimerQueue* timers;
  std::uint64_t other;
  ~CancelsAnother() { timers->cancel(other); }
};

TEST(TimerQueue, DroppedCallbacksMayCancelOthers) {
  TimerQueue timers;
  std::uint64_t other = timers.add(2ns, [] {});
  auto owner = std::make_unique<CancelsAnother>(CancelsAnother{&timers, other});
  std::uint64_t id = timers.add(1ns, [owner = std::move(owner)] { (void)owner; });
  timers.cancel(id);
  EXPECT_EQ(timers.size(), 0u);

  other = timers.add(1ns, [] {});
  owner = std::make_unique<CancelsAnother>(CancelsAnother{&timers, other});
  timers.add(2ns, [owner = std::move(owner)] { (void)owner; });
  timers.clear();
  EXPECT_EQ(timers.size(), 0u);
}

TEST(TimerQueue, EqualsASortedMapUnderRandomOperations) {
  std::mt19937_64 random(7);
  TimerQueue timers;
  using Key = std::pair<std::int64_t, int>;  // deadline, order
  std::map<Key, std::uint64_t> model;
  std::vector<int> ran;
  int next = 0;
  std::int64_t now = 0;
  for (int step = 0; step < 20'000; ++step) {
    std::uint64_t kind = random() % 10;
    if (kind < 6) {
      std::int64_t deadline = now + static_cast<std::int64_t>(random() % 500);
      int label = next++;
      model[{deadline, label}] = timers.add(Nanos(deadline), [&ran, label] { ran.push_back(label); });
    } else if (kind < 8 && !model.empty()) {
      auto victim =
          std::next(model.begin(), static_cast<std::ptrdiff_t>(random() % std::min<std::size_t>(model.size(), 50)));
      timers.cancel(victim->second);
      model.erase(victim);
    } else {
      now += static_cast<std::int64_t>(random() % 20);
      ran.clear();
      timers.run_due(Nanos(now));
      std::vector<int> expected;
      while (!model.empty() && model.begin()->first.first <= now) {
        expected.push_back(model.begin()->first.second);
        model.erase(model.begin());
      }
      ASSERT_EQ(ran, expected) << "step " << step;
    }
    ASSERT_EQ(timers.size(), model.size());
    if (!model.empty()) {
      ASSERT_EQ(timers.next_deadline(), Nanos(model.begin()->first.first));
    }
  }
}

}  // namespace
}  // namespace holdfast::io
