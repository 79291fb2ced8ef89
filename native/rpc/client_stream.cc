// ClientStream: the client's gRPC rules. What ends a call, in order of trust: grpc-status of the peer, its HTTP
// status, the error code of RST_STREAM, the loss of the connection.
#include "rpc/call_stream.h"
#include "rpc/codec.h"
#include "rpc/connection.h"

namespace holdfast::rpc {

ClientStream::ClientStream(Env& env, std::string_view path, Metadata metadata, std::optional<Nanos> deadline)
    : CallStream(env), metadata_(std::move(metadata)) {
  path_ = path;
  if (deadline) {
    deadline_at_ = env.now() + *deadline;
    arm_deadline(*deadline);
  }
}

Result<HeaderList> ClientStream::make_headers(const std::string& authority) const {
  std::optional<Nanos> timeout;
  if (deadline_at_) timeout = std::max(*deadline_at_ - env_.now(), Nanos(1));
  return request_headers(path_, authority, metadata_, timeout);
}

void ClientStream::finish_sending() {
  if (std::exchange(sending_ended_, true)) return;
  continue_sending();
}

void ClientStream::on_headers() {
  if (ended_) return;
  if (headers_->http_status == 0) return;  // trailers: on_peer_end() reads them
  if (headers_->http_status < 200) {       // informational; the real one follows
    headers_.reset();
    return;
  }
  http_status_ = headers_->http_status;
  response_is_grpc_ = headers_->content_type_is_grpc;
  // A response that is not gRPC has a body that nobody wants. With a grpc-status its END_STREAM has come too.
  if ((http_status_ != 200 || !response_is_grpc_ || headers_->too_large()) && !headers_->grpc_status) {
    fail(final_status());
  }
}

Status ClientStream::final_status() {
  if (headers_ && headers_->too_large()) {
    return Error(ErrorCode::kMessageTooLarge,
                 describe() + ": the peer's headers exceed " + std::to_string(kHeaderBytesMax) + " bytes");
  }
  if (headers_ && headers_->grpc_status) {
    if (*headers_->grpc_status == kGrpcOk && reader_.in_message()) {
      return Error(ErrorCode::kProtocol, describe() + ": the peer ended it inside a message");
    }
    return status_from_trailers(*headers_->grpc_status, headers_->holdfast_code, std::move(headers_->grpc_message));
  }
  if (http_status_ != 200) {
    return Error(error_code_of_grpc(grpc_status_of_http(http_status_)),
                 describe() + ": the peer answered with HTTP status " + std::to_string(http_status_));
  }
  if (!response_is_grpc_) return Error(ErrorCode::kProtocol, describe() + ": the peer's answer is not gRPC");
  return Error(ErrorCode::kProtocol, describe() + ": the peer ended it without grpc-status");
}

void ClientStream::on_peer_end() {
  if (ended_) return;
  Status status = final_status();
  // The server needs nothing more from us; without this the stream would stay half open.
  if (!sending_ended_ || queue_.bytes() > 0) connection_->reset(*this, NGHTTP2_NO_ERROR);
  end(status);
}

void ClientStream::on_closed(std::uint32_t http2_error) {
  if (ended_) return;
  if (http2_error == NGHTTP2_REFUSED_STREAM) {
    return end(Error(ErrorCode::kConnectionLost, describe() + ": the server takes no new calls; it was not processed"));
  }
  ErrorCode code = http2_error == NGHTTP2_PROTOCOL_ERROR ? ErrorCode::kProtocol
                                                         : error_code_of_grpc(grpc_status_of_http2_error(http2_error));
  end(Error(code, describe() + ": the stream was reset: " + nghttp2_http2_strerror(http2_error)));
}

void ClientStream::fail(const Status& status) {
  CallList own;  // a call without a connection dies at the end of this function
  if (connection_ != nullptr) {
    connection_->reset(*this, NGHTTP2_CANCEL);
  } else {
    move_to(own);
  }
  end(status);
}

void ClientStream::cancel() {
  if (connection_ != nullptr) {
    connection_->reset(*this, NGHTTP2_CANCEL);
  } else {
    CallList own;
    move_to(own);
  }
}

void ClientStream::deliver(Message message) {
  if (!unary_) return CallStream::deliver(std::move(message));
  unary_->too_many = unary_->response.has_value();
  unary_->response = std::move(message);
}

void ClientStream::after_end(const Status& status) {
  if (!unary_) return;
  std::unique_ptr<Unary> unary = std::move(unary_);
  if (!status.ok()) return unary->done(status.error());
  if (!unary->response) {
    return unary->done(Error(ErrorCode::kProtocol, describe() + ": the peer answered OK without a message"));
  }
  if (unary->too_many) {
    return unary->done(Error(ErrorCode::kProtocol, describe() + ": more than one message answers a unary call"));
  }
  unary->done(std::move(*unary->response));
}

}  // namespace holdfast::rpc
