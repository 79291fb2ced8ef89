#include "iscsi/connection.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/crc32c.h"
#include "base/log.h"
#include "iscsi/session.h"
#include "iscsi/target_server.h"

namespace holdfast::iscsi {

namespace {

constexpr std::size_t kArenaBytes = 16u << 10;

// Digests travel least significant byte first (RFC 7143 section 13.1).
void store_digest(std::byte* to, std::uint32_t crc) {
  for (unsigned i = 0; i < kDigestBytes; ++i) to[i] = static_cast<std::byte>(crc >> (8 * i));
}
std::uint32_t load_digest(const std::byte* from) {
  std::uint32_t crc = 0;
  for (unsigned i = 0; i < kDigestBytes; ++i) crc |= std::uint32_t{static_cast<std::uint8_t>(from[i])} << (8 * i);
  return crc;
}

std::size_t padding_of(std::size_t size) { return (4 - size % 4) % 4; }

}  // namespace

Connection::Connection(TargetServer& server, std::unique_ptr<Stream> stream)
    : server_(server), id_(server.make_connection_id()), stream_(std::move(stream)), login_timer_(server.env()) {
  login_ = std::make_unique<Login>(server, [&env = server.env()] { return env.random(); });
  last_received_ = server.env().now();
}

Connection::~Connection() {
  end_session();
  account_unsent(0);
}

void Connection::start() {
  stream_->start(this);
  login_timer_.arm_after(kLoginTimeout, [this] { close(Close::kNow, "no login within the time allowed"); });
}

void Connection::end_session() {
  if (!session_) return;
  Unit* unit = session_->unit();
  session_.reset();
  if (unit) server_.session_ended(unit);
}

bool Connection::without_unit() const { return !session_ || !session_->unit(); }

void Connection::close(Close how, std::string_view why) {
  if (closed_) return;
  closed_ = true;
  login_timer_.cancel();
  if (!why.empty() && log_enabled(LogLevel::kInfo)) {
    log_info("iscsi", "closing the connection of " + (session_ ? session_->initiator() : std::string("a peer")) +
                          " at " + peer() + ": " + std::string(why));
  }
  if (how == Close::kAfterSending && !ended_by_stream_) {
    stream_->shutdown();  // on_closed() discards
    server_.env().post([server = &server_, alive = server_.alive(), id = session_ ? session_->id() : 0] {
      if (alive.expired()) return;
      if (Session* session = server->find_session(id)) session->connection().end_session();
    });
    return;
  }
  server_.discard(this);
}

void Connection::on_closed(Status reason) {
  ended_by_stream_ = true;
  if (closed_) return server_.discard(this);
  close(Close::kNow, reason.ok() ? std::string_view() : std::string_view(reason.error().message()));
}

void Connection::on_drained() {
  account_unsent(0);
  if (reading_paused_) {
    reading_paused_ = false;
    stream_->resume_receiving();
  }
  if (session_ && !closed_) session_->resume_waiting();
}

// Keeps the server's sum of unsent bytes; between two calls the kernel may have taken some, so the sum errs upwards.
void Connection::account_unsent(std::size_t now) {
  server_.unsent_changed(unsent_accounted_, now);
  unsent_accounted_ = now;
}

// ---- receiving ----

void Connection::on_data(std::span<const std::byte> bytes) {
  last_received_ = server_.env().now();
  while (!bytes.empty() && !closed_) {
    switch (phase_) {
      case Phase::kHeader:
        receive_header(bytes);
        break;
      case Phase::kSegment:
        receive_segment(bytes);
        break;
      case Phase::kTail:
        receive_tail(bytes);
        break;
    }
  }
  if (!closed_ && stream_->unsent_bytes() > (session_ ? kUnsentBytesMax : kLoginUnsentBytesMax)) {
    reading_paused_ = true;
    stream_->pause_receiving();
  }
}

Slice Connection::wanted() const {
  if (closed_ || phase_ != Phase::kSegment || !segment_to_) return {};
  return segment_.sub(static_cast<std::size_t>(segment_to_ - segment_.data()), segment_left_);
}

void Connection::receive_header(std::span<const std::byte>& bytes) {
  std::size_t size = std::min(bytes.size(), header_need_ - header_have_);
  std::memcpy(header_.data() + header_have_, bytes.data(), size);
  header_have_ += size;
  bytes = bytes.subspan(size);
  if (header_have_ < header_need_) return;
  if (header_need_ == kHeaderBytes) {
    header_need_ += std::size_t{static_cast<std::uint8_t>(header_[4])} * 4 + (header_digest_ ? kDigestBytes : 0);
    if (header_have_ < header_need_) return;
  }
  header_complete();
}

void Connection::header_complete() {
  if (header_digest_) {
    std::size_t size = header_need_ - kDigestBytes;
    if (crc32c(std::span(header_).first(size)) != load_digest(header_.data() + size)) {
      return close(Close::kNow, "a header digest is wrong");
    }
  }
  const auto& header = *reinterpret_cast<const Header*>(header_.data());
  std::size_t size = header.DataSegmentLength;
  segment_left_ = size;
  segment_crc_ = 0;
  segment_to_ = nullptr;
  segment_ = Slice();
  padding_ = padding_of(size);
  tail_have_ = 0;
  tail_need_ = padding_ + (size > 0 && data_digest_ ? kDigestBytes : 0);
  if (!begin_segment(header)) return;
  phase_ = size > 0 ? Phase::kSegment : Phase::kTail;
  if (size == 0) pdu_complete();
}

// Finds the memory for the data segment. False: the connection is closing.
bool Connection::begin_segment(const Header& header) {
  std::size_t size = header.DataSegmentLength;
  if (!session_) {
    if (size > kLoginSegmentBytesMax) {
      close(Close::kNow, "a login PDU is too long");
      return false;
    }
  } else if (size > kMaxRecvDataSegmentLength) {
    session_->protocol_error(header, "a data segment is longer than MaxRecvDataSegmentLength");
    return false;
  }
  if (size == 0) return true;
  if (session_ && header.code() == Opcode::kDataOut) {
    segment_ = session_->data_out_target(header.as<DataOut>(), size);
    if (closed_) return false;
  } else {
    segment_ = server_.env().buffers().allocate(size);
  }
  segment_to_ = segment_.data();
  return true;
}

void Connection::receive_segment(std::span<const std::byte>& bytes) {
  std::size_t size = std::min(bytes.size(), segment_left_);
  auto part = bytes.first(size);
  if (data_digest_) segment_crc_ = crc32c_extend(segment_crc_, part);
  if (segment_to_) {
    if (part.data() != segment_to_) std::memmove(segment_to_, part.data(), size);
    segment_to_ += size;
  }
  segment_left_ -= size;
  bytes = bytes.subspan(size);
  if (segment_left_ > 0) return;
  phase_ = Phase::kTail;
  if (tail_need_ == 0) pdu_complete();
}

void Connection::receive_tail(std::span<const std::byte>& bytes) {
  std::size_t size = std::min(bytes.size(), tail_need_ - tail_have_);
  std::memcpy(tail_.data() + tail_have_, bytes.data(), size);
  tail_have_ += size;
  bytes = bytes.subspan(size);
  if (tail_have_ == tail_need_) pdu_complete();
}

void Connection::pdu_complete() {
  Header header;
  std::memcpy(&header, header_.data(), kHeaderBytes);
  std::size_t size = header.DataSegmentLength;
  bool digest_ok = true;
  if (data_digest_ && size > 0) {
    segment_crc_ = crc32c_extend(segment_crc_, std::span(tail_).first(padding_));
    digest_ok = segment_crc_ == load_digest(tail_.data() + padding_);
  }
  Slice data = std::move(segment_);
  phase_ = Phase::kHeader;
  header_have_ = 0;
  header_need_ = kHeaderBytes;
  if (!session_) {
    segment_ = std::move(data);
    return handle_login();
  }
  if (header.code() == Opcode::kDataOut) return session_->handle_data_out(header.as<DataOut>(), size, digest_ok);
  if (!digest_ok) {
    // The request is lost and its CmdSN with it; at ErrorRecoveryLevel 0 only a new session helps.
    session_->reject(RejectReason::kDataDigestError, header);
    return close(Close::kAfterSending, "a data digest is wrong");
  }
  session_->handle(header, std::move(data));
}

// ---- login ----

void Connection::reject_login(const LoginRequest& request, LoginStatus status) {
  LoginResponse response;
  response.ISID = request.ISID;
  response.TSIH = request.TSIH;
  response.InitiatorTaskTag = request.InitiatorTaskTag;
  response.StatusClass = static_cast<std::uint8_t>(static_cast<std::uint16_t>(status) >> 8);
  response.StatusDetail = static_cast<std::uint8_t>(status);
  response.StatSN = take_stat_sn();
  send(response);
  close(Close::kAfterSending, "login refused");
}

void Connection::handle_login() {
  const auto& request = *reinterpret_cast<const LoginRequest*>(header_.data());
  Slice data = std::move(segment_);
  if ((request.opcode & kOpcodeMask) != static_cast<std::uint8_t>(Opcode::kLoginRequest)) {
    return reject_login(request, LoginStatus::kInvalidDuringLogin);
  }
  Login::Reply reply = login_->handle(request, data.text());
  if (reply.next == Login::Next::kFullFeature) {
    Unit* unit = login_->type() == SessionType::kNormal ? server_.find_unit(login_->target()) : nullptr;
    if (login_->type() == SessionType::kNormal && !unit) return reject_login(request, LoginStatus::kNotFound);
    server_.reinstate(*login_, unit);
    if (unit && !server_.has_room_for_session()) return reject_login(request, LoginStatus::kOutOfResources);
    session_ = std::make_unique<Session>(server_, *this, *login_, server_.make_session_id(), unit, request.CmdSN);
    if (!session_->begin()) {
      session_.reset();
      return reject_login(request, LoginStatus::kOutOfResources);
    }
  }
  reply.header.StatSN = take_stat_sn();
  reply.header.ExpCmdSN = request.CmdSN;
  reply.header.MaxCmdSN = request.CmdSN + kCommandWindow - 1;
  Slice text = server_.env().buffers().copy_of(as_bytes(reply.text));
  send(reply.header, std::span(&text, text.empty() ? 0 : 1));
  if (reply.next == Login::Next::kClose) {
    return close(Close::kAfterSending, reply.header.StatusClass == 1 ? "redirected" : "login refused");
  }
  if (reply.next != Login::Next::kFullFeature) return;
  header_digest_ = login_->parameters().HeaderDigest;
  data_digest_ = login_->parameters().DataDigest;
  login_timer_.cancel();
  login_.reset();
}

// ---- sending ----

Slice Connection::header_memory(std::size_t size) {
  if (arena_.size() - arena_used_ < size) {
    arena_ = server_.env().buffers().allocate(kArenaBytes);
    arena_used_ = 0;
  }
  Slice memory = arena_.sub(arena_used_, size);
  arena_used_ += size;
  return memory;
}

void Connection::send_pdu(std::byte* header, std::span<Slice> data) {
  if (closed_) return;
  std::size_t size = total_size(data);
  store_be(std::span(header, kHeaderBytes), 5, 3, size);
  Slice head = header_memory(kHeaderBytes + (header_digest_ ? kDigestBytes : 0));
  std::memcpy(head.data(), header, kHeaderBytes);
  if (header_digest_) {
    store_digest(head.data() + kHeaderBytes, crc32c(std::span<const std::byte>(header, kHeaderBytes)));
  }
  parts_.clear();
  parts_.push_back(std::move(head));
  std::uint32_t crc = 0;
  for (Slice& part : data) {
    if (data_digest_) crc = crc32c_extend(crc, part.bytes());
    parts_.push_back(std::move(part));
  }
  std::size_t padding = padding_of(size);
  std::size_t tail = padding + (size > 0 && data_digest_ ? kDigestBytes : 0);
  if (tail > 0) {
    Slice end = header_memory(tail);
    std::memset(end.data(), 0, tail);
    if (data_digest_) {
      crc = crc32c_extend(crc, end.bytes().first(padding));
      store_digest(end.data() + padding, crc);
    }
    parts_.push_back(std::move(end));
  }
  stream_->send(parts_);
  account_unsent(stream_->unsent_bytes());
}

}  // namespace holdfast::iscsi
