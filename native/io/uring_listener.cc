#include "io/uring_listener.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/log.h"
#include "io/memory_stream.h"
#include "io/socket_address.h"
#include "io/system_error.h"
#include "io/uring_stream.h"

namespace holdfast::io {

namespace {

constexpr int kBacklog = 4096;
// After running out of descriptors or memory.
constexpr Nanos kAcceptPause = 100ms;

// Which file a unix listener made, so that it removes no other.
struct FileIdentity {
  dev_t device = 0;
  ino_t inode = 0;
  bool operator==(const FileIdentity&) const = default;
};

FileIdentity identity_of(const std::string& path) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) return {};
  return {status.st_dev, status.st_ino};
}

bool is_socket(const std::string& path) {
  struct stat status {};
  return stat(path.c_str(), &status) == 0 && S_ISSOCK(status.st_mode);
}

// True when the path is a socket that nobody listens on any more.
bool is_dead_socket(const SocketAddress& address, const std::string& path) {
  if (!is_socket(path)) return false;
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return false;
  bool refused = ::connect(fd, address.get(), address.length) != 0 && errno == ECONNREFUSED;
  ::close(fd);
  return refused;
}

Status bind_and_listen(int fd, const SocketAddress& socket_address, const Address& address) {
  if (bind(fd, socket_address.get(), socket_address.length) != 0) {
    int error_number = errno;
    bool may_replace = error_number == EADDRINUSE && !address.unix_path.empty() && !address.is_abstract() &&
                       is_dead_socket(socket_address, address.unix_path) && unlink(address.unix_path.c_str()) == 0;
    if (!may_replace) return network_error("listen on", address.to_string(), error_number);
    if (bind(fd, socket_address.get(), socket_address.length) != 0) {
      return network_error("listen on", address.to_string(), errno);
    }
  }
  if (::listen(fd, kBacklog) != 0) return network_error("listen on", address.to_string(), errno);
  return {};
}

}  // namespace

void set_no_delay(int fd) {
  int on = 1;
  (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

class UringListener::Core final : public Completion {
 public:
  Core(Loop& loop, int fd, Address address, AcceptCallback on_stream)
      : loop_(loop), fd_(fd), address_(std::move(address)), on_stream_(std::move(on_stream)) {
    if (has_file()) identity_ = identity_of(address_.unix_path);
    begin();
  }

  void abandon() {
    abandoned_ = true;
    loop_.cancel_call(retry_timer_);
    if (has_file() && identity_of(address_.unix_path) == identity_) {
      unlink(address_.unix_path.c_str());
    }
    if (!in_flight_) {
      if (!calling_) delete this;
      return;
    }
    // Refuses connections from now on, not only when the cancellation is through.
    ::shutdown(fd_, SHUT_RDWR);
    loop_.ring().cancel(this);
  }

  const Address& address() const { return address_; }

 private:
  ~Core() { ::close(fd_); }
  bool has_file() const { return !address_.unix_path.empty() && !address_.is_abstract(); }

  void begin() {
    in_flight_ = true;
    loop_.ring().prepare(this, [this](io_uring_sqe* entry) {
      io_uring_prep_multishot_accept(entry, fd_, nullptr, nullptr, SOCK_CLOEXEC);
    });
  }

  void on_completion(std::int32_t result, std::uint32_t flags) override {
    if ((flags & IORING_CQE_F_MORE) == 0) in_flight_ = false;
    if (result >= 0) accepted(result);
    if (abandoned_) {
      if (!in_flight_) delete this;
      return;
    }
    if (in_flight_ || loop_.closing()) return;
    if (result >= 0 || result == -ECONNABORTED || result == -EINTR || result == -EAGAIN) return begin();
    log_warn("io", network_error("accept on", address_.to_string(), -result).message());
    retry_timer_ = loop_.call_at(loop_.now() + kAcceptPause, [this] { begin(); });
  }

  void accepted(int fd) {
    if (abandoned_ || loop_.closing()) {
      ::close(fd);
      return;
    }
    // Anybody on this host may connect to a name without a file.
    if (address_.is_abstract() && !peer_is_trusted(fd)) {
      log_warn("io", "refused a connection to " + address_.to_string() + " by another user");
      ::close(fd);
      return;
    }
    std::unique_ptr<Stream> stream = stream_of(fd);
    if (!stream) return;
    calling_ = true;
    on_stream_(std::move(stream));
    calling_ = false;
  }

  // Null: it could not be had, and the connection is closed.
  std::unique_ptr<Stream> stream_of(int fd) {
    if (!address_.is_abstract()) return std::make_unique<UringStream>(loop_, fd);
    OwnedFd socket(fd);
    Result<SharedRings> rings = SharedRings::offer(fd);
    if (rings.ok()) return std::make_unique<MemoryStream>(loop_, std::move(socket), std::move(*rings));
    log_warn("io", "a connection to " + address_.to_string() + ": " + rings.error().message());
    return nullptr;
  }

  Loop& loop_;
  const int fd_;
  const Address address_;
  AcceptCallback on_stream_;
  FileIdentity identity_;
  std::uint64_t retry_timer_ = 0;
  bool in_flight_ = false;
  bool calling_ = false;
  bool abandoned_ = false;
};

Result<std::unique_ptr<Listener>> UringListener::create(Loop& loop, const Address& address, AcceptCallback on_stream) {
  loop.check_thread();
  if (loop.closing()) return Error(ErrorCode::kCancelled, "the reactor has stopped");
  ASSIGN_OR_RETURN(SocketAddress socket_address, to_socket_address(address));
  int fd = socket(socket_address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return network_error("listen on", address.to_string(), errno);
  if (socket_address.family() != AF_UNIX) {
    int on = 1;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    set_no_delay(fd);  // accepted sockets inherit it
  }
  Status listening = bind_and_listen(fd, socket_address, address);
  if (!listening.ok()) {
    ::close(fd);
    return std::move(listening).error();
  }
  auto* core = new Core(loop, fd, address.unix_path.empty() ? local_address_of(fd) : address, std::move(on_stream));
  return std::unique_ptr<Listener>(new UringListener(loop, core));
}

UringListener::~UringListener() {
  core_->abandon();
  --loop_.handles;
}

Address UringListener::address() const { return core_->address(); }

}  // namespace holdfast::io
