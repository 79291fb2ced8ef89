// ServerStream: the server's gRPC rules. A request that is wrong in itself is answered here, with trailers only;
// response headers go out with the first message, so that an early error is one HEADERS frame.
#include "rpc/call_stream.h"
#include "rpc/connection.h"

namespace holdfast::rpc {

void ServerStream::on_headers() {
  if (std::exchange(request_seen_, true)) {  // trailers of the client mean nothing in gRPC
    headers_.reset();
    return;
  }
  path_ = headers_->path;
  if (headers_->method != "POST") return answer_http_error("405");
  if (!headers_->content_type_is_grpc) return answer_http_error("415");
  if (Status status = check_request(); !status.ok()) return finish(std::move(status));
  if (headers_->timeout) arm_deadline(*headers_->timeout);
  connection_->hand_over(*this);
}

Status ServerStream::check_request() const {
  if (headers_->too_large()) {
    return Error(ErrorCode::kMessageTooLarge,
                 "the request's headers exceed " + std::to_string(kHeaderBytesMax) + " bytes; send less metadata");
  }
  if (headers_->timeout_malformed) return Error(ErrorCode::kProtocol, "grpc-timeout is malformed");
  if (headers_->metadata_malformed) return Error(ErrorCode::kProtocol, "-bin metadata is not base64");
  return Status();
}

void ServerStream::answer_http_error(const char* http_status) {
  HeaderList list;
  list.add(":status", http_status);
  connection_->submit_headers(*this, list, true);
  headers_sent_ = sending_ended_ = true;
  end_silently();
}

void ServerStream::on_peer_end() {
  peer_ended_ = true;
  if (ended_) return;
  if (reader_.in_message()) {
    return fail(Error(ErrorCode::kProtocol, describe() + ": the client ended it inside a message"));
  }
  if (handler_ != nullptr) handler_->on_peer_finished();
}

void ServerStream::on_closed(std::uint32_t http2_error) {
  if (ended_) return;
  end(Error(http2_error == NGHTTP2_PROTOCOL_ERROR ? ErrorCode::kProtocol : ErrorCode::kCancelled,
            describe() + ": the client reset it: " + nghttp2_http2_strerror(http2_error)));
}

void ServerStream::before_first_send() {
  if (std::exchange(headers_sent_, true)) return;
  connection_->submit_headers(*this, response_headers(), false);
}

void ServerStream::submit_trailers_only(const Status& status) {
  HeaderList list = response_headers();
  add_status(list, status);
  headers_sent_ = true;
  connection_->submit_headers(*this, list, true);
}

void ServerStream::finish(Status status) {
  release();
  handler_ = nullptr;
  if (connection_->closed()) return;
  sending_ended_ = true;
  if (!headers_sent_) return submit_trailers_only(status);
  final_status_ = std::move(status);
  continue_sending();
}

void ServerStream::on_data_end(std::uint32_t* flags) {
  *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
  HeaderList trailers;
  add_status(trailers, final_status_);
  connection_->submit_trailers(*this, trailers);
}

void ServerStream::fail(const Status& status) {
  CallHandler* handler = std::exchange(handler_, nullptr);
  queue_.clear();
  finish(status);
  if (handler != nullptr) handler->on_ended(status);
}

void ServerStream::cancel() { connection_->reset(*this, NGHTTP2_CANCEL); }

}  // namespace holdfast::rpc
