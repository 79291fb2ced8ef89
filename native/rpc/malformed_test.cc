// A raw client that breaks the rules of HTTP/2 and gRPC, one after the other. The server must answer as the documents
// say, must never crash, and must go on serving others.
#include "rpc/codec.h"
#include "rpc/connection.h"
#include "rpc/testing/fixture.h"
#include "rpc/testing/raw_peer.h"

namespace holdfast::rpc::testing {
namespace {

class MalformedTest : public RpcTest {
 protected:
  // Whatever a test did, the server still serves a proper client.
  void TearDown() override {
    std::optional<Status> status;
    auto fresh = Channel::create(env, address);
    fresh->unary("/t/Echo", slice("still here"), 1s, [&](Result<Message> result) { status = result.status(); });
    env.advance(1ms);
    EXPECT_EQ(outcome(status), "OK");
  }

  std::string open_call(std::uint32_t id, std::string_view path = "/t/Stream", std::string_view more = {}) {
    return frame(kHeaders, kEndHeaders, id, request_fields(path, more));
  }
};

TEST_F(MalformedTest, BadPrefaces) {
  for (std::string bytes : {std::string("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), std::string(24, '\0'),
                            std::string("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r"), std::string("\x16\x03\x01\x02\x00\x01")}) {
    RawPeer peer(env, address);
    peer.send(bytes);
    EXPECT_TRUE(peer.closed) << bytes;
  }
}

TEST_F(MalformedTest, APrefaceThatNeverEndsIsCutByKeepAlive) {
  RawPeer peer(env, address);
  peer.send("PRI * HTT");
  EXPECT_FALSE(peer.closed);
  env.advance(11s);
  EXPECT_TRUE(peer.closed);
}

TEST_F(MalformedTest, EveryCutOfAConversationIsSurvived) {
  std::string conversation = preface() + open_call(1) + frame(kData, 0, 1, message("hello")) +
                             frame(kData, kEndStream, 1, message("world")) + open_call(3, "/t/Echo") +
                             frame(kData, kEndStream, 3, message(std::string(3000, 'e')));
  for (std::size_t size = 0; size <= conversation.size(); ++size) {
    RawPeer peer(env, address);
    peer.send(std::string_view(conversation).substr(0, size));
    peer.stream.reset();
    env.settle();
  }
  for (auto& call : accepted) EXPECT_TRUE(call->status) << "a broken connection ends its calls";
  accepted.clear();
  env.advance(1s);
}

TEST_F(MalformedTest, EverySingleByteFlippedIsSurvived) {
  std::string conversation =
      preface() + open_call(1) + frame(kData, 0, 1, message("hello")) + frame(kData, kEndStream, 1, message("world"));
  for (std::size_t i = 0; i < conversation.size(); ++i) {
    for (int flip : {0x01, 0x80, 0xff}) {
      std::string bytes = conversation;
      bytes[i] = static_cast<char>(bytes[i] ^ flip);
      RawPeer peer(env, address);
      peer.send(bytes);
      peer.stream.reset();
      env.settle();
    }
    accepted.clear();
  }
}

TEST_F(MalformedTest, AMessageThatEndsInTheMiddle) {
  RawPeer peer(env, address);
  peer.send(preface() + open_call(1) + frame(kData, kEndStream, 1, message("hello").substr(0, 7)));
  ASSERT_EQ(accepted.size(), 1u);
  EXPECT_EQ(outcome(accepted[0]->status), "PROTOCOL");
  EXPECT_EQ(peer.count(kHeaders), 1u);
  EXPECT_FALSE(peer.closed);
}

TEST_F(MalformedTest, ACompressedMessage) {
  RawPeer peer(env, address);
  peer.send(preface() + open_call(1) + frame(kData, 0, 1, message("hello", 1)));
  EXPECT_EQ(outcome(accepted.at(0)->status), "UNIMPLEMENTED");
  EXPECT_TRUE(accepted[0]->messages.empty());
  EXPECT_EQ(peer.count(kRstStream), 1u) << "the trailers end the call, the reset ends the client's half";
}

TEST_F(MalformedTest, AnOversizeMessage) {
  RawPeer peer(env, address);
  peer.send(preface() + open_call(1) + frame(kData, 0, 1, std::string("\0\0\x40\0\x01 and some", 14)));
  EXPECT_EQ(outcome(accepted.at(0)->status), "MESSAGE_TOO_LARGE");
}

TEST_F(MalformedTest, RequestsThatAreNotGrpc) {
  for (const std::string& fields :
       {field(":method", "GET") + field(":scheme", "http") + field(":path", "/t/Stream") + field(":authority", "x"),
        field(":method", "POST") + field(":scheme", "http") + field(":path", "/t/Stream") + field(":authority", "x") +
            field("content-type", "application/json"),
        field(":method", "POST") + field(":scheme", "http") + field(":path", "/t/Stream") + field(":authority", "x") +
            field("content-type", "application/grpcx")}) {
    RawPeer peer(env, address);
    peer.send(preface() + frame(kHeaders, kEndHeaders, 1, fields) + frame(kData, kEndStream, 1, "body"));
    EXPECT_EQ(peer.count(kHeaders), 1u);
    EXPECT_FALSE(peer.closed);
  }
  EXPECT_TRUE(accepted.empty());
}

TEST_F(MalformedTest, BadTimeoutsAndMetadataAreAnswered) {
  for (const std::string& more :
       {field("grpc-timeout", "soon"), field("token-bin", "???"), field("big", std::string(kHeaderBytesMax, 'b'))}) {
    RawPeer peer(env, address);
    std::string fields = request_fields("/t/Stream", more);
    peer.send(preface() + frame(kHeaders, 0, 1, fields.substr(0, 100)) +
              frame(kContinuation, kEndHeaders, 1, fields.substr(100)));
    EXPECT_EQ(peer.count(kHeaders), 1u);
    EXPECT_FALSE(peer.closed);
  }
  EXPECT_TRUE(accepted.empty());
}

TEST_F(MalformedTest, UnknownFrameTypesAndSettingsAreIgnored) {
  RawPeer peer(env, address);
  peer.send(preface() + frame(0x42, 0xff, 0, "whatever") + setting(0x99, 1) + frame(0x43, 0, 1, "") + open_call(1) +
            frame(kData, kPadded, 1, std::string(1, '\3') + message("m") + "pad"));
  ASSERT_EQ(accepted.size(), 1u);
  EXPECT_EQ(accepted[0]->messages, std::vector<std::string>{"m"});
}

TEST_F(MalformedTest, FramesThatBreakTheConnection) {
  const std::string cases[] = {
      frame(kData, 0, 0, "x"),                                          // DATA on stream 0
      frame(kData, 0, 5, "x"),                                          // DATA on an idle stream
      frame(kHeaders, kEndHeaders, 2, request_fields("/t/Stream")),     // even stream id from a client
      frame(kHeaders, kEndHeaders, 1, "\xff\xff\xff\xff\xff\xff\xff"),  // broken HPACK
      frame(kHeaders, 0, 1, "") + frame(kPing, 0, 0, "12345678"),       // header block interrupted
      frame(kContinuation, kEndHeaders, 1, ""),                         // CONTINUATION of nothing
      frame(kPing, 0, 0, "1234"),                                       // wrong size
      frame(kSettings, 0, 0, "12345"),                                  // wrong size
      setting(4, 0xffffffff),                                           // window beyond 2^31-1
      setting(5, 1),                                                    // frame size below the minimum
      window_update(0, 0),                                              // increment 0
      window_update(0, 0x7fffffff),                                     // connection window overflow
      frame(kPushPromise, kEndHeaders, 1, big_endian(2, 4)),            // a client cannot push
      frame(kRstStream, 0, 9, big_endian(0, 4)),                        // reset of an idle stream
      std::string("\xff\xff\xff\0\0\0\0\0\1", 9),                       // a frame far beyond the maximum
  };
  for (const std::string& bytes : cases) {
    RawPeer peer(env, address);
    peer.send(preface() + bytes);
    env.advance(2s);
    EXPECT_TRUE(peer.closed) << "case " << &bytes - cases;
  }
}

TEST_F(MalformedTest, AStreamWindowOverflowResetsTheStreamOnly) {
  RawPeer peer(env, address);
  peer.send(preface() + open_call(1) + open_call(3));
  peer.send(window_update(1, 0x7fffffff));
  ASSERT_EQ(accepted.size(), 2u);
  EXPECT_TRUE(accepted[0]->status);
  EXPECT_FALSE(accepted[1]->status);
  EXPECT_FALSE(peer.closed);
}

TEST_F(MalformedTest, MoreDataThanTheWindowAllows) {
  RawPeer peer(env, address);
  peer.send(preface() + open_call(1));
  accepted.at(0)->call->pause_receiving();
  std::string payload(kFrameBytesMax, '\0');  // empty messages
  for (int i = 0; i < 5 && !peer.closed; ++i) peer.send(frame(kData, 0, 1, payload));
  env.advance(2s);
  EXPECT_TRUE(accepted[0]->status);
}

TEST_F(MalformedTest, DataAndHeadersAfterTheEnd) {
  RawPeer peer(env, address);
  peer.send(preface() + open_call(1) + open_call(3) + frame(kData, kEndStream, 1, message("last")));
  peer.send(frame(kData, 0, 1, message("more")));
  EXPECT_EQ(accepted.at(0)->messages.size(), 1u);
  RawPeer second(env, address);
  second.send(preface() + open_call(1) + frame(kHeaders, kEndHeaders | kEndStream, 1, field("late", "trailer")) +
              open_call(1));
  EXPECT_TRUE(accepted.at(2)->peer_finished);
}

TEST_F(MalformedTest, DataOnAClosedStreamIsIgnoredAndStillCredited) {
  RawPeer peer(env, address);
  peer.send(preface() + open_call(1));
  accepted.at(0)->call->finish(Status());
  env.settle();
  peer.received.clear();
  // A client that has not read the reset yet keeps sending: more than the connection's window in all.
  std::string payload(kFrameBytesMax, 'x');
  for (int i = 0; i < 100; ++i) peer.send(frame(kData, 0, 1, payload));
  EXPECT_FALSE(peer.closed);
  EXPECT_GT(peer.count(kWindowUpdate), 0u);
}

TEST_F(MalformedTest, FloodsOfCheapFramesEndTheConnection) {
  std::string many_settings, many_pings, many_priorities, many_empty, many_continuations;
  for (int i = 0; i < 20'000; ++i) {
    many_settings += frame(kSettings, 0, 0, "");
    many_pings += frame(kPing, 0, 0, "12345678");
    many_priorities += frame(kPriority, 0, 1, std::string("\0\0\0\0\x10", 5));
    many_empty += frame(kData, 0, 1, "");
    many_continuations += frame(kContinuation, 0, 3, "");
  }
  for (const std::string& flood :
       {many_settings, many_pings, many_priorities, many_empty, frame(kHeaders, 0, 3, "") + many_continuations}) {
    RawPeer peer(env, address);
    peer.send(preface() + open_call(1) + flood);
    env.advance(2s);
    EXPECT_TRUE(peer.closed);
  }
}

TEST_F(MalformedTest, RapidResetsEndTheConnection) {
  RawPeer peer(env, address);
  peer.send(preface());
  for (std::uint32_t id = 1; id < 60'000 && !peer.closed; id += 2) {
    peer.send(open_call(id) + frame(kRstStream, 0, id, std::string("\0\0\0\x08", 4)));
    accepted.clear();
  }
  EXPECT_TRUE(peer.closed);
}

TEST_F(MalformedTest, PingsWithoutReadingTheAnswersDoNotGrowMemory) {
  RawPeer peer(env, address);
  peer.send(preface() + open_call(1));
  peer.stream->pause_receiving();
  for (int i = 0; i < 20; ++i) send(*accepted.at(0)->call, std::string(1 << 20, 'x'));
  peer.send(window_update(0, 1u << 28) + window_update(1, 1u << 28));
  EXPECT_LT(env.newest().ends[0].inbound.size(), 10u << 20) << "not all of it is pulled at once";
  std::string pings;
  for (int i = 0; i < 5000; ++i) pings += frame(kPing, 0, 0, "12345678");
  peer.send(pings);
  env.settle();
  EXPECT_TRUE(accepted[0]->status);
}

TEST_F(MalformedTest, AHeaderBombEndsTheConnection) {
  RawPeer peer(env, address);
  // One large field put into the dynamic table, then named thousands of times by one byte each.
  std::string bomb = std::string("\x40", 1) + hpack_length(1) + "a" + hpack_length(3000) + std::string(3000, 'v');
  bomb += std::string(10'000, '\xbe');
  peer.send(preface() + frame(kHeaders, kEndHeaders, 1, request_fields("/t/Stream", bomb)));
  EXPECT_TRUE(peer.closed);
  EXPECT_TRUE(accepted.empty());
}

TEST_F(MalformedTest, ManyCallsWithIncompleteMessagesAreBounded) {
  RawPeer peer(env, address);
  peer.send(preface());
  for (std::uint32_t i = 0; i < 200; ++i) {
    peer.send(open_call(2 * i + 1) + frame(kData, 0, 2 * i + 1, std::string("\0\0\x40\0\0", 5)));
  }
  int ended = 0;
  for (auto& call : accepted) ended += call->status.has_value();
  EXPECT_EQ(accepted.size(), 200u);
  EXPECT_EQ(ended, 200 - 128);
  peer.stream.reset();
  env.settle();
  accepted.clear();
}

TEST_F(MalformedTest, UnaryCallsWithTheWrongNumberOfMessages) {
  for (const std::string& body : {std::string(), message("a") + message("b")}) {
    RawPeer peer(env, address);
    peer.send(preface() + open_call(1, "/t/Echo") + frame(kData, kEndStream, 1, body));
    EXPECT_EQ(peer.count(kHeaders), 1u) << "an error with trailers only";
    EXPECT_EQ(peer.count(kData), 0u);
  }
}

}  // namespace
}  // namespace holdfast::rpc::testing
