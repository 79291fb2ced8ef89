// RawInitiator: the other end of an iSCSI connection for tests and fuzz targets: PDUs made by hand, right or wrong. It
// answers R2Ts with data, gathers Data-In, and notes in `problem` whatever the target does against RFC 7143: sequence
// numbers, burst and segment lengths, digests. Thread: the one that runs its MemoryEnv.
#pragma once

#include <array>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/crc32c.h"
#include "iscsi/login.h"
#include "iscsi/pdu.h"
#include "iscsi/text.h"
#include "rpc/testing/memory_env.h"

namespace holdfast::iscsi::testing {

using rpc::testing::MemoryEnv;
using Cdb = std::array<std::uint8_t, 16>;

inline constexpr std::string_view kTargetName = "iqn.2026-11.io.holdfast:test";
inline constexpr std::string_view kInitiatorName = "iqn.1994-05.com.example:host";

struct Pdu {
  Header header;
  std::string data;
  Opcode code() const { return header.code(); }
  template <typename T>
  const T& as() const {
    return header.as<T>();
  }
};

// How a command ended.
struct Outcome {
  std::uint8_t status = 0;
  std::string sense;  // as sent, without its length
  std::string data;
  std::uint8_t residual_flags = 0;
  std::uint32_t residual = 0;
  std::uint32_t data_in_pdus = 0;
  bool collapsed = false;  // status came with the last Data-In

  std::uint8_t sense_key() const { return sense.size() > 2 ? sense[2] & 15 : 0; }  // fixed format
  std::uint16_t sense_code() const {
    return sense.size() > 13 ? static_cast<std::uint16_t>(static_cast<std::uint8_t>(sense[12]) << 8 |
                                                          static_cast<std::uint8_t>(sense[13]))
                             : 0;
  }
};

struct CommandOptions {
  std::uint32_t read = 0;            // ExpectedDataTransferLength of a read
  std::string write;                 // what a write sends
  std::size_t immediate = 0;         // how much of it with the command
  std::size_t unsolicited = 0;       // how much of it without R2T after that
  std::size_t pdu_bytes = 1u << 20;  // of one Data-Out
  std::uint8_t attribute = 1;        // SIMPLE
  std::uint64_t lun = 0;             // as in the LUN field
  bool urgent = false;               // the I bit
  bool answer_r2t = true;
  std::optional<std::uint32_t> expected;  // instead of the length of `write`
  std::optional<std::uint32_t> tag;
  std::optional<std::uint32_t> cmd_sn;
};

enum class Damage { kNone, kHeaderDigest, kDataDigest };

class RawInitiator final : public StreamHandler {
 public:
  RawInitiator(MemoryEnv& env, const Address& address) : env_(env) {
    env.connect(address, 1s, [this](Result<std::unique_ptr<Stream>> made) {
      if (!made.ok()) return;
      stream_ = std::move(*made);
      stream_->start(this);
    });
    env.settle();
  }

  // ---- PDUs ----

  void send_bytes(std::string_view bytes) {
    if (!stream_ || bytes.empty()) return;
    Slice part = env_.buffers().copy_of(as_bytes(bytes));
    stream_->send({&part, 1});
  }

  template <typename T>
  std::string encode(T pdu, std::string_view data = {}, Damage damage = Damage::kNone) const {
    static_assert(sizeof(T) == kHeaderBytes);
    pdu.DataSegmentLength = static_cast<std::uint32_t>(data.size());
    std::string bytes(reinterpret_cast<const char*>(&pdu), kHeaderBytes);
    if (header_digest) append_digest(bytes, bytes, damage == Damage::kHeaderDigest);
    std::string padded(data);
    padded.resize((data.size() + 3) / 4 * 4);
    bytes += padded;
    if (data_digest && !data.empty()) append_digest(bytes, padded, damage == Damage::kDataDigest);
    return bytes;
  }
  template <typename T>
  void send(T pdu, std::string_view data = {}, Damage damage = Damage::kNone) {
    send_bytes(encode(pdu, data, damage));
  }
  void settle() { env_.settle(); }

  // The oldest PDU that is neither Data-In, R2T nor SCSI Response; settles first.
  std::optional<Pdu> next() {
    env_.settle();
    if (inbox.empty()) return std::nullopt;
    Pdu first = std::move(inbox.front());
    inbox.pop_front();
    return first;
  }

  // ---- login ----

  using Keys = std::vector<std::pair<std::string, std::string>>;
  static std::string text(const Keys& keys) {
    std::string all;
    for (const auto& [key, value] : keys) append_text(all, key, value);
    return all;
  }
  static Keys identity(std::string_view type = "Normal", std::string_view target = kTargetName) {
    Keys keys{{"InitiatorName", std::string(kInitiatorName)}, {"SessionType", std::string(type)}};
    if (type == "Normal") keys.emplace_back("TargetName", std::string(target));
    return keys;
  }

  // One login request; its response, or nullopt when the target closed instead.
  std::optional<Pdu> login_step(int csg, int nsg, bool transit, std::string_view data, bool more = false) {
    LoginRequest request;
    request.opcode = static_cast<std::uint8_t>(Opcode::kLoginRequest) | kImmediateBit;
    request.flags = static_cast<std::uint8_t>((transit ? 0x80 : 0) | (more ? 0x40 : 0) | csg << 2 | nsg);
    request.ISID = isid;
    request.TSIH = tsih;
    request.InitiatorTaskTag = 1;
    request.CID = 7;
    request.CmdSN = cmd_sn;
    request.ExpStatSN = exp_stat_sn;
    send(request, data);
    std::optional<Pdu> answer = next();
    if (!answer || answer->code() != Opcode::kLoginResponse) return std::nullopt;
    const auto& response = answer->as<LoginResponse>();
    if (Result<TextPairs> pairs = parse_text(answer->data); pairs.ok()) {
      for (auto& [key, value] : *pairs) answers[key] = value;
    }
    if (response.StatusClass == 0 && (response.flags & 0x83) == 0x83) {
      tsih = response.TSIH;
      enter_full_feature();
    }
    return answer;
  }
  static std::uint16_t status_of(const std::optional<Pdu>& answer) {
    if (!answer) return 0xffff;
    const auto& response = answer->as<LoginResponse>();
    return static_cast<std::uint16_t>(response.StatusClass << 8 | response.StatusDetail);
  }
  // Straight to full feature phase. The login status; ffffh when there was no answer.
  std::uint16_t login(const Keys& more = {}, const Keys& who = identity()) {
    Keys keys = who;
    keys.insert(keys.end(), more.begin(), more.end());
    for (const auto& [key, value] : more) offered_[key] = value;
    return status_of(login_step(1, 3, true, text(keys)));
  }
  bool full_feature() const { return full_feature_; }

  // ---- commands ----

  // Sends a command and what data may go along; its tag.
  std::uint32_t command(const Cdb& cdb, CommandOptions options = {}) {
    ScsiCommand pdu;
    pdu.opcode = static_cast<std::uint8_t>(Opcode::kScsiCommand) | (options.urgent ? kImmediateBit : 0);
    bool writes = !options.write.empty() || options.expected.value_or(0) > 0;
    bool more = options.unsolicited > 0;
    pdu.flags = static_cast<std::uint8_t>(options.attribute | (more ? 0 : kFinalBit) |
                                          (options.read ? ScsiCommand::kRead : 0) | (writes ? ScsiCommand::kWrite : 0));
    pdu.LUN = options.lun;
    std::uint32_t tag = options.tag ? *options.tag : next_tag_++;
    pdu.InitiatorTaskTag = tag;
    std::size_t length = options.read ? options.read : options.write.size();
    pdu.ExpectedDataTransferLength = options.expected.value_or(static_cast<std::uint32_t>(length));
    pdu.CmdSN = options.cmd_sn ? *options.cmd_sn : options.urgent ? cmd_sn : cmd_sn++;
    pdu.ExpStatSN = exp_stat_sn;
    for (std::size_t i = 0; i < cdb.size(); ++i) pdu.CDB[i] = cdb[i];
    std::string_view data = options.write;
    std::size_t immediate = options.immediate, unsolicited = options.unsolicited, piece = options.pdu_bytes;
    send(pdu, data.substr(0, immediate));
    if (unsolicited > 0) send_data(tag, kReservedTag, data, immediate, unsolicited, piece);
    if (options.answer_r2t) writes_[tag] = {std::string(data), piece};
    return tag;
  }

  // A sequence of Data-Out PDUs.
  void send_data(std::uint32_t tag, std::uint32_t transfer_tag, std::string_view all, std::size_t offset,
                 std::size_t length, std::size_t pdu_bytes) {
    std::uint32_t data_sn = 0;
    for (std::size_t at = 0; at < length;) {
      std::size_t size = std::min(pdu_bytes, length - at);
      DataOut pdu = data_out(tag, transfer_tag, data_sn++, offset + at, at + size == length);
      send(pdu, all.substr(offset + at, size));
      at += size;
    }
  }
  static DataOut data_out(std::uint32_t tag, std::uint32_t transfer_tag, std::uint32_t data_sn, std::size_t offset,
                          bool final) {
    DataOut pdu;
    pdu.opcode = static_cast<std::uint8_t>(Opcode::kDataOut);
    pdu.flags = final ? kFinalBit : 0;
    pdu.InitiatorTaskTag = tag;
    pdu.TargetTransferTag = transfer_tag;
    pdu.DataSN = data_sn;
    pdu.BufferOffset = static_cast<std::uint32_t>(offset);
    return pdu;
  }

  // How the command ended; nullopt while it has not. Settles first.
  std::optional<Outcome> outcome(std::uint32_t tag) {
    env_.settle();
    auto found = outcomes_.find(tag);
    if (found == outcomes_.end()) return std::nullopt;
    Outcome ended = std::move(found->second);
    outcomes_.erase(found);
    return ended;
  }
  std::optional<Outcome> run(const Cdb& cdb, CommandOptions options = {}) {
    return outcome(command(cdb, std::move(options)));
  }
  // Takes the unit attentions that a new session gets.
  void clear_attentions() {
    for (int i = 0; i < 8; ++i) {
      auto ended = run(Cdb{});
      if (!ended || ended->status == 0) return;
    }
    note("the unit attentions do not end");
  }

  std::uint32_t task_function(TaskFunction function, std::uint32_t referenced = kReservedTag,
                              std::uint32_t ref_cmd_sn = 0, std::uint64_t lun = 0) {
    TaskManagementRequest pdu;
    pdu.opcode = static_cast<std::uint8_t>(Opcode::kTaskManagementRequest) | kImmediateBit;
    pdu.function = static_cast<std::uint8_t>(0x80 | static_cast<unsigned>(function));
    pdu.LUN = lun;
    pdu.InitiatorTaskTag = next_tag_;
    pdu.ReferencedTaskTag = referenced;
    pdu.RefCmdSN = ref_cmd_sn;
    pdu.CmdSN = cmd_sn;
    pdu.ExpStatSN = exp_stat_sn;
    send(pdu);
    return next_tag_++;
  }
  std::uint32_t ping(std::string_view data, bool urgent = true) {
    NopOut pdu;
    pdu.opcode = static_cast<std::uint8_t>(Opcode::kNopOut) | (urgent ? kImmediateBit : 0);
    pdu.flags = kFinalBit;
    pdu.InitiatorTaskTag = next_tag_;
    pdu.TargetTransferTag = kReservedTag;
    pdu.CmdSN = urgent ? cmd_sn : cmd_sn++;
    pdu.ExpStatSN = exp_stat_sn;
    send(pdu, data);
    return next_tag_++;
  }
  void logout(std::uint8_t reason, std::uint16_t cid = 7) {
    LogoutRequest pdu;
    pdu.opcode = static_cast<std::uint8_t>(Opcode::kLogoutRequest) | kImmediateBit;
    pdu.reason = 0x80 | reason;
    pdu.InitiatorTaskTag = next_tag_++;
    pdu.CID = cid;
    pdu.CmdSN = cmd_sn;
    pdu.ExpStatSN = exp_stat_sn;
    send(pdu);
  }

  void disconnect() { stream_.reset(); }
  void stop_reading() { stream_->pause_receiving(); }
  void go_on_reading() { stream_->resume_receiving(); }

  void on_data(std::span<const std::byte> bytes) override {
    buffer_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    while (take_pdu()) {
    }
  }
  void on_closed(Status) override { closed = true; }

  bool closed = false;
  std::string problem;  // the first
  std::deque<Pdu> inbox;
  std::vector<R2t> r2ts;
  std::map<std::string, std::string> answers;
  Isid isid = {0x00, 0x02, 0x3d, 0, 0, 1};
  std::uint16_t tsih = 0;
  std::uint32_t cmd_sn = 0xffff'fff0;  // wraps soon
  std::uint32_t exp_stat_sn = 0;
  std::uint32_t exp_cmd_sn = 0, max_cmd_sn = 0;  // as last told
  bool header_digest = false, data_digest = false;
  std::uint32_t max_burst = 262'144, first_burst = 65'536, max_outstanding_r2t = 1;
  std::uint32_t max_receive = 8'192;  // what this end declared
  bool immediate_data = true, initial_r2t = true;

 private:
  struct Write {
    std::string data;
    std::size_t pdu_bytes = 0;
    std::uint32_t r2ts = 0;
  };

  void note(std::string_view what) {
    if (problem.empty()) problem = what;
  }
  static void append_digest(std::string& bytes, std::string_view of, bool wrong) {
    std::uint32_t crc = crc32c(as_bytes(of)) ^ (wrong ? 1 : 0);
    for (int i = 0; i < 4; ++i) bytes.push_back(static_cast<char>(crc >> (8 * i)));
  }

  std::uint32_t number(const std::string& key, std::uint32_t otherwise) const {
    auto found = answers.find(key);
    return found == answers.end() ? otherwise : static_cast<std::uint32_t>(std::stoul(found->second));
  }
  bool is(const std::string& key, std::string_view value, bool otherwise) const {
    auto found = answers.find(key);
    return found == answers.end() ? otherwise : found->second == value;
  }
  void enter_full_feature() {
    full_feature_ = true;
    header_digest = is("HeaderDigest", "CRC32C", false);
    data_digest = is("DataDigest", "CRC32C", false);
    immediate_data = is("ImmediateData", "Yes", true);
    initial_r2t = is("InitialR2T", "Yes", true);
    max_burst = number("MaxBurstLength", max_burst);
    first_burst = std::min(number("FirstBurstLength", first_burst), max_burst);
    max_outstanding_r2t = number("MaxOutstandingR2T", max_outstanding_r2t);
    auto declared = offered_.find("MaxRecvDataSegmentLength");
    if (declared != offered_.end()) max_receive = static_cast<std::uint32_t>(std::stoul(declared->second));
  }

  bool take_pdu() {
    if (buffer_.size() < kHeaderBytes) return false;
    Pdu pdu;
    std::memcpy(static_cast<void*>(&pdu.header), buffer_.data(), kHeaderBytes);
    std::size_t size = pdu.header.DataSegmentLength, padded = (size + 3) / 4 * 4;
    std::size_t head = kHeaderBytes + (header_digest ? kDigestBytes : 0);
    std::size_t tail = size > 0 && data_digest ? kDigestBytes : 0;
    if (buffer_.size() < head + padded + tail) return false;
    std::string_view bytes = buffer_;
    if (header_digest && !digest_matches(bytes.substr(0, kHeaderBytes), bytes.substr(kHeaderBytes))) {
      note("a header digest of the target is wrong");
    }
    std::string_view segment = bytes.substr(head, padded);
    if (tail && !digest_matches(segment, bytes.substr(head + padded))) note("a data digest of the target is wrong");
    pdu.data = std::string(segment.substr(0, size));
    buffer_.erase(0, head + padded + tail);
    if (full_feature_ && size > max_receive) note("a data segment is longer than MaxRecvDataSegmentLength");
    check_numbers(pdu);
    handle(std::move(pdu));
    return true;
  }
  static bool digest_matches(std::string_view of, std::string_view digest) {
    std::string right;
    append_digest(right, of, false);
    return digest.substr(0, 4) == right;
  }

  void check_numbers(const Pdu& pdu) {
    const auto& nop = pdu.as<NopIn>();  // StatSN, ExpCmdSN and MaxCmdSN stand at the same place everywhere
    Opcode code = pdu.code();
    bool has_status = code != Opcode::kR2t && !(code == Opcode::kDataIn && !(pdu.header.flags & DataIn::kStatusBit)) &&
                      !(code == Opcode::kNopIn && pdu.header.InitiatorTaskTag == kReservedTag);
    if (code == Opcode::kLoginResponse && !full_feature_ && exp_stat_sn == 0) exp_stat_sn = nop.StatSN;
    if (has_status && nop.StatSN != exp_stat_sn) note("StatSN is not the next");
    if (has_status) exp_stat_sn = nop.StatSN + 1;
    if (code == Opcode::kLoginResponse) {
      exp_cmd_sn = nop.ExpCmdSN;
      max_cmd_sn = nop.MaxCmdSN;
      return;
    }
    if (serial_less(nop.ExpCmdSN, exp_cmd_sn)) note("ExpCmdSN fell");
    if (serial_less(nop.MaxCmdSN, max_cmd_sn)) note("MaxCmdSN fell");
    exp_cmd_sn = nop.ExpCmdSN;
    max_cmd_sn = nop.MaxCmdSN;
  }

  void handle(Pdu pdu) {
    switch (pdu.code()) {
      case Opcode::kDataIn:
        return take_data(pdu);
      case Opcode::kScsiResponse:
        return take_response(pdu);
      case Opcode::kR2t:
        return take_r2t(pdu.as<R2t>());
      default:
        inbox.push_back(std::move(pdu));
    }
  }
  void take_data(const Pdu& pdu) {
    const auto& data = pdu.as<DataIn>();
    Gathered& gathered = gathered_[data.InitiatorTaskTag];
    if (data.DataSN != gathered.pdus++) note("DataSN of a Data-In is not the next");
    if (data.BufferOffset != gathered.bytes.size()) note("a Data-In does not follow the one before");
    gathered.bytes += pdu.data;
    gathered.in_burst += static_cast<std::uint32_t>(pdu.data.size());
    if (gathered.in_burst > max_burst) note("a Data-In sequence is longer than MaxBurstLength");
    if (data.flags & kFinalBit) gathered.in_burst = 0;
    if (!(data.flags & DataIn::kStatusBit)) return;
    if (!(data.flags & kFinalBit)) note("status without the F bit");
    Outcome ended;
    ended.status = data.Status;
    ended.residual_flags = data.flags & (kOverflowBit | kUnderflowBit);
    ended.residual = data.ResidualCount;
    ended.collapsed = true;
    end(data.InitiatorTaskTag, std::move(ended));
  }
  void take_response(const Pdu& pdu) {
    const auto& response = pdu.as<ScsiResponse>();
    Outcome ended;
    ended.status = response.Status;
    ended.residual_flags = response.flags & (kOverflowBit | kUnderflowBit);
    ended.residual = response.ResidualCount;
    if (response.Response != 0) note("a SCSI Response without a SCSI status");
    if (pdu.data.size() >= 2) {
      std::size_t size = load_be16(as_bytes(pdu.data), 0);
      if (size + 2 > pdu.data.size()) note("the sense length is beyond the data segment");
      ended.sense = pdu.data.substr(2, size);
    }
    end(response.InitiatorTaskTag, std::move(ended));
  }
  void end(std::uint32_t tag, Outcome ended) {
    Gathered& gathered = gathered_[tag];
    ended.data = std::move(gathered.bytes);
    ended.data_in_pdus = gathered.pdus;
    gathered_.erase(tag);
    writes_.erase(tag);
    if (!outcomes_.emplace(tag, std::move(ended)).second) note("a command was answered twice");
  }
  void take_r2t(const R2t& pdu) {
    r2ts.push_back(pdu);
    auto write = writes_.find(pdu.InitiatorTaskTag);
    if (pdu.DesiredDataTransferLength == 0) note("an R2T for nothing");
    if (pdu.DesiredDataTransferLength > max_burst) note("an R2T asks for more than MaxBurstLength");
    if (write == writes_.end()) return;
    if (pdu.R2TSN != write->second.r2ts++) note("R2TSN is not the next");
    if (pdu.BufferOffset + pdu.DesiredDataTransferLength > write->second.data.size()) {
      return note("an R2T asks for more than the command has");
    }
    send_data(pdu.InitiatorTaskTag, pdu.TargetTransferTag, write->second.data, pdu.BufferOffset,
              pdu.DesiredDataTransferLength, write->second.pdu_bytes);
  }

  struct Gathered {
    std::string bytes;
    std::uint32_t pdus = 0;
    std::uint32_t in_burst = 0;
  };

  MemoryEnv& env_;
  std::unique_ptr<Stream> stream_;
  std::string buffer_;
  bool full_feature_ = false;
  std::uint32_t next_tag_ = 100;
  std::map<std::string, std::string> offered_;
  std::map<std::uint32_t, Write> writes_;
  std::map<std::uint32_t, Gathered> gathered_;
  std::map<std::uint32_t, Outcome> outcomes_;
};

}  // namespace holdfast::iscsi::testing
