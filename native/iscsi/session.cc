#include "iscsi/session.h"

#include <algorithm>
#include <utility>

#include "iscsi/discovery.h"
#include "iscsi/target_server.h"

namespace holdfast::iscsi {

namespace {
constexpr std::uint32_t kTextTransferTag = 1;

std::string port_name(const std::string& initiator, const Isid& isid) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string name = initiator + ",i,0x";
  for (std::uint8_t byte : isid) {
    name.push_back(kDigits[byte >> 4]);
    name.push_back(kDigits[byte & 15]);
  }
  return name;
}
}  // namespace

std::uint64_t decode_lun(std::uint64_t field) {
  std::uint64_t rest = field & 0xffff'ffff'ffffull;
  auto first = static_cast<std::uint16_t>(field >> 48);
  unsigned method = first >> 14;
  if (rest != 0 || method > 1) return ~0ull;
  if (method == 0) return first <= 0xff ? first : ~0ull;
  return first & 0x3fff;
}

Session::Session(TargetServer& server, Connection& connection, const Login& login, std::uint64_t id, Unit* unit,
                 std::uint32_t first_cmd_sn)
    : server_(server),
      connection_(connection),
      unit_(unit),
      type_(login.type()),
      parameters_(login.parameters()),
      initiator_(login.initiator()),
      isid_(login.isid()),
      tsih_(login.tsih()),
      cid_(login.cid()),
      id_(id),
      exp_cmd_sn_(first_cmd_sn),
      max_cmd_sn_(first_cmd_sn + kCommandWindow - 1),
      keepalive_(server.env()) {}

bool Session::begin() {
  if (unit_) {
    nexus_ = unit_->unit->attach_nexus(port_name(initiator_, isid_));
    if (!nexus_) return false;
  }
  keepalive_.arm_after(kKeepaliveInterval, [this] { keep_alive(); });
  return true;
}

Session::~Session() {
  server_.memory_returned(held_bytes_);
  waiting_.clear();
  while (Task* task = tasks_.take_any()) {
    task->session = nullptr;
    if (task->in_unit) continue;  // freed by command_done()
    server_.memory_returned(task->charged_bytes);
    server_.tasks().give_back(task);
  }
  if (nexus_) unit_->unit->detach_nexus(nexus_);
}

// ---- order ----

// The window that the last answer of a session leaves is never closed.
std::uint32_t Session::max_cmd_sn() {
  auto outstanding = static_cast<std::uint32_t>(tasks_.size() + held_.size());
  std::uint32_t window = server_.memory_scarce() ? kScarceCommandWindow : kCommandWindow;
  std::uint32_t room = outstanding < window ? window - outstanding : 0;
  std::uint32_t max = exp_cmd_sn_ + room - 1;
  if (serial_less(max_cmd_sn_, max)) max_cmd_sn_ = max;
  return max_cmd_sn_;
}

void Session::handle(const Header& header, Slice data) {
  switch (header.code()) {
    case Opcode::kNopOut:
      if (header.InitiatorTaskTag == kReservedTag) {
        ping_open_ = false;
        return;
      }
      break;
    case Opcode::kScsiCommand:
    case Opcode::kTaskManagementRequest:
    case Opcode::kTextRequest:
    case Opcode::kLogoutRequest:
      break;
    case Opcode::kLoginRequest:
      return protocol_error(header, "a login request in full feature phase");
    default:
      return reject(RejectReason::kCommandNotSupported, header);
  }
  if (header.immediate()) return deliver(header, std::move(data));
  std::uint32_t cmd_sn = header.as<Sequenced>().CmdSN;
  // Outside of the window: ignored without a word (RFC 7143 section 4.2.2.1).
  if (serial_less(cmd_sn, exp_cmd_sn_) || serial_less(max_cmd_sn_, cmd_sn)) return;
  if (cmd_sn != exp_cmd_sn_) {
    std::size_t size = data.size();
    if (held_bytes_ + size > kHeldBytesMax || !unasked_fits(size)) {
      return protocol_error(header, "too much data out of order");
    }
    if (!held_.try_emplace(cmd_sn, Held{true, header, std::move(data)}).second) return;
    held_bytes_ += size;
    charged_ += size;
    server_.memory_taken(size);
    return;
  }
  ++exp_cmd_sn_;
  deliver(header, std::move(data));
  if (!held_.empty()) advance();
}

// Requests that came too early have their turn now; those that were aborted before it are passed over.
void Session::advance() {
  while (!connection_.closed()) {
    auto next = held_.find(exp_cmd_sn_);
    if (next == held_.end()) return;
    Held held = take_held(next);
    ++exp_cmd_sn_;
    if (held.present) deliver(held.header, std::move(held.data));
  }
}

Session::Held Session::take_held(std::map<std::uint32_t, Held>::iterator at) {
  Held held = std::move(at->second);
  held_.erase(at);
  held_bytes_ -= held.data.size();
  charged_ -= held.data.size();
  server_.memory_returned(held.data.size());
  return held;
}

void Session::deliver(const Header& header, Slice data) {
  switch (header.code()) {
    case Opcode::kScsiCommand:
      return handle_command(header.as<ScsiCommand>(), std::move(data));
    case Opcode::kNopOut:
      return handle_nop_out(header.as<NopOut>(), std::move(data));
    case Opcode::kTaskManagementRequest:
      return handle_task_management(header.as<TaskManagementRequest>());
    case Opcode::kTextRequest:
      return handle_text(header.as<TextRequest>(), data);
    default:
      return handle_logout(header.as<LogoutRequest>());
  }
}

// ---- refusals ----

void Session::reject(RejectReason reason, const Header& header) {
  Reject pdu;
  pdu.Reason = static_cast<std::uint8_t>(reason);
  stamp_status(pdu);
  Slice copy =
      server_.env().buffers().copy_of(std::as_bytes(std::span(reinterpret_cast<const char*>(&header), kHeaderBytes)));
  connection_.send(pdu, std::span(&copy, 1));
}

void Session::protocol_error(const Header& header, std::string_view why) {
  reject(RejectReason::kProtocolError, header);
  connection_.close(Connection::Close::kAfterSending, why);
}

// ---- NOP ----

void Session::handle_nop_out(const NopOut& pdu, Slice data) {
  NopIn answer;
  answer.LUN = pdu.LUN;
  answer.InitiatorTaskTag = pdu.InitiatorTaskTag;
  stamp_status(answer);
  if (data.size() > parameters_.MaxRecvDataSegmentLength) data = data.sub(0, parameters_.MaxRecvDataSegmentLength);
  connection_.send(answer, std::span(&data, data.empty() ? 0 : 1));
}

void Session::keep_alive() {
  Nanos silence = server_.env().now() - connection_.last_received();
  if (silence >= kIdleBeforeClose && ping_open_) {
    return connection_.close(Connection::Close::kNow, "the initiator does not answer");
  }
  if (silence >= kIdleBeforePing && !ping_open_) {
    ping_open_ = true;
    NopIn ping;
    ping.TargetTransferTag = next_transfer_tag_++;
    stamp(ping);
    connection_.send(ping);
  }
  if (silence < kIdleBeforePing) ping_open_ = false;
  keepalive_.arm_after(kKeepaliveInterval, [this] { keep_alive(); });
}

// ---- text ----

void Session::handle_text(const TextRequest& pdu, const Slice& data) {
  bool continues = pdu.TargetTransferTag != kReservedTag;
  bool continues_request = !text_in_.empty() && pdu.InitiatorTaskTag == text_tag_;
  if (continues && !continues_request) {  // the rest of the answer
    if (!text_open_ || pdu.TargetTransferTag != kTextTransferTag || !data.empty()) {
      return reject(RejectReason::kInvalidPduField, *reinterpret_cast<const Header*>(&pdu));
    }
    return send_text(pdu.InitiatorTaskTag, pdu.LUN);
  }
  if (!continues_request) text_in_.clear();  // another exchange ends the one before (RFC 7143 section 11.10.4)
  text_tag_ = pdu.InitiatorTaskTag;
  text_open_ = false;
  if (text_in_.size() + data.size() > kTextBytesMax) {
    return protocol_error(*reinterpret_cast<const Header*>(&pdu), "too much text");
  }
  text_in_.append(data.text());
  if (pdu.flags & kContinueBit) {
    text_out_.clear();
    text_open_ = true;
    return send_text(pdu.InitiatorTaskTag, pdu.LUN);
  }
  Result<TextPairs> pairs = parse_text(text_in_);
  text_in_.clear();
  if (!pairs.ok()) return reject(RejectReason::kProtocolError, *reinterpret_cast<const Header*>(&pdu));
  text_out_ = answer_text(*pairs);
  send_text(pdu.InitiatorTaskTag, pdu.LUN);
}

std::string Session::answer_text(const TextPairs& pairs) {
  std::string answer;
  for (const auto& [key, value] : pairs) {
    if (key == "MaxRecvDataSegmentLength") {  // the one parameter that may still change (RFC 7143 section 13.12)
      negotiate(key, value, parameters_, answer);
      continue;
    }
    if (key != "SendTargets") {
      SessionParameters unused;
      std::string ignored;
      bool of_login = negotiate(key, value, unused, ignored) != NegotiationOutcome::kNotMine;
      append_text(answer, key, of_login ? "Reject" : "NotUnderstood");
      continue;
    }
    std::vector<std::string> targets = server_.targets_for(initiator_);
    if (type_ == SessionType::kNormal) {
      targets = {unit_->config.iqn};  // a normal session may ask for its own target only
    } else if (value != "All") {
      std::erase_if(targets, [&wanted = value](const std::string& target) { return target != wanted; });
    }
    answer += send_targets_text(targets, portal_addresses(server_.portals(), connection_.local_address()));
  }
  return answer;
}

// As much of text_out_ as the initiator takes in one PDU; it asks for the rest.
void Session::send_text(std::uint32_t tag, std::uint64_t lun) {
  TextResponse pdu;
  pdu.LUN = lun;
  pdu.InitiatorTaskTag = tag;
  std::size_t size = std::min<std::size_t>(text_out_.size(), parameters_.MaxRecvDataSegmentLength);
  bool more = size < text_out_.size() || !text_in_.empty();
  pdu.flags = more ? (size < text_out_.size() ? kContinueBit : 0) : kFinalBit;
  pdu.TargetTransferTag = more ? kTextTransferTag : kReservedTag;
  text_open_ = more && text_in_.empty();
  stamp_status(pdu);
  Slice data = server_.env().buffers().copy_of(as_bytes(std::string_view(text_out_).substr(0, size)));
  text_out_.erase(0, size);
  connection_.send(pdu, std::span(&data, data.empty() ? 0 : 1));
}

// ---- logout ----

void Session::handle_logout(const LogoutRequest& pdu) {
  constexpr std::uint8_t kCloseSession = 0, kCloseConnection = 1;
  constexpr std::uint8_t kNoSuchConnection = 1, kRecoveryNotSupported = 2;
  std::uint8_t reason = pdu.reason & 0x7f;
  LogoutResponse answer;
  answer.InitiatorTaskTag = pdu.InitiatorTaskTag;
  bool leaves = reason == kCloseSession || (reason == kCloseConnection && pdu.CID == cid_);
  if (!leaves) answer.Response = reason == kCloseConnection ? kNoSuchConnection : kRecoveryNotSupported;
  stamp_status(answer);
  connection_.send(answer);
  if (leaves) connection_.close(Connection::Close::kAfterSending, "");
}

void Session::request_logout(std::uint16_t seconds) {
  if (logging_out_ || connection_.closed()) return;
  logging_out_ = true;
  AsyncMessage pdu;
  pdu.AsyncEvent = static_cast<std::uint8_t>(AsyncEvent::kLogoutRequest);
  pdu.Parameter3 = seconds;
  stamp_status(pdu);
  connection_.send(pdu);
}

}  // namespace holdfast::iscsi
