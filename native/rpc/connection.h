// Connection: one HTTP/2 connection (an nghttp2 session on a Stream), either side.
//
// Everything to send is pulled from nghttp2 once per turn of the loop (flush) and handed to the stream as one send;
// payload goes by reference. While the stream holds kUnsentBytesMax nothing more is pulled, so a peer that does not
// read makes calls pile up in their own queues, and its floods of PING or SETTINGS end the connection.
// Received payload is credited to the connection at once and to a call unless the call is paused.
//
// Life: held by shared_ptr; its owner (channel, server) drops it in on_connection_closed() or leaves with abandon().
// nghttp2's session and the CallStreams live until the last guard is gone, so user callbacks may destroy anything.
// Thread: the reactor of the Env.
#pragma once

#include <nghttp2/nghttp2.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/env.h"
#include "rpc/call_stream.h"
#include "rpc/flood_guard.h"
#include "rpc/send_queue.h"

namespace holdfast::rpc {

inline constexpr std::uint32_t kFrameBytesMax = 1u << 20;
inline constexpr std::int32_t kStreamWindowBytes = 4 << 20;
inline constexpr std::int32_t kConnectionWindowBytes = 64 << 20;

class Connection;

class ConnectionOwner {
 public:
  // Server: a call whose request headers are in order.
  virtual void on_call(Connection& connection, ServerStream& stream) = 0;
  // All its calls have ended. The last call made.
  virtual void on_connection_closed(Connection& connection) = 0;

 protected:
  ~ConnectionOwner() = default;
};

struct ConnectionOptions {
  bool server = false;
  Nanos keepalive_interval{};
  Nanos keepalive_timeout{};
  std::uint32_t concurrent_streams_max = 0;  // server
};

class Connection final : public StreamHandler, public std::enable_shared_from_this<Connection> {
 public:
  static std::shared_ptr<Connection> create(Env& env, ConnectionOwner& owner, std::unique_ptr<Stream> stream,
                                            ConnectionOptions options);
  Connection(Env& env, ConnectionOwner& owner, std::unique_ptr<Stream> stream, ConnectionOptions options);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // ---- by the owner ----
  // Client: may new calls be made here? False after GOAWAY and at the end.
  bool accepts_calls() const { return !closed_ && !closing_ && !peer_going_away_ && !ids_exhausted_; }
  // Client: sends the request headers of `stream`, which is in some list of the channel. False when it could not be
  // submitted; accepts_calls() has become false then.
  bool open(ClientStream& stream, const HeaderList& headers);
  // Server: says GOAWAY, lets calls end, then closes.
  void drain();
  // The owner goes away. `status`: calls still hear this end; nullptr: silently.
  void abandon(const Status* status);
  // Channel::probe().
  void probe();
  Nanos last_heard() const { return last_heard_; }
  // When the newest answered PING (or acknowledged SETTINGS) was queued for sending.
  std::optional<Nanos> confirmed_at() const { return confirmed_at_; }

  // ---- by calls ----
  Env& env() { return env_; }
  bool closed() const { return closed_; }
  nghttp2_session* session() { return session_; }
  std::size_t& reassembly_budget() { return reassembly_budget_; }
  void schedule_flush();
  void reset(CallStream& stream, std::uint32_t http2_error);
  void submit_headers(const CallStream& stream, const HeaderList& headers, bool end_stream);
  void submit_trailers(const CallStream& stream, const HeaderList& trailers);
  void credit(const CallStream& stream, std::size_t bytes);
  void note_drained(CallStream& stream);
  void hand_over(ServerStream& stream);
  std::string peer() const { return peer_; }

  // ---- by the stream ----
  void on_data(std::span<const std::byte> bytes) override;
  Slice wanted() const override;
  void on_drained() override;
  void on_closed(Status reason) override;

 private:
  friend struct SessionCallbacks;

  void start();
  nghttp2_session* make_session();
  void flush();
  bool may_pull() const;
  void deliver_drained();
  void forget(CallStream& stream);
  // Ends the connection and all calls with `status`.
  void fail(const Status& status);
  // Sends what is queued, then closes. Calls end now.
  void close();
  void on_goaway(const nghttp2_goaway& frame);
  void on_ping_answer(const std::uint8_t* opaque);
  void on_settings_answer();
  void arm_keepalive();
  void send_ping();
  void on_keepalive_due();

  Env& env_;
  ConnectionOwner* owner_;
  std::unique_ptr<Stream> stream_;
  ConnectionOptions options_;
  std::string peer_;
  nghttp2_session* session_ = nullptr;
  CallList calls_;
  FrameWriter writer_;
  FloodGuard flood_;
  std::size_t reassembly_budget_;
  std::vector<CallStream*> drained_;
  std::vector<CallStream*> drained_now_;  // being told; a member so that its memory is kept
  // Of the DATA frame that is being received: what has not come yet, and the stream that it is of.
  std::size_t frame_left_ = 0;
  std::int32_t frame_stream_ = 0;
  bool flush_scheduled_ = false;
  bool held_back_ = false;  // not all was pulled, as the stream had enough
  bool closing_ = false;    // shutting the stream down
  bool closed_ = false;
  bool peer_going_away_ = false;
  bool ids_exhausted_ = false;
  bool draining_ = false;
  bool drain_answered_ = false;  // the peer knows; calls that it makes from now on are above the last id
  bool ping_outstanding_ = false;
  bool flooded_ = false;
  Nanos last_heard_;
  Nanos started_at_;
  std::optional<Nanos> confirmed_at_;
  Nanos ping_sent_at_{};
  Nanos keepalive_due_{};
  Timer keepalive_;
};

}  // namespace holdfast::rpc
