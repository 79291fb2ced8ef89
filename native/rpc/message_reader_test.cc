// MessageReader and SendQueue: what one writes the other reads, however the bytes are cut.
#include "rpc/message_reader.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "rpc/send_queue.h"

namespace holdfast::rpc {
namespace {

std::string framed(std::string_view message, char flag = 0) {
  std::string bytes;
  bytes += flag;
  for (int shift : {24, 16, 8, 0}) bytes += static_cast<char>(message.size() >> shift);
  bytes += message;
  return bytes;
}

struct Reading {
  BufferPool pool;
  std::size_t budget = 64u << 20;
  MessageReader reader;
  std::vector<std::string> messages;

  MessageReader::Outcome feed(std::string_view bytes) {
    return reader.feed(as_bytes(bytes), pool, budget, [this](Message message) {
      messages.emplace_back(message.text());
      return true;
    });
  }
};

TEST(MessageReaderTest, MessagesCutAtEveryByte) {
  const std::vector<std::string> expected = {"", "a", "", "hello world", std::string(5000, 'x')};
  std::string bytes;
  for (const std::string& message : expected) bytes += framed(message);
  for (std::size_t cut = 0; cut <= bytes.size(); ++cut) {
    Reading reading;
    ASSERT_EQ(reading.feed(std::string_view(bytes).substr(0, cut)), MessageReader::Outcome::kOk);
    ASSERT_EQ(reading.feed(std::string_view(bytes).substr(cut)), MessageReader::Outcome::kOk);
    ASSERT_EQ(reading.messages, expected);
    ASSERT_FALSE(reading.reader.in_message());
    ASSERT_EQ(reading.budget, 64u << 20);
  }
}

TEST(MessageReaderTest, OneByteAtATime) {
  Reading reading;
  std::string bytes = framed("abc") + framed("") + framed("de");
  for (char byte : bytes) ASSERT_EQ(reading.feed({&byte, 1}), MessageReader::Outcome::kOk);
  EXPECT_EQ(reading.messages, (std::vector<std::string>{"abc", "", "de"}));
}

TEST(MessageReaderTest, MessagesEndAtAPageBoundary) {
  BufferPool pool;
  std::size_t budget = 64u << 20;
  MessageReader reader;
  std::string bytes = framed(std::string(4096 + 37, 'p'));
  std::uintptr_t end = 1;
  (void)reader.feed(as_bytes(bytes), pool, budget, [&](Message message) {
    end = reinterpret_cast<std::uintptr_t>(message.data() + message.size());
    return true;
  });
  EXPECT_EQ(end % 4096, 0u);
}

TEST(MessageReaderTest, WhatIsMissingMayBeReceivedWhereItBelongs) {
  std::string content(5000, 'x');
  content += "end";
  std::string bytes = framed(content);
  Reading reading;
  ASSERT_EQ(reading.feed(bytes.substr(0, 4)), MessageReader::Outcome::kOk);
  EXPECT_TRUE(reading.reader.rest(10'000).empty()) << "its length is not known yet";
  ASSERT_EQ(reading.feed(bytes.substr(4, 11)), MessageReader::Outcome::kOk);
  Slice all = reading.reader.rest(10'000);
  ASSERT_EQ(all.size(), content.size() - 10);
  Slice place = reading.reader.rest(3000);
  ASSERT_EQ(place.size(), 3000u);
  EXPECT_EQ(place.data(), all.data());
  std::memcpy(place.data(), content.data() + 10, 3000);
  ASSERT_EQ(reading.feed(place.text()), MessageReader::Outcome::kOk);
  // The rest comes from somewhere else.
  ASSERT_EQ(reading.feed(bytes.substr(5 + 3010)), MessageReader::Outcome::kOk);
  EXPECT_EQ(reading.messages, std::vector<std::string>{content});
  EXPECT_TRUE(reading.reader.rest(10'000).empty());
}

TEST(MessageReaderTest, RefusesCompressedAndOversizeMessages) {
  EXPECT_EQ(Reading().feed(framed("x", 1)), MessageReader::Outcome::kCompressed);
  EXPECT_EQ(Reading().feed(std::string("\0\0\x40\0\x01", 5)), MessageReader::Outcome::kTooLarge);
  EXPECT_EQ(Reading().feed(std::string("\0\xff\xff\xff\xff", 5)), MessageReader::Outcome::kTooLarge);
  EXPECT_EQ(Reading().feed(std::string("\0\0\x40\0\0", 5)), MessageReader::Outcome::kOk);  // exactly the limit
}

TEST(MessageReaderTest, PrefixesAloneCannotExceedTheBudget) {
  Reading reading;
  reading.budget = 1000;
  EXPECT_EQ(reading.feed(std::string("\0\0\0\x03\xe9", 5)), MessageReader::Outcome::kOverBudget);
  Reading second;
  second.budget = 1000;
  EXPECT_EQ(second.feed(std::string("\0\0\0\x03\xe8", 5)), MessageReader::Outcome::kOk);
  EXPECT_EQ(second.budget, 0u);
  EXPECT_TRUE(second.reader.in_message());
  second.reader.clear(second.budget);
  EXPECT_EQ(second.budget, 1000u);
  EXPECT_EQ(second.pool.bytes_in_use(), 0u);
}

// Collects what FrameWriter sends.
class CollectingStream final : public Stream {
 public:
  void start(StreamHandler*) override {}
  void send(std::span<Slice> parts) override {
    for (Slice& part : parts) {
      text += part.text();
      part = Slice();
    }
  }
  std::size_t unsent_bytes() const override { return 0; }
  void pause_receiving() override {}
  void resume_receiving() override {}
  void shutdown() override {}
  Address local_address() const override { return {}; }
  Address peer_address() const override { return {}; }
  std::string text;
};

TEST(SendQueueTest, WhatIsTakenInAnyPortionsIsTheFramedMessages) {
  for (std::size_t portion : {1u, 2u, 5u, 6u, 100u, 513u, 4096u, 100'000u}) {
    BufferPool pool;
    SendQueue queue;
    FrameWriter writer(pool);
    CollectingStream stream;
    std::string expected;
    for (std::size_t i = 0; i < 200; ++i) {
      std::string head(i % 7, 'h');
      std::string body(i * 37 % 3000, static_cast<char>('a' + i % 26));
      expected += framed(head + body);
      Slice parts[] = {pool.copy_of(as_bytes(head)), pool.copy_of(as_bytes(body))};
      queue.push_message(parts);
      // Never runs empty in the middle, so that the queue must compact itself.
      while (queue.bytes() > 20'000) queue.take(std::min(portion, queue.bytes()), writer);
    }
    while (queue.bytes() > 0) queue.take(std::min(portion, queue.bytes()), writer);
    EXPECT_EQ(writer.pending_bytes(), expected.size());
    writer.send_to(stream);
    EXPECT_EQ(stream.text, expected);
    writer.clear();
    EXPECT_EQ(pool.bytes_in_use(), 0u);
  }
}

}  // namespace
}  // namespace holdfast::rpc
