// Streams through shared memory where the other end is another thread, or a process that does not keep to the rules.
// What they have in common with sockets is in stream_test.cc.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "io/shared_rings.h"
#include "io/socket_address.h"
#include "io/testing/stream_fixture.h"

namespace holdfast {
namespace {

using io::OwnedFd;
using io::SharedRings;

std::byte pattern(std::uint64_t position) { return static_cast<std::byte>((position * 2654435761u) >> 24); }

class MemoryStreamTest : public StreamTest {
 protected:
  // One end of a connection of which `server` is the other one.
  OwnedFd connect_plainly(Peer& server) {
    std::unique_ptr<Stream> accepted;
    auto listener = env.listen(listen_address(), [&](std::unique_ptr<Stream> stream) { accepted = std::move(stream); });
    CHECK(listener.ok());
    OwnedFd plain = plain_socket((*listener)->address(), ::connect);
    CHECK(until([&] { return accepted != nullptr; }));
    server.stream = std::move(accepted);
    server.stream->start(&server);
    return plain;
  }
  template <typename Call>
  OwnedFd plain_socket(const Address& at, Call connect_or_bind) {
    io::SocketAddress address = *io::to_socket_address(at);
    OwnedFd plain(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK(connect_or_bind(plain.get(), address.get(), address.length) == 0);
    return plain;
  }
  // What a listener that sends `offer(socket)` makes of a connection attempt.
  template <typename Offer>
  Status connect_to_one_that(Offer offer) {
    Address address = listen_address();
    OwnedFd listener = plain_socket(address, ::bind);
    CHECK(::listen(listener.get(), 1) == 0);
    std::optional<Status> outcome;
    env.connect(address, 5s, [&](Result<std::unique_ptr<Stream>> stream) { outcome = stream.status(); });
    reactor->turn(0ms);
    {
      OwnedFd accepted(accept(listener.get(), nullptr, nullptr));
      offer(accepted.get());
    }
    CHECK(until([&] { return outcome.has_value(); }));
    return *outcome;
  }
};
INSTANTIATE_TEST_SUITE_P(Memory, MemoryStreamTest, ::testing::Values("memory"));

Result<SharedRings> take_offer(int socket) {
  SharedRings::Offered offered;
  ssize_t got = recvmsg(socket, offered.message(), MSG_CMSG_CLOEXEC);
  CHECK(got > 0);
  return offered.take(static_cast<std::size_t>(got));
}

// The memory that an offer carries, as a peer that keeps to no rule would map it.
std::span<std::byte> map_offer(int socket) {
  char text;
  iovec place{&text, 1};
  alignas(cmsghdr) std::byte control[CMSG_SPACE(3 * sizeof(int))];
  msghdr message{};
  message.msg_iov = &place;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  CHECK(recvmsg(socket, &message, MSG_CMSG_CLOEXEC) == 1);
  int fds[3];
  std::memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fds);
  OwnedFd memory(fds[0]), own_bell(fds[1]), peer_bell(fds[2]);
  off_t size = lseek(memory.get(), 0, SEEK_END);
  EXPECT_NE(ftruncate(memory.get(), 0), 0) << "a peer must not be able to take the memory away";
  void* mapped = mmap(nullptr, static_cast<std::size_t>(size), PROT_READ | PROT_WRITE, MAP_SHARED, memory.get(), 0);
  CHECK(mapped != MAP_FAILED);
  return {static_cast<std::byte*>(mapped), static_cast<std::size_t>(size)};
}

// Echoes on a thread of its own, with a reactor that sleeps whenever it can.
class EchoThread {
 public:
  explicit EchoThread(const Address& address) : thread_([this, address] { run(address); }) {
    while (!ready_) std::this_thread::yield();
  }
  ~EchoThread() {
    reactor_->stop();
    thread_.join();
  }

 private:
  void run(const Address& address) {
    Env& env = reactor_->env();
    Peer peer;
    peer.keep_bytes = false;
    peer.data_hook = [&](std::span<const std::byte> bytes) {
      Slice slice = env.buffers().copy_of(bytes);
      peer.stream->send({&slice, 1});
    };
    auto listener = env.listen(address, [&](std::unique_ptr<Stream> stream) {
      peer.stream = std::move(stream);
      peer.stream->start(&peer);
    });
    CHECK(listener.ok());
    ready_ = true;
    reactor_->run();
    peer.stream.reset();
    listener->reset();
  }

  std::atomic<bool> ready_{false};
  // Outlives its thread: stop() uses it to the end.
  std::unique_ptr<Reactor> reactor_ = test::make_reactor({.spin_max = Nanos(0)});
  std::thread thread_;
};

class TwoThreadsTest : public MemoryStreamTest {
 protected:
  TwoThreadsTest() {
    echo.emplace(address);
    env.connect(address, 5s, [&](Result<std::unique_ptr<Stream>> stream) {
      CHECK(stream.ok());
      client.stream = std::move(*stream);
    });
    CHECK(until([&] { return client.stream != nullptr; }));
    client.keep_bytes = false;
    client.stream->start(&client);
  }
  ~TwoThreadsTest() override { client.stream.reset(); }

  Address address = listen_address();
  std::optional<EchoThread> echo;
  Peer client;
};
INSTANTIATE_TEST_SUITE_P(Memory, TwoThreadsTest, ::testing::Values("memory"));

// Each side sleeps between two messages, now and then just when the other one has written: a wake-up that is lost
// leaves both asleep.
TEST_P(TwoThreadsTest, NoWakeUpIsLost) {
  constexpr std::size_t kRounds = 20'000;
  std::size_t rounds = 0;
  client.data_hook = [&](auto) {
    if (++rounds < kRounds) send(client, "x");
  };
  send(client, "x");
  ASSERT_TRUE(test::run_until(*reactor, [&] { return rounds == kRounds; }));
}

TEST_P(TwoThreadsTest, MoreThanARingHoldsGoesThroughWholeAndInOrder) {
  constexpr std::uint64_t kTotal = 64u << 20;
  std::uint64_t sent = 0, came = 0;
  bool good = true;
  client.data_hook = [&](std::span<const std::byte> bytes) {
    for (std::byte byte : bytes) good &= byte == pattern(came++);
  };
  ASSERT_TRUE(until([&] {
    while (sent < kTotal && client.stream->unsent_bytes() < (4u << 20)) {
      std::size_t size = std::min<std::uint64_t>(1 + sent * 7919 % 300'000, kTotal - sent);
      Slice slice = env.buffers().allocate(size);
      for (std::byte& byte : slice.bytes()) byte = pattern(sent++);
      client.stream->send({&slice, 1});
    }
    return came == kTotal;
  }));
  EXPECT_TRUE(good);
}

// An end that does not sleep neither asks the kernel for anything nor is woken by it. (The echo sleeps, as it likes.)
TEST_P(TwoThreadsTest, AnEndThatIsAwakeMakesNoSystemCalls) {
  std::size_t rounds = 0;
  client.data_hook = [&](auto) { ++rounds; };
  reactor->turn(0ms);
  std::uint64_t before = reactor->stats().system_calls;
  auto give_up = std::chrono::steady_clock::now() + 30s;
  for (std::size_t i = 0; i < 1'000; ++i) {
    send(client, "x");
    while (rounds == i) {
      ASSERT_LT(std::chrono::steady_clock::now(), give_up);
      reactor->turn(0ms);
    }
  }
  EXPECT_EQ(reactor->stats().system_calls, before);
}

TEST_P(MemoryStreamTest, AHalfClosedPeerGetsItsAnswer) {
  Peer server;
  OwnedFd plain = connect_plainly(server);
  server.data_hook = [&](auto) { send(server, std::string(3u << 20, 'a')); };
  server.closed_hook = [&] { server.stream.reset(); };
  Result<SharedRings> rings = take_offer(plain.get());
  ASSERT_TRUE(rings.ok());
  rings->put(as_bytes("ask"));
  rings->publish();
  ASSERT_EQ(::shutdown(plain.get(), SHUT_WR), 0);
  std::size_t answer = 0;
  ASSERT_TRUE(until([&] {
    answer += rings->input().size();
    rings->consumed(rings->input().size());
    return server.closed == 1;
  }));
  EXPECT_EQ(answer, 3u << 20);
  EXPECT_EQ(server.received, "ask");
  EXPECT_TRUE(server.reason.ok());
}

TEST_P(MemoryStreamTest, APeerThatGoesAwayWithBytesUnreadIsLost) {
  Peer server;
  OwnedFd plain = connect_plainly(server);
  {
    Result<SharedRings> rings = take_offer(plain.get());
    ASSERT_TRUE(rings.ok());
    rings->put(as_bytes("last words"));
    rings->publish();
  }
  send(server, std::string(3u << 20, 'a'));  // more than the ring takes
  settle();
  plain = OwnedFd();
  ASSERT_TRUE(until([&] { return server.closed == 1; }));
  EXPECT_EQ(server.received, "last words");
  EXPECT_EQ(server.reason.error().code(), ErrorCode::kConnectionLost);
  EXPECT_EQ(server.stream->unsent_bytes(), 0u);
}

TEST_P(MemoryStreamTest, CountersThatMakeNoSenseEndTheConnection) {
  Peer server;
  OwnedFd plain = connect_plainly(server);
  std::span<std::byte> memory = map_offer(plain.get());
  // Any counter of the page, all of them, both sides': nothing may be read or written outside of the rings.
  std::memset(memory.data(), 0xff, 4096);
  send(server, std::string(2u << 20, 'a'));
  ASSERT_TRUE(until([&] { return server.closed == 1; }));
  EXPECT_EQ(server.reason.error().code(), ErrorCode::kProtocol);
  EXPECT_EQ(server.received_bytes, 0u);
  munmap(memory.data(), memory.size());
}

TEST_P(MemoryStreamTest, ListenersThatOfferNothingUsefulAreRefused) {
  EXPECT_EQ(connect_to_one_that([](int) {}).error().code(), ErrorCode::kConnectionLost);
  EXPECT_EQ(connect_to_one_that([](int peer) { CHECK(write(peer, "\1", 1) == 1); }).error().code(),
            ErrorCode::kProtocol);
  // Memory that could be cut short under its reader, and a later version.
  auto offer = [](int peer, char version, unsigned seals) {
    OwnedFd memory(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    CHECK(ftruncate(memory.get(), 4096 + 2 * SharedRings::kBytes) == 0);
    CHECK(seals == 0 || fcntl(memory.get(), F_ADD_SEALS, seals) == 0);
    int fds[3] = {memory.get(), memory.get(), memory.get()};
    alignas(cmsghdr) std::byte control[CMSG_SPACE(sizeof fds)] = {};
    iovec text{&version, 1};
    msghdr message{};
    message.msg_iov = &text;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    *header = {.cmsg_len = CMSG_LEN(sizeof fds), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    std::memcpy(CMSG_DATA(header), fds, sizeof fds);
    CHECK(sendmsg(peer, &message, 0) == 1);
  };
  EXPECT_EQ(connect_to_one_that([&](int peer) { offer(peer, 1, 0); }).error().code(), ErrorCode::kProtocol);
  EXPECT_EQ(
      connect_to_one_that([&](int peer) { offer(peer, 2, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL); }).error().code(),
      ErrorCode::kProtocol);
  EXPECT_TRUE(connect_to_one_that([&](int peer) { offer(peer, 1, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL); }).ok());
}

}  // namespace
}  // namespace holdfast
