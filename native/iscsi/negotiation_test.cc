#include "iscsi/negotiation.h"

#include <gtest/gtest.h>

#include <string>

namespace holdfast::iscsi {
namespace {

struct Settled {
  NegotiationOutcome outcome;
  std::string answer;  // without the key, "=" and the null byte
  SessionParameters parameters;
};

Settled settle_one(std::string_view key, std::string_view value) {
  Settled settled;
  std::string text;
  settled.outcome = negotiate(key, value, settled.parameters, text);
  if (!text.empty()) {
    EXPECT_EQ(text.substr(0, key.size() + 1), std::string(key) + "=");
    settled.answer = text.substr(key.size() + 1, text.size() - key.size() - 2);
  }
  return settled;
}

TEST(Negotiation, DigestsTakeTheFirstKnownValue) {
  EXPECT_EQ(settle_one("HeaderDigest", "CRC32C,None").answer, "CRC32C");
  EXPECT_TRUE(settle_one("HeaderDigest", "CRC32C,None").parameters.HeaderDigest);
  EXPECT_EQ(settle_one("DataDigest", "None,CRC32C").answer, "None");
  EXPECT_FALSE(settle_one("DataDigest", "None,CRC32C").parameters.DataDigest);
  EXPECT_EQ(settle_one("DataDigest", "X-vendor,CRC32C").answer, "CRC32C");
  EXPECT_EQ(settle_one("DataDigest", "MD5").outcome, NegotiationOutcome::kIllegal);
}

// RFC 7143 section 13: OR and AND of what the two sides want, minimum or maximum of numbers.
TEST(Negotiation, BooleanFunctions) {
  EXPECT_EQ(settle_one("InitialR2T", "Yes").answer, "Yes");
  EXPECT_EQ(settle_one("InitialR2T", "No").answer, "No");
  EXPECT_FALSE(settle_one("InitialR2T", "No").parameters.InitialR2T);
  EXPECT_EQ(settle_one("ImmediateData", "Yes").answer, "Yes");
  EXPECT_EQ(settle_one("ImmediateData", "No").answer, "No");
  EXPECT_FALSE(settle_one("ImmediateData", "No").parameters.ImmediateData);
  EXPECT_EQ(settle_one("DataPDUInOrder", "No").answer, "Yes");
  EXPECT_EQ(settle_one("DataSequenceInOrder", "No").answer, "Yes");
  EXPECT_EQ(settle_one("InitialR2T", "yes").outcome, NegotiationOutcome::kIllegal);
  EXPECT_EQ(settle_one("ImmediateData", "").outcome, NegotiationOutcome::kIllegal);
}

TEST(Negotiation, NumbersForEveryOffer) {
  for (std::uint32_t offer : {512u, 513u, 8'192u, 65'536u, 262'144u, 1'048'576u, 16'777'215u}) {
    std::string text = std::to_string(offer);
    EXPECT_EQ(settle_one("MaxBurstLength", text).parameters.MaxBurstLength, std::min(offer, kMaxBurstLength));
    EXPECT_EQ(settle_one("MaxBurstLength", text).answer, std::to_string(std::min(offer, kMaxBurstLength)));
    EXPECT_EQ(settle_one("FirstBurstLength", text).parameters.FirstBurstLength, std::min(offer, kFirstBurstLength));
    Settled declared = settle_one("MaxRecvDataSegmentLength", text);
    EXPECT_EQ(declared.parameters.MaxRecvDataSegmentLength, offer);
    EXPECT_EQ(declared.answer, "") << "declared, not negotiated";
  }
  for (const char* key : {"MaxBurstLength", "FirstBurstLength", "MaxRecvDataSegmentLength"}) {
    for (const char* wrong : {"0", "511", "16777216", "-1", "x", ""}) {
      Settled settled = settle_one(key, wrong);
      EXPECT_EQ(settled.outcome, NegotiationOutcome::kIllegal) << key << "=" << wrong;
      EXPECT_EQ(settled.answer, "Reject");
      EXPECT_EQ(settled.parameters.MaxBurstLength, SessionParameters{}.MaxBurstLength);
    }
  }
  EXPECT_EQ(settle_one("MaxOutstandingR2T", "65535").parameters.MaxOutstandingR2T, kMaxOutstandingR2T);
  EXPECT_EQ(settle_one("MaxOutstandingR2T", "1").parameters.MaxOutstandingR2T, 1u);
  EXPECT_EQ(settle_one("MaxOutstandingR2T", "0").outcome, NegotiationOutcome::kIllegal);
}

TEST(Negotiation, WhatIsNotOfferedIsAnsweredSo) {
  for (const char* level : {"0", "1", "2"}) EXPECT_EQ(settle_one("ErrorRecoveryLevel", level).answer, "0");
  EXPECT_EQ(settle_one("ErrorRecoveryLevel", "3").outcome, NegotiationOutcome::kIllegal);
  EXPECT_EQ(settle_one("MaxConnections", "8").answer, "1");
  EXPECT_EQ(settle_one("DefaultTime2Wait", "2").answer, "2");
  EXPECT_EQ(settle_one("DefaultTime2Retain", "20").answer, "0");
  EXPECT_EQ(settle_one("iSCSIProtocolLevel", "2").answer, "1");
  EXPECT_EQ(settle_one("TaskReporting", "FastAbort,RFC3720").answer, "RFC3720");
  EXPECT_EQ(settle_one("OFMarker", "Yes").answer, "No");
  EXPECT_EQ(settle_one("OFMarkInt", "1~2").answer, "Irrelevant");
  EXPECT_EQ(settle_one("X-com.example.Key", "1").outcome, NegotiationOutcome::kNotMine);
}

TEST(Negotiation, FirstBurstNeverExceedsMaxBurst) {
  SessionParameters parameters;
  std::string answer;
  negotiate("MaxBurstLength", "4096", parameters, answer);
  settle(parameters);
  EXPECT_EQ(parameters.FirstBurstLength, 4'096u);
}

}  // namespace
}  // namespace holdfast::iscsi
