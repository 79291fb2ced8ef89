// Channel: calls to one address over one connection at a time. A connection that was told to go away keeps the calls
// it has while new ones go over a new connection.
#include <vector>

#include "rpc/call_stream.h"
#include "rpc/connection.h"
#include "rpc/local_shortcut.h"
#include "rpc/rpc.h"
#include "tls/stream.h"

namespace holdfast::rpc {

namespace {

class ChannelImpl final : public Channel, public ConnectionOwner {
 public:
  ChannelImpl(Env& env, Address address, ChannelOptions options)
      : env_(env),
        address_(std::move(address)),
        options_(std::move(options)),
        self_(std::make_shared<ChannelImpl*>(this)) {}

  ~ChannelImpl() override {
    self_.reset();
    for (auto& connection : connections_) connection->abandon(nullptr);
    for (CallList* list : {&waiting_, &failing_}) {
      for (auto& call : *list) call->end_silently();
    }
  }

  std::unique_ptr<ClientCall> start(std::string_view path, Metadata metadata, std::optional<Nanos> deadline,
                                    CallHandler* handler) override {
    ClientStream& stream = add(path, std::move(metadata), deadline);
    stream.set_handler(handler);
    auto call = std::make_unique<ClientCallObject>();
    stream.link(call.get());
    launch(stream);
    return call;
  }

  void unary(std::string_view path, Slice request, std::optional<Nanos> deadline,
             Callback<void(Result<Message>)> done) override {
    ClientStream& stream = add(path, {}, deadline);
    stream.set_unary(std::move(done));
    if (request.size() > kMessageBytesMax) {
      return fail_later(stream, Error(ErrorCode::kMessageTooLarge, "the request of " + std::string(path) + " exceeds " +
                                                                       std::to_string(kMessageBytesMax) + " bytes"));
    }
    launch(stream);
    stream.send({&request, 1});
    stream.finish_sending();
  }

  std::optional<Nanos> last_heard() const override {
    if (!current_ || !current_->accepts_calls()) return std::nullopt;
    return current_->last_heard();
  }

  std::optional<Nanos> confirmed_at() const override {
    if (!current_ || !current_->accepts_calls()) return std::nullopt;
    return current_->confirmed_at();
  }

  void probe() override {
    if (current_ && current_->accepts_calls()) current_->probe();
  }

  const Address& address() const override { return address_; }

  void on_call(Connection&, ServerStream&) override {}

  void on_connection_closed(Connection& connection) override {
    if (current_.get() == &connection) current_.reset();
    std::erase_if(connections_, [&](const auto& held) { return held.get() == &connection; });
  }

 private:
  // Without a further owner: the channel must be seen to go away by those whom this calls.
  static ChannelImpl* alive(const std::weak_ptr<ChannelImpl*>& self) { return self.expired() ? nullptr : *self.lock(); }

  // Every call starts in waiting_; launch() moves it on.
  ClientStream& add(std::string_view path, Metadata metadata, std::optional<Nanos> deadline) {
    waiting_.push_back(std::make_unique<ClientStream>(env_, path, std::move(metadata), deadline));
    auto& stream = static_cast<ClientStream&>(*waiting_.back());
    stream.join(waiting_, std::prev(waiting_.end()));
    return stream;
  }

  void launch(ClientStream& stream) {
    Result<HeaderList> headers = stream.make_headers(authority());
    if (!headers.ok()) return fail_later(stream, headers.error());
    if (current_ && current_->accepts_calls() && current_->open(stream, *headers)) return;
    connect();  // and the call waits
  }

  std::string authority() const { return address_.unix_path.empty() ? address_.to_string() : "localhost"; }

  void connect() {
    if (connecting_) return;
    connecting_ = true;
    std::optional<Address> shortcut = local_shortcut(address_, options_.tls);
    if (!shortcut) return connect_to(address_);
    env_.connect(*shortcut, options_.connect_timeout,
                 [weak = std::weak_ptr(self_)](Result<std::unique_ptr<Stream>> stream) {
                   ChannelImpl* self = alive(weak);
                   if (self == nullptr) return;
                   if (!stream.ok()) return self->connect_to(self->address_);
                   self->on_connected(std::move(stream));
                 });
  }

  void connect_to(const Address& address) {
    env_.connect(address, options_.connect_timeout,
                 [weak = std::weak_ptr(self_)](Result<std::unique_ptr<Stream>> stream) {
                   if (ChannelImpl* self = alive(weak)) self->on_connected_by_tcp(std::move(stream));
                 });
  }

  void on_connected_by_tcp(Result<std::unique_ptr<Stream>> stream) {
    if (stream.ok() && options_.tls.covers(address_)) {
      stream = tls::secure(env_, options_.tls.identity, tls::Side::kClient, std::move(*stream));
    }
    on_connected(std::move(stream));
  }

  void on_connected(Result<std::unique_ptr<Stream>> stream) {
    connecting_ = false;
    if (!stream.ok()) {
      std::string message = "cannot connect to " + address_.to_string() + ": " + stream.error().message();
      for (auto& call : waiting_) call->failure = Error(ErrorCode::kConnectionLost, message);
      while (!waiting_.empty()) waiting_.front()->move_to(failing_);
      return end_failing();
    }
    ConnectionOptions options;
    options.keepalive_interval = options_.keepalive_interval;
    options.keepalive_timeout = options_.keepalive_timeout;
    current_ = Connection::create(env_, *this, std::move(*stream), std::move(options));
    connections_.push_back(current_);
    while (!waiting_.empty()) {
      auto& call = static_cast<ClientStream&>(*waiting_.front());
      Result<HeaderList> headers = call.make_headers(authority());
      if (!headers.ok()) {
        fail_later(call, headers.error());
      } else if (!current_->open(call, *headers)) {
        fail_later(call, Error(ErrorCode::kConnectionLost, "too many calls wait for " + address_.to_string()));
      }
    }
  }

  // Ends a call in a later turn, so that nothing comes back from inside the call that the user is making.
  void fail_later(ClientStream& stream, Error error) {
    stream.failure = std::move(error);
    stream.move_to(failing_);
    env_.post([weak = std::weak_ptr(self_)] {
      if (ChannelImpl* self = alive(weak)) self->end_failing();
    });
  }

  void end_failing() {
    std::weak_ptr self(self_);
    while (!self.expired() && !failing_.empty()) {
      CallList one;
      failing_.front()->move_to(one);
      one.front()->end(*one.front()->failure);
    }
  }

  Env& env_;
  Address address_;
  ChannelOptions options_;
  std::shared_ptr<ChannelImpl*> self_;  // what pending callbacks look for
  bool connecting_ = false;
  std::shared_ptr<Connection> current_;
  std::vector<std::shared_ptr<Connection>> connections_;  // current_ and those that are going away
  CallList waiting_;                                      // for a connection
  CallList failing_;                                      // to be told their `failure`
};

}  // namespace

std::unique_ptr<Channel> Channel::create(Env& env, Address address, ChannelOptions options) {
  return std::make_unique<ChannelImpl>(env, std::move(address), std::move(options));
}

}  // namespace holdfast::rpc
