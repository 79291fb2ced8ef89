// Address to and from the kernel's sockaddr. Thread: any.
#pragma once

#include <sys/socket.h>

#include "base/result.h"
#include "io/env.h"

namespace holdfast::io {

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;

  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
  int family() const { return storage.ss_family; }
};

Result<SocketAddress> to_socket_address(const Address& address);
Address from_socket_address(const SocketAddress& address);

// Of a socket; an empty Address when the kernel no longer knows (the peer is gone).
Address local_address_of(int fd);
Address peer_address_of(int fd);

// Of a connected unix socket: runs the other end as this user or as root?
bool peer_is_trusted(int fd);

}  // namespace holdfast::io
