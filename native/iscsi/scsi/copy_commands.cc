// EXTENDED COPY(LID1) within the unit (SPC-4 sections 6.4 to 6.6 and 6.18 to 6.20): block to block, what hypervisors
// use to clone disks. A segment is read whole and then written, so source and destination may overlap.
#include <algorithm>

#include "iscsi/scsi/big_endian.h"
#include "iscsi/scsi/handlers.h"
#include "iscsi/scsi/logical_unit.h"

namespace holdfast::scsi {

namespace {

constexpr std::size_t kHeader = 16, kTargetBytes = 32, kSegmentBytes = 28;
constexpr std::size_t kTargetsMax = 4, kSegmentsMax = 64;
constexpr std::size_t kListBytesMax = kHeader + kTargetBytes * kTargetsMax + kSegmentBytes * kSegmentsMax;
constexpr std::size_t kOutcomesMax = 16;
constexpr std::uint8_t kBlockToBlock = 0x02, kIdentificationTarget = 0xe4;

constexpr Sense kTooManyTargets{SenseKey::kIllegalRequest, 0x2606};
constexpr Sense kUnsupportedTarget{SenseKey::kIllegalRequest, 0x2607};
constexpr Sense kTooManySegments{SenseKey::kIllegalRequest, 0x2608};
constexpr Sense kUnsupportedSegment{SenseKey::kIllegalRequest, 0x2609};
constexpr Sense kInlineDataTooLong{SenseKey::kIllegalRequest, 0x260b};

struct CopyList {
  std::size_t targets = 0;
  std::size_t segments = 0;
  std::size_t segments_at = 0;
};

// Shape of the parameter list; what is wrong with it otherwise.
std::optional<Sense> parse_list(std::span<const std::byte> list, CopyList& parsed) {
  std::size_t target_bytes = load_be16(list, 2);
  std::size_t segment_bytes = load_be32(list, 8);
  if (load_be32(list, 12) != 0) return kInlineDataTooLong;
  if (target_bytes % kTargetBytes != 0) return invalid_parameter(2);
  if (target_bytes / kTargetBytes > kTargetsMax) return kTooManyTargets;
  if (segment_bytes > kSegmentBytes * kSegmentsMax) return kTooManySegments;
  if (kHeader + target_bytes + segment_bytes > list.size()) return senses::kParameterListLength;
  parsed = {target_bytes / kTargetBytes, segment_bytes / kSegmentBytes, kHeader + target_bytes};
  for (std::size_t i = 0; i < segment_bytes / kSegmentBytes; ++i) {
    auto segment = list.subspan(parsed.segments_at + i * kSegmentBytes, kSegmentBytes);
    if (load_u8(segment, 0) != kBlockToBlock || load_be16(segment, 2) != kSegmentBytes - 4) return kUnsupportedSegment;
    if (load_be16(segment, 4) >= parsed.targets || load_be16(segment, 6) >= parsed.targets) {
      return invalid_parameter(static_cast<std::uint16_t>(parsed.segments_at + i * kSegmentBytes + 4));
    }
  }
  if (segment_bytes % kSegmentBytes != 0) return kUnsupportedSegment;
  return std::nullopt;
}

// Source and destination must be this very unit, by its NAA designator.
std::optional<Sense> check_targets(const LogicalUnit& unit, const Identity& identity, std::span<const std::byte> list,
                                   const CopyList& parsed) {
  std::array<std::byte, 16> own = naa_identifier(identity);
  for (std::size_t i = 0; i < parsed.targets; ++i) {
    auto target = list.subspan(kHeader + i * kTargetBytes, kTargetBytes);
    if (load_u8(target, 0) != kIdentificationTarget) return kUnsupportedTarget;
    bool is_naa = (load_u8(target, 4) & 0x0f) == 1 && (load_u8(target, 5) & 0x3f) == 3 && load_u8(target, 7) == 16;
    if (!is_naa || !std::equal(own.begin(), own.end(), target.begin() + 8)) return senses::kCopyTargetUnreachable;
    std::uint64_t block = load_be(target, 29, 3);
    if (block != 0 && block != unit.block_size()) {
      return invalid_parameter(static_cast<std::uint16_t>(kHeader + i * kTargetBytes + 29));
    }
  }
  return std::nullopt;
}

std::optional<Sense> check_segments(const LogicalUnit& unit, std::span<const std::byte> list, const CopyList& parsed) {
  for (std::size_t i = 0; i < parsed.segments; ++i) {
    auto segment = list.subspan(parsed.segments_at + i * kSegmentBytes, kSegmentBytes);
    std::uint64_t count = load_be16(segment, 10);
    for (std::size_t at : {12, 20}) {
      std::uint64_t lba = load_be64(segment, at);
      if (lba > unit.block_count() || count > unit.block_count() - lba) return senses::kLbaOutOfRange;
    }
    if (count * unit.block_size() > kTransferBytesMax) {
      return invalid_parameter(static_cast<std::uint16_t>(parsed.segments_at + i * kSegmentBytes + 10));
    }
  }
  return std::nullopt;
}

void record(LogicalUnit& unit, const Command& command, bool failed) {
  auto list = command.scratch.bytes();
  if ((load_u8(list, 1) & 0x18) == 0x18) return;  // LIST ID USAGE 11b: the identifier means nothing
  CopyOutcome outcome{load_u8(list, 0), failed, static_cast<std::uint16_t>(command.length), command.done};
  std::erase_if(unit.copies, [&](auto& each) { return each.list_identifier == outcome.list_identifier; });
  unit.copies.push_back(outcome);
  if (unit.copies.size() > kOutcomesMax) unit.copies.pop_front();
}

// `scratch` is the list, `length` counts segments done, `done` bytes copied.
void copy_next(LogicalUnit& unit, Command& command) {
  auto list = command.scratch.bytes();
  CopyList parsed;
  CHECK(!parse_list(list, parsed), "the list was checked before");
  if (command.aborted || command.length >= parsed.segments) {
    record(unit, command, command.aborted);
    return unit.finish(command);
  }
  auto segment = list.subspan(parsed.segments_at + command.length * kSegmentBytes, kSegmentBytes);
  std::uint64_t size = std::uint64_t{load_be16(segment, 10)} * unit.block_size();
  std::uint64_t source = load_be64(segment, 12) * unit.block_size();
  std::uint64_t destination = load_be64(segment, 20) * unit.block_size();
  if (size == 0) {
    ++command.length;
    return copy_next(unit, command);
  }
  unit.device().read(source, size, [&unit, &command, destination, size](Result<SliceList> data) {
    if (!data.ok()) {
      record(unit, command, true);
      return unit.device_failed(command, data.error());
    }
    unit.device().write(destination, std::move(*data), BlockDevice::Durability::kJournalled,
                        [&unit, &command, size](Status status) {
                          if (!status.ok()) {
                            record(unit, command, true);
                            return unit.device_failed(command, status.error());
                          }
                          command.done += size;
                          ++command.length;
                          copy_next(unit, command);
                        });
  });
}

}  // namespace

bool prepare_extended_copy(LogicalUnit& unit, Command& command) {
  command.data_out_length = command.cdb_field(10, 4);
  if (command.data_out_length == 0) return true;
  if (command.data_out_length < kHeader || command.data_out_length > kListBytesMax) {
    return unit.reject(command, senses::kParameterListLength);
  }
  return true;
}

void execute_extended_copy(LogicalUnit& unit, Command& command) {
  if (command.data_out_length == 0) return unit.finish(command);
  std::vector<std::byte> list = unit.gather(command.data_out);
  if (list.size() < command.data_out_length) return unit.fail(command, senses::kParameterListLength);
  CopyList parsed;
  if (auto wrong = parse_list(list, parsed)) return unit.fail(command, *wrong);
  if (auto wrong = check_targets(unit, unit.identity(), list, parsed)) return unit.fail(command, *wrong);
  if (auto wrong = check_segments(unit, list, parsed)) return unit.fail(command, *wrong);
  command.scratch = unit.env().buffers().copy_of(list);
  command.length = 0;
  copy_next(unit, command);
}

void execute_receive_copy_status(LogicalUnit& unit, Command& command) {
  auto found = std::find_if(unit.copies.begin(), unit.copies.end(),
                            [&](auto& each) { return each.list_identifier == command.cdb8(2); });
  if (found == unit.copies.end()) return unit.fail(command, invalid_field(2));
  std::array<std::byte, 12> out{};
  store_be(out, 0, 4, 8);
  out[4] = static_cast<std::byte>(found->failed ? 0x02 : 0x01);  // HDD, COPY MANAGER STATUS
  store_be(out, 5, 2, found->segments);
  store_be(out, 8, 4, std::min<std::uint64_t>(found->bytes, 0xffff'ffff));  // units: bytes
  unit.answer(command, out, command.cdb_field(10, 4));
}

void execute_receive_copy_parameters(LogicalUnit& unit, Command& command) {
  std::array<std::byte, 46> out{};
  store_be(out, 0, 4, out.size() - 4);
  out[4] = std::byte{0x01};  // SNLID
  store_be(out, 8, 2, kTargetsMax);
  store_be(out, 10, 2, kSegmentsMax);
  store_be(out, 12, 4, kListBytesMax);
  store_be(out, 16, 4, kTransferBytesMax);
  store_be(out, 34, 2, 16);  // TOTAL CONCURRENT COPIES
  out[36] = std::byte{16};
  out[37] = std::byte{9};  // DATA SEGMENT GRANULARITY: 512
  out[43] = std::byte{2};
  out[44] = static_cast<std::byte>(kBlockToBlock);
  out[45] = static_cast<std::byte>(kIdentificationTarget);
  unit.answer(command, out, command.cdb_field(10, 4));
}

}  // namespace holdfast::scsi
