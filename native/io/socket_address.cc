#include "io/socket_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/un.h>
#include <unistd.h>

#include <charconv>
#include <cstddef>
#include <cstring>

namespace holdfast {

namespace {

constexpr std::string_view kUnixPrefix = "unix:";

Error bad_address(std::string_view text, std::string_view why) {
  std::string message = "address \"";
  message += text;
  message += "\": ";
  message += why;
  return Error(ErrorCode::kInvalidArgument, std::move(message));
}

Result<std::uint16_t> parse_port(std::string_view whole, std::string_view text) {
  unsigned port = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc() || end != text.data() + text.size() || text.empty() || port > 65'535) {
    return bad_address(whole, "the port must be a number from 0 to 65535");
  }
  return static_cast<std::uint16_t>(port);
}

bool is_numeric(int family, const std::string& host) {
  unsigned char ignored[sizeof(in6_addr)];
  return inet_pton(family, host.c_str(), ignored) == 1;
}

}  // namespace

Result<Address> Address::parse(std::string_view text) {
  if (text.find('\0') != std::string_view::npos) return bad_address(text, "it contains a NUL byte");
  if (text.starts_with(kUnixPrefix)) {
    Address address;
    address.unix_path = text.substr(kUnixPrefix.size());
    if (address.unix_path.empty()) return bad_address(text, "the path of the socket is missing");
    if (address.unix_path.size() >= sizeof(sockaddr_un::sun_path)) {
      return bad_address(text, "the path of a socket has at most 107 bytes");
    }
    return address;
  }
  std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return bad_address(text, "expected HOST:PORT, [HOST6]:PORT or unix:PATH");
  std::string_view host = text.substr(0, colon);
  bool bracketed = host.size() >= 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  Address address;
  address.host = host;
  ASSIGN_OR_RETURN(address.port, parse_port(text, text.substr(colon + 1)));
  if (!is_numeric(bracketed ? AF_INET6 : AF_INET, address.host)) {
    return bad_address(text, "the host must be a numeric IPv4 address or an IPv6 address in [brackets]");
  }
  return address;
}

std::string Address::to_string() const {
  if (!unix_path.empty()) return std::string(kUnixPrefix) + unix_path;
  if (host.find(':') != std::string::npos) return "[" + host + "]:" + std::to_string(port);
  return host + ":" + std::to_string(port);
}

namespace io {

Result<SocketAddress> to_socket_address(const Address& address) {
  SocketAddress out;
  if (!address.unix_path.empty()) {
    auto* local = reinterpret_cast<sockaddr_un*>(&out.storage);
    if (address.unix_path.size() >= sizeof(local->sun_path)) {
      return bad_address(address.to_string(), "the path of a socket has at most 107 bytes");
    }
    local->sun_family = AF_UNIX;
    std::memcpy(local->sun_path, address.unix_path.c_str(), address.unix_path.size() + 1);
    if (address.is_abstract()) local->sun_path[0] = '\0';
    std::size_t size = address.unix_path.size() + (address.is_abstract() ? 0 : 1);
    out.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + size);
    return out;
  }
  auto* four = reinterpret_cast<sockaddr_in*>(&out.storage);
  if (inet_pton(AF_INET, address.host.c_str(), &four->sin_addr) == 1) {
    four->sin_family = AF_INET;
    four->sin_port = htons(address.port);
    out.length = sizeof(sockaddr_in);
    return out;
  }
  auto* six = reinterpret_cast<sockaddr_in6*>(&out.storage);
  if (inet_pton(AF_INET6, address.host.c_str(), &six->sin6_addr) == 1) {
    six->sin6_family = AF_INET6;
    six->sin6_port = htons(address.port);
    out.length = sizeof(sockaddr_in6);
    return out;
  }
  return bad_address(address.to_string(), "the host must be a numeric IPv4 or IPv6 address");
}

Address from_socket_address(const SocketAddress& address) {
  Address out;
  char text[INET6_ADDRSTRLEN] = {};
  if (address.family() == AF_INET) {
    const auto* four = reinterpret_cast<const sockaddr_in*>(&address.storage);
    out.host = inet_ntop(AF_INET, &four->sin_addr, text, sizeof text);
    out.port = ntohs(four->sin_port);
  } else if (address.family() == AF_INET6) {
    const auto* six = reinterpret_cast<const sockaddr_in6*>(&address.storage);
    out.host = inet_ntop(AF_INET6, &six->sin6_addr, text, sizeof text);
    out.port = ntohs(six->sin6_port);
  } else if (address.family() == AF_UNIX && address.length > offsetof(sockaddr_un, sun_path)) {
    const char* path = reinterpret_cast<const sockaddr_un*>(&address.storage)->sun_path;
    std::size_t size = address.length - offsetof(sockaddr_un, sun_path);
    out.unix_path = path[0] != '\0' ? std::string(path) : "@" + std::string(path + 1, size - 1);
  }
  return out;
}

Address local_address_of(int fd) {
  SocketAddress address;
  address.length = sizeof address.storage;
  if (getsockname(fd, address.get(), &address.length) != 0) return {};
  return from_socket_address(address);
}

Address peer_address_of(int fd) {
  SocketAddress address;
  address.length = sizeof address.storage;
  if (getpeername(fd, address.get(), &address.length) != 0) return {};
  return from_socket_address(address);
}

bool peer_is_trusted(int fd) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return false;
  return peer.uid == 0 || peer.uid == geteuid();
}

}  // namespace io
}  // namespace holdfast
