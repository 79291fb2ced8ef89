#include "tls/stream.h"

#include <gtest/gtest.h>

#include <functional>
#include <optional>

#include "rpc/testing/memory_env.h"
#include "tls/testing/certificates.h"

namespace holdfast::tls {
namespace {

using rpc::testing::MemoryEnv;
using testing::Authority;

// One end of a connection: what it heard.
struct End : StreamHandler {
  std::unique_ptr<Stream> stream;
  std::string received;
  std::optional<Status> closed;
  int drained = 0;
  std::function<void()> when_data;

  void on_data(std::span<const std::byte> bytes) override {
    received.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (auto then = when_data) then();  // a copy: it may destroy this
  }
  void on_drained() override { ++drained; }
  void on_closed(Status reason) override { closed = std::move(reason); }

  void take(std::unique_ptr<Stream> made) {
    stream = std::move(made);
    stream->start(this);
  }
  std::string outcome() const {
    if (!closed) return "open";
    return closed->ok() ? "OK" : std::string(error_code_name(closed->error().code()));
  }
};

class StreamTest : public ::testing::Test {
 protected:
  std::shared_ptr<Identity> identity(const Credentials& credentials) {
    return std::move(*Identity::create(credentials));
  }

  // nullptr: that end speaks plain.
  void connect(const std::shared_ptr<Identity>& of_client, const std::shared_ptr<Identity>& of_server) {
    listener_ = std::move(*env.listen({"127.0.0.1", 0, ""}, [this, of_server](std::unique_ptr<Stream> made) {
      if (of_server) made = secure(env, of_server, Side::kServer, std::move(made));
      server.take(std::move(made));
    }));
    env.connect(listener_->address(), 1s, [this, of_client](Result<std::unique_ptr<Stream>> made) {
      if (of_client) *made = secure(env, of_client, Side::kClient, std::move(*made));
      client.take(std::move(*made));
    });
  }
  void connect_well() {
    connect(identity(ours.issue("node client")), identity(ours.issue("node server")));
    env.settle();
  }
  void send(End& end, std::string_view text) {
    Slice part = env.buffers().copy_of(as_bytes(text));
    end.stream->send({&part, 1});
  }
  // Both ends refuse or lose each other, and nothing was delivered.
  void expect_refused(std::string_view client_code, std::string_view server_code) {
    send(client, "never to be read");
    env.settle();
    env.advance(5s);
    EXPECT_EQ(client.outcome(), client_code) << (client.closed ? client.closed->error().message() : "");
    EXPECT_EQ(server.outcome(), server_code) << (server.closed ? server.closed->error().message() : "");
    EXPECT_EQ(server.received, "");
  }

  MemoryEnv env;
  Authority ours{"ours"};
  End client, server;

 private:
  std::unique_ptr<Listener> listener_;
};

TEST_F(StreamTest, CarriesBytesBothWays) {
  connect(identity(ours.issue("node a")), identity(ours.issue("node b")));
  env.settle();
  std::string big(3'000'001, 'x');
  for (std::size_t i = 0; i < big.size(); ++i) big[i] = static_cast<char>(i * 31 >> 3);
  send(client, "hello");
  send(server, big);
  send(client, " there");
  env.settle();
  EXPECT_EQ(server.received, "hello there");
  EXPECT_TRUE(client.received == big);
  EXPECT_EQ(server.stream->unsent_bytes(), 0u);
  EXPECT_GT(server.drained, 0);
}

TEST_F(StreamTest, NothingReadableIsOnTheWire) {
  connect(identity(ours.issue("node a")), identity(ours.issue("node b")));
  env.settle();
  env.frozen_network = true;
  send(client, "a secret that nobody may read");
  EXPECT_GT(env.newest().ends[1].inbound.size(), 29u);
  EXPECT_EQ(env.newest().ends[1].inbound.find("secret"), std::string::npos);
}

TEST_F(StreamTest, DeliversInAnyPieces) {
  for (std::size_t chunk : {1u, 2u, 3u, 7u, 100u, 5'000u}) {
    End one, two;
    std::swap(client, one);
    std::swap(server, two);
    env.chunk_bytes = chunk;
    connect_well();
    std::string text(40'000, 'p');
    send(client, text);
    env.settle();
    EXPECT_TRUE(server.received == text) << chunk;
  }
}

TEST_F(StreamTest, SendsWhatWaitedForTheHandshake) {
  connect(identity(ours.issue("node a")), identity(ours.issue("node b")));
  env.turn();  // connected, no answer yet
  ASSERT_TRUE(client.stream);
  send(client, "early");
  EXPECT_GE(client.stream->unsent_bytes(), 5u);
  env.settle();
  EXPECT_EQ(server.received, "early");
  EXPECT_GT(client.drained, 0);
}

TEST_F(StreamTest, RefusesAnotherClustersAuthority) {
  Authority theirs("theirs");
  connect(identity(theirs.issue("node a")), identity(ours.issue("node b")));
  env.settle();
  expect_refused("UNAUTHENTICATED", "UNAUTHENTICATED");
}

TEST_F(StreamTest, RefusesAClientOfAnotherAuthorityThatBelievesOurs) {
  Authority theirs("theirs");
  Credentials mixed = theirs.issue("node a");
  mixed.authority = ours.pem();
  connect(identity(mixed), identity(ours.issue("node b")));
  env.turn();
  expect_refused("UNAUTHENTICATED", "UNAUTHENTICATED");
  EXPECT_NE(client.closed->error().message().find("unknown ca"), std::string::npos);
}

TEST_F(StreamTest, RefusesWhatHasExpiredAndWhatIsNotYetValid) {
  for (testing::Validity validity : {testing::Validity{0, 1}, testing::Validity{1'000'000, 2'000'000}}) {
    End one, two;
    std::swap(client, one);
    std::swap(server, two);
    env.stall(10s);
    connect(identity(ours.issue("node a", validity)), identity(ours.issue("node b")));
    env.settle();
    expect_refused("UNAUTHENTICATED", "UNAUTHENTICATED");
  }
}

TEST_F(StreamTest, RefusesTheWrongRole) {
  connect(identity(ours.issue("person alice")), identity(ours.issue("node b")));
  env.settle();
  expect_refused("UNAUTHENTICATED", "PERMISSION_DENIED");
  EXPECT_NE(server.closed->error().message().find("person alice"), std::string::npos);
}

TEST_F(StreamTest, AManagerMayCallButDoesNotServeData) {
  connect(identity(ours.issue("manager a")), identity(ours.issue("node b")));
  env.settle();
  send(client, "hello");
  env.settle();
  EXPECT_EQ(server.received, "hello");
  End one, two;
  std::swap(client, one);
  std::swap(server, two);
  connect(identity(ours.issue("node a")), identity(ours.issue("manager b")));
  env.settle();
  expect_refused("PERMISSION_DENIED", "UNAUTHENTICATED");
}

TEST_F(StreamTest, RefusesAPlainClientAndAnswersHttp2InPlain) {
  connect(nullptr, identity(ours.issue("node b")));
  env.settle();
  send(client, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
  env.settle();
  EXPECT_EQ(server.outcome(), "PROTOCOL");
  EXPECT_NE(client.received.find("TLS is needed here"), std::string::npos);
  EXPECT_EQ(server.received, "");
}

TEST_F(StreamTest, FindsThatAServerSpeaksPlain) {
  connect(identity(ours.issue("node a")), nullptr);
  env.settle();
  send(server, std::string_view("\0\0\x12\x04 plain SETTINGS", 20));
  env.settle();
  EXPECT_EQ(client.outcome(), "PROTOCOL");
}

TEST_F(StreamTest, SurvivesACutAtAnyByteOfTheHandshake) {
  env.chunk_bytes = 1;
  auto of_client = identity(ours.issue("node a"));
  auto of_server = identity(ours.issue("node b"));
  bool through = false;
  for (int turns = 1; !through; turns += 7) {
    End one, two;
    std::swap(client, one);
    std::swap(server, two);
    connect(of_client, of_server);
    env.turn();
    send(client, "x");
    for (int i = 0; i < turns && server.received.empty(); ++i) env.turn();
    through = !server.received.empty();
    env.cut_newest();
    env.settle();
    EXPECT_EQ(client.outcome(), "CONNECTION_LOST");
    EXPECT_EQ(server.outcome(), "CONNECTION_LOST");
  }
}

TEST_F(StreamTest, AnOrderlyEndInTheHandshakeIsAnError) {
  connect(nullptr, identity(ours.issue("node b")));
  env.settle();
  send(client, std::string_view("\x16\x03\x01", 3));
  client.stream->shutdown();
  env.settle();
  EXPECT_EQ(server.outcome(), "CONNECTION_LOST");
}

TEST_F(StreamTest, RefusesAChangedByte) {
  connect_well();
  env.frozen_network = true;
  send(client, "do not change this");
  env.newest().ends[1].inbound[20] ^= 1;
  env.thaw();
  env.settle();
  EXPECT_EQ(server.received, "");
  EXPECT_EQ(server.outcome(), "PROTOCOL");
  EXPECT_EQ(client.outcome(), "PROTOCOL");
}

TEST_F(StreamTest, EndsInOrder) {
  connect_well();
  send(client, "last words");
  client.stream->shutdown();
  env.settle();
  EXPECT_EQ(server.received, "last words");
  EXPECT_EQ(server.outcome(), "OK");
}

TEST_F(StreamTest, APausedReaderGetsTheRestLater) {
  connect_well();
  server.when_data = [&] { server.stream->pause_receiving(); };
  std::string text(100'000, 'q');
  send(client, text);
  env.settle();
  EXPECT_EQ(server.received.size(), kRecordBytes);
  while (server.received.size() < text.size()) {
    std::size_t before = server.received.size();
    server.stream->resume_receiving();
    env.settle();
    ASSERT_GT(server.received.size(), before);
  }
  EXPECT_TRUE(server.received == text);
}

TEST_F(StreamTest, MayBeDestroyedByItsHandler) {
  connect_well();
  server.when_data = [&] { server.stream.reset(); };
  send(client, std::string(100'000, 'q'));
  env.settle();
  EXPECT_EQ(server.received.size(), kRecordBytes);
}

TEST_F(StreamTest, ChangesItsKeys) {
  auto of_client = identity(ours.issue("node a"));
  of_client->records_per_key = 3;
  connect(of_client, identity(ours.issue("node b")));
  env.settle();
  std::string all;
  for (int i = 0; i < 50; ++i) {
    std::string text(20'000, static_cast<char>('a' + i % 26));
    all += text;
    send(client, text);
  }
  send(server, "and back");
  env.settle();
  EXPECT_TRUE(server.received == all);
  EXPECT_EQ(client.received, "and back");
}

TEST_F(StreamTest, ANewCertificateIsForNewConnections) {
  env.stall(10s);
  auto of_server = identity(ours.issue("node b", {0, 1}));
  auto of_client = identity(ours.issue("node a"));
  connect(of_client, of_server);
  env.settle();
  expect_refused("UNAUTHENTICATED", "UNAUTHENTICATED");
  ASSERT_TRUE(of_server->replace(ours.issue("node b")).ok());
  End one, two;
  std::swap(client, one);
  std::swap(server, two);
  connect(of_client, of_server);
  env.settle();
  ASSERT_TRUE(of_server->replace(Authority("theirs").issue("node b")).ok());
  send(client, "still here");
  env.settle();
  EXPECT_EQ(server.received, "still here");
}

TEST_F(StreamTest, BelievesTwoAuthoritiesWhileOneReplacesTheOther) {
  Authority next("next");
  Credentials of_client = next.issue("node a");
  Credentials of_server = ours.issue("node b");
  of_client.authority = of_server.authority = ours.pem() + next.pem();
  connect(identity(of_client), identity(of_server));
  env.settle();
  send(client, "hello");
  env.settle();
  EXPECT_EQ(server.received, "hello");
}

TEST(IdentityTest, RefusesWhatItCannotUse) {
  Authority ours("ours");
  Credentials good = ours.issue("node a");
  auto code = [](const Credentials& credentials) {
    auto made = Identity::create(credentials);
    return made.ok() ? std::string("OK") : std::string(error_code_name(made.error().code()));
  };
  EXPECT_EQ(code(good), "OK");
  EXPECT_EQ(code({good.authority, good.certificate, "no key"}), "INVALID_ARGUMENT");
  EXPECT_EQ(code({good.authority, good.certificate, ours.issue("node a").key}), "INVALID_ARGUMENT");
  EXPECT_EQ(code({"", good.certificate, good.key}), "INVALID_ARGUMENT");
  EXPECT_EQ(code({good.authority, "", good.key}), "INVALID_ARGUMENT");
}

TEST(OptionsTest, CoverWhatMayLeaveTheHost) {
  Options none;
  Options some{std::move(*Identity::create(Authority("ours").issue("node a")))};
  EXPECT_FALSE(none.covers({"192.0.2.1", 1, ""}));
  EXPECT_TRUE(some.covers({"192.0.2.1", 1, ""}));
  EXPECT_TRUE(some.covers({"0.0.0.0", 1, ""}));
  EXPECT_FALSE(some.covers({"127.0.0.1", 1, ""}));
  EXPECT_FALSE(some.covers({"", 0, "/run/socket"}));
}

}  // namespace
}  // namespace holdfast::tls
