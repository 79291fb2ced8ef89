// Commands that compare: VERIFY, WRITE AND VERIFY, COMPARE AND WRITE, ORWRITE (SBC-3 chapter 5).
#include <algorithm>
#include <cstring>

#include "iscsi/scsi/block_range.h"
#include "iscsi/scsi/handlers.h"

namespace holdfast::scsi {

namespace {

// BYTCHK: 0 medium only, 1 all blocks against the data-out buffer, 3 every block against the one sent.
std::uint8_t byte_check(const Command& command) { return command.cdb8(1) >> 1 & 3; }

void fail_miscompare(LogicalUnit& unit, Command& command, std::uint64_t at) {
  Sense sense = senses::kMiscompare;
  sense.information = at;
  unit.fail(command, sense);
}

// data_out repeated or cut so that it lines up with [done, done + size) of the range.
SliceList expected_part(const Command& command, std::uint64_t size) {
  SliceList expected;
  if (byte_check(command) == 3) {
    for (std::uint64_t at = 0; at < size; at += total_size(command.data_out)) {
      expected.insert(expected.end(), command.data_out.begin(), command.data_out.end());
    }
    return expected;
  }
  SliceList rest = command.data_out;
  rest = split_after(rest, command.done);
  split_after(rest, size);
  return rest;
}

// Reads the range step by step and compares as BYTCHK asks.
void verify_step(LogicalUnit& unit, Command& command) {
  if (command.aborted || command.done >= command.length) return unit.finish(command);
  std::uint64_t size = std::min(kStepBytes, command.length - command.done);
  unit.device().read(command.offset + command.done, size, [&unit, &command, size](Result<SliceList> data) {
    if (!data.ok()) return unit.device_failed(command, data.error());
    if (byte_check(command) != 0) {
      std::optional<std::uint64_t> difference = first_difference(expected_part(command, size), *data);
      if (difference) return fail_miscompare(unit, command, command.done + *difference);
    }
    command.done += size;
    verify_step(unit, command);
  });
}

bool set_verify_length(LogicalUnit& unit, Command& command) {
  if (command.length == 0) return true;
  switch (byte_check(command)) {
    case 0:
      return true;
    case 1:
      if (command.length > kTransferBytesMax) {
        return unit.reject(command, invalid_field(block_fields(command).count_byte));
      }
      command.data_out_length = command.length;
      break;
    default:
      command.data_out_length = unit.block_size();
      break;
  }
  // A comparison with less than all of the data would prove nothing.
  if (command.expected_data_out < command.data_out_length) {
    return unit.reject(command, senses::kInvalidFieldInInformationUnit);
  }
  return true;
}

}  // namespace

bool prepare_verify(LogicalUnit& unit, Command& command) {
  if (asks_protection(command)) return unit.reject(command, invalid_field(1));
  if (byte_check(command) == 2) return unit.reject(command, invalid_field(1));
  if (!set_range(unit, command, block_fields(command), ~0ull)) return false;
  command.data_in_estimate = std::min(command.length, kStepBytes);
  return set_verify_length(unit, command);
}

// Verification is of the medium: what is cached goes there first.
void execute_verify(LogicalUnit& unit, Command& command) {
  if (command.length == 0) return unit.finish(command);
  unit.device().flush([&unit, &command](Status flushed) {
    if (!flushed.ok()) return unit.device_failed(command, flushed.error());
    verify_step(unit, command);
  });
}

bool prepare_write_and_verify(LogicalUnit& unit, Command& command) {
  if (asks_protection(command)) return unit.reject(command, invalid_field(1));
  if (byte_check(command) > 1) return unit.reject(command, invalid_field(1));
  if (!set_range(unit, command, block_fields(command), kTransferBytesMax)) return false;
  command.data_out_length = command.length;
  command.data_in_estimate = std::min(command.length, kStepBytes);
  return true;
}

void execute_write_and_verify(LogicalUnit& unit, Command& command) {
  command.length = total_size(command.data_out);
  if (command.length % unit.block_size() != 0) return unit.fail(command, senses::kInvalidFieldInInformationUnit);
  if (command.length == 0) return unit.finish(command);
  SliceList data = command.data_out;  // counted references: the comparison needs the bytes again
  unit.device().write(command.offset, std::move(data), BlockDevice::Durability::kFlushed,
                      [&unit, &command](Status status) {
                        if (!status.ok()) return unit.device_failed(command, status.error());
                        verify_step(unit, command);
                      });
}

// SBC-3 section 5.3. The data-out buffer is the expected blocks followed by the new ones, exactly.
bool prepare_compare_and_write(LogicalUnit& unit, Command& command) {
  if (asks_protection(command)) return unit.reject(command, invalid_field(1));
  BlockFields fields{command.cdb_field(2, 8), command.cdb8(13), 13};
  if (!set_range(unit, command, fields, kCompareAndWriteBytesMax)) return false;
  command.data_out_length = 2 * command.length;
  // A comparison or a replacement by half of the blocks would be another command: the count and the offer must agree.
  if (command.expected_data_out != command.data_out_length) return unit.reject(command, invalid_field(13));
  return true;
}

void execute_compare_and_write(LogicalUnit& unit, Command& command) {
  if (command.length == 0) return unit.finish(command);
  SliceList expected = std::move(command.data_out);
  SliceList replacement = split_after(expected, command.length);
  unit.device().compare_and_write(command.offset, std::move(expected), std::move(replacement),
                                  durability_of(command, true),
                                  [&unit, &command](Result<std::optional<std::uint64_t>> outcome) {
                                    if (!outcome.ok()) return unit.device_failed(command, outcome.error());
                                    if (*outcome) return fail_miscompare(unit, command, **outcome);
                                    unit.finish(command);
                                  });
}

bool prepare_orwrite(LogicalUnit& unit, Command& command) {
  if (asks_protection(command)) return unit.reject(command, invalid_field(1));
  if (!set_range(unit, command, block_fields(command), kTransferBytesMax)) return false;
  command.data_out_length = command.length;
  command.data_in_estimate = 2 * std::min(command.length, kStepBytes);
  return true;
}

namespace {

// One step: read, OR, put back if nothing changed in between; else again. Some other write made progress each time.
void orwrite_step(LogicalUnit& unit, Command& command) {
  if (command.aborted || command.done >= command.length) return unit.finish(command);
  std::uint64_t size = std::min(kStepBytes, command.length - command.done);
  unit.device().read(command.offset + command.done, size, [&unit, &command, size](Result<SliceList> old) {
    if (!old.ok()) return unit.device_failed(command, old.error());
    Slice merged = unit.env().buffers().allocate(size);
    std::size_t at = 0;
    for (const Slice& part : *old) {
      std::memcpy(merged.data() + at, part.data(), part.size());
      at += part.size();
    }
    SliceList mask = command.data_out;
    mask = split_after(mask, command.done);
    split_after(mask, size);
    at = 0;
    for (const Slice& part : mask) {
      for (std::size_t i = 0; i < part.size(); ++i) merged.data()[at + i] |= part.data()[i];
      at += part.size();
    }
    SliceList replacement;
    replacement.push_back(std::move(merged));
    unit.device().compare_and_write(command.offset + command.done, std::move(*old), std::move(replacement),
                                    durability_of(command, true),
                                    [&unit, &command, size](Result<std::optional<std::uint64_t>> outcome) {
                                      if (!outcome.ok()) return unit.device_failed(command, outcome.error());
                                      if (!*outcome) command.done += size;
                                      orwrite_step(unit, command);
                                    });
  });
}

}  // namespace

void execute_orwrite(LogicalUnit& unit, Command& command) {
  command.length = total_size(command.data_out);
  if (command.length % unit.block_size() != 0) return unit.fail(command, senses::kInvalidFieldInInformationUnit);
  orwrite_step(unit, command);
}

}  // namespace holdfast::scsi
