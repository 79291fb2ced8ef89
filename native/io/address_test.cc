#include <gtest/gtest.h>

#include "io/env.h"
#include "io/socket_address.h"

namespace holdfast {
namespace {

TEST(Address, ParsesAndPrintsAllForms) {
  for (const char* text : {"127.0.0.1:3260", "0.0.0.0:0", "[::1]:65535", "[fe80::1]:1", "unix:/run/holdfast/a.sock",
                           "unix:@holdfast/127.0.0.1:1"}) {
    Result<Address> address = Address::parse(text);
    ASSERT_TRUE(address.ok()) << text;
    EXPECT_EQ(address->to_string(), text);
    Result<io::SocketAddress> socket_address = io::to_socket_address(*address);
    ASSERT_TRUE(socket_address.ok()) << text;
    EXPECT_EQ(io::from_socket_address(*socket_address), *address);
  }
  EXPECT_EQ(Address::parse("[::1]:3260")->host, "::1");
  EXPECT_EQ(Address::parse("unix:/x")->unix_path, "/x");
}

TEST(Address, RefusesWhatIsNotOne) {
  const std::string long_path = "unix:/" + std::string(107, 'x');
  for (const std::string& text :
       {std::string(), std::string("127.0.0.1"), std::string("127.0.0.1:"), std::string("127.0.0.1:65536"),
        std::string("127.0.0.1:-1"), std::string("127.0.0.1:12x"), std::string("127.0.0.1: 12"),
        std::string("localhost:1"), std::string("1.2.3:4"), std::string("::1:3260"), std::string("[127.0.0.1]:1"),
        std::string("[::1]"), std::string("[]:1"), std::string("unix:"), long_path, std::string("\0:1", 3),
        std::string("127.0.0.1\0x:1", 13), std::string("unix:/a\0b", 9)}) {
    Result<Address> address = Address::parse(text);
    ASSERT_FALSE(address.ok()) << text;
    EXPECT_EQ(address.error().code(), ErrorCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace holdfast
