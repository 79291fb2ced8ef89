#include "io/socket_owner.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/socket_address.h"

namespace holdfast::io {
namespace {

TEST(SocketOwnerTest, FindsTheUserOfAConnection) {
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in any{};
  any.sin_family = AF_INET;
  any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&any), sizeof any), 0);
  ASSERT_EQ(listen(listener, 1), 0);
  socklen_t size = sizeof any;
  ASSERT_EQ(getsockname(listener, reinterpret_cast<sockaddr*>(&any), &size), 0);
  int client = socket(AF_INET, SOCK_STREAM, 0);
  ASSERT_EQ(connect(client, reinterpret_cast<sockaddr*>(&any), sizeof any), 0);
  Address ours = peer_address_of(client);
  Address theirs = local_address_of(client);
  EXPECT_EQ(socket_owner(ours, theirs), geteuid());
  EXPECT_EQ(socket_owner(ours, {"127.0.0.9", theirs.port, ""}), std::nullopt);
  EXPECT_EQ(socket_owner({"127.0.0.1", 1, ""}, theirs), std::nullopt);
  close(client);
  close(listener);
}

struct Pair {
  int listener = -1, client = -1, accepted = -1;
  ~Pair() {
    for (int fd : {listener, client, accepted}) {
      if (fd >= 0) close(fd);
    }
  }
};

// A listener on [::] takes both kinds; a client of either kind.
void connect_pair(int family, const char* host, Pair& pair) {
  pair.listener = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int off = 0;
  setsockopt(pair.listener, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
  sockaddr_in6 any{};
  any.sin6_family = AF_INET6;
  ASSERT_EQ(bind(pair.listener, reinterpret_cast<sockaddr*>(&any), sizeof any), 0);
  ASSERT_EQ(listen(pair.listener, 1), 0);
  std::uint16_t port = local_address_of(pair.listener).port;
  SocketAddress to = *to_socket_address({host, port, ""});
  pair.client = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ASSERT_EQ(connect(pair.client, to.get(), to.length), 0);
  pair.accepted = accept4(pair.listener, nullptr, nullptr, SOCK_CLOEXEC);
  ASSERT_GE(pair.accepted, 0);
}

TEST(SocketOwnerTest, BothWaysFindIPv4AndIPv6AndIPv4InIPv6) {
  struct Case {
    int family;
    const char* host;
  };
  for (Case each : {Case{AF_INET, "127.0.0.1"}, Case{AF_INET6, "::1"}, Case{AF_INET6, "::ffff:127.0.0.1"}}) {
    SCOPED_TRACE(each.host);
    Pair pair;
    connect_pair(each.family, each.host, pair);
    Address ours = local_address_of(pair.accepted);
    Address theirs = peer_address_of(pair.accepted);
    EXPECT_EQ(listed_owner(ours, theirs), geteuid());
    // Some kernels have no sock_diag for TCP; then the table has to do.
    EXPECT_EQ(asked_owner(ours, theirs).value_or(geteuid()), geteuid());
    EXPECT_EQ(asked_owner(ours, {theirs.host, 1, ""}), std::nullopt);
    // A listener has this address, and is no connection.
    EXPECT_EQ(asked_owner({theirs.host, 1, ""}, ours), std::nullopt);
  }
}

TEST(SocketOwnerTest, ReadsTheTable) {
  const char* table =
      "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
      "   0: 0100007F:1DB0 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 11 1\n"
      "   1: 0100007F:C350 0100007F:1DB0 01 00000000:00000000 00:00000000 00000000  1001        0 12 1\n"
      "   2: 0100007F:C351 0100007F:1DB0 06 00000000:00000000 03:00001770 00000000     0        0 0 3\n"
      "   3: 0100007F:C352 0100007F:1111 06 00000000:00000000 03:00001770 00000000     0        0 0 3\n"
      "   4: 0100007F:C352 0100007F:2222 01 00000000:00000000 00:00000000 00000000  1002        0 13 1\n"
      "   5: 0100007F:C352 0100007F:1DB0 01 00000000:00000000 00:00000000 00000000  1003        0 14 1\n";
  EXPECT_EQ(owner_in(table, "0100007F:C350", "0100007F:1DB0"), 1001u);
  EXPECT_EQ(owner_in(table, "0100007F:C351", "0100007F:1DB0"), std::nullopt);  // has ended
  EXPECT_EQ(owner_in(table, "0100007F:1DB0", "00000000:0000"), std::nullopt);  // listens
  EXPECT_EQ(owner_in(table, "0100007F:C352", "0100007F:1DB0"), 1003u);         // not what has the same port
  EXPECT_EQ(owner_in(table, "0100007F:C353", "0100007F:1DB0"), std::nullopt);
  EXPECT_EQ(owner_in("   1: 0100007F:C350 0100007F:1DB0 01 ", "0100007F:C350", "0100007F:1DB0"), std::nullopt);
}

TEST(SocketOwnerTest, TrustsItselfAndRoot) {
  EXPECT_TRUE(is_trusted_user(geteuid()));
  EXPECT_TRUE(is_trusted_user(0));
  EXPECT_FALSE(is_trusted_user(geteuid() + 12'345));
}

}  // namespace
}  // namespace holdfast::io
