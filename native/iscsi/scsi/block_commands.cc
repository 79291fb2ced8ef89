// Reads, writes, SYNCHRONIZE CACHE and what tells about blocks (SBC-3 chapter 5).
#include "iscsi/scsi/block_range.h"

#include <algorithm>
#include <cstring>

#include "iscsi/scsi/big_endian.h"
#include "iscsi/scsi/handlers.h"

namespace holdfast::scsi {

BlockFields block_fields(const Command& command) {
  switch (command.operation->cdb_size) {
    case 6: {
      std::uint64_t count = command.cdb8(4);
      return {command.cdb_field(1, 3) & 0x1f'ffff, count == 0 ? 256 : count, 4};
    }
    case 10:
      return {command.cdb_field(2, 4), command.cdb_field(7, 2), 7};
    case 12:
      return {command.cdb_field(2, 4), command.cdb_field(6, 4), 6};
    default:
      return {command.cdb_field(2, 8), command.cdb_field(10, 4), 10};
  }
}

bool set_range(LogicalUnit& unit, Command& command, const BlockFields& fields, std::uint64_t bytes_max) {
  std::uint64_t blocks = unit.block_count();
  if (fields.lba > blocks || fields.count > blocks - fields.lba) return unit.reject(command, senses::kLbaOutOfRange);
  if (fields.count > bytes_max / unit.block_size()) return unit.reject(command, invalid_field(fields.count_byte));
  command.offset = fields.lba * unit.block_size();
  command.length = fields.count * unit.block_size();
  return true;
}

std::optional<std::uint64_t> first_difference(std::span<const Slice> left, std::span<const Slice> right) {
  std::size_t i = 0, j = 0, at_left = 0, at_right = 0;
  std::uint64_t position = 0;
  while (i < left.size() && j < right.size()) {
    std::size_t size = std::min(left[i].size() - at_left, right[j].size() - at_right);
    const std::byte* a = left[i].data() + at_left;
    const std::byte* b = right[j].data() + at_right;
    if (size > 0 && std::memcmp(a, b, size) != 0) {
      return position + static_cast<std::uint64_t>(std::mismatch(a, a + size, b).first - a);
    }
    position += size;
    at_left += size;
    at_right += size;
    if (at_left == left[i].size()) ++i, at_left = 0;
    if (at_right == right[j].size()) ++j, at_right = 0;
  }
  return std::nullopt;
}

SliceList split_after(SliceList& parts, std::uint64_t size) {
  SliceList rest;
  std::size_t i = 0;
  while (i < parts.size() && parts[i].size() <= size) size -= parts[i++].size();
  if (i < parts.size() && size > 0) {
    rest.push_back(parts[i].sub(size, parts[i].size() - size));
    parts[i] = parts[i].sub(0, size);
    ++i;
  }
  std::move(parts.begin() + static_cast<std::ptrdiff_t>(i), parts.end(), std::back_inserter(rest));
  parts.resize(i);
  return rest;
}

bool prepare_read(LogicalUnit& unit, Command& command) {
  if (command.operation->cdb_size > 6 && asks_protection(command)) return unit.reject(command, invalid_field(1));
  if (!set_range(unit, command, block_fields(command), kTransferBytesMax)) return false;
  command.data_in_estimate = command.length;
  return true;
}

namespace {
void read_now(LogicalUnit& unit, Command& command) {
  unit.device().read(command.offset, command.length, [&unit, &command](Result<SliceList> data) {
    if (!data.ok()) return unit.device_failed(command, data.error());
    command.data_in = std::move(data).value();
    command.data_in_length = command.length;
    unit.finish(command);
  });
}
}  // namespace

void execute_read(LogicalUnit& unit, Command& command) {
  if (command.length == 0) return unit.finish(command);
  bool from_medium = command.operation->cdb_size > 6 && forces_unit_access(command);
  if (!from_medium) return read_now(unit, command);
  // FUA: what is read must be on the medium; newer cached content is written there first.
  unit.device().flush([&unit, &command](Status flushed) {
    if (!flushed.ok()) return unit.device_failed(command, flushed.error());
    read_now(unit, command);
  });
}

bool prepare_write(LogicalUnit& unit, Command& command) {
  if (command.operation->cdb_size > 6 && asks_protection(command)) return unit.reject(command, invalid_field(1));
  if (!set_range(unit, command, block_fields(command), kTransferBytesMax)) return false;
  command.data_out_length = command.length;
  return true;
}

// When the initiator offers fewer bytes than the CDB asks for, what it offers is written and the transport reports the
// residual; a part of a block cannot be.
void execute_write(LogicalUnit& unit, Command& command) {
  command.length = total_size(command.data_out);
  if (command.length % unit.block_size() != 0) return unit.fail(command, senses::kInvalidFieldInInformationUnit);
  if (command.length == 0) return unit.finish(command);
  unit.device().write(command.offset, std::move(command.data_out),
                      durability_of(command, command.operation->cdb_size > 6), [&unit, &command](Status status) {
                        if (!status.ok()) return unit.device_failed(command, status.error());
                        unit.finish(command);
                      });
}

bool prepare_synchronize_cache(LogicalUnit& unit, Command& command) {
  BlockFields fields = block_fields(command);
  return set_range(unit, command, fields, ~0ull);
}

// Always all of the volume, and with IMMED too: the status then comes later than it might.
void execute_synchronize_cache(LogicalUnit& unit, Command& command) {
  unit.device().flush([&unit, &command](Status status) {
    if (!status.ok()) return unit.device_failed(command, status.error());
    unit.finish(command);
  });
}

bool prepare_prefetch(LogicalUnit& unit, Command& command) {
  return set_range(unit, command, block_fields(command), ~0ull);
}

// GOOD, not CONDITION MET: nothing promises that the blocks are cached.
void execute_prefetch(LogicalUnit& unit, Command& command) { unit.finish(command); }

void execute_read_capacity_10(LogicalUnit& unit, Command& command) {
  std::array<std::byte, 8> out{};
  store_be(out, 0, 4, std::min<std::uint64_t>(unit.block_count() - 1, 0xffff'ffff));
  store_be(out, 4, 4, unit.block_size());
  unit.answer(command, out, out.size());
}

void execute_read_capacity_16(LogicalUnit& unit, Command& command) {
  std::array<std::byte, 32> out{};
  store_be(out, 0, 8, unit.block_count() - 1);
  store_be(out, 8, 4, unit.block_size());
  out[13] = static_cast<std::byte>(unit.block_size() == 512 ? 3 : 0);  // LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT
  out[14] = std::byte{0xc0};                                           // LBPME, LBPRZ
  unit.answer(command, out, command.cdb_field(10, 4));
}

bool prepare_get_lba_status(LogicalUnit& unit, Command& command) {
  std::uint64_t lba = command.cdb_field(2, 8);
  if (lba >= unit.block_count()) return unit.reject(command, senses::kLbaOutOfRange);
  command.offset = lba * unit.block_size();
  command.length = unit.device().size_bytes() - command.offset;
  return true;
}

namespace {

constexpr std::size_t kLbaStatusDescriptorsMax = 250;  // with the header they fit one page

// Asks the device extent by extent; equal neighbours become one descriptor. `done` counts bytes described, the
// descriptors grow in `scratch`, their number stands in data_in_length.
void next_extent(LogicalUnit& unit, Command& command) {
  std::uint64_t allocation = command.cdb_field(10, 4);
  std::size_t wanted =
      std::clamp<std::size_t>(allocation < 24 ? 1 : (allocation - 8) / 16, 1, kLbaStatusDescriptorsMax);
  bool full = command.data_in_length >= wanted;
  if (command.aborted || full || command.done >= command.length) {
    std::vector<std::byte> out(8);
    store_be(out, 0, 4, 4 + 16 * command.data_in_length);
    auto descriptors = command.scratch.bytes().first(16 * command.data_in_length);
    out.insert(out.end(), descriptors.begin(), descriptors.end());
    return unit.answer(command, out, allocation);
  }
  std::uint64_t at = command.offset + command.done;
  // NUMBER OF LOGICAL BLOCKS has 32 bits.
  std::uint64_t length = std::min<std::uint64_t>(command.length - command.done, 0xffff'f000ull * unit.block_size());
  unit.device().extent(at, length, [&unit, &command, at](Result<BlockDevice::Extent> extent) {
    if (!extent.ok()) return unit.device_failed(command, extent.error());
    std::uint64_t blocks = extent->length / unit.block_size();
    if (blocks == 0) return unit.fail(command, senses::kInternalTargetFailure);
    std::uint8_t status = extent->mapped ? 0 : 1;
    std::span<std::byte> all = command.scratch.bytes();
    std::span<std::byte> last = all.subspan(command.data_in_length ? 16 * (command.data_in_length - 1) : 0, 16);
    bool merges =
        command.data_in_length > 0 && load_u8(last, 12) == status && load_be32(last, 8) + blocks <= 0xffff'ffffull;
    if (merges) {
      store_be(last, 8, 4, load_be32(last, 8) + blocks);
    } else {
      std::span<std::byte> next = all.subspan(16 * command.data_in_length++, 16);
      std::fill(next.begin(), next.end(), std::byte{0});
      store_be(next, 0, 8, at / unit.block_size());
      store_be(next, 8, 4, blocks);
      next[12] = static_cast<std::byte>(status);
    }
    command.done += blocks * unit.block_size();
    next_extent(unit, command);
  });
}

}  // namespace

void execute_get_lba_status(LogicalUnit& unit, Command& command) {
  command.scratch = unit.env().buffers().allocate(16 * (kLbaStatusDescriptorsMax + 1));
  next_extent(unit, command);
}

// SBC-3 section 5.17: bad blocks are repaired from other replicas and never remapped, so both lists are empty.
void execute_read_defect_data_10(LogicalUnit& unit, Command& command) {
  std::array<std::byte, 4> out{};
  out[1] = command.cdb[2] & std::byte{0x1f};
  unit.answer(command, out, command.cdb_field(7, 2));
}

void execute_read_defect_data_12(LogicalUnit& unit, Command& command) {
  std::array<std::byte, 8> out{};
  out[1] = command.cdb[1] & std::byte{0x1f};
  unit.answer(command, out, command.cdb_field(6, 4));
}

}  // namespace holdfast::scsi
