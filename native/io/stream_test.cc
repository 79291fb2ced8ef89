// Streams over TCP, IPv6 and unix sockets, with the listeners and connections they come from.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <random>

#include "io/socket_address.h"
#include "io/testing/stream_fixture.h"

namespace holdfast {
namespace {

std::string name_of_kind(const ::testing::TestParamInfo<const char*>& kind) {
  std::string text = kind.param;
  return text == "unix" ? "Unix" : text == "memory" ? "Memory" : text[0] == '[' ? "Tcp6" : "Tcp4";
}
INSTANTIATE_TEST_SUITE_P(Kinds, StreamTest, ::testing::Values("127.0.0.1:0", "[::1]:0", "unix", "memory"),
                         name_of_kind);

// Those whose other end may be a plain socket.
class SocketStreamTest : public StreamTest {};
INSTANTIATE_TEST_SUITE_P(Kinds, SocketStreamTest, ::testing::Values("127.0.0.1:0", "[::1]:0", "unix"), name_of_kind);

TEST_P(StreamTest, EchoesAndEndsOrderly) {
  Peer client, server;
  connect_pair(client, server);
  server.data_hook = [&](std::span<const std::byte> bytes) {
    Slice slice = env.buffers().copy_of(bytes);
    server.stream->send({&slice, 1});
  };
  send(client, "hello");
  EXPECT_EQ(client.stream->unsent_bytes(), 5u);
  ASSERT_TRUE(until([&] { return client.received == "hello"; }));
  EXPECT_EQ(client.stream->unsent_bytes(), 0u);
  EXPECT_EQ(client.drained, 1);
  EXPECT_EQ(client.stream->peer_address(), server.stream->local_address());
  client.stream->shutdown();
  ASSERT_TRUE(until([&] { return server.closed == 1; }));
  EXPECT_TRUE(server.reason.ok());
  server.stream.reset();
  ASSERT_TRUE(until([&] { return client.closed == 1; }));
  EXPECT_TRUE(client.reason.ok());
}

TEST_P(StreamTest, ManySlicesArriveWholeAndInOrder) {
  Peer client, server;
  server.keep_bytes = false;
  connect_pair(client, server);
  // 40 MB in slices of odd sizes, both directions at once, checked as a running pattern.
  std::mt19937 random(3);
  constexpr std::size_t kTotal = 40u << 20;
  auto pattern = [](std::size_t position) { return static_cast<std::byte>((position * 2654435761u) >> 24); };
  struct Checker {
    std::size_t position = 0;
    bool good = true;
  } at_server, at_client;
  auto check = [&pattern](Checker& checker, std::span<const std::byte> bytes) {
    for (std::byte byte : bytes) checker.good &= byte == pattern(checker.position++);
  };
  server.data_hook = [&](std::span<const std::byte> bytes) { check(at_server, bytes); };
  client.keep_bytes = false;
  client.data_hook = [&](std::span<const std::byte> bytes) { check(at_client, bytes); };
  auto feed = [&](Stream& stream, std::size_t& sent) {
    while (sent < kTotal && stream.unsent_bytes() < (4u << 20)) {
      std::vector<Slice> parts;
      for (int i = 0; i < 200 && sent < kTotal; ++i) {
        std::size_t size = std::min<std::size_t>(1 + random() % (i % 10 == 0 ? 100'000 : 300), kTotal - sent);
        Slice slice = env.buffers().allocate(size);
        for (std::size_t k = 0; k < size; ++k) slice.data()[k] = pattern(sent + k);
        sent += size;
        parts.push_back(std::move(slice));
      }
      stream.send(parts);
    }
  };
  std::size_t client_sent = 0, server_sent = 0;
  ASSERT_TRUE(until([&] {
    feed(*client.stream, client_sent);
    feed(*server.stream, server_sent);
    return at_server.position == kTotal && at_client.position == kTotal;
  }));
  EXPECT_TRUE(at_server.good);
  EXPECT_TRUE(at_client.good);
  // The last send is acknowledged to its sender maybe a turn after the last byte arrived.
  ASSERT_TRUE(until([&] { return env.buffers().bytes_in_use() == 0; }));
}

TEST_P(StreamTest, SendsOfOneTurnGoOutTogether) {
  Peer client, server;
  connect_pair(client, server);
  settle();
  std::string expected;
  std::uint64_t before = reactor->stats().completions;
  for (int i = 0; i < 100; ++i) {
    std::string text = std::to_string(i) + ",";
    expected += text;
    send(client, text);
  }
  ASSERT_TRUE(until([&] { return server.received == expected; }));
  EXPECT_EQ(client.drained, 1);
  EXPECT_LE(reactor->stats().completions - before, 4u);
}

TEST_P(StreamTest, PausedReceivingHoldsBackAndResumesInOrder) {
  Peer client, server;
  connect_pair(client, server);
  std::string expected;
  int calls_while_paused = 0;
  bool paused = false;
  server.data_hook = [&](std::span<const std::byte>) {
    if (paused) ++calls_while_paused;
    paused = true;
    server.stream->pause_receiving();
  };
  for (int round = 0; round < 200; ++round) {
    std::string text = "message " + std::to_string(round) + ";";
    expected += text;
    send(client, text);
    reactor->turn(0ms);
    if (round % 7 == 0) {
      paused = false;
      server.stream->resume_receiving();
      server.stream->pause_receiving();
      paused = true;
      reactor->turn(0ms);
    }
    if (round % 5 == 0) {
      paused = false;
      server.stream->resume_receiving();
    }
  }
  ASSERT_TRUE(until([&] {
    paused = false;
    server.stream->resume_receiving();
    return server.received.size() == expected.size();
  }));
  EXPECT_EQ(server.received, expected);
  EXPECT_EQ(calls_while_paused, 0);
}

TEST_P(StreamTest, BackpressureBoundsWhatThePeerCanSend) {
  Peer client, server;
  connect_pair(client, server);
  server.stream->pause_receiving();
  Slice megabyte = env.buffers().allocate(1u << 20);
  std::memset(megabyte.data(), 7, megabyte.size());
  for (int i = 0; i < 64; ++i) {
    Slice copy = megabyte;
    client.stream->send({&copy, 1});
  }
  settle();
  EXPECT_GT(client.stream->unsent_bytes(), 16u << 20);
  EXPECT_EQ(server.received_bytes, 0u);
  EXPECT_LT(env.buffers().bytes_in_use(), 8u << 20);  // no hoarding on the paused side
  server.keep_bytes = false;
  server.stream->resume_receiving();
  ASSERT_TRUE(until([&] { return server.received_bytes == (64u << 20); }));
  ASSERT_TRUE(until([&] { return client.drained >= 1; }));
}

TEST_P(StreamTest, ThePeersEndIsReportedAfterEverythingItSent) {
  Peer client, server;
  connect_pair(client, server);
  server.stream->pause_receiving();
  send(client, std::string(300'000, 'x'));
  client.stream->shutdown();
  settle();
  EXPECT_EQ(server.closed, 0);
  server.stream->resume_receiving();
  ASSERT_TRUE(until([&] { return server.closed == 1; }));
  EXPECT_TRUE(server.reason.ok());
  EXPECT_EQ(server.received.size(), 300'000u);
}

TEST_P(StreamTest, ShutdownSendsWhatIsQueuedEvenToASlowReader) {
  Peer client, server;
  connect_pair(client, server);
  server.keep_bytes = false;
  server.stream->pause_receiving();
  Slice big = env.buffers().allocate(8u << 20);
  client.stream->send({&big, 1});
  client.stream->shutdown();
  settle();
  EXPECT_EQ(client.closed, 0);
  server.stream->resume_receiving();
  ASSERT_TRUE(until([&] { return server.closed == 1; }));
  EXPECT_EQ(server.received_bytes, 8u << 20);
}

TEST_P(StreamTest, ShutdownWithUnreadBytesDoesNotResetThePeer) {
  Peer client, server;
  connect_pair(client, server);
  // The client talks on while the server says goodbye: the goodbye must arrive all the same.
  server.stream->pause_receiving();
  send(client, std::string(100'000, 'x'));
  settle();
  send(server, "goodbye");
  server.stream->shutdown();
  ASSERT_TRUE(until([&] { return client.closed == 1; }));
  EXPECT_EQ(client.received, "goodbye");
  EXPECT_TRUE(client.reason.ok());
  client.stream.reset();
  ASSERT_TRUE(until([&] { return server.closed == 1; }));
  EXPECT_TRUE(server.reason.ok());
}

// A half-closed peer (it will send no more, but reads on) still gets the answer to its last request.
TEST_P(SocketStreamTest, AHalfClosedPeerGetsItsAnswer) {
  std::unique_ptr<Stream> accepted;
  auto listener = env.listen(listen_address(), [&](std::unique_ptr<Stream> s) { accepted = std::move(s); });
  ASSERT_TRUE(listener.ok());
  io::SocketAddress address = *io::to_socket_address((*listener)->address());
  int fd = socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0);
  ASSERT_EQ(::connect(fd, address.get(), address.length), 0);
  ASSERT_EQ(write(fd, "ask", 3), 3);
  ASSERT_EQ(::shutdown(fd, SHUT_WR), 0);
  ASSERT_TRUE(until([&] { return accepted != nullptr; }));
  Peer server;
  server.stream = std::move(accepted);
  server.data_hook = [&](auto) { send(server, std::string(1u << 20, 'a')); };
  server.closed_hook = [&] { server.stream.reset(); };
  server.stream->start(&server);
  std::string answer;
  ssize_t got = -1;
  for (int turns = 0; got != 0 && turns < 30'000; ++turns) {
    reactor->turn(1ms);
    char bytes[65'536];
    got = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (got > 0) answer.append(bytes, static_cast<std::size_t>(got));
  }
  EXPECT_EQ(answer.size(), 1u << 20);
  EXPECT_EQ(server.received, "ask");
  EXPECT_TRUE(server.reason.ok());
  ::close(fd);
}

TEST_P(StreamTest, AResetConnectionIsLost) {
  Peer client, server;
  connect_pair(client, server);
  server.stream->pause_receiving();
  send(client, std::string(100'000, 'x'));
  settle();
  // Destroyed with bytes unread: TCP resets, a unix socket too.
  server.stream.reset();
  ASSERT_TRUE(until([&] {
    if (client.closed == 0) send(client, "more");
    return client.closed == 1;
  }));
  EXPECT_FALSE(client.reason.ok());
  EXPECT_EQ(client.reason.error().code(), ErrorCode::kConnectionLost);
  EXPECT_EQ(client.stream->unsent_bytes(), 0u);
  settle();
  EXPECT_EQ(client.closed, 1);
}

TEST_P(StreamTest, APausedStreamHearsOfALostConnectionWhenItSends) {
  Peer client, server;
  connect_pair(client, server);
  client.stream->pause_receiving();
  settle();
  server.stream.reset();
  ASSERT_TRUE(until([&] {
    if (client.closed == 0) send(client, "more");
    return client.closed == 1;
  }));
  EXPECT_FALSE(client.reason.ok());
}

TEST_P(StreamTest, LastWordsAreHeardThoughSendingFails) {
  Peer client, server;
  connect_pair(client, server);
  settle();
  send(server, "status: overloaded");
  server.stream->shutdown();
  ASSERT_TRUE(until([&] {
    if (client.closed == 0) send(client, std::string(10'000, 'x'));
    return client.closed == 1;
  }));
  EXPECT_EQ(client.received, "status: overloaded");
}

TEST_P(StreamTest, HandlersMayDestroyTheStreamFromEveryCallback) {
  for (int where = 0; where < 4; ++where) {
    Peer client, server;
    connect_pair(client, server);
    server.data_hook = [&](auto) {
      if (where == 0) server.stream.reset();
    };
    client.drained_hook = [&] {
      if (where == 1) client.stream.reset();
      if (where == 3) {
        send(client, "again");
        client.stream.reset();
      }
    };
    client.closed_hook = [&] {
      if (where == 2) client.stream.reset();
    };
    send(client, std::string(200'000, 'x'));
    if (where == 2) {
      settle();
      server.stream->shutdown();
    }
    ASSERT_TRUE(until([&] { return !server.stream || !client.stream; })) << where;
    settle();
    EXPECT_LE(client.closed, 1);
    client.stream.reset();
    server.stream.reset();
    settle();
    EXPECT_EQ(env.buffers().bytes_in_use(), 0u) << where;
  }
}

TEST_P(StreamTest, TornTeardownInEveryState) {
  std::mt19937 random(11);
  for (int round = 0; round < 300; ++round) {
    Peer client, server;
    connect_pair(client, server);
    server.keep_bytes = client.keep_bytes = false;
    for (unsigned step = random() % 8; step > 0; --step) {
      Peer& peer = random() % 2 ? client : server;
      if (!peer.stream) continue;
      switch (random() % 7) {
        case 0:
          peer.stream->pause_receiving();
          break;
        case 1:
          peer.stream->resume_receiving();
          break;
        case 2:
          peer.stream->shutdown();
          break;
        case 3:
          peer.stream.reset();
          break;
        case 4: {
          Slice big = env.buffers().allocate(2u << 20);
          peer.stream->send({&big, 1});
          break;
        }
        default:
          send(peer, "x");
      }
      for (unsigned turns = random() % 3; turns > 0; --turns) reactor->turn(0ms);
    }
  }
  settle();
  EXPECT_EQ(env.buffers().bytes_in_use(), 0u);
}

TEST_P(StreamTest, TheReactorEndsInTheMiddleOfTraffic) {
  auto client = std::make_unique<Peer>();
  auto server = std::make_unique<Peer>();
  connect_pair(*client, *server);
  server->stream->pause_receiving();
  for (int i = 0; i < 10; ++i) {
    Slice big = env.buffers().allocate(4u << 20);
    client->stream->send({&big, 1});
    reactor->turn(0ms);
  }
  reactor->stop();
  reactor->run();
  EXPECT_EQ(client->closed + server->closed, 0);
  send(*client, "into the void");
  client->stream->shutdown();
  server->stream->resume_receiving();
  client.reset();
  server.reset();
}

TEST_P(StreamTest, ListenerTakesAnAddressOnceAndGivesItBack) {
  auto first = env.listen(listen_address(), [](auto) {});
  ASSERT_TRUE(first.ok());
  Address address = (*first)->address();
  auto second = env.listen(address, [](auto) {});
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code(), ErrorCode::kInUse);
  first->reset();
  settle();
  Result<std::unique_ptr<Stream>> outcome = Error(ErrorCode::kInternal, "not called");
  env.connect(address, 5s, [&](Result<std::unique_ptr<Stream>> stream) { outcome = std::move(stream); });
  ASSERT_TRUE(until([&] { return outcome.ok() || outcome.error().code() != ErrorCode::kInternal; }));
  ASSERT_FALSE(outcome.ok());
  EXPECT_EQ(outcome.error().code(), ErrorCode::kConnectionLost);
  auto third = env.listen(address, [](auto) {});
  EXPECT_TRUE(third.ok()) << third.error().to_string();
}

TEST_P(StreamTest, AListenerMayBeDestroyedFromItsCallback) {
  std::unique_ptr<Listener> listener;
  std::unique_ptr<Stream> accepted;
  listener = std::move(*env.listen(listen_address(), [&](std::unique_ptr<Stream> stream) {
    accepted = std::move(stream);
    listener.reset();
  }));
  Address address = listener->address();
  std::unique_ptr<Stream> client;
  env.connect(address, 5s, [&](Result<std::unique_ptr<Stream>> stream) {
    if (stream.ok()) client = std::move(*stream);
  });
  ASSERT_TRUE(until([&] { return accepted != nullptr; }));
  settle();
  EXPECT_EQ(listener, nullptr);
}

TEST_P(StreamTest, ThousandsOfStreamsAtOnce) {
  constexpr int kStreams = 2'000;
  std::vector<std::unique_ptr<Peer>> servers, clients;
  auto listener = env.listen(listen_address(), [&](std::unique_ptr<Stream> stream) {
    auto server = std::make_unique<Peer>();
    Peer* peer = server.get();
    peer->stream = std::move(stream);
    peer->data_hook = [this, peer](std::span<const std::byte> bytes) {
      Slice slice = env.buffers().copy_of(bytes);
      peer->stream->send({&slice, 1});
    };
    peer->closed_hook = [peer] { peer->stream.reset(); };
    peer->stream->start(peer);
    servers.push_back(std::move(server));
  });
  ASSERT_TRUE(listener.ok());
  int echoed = 0;
  for (int i = 0; i < kStreams; ++i) {
    clients.push_back(std::make_unique<Peer>());
    Peer* peer = clients.back().get();
    peer->data_hook = [&echoed, peer](auto) {
      if (peer->received.size() == 5'000) ++echoed;
    };
    env.connect((*listener)->address(), 20s, [this, peer](Result<std::unique_ptr<Stream>> stream) {
      ASSERT_TRUE(stream.ok()) << stream.error().to_string();
      peer->stream = std::move(*stream);
      peer->stream->start(peer);
      send(*peer, std::string(5'000, 'x'));
    });
  }
  ASSERT_TRUE(until([&] { return echoed == kStreams; }));
  clients.clear();
  ASSERT_TRUE(until([&] {
    return std::all_of(servers.begin(), servers.end(), [](const auto& server) { return server->closed == 1; });
  }));
  // All at once again, and gone in the middle.
  servers.clear();
}

TEST_P(StreamTest, ConnectsWithoutAListenerFail) {
  Address address = listen_address();
  if (address.unix_path.empty()) address.port = 1;
  bool refused = false;
  env.connect(address, 5s, [&](Result<std::unique_ptr<Stream>> stream) {
    ASSERT_FALSE(stream.ok());
    EXPECT_EQ(stream.error().code(), ErrorCode::kConnectionLost);
    refused = true;
  });
  EXPECT_FALSE(refused);
  ASSERT_TRUE(until([&] { return refused; }));
}

class ScarceBuffersTest : public StreamTest {
 protected:
  ScarceBuffersTest() : StreamTest({.submission_entries = 8, .receive_buffers = 2, .receive_buffer_bytes = 4096}) {}
};
INSTANTIATE_TEST_SUITE_P(Kinds, ScarceBuffersTest, ::testing::Values("127.0.0.1:0"));

TEST_P(ScarceBuffersTest, RunningOutOfReceiveBuffersOnlySlowsDown) {
  constexpr int kPairs = 20;
  std::vector<std::unique_ptr<Peer>> peers;
  for (int i = 0; i < 2 * kPairs; ++i) peers.push_back(std::make_unique<Peer>());
  for (int i = 0; i < kPairs; ++i) connect_pair(*peers[i * 2], *peers[i * 2 + 1]);
  std::string text;
  for (int i = 0; i < 20'000; ++i) text += std::to_string(i);
  for (int i = 0; i < kPairs; ++i) send(*peers[i * 2], text);
  ASSERT_TRUE(until([&] {
    for (int i = 0; i < kPairs; ++i) {
      if (peers[i * 2 + 1]->received.size() < text.size()) return false;
    }
    return true;
  }));
  for (int i = 0; i < kPairs; ++i) EXPECT_EQ(peers[i * 2 + 1]->received, text);
  EXPECT_GT(reactor->stats().receive_buffers_exhausted, 0u);
}

}  // namespace
}  // namespace holdfast
