// ReplicaLink: the two streams (Append and Read) of one engine to one replica, while they last.
//
// A link is made after Open was answered, carries hello on both streams, and ends once: on_link_ended() is its last
// call, and none comes after end(). What the streams mean is the engine's business. Thread: the reactor of the engine.
#pragma once

#include <memory>
#include <optional>
#include <span>

#include "replica/messages.h"
#include "rpc/rpc.h"

namespace holdfast::engine {

struct Member;
class ReplicaLink;

class LinkEvents {
 public:
  virtual void on_append_response(Member& member, const replica::AppendResponse& response) = 0;
  virtual void on_read_response(Member& member, replica::ReadResponse response) = 0;
  virtual void on_link_ended(Member& member, Error reason) = 0;

 protected:
  ~LinkEvents() = default;
};

class ReplicaLink {
 public:
  ReplicaLink(Env& env, std::shared_ptr<rpc::Channel> channel, Member& member, LinkEvents& events);
  ~ReplicaLink();
  ReplicaLink(const ReplicaLink&) = delete;
  ReplicaLink& operator=(const ReplicaLink&) = delete;

  // Opens both streams; `join` begins a rebuild.
  void start(const replica::ReplicaHello& hello, Seq committed, std::optional<replica::Join> join);
  // Sends a message whose parts other links may be sending too.
  void append(std::span<const Slice> parts);
  void append(const replica::AppendRequest& request);
  void read(const replica::ReadRequest& request);
  // Bytes that the peer or the network has not taken yet.
  std::size_t unsent_bytes() const;
  void end();

  rpc::Channel& channel() { return *channel_; }

 private:
  template <typename OnMessage>
  class Stream;
  struct AppendMessage;
  struct ReadMessage;

  void on_append_message(const rpc::Message& message);
  void on_read_message(const rpc::Message& message);
  void on_stream_ended(Status status);

  Env& env_;
  std::shared_ptr<rpc::Channel> channel_;
  Member& member_;
  LinkEvents& events_;
  std::unique_ptr<Stream<AppendMessage>> append_;
  std::unique_ptr<Stream<ReadMessage>> read_;
  SliceList parts_;                          // reused
  replica::AppendResponse append_response_;  // reused
};

}  // namespace holdfast::engine
