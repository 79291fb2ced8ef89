// Persistent reservations (SPC-4 section 5.12) as a pure state machine: registrations by initiator port, at most one
// reservation, and what each PERSISTENT RESERVE OUT makes of them. A change is computed on a copy, which is saved
// before it takes force. Registrations outlive restarts whether or not APTPL asked for it: a restart of Holdfast is a
// failover, not a power loss of the unit, and forgetting a fence could let two writers in.
//
// All portals of a target are one target port (relative identifier 1), so ALL_TG_PT changes nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "iscsi/scsi/operations.h"
#include "iscsi/scsi/sense.h"

namespace holdfast::scsi {

enum class ReservationType : std::uint8_t {
  kWriteExclusive = 1,
  kExclusiveAccess = 3,
  kWriteExclusiveRegistrantsOnly = 5,
  kExclusiveAccessRegistrantsOnly = 6,
  kWriteExclusiveAllRegistrants = 7,
  kExclusiveAccessAllRegistrants = 8,
};
std::optional<ReservationType> reservation_type(std::uint8_t code);

enum class ReserveAction : std::uint8_t {
  kRegister = 0,
  kReserve = 1,
  kRelease = 2,
  kClear = 3,
  kPreempt = 4,
  kPreemptAndAbort = 5,
  kRegisterAndIgnore = 6,
  kRegisterAndMove = 7,
};

struct ReserveRequest {
  ReserveAction action = ReserveAction::kRegister;
  std::uint8_t scope = 0;
  std::uint8_t type = 0;
  std::uint64_t key = 0;                 // RESERVATION KEY
  std::uint64_t service_action_key = 0;  // SERVICE ACTION RESERVATION KEY
  bool aptpl = false;
  bool unregister = false;  // REGISTER AND MOVE: UNREG
  std::string move_to;      // REGISTER AND MOVE: the initiator port
};

// What a request did, beyond the state itself: who gets which unit attention, whose commands are aborted.
struct ReservationEffects {
  ScsiStatus status = ScsiStatus::kGood;
  Sense sense;  // for CHECK CONDITION
  bool changed = false;
  std::vector<std::pair<std::string, SenseCode>> attentions;
  std::vector<std::string> abort_ports;
};

class Reservations {
 public:
  static constexpr std::size_t kRegistrantsMax = 128;

  struct Registrant {
    std::string port;
    std::uint64_t key = 0;
    bool operator==(const Registrant&) const = default;
  };

  // Performs `request` of the nexus `port`.
  ReservationEffects apply(std::string_view port, const ReserveRequest& request);

  // Whether a command of this kind from `port` conflicts.
  bool conflicts(std::string_view port, Access access) const;

  bool registered(std::string_view port) const { return find(port) != nullptr; }
  // Holds the reservation (every registrant does, for the all-registrants types).
  bool holds(std::string_view port) const;
  bool any_registered() const { return !registrants_.empty(); }

  std::uint32_t generation() const { return generation_; }
  bool aptpl() const { return aptpl_; }
  const std::vector<Registrant>& registrants() const { return registrants_; }
  std::optional<ReservationType> type() const { return type_; }
  // Key that READ RESERVATION shows: 0 for the all-registrants types.
  std::uint64_t holder_key() const;

  // Lines of text; see reservations.cc. Empty text is the empty state.
  std::string save() const;
  static Result<Reservations> restore(std::string_view text);

  bool operator==(const Reservations&) const = default;

 private:
  Registrant* find(std::string_view port);
  const Registrant* find(std::string_view port) const;
  bool all_registrants() const;
  void remove(std::string_view port);
  void release(std::string_view by, ReservationEffects& effects);
  void register_key(std::string_view port, const ReserveRequest& request, ReservationEffects& effects);
  void unregister(std::string_view port, ReservationEffects& effects);
  void reserve(std::string_view port, const ReserveRequest& request, ReservationEffects& effects);
  void release_action(std::string_view port, const ReserveRequest& request, ReservationEffects& effects);
  void clear(std::string_view port, ReservationEffects& effects);
  void preempt(std::string_view port, const ReserveRequest& request, ReservationEffects& effects);
  void preempt_registrations(std::string_view port, std::optional<std::uint64_t> key, bool abort,
                             ReservationEffects& effects);
  void move(std::string_view port, const ReserveRequest& request, ReservationEffects& effects);

  std::uint32_t generation_ = 0;
  bool aptpl_ = false;
  std::vector<Registrant> registrants_;
  std::optional<ReservationType> type_;
  std::string holder_;  // empty for the all-registrants types
};

}  // namespace holdfast::scsi
