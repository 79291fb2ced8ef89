// A channel and a server on one MemoryEnv, and handlers that record what they hear.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "rpc/rpc.h"
#include "rpc/testing/memory_env.h"

namespace holdfast::rpc::testing {

// The code of an ended call, or nullopt for OK. Fails the test when the status is unexpected.
inline std::string outcome(const std::optional<Status>& status) {
  if (!status) return "(not ended)";
  return status->ok() ? "OK" : std::string(error_code_name(status->error().code()));
}

struct Recorder : CallHandler {
  std::vector<std::string> messages;
  std::optional<Status> status;
  bool peer_finished = false;
  int drained = 0;
  std::function<void(const std::string&)> when_message;
  std::function<void()> when_peer_finished;
  std::function<void()> when_ended;
  std::function<void()> when_drained;

  void on_message(Message message) override {
    messages.emplace_back(message.text());
    if (auto then = when_message) then(messages.back());  // a copy: it may destroy this
  }
  void on_peer_finished() override {
    peer_finished = true;
    if (auto then = when_peer_finished) then();  // a copy: it may destroy this
  }
  void on_drained() override {
    ++drained;
    if (auto then = when_drained) then();  // a copy: it may destroy this
  }
  void on_ended(Status ended) override {
    EXPECT_FALSE(status) << "on_ended() came twice";
    status = std::move(ended);
    if (auto then = when_ended) then();  // a copy: it may destroy this
  }
};

// A server-side call of a test: the call object and its recorder.
struct Accepted : Recorder {
  std::unique_ptr<ServerCall> call;
};

class RpcTest : public ::testing::Test {
 protected:
  void SetUp() override { start_server({}); }

  void start_server(ServerOptions options) {
    server = Server::create(env, options);
    server->add_stream_method("/t/Stream", [this](std::unique_ptr<ServerCall> call, CallHandler** handler) {
      accepted.push_back(std::make_unique<Accepted>());
      accepted.back()->call = std::move(call);
      *handler = accepted.back().get();
      if (when_accepted) when_accepted(*accepted.back());
    });
    server->add_unary_method("/t/Echo", [](Message request, const Metadata&, Callback<void(Result<Slice>)> respond) {
      respond(std::move(request));
    });
    server->add_unary_method("/t/Fail", [](Message request, const Metadata&, Callback<void(Result<Slice>)> respond) {
      respond(Error(ErrorCode::kEpochSuperseded, std::string(request.text())));
    });
    Result<Address> bound = server->listen({"127.0.0.1", 0, ""});
    ASSERT_TRUE(bound.ok());
    address = *bound;
    channel = Channel::create(env, address);
  }

  Slice slice(std::string_view text) { return env.buffers().copy_of(as_bytes(text)); }
  void send(Call& call, std::string_view text) {
    Slice part = slice(text);
    call.send({&part, 1});
  }
  // Starts a stream that the server has accepted as accepted.back().
  std::unique_ptr<ClientCall> open_stream(Recorder& recorder, std::optional<Nanos> deadline = std::nullopt,
                                          Metadata metadata = {}) {
    std::size_t before = accepted.size();
    auto call = channel->start("/t/Stream", std::move(metadata), deadline, &recorder);
    env.settle();
    EXPECT_EQ(accepted.size(), before + 1);
    return call;
  }

  MemoryEnv env;
  std::function<void(Accepted&)> when_accepted;
  std::vector<std::unique_ptr<Accepted>> accepted;
  Address address;
  std::unique_ptr<Server> server;
  std::unique_ptr<Channel> channel;
};

}  // namespace holdfast::rpc::testing
