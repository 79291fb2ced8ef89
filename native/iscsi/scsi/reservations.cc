#include "iscsi/scsi/reservations.h"

#include <algorithm>
#include <charconv>

#include "base/types.h"

namespace holdfast::scsi {

namespace {

void conflict(ReservationEffects& effects) { effects.status = ScsiStatus::kReservationConflict; }

void fail(ReservationEffects& effects, const Sense& sense) {
  effects.status = ScsiStatus::kCheckCondition;
  effects.sense = sense;
}

bool is_all_registrants(ReservationType type) {
  return type == ReservationType::kWriteExclusiveAllRegistrants ||
         type == ReservationType::kExclusiveAccessAllRegistrants;
}
// Types under which registrants, not only the holder, may access.
bool is_shared(ReservationType type) {
  return is_all_registrants(type) || type == ReservationType::kWriteExclusiveRegistrantsOnly ||
         type == ReservationType::kExclusiveAccessRegistrantsOnly;
}
bool is_exclusive_access(ReservationType type) {
  return type == ReservationType::kExclusiveAccess || type == ReservationType::kExclusiveAccessRegistrantsOnly ||
         type == ReservationType::kExclusiveAccessAllRegistrants;
}

}  // namespace

std::optional<ReservationType> reservation_type(std::uint8_t code) {
  switch (code) {
    case 1:
    case 3:
    case 5:
    case 6:
    case 7:
    case 8:
      return static_cast<ReservationType>(code);
    default:
      return std::nullopt;
  }
}

Reservations::Registrant* Reservations::find(std::string_view port) {
  auto found = std::find_if(registrants_.begin(), registrants_.end(), [&](auto& each) { return each.port == port; });
  return found == registrants_.end() ? nullptr : &*found;
}
const Reservations::Registrant* Reservations::find(std::string_view port) const {
  return const_cast<Reservations*>(this)->find(port);
}

bool Reservations::all_registrants() const { return type_ && is_all_registrants(*type_); }

bool Reservations::holds(std::string_view port) const {
  if (!type_) return false;
  return all_registrants() ? registered(port) : holder_ == port;
}

std::uint64_t Reservations::holder_key() const {
  const Registrant* holder = find(holder_);
  return holder ? holder->key : 0;
}

bool Reservations::conflicts(std::string_view port, Access access) const {
  if (!type_ || holds(port)) return false;
  if (is_shared(*type_) && registered(port)) return false;
  switch (access) {
    case Access::kRead:
      return is_exclusive_access(*type_);
    case Access::kWrite:
    case Access::kStartStop:
    case Access::kPrevent:
      return true;
    default:
      return false;
  }
}

void Reservations::remove(std::string_view port) {
  std::erase_if(registrants_, [&](auto& each) { return each.port == port; });
}

// SPC-4 section 5.12.11.2.2: registrants other than the one that released hear of it, for the shared types.
void Reservations::release(std::string_view by, ReservationEffects& effects) {
  if (is_shared(*type_)) {
    for (const Registrant& each : registrants_) {
      if (each.port != by) effects.attentions.emplace_back(each.port, attentions::kReservationsReleased);
    }
  }
  type_.reset();
  holder_.clear();
}

ReservationEffects Reservations::apply(std::string_view port, const ReserveRequest& request) {
  ReservationEffects effects;
  const Registrant* self = find(port);
  bool registers = request.action == ReserveAction::kRegister || request.action == ReserveAction::kRegisterAndIgnore;
  if (!registers && !self) {
    conflict(effects);
    return effects;
  }
  if (request.action != ReserveAction::kRegisterAndIgnore) {
    if (self ? self->key != request.key : request.key != 0) {
      conflict(effects);
      return effects;
    }
  }
  switch (request.action) {
    case ReserveAction::kRegister:
    case ReserveAction::kRegisterAndIgnore:
      register_key(port, request, effects);
      break;
    case ReserveAction::kReserve:
      reserve(port, request, effects);
      break;
    case ReserveAction::kRelease:
      release_action(port, request, effects);
      break;
    case ReserveAction::kClear:
      clear(port, effects);
      break;
    case ReserveAction::kPreempt:
    case ReserveAction::kPreemptAndAbort:
      preempt(port, request, effects);
      break;
    case ReserveAction::kRegisterAndMove:
      move(port, request, effects);
      break;
  }
  return effects;
}

void Reservations::register_key(std::string_view port, const ReserveRequest& request, ReservationEffects& effects) {
  Registrant* self = find(port);
  if (!self && request.service_action_key == 0) return;  // nothing to register, nothing to remove
  if (!self && registrants_.size() >= kRegistrantsMax) return fail(effects, senses::kInsufficientRegistrations);
  effects.changed = true;
  ++generation_;
  aptpl_ = request.aptpl;
  if (!self) {
    registrants_.push_back({std::string(port), request.service_action_key});
  } else if (request.service_action_key != 0) {
    self->key = request.service_action_key;
  } else {
    unregister(port, effects);
  }
}

// SPC-4 section 5.12.11.2.3: the holder's registration takes the reservation along, the last one for all registrants.
void Reservations::unregister(std::string_view port, ReservationEffects& effects) {
  bool was_holder = type_ && !all_registrants() && holder_ == port;
  remove(port);
  if (was_holder || (all_registrants() && registrants_.empty())) release(port, effects);
}

void Reservations::reserve(std::string_view port, const ReserveRequest& request, ReservationEffects& effects) {
  std::optional<ReservationType> type = reservation_type(request.type);
  if (request.scope != 0 || !type) return fail(effects, invalid_field(2));
  if (type_) {
    if (!holds(port) || *type_ != *type) conflict(effects);
    return;
  }
  effects.changed = true;
  type_ = type;
  holder_ = is_all_registrants(*type) ? std::string() : std::string(port);
}

void Reservations::release_action(std::string_view port, const ReserveRequest& request, ReservationEffects& effects) {
  if (!type_ || !holds(port)) return;
  if (request.scope != 0 || reservation_type(request.type) != type_) return fail(effects, senses::kInvalidRelease);
  effects.changed = true;
  release(port, effects);
}

void Reservations::clear(std::string_view port, ReservationEffects& effects) {
  for (const Registrant& each : registrants_) {
    if (each.port != port) effects.attentions.emplace_back(each.port, attentions::kReservationsPreempted);
  }
  effects.changed = true;
  ++generation_;
  registrants_.clear();
  type_.reset();
  holder_.clear();
}

// Removes every registration with `key` (all when nullopt) but that of `port`.
void Reservations::preempt_registrations(std::string_view port, std::optional<std::uint64_t> key, bool abort,
                                         ReservationEffects& effects) {
  std::erase_if(registrants_, [&](const Registrant& each) {
    if (each.port == port || (key && each.key != *key)) return false;
    effects.attentions.emplace_back(each.port, attentions::kRegistrationsPreempted);
    if (abort) effects.abort_ports.push_back(each.port);
    return true;
  });
}

// SPC-4 section 5.12.11.2.6 and figure 9.
void Reservations::preempt(std::string_view port, const ReserveRequest& request, ReservationEffects& effects) {
  bool abort = request.action == ReserveAction::kPreemptAndAbort;
  std::uint64_t key = request.service_action_key;
  bool key_known = std::any_of(registrants_.begin(), registrants_.end(), [&](auto& each) { return each.key == key; });
  bool takes_over = type_ && (all_registrants() ? key == 0 : key == holder_key());
  if (!takes_over) {
    if (key == 0) return fail(effects, invalid_parameter(8));
    if (!key_known) return conflict(effects);
    effects.changed = true;
    ++generation_;
    preempt_registrations(port, key, abort, effects);
    if (all_registrants() && registrants_.empty()) release(port, effects);
    return;
  }
  std::optional<ReservationType> type = reservation_type(request.type);
  if (request.scope != 0 || !type) return fail(effects, invalid_field(2));
  effects.changed = true;
  ++generation_;
  bool type_changes = *type_ != *type;
  preempt_registrations(port, key == 0 ? std::nullopt : std::optional(key), abort, effects);
  if (type_changes) {
    for (const Registrant& each : registrants_) {
      if (each.port != port) effects.attentions.emplace_back(each.port, attentions::kReservationsReleased);
    }
  }
  type_ = type;
  holder_ = is_all_registrants(*type) ? std::string() : std::string(port);
}

// SPC-4 section 5.12.8: only a holder of a single-holder reservation can hand it on.
void Reservations::move(std::string_view port, const ReserveRequest& request, ReservationEffects& effects) {
  if (!type_ || !holds(port)) return conflict(effects);
  if (all_registrants()) return conflict(effects);
  if (request.service_action_key == 0) return fail(effects, invalid_parameter(8));
  if (request.move_to == port) return fail(effects, invalid_parameter(24));
  Registrant* target = find(request.move_to);
  if (!target && registrants_.size() >= kRegistrantsMax) return fail(effects, senses::kInsufficientRegistrations);
  effects.changed = true;
  ++generation_;
  aptpl_ = request.aptpl;
  if (target) {
    target->key = request.service_action_key;
  } else {
    registrants_.push_back({request.move_to, request.service_action_key});
  }
  holder_ = request.move_to;
  if (request.unregister) remove(port);
}

// The text, one item a line; keys are 16 hex digits; ports have no spaces (RFC 3722 names):
//   holdfast-reservations 1
//   generation 7
//   aptpl 1
//   registrant 00000000deadbeef iqn.1994-05.com.example:host,i,0x00023d000001
//   reservation 5 iqn.1994-05.com.example:host,i,0x00023d000001     (type; no port for types 7 and 8)
std::string Reservations::save() const {
  if (registrants_.empty() && generation_ == 0) return "";
  std::string text =
      "holdfast-reservations 1\ngeneration " + std::to_string(generation_) + "\naptpl " + (aptpl_ ? "1" : "0") + "\n";
  for (const Registrant& each : registrants_) text += "registrant " + to_hex(each.key) + " " + each.port + "\n";
  if (type_) {
    text += "reservation " + std::to_string(static_cast<unsigned>(*type_));
    if (!holder_.empty()) text += " " + holder_;
    text += "\n";
  }
  return text;
}

namespace {

std::string_view take_until(std::string_view& text, char end) {
  std::size_t at = text.find(end);
  std::string_view taken = text.substr(0, at);
  text = at == std::string_view::npos ? std::string_view() : text.substr(at + 1);
  return taken;
}

template <typename T>
bool parse_number(std::string_view text, int base, T& value) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

}  // namespace

Result<Reservations> Reservations::restore(std::string_view text) {
  Reservations state;
  if (text.empty()) return state;
  auto bad = [](std::string_view line) {
    return Error(ErrorCode::kInvalidArgument, "stored reservations are malformed at '" + std::string(line) +
                                                  "'; clear them (all registrations are then forgotten)");
  };
  std::string_view head = take_until(text, '\n');
  if (head != "holdfast-reservations 1") {
    if (head.starts_with("holdfast-reservations ")) {
      return Error(ErrorCode::kFormatTooNew, "stored reservations have a newer format; use a newer Holdfast");
    }
    return bad(head);
  }
  while (!text.empty()) {
    std::string_view line = take_until(text, '\n');
    std::string_view rest = line;
    std::string_view word = take_until(rest, ' ');
    if (word == "generation") {
      if (!parse_number(rest, 10, state.generation_)) return bad(line);
    } else if (word == "aptpl") {
      if (rest != "0" && rest != "1") return bad(line);
      state.aptpl_ = rest == "1";
    } else if (word == "registrant") {
      Registrant each;
      if (!parse_number(take_until(rest, ' '), 16, each.key) || rest.empty() || each.key == 0) return bad(line);
      if (state.registered(rest) || state.registrants_.size() >= kRegistrantsMax) return bad(line);
      each.port = std::string(rest);
      state.registrants_.push_back(std::move(each));
    } else if (word == "reservation") {
      std::uint8_t code = 0;
      if (state.type_ || !parse_number(take_until(rest, ' '), 10, code)) return bad(line);
      state.type_ = reservation_type(code);
      if (!state.type_ || rest.empty() != is_all_registrants(*state.type_)) return bad(line);
      if (!rest.empty() && !state.registered(rest)) return bad(line);
      if (state.registrants_.empty()) return bad(line);
      state.holder_ = std::string(rest);
    } else {
      return bad(line);
    }
  }
  return state;
}

}  // namespace holdfast::scsi
