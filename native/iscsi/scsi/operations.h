// The table of every command a logical unit implements: one row each, found by operation code and service action.
// REPORT SUPPORTED OPERATION CODES and the dispatcher read the same rows, so they cannot disagree.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "iscsi/scsi/command.h"

namespace holdfast::scsi {

class LogicalUnit;

// What a command does to the medium or to reservations; decides RESERVATION CONFLICT (SPC-4 table 71, SBC-3 table 14).
enum class Access : std::uint8_t {
  kAlways,         // allowed whatever is reserved
  kRead,           // reads the medium: allowed under Write Exclusive types
  kWrite,          // changes the medium or shared state
  kStartStop,      // START STOP UNIT: START=1 allowed
  kPrevent,        // PREVENT ALLOW MEDIUM REMOVAL: PREVENT=0 allowed
  kPersistentIn,   // conflicts with RESERVE(6) only
  kPersistentOut,  // decides by itself
  kReserve6,
  kRelease6,
};

struct Operation {
  const char* name;
  std::uint8_t opcode;
  bool has_service_action;
  std::uint8_t service_action;  // in CDB byte 1, bits 0 to 4
  std::uint8_t cdb_size;
  Access access;
  bool changes_blocks;            // refused while the unit is write protected (control page SWP)
  bool passes_attentions;         // neither reports nor clears a unit attention
  std::uint16_t timeout_seconds;  // RECOMMENDED COMMAND TIMEOUT
  // Checks the CDB and sets offset, length and data_out_length. false: the command has failed (its sense is set).
  bool (*prepare)(LogicalUnit&, Command&);
  // Does it; ends, now or later, in LogicalUnit::finish().
  void (*execute)(LogicalUnit&, Command&);
  // CDB USAGE DATA: a one bit for every bit the device server looks at.
  std::array<std::uint8_t, 16> usage;
};

std::span<const Operation> operations();
// Row of this CDB; null when not implemented. `opcode_known`: the code is, its service action is not.
const Operation* find_operation(std::uint8_t opcode, std::uint8_t service_action, bool* opcode_known);

}  // namespace holdfast::scsi
