// Where the LBA and the count stand in the CDBs of block commands (SBC-3 chapter 5), and the checks they share.
#pragma once

#include <cstdint>

#include "iscsi/scsi/logical_unit.h"

namespace holdfast::scsi {

struct BlockFields {
  std::uint64_t lba = 0;
  std::uint64_t count = 0;
  std::uint16_t count_byte = 0;  // where the count stands, for field pointers
};

// By the CDB's length class: 6, 10, 12 or 16 bytes (COMPARE AND WRITE is parsed by its own).
BlockFields block_fields(const Command& command);

// Sets offset and length. Fails with LBA OUT OF RANGE, or INVALID FIELD IN CDB when longer than `bytes_max`.
bool set_range(LogicalUnit& unit, Command& command, const BlockFields& fields, std::uint64_t bytes_max);

// RDPROTECT, WRPROTECT or VRPROTECT: the unit is not formatted with protection information.
inline bool asks_protection(const Command& command) { return command.cdb8(1) & 0xe0; }
inline bool forces_unit_access(const Command& command) { return command.cdb8(1) & 0x08; }
inline BlockDevice::Durability durability_of(const Command& command, bool has_fua_bit) {
  return has_fua_bit && forces_unit_access(command) ? BlockDevice::Durability::kFlushed
                                                    : BlockDevice::Durability::kJournalled;
}

// Where two byte sequences of the same total size first differ.
std::optional<std::uint64_t> first_difference(std::span<const Slice> left, std::span<const Slice> right);
// Splits `parts`: afterwards it holds the first `size` bytes, the result the rest.
SliceList split_after(SliceList& parts, std::uint64_t size);

}  // namespace holdfast::scsi
