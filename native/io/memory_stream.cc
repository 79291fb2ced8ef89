#include "io/memory_stream.h"

#include <poll.h>
#include <sys/socket.h>

#include "io/socket_address.h"
#include "io/system_error.h"

namespace holdfast::io {

namespace {

// How long an ending stream may make no progress before it is given up.
constexpr Nanos kProgressInterval = 2s;

}  // namespace

MemoryStreamCore::MemoryStreamCore(Loop& loop, OwnedFd socket, SharedRings rings)
    : loop_(loop),
      socket_(std::move(socket)),
      rings_(std::move(rings)),
      local_(local_address_of(socket_.get())),
      peer_(peer_address_of(socket_.get())) {}

MemoryStreamCore::~MemoryStreamCore() = default;

// ---- what the user calls ----

void MemoryStreamCore::start(StreamHandler* handler) {
  loop_.check_thread();
  CHECK(handler_ == nullptr && !finished_, "a stream is started once");
  if (loop_.closing()) return;
  handler_ = handler;
  loop_.add_poller(this);
  watch(bell_, rings_.bell(), POLLIN);
  watch(end_, socket_.get(), POLLRDHUP);
}

void MemoryStreamCore::send(std::span<Slice> parts) {
  loop_.check_thread();
  bool dropped = finished_ || shutdown_requested_ || loop_.closing();
  for (Slice& part : parts) {
    Slice taken = std::move(part);
    if (dropped || taken.empty()) continue;
    unsent_bytes_ += taken.size();
    unsent_.push(std::move(taken));
  }
  if (unsent_bytes_ > 0) loop_.at_turn_end(this);
}

void MemoryStreamCore::pause_receiving() {
  loop_.check_thread();
  paused_ = true;
}

void MemoryStreamCore::resume_receiving() {
  loop_.check_thread();
  if (std::exchange(paused_, false)) loop_.at_turn_end(this);
}

void MemoryStreamCore::shutdown() {
  loop_.check_thread();
  if (finished_) return;
  shutdown_requested_ = true;
  loop_.at_turn_end(this);
}

void MemoryStreamCore::abandon() {
  Guard guard(*this);
  abandoned_ = true;
  handler_ = nullptr;
  finished_ = true;
  release();
}

// ---- turns ----

bool MemoryStreamCore::has_news() {
  if (reads() && !rings_.input().empty()) return true;
  return unsent_bytes_ > 0 && !peer_gone_ && rings_.room() >= std::min(unsent_bytes_, SharedRings::kGoodRoom);
}

void MemoryStreamCore::poll() {
  if (!has_news() && !rings_.broken()) return;
  Guard guard(*this);
  if (loop_.closing()) return;
  receive();
  if (unsent_bytes_ > 0 && !finished_) loop_.at_turn_end(this);
  settle();
}

void MemoryStreamCore::at_turn_end() {
  Guard guard(*this);
  if (finished_ || loop_.closing()) return;
  transmit();
  settle();
}

// At most a ring full of bytes, so that turns stay finite.
void MemoryStreamCore::receive() {
  for (std::size_t left = SharedRings::kBytes; left > 0 && reads();) {
    std::span<const std::byte> bytes = rings_.input();
    bytes = bytes.first(std::min({bytes.size(), kPieceBytes, left}));
    if (bytes.empty()) return;
    left -= bytes.size();
    loop_.add(loop_.counters.received_bytes, bytes.size());
    if (!shutdown_requested_) handler_->on_data(bytes);
    rings_.consumed(bytes.size());
    rings_.tell_of_room();
  }
}

void MemoryStreamCore::transmit() {
  if (unsent_bytes_ == 0 || peer_gone_) return;
  std::size_t room = std::min(rings_.room(), unsent_bytes_);
  while (room > 0) {
    std::size_t piece = std::min(room, kPieceBytes);
    room -= piece;
    unsent_bytes_ -= piece;
    loop_.add(loop_.counters.sent_bytes, piece);
    while (piece > 0) {
      Slice& front = unsent_.front();
      std::size_t part = std::min(piece, front.size());
      rings_.put(front.bytes().first(part));
      piece -= part;
      if (part == front.size()) {
        unsent_.pop();
      } else {
        front = front.sub(part, front.size() - part);
      }
    }
    rings_.publish();
    rings_.tell_of_input();
  }
  if (unsent_bytes_ == 0 && handler_ != nullptr) handler_->on_drained();
}

void MemoryStreamCore::drop_unsent() {
  unsent_.clear();
  unsent_bytes_ = 0;
}

// ---- the end ----

void MemoryStreamCore::watch(Watch& watch, int fd, unsigned events) {
  watch.in_flight = true;
  loop_.ring().prepare(&watch, [&](io_uring_sqe* entry) { io_uring_prep_poll_multishot(entry, fd, events); });
}

void MemoryStreamCore::Watch::on_completion(std::int32_t result, std::uint32_t flags) {
  Guard guard(stream);
  if ((flags & IORING_CQE_F_MORE) == 0) in_flight = false;
  if (stream.finished_ || stream.loop_.closing()) return;
  (stream.*told)(result);
  // The kernel ends a multishot poll when it ran out of room for completions, among others.
  if (in_flight || stream.finished_) return;
  bool is_bell = this == &stream.bell_;
  stream.watch(*this, is_bell ? stream.rings_.bell() : stream.socket_.get(), is_bell ? POLLIN : POLLRDHUP);
}

void MemoryStreamCore::socket_changed(std::int32_t events) {
  if (events < 0) return;
  // What the peer published before it ended can be seen now.
  if ((events & (POLLRDHUP | POLLHUP | POLLERR)) != 0) peer_ended_ = true;
  if ((events & (POLLHUP | POLLERR)) != 0) peer_gone_ = true;
  receive();
  settle();
}

void MemoryStreamCore::settle() {
  if (handler_ == nullptr || finished_) return;
  if (rings_.broken()) {
    return finish(Error(ErrorCode::kProtocol, "what " + peer_.to_string() + " wrote to shared memory makes no sense"));
  }
  bool all_read = rings_.input().empty();
  if (peer_gone_ && unsent_bytes_ > 0 && (all_read || paused_ || shutdown_requested_)) {
    drop_unsent();
    return finish(network_error("send to", peer_.to_string(), EPIPE));
  }
  bool all_sent = unsent_bytes_ == 0;
  if (peer_ended_ && all_read && (!paused_ || shutdown_requested_)) {
    // As with a socket: an end by which the peer throws away what it was sent is none in order.
    bool lost = peer_gone_ && !shutdown_requested_ && !rings_.all_read();
    if (lost) return finish(network_error("send to", peer_.to_string(), ECONNRESET));
    if (all_sent) return finish({});
    watch_progress();
  }
  if (shutdown_requested_ && all_sent && !write_ended_) {
    write_ended_ = true;
    ::shutdown(socket_.get(), SHUT_WR);
  }
  if (shutdown_requested_) watch_progress();
}

void MemoryStreamCore::watch_progress() {
  if (progress_timer_ != 0) return;
  unsent_at_last_look_ = unsent_bytes_;
  progress_timer_ = loop_.call_at(loop_.now() + kProgressInterval, [this] {
    Guard guard(*this);
    progress_timer_ = 0;
    if (finished_) return;
    // Everything is sent and only the peer does not end: that is its own affair.
    if (write_ended_) return finish({});
    if (unsent_bytes_ < unsent_at_last_look_) return watch_progress();
    drop_unsent();
    finish(network_error("send to", peer_.to_string() + " (it does not read)", ETIMEDOUT));
  });
}

void MemoryStreamCore::finish(Status reason) {
  finished_ = true;
  StreamHandler* handler = std::exchange(handler_, nullptr);
  release();
  if (!loop_.closing()) handler->on_closed(std::move(reason));
}

void MemoryStreamCore::release() {
  drop_unsent();
  loop_.remove_poller(this);
  if (progress_timer_ != 0) loop_.cancel_call(std::exchange(progress_timer_, 0));
  // Tells the peer at once; the descriptor is closed when both polls have ended.
  if (socket_.get() >= 0) ::shutdown(socket_.get(), SHUT_RDWR);
  for (Watch* watch : {&bell_, &end_}) {
    if (watch->in_flight) loop_.ring().cancel(watch);
  }
}

void MemoryStreamCore::free_if_unused() {
  if (!finished_ || guards_ > 0 || bell_.in_flight || end_.in_flight) return;
  socket_ = OwnedFd();
  if (abandoned_ && !listed()) delete this;
}

}  // namespace holdfast::io
