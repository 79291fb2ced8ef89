// Channel and server over real sockets on a real reactor: the same contract as in memory, with the kernel in between.
#include <gtest/gtest.h>

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

INSTANTIATE_TEST_SUITE_P(Sockets, SocketTest, ::testing::Values("tcp", "unix"),
                         [](const auto& instance) { return std::string(instance.param); });

}  // namespace
}  // namespace holdfast::rpc::testing
