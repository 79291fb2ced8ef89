// What nghttp2 calls while it reads and writes the frames of a Connection.
#pragma once

#include <nghttp2/nghttp2.h>

namespace holdfast::rpc {

// One set for all sessions; their user data is the Connection.
const nghttp2_session_callbacks* session_callbacks();

}  // namespace holdfast::rpc
