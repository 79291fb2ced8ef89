// libFuzzer target: any bytes from a client, to a server with one method of each kind. The first byte says how the
// input is cut into deliveries and whether the connection preface comes for free. Corpus: native/rpc/corpus/rpc_server.
#include <cstdint>
#include <cstdlib>

#include "rpc/rpc.h"
#include "rpc/testing/raw_peer.h"

namespace {

using namespace holdfast;       // NOLINT: a program
using namespace holdfast::rpc;  // NOLINT

// Echoes; pauses, finishes or drops its call when a message says so. Owns itself.
struct FuzzedCall final : CallHandler {
  std::unique_ptr<ServerCall> call;
  void on_message(Message message) override {
    std::string_view text = message.text();
    if (text == "pause") call->pause_receiving();
    if (text == "resume") call->resume_receiving();
    if (text == "drop") {
      delete this;
      return;
    }
    if (text == "finish") {
      call->finish(Error(ErrorCode::kNoSpace, "told so"));
      delete this;
      return;
    }
    call->send({&message, 1});
  }
  void on_peer_finished() override {
    call->finish(Status());
    delete this;
  }
  void on_ended(Status) override { delete this; }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  testing::MemoryEnv env;
  {
    env.chunk_bytes = (data[0] & 1) != 0 ? 1 + (data[0] >> 2) : 65536;
    auto server = Server::create(env);
    server->add_stream_method("/f/Stream", [](std::unique_ptr<ServerCall> call, CallHandler** handler) {
      auto* fuzzed = new FuzzedCall();
      fuzzed->call = std::move(call);
      *handler = fuzzed;
    });
    server->add_unary_method("/f/Unary", [](Message request, const Metadata&, Callback<void(Result<Slice>)> respond) {
      respond(std::move(request));
    });
    Address address = *server->listen({"127.0.0.1", 0, ""});
    testing::RawPeer peer(env, address);
    if ((data[0] & 2) != 0) peer.send(testing::preface());
    peer.send({reinterpret_cast<const char*>(data) + 1, size - 1});
    env.advance(12s);  // beyond the keep-alive: a peer that does not answer is gone
    if (!peer.closed) std::abort();
  }
  env.settle();
  if (env.buffers().bytes_in_use() != 0) std::abort();
  return 0;
}
