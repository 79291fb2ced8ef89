// Connecting and listening that fails, or has to clean up first.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <vector>

#include "io/socket_address.h"
#include "io/uring_env.h"
#include "test/reactor_support.h"

namespace holdfast {
namespace {

using test::make_reactor;
using test::run_until;

TEST(Connect, GivesUpAtItsDeadline) {
  // A listener with a full backlog that nobody accepts from: TCP leaves further connections without an answer.
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  io::SocketAddress address = *io::to_socket_address(*Address::parse("127.0.0.1:0"));
  ASSERT_EQ(bind(listener, address.get(), address.length), 0);
  ASSERT_EQ(::listen(listener, 0), 0);
  auto reactor = make_reactor();
  std::vector<std::unique_ptr<Stream>> connected;
  int answers = 0;
  int timed_out = 0;
  for (int i = 0; i < 4; ++i) {
    reactor->env().connect(io::local_address_of(listener), 50ms, [&](Result<std::unique_ptr<Stream>> stream) {
      ++answers;
      if (stream.ok()) return connected.push_back(std::move(*stream));
      EXPECT_EQ(stream.error().code(), ErrorCode::kTimedOut);
      ++timed_out;
    });
  }
  ASSERT_TRUE(run_until(*reactor, [&] { return answers == 4; }));
  EXPECT_GT(timed_out, 0);
  connected.clear();
  ::close(listener);
}

TEST(Connect, ABadAddressIsAnErrorLikeAnyOther) {
  auto reactor = make_reactor();
  bool failed = false;
  reactor->env().connect(Address{"no such host", 1, ""}, 1s, [&](Result<std::unique_ptr<Stream>> stream) {
    EXPECT_EQ(stream.error().code(), ErrorCode::kInvalidArgument);
    failed = true;
  });
  EXPECT_FALSE(failed);
  ASSERT_TRUE(run_until(*reactor, [&] { return failed; }));
}

TEST(Listen, ReplacesTheSocketOfADeadProcessButNoOtherFile) {
  test::TempDir folder;
  auto reactor = make_reactor();
  Address address = *Address::parse("unix:" + folder.file("s"));
  io::SocketAddress raw = *io::to_socket_address(address);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ASSERT_EQ(bind(fd, raw.get(), raw.length), 0);
  ::close(fd);  // as a killed process leaves it
  auto listener = reactor->env().listen(address, [](auto) {});
  ASSERT_TRUE(listener.ok()) << listener.error().to_string();
  listener->reset();
  EXPECT_FALSE(std::filesystem::exists(folder.file("s")));

  std::FILE* file = std::fopen(folder.file("s").c_str(), "w");
  std::fclose(file);
  auto refused = reactor->env().listen(address, [](auto) {});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code(), ErrorCode::kInUse);
  EXPECT_TRUE(std::filesystem::exists(folder.file("s")));
}

TEST(Listen, AForeignAddressIsRefused) {
  auto reactor = make_reactor();
  auto listener = reactor->env().listen(*Address::parse("192.0.2.1:1"), [](auto) {});
  ASSERT_FALSE(listener.ok());
  EXPECT_EQ(listener.error().code(), ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace holdfast
