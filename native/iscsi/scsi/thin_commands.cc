// UNMAP and WRITE SAME (SBC-3 sections 5.28 and 5.43): long ranges, done in steps.
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
  if (fields.count == 0) return unit.reject(command, invalid_field(fields.count_byte));  // WSNZ is 1
  if (!set_range(unit, command, fields, kWriteSameBytesMax)) return false;
  command.data_out_length = no_data_out(command) ? 0 : unit.block_size();
  if (!no_data_out(command) && command.expected_data_out != command.data_out_length) {
    return unit.reject(command, senses::kInvalidFieldInInformationUnit);
  }
  command.data_in_estimate = std::min(command.length, kStepBytes);  // the pattern, repeated
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

}  // namespace holdfast::scsi
