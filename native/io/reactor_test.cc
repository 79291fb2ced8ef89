// The loop itself: posting, timers, helper threads, stopping, sleeping, the end.
#include "io/reactor.h"

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <set>
#include <thread>

#include "io/uring_env.h"
#include "test/reactor_support.h"

namespace holdfast {
namespace {

using test::make_reactor;
using test::run_until;

TEST(Reactor, RunsPostedWorkInOrderAndLater) {
  auto reactor = make_reactor();
  Env& env = reactor->env();
  std::string order;
  env.post([&] {
    order += 'a';
    env.post([&] { order += 'c'; });
    order += 'b';
  });
  EXPECT_EQ(order, "");
  ASSERT_TRUE(run_until(*reactor, [&] { return order.size() == 3; }));
  EXPECT_EQ(order, "abc");
}

TEST(Reactor, RunsOnAnotherThreadAndStops) {
  auto reactor = make_reactor();
  std::thread thread([&] { reactor->run(); });
  std::vector<int> ran;  // only the reactor's thread writes it, only after the join it is read
  for (int i = 0; i < 1'000; ++i) reactor->post_from_any_thread([&ran, i] { ran.push_back(i); });
  reactor->stop();
  thread.join();
  ASSERT_EQ(ran.size(), 1'000u);
  EXPECT_TRUE(std::is_sorted(ran.begin(), ran.end()));
  reactor->post_from_any_thread([&ran] { ran.clear(); });
  reactor->stop();
  EXPECT_EQ(ran.size(), 1'000u);
}

TEST(Reactor, StopsFromACallback) {
  auto reactor = make_reactor();
  reactor->env().call_at(reactor->env().now() + 1ms, [&] { reactor->stop(); });
  reactor->run();
}

// Two threads throw a ball through two reactors; each throw finds the other one asleep, or about to sleep.
class ReactorWakeUps : public testing::TestWithParam<Nanos> {};
INSTANTIATE_TEST_SUITE_P(Spinning, ReactorWakeUps, testing::Values(Nanos(0us), Nanos(2us), Nanos(50us)));

TEST_P(ReactorWakeUps, AreNotLost) {
  auto left = make_reactor({.spin_max = GetParam()});
  auto right = make_reactor({.spin_max = GetParam()});
  constexpr int kThrows = 20'000;
  struct Game {
    Reactor* left;
    Reactor* right;
    std::atomic<int> throws{0};
    void throw_to(Reactor* to) {
      to->post_from_any_thread([this, to] {
        if (throws.fetch_add(1) + 1 == kThrows) {
          left->stop();
          right->stop();
        } else {
          throw_to(to == left ? right : left);
        }
      });
    }
  } game{left.get(), right.get()};
  std::thread left_thread([&] { left->run(); });
  std::thread right_thread([&] { right->run(); });
  game.throw_to(left.get());
  left_thread.join();
  right_thread.join();
  EXPECT_EQ(game.throws.load(), kThrows);
}

TEST(Reactor, TakesWorkFromManyThreads) {
  auto reactor = make_reactor();
  constexpr int kThreads = 4;
  constexpr int kEach = 5'000;
  std::vector<std::vector<int>> seen(kThreads);  // touched by the reactor only
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (int i = 0; i < kEach; ++i) {
        reactor->post_from_any_thread([&seen, thread, i] { seen[static_cast<std::size_t>(thread)].push_back(i); });
      }
    });
  }
  EXPECT_TRUE(run_until(*reactor, [&] {
    for (const auto& numbers : seen) {
      if (numbers.size() != kEach) return false;
    }
    return true;
  }));
  for (std::thread& thread : threads) thread.join();
  for (const auto& numbers : seen) EXPECT_TRUE(std::is_sorted(numbers.begin(), numbers.end()));
}

TEST(Reactor, TimersFireInOrderNeverEarly) {
  auto reactor = make_reactor();
  Env& env = reactor->env();
  std::vector<int> order;
  Nanos start = env.now();
  for (int delay : {5, 1, 3, 2, 4}) {
    Nanos deadline = start + delay * 1ms;
    env.call_at(deadline, [&order, &env, deadline, delay] {
      EXPECT_GE(env.now(), deadline);
      order.push_back(delay);
    });
  }
  std::uint64_t cancelled = env.call_at(start + 2ms, [&] { order.push_back(99); });
  env.cancel_call(cancelled);
  ASSERT_TRUE(run_until(*reactor, [&] { return order.size() == 5; }));
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3, 4, 5}));
}

TEST(Reactor, ATimerObjectIsRearmedFromItsOwnCallbackAndCancelledByDestruction) {
  auto reactor = make_reactor();
  Env& env = reactor->env();
  struct Ticking {
    Timer timer;
    int ticks = 0;
    explicit Ticking(Env& e) : timer(e) {}
    void tick() {
      if (++ticks < 3) timer.arm_after(100us, [this] { tick(); });
    }
  } ticking(env);
  ticking.tick();
  bool ran = false;
  {
    Timer dropped(env);
    dropped.arm_after(1us, [&] { ran = true; });
    EXPECT_TRUE(dropped.armed());
  }
  ASSERT_TRUE(run_until(*reactor, [&] { return ticking.ticks == 3; }));
  EXPECT_FALSE(ticking.timer.armed());
  EXPECT_FALSE(ran);
}

TEST(Reactor, RunsBlockingWorkElsewhereAndTheRestHere) {
  auto reactor = make_reactor();
  Env& env = reactor->env();
  auto home = std::this_thread::get_id();
  std::atomic<int> worked{0};
  int done = 0;
  for (int i = 0; i < 100; ++i) {
    env.run_blocking(
        [&worked, home] {
          EXPECT_NE(std::this_thread::get_id(), home);
          worked.fetch_add(1);
        },
        [&done, home] {
          EXPECT_EQ(std::this_thread::get_id(), home);
          ++done;
        });
  }
  ASSERT_TRUE(run_until(*reactor, [&] { return done == 100; }));
  EXPECT_EQ(worked.load(), 100);
}

TEST(Reactor, BlockingWorkOfSeveralCallsOverlaps) {
  auto reactor = make_reactor({.blocking_threads_max = 2});
  // Each of the two waits for the other: one thread alone would wait for ever.
  std::atomic<int> arrived{0};
  int done = 0;
  for (int i = 0; i < 2; ++i) {
    reactor->env().run_blocking(
        [&arrived] {
          arrived.fetch_add(1);
          while (arrived.load() < 2) std::this_thread::yield();
        },
        [&done] { ++done; });
  }
  EXPECT_TRUE(run_until(*reactor, [&] { return done == 2; }));
}

TEST(Reactor, DropsWhatIsPendingAtItsEnd) {
  auto alive = std::make_shared<int>(1);
  bool called = false;
  {
    auto reactor = make_reactor({.blocking_threads_max = 1});
    Env& env = reactor->env();
    env.post([alive, &called] { called = true; });
    env.call_at(env.now() + 1h, [alive, &called] { called = true; });
    for (int i = 0; i < 10; ++i) env.run_blocking([alive] {}, [alive, &called] { called = true; });
    env.connect(*Address::parse("127.0.0.1:1"), 1s, [alive, &called](auto) { called = true; });
    env.open_file("/dev/null", {}, [alive, &called](auto) { called = true; });
    reactor->post_from_any_thread([alive, &called] { called = true; });
  }
  EXPECT_FALSE(called);
  EXPECT_EQ(alive.use_count(), 1);
}

TEST(Reactor, AStoppedEnvAcceptsCallsAndDropsThem) {
  auto reactor = make_reactor();
  Env& env = reactor->env();
  reactor->stop();
  reactor->run();
  auto alive = std::make_shared<int>(1);
  env.post([alive] { FAIL(); });
  env.cancel_call(env.call_at(env.now(), [alive] { FAIL(); }));
  env.run_blocking([alive] { FAIL(); }, [alive] { FAIL(); });
  env.connect(*Address::parse("127.0.0.1:1"), 1s, [alive](auto) { FAIL(); });
  env.open_file("/dev/null", {}, [alive](auto) { FAIL(); });
  EXPECT_FALSE(env.listen(*Address::parse("127.0.0.1:0"), [alive](auto) { FAIL(); }).ok());
  EXPECT_EQ(alive.use_count(), 1);
}

TEST(Reactor, IsDestroyedOnAnotherThreadOnceRunHasReturned) {
  std::unique_ptr<Reactor> reactor = make_reactor();
  std::unique_ptr<Listener> listener;
  std::unique_ptr<Stream> stream;
  std::thread thread([&] {
    Env& env = reactor->env();
    listener = std::move(*env.listen(*Address::parse("127.0.0.1:0"), [](std::unique_ptr<Stream>) {}));
    env.connect(listener->address(), 5s, [&](Result<std::unique_ptr<Stream>> connected) {
      stream = std::move(*connected);
      reactor->stop();
    });
    reactor->run();
  });
  thread.join();
  ASSERT_NE(stream, nullptr);
  stream.reset();
  listener.reset();
  reactor.reset();
}

TEST(Reactor, AnIdleReactorSleepsWithoutWakingUp) {
  auto idle = make_reactor();
  std::thread runner([&] { idle->run(); });
  // Traffic first, so that spinning is at its best.
  std::atomic<int> posted{0};
  for (int i = 0; i < 1'000; ++i) {
    idle->post_from_any_thread([&] { posted.fetch_add(1); });
    while (posted.load() <= i) std::this_thread::yield();
  }
  // On a busy machine it takes a while until its thread has done what it still does after the last post.
  bool quiet = false;
  for (int look = 0; look < 300 && !quiet; ++look) {
    ReactorStats before = idle->stats();
    std::this_thread::sleep_for(200ms);
    ReactorStats after = idle->stats();
    quiet = after.turns == before.turns && after.system_calls == before.system_calls;
  }
  EXPECT_TRUE(quiet);
  idle->stop();
  runner.join();
}

// What a container's seccomp profile does: io_uring_setup fails with `error_number` from now on.
bool forbid_io_uring(unsigned error_number) {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error_number),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog program{.len = std::size(filter), .filter = filter};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

TEST(Reactor, GivesMemoryBackThatALoadHasLeftBehind) {
  ReactorOptions options;
  options.trim_interval = 1ms;
  auto reactor = make_reactor(options);
  BufferPool& pool = reactor->env().buffers();
  reactor->env().post([&pool] {
    std::vector<Slice> load;
    for (int i = 0; i < 40; ++i) load.push_back(pool.allocate(1u << 20));
  });
  ASSERT_TRUE(run_until(*reactor, [&] { return pool.bytes_retained() == 40u << 20; }));
  ASSERT_TRUE(run_until(*reactor, [&] { return pool.bytes_retained() <= 8u << 20; }));
}

TEST(Reactor, SaysWhatToDoWithoutIoUring) {
  for (auto [error_number, hint] : {std::pair(EPERM, "seccomp"), {ENOSYS, "6.1"}, {EINVAL, "too old"}}) {
    pid_t child = fork();
    if (child == 0) {
      if (!forbid_io_uring(static_cast<unsigned>(error_number))) _exit(2);
      Result<std::unique_ptr<Reactor>> reactor = Reactor::create();
      bool clear = !reactor.ok() && reactor.error().code() == ErrorCode::kUnsupportedSystem &&
                   reactor.error().message().find(hint) != std::string::npos;
      _exit(clear ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0) << error_number;
  }
}

TEST(Reactor, RandomNumbersDiffer) {
  auto reactor = make_reactor();
  std::set<std::uint64_t> numbers;
  for (int i = 0; i < 1'000; ++i) numbers.insert(reactor->env().random());
  EXPECT_EQ(numbers.size(), 1'000u);
}

TEST(Reactor, WallClockIsThisCentury) {
  auto reactor = make_reactor();
  EXPECT_GT(reactor->env().wall_clock(), std::chrono::hours(24 * 365 * 50));
}

}  // namespace
}  // namespace holdfast
