// Calls between our client and our server: messages, ends, deadlines, flow control, keep-alive, GOAWAY.
#include "rpc/connection.h"
#include "rpc/testing/fixture.h"

namespace holdfast::rpc::testing {
namespace {

using CallsTest = RpcTest;

TEST_F(CallsTest, UnaryCallsAnswerInAnyChunking) {
  for (std::size_t chunk : {1u, 3u, 64u, 65536u}) {
    env.chunk_bytes = chunk;
    for (std::size_t size : {0u, 1u, 4096u, 70'000u}) {
      std::string body(size, 'b');
      std::optional<std::string> answer;
      channel->unary("/t/Echo", slice(body), 10s, [&](Result<Message> result) {
        ASSERT_TRUE(result.ok()) << result.error().to_string();
        answer = result->text();
      });
      env.settle();
      EXPECT_EQ(answer, body);
    }
  }
}

TEST_F(CallsTest, ErrorCodesAndTextsTravel) {
  std::optional<Status> status;
  channel->unary("/t/Fail", slice("epoch 7 < 9 \xe2\x82\xac 100%\n"), std::nullopt,
                 [&](Result<Message> result) { status = result.status(); });
  env.settle();
  EXPECT_EQ(outcome(status), "EPOCH_SUPERSEDED");
  EXPECT_EQ(status->error().message(), "epoch 7 < 9 \xe2\x82\xac 100%\n");
}

TEST_F(CallsTest, LongErrorTextsAreCutAtACharacter) {
  std::string text(2047, 'x');
  text += "\xe2\x82\xac and more";
  std::optional<Status> status;
  channel->unary("/t/Fail", slice(text), std::nullopt, [&](Result<Message> result) { status = result.status(); });
  env.settle();
  EXPECT_EQ(status->error().message(), std::string(2047, 'x'));
}

TEST_F(CallsTest, UnknownMethodIsUnimplemented) {
  std::optional<Status> status;
  channel->unary("/t/Nothing", slice("x"), std::nullopt, [&](Result<Message> result) { status = result.status(); });
  env.settle();
  EXPECT_EQ(outcome(status), "UNIMPLEMENTED");
}

TEST_F(CallsTest, NoCallbackComesFromInsideTheCall) {
  bool called = false;
  std::string large(kMessageBytesMax + 1, 'x');
  channel->unary("/t/Echo", slice(large), std::nullopt, [&](Result<Message> result) {
    called = true;
    EXPECT_EQ(outcome(result.status()), "MESSAGE_TOO_LARGE");
  });
  EXPECT_FALSE(called);
  env.settle();
  EXPECT_TRUE(called);
  Recorder recorder;
  auto call = channel->start("/t/Stream", {{"Bad Key", "x"}}, std::nullopt, &recorder);
  EXPECT_EQ(outcome(recorder.status), "(not ended)");
  env.settle();
  EXPECT_EQ(outcome(recorder.status), "INVALID_ARGUMENT");
}

TEST_F(CallsTest, BidirectionalStream) {
  Recorder recorder;
  auto call = open_stream(recorder);
  Accepted& served = *accepted.back();
  served.when_message = [&](const std::string& text) { send(*served.call, "ack " + text); };
  served.when_peer_finished = [&] { served.call->finish(Status()); };
  for (int i = 0; i < 100; ++i) send(*call, std::to_string(i));
  env.settle();
  ASSERT_EQ(recorder.messages.size(), 100u);
  EXPECT_EQ(recorder.messages[99], "ack 99");
  EXPECT_EQ(outcome(recorder.status), "(not ended)");
  call->finish_sending();
  env.settle();
  EXPECT_EQ(outcome(recorder.status), "OK");
  EXPECT_FALSE(served.status) << "the server finished: nothing more to hear";
}

TEST_F(CallsTest, ServerMayFinishFirstAndDestroyItsCall) {
  Recorder recorder;
  auto call = open_stream(recorder);
  send(*accepted.back()->call, std::string(300'000, 'z'));
  accepted.back()->call->finish(Error(ErrorCode::kNoSpace, "full"));
  accepted.clear();
  env.settle();
  EXPECT_EQ(recorder.messages.size(), 1u);
  EXPECT_EQ(outcome(recorder.status), "NO_SPACE");
  send(*call, "nobody reads this");
  env.settle();
}

TEST_F(CallsTest, FramesOfOneTurnGoOutAsOneSend) {
  Recorder recorder;
  auto call = open_stream(recorder);
  auto* stream = static_cast<MemoryStream*>(env.newest().ends[0].stream);
  std::size_t sends = stream->sends;
  std::size_t parts = stream->parts_sent;
  for (int i = 0; i < 32; ++i) send(*call, "small");
  env.settle();
  EXPECT_EQ(stream->sends, sends + 1);
  EXPECT_EQ(stream->parts_sent, parts + 1) << "small parts are packed together";
  EXPECT_EQ(accepted.back()->messages.size(), 32u);
}

TEST_F(CallsTest, MetadataTravelsWithBinaryValues) {
  Recorder recorder;
  std::string binary("\0\xff\x80 x,y", 7);
  auto call = open_stream(recorder, std::nullopt, {{"volume", "pvc-1"}, {"token-bin", binary}, {"empty", ""}});
  EXPECT_EQ(accepted.back()->call->metadata(), (Metadata{{"volume", "pvc-1"}, {"token-bin", binary}, {"empty", ""}}));
}

TEST_F(CallsTest, DestroyingTheClientCallCancels) {
  Recorder recorder;
  auto call = open_stream(recorder);
  call.reset();
  env.settle();
  EXPECT_EQ(outcome(accepted.back()->status), "CANCELLED");
  EXPECT_FALSE(recorder.status);
}

TEST_F(CallsTest, DestroyingTheServerCallCancels) {
  Recorder recorder;
  auto call = open_stream(recorder);
  accepted.back()->call.reset();
  env.settle();
  EXPECT_EQ(outcome(recorder.status), "CANCELLED");
}

TEST_F(CallsTest, CancelBeforeTheConnectionExists) {
  Recorder recorder;
  auto call = channel->start("/t/Stream", {}, 1s, &recorder);
  call.reset();
  env.advance(2s);
  EXPECT_TRUE(accepted.empty());
  EXPECT_FALSE(recorder.status);
}

TEST_F(CallsTest, DeadlinesEndBothSides) {
  Recorder recorder;
  auto call = open_stream(recorder, 500ms);
  env.advance(499ms);
  EXPECT_FALSE(recorder.status);
  EXPECT_FALSE(accepted.back()->status);
  env.advance(2ms);
  EXPECT_EQ(outcome(recorder.status), "TIMED_OUT");
  ASSERT_TRUE(accepted.back()->status);
  EXPECT_NE(outcome(accepted.back()->status), "OK");
}

TEST_F(CallsTest, TheServerEnforcesTheDeadlineByItself) {
  Recorder recorder;
  auto call = open_stream(recorder, 500ms);
  env.frozen_network = true;
  env.advance(600ms);
  EXPECT_EQ(outcome(accepted.back()->status), "TIMED_OUT");
}

TEST_F(CallsTest, ADeadlineAppliesWhileConnecting) {
  env.refuse_connections = false;
  Recorder recorder;
  channel = Channel::create(env, {"127.0.0.1", 9, ""});
  auto call = channel->start("/t/Stream", {}, 1ns, &recorder);
  env.advance(1us);
  EXPECT_TRUE(recorder.status);
}

TEST_F(CallsTest, ARefusedConnectionEndsAllWaitingCallsAndTheNextCallTriesAgain) {
  env.refuse_connections = true;
  Recorder first, second;
  auto call_1 = channel->start("/t/Stream", {}, std::nullopt, &first);
  auto call_2 = channel->start("/t/Stream", {}, std::nullopt, &second);
  EXPECT_EQ(channel->last_heard(), std::nullopt);
  env.settle();
  EXPECT_EQ(outcome(first.status), "CONNECTION_LOST");
  EXPECT_EQ(outcome(second.status), "CONNECTION_LOST");
  env.refuse_connections = false;
  Recorder third;
  auto call_3 = open_stream(third);
  EXPECT_TRUE(channel->last_heard());
}

TEST_F(CallsTest, ACutConnectionEndsCallsOnBothSides) {
  Recorder recorder;
  auto call = open_stream(recorder);
  std::optional<Status> unary;
  env.cut_newest();
  channel->unary("/t/Echo", slice("x"), std::nullopt, [&](Result<Message> result) { unary = result.status(); });
  env.settle();
  EXPECT_EQ(outcome(recorder.status), "CONNECTION_LOST");
  EXPECT_EQ(outcome(accepted.back()->status), "CONNECTION_LOST");
  EXPECT_EQ(outcome(unary), "CONNECTION_LOST");
  Recorder again;
  auto call_2 = open_stream(again);
  EXPECT_FALSE(again.status);
}

TEST_F(CallsTest, ManyConcurrentStreamsWithLargeMessages) {
  std::vector<std::unique_ptr<Recorder>> recorders;
  std::vector<std::unique_ptr<ClientCall>> calls;
  for (int i = 0; i < 100; ++i) {
    recorders.push_back(std::make_unique<Recorder>());
    calls.push_back(open_stream(*recorders.back()));
    Accepted& served = *accepted.back();
    served.when_message = [this, &served](const std::string& text) { send(*served.call, text); };
  }
  for (int i = 0; i < 100; ++i) send(*calls[i], std::string(300'000 + i, static_cast<char>('a' + i % 26)));
  env.settle();
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(recorders[i]->messages.size(), 1u);
    EXPECT_EQ(recorders[i]->messages[0], std::string(300'000 + i, static_cast<char>('a' + i % 26)));
  }
}

TEST_F(CallsTest, TheLargestMessagePasses) {
  Recorder recorder;
  auto call = open_stream(recorder);
  std::string largest(kMessageBytesMax, 'm');
  send(*call, largest);
  env.settle();
  ASSERT_EQ(accepted.back()->messages.size(), 1u);
  EXPECT_EQ(accepted.back()->messages[0], largest);
}

TEST_F(CallsTest, APausedCallStopsItsPeerAndNotTheOthers) {
  Recorder slow, quick;
  auto slow_call = open_stream(slow);
  Accepted& slow_served = *accepted.back();
  auto quick_call = open_stream(quick);
  Accepted& quick_served = *accepted.back();
  slow_served.call->pause_receiving();
  const std::string message(1u << 20, 'm');
  for (int i = 0; i < 20; ++i) send(*slow_call, message);
  for (int i = 0; i < 20; ++i) send(*quick_call, message);
  env.settle();
  EXPECT_EQ(quick_served.messages.size(), 20u);
  EXPECT_EQ(quick_call->unsent_bytes(), 0u);
  EXPECT_LE(slow_served.messages.size(), 4u);
  std::size_t window = static_cast<std::size_t>(kStreamWindowBytes);
  EXPECT_EQ(slow_call->unsent_bytes(), 20 * (message.size() + 5) - window);
  EXPECT_EQ(slow.drained, 0);
  slow_served.call->resume_receiving();
  env.settle();
  EXPECT_EQ(slow_served.messages.size(), 20u);
  EXPECT_EQ(slow_call->unsent_bytes(), 0u);
  EXPECT_EQ(slow.drained, 1);
}

TEST_F(CallsTest, PausingBetweenMessagesAgainAndAgain) {
  Recorder recorder;
  auto call = open_stream(recorder);
  Accepted& served = *accepted.back();
  served.when_message = [&](const std::string&) { served.call->pause_receiving(); };
  for (int i = 0; i < 50; ++i) send(*call, std::string(500'000, 'x'));
  for (int turns = 0; served.messages.size() < 50 && turns < 200; ++turns) {
    env.settle();
    served.call->resume_receiving();
  }
  EXPECT_EQ(served.messages.size(), 50u);
}

TEST_F(CallsTest, AChannelWithoutCallsNeedsNoAnswers) {
  channel->unary("/t/Echo", slice("x"), std::nullopt, [](Result<Message>) {});
  env.settle();
  env.frozen_network = true;
  env.advance(4s);
  env.thaw();
  std::optional<Status> status;
  channel->unary("/t/Echo", slice("x"), std::nullopt, [&](Result<Message> result) { status = result.status(); });
  env.settle();
  EXPECT_EQ(outcome(status), "OK");
}

TEST_F(CallsTest, KeepAliveConfirmsByTheTimeOfAsking) {
  Recorder recorder;
  auto call = open_stream(recorder);
  EXPECT_TRUE(channel->confirmed_at());
  env.advance(10s);
  EXPECT_FALSE(recorder.status);
  EXPECT_GE(*channel->confirmed_at(), env.now() - 1100ms);
  Nanos asked = *channel->confirmed_at();
  env.frozen_network = true;
  env.advance(1500ms);
  EXPECT_LE(*channel->confirmed_at(), asked + 1s);
  env.thaw();
  env.settle();
  EXPECT_LE(*channel->confirmed_at(), env.now() - 400ms) << "a late answer proves only what it was asked";
}

TEST_F(CallsTest, AProbeHearsOfTheServerAtOnce) {
  channel->probe();  // not connected: nothing to ask
  Recorder recorder;
  auto call = open_stream(recorder);
  env.advance(1300ms);
  Nanos now = env.now();
  EXPECT_LT(*channel->last_heard(), now);
  channel->probe();
  channel->probe();
  env.settle();
  EXPECT_GE(*channel->last_heard(), now);
  EXPECT_GE(*channel->confirmed_at(), now);
}

TEST_F(CallsTest, ASilentPeerBreaksTheConnectionOnBothSides) {
  Recorder recorder;
  auto call = open_stream(recorder);
  env.frozen_network = true;
  env.advance(2900ms);
  EXPECT_FALSE(recorder.status);
  env.advance(300ms);
  EXPECT_EQ(outcome(recorder.status), "CONNECTION_LOST");
  EXPECT_EQ(channel->confirmed_at(), std::nullopt);
  env.advance(10s);
  EXPECT_EQ(outcome(accepted.back()->status), "CONNECTION_LOST");
}

TEST_F(CallsTest, AProcessThatStoodStillDoesNotBlameItsPeer) {
  Recorder recorder;
  auto call = open_stream(recorder);
  env.frozen_network = true;
  env.advance(1500ms);  // a PING is out
  env.stall(60s);
  env.frozen_network = false;
  env.advance(0ns);  // the timer comes late, the answer comes after it
  env.thaw();
  env.advance(1s);
  EXPECT_FALSE(recorder.status);
}

TEST_F(CallsTest, DrainLetsCallsEndAndRefusesNewOnes) {
  Recorder recorder;
  auto call = open_stream(recorder);
  bool drained = false;
  server->drain([&] { drained = true; });
  env.settle();
  EXPECT_FALSE(drained);
  EXPECT_FALSE(recorder.status);
  std::optional<Status> late;
  channel->unary("/t/Echo", slice("x"), std::nullopt, [&](Result<Message> result) { late = result.status(); });
  env.settle();
  EXPECT_EQ(outcome(late), "CONNECTION_LOST");
  send(*call, "still served");
  env.settle();
  EXPECT_EQ(accepted.back()->messages.size(), 1u);
  accepted.back()->call->finish(Status());
  env.advance(2s);
  EXPECT_EQ(outcome(recorder.status), "OK");
  EXPECT_TRUE(drained);
}

TEST_F(CallsTest, CallsOnTheirWayWhenDrainBeginsAreServed) {
  Recorder recorder;
  auto call = open_stream(recorder);
  std::optional<Status> crossing;
  channel->unary("/t/Echo", slice("x"), std::nullopt, [&](Result<Message> result) { crossing = result.status(); });
  bool drained = false;
  server->drain([&] { drained = true; });
  env.settle();
  EXPECT_EQ(outcome(crossing), "OK");
  call.reset();
  env.advance(2s);
  EXPECT_TRUE(drained);
}

TEST_F(CallsTest, DrainWithoutConnectionsIsDoneALittleLater) {
  bool drained = false;
  server->drain([&] { drained = true; });
  EXPECT_FALSE(drained);
  env.settle();
  EXPECT_TRUE(drained);
}

TEST_F(CallsTest, AfterGoawayNewCallsUseANewConnection) {
  Recorder recorder;
  auto call = open_stream(recorder);
  auto old_server = std::move(server);
  auto old_channel_address = address;
  old_server->drain([] {});
  env.settle();
  // The successor listens at the same address.
  server = Server::create(env);
  server->add_unary_method("/t/Echo", [](Message request, const Metadata&, Callback<void(Result<Slice>)> respond) {
    respond(std::move(request));
  });
  ASSERT_TRUE(server->listen(old_channel_address).ok());
  std::optional<Status> status;
  channel->unary("/t/Echo", slice("x"), std::nullopt, [&](Result<Message> result) { status = result.status(); });
  env.settle();
  EXPECT_EQ(outcome(status), "OK");
  EXPECT_FALSE(recorder.status) << "the old call goes on over the old connection";
  call.reset();
  env.advance(2s);
}

TEST_F(CallsTest, TheServersStreamLimitMakesCallsWait) {
  channel.reset();
  ServerOptions options;
  options.concurrent_streams_max = 3;
  accepted.clear();
  start_server(options);
  std::vector<std::unique_ptr<Recorder>> recorders;
  std::vector<std::unique_ptr<ClientCall>> calls;
  Recorder warm_up;
  open_stream(warm_up).reset();
  env.settle();
  accepted.clear();
  for (int i = 0; i < 10; ++i) {
    recorders.push_back(std::make_unique<Recorder>());
    calls.push_back(channel->start("/t/Stream", {}, std::nullopt, recorders.back().get()));
    send(*calls.back(), std::to_string(i));
  }
  env.settle();
  EXPECT_EQ(accepted.size(), 3u);
  calls[5].reset();  // cancelled while it waits: never reaches the server
  for (std::size_t i = 0; i < accepted.size(); ++i) {
    accepted[i]->call->finish(Status());
    env.settle();
  }
  EXPECT_EQ(accepted.size(), 9u);
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(outcome(recorders[i]->status), i == 5 ? "(not ended)" : "OK") << i;
  }
}

TEST_F(CallsTest, ConnectionsBeyondTheLimitAreRefused) {
  channel.reset();
  ServerOptions options;
  options.connections_max = 1;
  start_server(options);
  Recorder recorder;
  auto call = open_stream(recorder);
  auto second = Channel::create(env, address);
  std::optional<Status> status;
  second->unary("/t/Echo", slice("x"), std::nullopt, [&](Result<Message> result) { status = result.status(); });
  env.settle();
  EXPECT_EQ(outcome(status), "CONNECTION_LOST");
  EXPECT_FALSE(recorder.status);
}

TEST_F(CallsTest, ASteadyStreamHoldsNoMemory) {
  Recorder recorder;
  auto call = open_stream(recorder);
  Accepted& served = *accepted.back();
  served.when_message = [&](const std::string&) { send(*served.call, "ack"); };
  std::size_t in_use = 0;
  for (int round = 0; round < 200; ++round) {
    for (int i = 0; i < 32; ++i) send(*call, std::string(4096, 'd'));
    env.settle();
    if (round == 20) in_use = env.buffers().bytes_in_use();
  }
  EXPECT_EQ(env.buffers().bytes_in_use(), in_use);
  EXPECT_EQ(recorder.messages.size(), 6400u);
}

}  // namespace
}  // namespace holdfast::rpc::testing
