// Connection: PDU framing over one stream, and the login on it (RFC 7143 sections 11.2 and 6). After login a Session
// takes the PDUs. Thread: the reactor of the target.
//
// Invariants:
//  1. A header is acted upon only when it is complete and its digest is right; a data segment is never longer than
//     declared to the peer.
//  2. A peer that sends and does not read gets no further than kUnsentBytesMax, before login kLoginUnsentBytesMax.
//  3. After close() nothing of the stream is parsed or sent any more; the object dies in a later turn.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/env.h"
#include "iscsi/login.h"
#include "iscsi/pdu.h"

namespace holdfast::iscsi {

class TargetServer;
class Session;

inline constexpr Nanos kLoginTimeout = 15s;
inline constexpr std::uint32_t kCommandWindow = 128;      // commands a session may have outstanding
inline constexpr std::uint32_t kScarceCommandWindow = 8;  // the same while the target is short of memory
inline constexpr std::uint32_t kLoginSegmentBytesMax = 64u << 10;
// Answers that the peer has not taken; beyond, nothing more is read from it until it has taken all of them.
inline constexpr std::size_t kUnsentBytesMax = 72u << 20;
inline constexpr std::size_t kLoginUnsentBytesMax = 256u << 10;  // the same before login, when anybody may be the peer

class Connection final : private StreamHandler {
 public:
  Connection(TargetServer& server, std::unique_ptr<Stream> stream);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void start();

  // Sends one PDU; DataSegmentLength, digests and padding are filled in here. Moves from `data`.
  template <typename T>
  void send(T& pdu, std::span<Slice> data = {}) {
    static_assert(sizeof(T) == kHeaderBytes);
    send_pdu(reinterpret_cast<std::byte*>(&pdu), data);
  }
  // Takes the next StatSN.
  std::uint32_t take_stat_sn() { return stat_sn_++; }
  std::uint32_t stat_sn() const { return stat_sn_; }
  std::size_t unsent_bytes() const { return stream_->unsent_bytes(); }

  enum class Close { kAfterSending, kNow };
  // Ends parsing at once; the session ends in a later turn, the connection after what was sent has gone (kAfterSending)
  // or right then.
  void close(Close how, std::string_view why);
  bool closed() const { return closed_; }
  // The session ends at once. Not from inside its own calls.
  void end_session();

  Session* session() const { return session_.get(); }
  std::uint64_t id() const { return id_; }
  // Has no volume: it has not logged in, only asks for the names of targets, or has ended its session.
  bool without_unit() const;
  std::string peer() const { return stream_->peer_address().to_string(); }
  Address local_address() const { return stream_->local_address(); }
  Nanos last_received() const { return last_received_; }

 private:
  enum class Phase { kHeader, kSegment, kTail };

  void on_data(std::span<const std::byte> bytes) override;
  Slice wanted() const override;
  void on_drained() override;
  void on_closed(Status reason) override;

  void receive_header(std::span<const std::byte>& bytes);
  void receive_segment(std::span<const std::byte>& bytes);
  void receive_tail(std::span<const std::byte>& bytes);
  void header_complete();
  bool begin_segment(const Header& header);
  void pdu_complete();
  void handle_login();
  void reject_login(const LoginRequest& request, LoginStatus status);
  void send_pdu(std::byte* header, std::span<Slice> data);
  void account_unsent(std::size_t now);
  Slice header_memory(std::size_t size);

  TargetServer& server_;
  const std::uint64_t id_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Login> login_;
  std::unique_ptr<Session> session_;
  Timer login_timer_;
  bool closed_ = false;
  bool ended_by_stream_ = false;
  bool reading_paused_ = false;
  std::size_t unsent_accounted_ = 0;
  std::uint32_t stat_sn_ = 1;
  Nanos last_received_{};
  bool header_digest_ = false;
  bool data_digest_ = false;

  // Receiving.
  Phase phase_ = Phase::kHeader;
  std::array<std::byte, kHeaderBytes + 255 * 4 + kDigestBytes> header_;
  std::size_t header_have_ = 0;
  std::size_t header_need_ = kHeaderBytes;
  Slice segment_;                    // keeps the memory that the segment goes to
  std::byte* segment_to_ = nullptr;  // null: the segment is thrown away
  std::size_t segment_left_ = 0;
  std::uint32_t segment_crc_ = 0;
  std::array<std::byte, 3 + kDigestBytes> tail_;
  std::size_t tail_have_ = 0;
  std::size_t tail_need_ = 0;
  std::size_t padding_ = 0;

  // Sending.
  Slice arena_;  // headers are cut from it
  std::size_t arena_used_ = 0;
  std::vector<Slice> parts_;
};

}  // namespace holdfast::iscsi
