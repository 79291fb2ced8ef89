// Operational parameters of a session and how login settles them (RFC 7143 chapter 13). Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "iscsi/text.h"

namespace holdfast::iscsi {

// What the target declares and offers at most.
inline constexpr std::uint32_t kMaxRecvDataSegmentLength = 1u << 20;
inline constexpr std::uint32_t kMaxBurstLength = 1u << 20;
inline constexpr std::uint32_t kFirstBurstLength = 256u << 10;
inline constexpr std::uint32_t kMaxOutstandingR2T = 8;

// As in force; the initial values are the RFC's defaults.
struct SessionParameters {
  bool HeaderDigest = false;  // CRC32C
  bool DataDigest = false;
  bool InitialR2T = true;
  bool ImmediateData = true;
  std::uint32_t MaxRecvDataSegmentLength = 8'192;  // of the initiator
  std::uint32_t MaxBurstLength = 262'144;
  std::uint32_t FirstBurstLength = 65'536;
  std::uint32_t MaxOutstandingR2T = 1;
};

enum class NegotiationOutcome {
  kNotMine,   // no operational key: the caller's
  kAnswered,  // the answer, if any, is appended
  kIllegal,   // the value is not allowed for this key; "Reject" is appended
};

// Handles one pair that the initiator sent: changes `parameters`, appends the answer to `answer`.
NegotiationOutcome negotiate(std::string_view key, std::string_view value, SessionParameters& parameters,
                             std::string& answer);

// Once everything is settled: FirstBurstLength never exceeds MaxBurstLength.
void settle(SessionParameters& parameters);

}  // namespace holdfast::iscsi
