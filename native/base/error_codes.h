// Generated from proto/errors.json by scripts/generate-errors.mjs. Do not edit.
#pragma once

#include <string_view>

namespace holdfast {

enum class ErrorCode : unsigned char {
  kInvalidArgument,
  kNotFound,
  kAlreadyExists,
  kFailedPrecondition,
  kVolumeAttached,
  kVolumeDetached,
  kEpochSuperseded,
  kLogGap,
  kReplicaIncomplete,
  kNoInSyncReplica,
  kNoSpace,
  kNotEnoughDisks,
  kCorrupt,
  kJournalDamaged,
  kFormatTooNew,
  kWrongDisk,
  kDiskIo,
  kInUse,
  kConnectionLost,
  kTimedOut,
  kCancelled,
  kProtocol,
  kMessageTooLarge,
  kUnimplemented,
  kStoreUnavailable,
  kConflict,
  kUnsupportedSystem,
  kInternal,
  kUnauthenticated,
  kPermissionDenied,
  kLastGoodCopy,
  kDataLoss,
};

inline constexpr struct ErrorCodeRow {
  ErrorCode code;
  std::string_view name;
  int grpc_status;
} kErrorCodes[] = {
    {ErrorCode::kInvalidArgument, "INVALID_ARGUMENT", 3},
    {ErrorCode::kNotFound, "NOT_FOUND", 5},
    {ErrorCode::kAlreadyExists, "ALREADY_EXISTS", 6},
    {ErrorCode::kFailedPrecondition, "FAILED_PRECONDITION", 9},
    {ErrorCode::kVolumeAttached, "VOLUME_ATTACHED", 9},
    {ErrorCode::kVolumeDetached, "VOLUME_DETACHED", 9},
    {ErrorCode::kEpochSuperseded, "EPOCH_SUPERSEDED", 9},
    {ErrorCode::kLogGap, "LOG_GAP", 9},
    {ErrorCode::kReplicaIncomplete, "REPLICA_INCOMPLETE", 9},
    {ErrorCode::kNoInSyncReplica, "NO_IN_SYNC_REPLICA", 14},
    {ErrorCode::kNoSpace, "NO_SPACE", 8},
    {ErrorCode::kNotEnoughDisks, "NOT_ENOUGH_DISKS", 9},
    {ErrorCode::kCorrupt, "CORRUPT", 15},
    {ErrorCode::kJournalDamaged, "JOURNAL_DAMAGED", 15},
    {ErrorCode::kFormatTooNew, "FORMAT_TOO_NEW", 9},
    {ErrorCode::kWrongDisk, "WRONG_DISK", 9},
    {ErrorCode::kDiskIo, "DISK_IO", 14},
    {ErrorCode::kInUse, "IN_USE", 9},
    {ErrorCode::kConnectionLost, "CONNECTION_LOST", 14},
    {ErrorCode::kTimedOut, "TIMED_OUT", 4},
    {ErrorCode::kCancelled, "CANCELLED", 1},
    {ErrorCode::kProtocol, "PROTOCOL", 13},
    {ErrorCode::kMessageTooLarge, "MESSAGE_TOO_LARGE", 8},
    {ErrorCode::kUnimplemented, "UNIMPLEMENTED", 12},
    {ErrorCode::kStoreUnavailable, "STORE_UNAVAILABLE", 14},
    {ErrorCode::kConflict, "CONFLICT", 10},
    {ErrorCode::kUnsupportedSystem, "UNSUPPORTED_SYSTEM", 9},
    {ErrorCode::kInternal, "INTERNAL", 13},
    {ErrorCode::kUnauthenticated, "UNAUTHENTICATED", 16},
    {ErrorCode::kPermissionDenied, "PERMISSION_DENIED", 7},
    {ErrorCode::kLastGoodCopy, "LAST_GOOD_COPY", 9},
    {ErrorCode::kDataLoss, "DATA_LOSS", 15},
};

constexpr std::string_view error_code_name(ErrorCode code) { return kErrorCodes[static_cast<unsigned>(code)].name; }
// The gRPC status that carries this code on the wire; the code itself travels in the trailer "holdfast-code".
constexpr int grpc_status_of(ErrorCode code) { return kErrorCodes[static_cast<unsigned>(code)].grpc_status; }

}  // namespace holdfast
