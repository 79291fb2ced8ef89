#include "rpc/codec.h"

#include <gtest/gtest.h>

namespace holdfast::rpc {
namespace {

TEST(CodecTest, TimeoutIsExactInTheFinestUnitThatFits) {
  EXPECT_EQ(encode_timeout(0ns), "0n");
  EXPECT_EQ(encode_timeout(99'999'999ns), "99999999n");
  EXPECT_EQ(encode_timeout(100'000'000ns), "100000u");
  EXPECT_EQ(encode_timeout(100'000'001ns), "100001u");  // rounded up
  EXPECT_EQ(encode_timeout(250s), "250000m");
  EXPECT_EQ(encode_timeout(-5s), "0n");
  EXPECT_EQ(encode_timeout(Nanos::max()), "52560000M");
}

TEST(CodecTest, TimeoutParsesEveryUnit) {
  EXPECT_EQ(parse_timeout("1H"), Nanos(1h));
  EXPECT_EQ(parse_timeout("2M"), Nanos(2min));
  EXPECT_EQ(parse_timeout("3S"), Nanos(3s));
  EXPECT_EQ(parse_timeout("4m"), Nanos(4ms));
  EXPECT_EQ(parse_timeout("5u"), Nanos(5us));
  EXPECT_EQ(parse_timeout("6n"), Nanos(6ns));
  EXPECT_GT(*parse_timeout("99999999H"), Nanos(24h * 365 * 99));
}

TEST(CodecTest, TimeoutRejectsEverythingElse) {
  for (const char* bad : {"", "S", "1", "1s", "-1S", "+1S", " 1S", "1 S", "123456789S", "1.5S", "0x1S"}) {
    EXPECT_FALSE(parse_timeout(bad)) << bad;
  }
}

TEST(CodecTest, PercentEncodingKeepsPrintableAscii) {
  EXPECT_EQ(percent_encode("disk full: 3 of 4"), "disk full: 3 of 4");
  EXPECT_EQ(percent_encode("100%\n\xc3\xa4"), "100%25%0A%C3%A4");
  EXPECT_EQ(percent_decode("100%25%0A%c3%A4"), "100%\n\xc3\xa4");
  EXPECT_EQ(percent_decode("bad %zz %4"), "bad %zz %4");
  EXPECT_EQ(percent_decode("%41"), "A");
  std::string every_byte;
  for (int i = 0; i < 256; ++i) every_byte += static_cast<char>(i);
  EXPECT_EQ(percent_decode(percent_encode(every_byte)), every_byte);
}

TEST(CodecTest, Base64WithAndWithoutPadding) {
  EXPECT_EQ(base64_encode("f"), "Zg");
  EXPECT_EQ(base64_encode("foobar"), "Zm9vYmFy");
  EXPECT_EQ(base64_decode("Zg"), "f");
  EXPECT_EQ(base64_decode("Zg=="), "f");
  EXPECT_EQ(base64_decode("Zm8="), "fo");
  EXPECT_EQ(base64_decode(""), "");
  for (const char* bad : {"Z", "Zg=", "Z===", "Zm9v!", "=", "Zg==Zg=="}) EXPECT_FALSE(base64_decode(bad)) << bad;
  for (std::size_t size = 0; size < 300; ++size) {
    std::string bytes;
    for (std::size_t i = 0; i < size; ++i) bytes += static_cast<char>(i * 7 + size);
    EXPECT_EQ(base64_decode(base64_encode(bytes)), bytes);
  }
}

TEST(CodecTest, EveryErrorCodeTravelsByName) {
  for (const ErrorCodeRow& row : kErrorCodes) {
    Status status = status_from_trailers(row.grpc_status, row.name, "text");
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code(), row.code);
    EXPECT_EQ(status.error().message(), "text");
  }
}

TEST(CodecTest, ForeignStatusesMapToTheNearestCode) {
  EXPECT_TRUE(status_from_trailers(0, "NO_SPACE", "ignored").ok());
  EXPECT_EQ(status_from_trailers(14, "", "").error().code(), ErrorCode::kConnectionLost);
  EXPECT_EQ(status_from_trailers(4, "", "").error().code(), ErrorCode::kTimedOut);
  EXPECT_EQ(status_from_trailers(8, "", "").error().code(), ErrorCode::kMessageTooLarge);
  EXPECT_EQ(status_from_trailers(2, "", "").error().code(), ErrorCode::kInternal);
  EXPECT_EQ(status_from_trailers(12, "A_CODE_OF_THE_FUTURE", "").error().code(), ErrorCode::kUnimplemented);
  EXPECT_EQ(status_from_trailers(77, "", "").error().code(), ErrorCode::kInternal);
}

TEST(CodecTest, HttpMapping) {
  EXPECT_EQ(grpc_status_of_http(404), kGrpcUnimplemented);
  EXPECT_EQ(grpc_status_of_http(503), kGrpcUnavailable);
  EXPECT_EQ(grpc_status_of_http(418), kGrpcUnknown);
  EXPECT_EQ(grpc_status_of_http2_error(8), kGrpcCancelled);
  EXPECT_EQ(grpc_status_of_http2_error(7), kGrpcUnavailable);
  EXPECT_EQ(grpc_status_of_http2_error(1), kGrpcInternal);
}

}  // namespace
}  // namespace holdfast::rpc
