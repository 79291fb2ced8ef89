// Channel and server over real sockets on a real reactor: the same contract as in memory, with the kernel in between.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/socket_address.h"
#include "rpc/local_shortcut.h"
#include "rpc/testing/fixture.h"
#include "test/reactor_support.h"

namespace holdfast::rpc::testing {
namespace {

class SocketTest : public ::testing::TestWithParam<const char*> {
 protected:
  SocketTest() : reactor(test::make_reactor()), env(reactor->env()), server(Server::create(env)) {
    server->add_stream_method("/t/Stream", [this](std::unique_ptr<ServerCall> call, CallHandler** handler) {
      accepted.push_back(std::make_unique<Accepted>());
      accepted.back()->call = std::move(call);
      *handler = accepted.back().get();
      Accepted& served = *accepted.back();
      served.when_message = [this, &served](const std::string& text) { send(*served.call, text); };
      served.when_peer_finished = [&served] { served.call->finish(Status()); };
    });
    server->add_unary_method("/t/Echo", [](Message request, const Metadata&, Callback<void(Result<Slice>)> respond) {
      respond(std::move(request));
    });
    Address wanted =
        std::string_view(GetParam()) == "unix" ? Address{"", 0, folder.file("socket")} : Address{"127.0.0.1", 0, ""};
    address = *server->listen(wanted);
    channel = Channel::create(env, address);
  }

  void send(Call& call, std::string_view text) {
    Slice part = env.buffers().copy_of(as_bytes(text));
    call.send({&part, 1});
  }

  test::TempDir folder;
  std::unique_ptr<Reactor> reactor;
  Env& env;
  std::vector<std::unique_ptr<Accepted>> accepted;
  std::unique_ptr<Server> server;
  Address address;
  std::unique_ptr<Channel> channel;
};

TEST_P(SocketTest, EchoesManyMessagesOfAllSizes) {
  Recorder recorder;
  auto call = channel->start("/t/Stream", {}, std::nullopt, &recorder);
  std::vector<std::string> sent;
  for (std::size_t i = 0; i < 300; ++i)
    sent.push_back(std::string(i * i * 11 % 200'000, static_cast<char>('a' + i % 26)));
  sent.push_back(std::string(kMessageBytesMax, 'L'));
  for (const std::string& text : sent) send(*call, text);
  call->finish_sending();
  ASSERT_TRUE(test::run_until(*reactor, [&] { return recorder.status.has_value(); }));
  EXPECT_EQ(outcome(recorder.status), "OK");
  EXPECT_TRUE(recorder.messages == sent);
}

TEST_P(SocketTest, AStoppedServerEndsCalls) {
  Recorder recorder;
  auto call = channel->start("/t/Stream", {}, std::nullopt, &recorder);
  send(*call, "x");
  ASSERT_TRUE(test::run_until(*reactor, [&] { return !recorder.messages.empty(); }));
  server.reset();
  ASSERT_TRUE(test::run_until(*reactor, [&] { return recorder.status.has_value(); }));
  EXPECT_EQ(outcome(recorder.status), "CONNECTION_LOST");
  std::optional<Status> refused;
  channel->unary("/t/Echo", Slice(), std::nullopt, [&](Result<Message> result) { refused = result.status(); });
  ASSERT_TRUE(test::run_until(*reactor, [&] { return refused.has_value(); }));
  EXPECT_EQ(outcome(refused), "CONNECTION_LOST");
}

TEST_P(SocketTest, Drains) {
  std::optional<Status> status;
  channel->unary("/t/Echo", Slice(), std::nullopt, [&](Result<Message> result) { status = result.status(); });
  ASSERT_TRUE(test::run_until(*reactor, [&] { return status.has_value(); }));
  bool drained = false;
  server->drain([&] { drained = true; });
  ASSERT_TRUE(test::run_until(*reactor, [&] { return drained; }));
}

// The name in the abstract namespace is somebody's who shares no memory: an older version, say, or one that just ends.
TEST(LocalShortcut, TcpServesWhereTheShortcutDoesNot) {
  std::unique_ptr<Reactor> reactor = test::make_reactor();
  Env& env = reactor->env();
  auto probe = Server::create(env);
  Address address = *probe->listen({"127.0.0.1", 0, ""});
  probe.reset();
  io::SocketAddress name = *io::to_socket_address(*local_shortcut(address, {}));
  int squatter = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ASSERT_TRUE(test::run_until(*reactor, [&] { return bind(squatter, name.get(), name.length) == 0; }));
  ASSERT_EQ(::listen(squatter, 8), 0);

  auto server = Server::create(env);
  server->add_unary_method("/t/Echo", [](Message request, const Metadata&, Callback<void(Result<Slice>)> respond) {
    respond(std::move(request));
  });
  ASSERT_TRUE(server->listen(address).ok());
  auto channel = Channel::create(env, address);
  std::optional<Result<Message>> answer;
  channel->unary("/t/Echo", env.buffers().copy_of(as_bytes("x")), std::nullopt,
                 [&](Result<Message> result) { answer = std::move(result); });
  for (int i = 0; i < 5; ++i) reactor->turn(1ms);
  EXPECT_FALSE(answer.has_value()) << "it did not try the shortcut";
  ::close(squatter);
  ASSERT_TRUE(test::run_until(*reactor, [&] { return answer.has_value(); }));
  ASSERT_TRUE(answer->ok()) << answer->error().to_string();
  EXPECT_EQ((*answer)->text(), "x");
}

INSTANTIATE_TEST_SUITE_P(Sockets, SocketTest, ::testing::Values("tcp", "unix"),
                         [](const auto& instance) { return std::string(instance.param); });

}  // namespace
}  // namespace holdfast::rpc::testing
