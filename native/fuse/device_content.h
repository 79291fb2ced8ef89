// Where a block device, or the file that stands for one, holds something else than zeros.
//
// Only what was written is looked at, where the device says what that is: a file by SEEK_DATA (a Session's answers it),
// a SCSI disk by GET LBA STATUS. Everything is read where it does not say. Thread: blocks, and belongs on a helper
// thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "base/result.h"

namespace holdfast::fuse {

// The offset of the first byte that is not zero; nullopt: there is none. DISK_IO.
Result<std::optional<std::uint64_t>> first_data(const std::string& path);

// What a GET LBA STATUS of block `lba` answered (SBC-3 section 5.5.2).
struct MappedRun {
  bool mapped = true;
  std::uint64_t blocks = 0;
};
// nullopt: it cannot be made sense of.
std::optional<MappedRun> parse_lba_status(std::span<const std::byte> answer, std::uint64_t lba);

}  // namespace holdfast::fuse
