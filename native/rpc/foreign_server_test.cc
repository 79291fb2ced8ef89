// A channel against a raw server: answers that are not gRPC, resets, GOAWAY, and all kinds of nonsense.
#include "rpc/connection.h"
#include "rpc/testing/fixture.h"
#include "rpc/testing/raw_peer.h"

namespace holdfast::rpc::testing {
namespace {

class ForeignServerTest : public ::testing::Test {
 protected:
  ForeignServerTest() : peer(env), channel(Channel::create(env, peer.address())) {}

  // Starts a call (ids 1, 3, ...) and gives the server's SETTINGS and `answer`; says how the call ended.
  std::string outcome_of(std::string_view answer) {
    Recorder recorder;
    auto call = channel->start("/f/Method", {}, std::nullopt, &recorder);
    env.settle();
    peer.send(frame(kSettings, 0, 0, "") + frame(kSettings, kAck, 0, "") + std::string(answer));
    std::string text = outcome(recorder.status);
    messages = recorder.messages;
    status = recorder.status;
    channel = Channel::create(env, peer.address());
    env.settle();
    return text;
  }
  static std::string ok_headers() { return field(":status", "200") + field("content-type", "application/grpc"); }
  static std::string headers(std::string_view fields, bool end = false) {
    return frame(kHeaders, static_cast<unsigned char>(kEndHeaders | (end ? kEndStream : 0)), 1, fields);
  }

  MemoryEnv env;
  RawPeer peer;
  std::unique_ptr<Channel> channel;
  std::vector<std::string> messages;
  std::optional<Status> status;
};

TEST_F(ForeignServerTest, ProperAnswers) {
  EXPECT_EQ(outcome_of(headers(ok_headers()) + frame(kData, 0, 1, message("one") + message("")) +
                       headers(field("grpc-status", "0"), true)),
            "OK");
  EXPECT_EQ(messages, (std::vector<std::string>{"one", ""}));
  EXPECT_EQ(outcome_of(headers(ok_headers() + field("grpc-status", "5") + field("grpc-message", "no%20such"), true)),
            "NOT_FOUND");
  EXPECT_EQ(status->error().message(), "no such");
  EXPECT_EQ(outcome_of(headers(ok_headers() + field("grpc-status", "9") + field("holdfast-code", "LOG_GAP"), true)),
            "LOG_GAP");
  EXPECT_EQ(outcome_of(headers(field(":status", "103") + field("link", "x")) + headers(ok_headers()) +
                       headers(field("grpc-status", "0"), true)),
            "OK");
}

TEST_F(ForeignServerTest, AnswersThatAreNotGrpc) {
  auto http = [](const char* code) { return field(":status", code) + field("content-type", "text/html"); };
  EXPECT_EQ(outcome_of(headers(http("404"), true)), "UNIMPLEMENTED");
  EXPECT_EQ(outcome_of(headers(http("503")) + frame(kData, kEndStream, 1, "<html>")), "CONNECTION_LOST");
  EXPECT_EQ(outcome_of(headers(http("403"))), "FAILED_PRECONDITION");
  EXPECT_EQ(outcome_of(headers(http("200")) + frame(kData, kEndStream, 1, "<html>")), "PROTOCOL");
  EXPECT_EQ(outcome_of(headers(ok_headers()) + frame(kData, kEndStream, 1, message("m"))), "PROTOCOL");
  EXPECT_EQ(outcome_of(headers(ok_headers() + field("grpc-status", "x1"), true)), "INTERNAL");
  EXPECT_EQ(outcome_of(headers(ok_headers() + field("big", std::string(kHeaderBytesMax, 'b')), true)),
            "MESSAGE_TOO_LARGE");
}

TEST_F(ForeignServerTest, BrokenMessages) {
  EXPECT_EQ(outcome_of(headers(ok_headers()) + frame(kData, 0, 1, message("x", 1))), "UNIMPLEMENTED");
  EXPECT_EQ(outcome_of(headers(ok_headers()) + frame(kData, 0, 1, std::string("\0\x7f\0\0\0", 5))),
            "MESSAGE_TOO_LARGE");
  EXPECT_EQ(outcome_of(headers(ok_headers()) + frame(kData, 0, 1, message("cut off").substr(0, 8)) +
                       headers(field("grpc-status", "0"), true)),
            "PROTOCOL");
  EXPECT_EQ(outcome_of(headers(ok_headers()) + frame(kData, 0, 1, message("cut off").substr(0, 8)) +
                       headers(field("grpc-status", "14"), true)),
            "CONNECTION_LOST");
}

TEST_F(ForeignServerTest, ResetsMapToCodes) {
  auto reset = [](char code) { return frame(kRstStream, 0, 1, std::string(3, '\0') + code); };
  EXPECT_EQ(outcome_of(reset(0)), "INTERNAL");
  EXPECT_EQ(outcome_of(reset(1)), "PROTOCOL");
  EXPECT_EQ(outcome_of(reset(2)), "INTERNAL");
  EXPECT_EQ(outcome_of(reset(7)), "CONNECTION_LOST");
  EXPECT_EQ(outcome_of(reset(8)), "CANCELLED");
  EXPECT_EQ(outcome_of(reset(11)), "MESSAGE_TOO_LARGE");
}

TEST_F(ForeignServerTest, GoawayEndsCallsAboveTheLastIdOnly) {
  Recorder first, second;
  auto call_1 = channel->start("/f/Method", {}, std::nullopt, &first);
  auto call_2 = channel->start("/f/Method", {}, std::nullopt, &second);
  env.settle();
  peer.send(frame(kSettings, 0, 0, "") + frame(kGoaway, 0, 0, std::string("\0\0\0\1\0\0\0\0", 8)));
  EXPECT_FALSE(first.status);
  EXPECT_EQ(outcome(second.status), "CONNECTION_LOST");
  peer.send(headers(ok_headers()) + headers(field("grpc-status", "0"), true));
  EXPECT_EQ(outcome(first.status), "OK");
  env.advance(2s);
  EXPECT_TRUE(peer.closed);
  Recorder third;
  auto call_3 = channel->start("/f/Method", {}, std::nullopt, &third);
  env.settle();
  EXPECT_EQ(peer.connections, 2);
}

TEST_F(ForeignServerTest, GoawayWhileCallsWaitForTheStreamLimit) {
  std::vector<std::unique_ptr<Recorder>> recorders;
  std::vector<std::unique_ptr<ClientCall>> calls;
  for (int i = 0; i < 150; ++i) {
    recorders.push_back(std::make_unique<Recorder>());
    calls.push_back(channel->start("/f/Method", {}, std::nullopt, recorders.back().get()));
  }
  env.settle();
  EXPECT_EQ(peer.count(kHeaders), 100u) << "before the server's SETTINGS";
  peer.send(frame(kSettings, 0, 0, "") + frame(kGoaway, 0, 0, std::string("\x7f\xff\xff\xff\0\0\0\0", 8)));
  for (int i = 0; i < 150; ++i)
    EXPECT_EQ(outcome(recorders[i]->status), i < 100 ? "(not ended)" : "CONNECTION_LOST") << i;
}

TEST_F(ForeignServerTest, NonsenseEndsTheCallsWithConnectionLost) {
  for (const std::string& nonsense : {std::string("HTTP/1.1 400 Bad Request\r\n\r\n"), std::string(100, '\xff'),
                                      frame(kSettings, 0, 0, "") + frame(kSettings, kAck, 0, "") +
                                          frame(kPushPromise, kEndHeaders, 1, std::string("\0\0\0\2", 4)),
                                      frame(kSettings, 0, 0, "") + frame(kData, 0, 1, "before headers"),
                                      frame(kSettings, 0, 0, "") + frame(kHeaders, kEndHeaders, 2, ok_headers())}) {
    Recorder recorder;
    auto call = channel->start("/f/Method", {}, std::nullopt, &recorder);
    env.settle();
    peer.send(nonsense);
    env.advance(2s);
    EXPECT_NE(outcome(recorder.status), "(not ended)") << nonsense;
    EXPECT_NE(outcome(recorder.status), "OK");
    channel = Channel::create(env, peer.address());
  }
}

TEST_F(ForeignServerTest, EverySingleByteFlippedIsSurvived) {
  std::string answer = frame(kSettings, 0, 0, "") + headers(ok_headers()) + frame(kData, 0, 1, message("one")) +
                       headers(field("grpc-status", "0"), true);
  for (std::size_t i = 0; i < answer.size(); ++i) {
    for (int flip : {0x01, 0x80, 0xff}) {
      std::string bytes = answer;
      bytes[i] = static_cast<char>(bytes[i] ^ flip);
      Recorder recorder;
      auto call = channel->start("/f/Method", {}, std::nullopt, &recorder);
      env.settle();
      peer.send(bytes);
      peer.stream.reset();
      env.settle();
      EXPECT_TRUE(recorder.status);
      channel = Channel::create(env, peer.address());
    }
  }
}

TEST_F(ForeignServerTest, AServerThatNeverReadsOnlyFillsQueues) {
  Recorder recorder;
  auto call = channel->start("/f/Method", {}, std::nullopt, &recorder);
  env.settle();
  peer.send(setting(4, 0x7fffffff) + window_update(0, 0x70000000));
  peer.stream->pause_receiving();
  for (int i = 0; i < 40; ++i) {
    Slice part = env.buffers().copy_of(as_bytes(std::string(1 << 20, 'x')));
    call->send({&part, 1});
  }
  env.settle();
  EXPECT_GT(call->unsent_bytes(), 30u << 20);
  EXPECT_LT(env.newest().ends[1].inbound.size(), 10u << 20);
  peer.stream->resume_receiving();
  env.settle();
  EXPECT_EQ(call->unsent_bytes(), 0u);
}

TEST_F(ForeignServerTest, ACallWithALotToSendDoesNotHoldUpTheOthers) {
  Recorder first, second;
  auto bulk = channel->start("/f/Bulk", {}, std::nullopt, &first);
  auto small = channel->start("/f/Small", {}, std::nullopt, &second);
  env.settle();
  peer.send(frame(kSettings, kAck, 0, "") + setting(4, 0x7fffffff) + setting(5, 1 << 20) +
            window_update(0, 0x70000000));
  for (int i = 0; i < 40; ++i) {
    Slice part = env.buffers().copy_of(as_bytes(std::string(1 << 20, 'x')));
    bulk->send({&part, 1});
  }
  env.turn();
  Slice part = env.buffers().copy_of(as_bytes("small"));
  small->send({&part, 1});
  env.settle();
  std::size_t before = 0;
  for (const RawPeer::Frame& got : peer.frames()) {
    if (got.type == kData && got.stream == 3) break;
    before += got.payload.size();
  }
  EXPECT_EQ(bulk->unsent_bytes(), 0u);
  EXPECT_LT(before, 12u << 20) << "what is handed to the socket at once, and no more";
}

TEST_F(ForeignServerTest, ACallCancelledWhileItsFrameWaitsForTheSocket) {
  Recorder recorder;
  auto call = channel->start("/f/Method", {}, std::nullopt, &recorder);
  env.settle();
  peer.send(setting(4, 0x7fffffff) + window_update(0, 0x70000000));
  peer.stream->pause_receiving();
  for (int i = 0; i < 40; ++i) {
    Slice part = env.buffers().copy_of(as_bytes(std::string(1 << 20, 'x')));
    call->send({&part, 1});
  }
  env.settle();
  call.reset();
  Recorder second;
  auto next = channel->start("/f/Method", {}, std::nullopt, &second);
  peer.stream->resume_receiving();
  env.settle();
  EXPECT_FALSE(second.status);
  EXPECT_EQ(peer.count(kRstStream), 1u);
  EXPECT_EQ(peer.count(kHeaders), 2u);
}

}  // namespace
}  // namespace holdfast::rpc::testing
