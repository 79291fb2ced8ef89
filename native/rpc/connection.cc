#include "rpc/connection.h"

#include <algorithm>

#include "rpc/session_callbacks.h"

namespace holdfast::rpc {

namespace {

// Handed to the stream and not yet taken by the kernel; beyond, nothing more is pulled from nghttp2.
constexpr std::size_t kUnsentBytesMax = 8u << 20;
// What incomplete messages of one connection may reserve. A backlog of 128 calls with 4 MiB messages each fits.
constexpr std::size_t kReassemblyBudgetBytes = 512u << 20;
// How long a connection that we close may take to send its last bytes.
constexpr Nanos kLinger = 1s;
// A timer that comes this late says that this process stood still, and nothing about the peer.
constexpr Nanos kLateTimer = 200ms;

constexpr std::uint8_t kKeepalivePing[8] = {'k', 'e', 'e', 'p', 'a', 'l', 'v', 'e'};
constexpr std::uint8_t kDrainPing[8] = {'d', 'r', 'a', 'i', 'n', 'i', 'n', 'g'};

ssize_t read_payload(nghttp2_session*, std::int32_t, std::uint8_t*, std::size_t length, std::uint32_t* flags,
                     nghttp2_data_source* source, void*) {
  return static_cast<CallStream*>(source->ptr)->produce(length, flags);
}

nghttp2_data_provider provider_of(const CallStream& stream) {
  nghttp2_data_provider provider{};
  provider.source.ptr = const_cast<CallStream*>(&stream);
  provider.read_callback = read_payload;
  return provider;
}

struct OptionDeleter {
  void operator()(nghttp2_option* option) const { nghttp2_option_del(option); }
};

std::unique_ptr<nghttp2_option, OptionDeleter> session_options() {
  nghttp2_option* option = nullptr;
  CHECK(nghttp2_option_new(&option) == 0, "out of memory");
  nghttp2_option_set_no_auto_window_update(option, 1);
  nghttp2_option_set_no_closed_streams(option, 1);
  // Until the server's SETTINGS came, do not open more calls than every server allows.
  nghttp2_option_set_peer_max_concurrent_streams(option, 100);
  // FloodGuard counts resets, by the clock of Env.
  nghttp2_option_set_stream_reset_rate_limit(option, UINT64_MAX, UINT64_MAX);
  return std::unique_ptr<nghttp2_option, OptionDeleter>(option);
}

}  // namespace

std::shared_ptr<Connection> Connection::create(Env& env, ConnectionOwner& owner, std::unique_ptr<Stream> stream,
                                               ConnectionOptions options) {
  auto connection = std::make_shared<Connection>(env, owner, std::move(stream), std::move(options));
  connection->start();
  return connection;
}

Connection::Connection(Env& env, ConnectionOwner& owner, std::unique_ptr<Stream> stream, ConnectionOptions options)
    : env_(env),
      owner_(&owner),
      stream_(std::move(stream)),
      options_(std::move(options)),
      peer_(stream_->peer_address().to_string()),
      writer_(env.buffers()),
      reassembly_budget_(kReassemblyBudgetBytes),
      last_heard_(env.now()),
      started_at_(last_heard_),
      ping_sent_at_(last_heard_),
      keepalive_(env) {
  session_ = make_session();
}

Connection::~Connection() { nghttp2_session_del(session_); }

nghttp2_session* Connection::make_session() {
  auto options = session_options();
  nghttp2_session* session = nullptr;
  int rv = options_.server ? nghttp2_session_server_new2(&session, session_callbacks(), this, options.get())
                           : nghttp2_session_client_new2(&session, session_callbacks(), this, options.get());
  CHECK(rv == 0, "out of memory");
  return session;
}

void Connection::start() {
  std::vector<nghttp2_settings_entry> settings = {
      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, static_cast<std::uint32_t>(kStreamWindowBytes)},
      {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, kFrameBytesMax},
      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, kHeaderBytesMax},
  };
  if (options_.server) {
    settings.push_back({NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, options_.concurrent_streams_max});
  } else {
    settings.push_back({NGHTTP2_SETTINGS_ENABLE_PUSH, 0});
  }
  CHECK(nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings.data(), settings.size()) == 0);
  CHECK(nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, kConnectionWindowBytes) == 0);
  stream_->start(this);
  if (options_.server) arm_keepalive();
  schedule_flush();
}

// ---- calls ----

bool Connection::open(ClientStream& stream, const HeaderList& headers) {
  std::vector<nghttp2_nv> fields = headers.view();
  nghttp2_data_provider provider = provider_of(stream);
  std::int32_t id = nghttp2_submit_request(session_, nullptr, fields.data(), fields.size(), &provider,
                                           static_cast<CallStream*>(&stream));
  if (id < 0) {  // after 2^30 calls
    ids_exhausted_ = true;
    return false;
  }
  stream.move_to(calls_);
  stream.attach(*this, id);
  if (!keepalive_.armed()) arm_keepalive();
  schedule_flush();
  return true;
}

void Connection::reset(CallStream& stream, std::uint32_t http2_error) {
  if (closed_) return;
  nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, stream.id(), http2_error);
  schedule_flush();
}

// Submitting fails only when the stream or the session is about to close; then its end is already on its way.
void Connection::submit_headers(const CallStream& stream, const HeaderList& headers, bool end_stream) {
  if (closed_) return;
  std::vector<nghttp2_nv> fields = headers.view();
  nghttp2_data_provider provider = provider_of(stream);
  nghttp2_submit_response(session_, stream.id(), fields.data(), fields.size(), end_stream ? nullptr : &provider);
  schedule_flush();
}

void Connection::submit_trailers(const CallStream& stream, const HeaderList& trailers) {
  std::vector<nghttp2_nv> fields = trailers.view();
  nghttp2_submit_trailer(session_, stream.id(), fields.data(), fields.size());
}

void Connection::hand_over(ServerStream& stream) {
  if (owner_ != nullptr) owner_->on_call(*this, stream);
}

void Connection::note_drained(CallStream& stream) {
  if (std::exchange(stream.in_drained_list, true)) return;
  drained_.push_back(&stream);
}

void Connection::forget(CallStream& stream) {
  if (stream.in_drained_list) {
    std::replace(drained_.begin(), drained_.end(), &stream, static_cast<CallStream*>(nullptr));
    std::replace(drained_now_.begin(), drained_now_.end(), &stream, static_cast<CallStream*>(nullptr));
  }
  calls_.erase(stream.position());
}

// ---- sending ----

void Connection::schedule_flush() {
  if (flush_scheduled_ || closed_) return;
  flush_scheduled_ = true;
  env_.post([weak = weak_from_this()] {
    if (auto self = weak.lock()) self->flush();
  });
}

bool Connection::may_pull() const { return stream_->unsent_bytes() + writer_.pending_bytes() < kUnsentBytesMax; }

void Connection::flush() {
  flush_scheduled_ = false;
  if (closed_ || closing_) return;
  auto self = shared_from_this();
  while (may_pull()) {
    const std::uint8_t* frames = nullptr;
    ssize_t size = nghttp2_session_mem_send(session_, &frames);
    if (closed_) return;
    if (size < 0)
      return fail(Error(ErrorCode::kConnectionLost, peer_ + ": " + nghttp2_strerror(static_cast<int>(size))));
    if (size == 0) break;
    writer_.append_copy({reinterpret_cast<const std::byte*>(frames), static_cast<std::size_t>(size)});
  }
  held_back_ = !may_pull();
  writer_.send_to(*stream_);
  deliver_drained();
  if (closed_) return;
  if (drain_answered_ && calls_.empty()) nghttp2_session_terminate_session(session_, NGHTTP2_NO_ERROR);
  if (!nghttp2_session_want_read(session_) && !nghttp2_session_want_write(session_)) close();
}

void Connection::deliver_drained() {
  if (drained_.empty()) return;
  drained_now_.swap(drained_);
  for (std::size_t i = 0; i < drained_now_.size() && !closed_; ++i) {
    CallStream* stream = drained_now_[i];
    if (stream == nullptr) continue;
    stream->in_drained_list = false;
    stream->on_drained();
  }
  drained_now_.clear();
}

void Connection::on_drained() {
  if (held_back_) schedule_flush();
}

// ---- receiving ----

void Connection::on_data(std::span<const std::byte> bytes) {
  if (closing_ || closed_) return;
  auto self = shared_from_this();
  last_heard_ = env_.now();
  ssize_t taken = nghttp2_session_mem_recv(session_, reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  if (closed_) return;
  if (taken < 0) {
    std::string why =
        flooded_ ? "it sends more control frames than a peer needs" : nghttp2_strerror(static_cast<int>(taken));
    return fail(Error(ErrorCode::kConnectionLost, "the connection with " + peer_ + " was cut: " + why));
  }
  // Also when there is nothing to write: a session that wants to read no more is closed there.
  if (nghttp2_session_want_write(session_) || !nghttp2_session_want_read(session_)) schedule_flush();
}

Slice Connection::wanted() const {
  if (closing_ || closed_ || frame_left_ == 0) return {};
  auto* stream = static_cast<const CallStream*>(nghttp2_session_get_stream_user_data(session_, frame_stream_));
  return stream != nullptr ? stream->wanted(frame_left_) : Slice();
}

void Connection::on_goaway(const nghttp2_goaway&) {
  // nghttp2 ends the calls above last-stream-id with REFUSED_STREAM; the others go on.
  peer_going_away_ = true;
}

// ---- the end ----

void Connection::drain() {
  if (closed_ || closing_ || std::exchange(draining_, true)) return;
  // Two steps, so that calls already on their way are still served: a notice with the greatest id, and when the peer
  // has answered a PING sent after it, the last id that was really seen.
  nghttp2_submit_shutdown_notice(session_);
  nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, kDrainPing);
  schedule_flush();
}

void Connection::on_ping_answer(const std::uint8_t* opaque) {
  if (ping_outstanding_ && std::equal(std::begin(kKeepalivePing), std::end(kKeepalivePing), opaque)) {
    ping_outstanding_ = false;
    confirmed_at_ = ping_sent_at_;
    arm_keepalive();
  }
  if (draining_ && std::equal(std::begin(kDrainPing), std::end(kDrainPing), opaque)) {
    drain_answered_ = true;
    nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(session_),
                          NGHTTP2_NO_ERROR, nullptr, 0);
    schedule_flush();
  }
}

void Connection::on_settings_answer() {
  if (!confirmed_at_) confirmed_at_ = started_at_;
}

void Connection::close() {
  closing_ = true;
  auto self = shared_from_this();
  Status lost = Error(ErrorCode::kConnectionLost, "the connection with " + peer_ + " was closed");
  for (auto& call : calls_) call->end(lost);
  if (closed_) return;
  stream_->shutdown();
  keepalive_.arm_after(kLinger, [this] { fail(Error(ErrorCode::kConnectionLost, peer_ + " does not close")); });
}

void Connection::on_closed(Status reason) {
  if (closed_) return;
  fail(Error(ErrorCode::kConnectionLost,
             "the connection with " + peer_ + " was lost" +
                 (reason.ok() ? std::string(": the peer closed it") : ": " + reason.error().message())));
}

void Connection::fail(const Status& status) {
  if (std::exchange(closed_, true)) return;
  auto self = shared_from_this();
  Status lost = status;
  keepalive_.cancel();
  writer_.clear();
  stream_.reset();
  for (auto& call : calls_) call->end(lost);
  if (owner_ != nullptr) owner_->on_connection_closed(*this);
}

void Connection::abandon(const Status* status) {
  auto self = shared_from_this();
  owner_ = nullptr;
  if (status == nullptr) {
    for (auto& call : calls_) call->end_silently();
  }
  // The calls' ends are already told or come now; a fail() that is under way further up finds them ended.
  fail(status != nullptr ? *status : Status(Error(ErrorCode::kCancelled, "the channel is gone")));
}

// ---- keep-alive ----

// A client pings every interval while it has calls, because confirmed_at() must move. A server only wants to know
// that a silent peer is still there.
void Connection::arm_keepalive() {
  Nanos due = ping_sent_at_ + options_.keepalive_interval;
  if (ping_outstanding_) {
    due = ping_sent_at_ + options_.keepalive_timeout;
  } else if (options_.server) {
    due = last_heard_ + options_.keepalive_interval;
  }
  keepalive_due_ = std::max(due, env_.now());
  keepalive_.arm_after(keepalive_due_ - env_.now(), [this] { on_keepalive_due(); });
}

void Connection::on_keepalive_due() {
  if (closed_ || closing_) return;
  Nanos now = env_.now();
  if (ping_outstanding_ && now > keepalive_due_ + kLateTimer) {
    // The answer may have arrived and wait to be read. It is not counted as if it came for a newer PING.
    keepalive_due_ = now + kLateTimer;
    keepalive_.arm_after(kLateTimer, [this] { on_keepalive_due(); });
    return;
  }
  if (ping_outstanding_) {
    return fail(Error(ErrorCode::kConnectionLost, peer_ + " did not answer a keep-alive within " +
                                                      std::to_string(options_.keepalive_timeout / 1ms) + " ms"));
  }
  if (options_.server && now < last_heard_ + options_.keepalive_interval) return arm_keepalive();
  if (!options_.server && calls_.empty()) return;  // the next call arms it again
  send_ping();
}

void Connection::send_ping() {
  nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, kKeepalivePing);
  ping_outstanding_ = true;
  ping_sent_at_ = env_.now();
  schedule_flush();
  arm_keepalive();
}

void Connection::probe() {
  if (!closed_ && !closing_ && !ping_outstanding_) send_ping();
}

}  // namespace holdfast::rpc
