// Channels and servers with TLS: calls as ever, and what is refused.
#include "rpc/testing/fixture.h"
#include "rpc/testing/raw_peer.h"
#include "tls/testing/certificates.h"

namespace holdfast::rpc {
namespace {

using testing::outcome;
using testing::RawPeer;
using testing::Recorder;
using tls::testing::Authority;

class TlsTest : public testing::RpcTest {
 protected:
  void SetUp() override { serve(ours.issue("node server")); }

  void serve(const tls::Credentials& credentials) {
    ServerOptions options;
    options.tls = {std::move(*tls::Identity::create(credentials)), true};
    server_identity = options.tls.identity;
    start_server(options);
    call_as(ours.issue("node client"));
  }
  void call_as(const tls::Credentials& credentials) {
    ChannelOptions options;
    options.tls = {std::move(*tls::Identity::create(credentials)), true};
    channel = Channel::create(env, address, options);
  }
  std::string echo(std::string_view text) {
    std::string got = "(no answer)";
    channel->unary("/t/Echo", slice(text), 5s, [&](Result<Message> answer) {
      got = answer.ok() ? std::string(answer->text()) : answer.error().to_string();
    });
    env.settle();
    env.advance(6s);
    return got;
  }

  Authority ours{"ours"};
  std::shared_ptr<tls::Identity> server_identity;
};

TEST_F(TlsTest, CallsGoThrough) {
  EXPECT_EQ(echo("hello"), "hello");
  std::string big(4'000'000, 'b');
  EXPECT_TRUE(echo(big) == big);
  Recorder recorder;
  auto call = open_stream(recorder);
  accepted.back()->when_message = [&](const std::string& text) { send(*accepted.back()->call, text + "!"); };
  for (int i = 0; i < 100; ++i) send(*call, std::to_string(i));
  env.settle();
  ASSERT_EQ(recorder.messages.size(), 100u);
  EXPECT_EQ(recorder.messages.back(), "99!");
  EXPECT_TRUE(channel->confirmed_at());
}

TEST_F(TlsTest, RefusedCallersHearWhy) {
  call_as(Authority("theirs").issue("node client"));
  EXPECT_NE(echo("x").find("is refused: "), std::string::npos);
  tls::Credentials mixed = Authority("theirs").issue("node client");
  mixed.authority = ours.pem();
  call_as(mixed);
  EXPECT_NE(echo("x").find("unknown ca"), std::string::npos);
  call_as(ours.issue("person alice"));
  EXPECT_NE(echo("x").find("refuses the certificate"), std::string::npos);
  EXPECT_TRUE(accepted.empty());
}

TEST_F(TlsTest, APlainCallerIsToldToUseTls) {
  channel = Channel::create(env, address);
  EXPECT_NE(echo("x").find("CONNECTION_LOST"), std::string::npos);
  RawPeer peer(env, address);
  peer.send(testing::preface());
  ASSERT_EQ(peer.count(7), 1u);  // GOAWAY
  EXPECT_NE(peer.frames().back().payload.find("TLS is needed here"), std::string::npos);
}

TEST_F(TlsTest, ASilentCallerIsHungUp) {
  RawPeer peer(env, address);
  env.advance(60s);
  EXPECT_TRUE(peer.closed);
}

TEST_F(TlsTest, NewCertificatesInterruptNothing) {
  Recorder recorder;
  auto call = open_stream(recorder);
  accepted.back()->when_message = [&](const std::string& text) { send(*accepted.back()->call, text); };
  ASSERT_TRUE(server_identity->replace(ours.issue("node server")).ok());
  send(*call, "still there");
  env.settle();
  EXPECT_EQ(recorder.messages, std::vector<std::string>{"still there"});
  env.cut_newest();
  env.settle();
  EXPECT_EQ(outcome(recorder.status), "CONNECTION_LOST");
  EXPECT_EQ(echo("again"), "again");
}

class LocalUsersTest : public testing::RpcTest {
 protected:
  void SetUp() override {}
  void serve(bool (*admits)(const Address& local, const Address& peer)) {
    ServerOptions options;
    options.admits_local = admits;
    start_server(options);
    // Around the unix socket beside it, where the Env itself looks.
    ChannelOptions plain_tcp;
    plain_tcp.tls.on_loopback = true;
    channel = Channel::create(env, address, plain_tcp);
  }
  std::string echo() {
    std::string got = "(no answer)";
    channel->unary("/t/Echo", slice("hello"), 5s, [&](Result<Message> answer) {
      got = answer.ok() ? std::string(answer->text()) : std::string(error_code_name(answer.error().code()));
    });
    env.settle();
    return got;
  }
};

TEST_F(LocalUsersTest, AreTakenWhenTheyAreAdmitted) {
  serve([](const Address& local, const Address& peer) { return local.is_loopback() && peer.is_loopback(); });
  EXPECT_EQ(echo(), "hello");
}

TEST_F(LocalUsersTest, AreHungUpOtherwise) {
  serve([](const Address&, const Address&) { return false; });
  EXPECT_EQ(echo(), "CONNECTION_LOST");
}

TEST_F(LocalUsersTest, AServerMayEndBeforeTheAnswer) {
  serve([](const Address&, const Address&) { return true; });
  std::string got = "(no answer)";
  channel->unary("/t/Echo", slice("hello"), 5s, [&](Result<Message> answer) { got = answer.ok() ? "OK" : "failed"; });
  env.turn();
  server.reset();
  env.settle();
  EXPECT_EQ(got, "failed");
}

}  // namespace
}  // namespace holdfast::rpc
