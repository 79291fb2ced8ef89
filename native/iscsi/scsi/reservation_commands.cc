// RESERVE(6), RELEASE(6), PERSISTENT RESERVE IN and OUT (SPC-4 sections 6.15 and 6.16; SPC-2 for the old pair), and how
// a reservation change takes force. The rules themselves are in reservations.cc.
#include <utility>

#include "base/log.h"
#include "iscsi/scsi/big_endian.h"
#include "iscsi/scsi/handlers.h"
#include "iscsi/scsi/logical_unit.h"
#include "iscsi/scsi/transport_id.h"

namespace holdfast::scsi {

void execute_reserve6(LogicalUnit& unit, Command& command) {
  if (command.cdb8(1) & 0x11) return unit.fail(command, invalid_field(1));  // third party, extents: obsolete
  if (unit.reservations().any_registered()) {
    command.status = ScsiStatus::kReservationConflict;
    return unit.finish(command);
  }
  unit.reserve6_holder = command.nexus;  // check_reservations() has made sure nobody else holds it
  unit.finish(command);
}

void execute_release6(LogicalUnit& unit, Command& command) {
  if (command.cdb8(1) & 0x11) return unit.fail(command, invalid_field(1));
  if (unit.reserve6_holder == command.nexus) unit.reserve6_holder = nullptr;
  unit.finish(command);
}

namespace {

std::vector<std::byte> read_keys(const Reservations& state) {
  std::vector<std::byte> out(8 + 8 * state.registrants().size());
  store_be(out, 0, 4, state.generation());
  store_be(out, 4, 4, out.size() - 8);
  std::size_t at = 8;
  for (const auto& each : state.registrants()) {
    store_be(out, at, 8, each.key);
    at += 8;
  }
  return out;
}

std::vector<std::byte> read_reservation(const Reservations& state) {
  std::vector<std::byte> out(state.type() ? 24 : 8);
  store_be(out, 0, 4, state.generation());
  store_be(out, 4, 4, out.size() - 8);
  if (state.type()) {
    store_be(out, 8, 8, state.holder_key());
    out[21] = static_cast<std::byte>(*state.type());
  }
  return out;
}

std::vector<std::byte> report_capabilities(const Reservations& state) {
  std::vector<std::byte> out(8);
  store_be(out, 0, 2, 8);
  out[2] = std::byte{0x05};                                            // ATP_C: all target ports are one; PTPL_C
  out[3] = static_cast<std::byte>(0x80 | (state.aptpl() ? 0x01 : 0));  // TMV, PTPL_A
  store_be(out, 4, 2, 0xea01);                                         // types 7, 6, 5, 3, 1; 8
  return out;
}

std::vector<std::byte> read_full_status(const Reservations& state) {
  std::vector<std::byte> out(8);
  for (const auto& each : state.registrants()) {
    std::vector<std::byte> id = transport_id_of_port(each.port);
    std::size_t at = out.size();
    out.resize(at + 24 + id.size());
    store_be(out, at, 8, each.key);
    bool holds = state.holds(each.port);
    out[at + 12] = static_cast<std::byte>(0x02 | (holds ? 0x01 : 0));  // ALL_TG_PT, R_HOLDER
    if (holds) out[at + 13] = static_cast<std::byte>(*state.type());
    store_be(out, at + 18, 2, 1);  // RELATIVE TARGET PORT IDENTIFIER
    store_be(out, at + 20, 4, id.size());
    std::copy(id.begin(), id.end(), out.begin() + static_cast<std::ptrdiff_t>(at) + 24);
  }
  store_be(out, 0, 4, state.generation());
  store_be(out, 4, 4, out.size() - 8);
  return out;
}

}  // namespace

void execute_persistent_reserve_in(LogicalUnit& unit, Command& command) {
  const Reservations& state = unit.reservations();
  std::vector<std::byte> out;
  switch (command.operation->service_action) {
    case 0:
      out = read_keys(state);
      break;
    case 1:
      out = read_reservation(state);
      break;
    case 2:
      out = report_capabilities(state);
      break;
    default:
      out = read_full_status(state);
      break;
  }
  unit.answer(command, out, command.cdb_field(7, 2));
}

bool prepare_persistent_reserve_out(LogicalUnit& unit, Command& command) {
  command.data_out_length = command.cdb_field(5, 4);
  bool moves = command.operation->service_action == static_cast<std::uint8_t>(ReserveAction::kRegisterAndMove);
  bool length_ok =
      moves ? command.data_out_length >= 48 && command.data_out_length <= 512 : command.data_out_length == 24;
  if (!length_ok) return unit.reject(command, senses::kParameterListLength);
  return true;
}

void execute_persistent_reserve_out(LogicalUnit& unit, Command& command) { unit.change_reservations(command); }

namespace {

// The parameter list of table 219 (or 221 for REGISTER AND MOVE); the sense of what is wrong with it otherwise.
std::optional<Sense> parse_reserve_request(const Command& command, std::span<const std::byte> list,
                                           ReserveRequest& request) {
  request.action = static_cast<ReserveAction>(command.operation->service_action);
  request.scope = command.cdb8(2) >> 4;
  request.type = command.cdb8(2) & 0x0f;
  if (list.size() < command.data_out_length) return senses::kParameterListLength;
  request.key = load_be64(list, 0);
  request.service_action_key = load_be64(list, 8);
  if (request.action == ReserveAction::kRegisterAndMove) {
    std::uint8_t flags = load_u8(list, 17);
    request.unregister = flags & 0x02;
    request.aptpl = flags & 0x01;
    if (load_be16(list, 18) != 1) return invalid_parameter(18);
    std::size_t id_bytes = load_be32(list, 20);
    if (24 + id_bytes != list.size()) return invalid_parameter(20);
    std::optional<std::string> port = port_of_transport_id(list.subspan(24));
    if (!port) return invalid_parameter(24);
    request.move_to = std::move(*port);
    return std::nullopt;
  }
  std::uint8_t flags = load_u8(list, 20);
  bool registers = request.action == ReserveAction::kRegister || request.action == ReserveAction::kRegisterAndIgnore;
  if (registers && (flags & 0x08)) return invalid_parameter(20);  // SPEC_I_PT is not supported
  request.aptpl = registers && (flags & 0x01);
  return std::nullopt;
}

}  // namespace

void LogicalUnit::change_reservations(Command& command) {
  reservation_changes_.push_back(&command);
  if (!saving_) next_reservation_change();
}

void LogicalUnit::next_reservation_change() {
  while (!reservation_changes_.empty() && !saving_) {
    Command& command = *reservation_changes_.front();
    reservation_changes_.pop_front();
    if (command.aborted || !command.nexus) {
      finish(command);
      continue;
    }
    ReserveRequest request;
    if (std::optional<Sense> wrong = parse_reserve_request(command, gather(command.data_out), request)) {
      fail(command, *wrong);
      continue;
    }
    Reservations wanted = reservations_;
    ReservationEffects effects = wanted.apply(command.nexus->port, request);
    if (effects.status == ScsiStatus::kCheckCondition) {
      fail(command, effects.sense);
    } else if (effects.status != ScsiStatus::kGood || !effects.changed) {
      command.status = effects.status;
      finish(command);
    } else {
      saving_ = true;
      struct Pending {
        Reservations wanted;
        ReservationEffects effects;
      };
      std::string text = wanted.save();
      auto pending = std::make_unique<Pending>(Pending{std::move(wanted), std::move(effects)});
      save_(std::move(text), [this, &command, pending = std::move(pending)](Status saved) {
        saving_ = false;
        reservation_saved(command, std::move(pending->wanted), std::move(pending->effects), std::move(saved));
        next_reservation_change();
      });
    }
  }
}

void LogicalUnit::reservation_saved(Command& command, Reservations wanted, ReservationEffects effects, Status saved) {
  if (!saved.ok()) {
    log_error("iscsi", "a reservation change of " + identity_.target_name +
                           " could not be saved and was refused: " + saved.error().to_string());
    return fail(command, senses::kInternalTargetFailure);
  }
  reservations_ = std::move(wanted);
  for (const auto& [port, code] : effects.attentions) {
    if (Nexus* nexus = nexus_of_port(port)) nexus->attend(code);
  }
  if (effects.abort_ports.empty()) return finish(command);
  // PREEMPT AND ABORT is answered when the preempted commands have left the unit.
  auto wait = std::make_shared<AbortWait>();
  wait->done = [this, &command] { finish(command); };
  for (const std::string& port : effects.abort_ports) {
    if (Nexus* nexus = nexus_of_port(port)) {
      nexus->attend(attentions::kCommandsCleared);
      abort_nexus_tasks(nexus, command.nexus, [wait] {});
    }
  }
}

}  // namespace holdfast::scsi
