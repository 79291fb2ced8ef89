// Users' callbacks destroy calls, channels and servers. What these tests find, they find under AddressSanitizer.
#include "rpc/testing/fixture.h"

namespace holdfast::rpc::testing {
namespace {

class LifetimeTest : public RpcTest {
 protected:
  // A call in full swing: both sides have much to send, with many messages in one delivery.
  void fill(Call& call) {
    for (int i = 0; i < 20; ++i) send(call, std::string(20'000, 'f'));
  }
};

TEST_F(LifetimeTest, ClientCallDestroyedInItsOnMessage) {
  Recorder recorder;
  auto call = open_stream(recorder);
  recorder.when_message = [&](const std::string&) { call.reset(); };
  fill(*call);
  fill(*accepted.back()->call);
  env.settle();
  EXPECT_EQ(recorder.messages.size(), 1u);
  EXPECT_FALSE(recorder.status);
  EXPECT_EQ(outcome(accepted.back()->status), "CANCELLED");
}

TEST_F(LifetimeTest, ClientCallDestroyedInItsOnEnded) {
  Recorder recorder;
  auto call = open_stream(recorder);
  recorder.when_ended = [&] { call.reset(); };
  accepted.back()->call->finish(Error(ErrorCode::kNotFound, "gone"));
  env.settle();
  EXPECT_EQ(outcome(recorder.status), "NOT_FOUND");
}

TEST_F(LifetimeTest, ClientCallDestroyedInItsOnDrained) {
  Recorder recorder;
  auto call = open_stream(recorder);
  recorder.when_drained = [&] { call.reset(); };
  fill(*call);
  env.settle();
  EXPECT_EQ(recorder.drained, 1);
  EXPECT_FALSE(recorder.status);
}

TEST_F(LifetimeTest, OtherCallsDestroyedInOnDrained) {
  Recorder recorders[3];
  std::unique_ptr<ClientCall> calls[3];
  for (int i = 0; i < 3; ++i) calls[i] = open_stream(recorders[i]);
  for (int i = 0; i < 3; ++i) {
    recorders[i].when_drained = [&] {
      for (auto& call : calls) call.reset();
    };
    fill(*calls[i]);
  }
  env.settle();
  EXPECT_EQ(recorders[0].drained + recorders[1].drained + recorders[2].drained, 1);
}

TEST_F(LifetimeTest, ChannelDestroyedInOnMessage) {
  Recorder recorder, other;
  auto call = open_stream(recorder);
  auto other_call = open_stream(other);
  recorder.when_message = [&](const std::string&) { channel.reset(); };
  fill(*call);
  fill(*other_call);
  fill(*accepted.back()->call);
  fill(*accepted.front()->call);
  env.settle();
  EXPECT_FALSE(recorder.status);
  EXPECT_FALSE(other.status);
  EXPECT_EQ(call->unsent_bytes(), 0u);
  send(*call, "into the void");
  call->finish_sending();
  call->pause_receiving();
  call->resume_receiving();
  env.settle();
}

TEST_F(LifetimeTest, ChannelDestroyedWhenItsConnectionBreaks) {
  Recorder recorders[3];
  std::unique_ptr<ClientCall> calls[3];
  for (int i = 0; i < 3; ++i) calls[i] = open_stream(recorders[i]);
  recorders[1].when_ended = [&] { channel.reset(); };
  env.cut_newest();
  env.settle();
  EXPECT_EQ(outcome(recorders[0].status), "CONNECTION_LOST");
  EXPECT_FALSE(recorders[2].status) << "a channel that is gone tells nothing";
}

TEST_F(LifetimeTest, ChannelDestroyedByAUnaryAnswer) {
  bool answered = false;
  channel->unary("/t/Echo", slice("a"), 1s, [&](Result<Message>) {
    answered = true;
    channel.reset();
  });
  channel->unary("/t/Echo", slice("b"), 1s, [&](Result<Message>) { FAIL() << "the channel is gone"; });
  env.advance(3s);
  EXPECT_TRUE(answered);
}

TEST_F(LifetimeTest, ChannelDestroyedByADeadlineWhileConnecting) {
  env.refuse_connections = true;
  Recorder recorder;
  auto call = channel->start("/t/Stream", {}, std::nullopt, &recorder);
  Recorder second;
  auto other = channel->start("/t/Stream", {}, std::nullopt, &second);
  recorder.when_ended = [&] { channel.reset(); };
  env.settle();
  EXPECT_TRUE(recorder.status);
  EXPECT_FALSE(second.status);
}

TEST_F(LifetimeTest, ChannelDestroyedWhileConnecting) {
  Recorder recorder;
  auto call = channel->start("/t/Stream", {}, 1s, &recorder);
  channel->unary("/t/Echo", slice("b"), 1s, [&](Result<Message>) { FAIL(); });
  channel.reset();
  env.advance(2s);
  EXPECT_FALSE(recorder.status);
}

TEST_F(LifetimeTest, NewCallsMadeInOnEnded) {
  Recorder first, second;
  auto call = open_stream(first);
  std::unique_ptr<ClientCall> next;
  first.when_ended = [&] { next = channel->start("/t/Stream", {}, std::nullopt, &second); };
  env.cut_newest();
  env.settle();
  EXPECT_EQ(outcome(first.status), "CONNECTION_LOST");
  EXPECT_FALSE(second.status);
  EXPECT_EQ(accepted.size(), 2u);
}

TEST_F(LifetimeTest, ServerCallDestroyedInItsOnMessage) {
  Recorder recorder;
  auto call = open_stream(recorder);
  Accepted& served = *accepted.back();
  served.when_message = [&](const std::string&) { served.call.reset(); };
  fill(*served.call);
  fill(*call);
  env.settle();
  EXPECT_EQ(served.messages.size(), 1u);
  EXPECT_EQ(outcome(recorder.status), "CANCELLED");
}

TEST_F(LifetimeTest, ServerHandlerDestroysItselfInEveryCallback) {
  enum When { kMessage, kPeerFinished, kEnded, kDrained };
  for (When when : {kMessage, kPeerFinished, kEnded, kDrained}) {
    accepted.clear();
    Recorder recorder;
    auto call = open_stream(recorder);
    Accepted& served = *accepted.back();
    auto destroy = [&] { accepted.clear(); };
    if (when == kMessage) served.when_message = [&](const std::string&) { accepted.clear(); };
    if (when == kPeerFinished) served.when_peer_finished = destroy;
    if (when == kEnded) served.when_ended = destroy;
    if (when == kDrained) served.when_drained = destroy;
    fill(*served.call);
    fill(*call);
    if (when == kPeerFinished) call->finish_sending();
    env.settle();
    if (when == kEnded) call.reset();
    env.settle();
    EXPECT_TRUE(accepted.empty());
  }
}

TEST_F(LifetimeTest, ServerFinishesInItsOnMessage) {
  Recorder recorder;
  auto call = open_stream(recorder);
  Accepted& served = *accepted.back();
  served.when_message = [&](const std::string&) { served.call->finish(Status()); };
  fill(*call);
  env.settle();
  EXPECT_EQ(served.messages.size(), 1u);
  EXPECT_EQ(outcome(recorder.status), "OK");
}

TEST_F(LifetimeTest, ServerRefusesACallWhileItIsMade) {
  enum How { kFinish, kDestroy, kForget };
  for (How how : {kFinish, kDestroy, kForget}) {
    when_accepted = [&](Accepted& call) {
      if (how == kFinish) call.call->finish(Error(ErrorCode::kInUse, "busy"));
      if (how == kDestroy) call.call.reset();
      if (how == kForget) accepted.clear();
    };
    server->add_stream_method(std::string("/t/Refuse") + static_cast<char>('0' + how),
                              [this, how](std::unique_ptr<ServerCall> call, CallHandler**) {
                                if (how == kFinish) call->finish(Error(ErrorCode::kInUse, "busy"));
                              });
    Recorder recorder;
    auto call = channel->start(std::string("/t/Refuse") + static_cast<char>('0' + how), {}, std::nullopt, &recorder);
    fill(*call);
    env.settle();
    EXPECT_EQ(outcome(recorder.status), how == kFinish ? "IN_USE" : "CANCELLED");
  }
}

TEST_F(LifetimeTest, ServerDestroyedInAStreamCallback) {
  Recorder recorder, other;
  auto call = open_stream(recorder);
  auto other_call = open_stream(other);
  Accepted& served = *accepted.front();
  served.when_message = [&](const std::string&) { server.reset(); };
  fill(*call);
  fill(*other_call);
  env.settle();
  EXPECT_EQ(outcome(recorder.status), "CONNECTION_LOST");
  EXPECT_EQ(outcome(served.status), "CONNECTION_LOST");
  EXPECT_EQ(outcome(accepted.back()->status), "CONNECTION_LOST");
  accepted.clear();
  env.settle();
}

TEST_F(LifetimeTest, ServerDestroyedInAMethod) {
  server->add_unary_method("/t/Kill", [this](Message, const Metadata&, Callback<void(Result<Slice>)> respond) {
    server.reset();
    respond(Slice());
  });
  server->add_stream_method("/t/KillStream", [this](std::unique_ptr<ServerCall>, CallHandler**) { server.reset(); });
  std::optional<Status> status;
  channel->unary("/t/Kill", slice("x"), 1s, [&](Result<Message> result) { status = result.status(); });
  env.settle();
  EXPECT_EQ(outcome(status), "CONNECTION_LOST");
}

TEST_F(LifetimeTest, AUnaryAnswerAfterTheEnd) {
  Callback<void(Result<Slice>)> respond;
  server->add_unary_method(
      "/t/Later", [&](Message, const Metadata&, Callback<void(Result<Slice>)> given) { respond = std::move(given); });
  enum How { kDeadline, kTwice, kServerGone };
  for (How how : {kDeadline, kTwice, kServerGone}) {
    std::optional<Status> status;
    channel->unary("/t/Later", slice("x"), 1s, [&](Result<Message> result) { status = result.status(); });
    env.settle();
    ASSERT_TRUE(respond);
    if (how == kDeadline) env.advance(2s);
    if (how == kServerGone) server.reset();
    respond(slice("late"));
    respond(slice("twice"));
    env.settle();
    EXPECT_EQ(outcome(status), how == kDeadline ? "TIMED_OUT" : how == kTwice ? "OK" : "CONNECTION_LOST");
  }
}

TEST_F(LifetimeTest, EverythingGoesInAnyOrderAndNoMemoryStays) {
  for (int order = 0; order < 6; ++order) {
    channel.reset();
    server.reset();
    accepted.clear();
    start_server({});
    auto recorder = std::make_unique<Recorder>();
    auto call = open_stream(*recorder);
    fill(*call);
    fill(*accepted.back()->call);
    env.turn();
    for (int step = 0; step < 3; ++step) {
      switch ((order + step * (order < 3 ? 1 : 2)) % 3) {
        case 0:
          call.reset();
          break;
        case 1:
          channel.reset();
          break;
        default:
          server.reset();
      }
      env.turn();
    }
    env.settle();
  }
  accepted.clear();
  env.advance(60s);
  EXPECT_EQ(env.buffers().bytes_in_use(), 0u);
}

}  // namespace
}  // namespace holdfast::rpc::testing
