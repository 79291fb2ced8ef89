#include "iscsi/scsi/mode_pages.h"

#include <algorithm>
#include <array>

#include "iscsi/scsi/big_endian.h"
#include "iscsi/scsi/handlers.h"
#include "iscsi/scsi/logical_unit.h"

namespace holdfast::scsi {

namespace {

constexpr std::uint8_t kAllPages = 0x3f;
constexpr std::uint8_t kAllSubpages = 0xff;

using PageBytes = std::vector<std::uint8_t>;

constexpr std::uint8_t kErrorRecovery = 0x01, kCaching = 0x08, kControl = 0x0a, kInformationalExceptions = 0x1c;
constexpr std::uint8_t kPages[] = {kErrorRecovery, kCaching, kControl, kInformationalExceptions};

PageBytes control_page(PageControl control, const ModeParameters& parameters) {
  PageBytes page(12, 0);
  page[0] = kControl;
  page[1] = 10;
  if (control == PageControl::kChangeable) {
    page[2] = 0x04;  // D_SENSE
    page[4] = 0x08;  // SWP
    return page;
  }
  bool current = control == PageControl::kCurrent;
  page[2] = current && parameters.descriptor_sense ? 0x04 : 0;
  page[3] = 0x10;  // QUEUE ALGORITHM MODIFIER: unrestricted; overlapping commands keep their order of arrival
  page[4] = current && parameters.write_protected ? 0x08 : 0;
  page[5] = 0x40;  // TAS: commands aborted for another nexus's sake get TASK ABORTED
  store_be(std::as_writable_bytes(std::span(page)), 8, 2, 0xffff);  // BUSY TIMEOUT PERIOD: unlimited
  return page;
}

PageBytes page_bytes(std::uint8_t code, PageControl control, const ModeParameters& parameters) {
  if (code == kControl) return control_page(control, parameters);
  std::uint8_t length = code == kCaching ? 18 : 10;
  PageBytes page(length + 2u, 0);
  page[0] = code;
  page[1] = length;
  if (control == PageControl::kChangeable) return page;
  if (code == kErrorRecovery) page[2] = 0xc0;  // AWRE, ARRE: repaired from another replica
  if (code == kCaching) page[2] = 0x04;        // WCE: acknowledged writes are journalled, not yet flushed
  return page;
}

bool is_10_byte_form(const Command& command) { return command.cdb8(0) >= 0x20; }

}  // namespace

bool append_mode_page(std::uint8_t page, std::uint8_t subpage, PageControl control, const ModeParameters& parameters,
                      std::vector<std::byte>& out) {
  if (subpage != 0 && !(subpage == kAllSubpages)) return false;
  bool found = false;
  for (std::uint8_t code : kPages) {
    if (page != code && page != kAllPages) continue;
    found = true;
    PageBytes bytes = page_bytes(code, control, parameters);
    auto raw = std::as_bytes(std::span(bytes));
    out.insert(out.end(), raw.begin(), raw.end());
  }
  return found;
}

// SPC-4 sections 6.11 and 6.12.
void execute_mode_sense(LogicalUnit& unit, Command& command) {
  bool ten = is_10_byte_form(command);
  auto control = static_cast<PageControl>(command.cdb8(2) >> 6);
  std::size_t allocation = ten ? command.cdb_field(7, 2) : command.cdb8(4);
  bool disable_descriptors = command.cdb8(1) & 0x08;
  bool long_lba = ten && (command.cdb8(1) & 0x10);
  if (control == PageControl::kSaved) return unit.fail(command, senses::kSavingNotSupported);

  std::vector<std::byte> answer(ten ? 8 : 4);
  std::size_t descriptor_size = disable_descriptors ? 0 : long_lba ? 16 : 8;
  answer.resize(answer.size() + descriptor_size);
  std::span<std::byte> descriptor = std::span(answer).subspan(ten ? 8 : 4);
  if (descriptor_size == 16) {
    store_be(descriptor, 0, 8, unit.block_count());
    store_be(descriptor, 12, 4, unit.block_size());
  } else if (descriptor_size == 8) {
    store_be(descriptor, 0, 4, std::min<std::uint64_t>(unit.block_count(), 0xffff'ffff));
    store_be(descriptor, 5, 3, unit.block_size());
  }
  if (!append_mode_page(command.cdb8(2) & 0x3f, command.cdb8(3), control, unit.mode(), answer)) {
    return unit.fail(command, invalid_field(2));
  }
  std::uint8_t device_specific = 0x10 | (unit.mode().write_protected ? 0x80 : 0);  // DPOFUA, WP
  if (ten) {
    store_be(answer, 0, 2, answer.size() - 2);
    answer[3] = static_cast<std::byte>(device_specific);
    answer[4] = static_cast<std::byte>(long_lba && !disable_descriptors);
    store_be(answer, 6, 2, descriptor_size);
  } else {
    answer[0] = static_cast<std::byte>(answer.size() - 1);
    answer[2] = static_cast<std::byte>(device_specific);
    answer[3] = static_cast<std::byte>(descriptor_size);
  }
  unit.answer(command, answer, allocation);
}

bool prepare_mode_select(LogicalUnit& unit, Command& command) {
  if (command.cdb8(1) & 0x01) return unit.reject(command, invalid_field(1));     // SP: nothing can be saved
  if (!(command.cdb8(1) & 0x10)) return unit.reject(command, invalid_field(1));  // PF: vendor formats are unknown
  command.data_out_length = is_10_byte_form(command) ? command.cdb_field(7, 2) : command.cdb8(4);
  return true;
}

// SPC-4 sections 6.9 and 6.10. All pages are checked before any takes effect.
void execute_mode_select(LogicalUnit& unit, Command& command) {
  std::vector<std::byte> list = unit.gather(command.data_out);
  std::size_t header = is_10_byte_form(command) ? 8 : 4;
  if (command.data_out_length == 0) return unit.finish(command);
  if (list.size() < command.data_out_length || list.size() < header) {
    return unit.fail(command, senses::kParameterListLength);
  }
  std::size_t descriptors = header == 8 ? load_be16(list, 6) : load_u8(list, 3);
  if (header + descriptors > list.size()) return unit.fail(command, senses::kParameterListLength);
  if (descriptors >= 8) {
    bool long_lba = header == 8 && (load_u8(list, 4) & 1);
    std::uint64_t size = long_lba && descriptors >= 16 ? load_be32(list, header + 12) : load_be(list, header + 5, 3);
    if (size != 0 && size != unit.block_size()) {
      return unit.fail(command, invalid_parameter(static_cast<std::uint16_t>(header + 5)));
    }
  }
  ModeParameters wanted = unit.mode();
  std::size_t at = header + descriptors;
  while (at < list.size()) {
    if (at + 2 > list.size()) return unit.fail(command, senses::kParameterListLength);
    std::uint8_t code = load_u8(list, at) & 0x3f;
    std::size_t size = load_u8(list, at + 1) + 2u;
    auto pointer = static_cast<std::uint16_t>(at);
    bool known = std::find(std::begin(kPages), std::end(kPages), code) != std::end(kPages);
    if (!known || (load_u8(list, at) & 0x40)) return unit.fail(command, invalid_parameter(pointer));
    PageBytes current = page_bytes(code, PageControl::kCurrent, unit.mode());
    PageBytes changeable = page_bytes(code, PageControl::kChangeable, unit.mode());
    if (size != current.size()) return unit.fail(command, invalid_parameter(pointer + 1));
    if (at + size > list.size()) return unit.fail(command, senses::kParameterListLength);
    for (std::size_t i = 2; i < size; ++i) {
      if ((load_u8(list, at + i) ^ current[i]) & ~changeable[i]) {
        return unit.fail(command, invalid_parameter(static_cast<std::uint16_t>(at + i)));
      }
    }
    if (code == kControl) {
      wanted.descriptor_sense = load_u8(list, at + 2) & 0x04;
      wanted.write_protected = load_u8(list, at + 4) & 0x08;
    }
    at += size;
  }
  unit.set_mode(wanted, command.nexus);
  unit.finish(command);
}

}  // namespace holdfast::scsi
