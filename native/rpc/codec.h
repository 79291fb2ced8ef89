// The small encodings that gRPC puts into HTTP/2 headers: grpc-timeout, grpc-message, -bin metadata, status codes.
// Pure functions. Source: grpc/doc/PROTOCOL-HTTP2.md, statuscodes.md and http-grpc-status-mapping.md.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "io/env.h"

namespace holdfast::rpc {

// A gRPC status number as it stands on the wire; 0 is OK.
enum GrpcStatus : int {
  kGrpcOk = 0,
  kGrpcCancelled = 1,
  kGrpcUnknown = 2,
  kGrpcInvalidArgument = 3,
  kGrpcDeadlineExceeded = 4,
  kGrpcNotFound = 5,
  kGrpcAlreadyExists = 6,
  kGrpcPermissionDenied = 7,
  kGrpcResourceExhausted = 8,
  kGrpcFailedPrecondition = 9,
  kGrpcAborted = 10,
  kGrpcOutOfRange = 11,
  kGrpcUnimplemented = 12,
  kGrpcInternal = 13,
  kGrpcUnavailable = 14,
  kGrpcDataLoss = 15,
  kGrpcUnauthenticated = 16,
};

// grpc-timeout: at most eight digits and a unit (H M S m u n), rounded up so that a peer never gives up too early.
std::string encode_timeout(Nanos timeout);
// nullopt when malformed. Values beyond about a century are cut to it.
std::optional<Nanos> parse_timeout(std::string_view text);

// grpc-message: printable ASCII stays, everything else and '%' becomes %XX. A malformed escape is kept as it is.
std::string percent_encode(std::string_view text);
std::string percent_decode(std::string_view text);

// -bin metadata: encoded without padding, decoded with or without it. nullopt when malformed.
std::string base64_encode(std::string_view bytes);
std::optional<std::string> base64_decode(std::string_view text);

std::optional<ErrorCode> error_code_by_name(std::string_view name);
// The nearest ErrorCode to a status of a foreign peer. `grpc_status` is not kGrpcOk.
ErrorCode error_code_of_grpc(int grpc_status);
// What a response that is not gRPC means, by its HTTP status.
int grpc_status_of_http(int http_status);
// What RST_STREAM with this HTTP/2 error code means.
int grpc_status_of_http2_error(std::uint32_t http2_error);

// The Status of a call from the peer's trailers. `holdfast_code` is empty for a foreign peer.
Status status_from_trailers(int grpc_status, std::string_view holdfast_code, std::string message);

}  // namespace holdfast::rpc
