// EXTENDED COPY(LID1) within the unit (SPC-4 sections 6.4 to 6.6 and 6.18 to 6.20): block to block, what hypervisors
// use to clone disks. A segment is read whole and then written, so source and destination may overlap.
#include "iscsi/scsi/copy_commands.h"

#include <algorithm>

#include "iscsi/scsi/big_endian.h"
#include "iscsi/scsi/handlers.h"
#include "iscsi/scsi/logical_unit.h"

namespace holdfast::scsi {

namespace {

constexpr std::size_t kHeader = 16, kTargetBytes = 32, kSegmentBytes = 28;
constexpr std::size_t kTargetsMax = 4, kSegmentsMax = 64;
constexpr std::size_t kListBytesMax = kHeader + kTargetBytes * kTargetsMax + kSegmentBytes * kSegmentsMax;
constexpr std::size_t kRecordsMax = 16;         // kept per nexus; also how many copies with a list identifier may run
constexpr std::size_t kConcurrentCopies = 128;  // what one session may have outstanding
constexpr std::uint8_t kGranularityLog2 = 9;
constexpr std::uint8_t kBlockToBlock = 0x02, kIdentificationTarget = 0xe4;

constexpr Sense kTooManyTargets{SenseKey::kIllegalRequest, 0x2606};
constexpr Sense kUnsupportedTarget{SenseKey::kIllegalRequest, 0x2607};
constexpr Sense kTooManySegments{SenseKey::kIllegalRequest, 0x2608};
constexpr Sense kUnsupportedSegment{SenseKey::kIllegalRequest, 0x2609};
constexpr Sense kInlineDataTooLong{SenseKey::kIllegalRequest, 0x260b};
constexpr Sense kOperationInProgress{SenseKey::kIllegalRequest, 0x0016};
// Errors of a segment rather than of the list's shape (SPC-4: errors detected while segments are processed).
constexpr Sense kUnreachableTarget{SenseKey::kCopyAborted, 0x0804};
constexpr Sense kSegmentOutOfRange{SenseKey::kCopyAborted, 0x0000};

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
    if (load_be16(segment, 4) >= parsed.targets || load_be16(segment, 6) >= parsed.targets) return kUnreachableTarget;
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
      if (lba > unit.block_count() || count > unit.block_count() - lba) return kSegmentOutOfRange;
    }
    if (count * unit.block_size() > kTransferBytesMax) {
      return invalid_parameter(static_cast<std::uint16_t>(parsed.segments_at + i * kSegmentBytes + 10));
    }
  }
  return std::nullopt;
}

CopyRecord* find_record(Nexus& nexus, std::uint8_t list_identifier) {
  auto found = std::find_if(nexus.copies.begin(), nexus.copies.end(),
                            [&](auto& each) { return each.list_identifier == list_identifier; });
  return found == nexus.copies.end() ? nullptr : &*found;
}

// LIST ID USAGE 11b: the identifier means nothing and the copy cannot be asked about.
bool has_identifier(std::span<const std::byte> list) { return (load_u8(list, 1) & 0x18) != 0x18; }

// False: a copy with this identifier is running, or there are too many.
bool begin_record(Nexus& nexus, std::span<const std::byte> list) {
  if (!has_identifier(list)) return true;
  CopyRecord* earlier = find_record(nexus, load_u8(list, 0));
  if (earlier && earlier->state == CopyRecord::State::kInProgress) return false;
  std::erase_if(nexus.copies, [&](auto& each) { return each.list_identifier == load_u8(list, 0); });
  if (nexus.copies.size() >= kRecordsMax) {
    auto ended = std::find_if(nexus.copies.begin(), nexus.copies.end(),
                              [](auto& each) { return each.state != CopyRecord::State::kInProgress; });
    if (ended == nexus.copies.end()) return false;
    nexus.copies.erase(ended);
  }
  nexus.copies.push_back({load_u8(list, 0)});
  return true;
}

void update_record(Command& command, CopyRecord::State state) {
  auto list = command.scratch.bytes();
  CopyRecord* record = command.nexus && has_identifier(list) ? find_record(*command.nexus, load_u8(list, 0)) : nullptr;
  if (!record) return;
  record->state = state;
  record->segments = static_cast<std::uint16_t>(command.length);
  record->bytes = command.done;
}

void copy_failed(LogicalUnit& unit, Command& command, const Error& error) {
  update_record(command, CopyRecord::State::kFailed);
  unit.device_failed(command, error);
}

// `scratch` is the list, `length` counts segments done, `done` bytes copied.
void copy_next(LogicalUnit& unit, Command& command) {
  auto list = command.scratch.bytes();
  CopyList parsed;
  CHECK(!parse_list(list, parsed), "the list was checked before");
  bool ended = command.aborted || command.length >= parsed.segments;
  if (ended) {
    update_record(command, command.aborted ? CopyRecord::State::kFailed : CopyRecord::State::kDone);
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
    if (!data.ok()) return copy_failed(unit, command, data.error());
    unit.device().write(destination, std::move(*data), BlockDevice::Durability::kJournalled,
                        [&unit, &command, size](Status status) {
                          if (!status.ok()) return copy_failed(unit, command, status.error());
                          command.done += size;
                          ++command.length;
                          update_record(command, CopyRecord::State::kInProgress);
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
  command.data_in_estimate = kTransferBytesMax;  // one segment at a time is held
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
  if (command.nexus && !begin_record(*command.nexus, list)) return unit.fail(command, kOperationInProgress);
  command.scratch = unit.env().buffers().copy_of(list);
  command.length = 0;
  copy_next(unit, command);
}

void execute_receive_copy_status(LogicalUnit& unit, Command& command) {
  const CopyRecord* record = command.nexus ? find_record(*command.nexus, command.cdb8(2)) : nullptr;
  if (!record) return unit.fail(command, invalid_field(2));
  std::array<std::byte, 12> out{};
  store_be(out, 0, 4, 8);
  out[4] = static_cast<std::byte>(record->state);
  store_be(out, 5, 2, record->segments);
  store_be(out, 8, 4, std::min<std::uint64_t>(record->bytes, 0xffff'ffff));  // TRANSFER COUNT UNITS 0: bytes
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
  store_be(out, 34, 2, kConcurrentCopies);
  out[36] = static_cast<std::byte>(kRecordsMax);  // MAXIMUM CONCURRENT COPIES with an identifier
  out[37] = static_cast<std::byte>(kGranularityLog2);
  out[43] = std::byte{2};
  out[44] = static_cast<std::byte>(kBlockToBlock);
  out[45] = static_cast<std::byte>(kIdentificationTarget);
  unit.answer(command, out, command.cdb_field(10, 4));
}

std::vector<std::byte> third_party_copy_page() {
  std::vector<std::byte> page;
  // Appends a descriptor with `size` bytes of content, padded to a multiple of four; returns where the content begins.
  auto append = [&page](std::uint16_t type, std::size_t size) {
    std::size_t at = page.size(), padded = (size + 3) / 4 * 4;
    page.resize(at + 4 + padded);
    store_be(page, at, 2, type);
    store_be(page, at + 2, 2, padded);
    return at + 4;
  };
  constexpr std::uint8_t kCommands[] = {0x83, 1, 0x00, 0x84, 2, 0x00, 0x03};  // code, number of actions, actions
  std::size_t at = append(0x0001, 1 + sizeof(kCommands));                     // Supported Commands
  page[at] = static_cast<std::byte>(sizeof(kCommands));
  for (std::size_t i = 0; i < sizeof(kCommands); ++i) page[at + 1 + i] = static_cast<std::byte>(kCommands[i]);
  at = append(0x0004, 28);  // Parameter Data
  store_be(page, at + 4, 2, kTargetsMax);
  store_be(page, at + 6, 2, kSegmentsMax);
  store_be(page, at + 8, 4, kListBytesMax);
  at = append(0x0008, 3);  // Supported Descriptors
  page[at] = std::byte{2};
  page[at + 1] = static_cast<std::byte>(kBlockToBlock);
  page[at + 2] = static_cast<std::byte>(kIdentificationTarget);
  append(0x000c, 2);        // Supported CSCD Descriptor IDs: none but those of the list
  at = append(0x8001, 32);  // General Copy Operations
  store_be(page, at, 4, kConcurrentCopies);
  store_be(page, at + 4, 4, kRecordsMax);
  store_be(page, at + 8, 4, kTransferBytesMax);
  page[at + 12] = static_cast<std::byte>(kGranularityLog2);
  return page;
}

}  // namespace holdfast::scsi
