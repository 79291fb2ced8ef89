// Header lists of gRPC calls: what is read from the peer's, and what ours are made of.
// Source: grpc/doc/PROTOCOL-HTTP2.md, RFC 9113 section 8.
#pragma once

#include <nghttp2/nghttp2.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "io/env.h"
#include "rpc/rpc.h"

namespace holdfast::rpc {

// The fields of one received header list (request, response or trailers) that mean something here.
class ReceivedHeaders {
 public:
  // Takes one field. Beyond kHeaderBytesMax nothing more is kept and too_large() becomes true.
  void add(std::string_view name, std::string_view value);

  bool too_large() const { return bytes_ > kHeaderBytesMax; }
  // As HTTP/2 counts (RFC 9113 section 6.5.2): name + value + 32 for each field.
  std::size_t bytes() const { return bytes_; }

  // request
  std::string method;
  std::string path;
  std::optional<Nanos> timeout;
  bool timeout_malformed = false;
  Metadata metadata;  // everything that belongs neither to HTTP nor to gRPC; -bin values decoded
  bool metadata_malformed = false;
  // response and trailers
  int http_status = 0;             // 0: none in this list
  std::optional<int> grpc_status;  // malformed: kGrpcUnknown
  std::string grpc_message;        // decoded
  std::string holdfast_code;
  // both
  bool has_content_type = false;
  bool content_type_is_grpc = false;
  bool compressed_encoding = false;  // grpc-encoding other than identity

 private:
  void add_metadata(std::string_view name, std::string_view value);

  std::size_t bytes_ = 0;
};

// A header list to send. Keeps the text alive for nghttp2, which copies it.
class HeaderList {
 public:
  void add(std::string_view name, std::string value) { fields_.emplace_back(std::string(name), std::move(value)); }
  // Valid until the next add().
  std::vector<nghttp2_nv> view() const;
  std::size_t bytes() const;

 private:
  std::vector<std::pair<std::string, std::string>> fields_;
};

// The request headers of a call. INVALID_ARGUMENT: a metadata key or value that may not be sent, or a reserved key;
// MESSAGE_TOO_LARGE: more than kHeaderBytesMax.
Result<HeaderList> request_headers(std::string_view path, const std::string& authority, const Metadata& metadata,
                                   std::optional<Nanos> timeout);
HeaderList response_headers();
// grpc-status, grpc-message and holdfast-code of `status`, to be sent as trailers.
void add_status(HeaderList& list, const Status& status);

}  // namespace holdfast::rpc
