// gRPC over HTTP/2 without the gRPC runtime: the part of it that Holdfast needs, on Env streams.
// Messages are opaque bytes here; native/replica/messages.h knows their fields.
//
// Thread: channels, servers and calls belong to the reactor of their Env.
// Bounds: kMessageBytesMax per message, kHeaderBytesMax per header list; beyond: RESOURCE_EXHAUSTED.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "base/result.h"
#include "io/env.h"
#include "tls/identity.h"

namespace holdfast::rpc {

inline constexpr std::size_t kMessageBytesMax = 4u << 20;
inline constexpr std::size_t kHeaderBytesMax = 16u << 10;

// Lower-case keys. Binary values (keys ending in -bin) are given and returned decoded.
using Metadata = std::vector<std::pair<std::string, std::string>>;

// How a call ends: a gRPC status. Errors of Holdfast keep their ErrorCode across the wire (trailer
// "holdfast-code"); a foreign status maps to the nearest ErrorCode.
// Status ok == gRPC OK.

// A received message. Its bytes end at a page boundary (BufferPool::allocate_end_aligned), so a payload that
// is the last field and n * 4096 bytes long is aligned for O_DIRECT.
using Message = Slice;

// One call, either side. Destroying it cancels the call when it has not ended; no callback follows.
class Call {
 public:
  virtual ~Call() = default;
  // Queues one message made of `parts` (moved from), at most kMessageBytesMax. Never blocks; watch unsent_bytes() and
  // on_drained(). Messages of a call that has ended are dropped.
  virtual void send(std::span<Slice> parts) = 0;
  virtual std::size_t unsent_bytes() const = 0;
  // Stops/continues giving the peer flow-control credit for this call, so that it slows down. What it may already
  // send (at most one window, 4 MiB) is still delivered.
  virtual void pause_receiving() = 0;
  virtual void resume_receiving() = 0;
};

class CallHandler {
 public:
  virtual void on_message(Message message) = 0;
  // The peer will send no more messages (half-close). Server side: now it is time to finish().
  virtual void on_peer_finished() {}
  virtual void on_drained() {}
  // The call ended. The last call made on the handler. Client side: the server's status. Server side: the
  // client cancelled, the deadline passed or the connection broke (never after the server's own finish()).
  virtual void on_ended(Status status) = 0;

 protected:
  ~CallHandler() = default;
};

class ClientCall : public Call {
 public:
  virtual void finish_sending() = 0;  // half-close
};

class ServerCall : public Call {
 public:
  virtual const Metadata& metadata() const = 0;
  // Sends the trailers after all queued messages. The call object may be destroyed right after.
  virtual void finish(Status status) = 0;
};

// ---- client ----

struct ChannelOptions {
  Nanos connect_timeout = 2s;
  // While calls are open a PING goes out every `keepalive_interval`, whatever else is received: confirmed_at() and
  // with it the engine's lease (docs/consistency.md) depend on it. No answer within `keepalive_timeout` breaks the
  // connection.
  Nanos keepalive_interval = 1s;
  Nanos keepalive_timeout = 2s;
  tls::Options tls;
};

// A connection to one server, made on first use and made again (on the next call) after it broke.
// Calls made while it connects wait for it; calls open when it breaks end with CONNECTION_LOST.
class Channel {
 public:
  static std::unique_ptr<Channel> create(Env& env, Address address, ChannelOptions options = {});
  virtual ~Channel() = default;  // ends all calls without callbacks

  // `path`: "/holdfast.v1.Replica/Append". `deadline`: from now, nullopt for none; sent as grpc-timeout and enforced
  // here.
  virtual std::unique_ptr<ClientCall> start(std::string_view path, Metadata metadata, std::optional<Nanos> deadline,
                                            CallHandler* handler) = 0;
  // A call with one request and one response. The callback always comes unless the channel is destroyed.
  virtual void unary(std::string_view path, Slice request, std::optional<Nanos> deadline,
                     Callback<void(Result<Message>)> done) = 0;

  // now() of the last bytes received from the peer; nullopt while not connected.
  virtual std::optional<Nanos> last_heard() const = 0;
  // When the newest PING that was answered was *sent* (or the connection's SETTINGS that were acknowledged): everything
  // the peer sent before it received that PING has been delivered. nullopt while not connected. Unlike last_heard() it
  // does not lie when bytes were delayed on the way or by a process that was stopped; leases are measured from it.
  virtual std::optional<Nanos> confirmed_at() const { return last_heard(); }
  // Sends a PING now unless one is under way: the peer is heard of within a round trip, if it lives.
  virtual void probe() = 0;
  virtual const Address& address() const = 0;
};

// ---- server ----

// Makes the handler of a new call; the handler owns itself or belongs to whoever the factory belongs to.
// `call` is valid until finish() or destruction of the unique_ptr, which the handler must own.
using StreamMethod = std::function<void(std::unique_ptr<ServerCall> call, CallHandler** handler)>;
using UnaryMethod =
    std::function<void(Message request, const Metadata& metadata, Callback<void(Result<Slice>)> respond)>;

struct ServerOptions {
  std::uint32_t concurrent_streams_max = 65'536;
  Nanos keepalive_interval = 5s;  // breaks connections whose peer vanished
  Nanos keepalive_timeout = 5s;
  std::size_t connections_max = 4'096;
  // Addresses that it covers are served with TLS only.
  tls::Options tls;
  // Asked about every TCP connection on loopback before anything is read from it, on a helper thread; no: it is closed.
  // nullptr: all are taken.
  bool (*admits_local)(const Address& local, const Address& peer) = nullptr;
};

class Server {
 public:
  static std::unique_ptr<Server> create(Env& env, ServerOptions options = {});
  // Closes all connections. Stream handlers that still have a call hear on_ended(CONNECTION_LOST), so that those which
  // own themselves go away; what their on_ended() uses must still be alive then.
  virtual ~Server() = default;
  virtual void add_stream_method(std::string path, StreamMethod method) = 0;
  virtual void add_unary_method(std::string path, UnaryMethod method) = 0;
  virtual Result<Address> listen(const Address& address) = 0;  // may be called for several addresses
  // Sends GOAWAY, lets open calls end, refuses new ones.
  virtual void drain(Callback<void()> done) = 0;
};

}  // namespace holdfast::rpc
