// iSCSI protocol data units as they are on the wire (RFC 7143 chapter 11). Field names keep the RFC's spelling.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "iscsi/scsi/big_endian.h"

namespace holdfast::iscsi {

inline constexpr std::size_t kHeaderBytes = 48;
inline constexpr std::size_t kDigestBytes = 4;
inline constexpr std::uint32_t kReservedTag = 0xffff'ffff;

enum class Opcode : std::uint8_t {
  kNopOut = 0x00,
  kScsiCommand = 0x01,
  kTaskManagementRequest = 0x02,
  kLoginRequest = 0x03,
  kTextRequest = 0x04,
  kDataOut = 0x05,
  kLogoutRequest = 0x06,
  kSnackRequest = 0x10,
  kNopIn = 0x20,
  kScsiResponse = 0x21,
  kTaskManagementResponse = 0x22,
  kLoginResponse = 0x23,
  kTextResponse = 0x24,
  kDataIn = 0x25,
  kLogoutResponse = 0x26,
  kR2t = 0x31,
  kAsyncMessage = 0x32,
  kReject = 0x3f,
};

inline constexpr std::uint8_t kImmediateBit = 0x40;  // of the first byte of a request
inline constexpr std::uint8_t kOpcodeMask = 0x3f;
inline constexpr std::uint8_t kFinalBit = 0x80;     // of the flags
inline constexpr std::uint8_t kContinueBit = 0x40;  // of Text and Login

// What every basic header segment has in common.
struct Header {
  std::uint8_t opcode = 0;
  std::uint8_t flags = 0;
  std::uint8_t specific[2] = {};
  std::uint8_t TotalAHSLength = 0;  // in words of four bytes
  Be24 DataSegmentLength;
  Be64 LUN;
  Be32 InitiatorTaskTag;
  std::uint8_t rest[28] = {};

  Opcode code() const { return static_cast<Opcode>(opcode & kOpcodeMask); }
  bool immediate() const { return opcode & kImmediateBit; }
  bool final() const { return flags & kFinalBit; }

  template <typename T>
  const T& as() const {
    static_assert(sizeof(T) == kHeaderBytes && alignof(T) == 1 && std::is_trivially_copyable_v<T>);
    return *reinterpret_cast<const T*>(this);
  }
};

// Fields that requests share at bytes 24 to 31.
struct Sequenced {
  std::uint8_t before[24] = {};
  Be32 CmdSN;
  Be32 ExpStatSN;
  std::uint8_t after[16] = {};
};

struct ScsiCommand {
  std::uint8_t opcode = 0;
  std::uint8_t flags = 0;  // F, R, W, ATTR
  std::uint8_t reserved[2] = {};
  std::uint8_t TotalAHSLength = 0;
  Be24 DataSegmentLength;
  Be64 LUN;
  Be32 InitiatorTaskTag;
  Be32 ExpectedDataTransferLength;
  Be32 CmdSN;
  Be32 ExpStatSN;
  std::uint8_t CDB[16] = {};

  static constexpr std::uint8_t kRead = 0x40, kWrite = 0x20, kAttributeMask = 0x07;
};

struct ScsiResponse {
  std::uint8_t opcode = static_cast<std::uint8_t>(Opcode::kScsiResponse);
  std::uint8_t flags = kFinalBit;
  std::uint8_t Response = 0;
  std::uint8_t Status = 0;
  std::uint8_t TotalAHSLength = 0;
  Be24 DataSegmentLength;
  Be64 reserved;
  Be32 InitiatorTaskTag;
  Be32 SNACKTag;
  Be32 StatSN;
  Be32 ExpCmdSN;
  Be32 MaxCmdSN;
  Be32 ExpDataSN;
  Be32 BidirectionalReadResidualCount;
  Be32 ResidualCount;
};

inline constexpr std::uint8_t kOverflowBit = 0x04;
inline constexpr std::uint8_t kUnderflowBit = 0x02;

struct TaskManagementRequest {
  std::uint8_t opcode = 0;
  std::uint8_t function = 0;  // with bit 7 set
  std::uint8_t reserved[2] = {};
  std::uint8_t TotalAHSLength = 0;
  Be24 DataSegmentLength;
  Be64 LUN;
  Be32 InitiatorTaskTag;
  Be32 ReferencedTaskTag;
  Be32 CmdSN;
  Be32 ExpStatSN;
  Be32 RefCmdSN;
  Be32 ExpDataSN;
  std::uint8_t reserved2[8] = {};
};

enum class TaskFunction : std::uint8_t {
  kAbortTask = 1,
  kAbortTaskSet = 2,
  kClearAca = 3,
  kClearTaskSet = 4,
  kLogicalUnitReset = 5,
  kTargetWarmReset = 6,
  kTargetColdReset = 7,
  kTaskReassign = 8,
};

enum class TaskResponse : std::uint8_t {
  kComplete = 0,
  kNoSuchTask = 1,
  kNoSuchLun = 2,
  kReassignNotSupported = 4,
  kNotSupported = 5,
  kRejected = 255,
};

struct TaskManagementResponse {
  std::uint8_t opcode = static_cast<std::uint8_t>(Opcode::kTaskManagementResponse);
  std::uint8_t flags = kFinalBit;
  std::uint8_t Response = 0;
  std::uint8_t reserved = 0;
  std::uint8_t TotalAHSLength = 0;
  Be24 DataSegmentLength;
  Be64 reserved2;
  Be32 InitiatorTaskTag;
  Be32 reserved3;
  Be32 StatSN;
  Be32 ExpCmdSN;
  Be32 MaxCmdSN;
  std::uint8_t reserved4[12] = {};
};

struct DataOut {
  std::uint8_t opcode = 0;
  std::uint8_t flags = 0;
  std::uint8_t reserved[2] = {};
  std::uint8_t TotalAHSLength = 0;
  Be24 DataSegmentLength;
  Be64 LUN;
  Be32 InitiatorTaskTag;
  Be32 TargetTransferTag;
  Be32 reserved2;
  Be32 ExpStatSN;
  Be32 reserved3;
  Be32 DataSN;
  Be32 BufferOffset;
  Be32 reserved4;
};

struct DataIn {
  std::uint8_t opcode = static_cast<std::uint8_t>(Opcode::kDataIn);
  std::uint8_t flags = 0;  // F, A, O, U, S
  std::uint8_t reserved = 0;
  std::uint8_t Status = 0;
  std::uint8_t TotalAHSLength = 0;
  Be24 DataSegmentLength;
  Be64 LUN;
  Be32 InitiatorTaskTag;
  Be32 TargetTransferTag = kReservedTag;
  Be32 StatSN;
  Be32 ExpCmdSN;
  Be32 MaxCmdSN;
  Be32 DataSN;
  Be32 BufferOffset;
  Be32 ResidualCount;

  static constexpr std::uint8_t kStatusBit = 0x01;
};

struct R2t {
  std::uint8_t opcode = static_cast<std::uint8_t>(Opcode::kR2t);
  std::uint8_t flags = kFinalBit;
  std::uint8_t reserved[2] = {};
  std::uint8_t TotalAHSLength = 0;
  Be24 DataSegmentLength;
  Be64 LUN;
  Be32 InitiatorTaskTag;
  Be32 TargetTransferTag;
  Be32 StatSN;
  Be32 ExpCmdSN;
  Be32 MaxCmdSN;
  Be32 R2TSN;
  Be32 BufferOffset;
  Be32 DesiredDataTransferLength;
};

enum class AsyncEvent : std::uint8_t {
  kScsi = 0,
  kLogoutRequest = 1,
  kConnectionDrop = 2,
  kSessionDrop = 3,
};

struct AsyncMessage {
  std::uint8_t opcode = static_cast<std::uint8_t>(Opcode::kAsyncMessage);
  std::uint8_t flags = kFinalBit;
  std::uint8_t reserved[2] = {};
  std::uint8_t TotalAHSLength = 0;
  Be24 DataSegmentLength;
  Be64 LUN;
  Be32 reserved2 = kReservedTag;
  Be32 reserved3;
  Be32 StatSN;
  Be32 ExpCmdSN;
  Be32 MaxCmdSN;
  std::uint8_t AsyncEvent = 0;
  std::uint8_t AsyncVCode = 0;
  Be16 Parameter1;
  Be16 Parameter2;
  Be16 Parameter3;
  Be32 reserved4;
};

struct TextRequest {
  std::uint8_t opcode = 0;
  std::uint8_t flags = 0;
  std::uint8_t reserved[2] = {};
  std::uint8_t TotalAHSLength = 0;
  Be24 DataSegmentLength;
  Be64 LUN;
  Be32 InitiatorTaskTag;
  Be32 TargetTransferTag;
  Be32 CmdSN;
  Be32 ExpStatSN;
  std::uint8_t reserved2[16] = {};
};

struct TextResponse {
  std::uint8_t opcode = static_cast<std::uint8_t>(Opcode::kTextResponse);
  std::uint8_t flags = 0;
  std::uint8_t reserved[2] = {};
  std::uint8_t TotalAHSLength = 0;
  Be24 DataSegmentLength;
  Be64 LUN;
  Be32 InitiatorTaskTag;
  Be32 TargetTransferTag = kReservedTag;
  Be32 StatSN;
  Be32 ExpCmdSN;
  Be32 MaxCmdSN;
  std::uint8_t reserved2[12] = {};
};

using Isid = std::array<std::uint8_t, 6>;

struct LoginRequest {
  std::uint8_t opcode = 0;
  std::uint8_t flags = 0;  // T, C, CSG, NSG
  std::uint8_t VersionMax = 0;
  std::uint8_t VersionMin = 0;
  std::uint8_t TotalAHSLength = 0;
  Be24 DataSegmentLength;
  Isid ISID = {};
  Be16 TSIH;
  Be32 InitiatorTaskTag;
  Be16 CID;
  Be16 reserved;
  Be32 CmdSN;
  Be32 ExpStatSN;
  std::uint8_t reserved2[16] = {};
};

struct LoginResponse {
  std::uint8_t opcode = static_cast<std::uint8_t>(Opcode::kLoginResponse);
  std::uint8_t flags = 0;
  std::uint8_t VersionMax = 0;
  std::uint8_t VersionActive = 0;
  std::uint8_t TotalAHSLength = 0;
  Be24 DataSegmentLength;
  Isid ISID = {};
  Be16 TSIH;
  Be32 InitiatorTaskTag;
  Be32 reserved;
  Be32 StatSN;
  Be32 ExpCmdSN;
  Be32 MaxCmdSN;
  std::uint8_t StatusClass = 0;
  std::uint8_t StatusDetail = 0;
  std::uint8_t reserved2[10] = {};
};

struct LogoutRequest {
  std::uint8_t opcode = 0;
  std::uint8_t reason = 0;  // with bit 7 set
  std::uint8_t reserved[2] = {};
  std::uint8_t TotalAHSLength = 0;
  Be24 DataSegmentLength;
  Be64 reserved2;
  Be32 InitiatorTaskTag;
  Be16 CID;
  Be16 reserved3;
  Be32 CmdSN;
  Be32 ExpStatSN;
  std::uint8_t reserved4[16] = {};
};

struct LogoutResponse {
  std::uint8_t opcode = static_cast<std::uint8_t>(Opcode::kLogoutResponse);
  std::uint8_t flags = kFinalBit;
  std::uint8_t Response = 0;
  std::uint8_t reserved = 0;
  std::uint8_t TotalAHSLength = 0;
  Be24 DataSegmentLength;
  Be64 reserved2;
  Be32 InitiatorTaskTag;
  Be32 reserved3;
  Be32 StatSN;
  Be32 ExpCmdSN;
  Be32 MaxCmdSN;
  Be32 reserved4;
  Be16 Time2Wait;
  Be16 Time2Retain;
  Be32 reserved5;
};

enum class RejectReason : std::uint8_t {
  kDataDigestError = 0x02,
  kSnackReject = 0x03,
  kProtocolError = 0x04,
  kCommandNotSupported = 0x05,
  kTooManyImmediateCommands = 0x06,
  kTaskInProgress = 0x07,
  kInvalidPduField = 0x09,
};

struct Reject {
  std::uint8_t opcode = static_cast<std::uint8_t>(Opcode::kReject);
  std::uint8_t flags = kFinalBit;
  std::uint8_t Reason = 0;
  std::uint8_t reserved = 0;
  std::uint8_t TotalAHSLength = 0;
  Be24 DataSegmentLength;
  Be64 reserved2;
  Be32 reserved3 = kReservedTag;
  Be32 reserved4;
  Be32 StatSN;
  Be32 ExpCmdSN;
  Be32 MaxCmdSN;
  Be32 DataSN;
  std::uint8_t reserved5[8] = {};
};

struct NopOut {
  std::uint8_t opcode = 0;
  std::uint8_t flags = 0;
  std::uint8_t reserved[2] = {};
  std::uint8_t TotalAHSLength = 0;
  Be24 DataSegmentLength;
  Be64 LUN;
  Be32 InitiatorTaskTag;
  Be32 TargetTransferTag;
  Be32 CmdSN;
  Be32 ExpStatSN;
  std::uint8_t reserved2[16] = {};
};

struct NopIn {
  std::uint8_t opcode = static_cast<std::uint8_t>(Opcode::kNopIn);
  std::uint8_t flags = kFinalBit;
  std::uint8_t reserved[2] = {};
  std::uint8_t TotalAHSLength = 0;
  Be24 DataSegmentLength;
  Be64 LUN;
  Be32 InitiatorTaskTag = kReservedTag;
  Be32 TargetTransferTag = kReservedTag;
  Be32 StatSN;
  Be32 ExpCmdSN;
  Be32 MaxCmdSN;
  std::uint8_t reserved2[12] = {};
};

#define HOLDFAST_PDU(T, field, at) \
  static_assert(sizeof(T) == kHeaderBytes && alignof(T) == 1 && offsetof(T, field) == (at))
HOLDFAST_PDU(Header, InitiatorTaskTag, 16);
HOLDFAST_PDU(Sequenced, CmdSN, 24);
HOLDFAST_PDU(ScsiCommand, CDB, 32);
HOLDFAST_PDU(ScsiResponse, ResidualCount, 44);
HOLDFAST_PDU(TaskManagementRequest, RefCmdSN, 32);
HOLDFAST_PDU(TaskManagementResponse, StatSN, 24);
HOLDFAST_PDU(DataOut, BufferOffset, 40);
HOLDFAST_PDU(DataIn, ResidualCount, 44);
HOLDFAST_PDU(R2t, DesiredDataTransferLength, 44);
HOLDFAST_PDU(AsyncMessage, Parameter3, 42);
HOLDFAST_PDU(TextRequest, CmdSN, 24);
HOLDFAST_PDU(TextResponse, StatSN, 24);
HOLDFAST_PDU(LoginRequest, CmdSN, 24);
HOLDFAST_PDU(LoginResponse, StatusClass, 36);
HOLDFAST_PDU(LogoutRequest, CID, 20);
HOLDFAST_PDU(LogoutResponse, Time2Wait, 40);
HOLDFAST_PDU(Reject, DataSN, 36);
HOLDFAST_PDU(NopOut, TargetTransferTag, 20);
HOLDFAST_PDU(NopIn, StatSN, 24);
#undef HOLDFAST_PDU

// Serial number arithmetic (RFC 1982), as CmdSN and StatSN use it.
constexpr bool serial_less(std::uint32_t left, std::uint32_t right) {
  return static_cast<std::int32_t>(left - right) < 0;
}

}  // namespace holdfast::iscsi
