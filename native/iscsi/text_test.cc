#include "iscsi/text.h"

#include <gtest/gtest.h>

namespace holdfast::iscsi {
namespace {

using namespace std::string_literals;
using namespace std::string_view_literals;

TEST(Text, SplitsPairsAtNullBytes) {
  auto pairs = parse_text("InitiatorName=iqn.x:y\0Empty=\0A=b=c\0"sv);
  ASSERT_TRUE(pairs.ok());
  ASSERT_EQ(pairs->size(), 3u);
  EXPECT_EQ((*pairs)[0], std::pair("InitiatorName"s, "iqn.x:y"s));
  EXPECT_EQ((*pairs)[1], std::pair("Empty"s, ""s));
  EXPECT_EQ((*pairs)[2], std::pair("A"s, "b=c"s));
}

TEST(Text, TakesPaddingAndAMissingLastNull) {
  auto pairs = parse_text("\0\0A=1\0\0\0B=2"sv);
  ASSERT_TRUE(pairs.ok());
  EXPECT_EQ(pairs->size(), 2u);
}

TEST(Text, RefusesWhatIsNoPair) {
  EXPECT_FALSE(parse_text("NoEquals\0"sv).ok());
  EXPECT_FALSE(parse_text("=value\0"sv).ok());
  EXPECT_TRUE(parse_text(std::string(63, 'k') + "=v").ok());
  EXPECT_FALSE(parse_text(std::string(64, 'k') + "=v").ok());
  std::string many;
  for (std::size_t i = 0; i <= kTextPairsMax; ++i) many += "K=v\0"s;
  EXPECT_FALSE(parse_text(many).ok());
}

TEST(Text, ReadsNumbers) {
  EXPECT_EQ(parse_text_number("0", 10), 0u);
  EXPECT_EQ(parse_text_number("16777215", 16'777'215), 16'777'215u);
  EXPECT_EQ(parse_text_number("16777216", 16'777'215), std::nullopt);
  EXPECT_EQ(parse_text_number("0x1f", 255), 31u);
  EXPECT_EQ(parse_text_number("0X1F", 255), 31u);
  EXPECT_EQ(parse_text_number("18446744073709551615", ~0ull), ~0ull);
  EXPECT_EQ(parse_text_number("18446744073709551616", ~0ull), std::nullopt);
  for (std::string_view wrong : {"", "-1", "+1", " 1", "1 ", "0x", "0xg", "1f", "٣"}) {
    EXPECT_EQ(parse_text_number(wrong, 1000), std::nullopt) << wrong;
  }
}

TEST(Text, ReadsBinaryValues) {
  EXPECT_EQ(decode_text_binary("0x00ff10", 16), "\0\xff\x10"s);
  EXPECT_EQ(decode_text_binary("0xf10", 16), "\x0f\x10"s) << "an odd number of digits begins with half a byte";
  EXPECT_EQ(decode_text_binary("0bAP8Q", 16), "\0\xff\x10"s);
  EXPECT_EQ(decode_text_binary("0bAP8=", 16), "\0\xff"s);
  EXPECT_EQ(decode_text_binary("0BAA==", 16), "\0"s);
  for (std::string_view wrong : {"", "00ff", "0x", "0xzz", "0b", "0bA", "0b!!!!", "0d12"}) {
    EXPECT_EQ(decode_text_binary(wrong, 16), std::nullopt) << wrong;
  }
  EXPECT_EQ(decode_text_binary("0x0000", 1), std::nullopt) << "longer than allowed";
}

TEST(Text, BinaryValuesRoundTrip) {
  std::string bytes;
  for (int i = 0; i < 256; ++i) bytes.push_back(static_cast<char>(i));
  EXPECT_EQ(decode_text_binary(encode_text_binary(bytes), 256), bytes);
}

TEST(Text, KnowsNames) {
  EXPECT_TRUE(valid_iscsi_name("iqn.2026-11.io.holdfast:v"));
  EXPECT_TRUE(valid_iscsi_name("eui.02004567A425678D"));
  EXPECT_TRUE(valid_iscsi_name("naa.52004567BA64678D"));
  EXPECT_TRUE(valid_iscsi_name("iqn." + std::string(219, 'x')));
  EXPECT_FALSE(valid_iscsi_name("iqn." + std::string(220, 'x')));
  for (std::string_view wrong : {"", "iqn.", "host", "iqn.a b", "iqn.a,i,0x1", "iqn.a\n"}) {
    EXPECT_FALSE(valid_iscsi_name(wrong)) << wrong;
  }
}

TEST(Text, SplitsLists) {
  EXPECT_EQ(split_list("a,b,,c"), (std::vector<std::string_view>{"a", "b", "", "c"}));
  EXPECT_EQ(split_list(""), (std::vector<std::string_view>{""}));
}

}  // namespace
}  // namespace holdfast::iscsi
