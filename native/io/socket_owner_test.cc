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
