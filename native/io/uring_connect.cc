#include "io/uring_connect.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

#include "io/memory_stream.h"
#include "io/socket_address.h"
#include "io/system_error.h"
#include "io/uring_listener.h"
#include "io/uring_stream.h"

namespace holdfast::io {

namespace {

// Owns itself until the kernel is done with it; the user hears the outcome or the timeout, whichever is first.
class Connecting final : public Completion {
 public:
  Connecting(Loop& loop, int fd, const Address& address, const SocketAddress& socket_address, ConnectCallback done)
      : loop_(loop), fd_(fd), address_(address), socket_address_(socket_address), done_(std::move(done)) {}

  void begin(Nanos timeout) {
    timer_ = loop_.call_at(loop_.now() + timeout, [this] { timed_out(); });
    loop_.ring().prepare(this, [this](io_uring_sqe* entry) {
      io_uring_prep_connect(entry, fd_, socket_address_.get(), socket_address_.length);
    });
  }

 private:
  ~Connecting() {
    if (fd_ >= 0) ::close(fd_);
  }

  void timed_out() {
    ConnectCallback done = std::move(done_);
    loop_.ring().cancel(this);
    done(Error(ErrorCode::kTimedOut, "connect to " + address_.to_string() + ": no answer in time"));
  }

  void on_completion(std::int32_t result, std::uint32_t) override {
    if (!connected_ && done_ && !loop_.closing()) {
      result = connected(result);
      if (result == 0 && address_.is_abstract()) return receive_offer();
    }
    ConnectCallback done = std::move(done_);
    if (done && !loop_.closing()) {
      loop_.cancel_call(timer_);
      done(outcome(result));
    } else if (offered_ && result > 0) {
      (void)offered_->take(static_cast<std::size_t>(result));  // too late: its descriptors are closed
    }
    delete this;
  }

  // What became of connect(): 0 or a negative error number.
  std::int32_t connected(std::int32_t result) {
    connected_ = true;
    // On loopback a connection to a free port of the ephemeral range may meet itself: nobody listens there.
    bool met_itself = result == 0 && address_.unix_path.empty() && local_address_of(fd_) == peer_address_of(fd_);
    if (met_itself) result = -ECONNREFUSED;
    if (result == -ENOENT) result = -ECONNREFUSED;  // a unix socket that is not there (yet)
    if (result == 0 && address_.is_abstract() && !peer_is_trusted(fd_)) result = -EACCES;
    return result;
  }

  // The listener's first message, on a socket in the abstract namespace.
  void receive_offer() {
    offered_ = std::make_unique<SharedRings::Offered>();
    loop_.ring().prepare(this, [this](io_uring_sqe* entry) {
      io_uring_prep_recvmsg(entry, fd_, offered_->message(), MSG_CMSG_CLOEXEC);
    });
  }

  Result<std::unique_ptr<Stream>> outcome(std::int32_t result) {
    if (offered_ && result == 0) result = -ECONNRESET;
    if (result < 0) return network_error("connect to", address_.to_string(), -result);
    if (!offered_) return std::unique_ptr<Stream>(new UringStream(loop_, std::exchange(fd_, -1)));
    ASSIGN_OR_RETURN(SharedRings rings, offered_->take(static_cast<std::size_t>(result)));
    OwnedFd socket(std::exchange(fd_, -1));
    return std::unique_ptr<Stream>(new MemoryStream(loop_, std::move(socket), std::move(rings)));
  }

  Loop& loop_;
  int fd_;
  const Address address_;
  const SocketAddress socket_address_;
  ConnectCallback done_;
  std::uint64_t timer_ = 0;
  bool connected_ = false;
  std::unique_ptr<SharedRings::Offered> offered_;
};

Status begin_connecting(Loop& loop, const Address& address, Nanos timeout, ConnectCallback& done) {
  ASSIGN_OR_RETURN(SocketAddress socket_address, to_socket_address(address));
  int fd = socket(socket_address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return network_error("connect to", address.to_string(), errno);
  if (socket_address.family() != AF_UNIX) set_no_delay(fd);
  auto* connecting = new Connecting(loop, fd, address, socket_address, std::move(done));
  connecting->begin(timeout);
  return {};
}

}  // namespace

void connect_stream(Loop& loop, const Address& address, Nanos timeout, ConnectCallback done) {
  loop.check_thread();
  if (loop.closing()) return;
  Status begun = begin_connecting(loop, address, timeout, done);
  if (begun.ok()) return;
  struct Failure {
    ConnectCallback done;
    Error error;
  };
  auto failure = std::make_unique<Failure>(Failure{std::move(done), std::move(begun).error()});
  loop.post([failure = std::move(failure)] { failure->done(std::move(failure->error)); });
}

}  // namespace holdfast::io
