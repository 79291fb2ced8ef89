#include "rpc/headers.h"

#include <charconv>

#include "rpc/codec.h"

namespace holdfast::rpc {

namespace {

constexpr std::size_t kFieldOverhead = 32;
// Percent-encoding may triple it; it must stay within what peers accept as a header list.
constexpr std::size_t kStatusMessageBytesMax = 2048;

bool is_metadata_key(std::string_view key) {
  if (key.empty() || key.starts_with("grpc-") || key == "te" || key == "content-type" || key == "user-agent")
    return false;
  for (char c : key) {
    if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.')) return false;
  }
  return true;
}

bool is_metadata_value(std::string_view value) {
  for (char c : value) {
    if (c < 0x20 || c > 0x7E) return false;
  }
  // HTTP strips blanks at the ends, so they would not arrive.
  return value.empty() || (value.front() != ' ' && value.back() != ' ');
}

bool is_grpc_content_type(std::string_view value) {
  constexpr std::string_view kGrpc = "application/grpc";
  if (!value.starts_with(kGrpc)) return false;
  return value.size() == kGrpc.size() || value[kGrpc.size()] == '+' || value[kGrpc.size()] == ';';
}

int parse_int(std::string_view text, int malformed) {
  int value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && value >= 0 ? value : malformed;
}

// Cuts at a character boundary of UTF-8.
std::string_view shortened(std::string_view message) {
  if (message.size() <= kStatusMessageBytesMax) return message;
  std::size_t end = kStatusMessageBytesMax;
  while (end > 0 && (static_cast<unsigned char>(message[end]) & 0xC0) == 0x80) --end;
  return message.substr(0, end);
}

}  // namespace

void ReceivedHeaders::add(std::string_view name, std::string_view value) {
  bytes_ += name.size() + value.size() + kFieldOverhead;
  if (too_large()) return;
  if (name == ":status") {
    http_status = parse_int(value, 0);
  } else if (name == ":method") {
    method = value;
  } else if (name == ":path") {
    path = value;
  } else if (name.starts_with(':')) {
    return;  // :scheme and :authority select nothing here
  } else if (name == "content-type") {
    has_content_type = true;
    content_type_is_grpc = is_grpc_content_type(value);
  } else if (name == "grpc-timeout") {
    timeout = parse_timeout(value);
    timeout_malformed = !timeout;
  } else if (name == "grpc-status") {
    grpc_status = parse_int(value, kGrpcUnknown);
  } else if (name == "grpc-message") {
    grpc_message = percent_decode(value);
  } else if (name == "holdfast-code") {
    holdfast_code = value;
  } else if (name == "grpc-encoding") {
    compressed_encoding = value != "identity";
  } else if (name == "te" || name == "user-agent" || name.starts_with("grpc-")) {
    return;
  } else {
    add_metadata(name, value);
  }
}

void ReceivedHeaders::add_metadata(std::string_view name, std::string_view value) {
  if (!name.ends_with("-bin")) {
    metadata.emplace_back(name, value);
    return;
  }
  // Several values of one key may arrive joined by commas, which base64 does not contain.
  while (true) {
    std::size_t comma = value.find(',');
    std::optional<std::string> decoded = base64_decode(value.substr(0, comma));
    if (decoded) {
      metadata.emplace_back(name, std::move(*decoded));
    } else {
      metadata_malformed = true;
    }
    if (comma == std::string_view::npos) return;
    value.remove_prefix(comma + 1);
    while (value.starts_with(' ')) value.remove_prefix(1);
  }
}

std::vector<nghttp2_nv> HeaderList::view() const {
  std::vector<nghttp2_nv> view;
  view.reserve(fields_.size());
  for (const auto& [name, value] : fields_) {
    // nghttp2 takes non-const pointers and does not write through them.
    view.push_back({reinterpret_cast<std::uint8_t*>(const_cast<char*>(name.data())),
                    reinterpret_cast<std::uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(),
                    NGHTTP2_NV_FLAG_NONE});
  }
  return view;
}

std::size_t HeaderList::bytes() const {
  std::size_t total = 0;
  for (const auto& [name, value] : fields_) total += name.size() + value.size() + kFieldOverhead;
  return total;
}

Result<HeaderList> request_headers(std::string_view path, const std::string& authority, const Metadata& metadata,
                                   std::optional<Nanos> timeout) {
  HeaderList list;
  list.add(":method", "POST");
  list.add(":scheme", "http");
  list.add(":path", std::string(path));
  list.add(":authority", authority);
  list.add("te", "trailers");
  list.add("content-type", "application/grpc+proto");
  if (timeout) list.add("grpc-timeout", encode_timeout(*timeout));
  for (const auto& [key, value] : metadata) {
    bool binary = key.ends_with("-bin");
    if (!is_metadata_key(key) || !(binary || is_metadata_value(value))) {
      return Error(ErrorCode::kInvalidArgument,
                   "metadata \"" + percent_encode(key) +
                       "\" cannot be sent: keys are of a-z 0-9 - _ . and not reserved, values "
                       "are printable ASCII unless the key ends in -bin");
    }
    list.add(key, binary ? base64_encode(value) : value);
  }
  if (list.bytes() > kHeaderBytesMax) {
    return Error(ErrorCode::kMessageTooLarge, "the headers of " + std::string(path) + " exceed " +
                                                  std::to_string(kHeaderBytesMax) + " bytes; send less metadata");
  }
  return list;
}

HeaderList response_headers() {
  HeaderList list;
  list.add(":status", "200");
  list.add("content-type", "application/grpc+proto");
  return list;
}

void add_status(HeaderList& list, const Status& status) {
  if (status.ok()) {
    list.add("grpc-status", "0");
    return;
  }
  ErrorCode code = status.error().code();
  list.add("grpc-status", std::to_string(grpc_status_of(code)));
  list.add("grpc-message", percent_encode(shortened(status.error().message())));
  list.add("holdfast-code", std::string(error_code_name(code)));
}

}  // namespace holdfast::rpc
