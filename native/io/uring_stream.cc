#include "io/uring_stream.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include <cerrno>

#include "io/socket_address.h"
#include "io/system_error.h"

namespace holdfast::io {

namespace {

// How long an ending stream may make no progress before it is given up.
constexpr Nanos kProgressInterval = 2s;

// Of a unix socket, whose buffer does not grow by itself as TCP's does: the whole largest message, so that its sender
// and its receiver need not wake each other several times for one.
constexpr int kUnixSendBufferBytes = 2 << 20;

void widen_send_buffer(int fd) {
  // Beyond the system's limit only with the right to; else as far as that goes.
  if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &kUnixSendBufferBytes, sizeof kUnixSendBufferBytes) == 0) return;
  (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kUnixSendBufferBytes, sizeof kUnixSendBufferBytes);
}

}  // namespace

StreamCore::StreamCore(Loop& loop, int fd)
    : loop_(loop), fd_(fd), local_(local_address_of(fd)), peer_(peer_address_of(fd)) {
  // Loopback has no congestion; algorithms that pace (bbr) add timers and 7 µs to every round trip of 4 KiB.
  if (peer_.is_loopback()) (void)setsockopt(fd_, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
  if (peer_.host.empty()) widen_send_buffer(fd_);
}

StreamCore::~StreamCore() {
  if (fd_ >= 0) ::close(fd_);
}

// ---- what the user calls ----

void StreamCore::start(StreamHandler* handler) {
  loop_.check_thread();
  CHECK(handler_ == nullptr && !finished_, "a stream is started once");
  handler_ = handler;
  loop_.at_turn_end(this);
}

void StreamCore::send(std::span<Slice> parts) {
  loop_.check_thread();
  bool dropped = finished_ || shutdown_requested_ || !send_error_.ok() || loop_.closing();
  for (Slice& part : parts) {
    Slice taken = std::move(part);
    if (dropped || taken.empty()) continue;
    unsent_bytes_ += taken.size();
    unsent_.push(std::move(taken));
  }
  if (unsent_bytes_ > 0) loop_.at_turn_end(this);
}

void StreamCore::pause_receiving() {
  loop_.check_thread();
  if (paused_) return;
  paused_ = true;
  if (!discarding_) cancel_receiving();
}

void StreamCore::resume_receiving() {
  loop_.check_thread();
  if (!paused_) return;
  paused_ = false;
  loop_.at_turn_end(this);
}

void StreamCore::shutdown() {
  loop_.check_thread();
  if (shutdown_requested_ || finished_) return;
  shutdown_requested_ = true;
  discarding_ = true;
  stash_.clear();
  loop_.at_turn_end(this);
}

void StreamCore::abandon() {
  Guard guard(*this);
  abandoned_ = true;
  handler_ = nullptr;
  finished_ = true;
  release_socket();
}

// ---- the end of a turn ----

void StreamCore::at_turn_end() {
  Guard guard(*this);
  if (finished_ || loop_.closing()) return;
  deliver_stash();
  settle();
  begin_sending();
  begin_receiving();
}

void StreamCore::deliver_stash() {
  while (!stash_.empty() && handler_ && !paused_ && !finished_) {
    Slice bytes = stash_.pop();
    handler_->on_data(bytes.bytes());
  }
}

// ---- receiving ----

// The next bytes' place, when it is worth an operation.
Slice StreamCore::wanted() const {
  if (discarding_ || !stash_.empty()) return {};
  Slice place = handler_->wanted();
  return place.size() < kInPlaceMin ? Slice() : place.sub(0, std::min(place.size(), kInPlaceMax));
}

void StreamCore::begin_receiving() {
  if (receiving_.in_flight || !wants_bytes() || !receive_error_.ok()) return;
  receiving_.place = wanted();
  receiving_.in_flight = true;
  receiving_.cancelled = false;
  loop_.ring().prepare(&receiving_, [this](io_uring_sqe* entry) {
    if (!receiving_.place.empty()) {
      io_uring_prep_recv(entry, fd_, receiving_.place.data(), receiving_.place.size(), MSG_WAITALL);
      return;
    }
    if (peeks_left_ > 0) {
      io_uring_prep_recv(entry, fd_, nullptr, kPeekBytes, 0);
    } else {
      io_uring_prep_recv_multishot(entry, fd_, nullptr, 0, 0);
    }
    entry->flags |= IOSQE_BUFFER_SELECT;
    entry->buf_group = ReceiveBuffers::kGroup;
  });
}

void StreamCore::cancel_receiving() {
  if (!receiving_.in_flight || receiving_.cancelled) return;
  receiving_.cancelled = true;
  loop_.ring().cancel(&receiving_);
}

void StreamCore::received(std::int32_t result, std::uint32_t flags) {
  Guard guard(*this);
  if ((flags & IORING_CQE_F_MORE) == 0) receiving_.in_flight = false;
  Slice place = std::exchange(receiving_.place, Slice());
  if ((flags & IORING_CQE_F_BUFFER) != 0) {
    auto id = static_cast<std::uint16_t>(flags >> IORING_CQE_BUFFER_SHIFT);
    if (result > 0) take_bytes(loop_.receive_buffers().get(id, static_cast<std::size_t>(result)), {});
    loop_.receive_buffers().recycle(id);
  } else if (result > 0) {
    take_bytes(place.bytes().first(static_cast<std::size_t>(result)), place);
  }
  if (finished_ || loop_.closing()) return;
  if (result <= 0) note_receive_end(result);
  if (result > 0 && wants_bytes()) choose_way(!place.empty());
  settle();
  if (!finished_ && !receiving_.in_flight) loop_.at_turn_end(this);
}

// After something was received: has large pieces begun to come, or ended?
void StreamCore::choose_way(bool in_place) {
  if (!wanted().empty()) {
    peeks_left_ = kPeeksMax;
    if (receiving_.in_flight) cancel_receiving();
  } else if (!in_place && peeks_left_ > 0) {
    --peeks_left_;
  }
}

// `place`: where they were received, if not in a shared buffer.
void StreamCore::take_bytes(std::span<const std::byte> bytes, const Slice& place) {
  loop_.add(loop_.counters.received_bytes, bytes.size());
  if (finished_ || discarding_ || loop_.closing()) return;
  if (paused_ || !stash_.empty()) {
    stash_.push(place.empty() ? loop_.buffers().copy_of(bytes) : place.sub(0, bytes.size()));
  } else {
    handler_->on_data(bytes);
  }
}

void StreamCore::note_receive_end(std::int32_t result) {
  switch (result) {
    case 0:
      end_of_stream_ = true;
      break;
    case -ENOBUFS:  // more arrived at once than one turn can hold: receiving goes on at the end of the turn
      loop_.add(loop_.counters.receive_buffers_exhausted, 1);
      break;
    case -ECANCELED:
    case -EINTR:
    case -EAGAIN:
      break;
    default:
      receive_error_ = network_error("receive from", peer_.to_string(), -result);
  }
}

// ---- sending ----

void StreamCore::begin_sending() {
  if (sending_.in_flight || unsent_.empty() || finished_) return;
  std::size_t count = 0;
  std::size_t bytes = 0;
  for (const Slice& part : unsent_.all()) {
    if (count == kGatherMax || bytes >= kGatherBytesMax) break;
    sending_.parts[count++] = {part.data(), part.size()};
    bytes += part.size();
  }
  sending_.in_flight = true;
  loop_.ring().prepare(&sending_, [this, count](io_uring_sqe* entry) {
    if (count == 1) {
      io_uring_prep_send(entry, fd_, sending_.parts[0].iov_base, sending_.parts[0].iov_len, MSG_NOSIGNAL | MSG_WAITALL);
      return;
    }
    sending_.message.msg_iov = sending_.parts.data();
    sending_.message.msg_iovlen = count;
    io_uring_prep_sendmsg(entry, fd_, &sending_.message, MSG_NOSIGNAL | MSG_WAITALL);
  });
}

void StreamCore::sent(std::int32_t result) {
  Guard guard(*this);
  sending_.in_flight = false;
  if (finished_ || loop_.closing()) return drop_unsent();
  if (result == -EINTR || result == -EAGAIN) return loop_.at_turn_end(this);
  if (result <= 0) {
    send_error_ = network_error("send to", peer_.to_string(), result == 0 ? ECONNRESET : -result);
    drop_unsent();
    return settle();
  }
  auto left = static_cast<std::size_t>(result);
  loop_.add(loop_.counters.sent_bytes, left);
  unsent_bytes_ -= left;
  while (left > 0) {
    Slice& front = unsent_.front();
    if (left < front.size()) {
      front = front.sub(left, front.size() - left);
      break;
    }
    left -= front.size();
    unsent_.pop();
  }
  if (unsent_bytes_ > 0) return loop_.at_turn_end(this);
  if (handler_) handler_->on_drained();
  settle();
}

void StreamCore::drop_unsent() {
  unsent_.clear();
  unsent_bytes_ = 0;
}

// ---- the end ----

void StreamCore::settle() {
  if (!handler_ || finished_) return;
  bool all_sent = unsent_bytes_ == 0 && !sending_.in_flight && send_error_.ok();
  if (!receive_error_.ok()) return finish(shutdown_requested_ && all_sent ? Status() : receive_error_);
  if (!send_error_.ok()) {
    // The peer may have said why before it went away: hear it out, unless the user does not listen.
    if (shutdown_requested_ || paused_) return finish(send_error_);
    if (!end_of_stream_) {
      ::shutdown(fd_, SHUT_RDWR);
      return;
    }
    if (stash_.empty()) finish(send_error_);
    return;
  }
  if (end_of_stream_ && (discarding_ || (!paused_ && stash_.empty()))) {
    if (all_sent) return finish({});
    watch_progress();
  }
  if (shutdown_requested_ && all_sent && !write_ended_) {
    write_ended_ = true;
    ::shutdown(fd_, SHUT_WR);
  }
  if (shutdown_requested_) watch_progress();
}

void StreamCore::watch_progress() {
  if (progress_timer_ != 0) return;
  unsent_at_last_look_ = unsent_bytes_;
  progress_timer_ = loop_.call_at(loop_.now() + kProgressInterval, [this] {
    Guard guard(*this);
    progress_timer_ = 0;
    if (finished_) return;
    // Everything is sent and only the peer does not end: that is its own affair.
    if (write_ended_) return finish({});
    if (unsent_bytes_ == unsent_at_last_look_) {
      return finish(Error(ErrorCode::kTimedOut, "the end of the connection to " + peer_.to_string() +
                                                    " makes no progress: the peer does not read"));
    }
    watch_progress();
  });
}

void StreamCore::finish(Status reason) {
  finished_ = true;
  StreamHandler* handler = std::exchange(handler_, nullptr);
  release_socket();
  if (!loop_.closing()) handler->on_closed(std::move(reason));
}

void StreamCore::release_socket() {
  stash_.clear();
  if (progress_timer_ != 0) loop_.cancel_call(std::exchange(progress_timer_, 0));
  if (fd_ < 0) return;
  if (!sending_.in_flight) drop_unsent();
  if (!receiving_.in_flight && !sending_.in_flight) {
    ::close(std::exchange(fd_, -1));
    return;
  }
  // Ends both operations at once; the descriptor is closed when the last one has completed.
  ::shutdown(fd_, SHUT_RDWR);
  cancel_receiving();
  if (sending_.in_flight) loop_.ring().cancel(&sending_);
}

void StreamCore::free_if_unused() {
  if (!finished_ || guards_ > 0 || receiving_.in_flight || sending_.in_flight) return;
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  if (abandoned_ && !listed()) delete this;
}

}  // namespace holdfast::io
