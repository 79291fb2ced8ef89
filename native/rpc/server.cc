// Server: listeners, connections and the table of methods. Unary methods are a small handler on top of streams.
#include <unordered_map>
#include <vector>

#include "base/log.h"
#include "rpc/call_stream.h"
#include "rpc/connection.h"
#include "rpc/local_shortcut.h"
#include "rpc/rpc.h"
#include "tls/stream.h"

namespace holdfast::rpc {

namespace {

// Exactly one of the two. Held by shared_ptr while it runs: the method may destroy the server.
struct Method {
  StreamMethod stream;
  UnaryMethod unary;
};

// Collects the one request, hands it to the method, sends the one response. Holds itself until the call ended.
class UnaryCall final : public CallHandler, public std::enable_shared_from_this<UnaryCall> {
 public:
  UnaryCall(std::unique_ptr<ServerCall> call, std::shared_ptr<Method> method)
      : call_(std::move(call)), method_(std::move(method)) {}

  void hold() { self_ = shared_from_this(); }

  void on_message(Message message) override {
    if (request_) return finish(Error(ErrorCode::kProtocol, "more than one message in a unary call"));
    request_ = std::move(message);
  }

  void on_peer_finished() override {
    if (!request_) return finish(Error(ErrorCode::kProtocol, "no message in a unary call"));
    auto self = self_;
    method_->unary(std::move(*request_), call_->metadata(), [weak = weak_from_this()](Result<Slice> response) {
      if (auto call = weak.lock()) call->respond(std::move(response));
    });
  }

  void on_ended(Status) override { std::exchange(self_, nullptr).reset(); }

 private:
  void respond(Result<Slice> response) {
    if (!self_) return;  // ended, or answered twice
    if (!response.ok()) return finish(response.error());
    if (response->size() > kMessageBytesMax) {
      return finish(Error(ErrorCode::kMessageTooLarge,
                          "the response exceeds " + std::to_string(kMessageBytesMax) + " bytes; ask for less"));
    }
    call_->send({&*response, 1});
    finish(Status());
  }

  void finish(Status status) {
    auto self = std::exchange(self_, nullptr);
    call_->finish(std::move(status));
  }

  std::unique_ptr<ServerCall> call_;
  std::shared_ptr<Method> method_;
  std::optional<Message> request_;
  std::shared_ptr<UnaryCall> self_;
};

class ServerImpl final : public Server, public ConnectionOwner {
 public:
  ServerImpl(Env& env, ServerOptions options)
      : env_(env), options_(std::move(options)), self_(std::make_shared<ServerImpl*>(this)) {}

  ~ServerImpl() override {
    self_.reset();
    listeners_.clear();
    Status gone = Error(ErrorCode::kConnectionLost, "the server was stopped");
    auto connections = std::move(connections_);
    connections_.clear();
    for (auto& [key, connection] : connections) connection->abandon(&gone);
  }

  void add_stream_method(std::string path, StreamMethod method) override {
    add(std::move(path), Method{std::move(method), nullptr});
  }
  void add_unary_method(std::string path, UnaryMethod method) override {
    add(std::move(path), Method{nullptr, std::move(method)});
  }

  Result<Address> listen(const Address& address) override {
    ASSIGN_OR_RETURN(
        auto listener,
        env_.listen(address, [this, secured = options_.tls.covers(address)](std::unique_ptr<Stream> stream) {
          if (secured) stream = tls::secure(env_, options_.tls.identity, tls::Side::kServer, std::move(stream));
          bool ask = options_.admits_local != nullptr && stream->peer_address().is_loopback();
          if (ask) return ask_about(std::move(stream));
          on_stream(std::move(stream));
        }));
    listeners_.push_back(std::move(listener));
    Address bound = listeners_.back()->address();
    listen_on_shortcut(bound);
    return bound;
  }

  void drain(Callback<void()> done) override {
    drained_ = std::move(done);
    draining_ = true;
    listeners_.clear();
    for (auto& [key, connection] : connections_) connection->drain();
    if (connections_.empty()) {
      env_.post([done = std::make_shared<Callback<void()>>(std::move(drained_))] { (*done)(); });
    }
  }

  void on_call(Connection&, ServerStream& stream) override {
    auto found = methods_.find(stream.path());
    if (found == methods_.end()) {
      return stream.finish(Error(ErrorCode::kUnimplemented, "there is no method " + stream.path()));
    }
    std::shared_ptr<Method> method = found->second;
    auto call = std::make_unique<ServerCallObject>(stream.take_metadata());
    stream.release_request();
    stream.link(call.get());
    if (method->unary) {
      auto handler = std::make_shared<UnaryCall>(std::move(call), method);
      handler->hold();
      stream.set_handler(handler.get());
      return;
    }
    CallHandler* handler = nullptr;
    method->stream(std::move(call), &handler);
    if (!stream.ended()) stream.set_handler(handler);
  }

  void on_connection_closed(Connection& connection) override {
    connections_.erase(&connection);
    if (!draining_ || !connections_.empty() || !drained_) return;
    Callback<void()> done = std::move(drained_);
    done();
  }

 private:
  // Without it there is still TCP.
  void listen_on_shortcut(const Address& address) {
    std::optional<Address> shortcut = local_shortcut(address, options_.tls);
    if (!shortcut) return;
    auto listener = env_.listen(*shortcut, [this](std::unique_ptr<Stream> stream) { on_stream(std::move(stream)); });
    if (!listener.ok()) return log_warn("rpc", listener.error().message());
    listeners_.push_back(std::move(listener).value());
  }

  void add(std::string path, Method method) {
    bool added = methods_.emplace(std::move(path), std::make_shared<Method>(std::move(method))).second;
    CHECK(added, "a method is added once");
  }

  // The stream is not started before the answer, so nothing is read.
  void ask_about(std::unique_ptr<Stream> stream) {
    struct Question {
      std::unique_ptr<Stream> stream;
      Address local, peer;
      bool (*admits)(const Address& local, const Address& peer);
      bool admitted = false;
    };
    Address local = stream->local_address(), peer = stream->peer_address();
    auto question = std::make_shared<Question>(
        Question{std::move(stream), std::move(local), std::move(peer), options_.admits_local});
    env_.run_blocking([question] { question->admitted = question->admits(question->local, question->peer); },
                      [question, weak = std::weak_ptr(self_)] {
                        auto self = weak.lock();
                        if (self == nullptr) return;
                        if (question->admitted) return (*self)->on_stream(std::move(question->stream));
                        log_warn("rpc",
                                 "refused a connection from " + question->peer.to_string() + ": it is another user's");
                      });
  }

  void on_stream(std::unique_ptr<Stream> stream) {
    if (connections_.size() >= options_.connections_max) {
      log_warn("rpc", "refused a connection from " + stream->peer_address().to_string() + ": there are " +
                          std::to_string(connections_.size()) + " already");
      return;
    }
    ConnectionOptions options;
    options.server = true;
    options.keepalive_interval = options_.keepalive_interval;
    options.keepalive_timeout = options_.keepalive_timeout;
    options.concurrent_streams_max = options_.concurrent_streams_max;
    auto connection = Connection::create(env_, *this, std::move(stream), std::move(options));
    connections_.emplace(connection.get(), connection);
  }

  Env& env_;
  ServerOptions options_;
  std::unordered_map<std::string, std::shared_ptr<Method>> methods_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::unordered_map<Connection*, std::shared_ptr<Connection>> connections_;
  std::shared_ptr<ServerImpl*> self_;  // what pending answers look for
  bool draining_ = false;
  Callback<void()> drained_;
};

}  // namespace

std::unique_ptr<Server> Server::create(Env& env, ServerOptions options) {
  return std::make_unique<ServerImpl>(env, std::move(options));
}

}  // namespace holdfast::rpc
