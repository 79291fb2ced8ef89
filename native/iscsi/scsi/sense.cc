#include "iscsi/scsi/sense.h"

#include <algorithm>

#include "iscsi/scsi/big_endian.h"

namespace holdfast::scsi {

namespace {

// SENSE KEY SPECIFIC, three bytes with SKSV set, or zeros (SPC-4 table 46).
void put_key_specific(const Sense& sense, std::span<std::byte> out) {
  if (sense.field) {
    out[0] = std::byte{static_cast<unsigned char>(0x80 | (sense.field->in_cdb ? 0x40 : 0))};
    store_be(out, 1, 2, sense.field->byte);
  }
}

std::size_t encode_fixed(const Sense& sense, std::span<std::byte> out) {
  out[0] = std::byte{0x70};
  out[2] = static_cast<std::byte>(sense.key);
  if (sense.information && *sense.information <= 0xffff'ffffull) {
    out[0] |= std::byte{0x80};  // VALID
    store_be(out, 3, 4, *sense.information);
  }
  out[7] = std::byte{10};  // ADDITIONAL SENSE LENGTH
  store_be(out, 12, 2, sense.code);
  put_key_specific(sense, out.subspan(15, 3));
  return 18;
}

std::size_t encode_descriptors(const Sense& sense, std::span<std::byte> out) {
  out[0] = std::byte{0x72};
  out[1] = static_cast<std::byte>(sense.key);
  store_be(out, 2, 2, sense.code);
  std::size_t size = 8;
  if (sense.information) {
    out[size] = std::byte{0x00};  // information descriptor
    out[size + 1] = std::byte{0x0a};
    out[size + 2] = std::byte{0x80};
    store_be(out, size + 4, 8, *sense.information);
    size += 12;
  }
  if (sense.field) {
    out[size] = std::byte{0x02};  // sense key specific descriptor
    out[size + 1] = std::byte{0x06};
    put_key_specific(sense, out.subspan(size + 4, 3));
    size += 8;
  }
  out[7] = static_cast<std::byte>(size - 8);
  return size;
}

}  // namespace

std::size_t encode_sense(const Sense& sense, bool descriptor_format, std::span<std::byte, kSenseBytesMax> out) {
  std::fill(out.begin(), out.end(), std::byte{0});
  return descriptor_format ? encode_descriptors(sense, out) : encode_fixed(sense, out);
}

Sense sense_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::kNoSpace:
      return senses::kSpaceAllocationFailed;
    case ErrorCode::kCorrupt:
    case ErrorCode::kJournalDamaged:
      return senses::kUnrecoveredReadError;
    case ErrorCode::kNoInSyncReplica:
    case ErrorCode::kStoreUnavailable:
    case ErrorCode::kConnectionLost:
    case ErrorCode::kTimedOut:
      return senses::kNotReadyBecomingReady;
    case ErrorCode::kInvalidArgument:
      return senses::kLbaOutOfRange;  // e.g. the volume's size changed between check and use
    default:
      return senses::kInternalTargetFailure;
  }
}

}  // namespace holdfast::scsi
