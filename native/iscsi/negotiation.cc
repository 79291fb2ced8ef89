#include "iscsi/negotiation.h"

#include <algorithm>
#include <optional>

namespace holdfast::iscsi {

namespace {

NegotiationOutcome reject(std::string_view key, std::string& answer) {
  append_text(answer, key, "Reject");
  return NegotiationOutcome::kIllegal;
}

// List negotiation: the first value of the initiator that the target knows.
NegotiationOutcome negotiate_digest(std::string_view key, std::string_view value, bool& crc32c, std::string& answer) {
  for (std::string_view item : split_list(value)) {
    if (item != "None" && item != "CRC32C") continue;
    crc32c = item == "CRC32C";
    append_text(answer, key, item);
    return NegotiationOutcome::kAnswered;
  }
  return reject(key, answer);
}

NegotiationOutcome negotiate_boolean(std::string_view key, std::string_view value, bool ours, bool is_or, bool* result,
                                     std::string& answer) {
  if (value != "Yes" && value != "No") return reject(key, answer);
  bool theirs = value == "Yes";
  bool agreed = is_or ? theirs || ours : theirs && ours;
  if (result) *result = agreed;
  append_text(answer, key, agreed ? "Yes" : "No");
  return NegotiationOutcome::kAnswered;
}

NegotiationOutcome negotiate_number(std::string_view key, std::string_view value, std::uint32_t low, std::uint32_t high,
                                    std::uint32_t ours, bool is_maximum, std::uint32_t* result, std::string& answer) {
  std::optional<std::uint64_t> number = parse_text_number(value, high);
  if (!number || *number < low) return reject(key, answer);
  auto theirs = static_cast<std::uint32_t>(*number);
  std::uint32_t agreed = is_maximum ? std::max(theirs, ours) : std::min(theirs, ours);
  if (result) *result = agreed;
  append_text(answer, key, std::to_string(agreed));
  return NegotiationOutcome::kAnswered;
}

constexpr std::uint32_t kLengthMin = 512, kLengthMax = (1u << 24) - 1;

}  // namespace

NegotiationOutcome negotiate(std::string_view key, std::string_view value, SessionParameters& parameters,
                             std::string& answer) {
  constexpr bool kOr = true, kAnd = false, kMaximum = true, kMinimum = false;
  SessionParameters& p = parameters;
  if (key == "HeaderDigest") return negotiate_digest(key, value, p.HeaderDigest, answer);
  if (key == "DataDigest") return negotiate_digest(key, value, p.DataDigest, answer);
  if (key == "InitialR2T") return negotiate_boolean(key, value, false, kOr, &p.InitialR2T, answer);
  if (key == "ImmediateData") return negotiate_boolean(key, value, true, kAnd, &p.ImmediateData, answer);
  if (key == "DataPDUInOrder") return negotiate_boolean(key, value, true, kOr, nullptr, answer);
  if (key == "DataSequenceInOrder") return negotiate_boolean(key, value, true, kOr, nullptr, answer);
  if (key == "MaxRecvDataSegmentLength") {  // declared, each side its own: no answer
    std::optional<std::uint64_t> number = parse_text_number(value, kLengthMax);
    if (!number || *number < kLengthMin) return reject(key, answer);
    p.MaxRecvDataSegmentLength = static_cast<std::uint32_t>(*number);
    return NegotiationOutcome::kAnswered;
  }
  if (key == "MaxBurstLength") {
    return negotiate_number(key, value, kLengthMin, kLengthMax, kMaxBurstLength, kMinimum, &p.MaxBurstLength, answer);
  }
  if (key == "FirstBurstLength") {
    return negotiate_number(key, value, kLengthMin, kLengthMax, kFirstBurstLength, kMinimum, &p.FirstBurstLength,
                            answer);
  }
  if (key == "MaxOutstandingR2T") {
    return negotiate_number(key, value, 1, 65'535, kMaxOutstandingR2T, kMinimum, &p.MaxOutstandingR2T, answer);
  }
  if (key == "MaxConnections") return negotiate_number(key, value, 1, 65'535, 1, kMinimum, nullptr, answer);
  if (key == "DefaultTime2Wait") return negotiate_number(key, value, 0, 3'600, 0, kMaximum, nullptr, answer);
  if (key == "DefaultTime2Retain") return negotiate_number(key, value, 0, 3'600, 0, kMinimum, nullptr, answer);
  if (key == "ErrorRecoveryLevel") return negotiate_number(key, value, 0, 2, 0, kMinimum, nullptr, answer);
  if (key == "iSCSIProtocolLevel") return negotiate_number(key, value, 0, 31, 1, kMinimum, nullptr, answer);
  if (key == "TaskReporting") {
    append_text(answer, key, "RFC3720");
    return NegotiationOutcome::kAnswered;
  }
  // Markers are gone since RFC 7143; initiators that still ask are told that there are none.
  if (key == "OFMarker" || key == "IFMarker") {
    append_text(answer, key, "No");
    return NegotiationOutcome::kAnswered;
  }
  if (key == "OFMarkInt" || key == "IFMarkInt") {
    append_text(answer, key, "Irrelevant");
    return NegotiationOutcome::kAnswered;
  }
  return NegotiationOutcome::kNotMine;
}

void settle(SessionParameters& parameters) {
  parameters.FirstBurstLength = std::min(parameters.FirstBurstLength, parameters.MaxBurstLength);
}

}  // namespace holdfast::iscsi
