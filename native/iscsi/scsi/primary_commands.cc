// Commands of SPC-4 that are about the unit rather than its blocks.
#include <algorithm>

#include "iscsi/scsi/big_endian.h"
#include "iscsi/scsi/handlers.h"
#include "iscsi/scsi/logical_unit.h"

namespace holdfast::scsi {

bool prepare_nothing(LogicalUnit&, Command&) { return true; }

void execute_test_unit_ready(LogicalUnit& unit, Command& command) { unit.finish(command); }

// SPC-4 section 6.39: the oldest unit attention, else NO SENSE.
void execute_request_sense(LogicalUnit& unit, Command& command) {
  Sense sense;
  if (command.nexus && !command.nexus->attentions.empty()) {
    sense = Sense{SenseKey::kUnitAttention, command.nexus->attentions.front()};
    command.nexus->attentions.erase(command.nexus->attentions.begin());
  }
  std::array<std::byte, kSenseBytesMax> bytes;
  std::size_t size = encode_sense(sense, command.cdb8(1) & 1, bytes);
  unit.answer(command, std::span(bytes).first(size), command.cdb8(4));
}

// SPC-4 section 6.33. There is LUN 0 and no well-known logical unit.
void execute_report_luns(LogicalUnit& unit, Command& command) {
  std::uint8_t select = command.cdb8(2);
  std::uint64_t allocation = command.cdb_field(6, 4);
  if (select > 0x02) return unit.fail(command, invalid_field(2));
  if (allocation < 16) return unit.fail(command, invalid_field(6));
  std::vector<std::byte> list(select == 0x01 ? 8 : 16);
  store_be(list, 0, 4, list.size() - 8);
  unit.answer(command, list, allocation);
}

// SPC-4 section 6.42: only the default self-test, which has nothing to find that reads do not.
void execute_send_diagnostic(LogicalUnit& unit, Command& command) {
  bool self_test = command.cdb8(1) & 0x04;
  if (!self_test || (command.cdb8(1) & 0xf0)) return unit.fail(command, invalid_field(1));
  if (command.cdb_field(3, 2) != 0) return unit.fail(command, invalid_field(3));
  unit.finish(command);
}

// SBC-3 section 5.25. The unit has no power conditions and, not being removable, nothing to eject.
bool prepare_start_stop(LogicalUnit& unit, Command& command) {
  if (command.cdb8(4) & 0xf0) return unit.reject(command, invalid_field(4));
  if (command.cdb8(4) & 0x02) return unit.reject(command, invalid_field(4));
  return true;
}

// START=0 makes everything durable, as the standard asks, and leaves the unit ready: other hosts may be using it.
void execute_start_stop(LogicalUnit& unit, Command& command) {
  bool start = command.cdb8(4) & 0x01, no_flush = command.cdb8(4) & 0x04;
  if (start || no_flush) return unit.finish(command);
  unit.device().flush([&unit, &command](Status status) {
    if (!status.ok()) return unit.device_failed(command, status.error());
    unit.finish(command);
  });
}

void execute_prevent_allow(LogicalUnit& unit, Command& command) {
  if (command.nexus) command.nexus->prevents_removal = command.cdb8(4) & 0x01;
  unit.finish(command);
}

// SPC-4 section 6.37: one group, active/optimized, with the one target port that all portals are.
void execute_report_target_port_groups(LogicalUnit& unit, Command& command) {
  std::uint8_t format = command.cdb8(1) >> 5;
  if (format > 1) return unit.fail(command, invalid_field(1));
  std::size_t header = format == 1 ? 8 : 4;
  std::vector<std::byte> out(header + 12);
  store_be(out, 0, 4, out.size() - 4);
  if (format == 1) out[4] = std::byte{0x10};
  auto group = std::span(out).subspan(header);
  group[1] = std::byte{0x01};  // AO_SUP
  store_be(group, 2, 2, 1);    // TARGET PORT GROUP
  group[7] = std::byte{1};     // TARGET PORT COUNT
  store_be(group, 10, 2, 1);   // RELATIVE TARGET PORT IDENTIFIER
  unit.answer(command, out, command.cdb_field(6, 4));
}

namespace {

void append_timeouts(const Operation& operation, std::vector<std::byte>& out) {
  std::size_t at = out.size();
  out.resize(at + 12);
  store_be(out, at, 2, 10);
  store_be(out, at + 8, 4, operation.timeout_seconds);
}

std::vector<std::byte> all_operations(bool timeouts) {
  std::vector<std::byte> out(4);
  for (const Operation& each : operations()) {
    std::size_t at = out.size();
    out.resize(at + 8);
    out[at] = static_cast<std::byte>(each.opcode);
    store_be(out, at + 2, 2, each.has_service_action ? each.service_action : 0);
    out[at + 5] =
        static_cast<std::byte>((timeouts ? 0x02 : 0) | (each.has_service_action ? 0x01 : 0));  // CTDP, SERVACTV
    store_be(out, at + 6, 2, each.cdb_size);
    if (timeouts) append_timeouts(each, out);
  }
  store_be(out, 0, 4, out.size() - 4);
  return out;
}

std::vector<std::byte> one_operation(const Operation* operation, bool timeouts) {
  std::vector<std::byte> out(4);
  out[1] = static_cast<std::byte>(operation ? 0x03 : 0x01);  // SUPPORT: as the standard says, or not at all
  if (!operation) return out;
  store_be(out, 2, 2, operation->cdb_size);
  for (std::size_t i = 0; i < operation->cdb_size; ++i) out.push_back(static_cast<std::byte>(operation->usage[i]));
  if (timeouts) {
    out[1] |= std::byte{0x80};  // CTDP
    append_timeouts(*operation, out);
  }
  return out;
}

}  // namespace

// SPC-4 section 6.35.
void execute_report_supported_opcodes(LogicalUnit& unit, Command& command) {
  std::uint8_t options = command.cdb8(2) & 0x07;
  bool timeouts = command.cdb8(2) & 0x80;
  std::uint64_t allocation = command.cdb_field(6, 4);
  if (options == 0) return unit.answer(command, all_operations(timeouts), allocation);
  if (options > 3) return unit.fail(command, invalid_field(2));
  std::uint8_t opcode = command.cdb8(3);
  std::uint64_t service_action = command.cdb_field(4, 2);
  bool known = false;
  const Operation* operation =
      find_operation(opcode, service_action < 0x20 ? static_cast<std::uint8_t>(service_action) : 0x1e, &known);
  bool has_service_actions = known && (!operation || operation->has_service_action);
  if (options == 1 && has_service_actions) return unit.fail(command, invalid_field(2));
  if (options == 2 && known && !has_service_actions) return unit.fail(command, invalid_field(2));
  if (options == 3 && operation && !operation->has_service_action && service_action != 0) operation = nullptr;
  unit.answer(command, one_operation(operation, timeouts), allocation);
}

// SPC-4 section 6.36: ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET, TARGET RESET; I_T NEXUS RESET.
void execute_report_supported_tmf(LogicalUnit& unit, Command& command) {
  bool extended = command.cdb8(2) & 0x80;
  std::vector<std::byte> out(extended ? 16 : 4);
  out[0] = std::byte{0x80 | 0x40 | 0x10 | 0x08 | 0x02};
  if (extended) out[3] = std::byte{12};
  unit.answer(command, out, command.cdb_field(6, 4));
}

}  // namespace holdfast::scsi
