#include "engine/replica_link.h"

#include <utility>

namespace holdfast::engine {

// One call of the link. It is let go in a later turn, since it may be inside a callback of the call.
template <typename OnMessage>
class ReplicaLink::Stream : public rpc::CallHandler {
 public:
  Stream(ReplicaLink& link, const char* path) : channel_(link.channel_), link_(&link) {
    call_ = channel_->start(path, {}, std::nullopt, this);
  }
  virtual ~Stream() = default;

  rpc::ClientCall& call() { return *call_; }
  void detach() { link_ = nullptr; }

  void on_message(rpc::Message message) override {
    if (link_) OnMessage::handle(*link_, message);
  }
  void on_ended(Status status) override {
    if (link_) link_->on_stream_ended(std::move(status));
  }

 private:
  std::shared_ptr<rpc::Channel> channel_;  // outlives the call
  ReplicaLink* link_;
  std::unique_ptr<rpc::ClientCall> call_;
};

struct ReplicaLink::AppendMessage {
  static void handle(ReplicaLink& link, const rpc::Message& message) { link.on_append_message(message); }
};
struct ReplicaLink::ReadMessage {
  static void handle(ReplicaLink& link, const rpc::Message& message) { link.on_read_message(message); }
};

ReplicaLink::ReplicaLink(Env& env, std::shared_ptr<rpc::Channel> channel, Member& member, LinkEvents& events)
    : env_(env), channel_(std::move(channel)), member_(member), events_(events) {}

ReplicaLink::~ReplicaLink() { end(); }

void ReplicaLink::start(const replica::ReplicaHello& hello, Seq committed, std::optional<replica::Join> join) {
  CHECK(!append_ && !read_);
  append_ = std::make_unique<Stream<AppendMessage>>(*this, replica::kAppendPath);
  read_ = std::make_unique<Stream<ReadMessage>>(*this, replica::kReadPath);

  replica::AppendRequest first;
  first.hello = hello;
  first.committed = committed;
  first.join = std::move(join);
  append(first);

  replica::ReadRequest first_read;
  first_read.hello = hello;
  read(first_read);
}

void ReplicaLink::append(std::span<const Slice> parts) {
  if (!append_) return;
  parts_.assign(parts.begin(), parts.end());
  append_->call().send(parts_);
  parts_.clear();
}

void ReplicaLink::append(const replica::AppendRequest& request) {
  if (!append_) return;
  parts_.clear();
  replica::encode(env_.buffers(), request, parts_);
  append_->call().send(parts_);
  parts_.clear();
}

void ReplicaLink::read(const replica::ReadRequest& request) {
  if (!read_) return;
  parts_.clear();
  replica::encode(env_.buffers(), request, parts_);
  read_->call().send(parts_);
  parts_.clear();
}

std::size_t ReplicaLink::unsent_bytes() const { return append_ ? append_->call().unsent_bytes() : 0; }

void ReplicaLink::end() {
  if (append_) {
    append_->detach();
    env_.post([stream = std::move(append_)] {});
  }
  if (read_) {
    read_->detach();
    env_.post([stream = std::move(read_)] {});
  }
}

void ReplicaLink::on_append_message(const rpc::Message& message) {
  if (Status status = replica::decode(message, append_response_); !status.ok()) {
    return on_stream_ended(std::move(status));
  }
  events_.on_append_response(member_, append_response_);
}

void ReplicaLink::on_read_message(const rpc::Message& message) {
  replica::ReadResponse response;
  if (Status status = replica::decode(message, response); !status.ok()) return on_stream_ended(std::move(status));
  events_.on_read_response(member_, std::move(response));
}

void ReplicaLink::on_stream_ended(Status status) {
  end();
  Error reason = status.ok() ? Error(ErrorCode::kConnectionLost, "the replica ended its stream") : status.error();
  events_.on_link_ended(member_, std::move(reason));
}

}  // namespace holdfast::engine
