// The way around TCP and TLS between processes of one host: a server also listens on an abstract unix socket named
// after its address, whose streams go through shared memory, and a channel to that address tries it first. Like
// loopback it is seen only inside one network namespace; both ends must run as the same user or as root (Env checks
// it). For loopback addresses, and for those that TLS covers: without TLS an address of several hosts may be served by
// a simulation of them.
#pragma once

#include <optional>

#include "io/env.h"
#include "tls/identity.h"

namespace holdfast::rpc {

inline std::optional<Address> local_shortcut(const Address& address, const tls::Options& tls) {
  if (address.port == 0 || tls.on_loopback) return std::nullopt;
  if (!address.is_loopback() && !tls.covers(address)) return std::nullopt;
  return Address{"", 0, "@holdfast/memory/" + address.to_string()};
}

}  // namespace holdfast::rpc
