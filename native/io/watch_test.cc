#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "test/reactor_support.h"

namespace holdfast {
namespace {

struct Pipe {
  Pipe() { EXPECT_EQ(pipe2(ends, O_NONBLOCK | O_CLOEXEC), 0); }
  ~Pipe() {
    close_writer();
    ::close(ends[0]);
  }
  void write(char byte) { EXPECT_EQ(::write(ends[1], &byte, 1), 1); }
  void close_writer() {
    if (ends[1] >= 0) ::close(std::exchange(ends[1], -1));
  }
  // Reads all there is.
  std::string drain() {
    std::string all;
    char part[16];
    for (ssize_t got; (got = ::read(ends[0], part, sizeof part)) > 0;) all.append(part, static_cast<std::size_t>(got));
    return all;
  }
  int ends[2];
};

TEST(WatchTest, CallsForEveryArrivalUntilItIsDestroyed) {
  auto reactor = test::make_reactor();
  Pipe pipe;
  pipe.write('a');  // there already when the watch begins
  std::string got;
  auto watch = reactor->env().watch_readable(pipe.ends[0], [&] { got += pipe.drain(); });
  ASSERT_TRUE(watch.ok());
  ASSERT_TRUE(test::run_until(*reactor, [&] { return got == "a"; }));
  for (char next = 'b'; next <= 'f'; ++next) {
    pipe.write(next);
    ASSERT_TRUE(test::run_until(*reactor, [&] { return got.back() == next; }));
  }
  EXPECT_EQ(got, "abcdef");
  watch->reset();
  pipe.write('g');
  for (int i = 0; i < 5; ++i) reactor->turn(1ms);
  EXPECT_EQ(got, "abcdef");
}

TEST(WatchTest, TellsOfTheOtherEndGoingAndMayBeDestroyedFromInside) {
  auto reactor = test::make_reactor();
  Pipe pipe;
  std::unique_ptr<ReadWatch> watch;
  bool ended = false;
  auto begun = reactor->env().watch_readable(pipe.ends[0], [&] {
    char byte;
    if (::read(pipe.ends[0], &byte, 1) != 0) return;
    ended = true;
    watch.reset();
  });
  ASSERT_TRUE(begun.ok());
  watch = std::move(begun).value();
  reactor->turn(1ms);
  pipe.close_writer();
  ASSERT_TRUE(test::run_until(*reactor, [&] { return ended; }));
  for (int i = 0; i < 5; ++i) reactor->turn(1ms);
}

TEST(WatchTest, IsDestroyedWhileThePollWasNeverSubmitted) {
  auto reactor = test::make_reactor();
  Pipe pipe;
  auto watch = reactor->env().watch_readable(pipe.ends[0], [] { FAIL(); });
  ASSERT_TRUE(watch.ok());
  watch->reset();
  reactor->turn(1ms);
}

}  // namespace
}  // namespace holdfast
