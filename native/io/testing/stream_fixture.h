// Two ends of a connection in one reactor, over TCP, IPv6, a unix socket or shared memory.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>

#include "io/uring_env.h"
#include "test/reactor_support.h"

namespace holdfast {

using test::make_reactor;
using test::run_until;

// A handler whose behaviour a test fills in.
struct Peer final : StreamHandler {
  std::unique_ptr<Stream> stream;
  std::string received;
  bool keep_bytes = true;
  std::size_t received_bytes = 0;
  int drained = 0;
  int closed = 0;
  Status reason;
  std::function<void(std::span<const std::byte>)> data_hook;
  std::function<void()> drained_hook;
  std::function<void()> closed_hook;

  void on_data(std::span<const std::byte> bytes) override {
    EXPECT_EQ(closed, 0);
    received_bytes += bytes.size();
    if (keep_bytes) received.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (data_hook) data_hook(bytes);
  }
  void on_drained() override {
    ++drained;
    if (drained_hook) drained_hook();
  }
  void on_closed(Status status) override {
    ++closed;
    reason = std::move(status);
    if (closed_hook) closed_hook();
  }
};

class StreamTest : public ::testing::TestWithParam<const char*> {
 protected:
  explicit StreamTest(ReactorOptions options = {}) : reactor(make_reactor(options)), env(reactor->env()) {}

  Address listen_address() {
    std::string text = GetParam();
    if (text == "unix") text = "unix:" + folder.file("socket");
    if (text == "memory") text = "unix:@" + folder.file(std::to_string(++names_));
    return *Address::parse(text);
  }
  void connect_pair(Peer& client, Peer& server) {
    connect_streams(client.stream, server.stream);
    server.stream->start(&server);
    client.stream->start(&client);
  }
  void connect_streams(std::unique_ptr<Stream>& client, std::unique_ptr<Stream>& server) {
    std::unique_ptr<Stream> accepted;
    auto listener = env.listen(listen_address(), [&](std::unique_ptr<Stream> s) { accepted = std::move(s); });
    CHECK(listener.ok());
    env.connect((*listener)->address(), 5s, [&](Result<std::unique_ptr<Stream>> s) {
      CHECK(s.ok());
      client = std::move(*s);
    });
    CHECK(run_until(*reactor, [&] { return accepted && client; }));
    server = std::move(accepted);
  }
  void send(Peer& peer, std::string_view text) {
    Slice slice = env.buffers().copy_of(as_bytes(text));
    peer.stream->send({&slice, 1});
  }
  bool until(Callback<bool()> done) { return run_until(*reactor, std::move(done)); }
  void settle() {
    for (int i = 0; i < 20; ++i) reactor->turn(1ms);
  }

  test::TempDir folder;
  std::unique_ptr<Reactor> reactor;
  Env& env;

 private:
  int names_ = 0;  // in the abstract namespace; one is free only once its listener's descriptor is closed
};

}  // namespace holdfast
