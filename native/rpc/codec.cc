#include "rpc/codec.h"

#include <array>
#include <charconv>

namespace holdfast::rpc {

namespace {

constexpr std::int64_t kTimeoutDigitsMax = 99'999'999;
constexpr std::int64_t kCenturyNanos = std::int64_t{100} * 365 * 24 * 3600 * 1'000'000'000;

struct TimeoutUnit {
  char letter;
  std::int64_t nanos;
};
// Finest first: the first unit whose value has at most eight digits is the most exact one.
constexpr TimeoutUnit kTimeoutUnits[] = {
    {'n', 1}, {'u', 1'000}, {'m', 1'000'000}, {'S', 1'000'000'000}, {'M', 60'000'000'000}, {'H', 3'600'000'000'000},
};

constexpr char kHexDigits[] = "0123456789ABCDEF";
constexpr char kBase64Digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

constexpr std::array<std::int8_t, 256> make_base64_values() {
  std::array<std::int8_t, 256> values{};
  for (auto& value : values) value = -1;
  for (int i = 0; i < 64; ++i) values[static_cast<unsigned char>(kBase64Digits[i])] = static_cast<std::int8_t>(i);
  return values;
}
constexpr std::array<std::int8_t, 256> kBase64Values = make_base64_values();

int hex_value(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'A' && digit <= 'F') return digit - 'A' + 10;
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  return -1;
}

}  // namespace

std::string encode_timeout(Nanos timeout) {
  std::int64_t nanos = std::min(std::max<std::int64_t>(timeout.count(), 0), kCenturyNanos);
  for (const TimeoutUnit& unit : kTimeoutUnits) {
    std::int64_t value = nanos / unit.nanos + (nanos % unit.nanos != 0);
    if (value <= kTimeoutDigitsMax) return std::to_string(value) + unit.letter;
  }
  return std::to_string(kTimeoutDigitsMax) + 'H';
}

std::optional<Nanos> parse_timeout(std::string_view text) {
  if (text.size() < 2 || text.size() > 9) return std::nullopt;
  std::int64_t value = 0;
  const char* end = text.data() + text.size() - 1;
  if (text[0] < '0' || text[0] > '9') return std::nullopt;
  auto [parsed_to, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || parsed_to != end) return std::nullopt;
  for (const TimeoutUnit& unit : kTimeoutUnits) {
    if (unit.letter != text.back()) continue;
    return Nanos(value > kCenturyNanos / unit.nanos ? kCenturyNanos : value * unit.nanos);
  }
  return std::nullopt;
}

std::string percent_encode(std::string_view text) {
  std::string encoded;
  encoded.reserve(text.size());
  for (char character : text) {
    auto byte = static_cast<unsigned char>(character);
    if (byte >= 0x20 && byte <= 0x7E && byte != '%') {
      encoded += character;
    } else {
      encoded += '%';
      encoded += kHexDigits[byte >> 4];
      encoded += kHexDigits[byte & 15];
    }
  }
  return encoded;
}

std::string percent_decode(std::string_view text) {
  std::string decoded;
  decoded.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size()) {
      int high = hex_value(text[i + 1]);
      int low = hex_value(text[i + 2]);
      if (high >= 0 && low >= 0) {
        decoded += static_cast<char>(high * 16 + low);
        i += 2;
        continue;
      }
    }
    decoded += text[i];
  }
  return decoded;
}

std::string base64_encode(std::string_view bytes) {
  std::string encoded;
  encoded.reserve((bytes.size() * 4 + 2) / 3);
  std::uint32_t bits = 0;
  int bit_count = 0;
  for (char byte : bytes) {
    bits = bits << 8 | static_cast<unsigned char>(byte);
    bit_count += 8;
    while (bit_count >= 6) {
      bit_count -= 6;
      encoded += kBase64Digits[bits >> bit_count & 63];
    }
  }
  if (bit_count > 0) encoded += kBase64Digits[bits << (6 - bit_count) & 63];
  return encoded;
}

std::optional<std::string> base64_decode(std::string_view text) {
  if (text.size() % 4 == 0) {
    for (int i = 0; i < 2 && !text.empty() && text.back() == '='; ++i) text.remove_suffix(1);
  }
  if (text.size() % 4 == 1) return std::nullopt;
  std::string decoded;
  decoded.reserve(text.size() * 3 / 4);
  std::uint32_t bits = 0;
  int bit_count = 0;
  for (char digit : text) {
    std::int8_t value = kBase64Values[static_cast<unsigned char>(digit)];
    if (value < 0) return std::nullopt;
    bits = bits << 6 | static_cast<std::uint32_t>(value);
    bit_count += 6;
    if (bit_count >= 8) {
      bit_count -= 8;
      decoded += static_cast<char>(bits >> bit_count & 255);
    }
  }
  return decoded;
}

std::optional<ErrorCode> error_code_by_name(std::string_view name) {
  for (const ErrorCodeRow& row : kErrorCodes) {
    if (row.name == name) return row.code;
  }
  return std::nullopt;
}

ErrorCode error_code_of_grpc(int grpc_status) {
  switch (grpc_status) {
    case kGrpcCancelled:
      return ErrorCode::kCancelled;
    case kGrpcInvalidArgument:
    case kGrpcOutOfRange:
      return ErrorCode::kInvalidArgument;
    case kGrpcDeadlineExceeded:
      return ErrorCode::kTimedOut;
    case kGrpcNotFound:
      return ErrorCode::kNotFound;
    case kGrpcAlreadyExists:
      return ErrorCode::kAlreadyExists;
    case kGrpcPermissionDenied:
    case kGrpcUnauthenticated:
    case kGrpcFailedPrecondition:
      return ErrorCode::kFailedPrecondition;
    case kGrpcResourceExhausted:
      // Never NO_SPACE: only a disk of ours may say that it is full.
      return ErrorCode::kMessageTooLarge;
    case kGrpcAborted:
      return ErrorCode::kConflict;
    case kGrpcUnimplemented:
      return ErrorCode::kUnimplemented;
    case kGrpcUnavailable:
      return ErrorCode::kConnectionLost;
    case kGrpcDataLoss:
      return ErrorCode::kCorrupt;
    default:
      return ErrorCode::kInternal;
  }
}

int grpc_status_of_http(int http_status) {
  switch (http_status) {
    case 400:
      return kGrpcInternal;
    case 401:
      return kGrpcUnauthenticated;
    case 403:
      return kGrpcPermissionDenied;
    case 404:
      return kGrpcUnimplemented;
    case 429:
    case 502:
    case 503:
    case 504:
      return kGrpcUnavailable;
    default:
      return kGrpcUnknown;
  }
}

int grpc_status_of_http2_error(std::uint32_t http2_error) {
  switch (http2_error) {
    case 0x5:  // STREAM_CLOSED: the mapping leaves it open
      return kGrpcUnknown;
    case 0x7:  // REFUSED_STREAM
      return kGrpcUnavailable;
    case 0x8:  // CANCEL
      return kGrpcCancelled;
    case 0xb:  // ENHANCE_YOUR_CALM
      return kGrpcResourceExhausted;
    case 0xc:  // INADEQUATE_SECURITY
      return kGrpcPermissionDenied;
    default:
      return kGrpcInternal;
  }
}

Status status_from_trailers(int grpc_status, std::string_view holdfast_code, std::string message) {
  if (grpc_status == kGrpcOk) return Status();
  ErrorCode code = error_code_by_name(holdfast_code).value_or(error_code_of_grpc(grpc_status));
  return Error(code, std::move(message));
}

}  // namespace holdfast::rpc
