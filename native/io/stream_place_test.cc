// Streams that receive large pieces where their handlers want them.
#include <cstring>
#include <random>

#include "io/testing/stream_fixture.h"

namespace holdfast {
namespace {

// Takes pieces of 4 bytes of length and then so many bytes of content, as protocols do; says where content belongs.
struct PieceReader final : StreamHandler {
  explicit PieceReader(BufferPool& buffers) : pool(buffers) {}

  std::unique_ptr<Stream> stream;
  BufferPool& pool;
  std::vector<std::string> pieces;
  std::size_t in_place = 0;
  std::size_t begun = 0;
  int closed = 0;
  Status reason;
  std::function<void()> data_hook;
  bool let_go = false;  // of the piece that has begun: what comes of it is thrown away

  Slice wanted() const override { return let_go ? Slice() : content.sub(filled, content.size() - filled); }
  void on_data(std::span<const std::byte> bytes) override {
    while (!bytes.empty()) {
      if (header.size() < 4) {
        header.push_back(bytes[0]);
        bytes = bytes.subspan(1);
        if (header.size() < 4) continue;
        std::uint32_t size = 0;
        std::memcpy(&size, header.data(), 4);
        content = pool.allocate(size);
        left = size;
        filled = 0;
        ++begun;
        continue;
      }
      std::size_t size = std::min(bytes.size(), left);
      if (!let_go) {
        std::byte* to = content.data() + filled;
        if (bytes.data() == to) in_place += size;
        if (bytes.data() != to) std::memmove(to, bytes.data(), size);
      }
      filled += size;
      left -= size;
      bytes = bytes.subspan(size);
      if (left > 0) continue;
      pieces.push_back(let_go ? "let go" : std::string(content.text()));
      content = Slice();
      filled = 0;
      header.clear();
      let_go = false;
    }
    if (data_hook) data_hook();
  }
  void on_closed(Status status) override {
    ++closed;
    reason = std::move(status);
  }

  std::vector<std::byte> header;
  Slice content;
  std::size_t filled = 0;
  std::size_t left = 0;
};

class PlaceTest : public StreamTest {
 protected:
  PlaceTest() : reader(env.buffers()) {
    connect_streams(client.stream, reader.stream);
    reader.stream->start(&reader);
    client.stream->start(&client);
  }
  // Pieces of these sizes, all told apart by their content.
  void send_pieces(std::span<const std::size_t> sizes) {
    for (std::size_t size : sizes) {
      std::string content(size, static_cast<char>('a' + expected.size() % 26));
      content.replace(0, std::min<std::size_t>(size, 8), std::to_string(expected.size()).substr(0, size));
      content.resize(size, '.');
      auto length = static_cast<std::uint32_t>(size);
      send(client, std::string(reinterpret_cast<const char*>(&length), 4) + content);
      expected.push_back(std::move(content));
    }
  }

  Peer client;
  PieceReader reader;
  std::vector<std::string> expected;
};

INSTANTIATE_TEST_SUITE_P(Kinds, PlaceTest, ::testing::Values("127.0.0.1:0", "unix"),
                         [](const ::testing::TestParamInfo<const char*>& kind) {
                           return std::string(std::string_view(kind.param) == "unix" ? "Unix" : "Tcp4");
                         });

TEST_P(PlaceTest, LargePiecesAreReceivedWhereTheyBelong) {
  std::vector<std::size_t> sizes(40, 1u << 20);
  send_pieces(sizes);
  ASSERT_TRUE(until([&] { return reader.pieces.size() == sizes.size(); }));
  EXPECT_EQ(reader.pieces, expected);
  EXPECT_GT(reader.in_place, 30u << 20) << "of 40 MiB";
}

TEST_P(PlaceTest, PiecesOfAllSizesComeInOrder) {
  std::mt19937 random(5);
  std::vector<std::size_t> sizes;
  for (int i = 0; i < 300; ++i) sizes.push_back(1 + random() % (i % 3 == 0 ? 1'000'000 : i % 3 == 1 ? 100'000 : 200));
  for (std::size_t i = 0; i < sizes.size(); i += 10) {
    send_pieces(std::span(sizes).subspan(i, 10));
    if (random() % 2 == 0) reactor->turn(0ms);
  }
  ASSERT_TRUE(until([&] { return reader.pieces.size() == sizes.size(); }));
  EXPECT_TRUE(reader.pieces == expected);
}

TEST_P(PlaceTest, PausesInTheMiddleOfPieces) {
  std::mt19937 random(6);
  std::vector<std::size_t> sizes;
  for (int i = 0; i < 60; ++i) sizes.push_back(1 + random() % 2'000'000);
  send_pieces(sizes);
  int pauses = 0;
  ASSERT_TRUE(until([&] {
    bool pause = random() % 3 == 0;
    if (pause) reader.stream->pause_receiving();
    pauses += pause;
    if (pause && random() % 2 == 0) reactor->turn(1ms);
    reader.stream->resume_receiving();
    return reader.pieces.size() == sizes.size();
  }));
  EXPECT_TRUE(reader.pieces == expected);
  EXPECT_GT(pauses, 10);
}

// The memory stays until the kernel has done with it.
TEST_P(PlaceTest, APieceMayBeLetGoWhileItIsReceived) {
  std::vector<std::size_t> sizes(30, 3u << 20);
  send_pieces(sizes);
  std::size_t let_go = 0;
  ASSERT_TRUE(until([&] {
    if (reader.left > 0 && !reader.let_go && reader.begun % 3 == 0) {
      reader.let_go = true;
      reader.content = Slice();
      ++let_go;
    }
    return reader.pieces.size() == sizes.size();
  }));
  EXPECT_GT(let_go, 0u);
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    EXPECT_TRUE(reader.pieces[i] == expected[i] || reader.pieces[i] == "let go") << i;
  }
}

TEST_P(PlaceTest, AnEndInTheMiddleOfAPieceComesAfterItsBytes) {
  std::vector<std::size_t> sizes(3, 1u << 20);
  send_pieces(sizes);
  std::uint32_t length = 1u << 20;
  send(client, std::string(reinterpret_cast<const char*>(&length), 4) + std::string(700'000, 'x'));
  client.stream->shutdown();
  ASSERT_TRUE(until([&] { return reader.closed == 1; }));
  EXPECT_TRUE(reader.reason.ok());
  EXPECT_EQ(reader.pieces, expected);
  EXPECT_EQ(reader.filled, 700'000u);
}

TEST_P(PlaceTest, TheStreamMayGoInTheMiddleOfAPiece) {
  std::vector<std::size_t> sizes(8, 2u << 20);
  send_pieces(sizes);
  ASSERT_TRUE(until([&] { return reader.pieces.size() == 2 && reader.left > 0; }));
  reader.stream.reset();
  reader.content = Slice();
  ASSERT_TRUE(until([&] { return client.closed == 1; }));
}

}  // namespace
}  // namespace holdfast
