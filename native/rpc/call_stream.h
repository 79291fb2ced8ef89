// CallStream: one call as one HTTP/2 stream. Half of it is common (queue of messages to send, reassembly, flow control,
// deadline, how a call ends); ClientStream and ServerStream add the gRPC rules of their side.
//
// Life: a CallStream belongs to a CallList (the channel's while it waits for a connection, then the connection's) and
// is destroyed when nghttp2 closes the stream or the list goes away, never inside a callback to the user. The user's
// call object (CallObject) and the CallStream point at each other; whoever goes first cuts the link.
// Once ended(), nothing is told to the handler any more.
// Thread: the reactor of the Env.
#pragma once

#include <nghttp2/nghttp2.h>

#include <list>
#include <memory>
#include <optional>

#include "base/buffer.h"
#include "base/result.h"
#include "io/env.h"
#include "rpc/headers.h"
#include "rpc/message_reader.h"
#include "rpc/rpc.h"
#include "rpc/send_queue.h"

namespace holdfast::rpc {

class CallStream;
class Connection;
using CallList = std::list<std::unique_ptr<CallStream>>;

// The user's half of the link.
class CallLink {
 protected:
  ~CallLink() = default;
  CallStream* stream_ = nullptr;

 private:
  friend class CallStream;
};

class CallStream {
 public:
  explicit CallStream(Env& env) : env_(env) {}
  virtual ~CallStream();
  CallStream(const CallStream&) = delete;
  CallStream& operator=(const CallStream&) = delete;

  // ---- by the call object ----
  void link(CallLink* link);
  void set_handler(CallHandler* handler) { handler_ = handler; }
  void send(std::span<Slice> parts);
  std::size_t unsent_bytes() const { return queue_.bytes(); }
  void pause_receiving() { paused_ = true; }
  void resume_receiving();
  // The call object was destroyed: the call is cancelled, silently. May destroy this.
  void drop();

  // ---- by the connection ----
  std::int32_t id() const { return id_; }
  bool ended() const { return ended_; }
  void join(CallList& list, CallList::iterator position);
  void move_to(CallList& list);
  CallList::iterator position() const { return position_; }
  void attach(Connection& connection, std::int32_t id);
  // Payload of a DATA frame.
  void on_data(std::span<const std::byte> bytes);
  // Where the next `bytes` of such payload belong, as far as that is known.
  Slice wanted(std::size_t bytes) const { return ended_ ? Slice() : reader_.rest(bytes); }
  void begin_headers() { headers_ = std::make_unique<ReceivedHeaders>(); }
  ReceivedHeaders* headers() { return headers_.get(); }
  // A header list is complete. END_STREAM, when it came with it, is told by on_peer_end() after this.
  virtual void on_headers() = 0;
  virtual void on_peer_end() = 0;
  // The stream is closed, by either side. HTTP/2 error code, 0 for an orderly end.
  virtual void on_closed(std::uint32_t http2_error) = 0;
  // nghttp2's data source: how many bytes of at most `length` go into the next DATA frame.
  ssize_t produce(std::size_t length, std::uint32_t* flags);
  // Whether what produce() promised is still there; a cancelled call gives its queue up.
  bool has_payload(std::size_t length) const { return length <= queue_.bytes(); }
  void write_payload(std::size_t length, FrameWriter& writer);
  void on_drained();
  // Ends the call for the user: on_ended() and no more. Does not touch the HTTP/2 stream.
  void end(const Status& status);
  // The same without telling: the channel is gone.
  void end_silently();
  // A status to end with that was found out inside a call of the user (Channel gives it to end() a turn later).
  std::optional<Status> failure;

  bool in_drained_list = false;

 protected:
  // Ends the call for a reason found here, on both sides.
  virtual void fail(const Status& status) = 0;
  // What a user's destruction of the call does to the stream.
  virtual void cancel() = 0;
  // The first message is queued: the server answers with headers.
  virtual void before_first_send() {}
  // Everything is queued for sending and sending has ended; sets further flags, submits trailers.
  virtual void on_data_end(std::uint32_t*) {}
  // The last to know about the end, when there is no CallHandler: a unary call.
  virtual void after_end(const Status&) {}
  virtual void deliver(Message message);

  void arm_deadline(Nanos timeout);
  void continue_sending();
  std::string describe() const;

  Env& env_;
  Connection* connection_ = nullptr;
  CallLink* link_ = nullptr;
  CallHandler* handler_ = nullptr;
  std::int32_t id_ = 0;
  bool ended_ = false;
  bool sending_ended_ = false;  // no further send(); END_STREAM follows what is queued
  bool deferred_ = false;       // nghttp2 waits for nghttp2_session_resume_data
  bool paused_ = false;
  std::string path_;
  std::unique_ptr<ReceivedHeaders> headers_;

 private:
  void release();

  CallList* list_ = nullptr;
  CallList::iterator position_;
  SendQueue queue_;
  MessageReader reader_;
  std::size_t unconsumed_bytes_ = 0;  // received while paused; the peer has no credit for them yet
  std::optional<Timer> deadline_;

  friend class ClientStream;
  friend class ServerStream;
};

// ---- client ----

class ClientStream final : public CallStream {
 public:
  using UnaryDone = Callback<void(Result<Message>)>;

  ClientStream(Env& env, std::string_view path, Metadata metadata, std::optional<Nanos> deadline);

  void set_unary(UnaryDone done) { unary_ = std::make_unique<Unary>(Unary{std::move(done), std::nullopt, false}); }
  void finish_sending();
  // The request headers, with what is left of the deadline.
  Result<HeaderList> make_headers(const std::string& authority) const;

  void on_headers() override;
  void on_peer_end() override;
  void on_closed(std::uint32_t http2_error) override;

 private:
  struct Unary {
    UnaryDone done;
    std::optional<Message> response;
    bool too_many;
  };

  void fail(const Status& status) override;
  void cancel() override;
  void deliver(Message message) override;
  void after_end(const Status& status) override;
  Status final_status();

  Metadata metadata_;
  std::optional<Nanos> deadline_at_;
  std::unique_ptr<Unary> unary_;
  int http_status_ = 0;
  bool response_is_grpc_ = false;
};

// ---- server ----

class ServerStream final : public CallStream {
 public:
  explicit ServerStream(Env& env) : CallStream(env) {}

  // Valid from on_headers() of the request until release_request().
  const std::string& path() const { return path_; }
  Metadata take_metadata() { return std::move(headers_->metadata); }
  void release_request() { headers_.reset(); }

  // Sends `status` after what is queued. The handler hears nothing more.
  void finish(Status status);

  void on_headers() override;
  void on_peer_end() override;
  void on_closed(std::uint32_t http2_error) override;
  bool peer_ended() const { return peer_ended_; }

 private:
  void fail(const Status& status) override;
  void cancel() override;
  void before_first_send() override;
  void on_data_end(std::uint32_t* flags) override;
  void submit_trailers_only(const Status& status);
  void answer_http_error(const char* http_status);
  // What is wrong with the request's headers, as gRPC answers it.
  Status check_request() const;

  bool headers_sent_ = false;
  bool request_seen_ = false;
  bool peer_ended_ = false;
  Status final_status_;
};

// ---- the user's call object ----

template <typename Interface>
class CallObject : public Interface, public CallLink {
 public:
  ~CallObject() override {
    if (stream_ != nullptr) stream_->drop();
  }
  void send(std::span<Slice> parts) override {
    if (stream_ != nullptr) return stream_->send(parts);
    for (Slice& part : parts) part = Slice();
  }
  std::size_t unsent_bytes() const override { return stream_ != nullptr ? stream_->unsent_bytes() : 0; }
  void pause_receiving() override {
    if (stream_ != nullptr) stream_->pause_receiving();
  }
  void resume_receiving() override {
    if (stream_ != nullptr) stream_->resume_receiving();
  }
};

class ClientCallObject final : public CallObject<ClientCall> {
 public:
  void finish_sending() override {
    if (stream_ != nullptr) static_cast<ClientStream*>(stream_)->finish_sending();
  }
};

class ServerCallObject final : public CallObject<ServerCall> {
 public:
  explicit ServerCallObject(Metadata metadata) : metadata_(std::move(metadata)) {}
  const Metadata& metadata() const override { return metadata_; }
  void finish(Status status) override {
    if (stream_ != nullptr) static_cast<ServerStream*>(stream_)->finish(std::move(status));
  }

 private:
  Metadata metadata_;
};

}  // namespace holdfast::rpc
