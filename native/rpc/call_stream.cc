#include "rpc/call_stream.h"

#include "rpc/connection.h"

namespace holdfast::rpc {

CallStream::~CallStream() {
  // A stream that nghttp2 closed has been ended; one that waited in a list of a channel that went away has not.
  if (link_ != nullptr) link_->stream_ = nullptr;
}

void CallStream::link(CallLink* link) {
  link_ = link;
  link->stream_ = this;
}

void CallStream::join(CallList& list, CallList::iterator position) {
  list_ = &list;
  position_ = position;
}

void CallStream::move_to(CallList& list) {
  list.splice(list.end(), *list_, position_);
  list_ = &list;
}

void CallStream::attach(Connection& connection, std::int32_t id) {
  connection_ = &connection;
  id_ = id;
}

std::string CallStream::describe() const {
  return "call " + path_ + (connection_ != nullptr ? " with " + connection_->peer() : std::string());
}

void CallStream::send(std::span<Slice> parts) {
  CHECK(total_size(parts) <= kMessageBytesMax, "a message exceeds kMessageBytesMax: split it before sending");
  CHECK(!sending_ended_, "a message after the end of sending");
  queue_.push_message(parts);
  before_first_send();
  continue_sending();
}

void CallStream::continue_sending() {
  if (connection_ == nullptr) return;
  if (deferred_) {
    deferred_ = false;
    nghttp2_session_resume_data(connection_->session(), id_);
  }
  connection_->schedule_flush();
}

void CallStream::resume_receiving() {
  paused_ = false;
  if (unconsumed_bytes_ == 0 || connection_ == nullptr || connection_->closed()) return;
  nghttp2_session_consume_stream(connection_->session(), id_, std::exchange(unconsumed_bytes_, 0));
  connection_->schedule_flush();
}

void CallStream::on_data(std::span<const std::byte> bytes) {
  Connection& connection = *connection_;
  if (!ended_) {
    MessageReader::Outcome outcome =
        reader_.feed(bytes, env_.buffers(), connection.reassembly_budget(), [this](Message message) {
          deliver(std::move(message));
          return !ended_;
        });
    switch (outcome) {
      case MessageReader::Outcome::kOk:
      case MessageReader::Outcome::kStopped:
        break;
      case MessageReader::Outcome::kCompressed:
        fail(Error(ErrorCode::kUnimplemented, describe() + ": a compressed message; no compression was offered"));
        break;
      case MessageReader::Outcome::kTooLarge:
        fail(Error(ErrorCode::kMessageTooLarge,
                   describe() + ": a message exceeds " + std::to_string(kMessageBytesMax) + " bytes"));
        break;
      case MessageReader::Outcome::kOverBudget:
        fail(Error(ErrorCode::kMessageTooLarge, describe() + ": too many incomplete messages on one connection"));
        break;
    }
  }
  if (connection.closed()) return;
  if (paused_ && !ended_) {
    unconsumed_bytes_ += bytes.size();
    nghttp2_session_consume_connection(connection.session(), bytes.size());
  } else {
    nghttp2_session_consume(connection.session(), id_, bytes.size());
  }
}

void CallStream::deliver(Message message) {
  if (handler_ != nullptr) handler_->on_message(std::move(message));
}

ssize_t CallStream::produce(std::size_t length, std::uint32_t* flags) {
  std::size_t size = std::min(length, queue_.bytes());
  bool last = sending_ended_ && size == queue_.bytes();
  if (size == 0 && !last) {
    deferred_ = true;
    return NGHTTP2_ERR_DEFERRED;
  }
  *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
  if (last) {
    *flags |= NGHTTP2_DATA_FLAG_EOF;
    on_data_end(flags);
  }
  return static_cast<ssize_t>(size);
}

void CallStream::write_payload(std::size_t length, FrameWriter& writer) {
  queue_.take(length, writer);
  if (queue_.bytes() == 0 && handler_ != nullptr && length > 0) connection_->note_drained(*this);
}

void CallStream::on_drained() {
  if (!ended_ && handler_ != nullptr && queue_.bytes() == 0) handler_->on_drained();
}

void CallStream::arm_deadline(Nanos timeout) {
  deadline_.emplace(env_);
  deadline_->arm_after(timeout,
                       [this] { fail(Error(ErrorCode::kTimedOut, describe() + ": the deadline has passed")); });
}

// Everything that must not outlive the call's end, while the stream itself may linger in nghttp2.
void CallStream::release() {
  ended_ = true;
  deadline_.reset();
  if (connection_ != nullptr) reader_.clear(connection_->reassembly_budget());
  if (link_ != nullptr) std::exchange(link_, nullptr)->stream_ = nullptr;
}

void CallStream::end(const Status& status) {
  if (ended_) return;
  release();
  queue_.clear();
  if (CallHandler* handler = std::exchange(handler_, nullptr)) return handler->on_ended(status);
  after_end(status);
}

void CallStream::end_silently() {
  release();
  queue_.clear();
  handler_ = nullptr;
}

void CallStream::drop() {
  end_silently();
  cancel();
}

}  // namespace holdfast::rpc
