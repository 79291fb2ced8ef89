// secure(): a Stream that speaks TLS over another Stream.
//
// What is sent before the handshake ended waits for it; nothing is delivered before. A handshake or a record that fails
// is told to the peer (alert) and reported by on_closed(): UNAUTHENTICATED for a peer without a valid certificate of
// the cluster, PERMISSION_DENIED for one whose certificate is for something else, PROTOCOL for what is no TLS. A plain
// HTTP/2 client is answered in plain with GOAWAY. Thread: the reactor of the Env.
#pragma once

#include <memory>

#include "io/env.h"
#include "tls/identity.h"

namespace holdfast::tls {

enum class Side : std::uint8_t {
  kClient,  // expects a node
  kServer,  // admits nodes and managers
};

std::unique_ptr<Stream> secure(Env& env, const std::shared_ptr<Identity>& identity, Side side,
                               std::unique_ptr<Stream> stream);

}  // namespace holdfast::tls
