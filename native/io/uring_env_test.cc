#include "io/uring_env.h"

#include <gtest/gtest.h>

#include <thread>

#include "test/reactor_support.h"

namespace holdfast {
namespace {

using test::run_until;

std::unique_ptr<Reactor> make_reactor(ReactorOptions options = {}) {
  Result<std::unique_ptr<Reactor>> reactor = Reactor::create(options);
  CHECK(reactor.ok(), reactor.ok() ? "" : reactor.error().message().c_str());
  return std::move(*reactor);
}

struct Echo final : StreamHandler {
  std::unique_ptr<Stream> stream;
  BufferPool* pool = nullptr;
  void on_data(std::span<const std::byte> bytes) override {
    Slice slice = pool->copy_of(bytes);
    stream->send({&slice, 1});
  }
  void on_closed(Status) override { stream.reset(); }
};

struct Sink final : StreamHandler {
  std::string text;
  bool closed = false;
  void on_data(std::span<const std::byte> bytes) override {
    text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  void on_closed(Status) override { closed = true; }
};

TEST(UringEnv, EchoesOverTcp) {
  auto reactor = make_reactor();
  Env& env = reactor->env();
  Echo echo;
  echo.pool = &env.buffers();
  auto listener = env.listen(*Address::parse("127.0.0.1:0"), [&](std::unique_ptr<Stream> stream) {
    echo.stream = std::move(stream);
    echo.stream->start(&echo);
  });
  ASSERT_TRUE(listener.ok());
  Sink sink;
  std::unique_ptr<Stream> client;
  env.connect((*listener)->address(), 5s, [&](Result<std::unique_ptr<Stream>> stream) {
    ASSERT_TRUE(stream.ok());
    client = std::move(*stream);
    client->start(&sink);
    Slice hello = env.buffers().copy_of(as_bytes("hello"));
    client->send({&hello, 1});
  });
  ASSERT_TRUE(run_until(*reactor, [&] { return sink.text == "hello"; }));
  client->shutdown();
  ASSERT_TRUE(run_until(*reactor, [&] { return sink.closed && !echo.stream; }));
}

TEST(UringEnv, RunsOnAnotherThreadAndStops) {
  auto reactor = make_reactor();
  std::thread thread([&] { reactor->run(); });
  std::atomic<int> ran{0};
  for (int i = 0; i < 1000; ++i) reactor->post_from_any_thread([&] { ran.fetch_add(1); });
  reactor->stop();
  thread.join();
  EXPECT_EQ(ran.load(), 1000);
}

TEST(UringEnv, WritesAndReadsAFile) {
  test::TempDir folder;
  auto reactor = make_reactor();
  Env& env = reactor->env();
  std::unique_ptr<File> file;
  env.open_file(folder.file("data"), {.create = true, .exclusive = true}, [&](Result<std::unique_ptr<File>> opened) {
    ASSERT_TRUE(opened.ok()) << opened.error().to_string();
    file = std::move(*opened);
  });
  ASSERT_TRUE(run_until(*reactor, [&] { return file != nullptr; }));
  Slice out = env.buffers().allocate(8192);
  std::memset(out.data(), 'x', out.size());
  std::span<const std::byte> parts[] = {out.bytes().first(4096), out.bytes().last(4096)};
  bool done = false;
  file->write(4096, parts, [&](Status status) {
    EXPECT_TRUE(status.ok());
    done = true;
  });
  ASSERT_TRUE(run_until(*reactor, [&] { return done; }));
  EXPECT_EQ(file->size(), 12288u);
  Slice in = env.buffers().allocate(8192);
  done = false;
  file->read(4096, in.bytes(), [&](Status status) {
    EXPECT_TRUE(status.ok());
    done = true;
  });
  ASSERT_TRUE(run_until(*reactor, [&] { return done; }));
  EXPECT_EQ(in.text(), out.text());
}

}  // namespace
}  // namespace holdfast
