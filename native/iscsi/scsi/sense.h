// Sense data: what a CHECK CONDITION says (SPC-4 section 4.5), in fixed or descriptor format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/result.h"

namespace holdfast::scsi {

// SAM-5 section 5.3.1.
enum class ScsiStatus : std::uint8_t {
  kGood = 0x00,
  kCheckCondition = 0x02,
  kConditionMet = 0x04,
  kBusy = 0x08,
  kReservationConflict = 0x18,
  kTaskSetFull = 0x28,
  kTaskAborted = 0x40,
};

enum class SenseKey : std::uint8_t {
  kNoSense = 0x0,
  kNotReady = 0x2,
  kMediumError = 0x3,
  kHardwareError = 0x4,
  kIllegalRequest = 0x5,
  kUnitAttention = 0x6,
  kDataProtect = 0x7,
  kCopyAborted = 0xa,
  kAbortedCommand = 0xb,
  kMiscompare = 0xe,
};

// ADDITIONAL SENSE CODE in the high byte, its QUALIFIER in the low one.
using SenseCode = std::uint16_t;

struct Sense {
  SenseKey key = SenseKey::kNoSense;
  SenseCode code = 0;
  std::optional<std::uint64_t> information{};
  // SENSE KEY SPECIFIC: the field at fault (ILLEGAL REQUEST).
  struct FieldPointer {
    bool in_cdb = true;
    std::uint16_t byte = 0;
  };
  std::optional<FieldPointer> field{};
};

inline constexpr std::size_t kSenseBytesMax = 32;

// Writes response code 70h (fixed, 18 bytes) or 72h (descriptor). Returns how many bytes it wrote.
std::size_t encode_sense(const Sense& sense, bool descriptor_format, std::span<std::byte, kSenseBytesMax> out);

namespace senses {
inline constexpr Sense kNone{};
inline constexpr Sense kInvalidOpcode{SenseKey::kIllegalRequest, 0x2000};
inline constexpr Sense kLbaOutOfRange{SenseKey::kIllegalRequest, 0x2100};
inline constexpr Sense kInvalidFieldInCdb{SenseKey::kIllegalRequest, 0x2400};
inline constexpr Sense kLunNotSupported{SenseKey::kIllegalRequest, 0x2500};
inline constexpr Sense kInvalidFieldInParameters{SenseKey::kIllegalRequest, 0x2600};
inline constexpr Sense kInvalidRelease{SenseKey::kIllegalRequest, 0x2604};
inline constexpr Sense kParameterListLength{SenseKey::kIllegalRequest, 0x1a00};
inline constexpr Sense kInvalidFieldInInformationUnit{SenseKey::kIllegalRequest, 0x0e03};
inline constexpr Sense kSavingNotSupported{SenseKey::kIllegalRequest, 0x3900};
inline constexpr Sense kInsufficientRegistrations{SenseKey::kIllegalRequest, 0x5504};
inline constexpr Sense kMediumRemovalPrevented{SenseKey::kIllegalRequest, 0x5302};
inline constexpr Sense kSoftwareWriteProtected{SenseKey::kDataProtect, 0x2702};
inline constexpr Sense kSpaceAllocationFailed{SenseKey::kDataProtect, 0x2707};
inline constexpr Sense kMiscompare{SenseKey::kMiscompare, 0x1d00};
inline constexpr Sense kNotReadyStopped{SenseKey::kNotReady, 0x0402};
inline constexpr Sense kNotReadyBecomingReady{SenseKey::kNotReady, 0x0401};
inline constexpr Sense kUnrecoveredReadError{SenseKey::kMediumError, 0x1100};
inline constexpr Sense kInternalTargetFailure{SenseKey::kHardwareError, 0x4400};
inline constexpr Sense kProtocolServiceCrcError{SenseKey::kAbortedCommand, 0x4705};
inline constexpr Sense kNotEnoughUnsolicitedData{SenseKey::kAbortedCommand, 0x0c0d};
inline constexpr Sense kCopyTargetUnreachable{SenseKey::kCopyAborted, 0x0d02};
}  // namespace senses

// Codes of unit attentions.
namespace attentions {
inline constexpr SenseCode kPowerOnOrReset = 0x2900;
inline constexpr SenseCode kBusDeviceReset = 0x2903;
inline constexpr SenseCode kModeParametersChanged = 0x2a01;
inline constexpr SenseCode kReservationsPreempted = 0x2a03;
inline constexpr SenseCode kReservationsReleased = 0x2a04;
inline constexpr SenseCode kRegistrationsPreempted = 0x2a05;
inline constexpr SenseCode kCapacityChanged = 0x2a09;
inline constexpr SenseCode kCommandsCleared = 0x2f00;
}  // namespace attentions

// A field pointer of ILLEGAL REQUEST, INVALID FIELD IN CDB.
constexpr Sense invalid_field(std::uint16_t cdb_byte) {
  Sense sense = senses::kInvalidFieldInCdb;
  sense.field = Sense::FieldPointer{true, cdb_byte};
  return sense;
}
constexpr Sense invalid_parameter(std::uint16_t parameter_byte) {
  Sense sense = senses::kInvalidFieldInParameters;
  sense.field = Sense::FieldPointer{false, parameter_byte};
  return sense;
}

// How a failure of the BlockDevice is told to the host. Chosen by what initiators then do:
//  NO_SPACE   DATA PROTECT, SPACE ALLOCATION FAILED WRITE PROTECT: ENOSPC, not retried; hypervisors pause the guest.
//  CORRUPT    MEDIUM ERROR, UNRECOVERED READ ERROR: this block only, not retried for long.
//  replicas or the metadata store unreachable, timeouts: NOT READY, IN PROCESS OF BECOMING READY: retried by Linux,
//             Windows and VMware until their command timeout; with multipath the other path is tried.
//  others     HARDWARE ERROR, INTERNAL TARGET FAILURE.
// CANCELLED and EPOCH_SUPERSEDED have no sense data: the nexus is dropped instead, so that the host logs in again.
Sense sense_of(ErrorCode code);

}  // namespace holdfast::scsi
