// UNMAP, WRITE SAME and SANITIZE (SBC-3 sections 5.28, 5.44 and SBC-4 section 5.36): long ranges, done in steps.
#include <algorithm>
#include <cstring>

#include "iscsi/scsi/big_endian.h"
#include "iscsi/scsi/block_range.h"
#include "iscsi/scsi/handlers.h"

namespace holdfast::scsi {

// ---- UNMAP ----

bool prepare_unmap(LogicalUnit& unit, Command& command) {
  if (command.cdb8(1) & 0x01) return unit.reject(command, invalid_field(1));  // ANCHOR: ANC_SUP is 0
  command.data_out_length = command.cdb_field(7, 2);
  if (command.data_out_length > 8 + 16 * kUnmapDescriptorsMax) {
    return unit.reject(command, senses::kInvalidFieldInParameters);
  }
  return true;
}

namespace {

constexpr std::size_t kUnmapHeader = 8;

// Descriptor `index` of the parameter list in `scratch`.
void unmap_next(LogicalUnit& unit, Command& command, std::size_t index) {
  std::span<const std::byte> list = command.scratch.bytes();
  std::size_t count = (list.size() - kUnmapHeader) / 16;
  while (index < count && load_be32(list, kUnmapHeader + 16 * index + 8) == 0) ++index;
  if (command.aborted || index >= count) return unit.finish(command);
  std::uint64_t offset = load_be64(list, kUnmapHeader + 16 * index) * unit.block_size();
  std::uint64_t length = std::uint64_t{load_be32(list, kUnmapHeader + 16 * index + 8)} * unit.block_size();
  std::uint64_t size = std::min(length - command.done, kZeroStepBytes);
  unit.device().zero(offset + command.done, size, true, [&unit, &command, index, size, length](Status status) {
    if (!status.ok()) return unit.device_failed(command, status.error());
    command.done += size;
    bool descriptor_done = command.done >= length;
    if (descriptor_done) command.done = 0;
    unmap_next(unit, command, descriptor_done ? index + 1 : index);
  });
}

}  // namespace

// All descriptors are checked before any takes effect.
void execute_unmap(LogicalUnit& unit, Command& command) {
  if (command.data_out_length == 0) return unit.finish(command);
  std::vector<std::byte> list = unit.gather(command.data_out);
  if (list.size() < command.data_out_length || list.size() < kUnmapHeader) {
    return unit.fail(command, senses::kParameterListLength);
  }
  std::size_t descriptor_bytes = load_be16(list, 2) / 16 * 16;
  if (kUnmapHeader + descriptor_bytes > list.size()) {
    return unit.fail(command, senses::kParameterListLength);
  }
  list.resize(kUnmapHeader + descriptor_bytes);
  std::uint64_t total = 0;
  for (std::size_t at = kUnmapHeader; at < list.size(); at += 16) {
    std::uint64_t lba = load_be64(list, at);
    std::uint64_t count = load_be32(list, at + 8);
    if (lba > unit.block_count() || count > unit.block_count() - lba) {
      return unit.fail(command, senses::kLbaOutOfRange);
    }
    total += count;
  }
  if (total > kUnmapBytesMax / unit.block_size()) return unit.fail(command, senses::kInvalidFieldInParameters);
  command.scratch = unit.env().buffers().copy_of(list);
  unmap_next(unit, command, 0);
}

// ---- WRITE SAME ----

namespace {

bool is_write_same_16(const Command& command) { return command.operation->cdb_size == 16; }
bool no_data_out(const Command& command) { return is_write_same_16(command) && (command.cdb8(1) & 0x01); }
bool wants_unmap(const Command& command) { return command.cdb8(1) & 0x08; }

bool all_zero(std::span<const Slice> parts) {
  for (const Slice& part : parts) {
    auto bytes = part.bytes();
    if (std::any_of(bytes.begin(), bytes.end(), [](std::byte byte) { return byte != std::byte{0}; })) return false;
  }
  return true;
}

void zero_step(LogicalUnit& unit, Command& command) {
  if (command.aborted || command.done >= command.length) return unit.finish(command);
  std::uint64_t size = std::min(kZeroStepBytes, command.length - command.done);
  unit.device().zero(command.offset + command.done, size, wants_unmap(command), [&unit, &command, size](Status status) {
    if (!status.ok()) return unit.device_failed(command, status.error());
    command.done += size;
    zero_step(unit, command);
  });
}

// `scratch` holds the pattern repeated to at most one step.
void pattern_step(LogicalUnit& unit, Command& command) {
  if (command.aborted || command.done >= command.length) return unit.finish(command);
  std::uint64_t size = std::min<std::uint64_t>(command.scratch.size(), command.length - command.done);
  SliceList data;
  data.push_back(command.scratch.sub(0, size));
  unit.device().write(command.offset + command.done, std::move(data), BlockDevice::Durability::kJournalled,
                      [&unit, &command, size](Status status) {
                        if (!status.ok()) return unit.device_failed(command, status.error());
                        command.done += size;
                        pattern_step(unit, command);
                      });
}

Slice repeated(BufferPool& pool, std::span<const std::byte> pattern, std::uint64_t size) {
  Slice filled = pool.allocate(size);
  for (std::uint64_t at = 0; at < size; at += pattern.size()) {
    std::memcpy(filled.data() + at, pattern.data(), std::min<std::uint64_t>(pattern.size(), size - at));
  }
  return filled;
}

}  // namespace

bool prepare_write_same(LogicalUnit& unit, Command& command) {
  if (asks_protection(command)) return unit.reject(command, invalid_field(1));
  if (command.cdb8(1) & 0x16) return unit.reject(command, invalid_field(1));  // ANCHOR; PBDATA, LBDATA: obsolete
  BlockFields fields = block_fields(command);
  if (fields.count == 0) {  // up to the last block (WSNZ is 0)
    if (fields.lba > unit.block_count()) return unit.reject(command, senses::kLbaOutOfRange);
    fields.count = unit.block_count() - fields.lba;
  }
  if (!set_range(unit, command, fields, kWriteSameBytesMax)) return false;
  command.data_out_length = no_data_out(command) ? 0 : unit.block_size();
  if (!no_data_out(command) && command.expected_data_out != command.data_out_length) {
    return unit.reject(command, senses::kInvalidFieldInInformationUnit);
  }
  return true;
}

// LBPRZ is 1, so UNMAP may be honoured only for blocks that are to read as zeros; others are written.
void execute_write_same(LogicalUnit& unit, Command& command) {
  if (no_data_out(command) || all_zero(command.data_out)) return zero_step(unit, command);
  std::vector<std::byte> pattern = unit.gather(command.data_out);
  command.scratch = repeated(unit.env().buffers(), pattern,
                             std::min(std::max<std::uint64_t>(command.length, unit.block_size()), kStepBytes));
  pattern_step(unit, command);
}

// ---- SANITIZE ----
//
// Makes every block of the volume read as zeros or as the pattern, space given back where zeros allow it. It erases
// this volume's present content; snapshots keep theirs.

namespace {

constexpr std::uint8_t kOverwrite = 0x01, kExitFailureMode = 0x1f;

// A sanitize outlives its command when IMMED is set, so it has a state of its own.
struct SanitizeJob {
  LogicalUnit* unit;
  Command* command;  // null when already answered
  Slice pattern;     // empty: zeros
};

void sanitize_end(std::unique_ptr<SanitizeJob> job, Status status) {
  LogicalUnit& unit = *job->unit;
  unit.sanitize.running = false;
  unit.sanitize.failed = !status.ok();
  if (Command* command = job->command) {
    if (status.ok()) {
      unit.finish(*command);
    } else {
      unit.device_failed(*command, status.error());
    }
  }
  job.reset();
  unit.background_end();
}

void sanitize_step(std::unique_ptr<SanitizeJob> job) {
  LogicalUnit& unit = *job->unit;
  std::uint64_t size = unit.device().size_bytes();
  std::uint64_t at = unit.sanitize.done;
  if (at >= size) {
    return unit.device().flush(
        [job = std::move(job)](Status status) mutable { sanitize_end(std::move(job), std::move(status)); });
  }
  std::uint64_t step = std::min(size - at, job->pattern.empty() ? kZeroStepBytes : job->pattern.size());
  SliceList data;
  if (!job->pattern.empty()) data.push_back(job->pattern.sub(0, step));
  bool zeros = job->pattern.empty();
  auto next = [job = std::move(job), step](Status status) mutable {
    if (!status.ok()) return sanitize_end(std::move(job), std::move(status));
    job->unit->sanitize.done += step;
    sanitize_step(std::move(job));
  };
  if (zeros) {
    unit.device().zero(at, step, true, std::move(next));
  } else {
    unit.device().write(at, std::move(data), BlockDevice::Durability::kJournalled, std::move(next));
  }
}

// Overwrite parameter list (SBC-4 table 88): null when well-formed.
std::optional<Sense> check_overwrite(std::span<const std::byte> list, std::uint32_t block_size) {
  std::uint8_t count = load_u8(list, 0) & 0x1f;
  std::size_t pattern = load_be16(list, 2);
  if (count == 0) return senses::kInvalidFieldInCdb;
  if (pattern == 0 || pattern > block_size) return senses::kInvalidFieldInCdb;
  if (4 + pattern > list.size()) return senses::kInvalidFieldInCdb;
  return std::nullopt;
}

}  // namespace

bool prepare_sanitize(LogicalUnit& unit, Command& command) {
  std::uint64_t length = command.cdb_field(7, 2);
  if (command.operation->service_action == kOverwrite) {
    if (length < 5 || length > unit.block_size() + 4) return unit.reject(command, invalid_field(7));
    command.data_out_length = length;
    return true;
  }
  if (length != 0) return unit.reject(command, invalid_field(7));
  return true;
}

void execute_sanitize(LogicalUnit& unit, Command& command) {
  if (command.operation->service_action == kExitFailureMode) {
    unit.sanitize.failed = false;
    return unit.finish(command);
  }
  if (unit.sanitize.running) {
    Sense busy = senses::kSanitizeInProgress;
    busy.progress = unit.sanitize_progress();
    return unit.fail(command, busy);
  }
  auto job = std::make_unique<SanitizeJob>();
  job->unit = &unit;
  if (command.operation->service_action == kOverwrite) {
    std::vector<std::byte> list = unit.gather(command.data_out);
    if (list.size() < command.data_out_length) return unit.fail(command, senses::kParameterListLength);
    if (auto wrong = check_overwrite(list, unit.block_size())) return unit.fail(command, *wrong);
    std::vector<std::byte> pattern(list.begin() + 4, list.begin() + 4 + load_be16(list, 2));
    if (load_u8(list, 0) & 0x80 && (load_u8(list, 0) & 0x1f) % 2 == 0) {
      // INVERT: every pass inverts the one before; the last of an even number of passes leaves the inverse.
      for (std::byte& byte : pattern) byte = ~byte;
    }
    std::vector<std::byte> block(unit.block_size());
    for (std::size_t i = 0; i < block.size(); ++i) block[i] = pattern[i % pattern.size()];
    bool zeros = std::all_of(block.begin(), block.end(), [](std::byte byte) { return byte == std::byte{0}; });
    if (!zeros) job->pattern = repeated(unit.env().buffers(), block, kStepBytes);
  }
  unit.sanitize = {true, false, 0};
  unit.background_begin();
  bool immediate = command.cdb8(1) & 0x80;
  job->command = immediate ? nullptr : &command;
  if (immediate) unit.finish(command);
  sanitize_step(std::move(job));
}

std::uint16_t LogicalUnit::sanitize_progress() const {
  std::uint64_t size = device_.size_bytes();
  return size == 0 ? 0 : static_cast<std::uint16_t>(std::min<long double>(65535.0L * sanitize.done / size, 65535.0L));
}

}  // namespace holdfast::scsi
