// Data between initiator and device, over every combination of negotiated parameters and ways to send it.
#include <gtest/gtest.h>

#include "iscsi/negotiation.h"
#include "iscsi/scsi/logical_unit.h"
#include "iscsi/testing/fixture.h"

namespace holdfast::iscsi {
namespace {

using testing::cdb10;
using testing::CommandOptions;
using testing::pattern;
using testing::RawInitiator;
using testing::read16;
using testing::write16;
using Keys = RawInitiator::Keys;

class TransferTest : public testing::TargetTest {
 protected:
  // Writes `size` bytes at `lba` as `options` say, checks the device, and reads them back over the wire.
  void check_round_trip(RawInitiator& host, std::uint64_t lba, std::size_t size, CommandOptions options,
                        std::uint64_t seed) {
    options.write = pattern(size, seed);
    auto blocks = static_cast<std::uint32_t>(size / 512);
    auto written = host.run(write16(lba, blocks), options);
    ASSERT_TRUE(written) << "the write was not answered";
    EXPECT_EQ(written->status, 0);
    EXPECT_EQ(written->residual_flags, 0);
    EXPECT_EQ(on_device(lba * 512, size), options.write);
    auto read = host.run(read16(lba, blocks), {.read = static_cast<std::uint32_t>(size)});
    ASSERT_TRUE(read) << "the read was not answered";
    EXPECT_EQ(read->status, 0);
    EXPECT_TRUE(read->collapsed);
    EXPECT_EQ(read->data, options.write);
  }
};

struct Lengths {
  std::uint32_t max_burst, first_burst, max_receive;
};

// All combinations of digests, ImmediateData, InitialR2T, MaxOutstandingR2T, ErrorRecoveryLevel and burst lengths; each
// with no, some and all data sent before the first R2T, in small and in large PDUs, for sizes around every boundary.
TEST_F(TransferTest, EveryCombinationOfParameters) {
  constexpr Lengths kLengths[] = {
      {512, 512, 512}, {1024, 512, 8192}, {4096, 65'536, 1000}, {65'536, 4096, 4096}, {262'144, 65'536, 16'777'215}};
  std::uint64_t seed = 0;
  for (const Lengths& lengths : kLengths) {
    for (unsigned bits = 0; bits < 64; ++bits) {
      bool header = bits & 1, data = bits & 2, immediate = bits & 4, initial_r2t = bits & 8;
      RawInitiator& host = session({{"HeaderDigest", header ? "CRC32C" : "None"},
                                    {"DataDigest", data ? "CRC32C" : "None"},
                                    {"ImmediateData", immediate ? "Yes" : "No"},
                                    {"InitialR2T", initial_r2t ? "Yes" : "No"},
                                    {"MaxOutstandingR2T", bits & 16 ? "4" : "1"},
                                    {"ErrorRecoveryLevel", bits & 32 ? "2" : "0"},
                                    {"MaxBurstLength", std::to_string(lengths.max_burst)},
                                    {"FirstBurstLength", std::to_string(lengths.first_burst)},
                                    {"MaxRecvDataSegmentLength", std::to_string(lengths.max_receive)}});
      EXPECT_EQ(host.header_digest, header);
      EXPECT_EQ(host.immediate_data, immediate);
      EXPECT_EQ(host.initial_r2t, initial_r2t);
      EXPECT_EQ(host.answers["ErrorRecoveryLevel"], "0");
      for (std::size_t size : {512u, 1024u, 4608u, 66'048u}) {
        std::size_t first = std::min<std::size_t>(size, host.first_burst);
        for (int way = 0; way < 4; ++way) {
          CommandOptions options;
          if (immediate && way & 1) options.immediate = way == 1 ? first : first / 2;
          if (!initial_r2t && way & 2) options.unsolicited = first - options.immediate;
          options.pdu_bytes = way == 3 ? 300 : 1u << 20;
          check_round_trip(host, seed % 100, size, options, seed);
          ++seed;
        }
      }
      ASSERT_EQ(host.problem, "") << "bits " << bits;
      ASSERT_FALSE(HasFailure()) << "bits " << bits << ", MaxBurstLength " << lengths.max_burst;
    }
  }
}

// Bytes arrive in pieces of any size.
TEST_F(TransferTest, AnyFragmentation) {
  for (std::size_t chunk : {1u, 3u, 47u, 48u, 49u, 1000u}) {
    env.chunk_bytes = chunk;
    RawInitiator& host = session({{"HeaderDigest", "CRC32C"}, {"DataDigest", "CRC32C"}, {"InitialR2T", "No"}});
    check_round_trip(host, 3, 5 * 512, {.immediate = 700, .unsolicited = 900, .pdu_bytes = 333}, chunk);
  }
}

TEST_F(TransferTest, LargestTransfer) {
  RawInitiator& host =
      session({{"MaxBurstLength", "16776192"}, {"MaxRecvDataSegmentLength", "16776192"}, {"MaxOutstandingR2T", "8"}});
  check_round_trip(host, 0, scsi::kTransferBytesMax, {.immediate = 65'536}, 1);
  auto beyond = host.run(read16(0, scsi::kTransferBytesMax / 512 + 1), {.read = 8'388'608 + 512});
  ASSERT_TRUE(beyond);
  EXPECT_EQ(beyond->status, 2);
  EXPECT_EQ(beyond->sense_code(), 0x2400);
}

// The initiator stops in the middle of FirstBurstLength; the rest is asked for.
TEST_F(TransferTest, LessUnsolicitedDataThanAllowed) {
  RawInitiator& host = session({{"InitialR2T", "No"}});
  check_round_trip(host, 0, 8192, {.unsolicited = 512}, 1);
  EXPECT_EQ(host.r2ts.size(), 1u);
  EXPECT_EQ(host.r2ts[0].BufferOffset, 512u);
}

TEST_F(TransferTest, SeveralR2tsAtOnce) {
  RawInitiator& host = session({{"MaxBurstLength", "512"}, {"MaxOutstandingR2T", "3"}});
  std::string data = pattern(2560, 5);
  std::uint32_t tag = host.command(write16(0, 5), {.write = data, .answer_r2t = false});
  host.settle();
  ASSERT_EQ(host.r2ts.size(), 3u);
  for (std::size_t i = 0; i < 5; ++i) {
    ASSERT_GT(host.r2ts.size(), i);
    EXPECT_EQ(host.r2ts[i].R2TSN, i);
    host.send_data(tag, host.r2ts[i].TargetTransferTag, data, host.r2ts[i].BufferOffset, 512, 512);
    host.settle();
  }
  EXPECT_EQ(host.r2ts.size(), 5u);
  auto ended = host.outcome(tag);
  ASSERT_TRUE(ended);
  EXPECT_EQ(ended->status, 0);
  EXPECT_EQ(on_device(0, 2560), data);
}

TEST_F(TransferTest, Residuals) {
  RawInitiator& host = session();
  auto over = host.run(read16(0, 4), {.read = 1024});
  EXPECT_EQ(over->data.size(), 1024u);
  EXPECT_EQ(over->residual_flags, kOverflowBit);
  EXPECT_EQ(over->residual, 1024u);
  auto under = host.run(read16(0, 1), {.read = 4096});
  EXPECT_EQ(under->data.size(), 512u);
  EXPECT_EQ(under->residual_flags, kUnderflowBit);
  EXPECT_EQ(under->residual, 3584u);
  auto write_under = host.run(write16(0, 1), {.write = pattern(2048, 1)});
  EXPECT_EQ(write_under->residual_flags, kUnderflowBit);
  EXPECT_EQ(write_under->residual, 1536u);
  EXPECT_EQ(on_device(0, 1024), pattern(2048, 1).substr(0, 512) + std::string(512, '\0'));
  auto write_over = host.run(write16(8, 4), {.write = pattern(1024, 2)});
  EXPECT_EQ(write_over->residual_flags, kOverflowBit);
  EXPECT_EQ(write_over->residual, 1024u);
  EXPECT_EQ(on_device(4096, 1536), pattern(1024, 2) + std::string(512, '\0'));
  auto nothing = host.run(read16(0, 1), {});
  EXPECT_EQ(nothing->residual_flags, kOverflowBit);
  EXPECT_EQ(nothing->residual, 512u);
  auto failed = host.run(read16(1u << 20, 1), {.read = 512});
  EXPECT_EQ(failed->sense_code(), 0x2100);
  EXPECT_EQ(failed->residual_flags, kUnderflowBit);
  EXPECT_EQ(failed->residual, 512u);
}

// A write that is announced as a read brings no data: GOOD would say that it was written.
TEST_F(TransferTest, AWriteAnnouncedAsARead) {
  RawInitiator& host = session();
  auto ended = host.run(write16(0, 1), {.read = 512});
  ASSERT_TRUE(ended);
  EXPECT_EQ(ended->status, 2);
  EXPECT_EQ(ended->sense_key(), 5);
  EXPECT_EQ(ended->sense_code(), 0x0e03);
  EXPECT_EQ(ended->residual_flags, kUnderflowBit);
  EXPECT_EQ(ended->residual, 512u);
}

// Without R and W nothing is transferred; a residual of zero would say that everything was.
TEST_F(TransferTest, ALengthWithoutADirection) {
  RawInitiator& host = session();
  auto run = [&](const testing::Cdb& cdb) {
    ScsiCommand pdu;
    pdu.opcode = static_cast<std::uint8_t>(Opcode::kScsiCommand);
    pdu.flags = kFinalBit | 1;
    pdu.InitiatorTaskTag = 1000 + host.cmd_sn;
    pdu.ExpectedDataTransferLength = 512;
    pdu.CmdSN = host.cmd_sn++;
    std::copy(cdb.begin(), cdb.end(), pdu.CDB);
    host.send(pdu);
    return host.outcome(pdu.InitiatorTaskTag);
  };
  for (const auto& cdb : {read16(0, 1), write16(0, 1)}) {
    auto ended = run(cdb);
    ASSERT_TRUE(ended);
    EXPECT_EQ(ended->residual_flags, kOverflowBit);
    EXPECT_EQ(ended->residual, 512u);
    EXPECT_EQ(ended->data, "");
  }
  auto reserve = run({0x16});
  EXPECT_EQ(reserve->status, 0) << "some hosts send RESERVE(6) so";
  EXPECT_EQ(reserve->residual_flags, 0);
}

// A part of a block that was written would leave the block torn.
TEST_F(TransferTest, APartOfABlockIsNotWritten) {
  RawInitiator& host = session();
  auto ended = host.run(write16(0, 1), {.write = pattern(500, 1)});
  EXPECT_EQ(ended->status, 2);
  EXPECT_EQ(ended->sense_key(), 5);
  EXPECT_EQ(on_device(0, 512), std::string(512, '\0'));
}

TEST_F(TransferTest, ReadAndWriteAtOnceIsRefused) {
  RawInitiator& host = session();
  auto ended = host.run(write16(0, 1), {.read = 512, .write = pattern(512, 1), .immediate = 512});
  EXPECT_EQ(ended->status, 2);
  EXPECT_EQ(on_device(0, 512), std::string(512, '\0'));
}

// ---- Data-Out that breaks the rules: the task fails or the data is ignored; the session and the device are unharmed.

class DataOutErrors : public TransferTest {
 protected:
  // Opens a write of four blocks by R2Ts of 1024 bytes.
  std::uint32_t open(RawInitiator& host, const std::string& all) {
    std::uint32_t tag = host.command(write16(0, 4), {.write = all, .answer_r2t = false});
    host.settle();
    return tag;
  }
  void expect_aborted(RawInitiator& host, std::uint32_t tag) {
    auto ended = host.outcome(tag);
    ASSERT_TRUE(ended);
    EXPECT_EQ(ended->status, 2);
    EXPECT_EQ(ended->sense_key(), 0xb) << "ABORTED COMMAND";
    EXPECT_EQ(on_device(0, 2048), std::string(2048, '\0'));
    EXPECT_EQ(host.run(read16(0, 1), {.read = 512})->status, 0) << "the session goes on";
  }
  const std::string data = pattern(2048, 9);
  const Keys keys{{"MaxBurstLength", "1024"}, {"InitialR2T", "No"}};
};

TEST_F(DataOutErrors, DataSnOutOfOrder) {
  RawInitiator& host = session(keys);
  std::uint32_t tag = open(host, data);
  host.send(RawInitiator::data_out(tag, host.r2ts.at(0).TargetTransferTag, 1, 0, true), data.substr(0, 1024));
  expect_aborted(host, tag);
}

TEST_F(DataOutErrors, BufferOffsetOutOfOrder) {
  RawInitiator& host = session(keys);
  std::uint32_t tag = open(host, data);
  host.send(RawInitiator::data_out(tag, host.r2ts.at(0).TargetTransferTag, 0, 512, true), data.substr(512, 512));
  expect_aborted(host, tag);
}

TEST_F(DataOutErrors, APduTwice) {
  RawInitiator& host = session(keys);
  std::uint32_t tag = open(host, data);
  auto pdu = RawInitiator::data_out(tag, host.r2ts.at(0).TargetTransferTag, 0, 0, false);
  host.send(pdu, data.substr(0, 512));
  host.send(pdu, data.substr(0, 512));
  expect_aborted(host, tag);
}

TEST_F(DataOutErrors, MoreThanWasAskedFor) {
  RawInitiator& host = session(keys);
  std::uint32_t tag = open(host, data);
  host.send(RawInitiator::data_out(tag, host.r2ts.at(0).TargetTransferTag, 0, 0, true), data.substr(0, 1536));
  expect_aborted(host, tag);
}

TEST_F(DataOutErrors, LessThanWasAskedFor) {
  RawInitiator& host = session(keys);
  std::uint32_t tag = open(host, data);
  host.send(RawInitiator::data_out(tag, host.r2ts.at(0).TargetTransferTag, 0, 0, true), data.substr(0, 512));
  expect_aborted(host, tag);
}

TEST_F(DataOutErrors, AnotherTransferTag) {
  RawInitiator& host = session(keys);
  std::uint32_t tag = open(host, data);
  host.send(RawInitiator::data_out(tag, host.r2ts.at(0).TargetTransferTag + 5, 0, 0, true), data.substr(0, 1024));
  expect_aborted(host, tag);
}

TEST_F(DataOutErrors, UnsolicitedDataThatNobodyAnnounced) {
  RawInitiator& host = session(keys);
  std::uint32_t tag = open(host, data);
  host.send(RawInitiator::data_out(tag, kReservedTag, 0, 0, true), data.substr(0, 1024));
  expect_aborted(host, tag);
}

TEST_F(DataOutErrors, UnsolicitedBeyondFirstBurst) {
  RawInitiator& host = session({{"FirstBurstLength", "1024"}, {"InitialR2T", "No"}});
  std::uint32_t tag = host.command(write16(0, 4), {.write = data, .unsolicited = 1536, .answer_r2t = false});
  expect_aborted(host, tag);
}

TEST_F(DataOutErrors, DataForNoTaskIsIgnored) {
  RawInitiator& host = session(keys);
  host.send(RawInitiator::data_out(4711, 1, 0, 0, true), data);
  EXPECT_EQ(host.run(read16(0, 1), {.read = 512})->status, 0);
}

// A command that fails at once while its unsolicited data is still on the way.
TEST_F(DataOutErrors, DataOfACommandThatFailedIsThrownAway) {
  RawInitiator& host = session(keys);
  auto ended = host.run(write16(1u << 30, 4), {.write = data, .immediate = 512, .unsolicited = 512});
  ASSERT_TRUE(ended);
  EXPECT_EQ(ended->sense_code(), 0x2100);
  EXPECT_EQ(host.run(read16(0, 1), {.read = 512})->status, 0);
}

TEST_F(DataOutErrors, ADataDigest) {
  Keys digests = keys;
  digests.emplace_back("DataDigest", "CRC32C");
  RawInitiator& host = session(digests);
  std::uint32_t tag = open(host, data);
  host.send(RawInitiator::data_out(tag, host.r2ts.at(0).TargetTransferTag, 0, 0, true), data.substr(0, 1024),
            testing::Damage::kDataDigest);
  auto reject = host.next();
  ASSERT_TRUE(reject && reject->code() == Opcode::kReject);
  EXPECT_EQ(reject->as<Reject>().Reason, static_cast<std::uint8_t>(RejectReason::kDataDigestError));
  expect_aborted(host, tag);
}

// ---- commands whose shape breaks the rules

class CommandErrors : public TransferTest {
 protected:
  void expect_rejected(RawInitiator& host) {
    auto reject = host.next();
    ASSERT_TRUE(reject && reject->code() == Opcode::kReject);
    EXPECT_EQ(reject->as<Reject>().Reason, static_cast<std::uint8_t>(RejectReason::kProtocolError));
    EXPECT_EQ(reject->data.size(), kHeaderBytes) << "the header in question";
    EXPECT_TRUE(host.closed);
    EXPECT_EQ(on_device(0, 4096), std::string(4096, '\0'));
    session();  // the target is well
  }
};

TEST_F(CommandErrors, ImmediateDataThatWasNotAgreed) {
  RawInitiator& host = session({{"ImmediateData", "No"}});
  host.command(write16(0, 1), {.write = pattern(512, 1), .immediate = 512});
  expect_rejected(host);
}
TEST_F(CommandErrors, ImmediateDataBeyondFirstBurst) {
  RawInitiator& host = session({{"FirstBurstLength", "512"}});
  host.command(write16(0, 2), {.write = pattern(1024, 1), .immediate = 1024});
  expect_rejected(host);
}
TEST_F(CommandErrors, ImmediateDataBeyondTheTransfer) {
  RawInitiator& host = session();
  host.command(write16(0, 1), {.write = pattern(1024, 1), .immediate = 1024, .expected = 512});
  expect_rejected(host);
}
TEST_F(CommandErrors, UnsolicitedDataThatWasNotAgreed) {
  RawInitiator& host = session();
  host.command(write16(0, 1), {.write = pattern(512, 1), .unsolicited = 512});
  expect_rejected(host);
}
TEST_F(CommandErrors, ASegmentLongerThanDeclared) {
  RawInitiator& host = session();
  host.ping(std::string(kMaxRecvDataSegmentLength + 4, 'x'));
  expect_rejected(host);
}

TEST_F(CommandErrors, AHeaderDigestEndsTheConnection) {
  RawInitiator& host = session({{"HeaderDigest", "CRC32C"}});
  ScsiCommand pdu;
  pdu.opcode = static_cast<std::uint8_t>(Opcode::kScsiCommand);
  pdu.flags = kFinalBit;
  pdu.CmdSN = host.cmd_sn;
  host.send(pdu, {}, testing::Damage::kHeaderDigest);
  host.settle();
  EXPECT_TRUE(host.closed);
  EXPECT_TRUE(host.inbox.empty()) << "nothing of such a header can be trusted";
}

TEST_F(CommandErrors, ADataDigestOfImmediateData) {
  RawInitiator& host = session({{"DataDigest", "CRC32C"}});
  ScsiCommand pdu;
  pdu.opcode = static_cast<std::uint8_t>(Opcode::kScsiCommand);
  pdu.flags = kFinalBit | ScsiCommand::kWrite;
  pdu.ExpectedDataTransferLength = 512;
  pdu.CmdSN = host.cmd_sn;
  pdu.CDB[0] = 0x8a;
  pdu.CDB[13] = 1;
  host.send(pdu, pattern(512, 1), testing::Damage::kDataDigest);
  auto reject = host.next();
  ASSERT_TRUE(reject && reject->code() == Opcode::kReject);
  EXPECT_EQ(reject->as<Reject>().Reason, static_cast<std::uint8_t>(RejectReason::kDataDigestError));
  EXPECT_TRUE(host.closed);
  EXPECT_EQ(on_device(0, 512), std::string(512, '\0'));
}

}  // namespace
}  // namespace holdfast::iscsi
