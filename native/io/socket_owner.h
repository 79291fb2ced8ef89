// Who is at the other end of a connection on loopback: the kernel knows the user of every TCP socket of this network
// namespace. Thread: any; asks for the one socket (sock_diag(7)), and reads /proc/net/tcp where that finds nothing,
// which takes milliseconds when there are thousands of sockets.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string_view>

#include "io/env.h"

namespace holdfast::io {

// The user of the other end of a connection of this host, whose ends are seen from here; nullopt when there is none.
std::optional<uid_t> socket_owner(const Address& local, const Address& peer);
// This process's user, or root.
bool is_trusted_user(uid_t user);

// The two ways; nullopt: nothing was found in this one.
std::optional<uid_t> asked_owner(const Address& local, const Address& peer);
std::optional<uid_t> listed_owner(const Address& local, const Address& peer);

// Looks the owner up in the text of /proc/net/tcp; the ends of its socket as the kernel writes them: "0100007F:C350".
std::optional<uid_t> owner_in(std::string_view table, std::string_view local, std::string_view remote);

}  // namespace holdfast::io
