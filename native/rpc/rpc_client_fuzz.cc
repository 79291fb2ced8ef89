// libFuzzer target: any bytes from a server, to a channel with a stream and a unary call. Whatever comes, both calls
// must end. The first byte says how the input is cut into deliveries. Corpus: native/rpc/corpus/rpc_client.
#include <cstdint>
#include <cstdlib>

#include "rpc/rpc.h"
#include "rpc/testing/raw_peer.h"

namespace {

using namespace holdfast;       // NOLINT: a program
using namespace holdfast::rpc;  // NOLINT

struct FuzzedCall final : CallHandler {
  std::unique_ptr<ClientCall> call;
  bool ended = false;
  void on_message(Message message) override {
    if (message.text() == "pause") call->pause_receiving();
    if (message.text() == "drop") {
      ended = true;
      call.reset();
      return;
    }
    call->send({&message, 1});
  }
  void on_ended(Status) override {
    if (ended) std::abort();
    ended = true;
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  testing::MemoryEnv env;
  {
    env.chunk_bytes = (data[0] & 1) != 0 ? 1 + (data[0] >> 2) : 65536;
    testing::RawPeer peer(env);
    auto channel = Channel::create(env, peer.address());
    FuzzedCall stream;
    bool answered = false;
    stream.call = channel->start("/f/Stream", {}, 20s, &stream);
    channel->unary("/f/Unary", env.buffers().copy_of(as_bytes("request")), 20s, [&](Result<Message>) {
      if (answered) std::abort();
      answered = true;
    });
    env.settle();
    peer.send({reinterpret_cast<const char*>(data) + 1, size - 1});
    env.advance(30s);
    if (!stream.ended || !answered) std::abort();
  }
  env.settle();
  if (env.buffers().bytes_in_use() != 0) std::abort();
  return 0;
}
