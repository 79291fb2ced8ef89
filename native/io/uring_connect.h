// Making a connection: TCP or unix, with a deadline.
// Thread: one reactor.
#pragma once

#include "io/env.h"
#include "io/loop.h"

namespace holdfast::io {

// TIMED_OUT after `timeout`; CONNECTION_LOST when refused or unreachable.
void connect_stream(Loop& loop, const Address& address, Nanos timeout, ConnectCallback done);

}  // namespace holdfast::io
