// LogicalUnit: the SCSI device server of one volume (SPC-4, SBC-3, SAM-5): its nexuses, unit attentions, task set,
// reservations and mode parameters, over a BlockDevice. Commands themselves are in the *_commands.cc files.
//
// Thread: the reactor of the Env. Destroy it when idle(); or, when everything ends at once, with commands in the
// device, whose callbacks must then be dropped without being called.
//
// Invariants:
//  1. Every admitted command reaches its owner exactly once, after its last touch of the device.
//  2. A command that admit() refused is in no list and touched nothing.
//  3. No command begins while an ORDERED one that came before it is in the task set, and no ORDERED one while any that
//     came before it is, with or without its data. HEAD OF QUEUE commands begin at once and count as having come first.
//  4. A reservation change is in the ReservationSaver before its command is answered, and not in force before.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/block_device.h"
#include "io/env.h"
#include "iscsi/scsi/command.h"
#include "iscsi/scsi/mode_pages.h"
#include "iscsi/scsi/operations.h"
#include "iscsi/scsi/reservations.h"

namespace holdfast::scsi {

// Limits that VPD page B0h reports.
inline constexpr std::uint64_t kTransferBytesMax = 8u << 20;
inline constexpr std::uint64_t kTransferBytesOptimal = 1u << 20;
inline constexpr std::uint64_t kGranularityBytesOptimal = 256u << 10;
inline constexpr std::uint64_t kCompareAndWriteBytesMax = 64u << 10;
inline constexpr std::uint64_t kUnmapBytesMax = 512u << 20;
inline constexpr std::uint32_t kUnmapDescriptorsMax = 256;
inline constexpr std::uint64_t kWriteSameBytesMax = 16u << 20;
inline constexpr std::uint32_t kPhysicalBlockBytes = 4096;
// Work on long ranges is done in steps of this size, so that it can be aborted and never holds much memory.
inline constexpr std::uint64_t kStepBytes = 1u << 20;
inline constexpr std::uint64_t kZeroStepBytes = 64u << 20;
inline constexpr std::size_t kNexusesMax = 256;

struct Identity {
  std::string target_name;  // SCSI device name: the IQN
  std::string serial;
  std::uint64_t naa_id = 0;
};

// The unit's NAA 6 designator, as VPD page 83h shows it and EXTENDED COPY names it.
std::array<std::byte, 16> naa_identifier(const Identity& identity);

// Stores the text of Reservations::save(). A plain function object: PERSISTENT RESERVE OUT is no I/O path.
using ReservationSaver = std::function<void(std::string text, StatusCallback done)>;

class LogicalUnit {
 public:
  LogicalUnit(Env& env, BlockDevice& device, Identity identity, Reservations reservations, ReservationSaver save);
  ~LogicalUnit();

  // A nexus comes (with a POWER ON OR RESET attention) and goes; what it had in flight is aborted silently and ends
  // later. Null when there are kNexusesMax already.
  Nexus* attach_nexus(std::string initiator_port);
  void detach_nexus(Nexus* nexus);

  // Whether the command may go on; false: it has ended with the result set, and command_done() is not called.
  bool admit(Command& command, std::uint64_t lun);
  // With data_out complete. Ends in command_done().
  void execute(Command& command);

  // Task management (SAM-5 chapter 7). `done` comes when the commands concerned have left the unit.
  void abort_task(Command& command, Callback<void()> done);
  void abort_task_set(Nexus* nexus, Callback<void()> done);
  void clear_task_set(Nexus* nexus, Callback<void()> done);
  void reset(Nexus* nexus, Callback<void()> done);

  bool idle() const { return tasks_head_ == nullptr; }
  // Called once, when idle() becomes true (at once, in a later turn, if it is).
  void when_idle(Callback<void()> done);

  // ---- for the command handlers ----
  Env& env() { return env_; }
  BlockDevice& device() { return device_; }
  const Identity& identity() const { return identity_; }
  std::uint32_t block_size() const { return device_.logical_block_size(); }
  std::uint64_t block_count() const { return device_.size_bytes() / device_.logical_block_size(); }
  const ModeParameters& mode() const { return mode_; }
  void set_mode(const ModeParameters& wanted, const Nexus* by);
  bool descriptor_sense() const { return mode_.descriptor_sense; }

  void finish(Command& command);
  void fail(Command& command, const Sense& sense) {
    command.fail(sense);
    finish(command);
  }
  void device_failed(Command& command, const Error& error);
  // For prepare functions: sets the failure, returns false.
  bool reject(Command& command, const Sense& sense) {
    command.fail(sense);
    return false;
  }
  // Ends well with these bytes, cut at the allocation length.
  void answer(Command& command, std::span<const std::byte> bytes, std::uint64_t allocation_length);
  static std::vector<std::byte> gather(std::span<const Slice> parts);

  void attend_others(const Nexus* but, SenseCode code);
  Nexus* nexus_of_port(std::string_view port);

  // Reservations
  Reservations& reservations() { return reservations_; }
  Nexus* reserve6_holder = nullptr;
  // Saves `wanted`, then puts it in force and tells `done`; one change at a time, in order.
  void change_reservations(Command& command);
  void abort_nexus_tasks(Nexus* nexus, const Nexus* by, Callback<void()> done);

 private:
  friend class ReservationChange;
  bool admit_without_unit(Command& command);
  bool check_write_protection(Command& command);
  bool check_reservations(Command& command);
  void link(Command& command);
  void unlink(Command& command);
  bool may_run(const Command& command) const;
  void run(Command& command);
  void queue(Command& command);
  void run_queued();
  void abort(Command& command, bool silent, const std::shared_ptr<AbortWait>& wait);
  void check_idle();
  void next_reservation_change();
  void reservation_saved(Command& command, Reservations wanted, ReservationEffects effects, Status saved);

  Env& env_;
  BlockDevice& device_;
  Identity identity_;
  ModeParameters mode_;
  std::vector<std::unique_ptr<Nexus>> nexuses_;
  // The task set, newest first, HEAD OF QUEUE last.
  Command* tasks_head_ = nullptr;
  Command* tasks_tail_ = nullptr;
  std::uint64_t last_place_ = 0;
  std::deque<Command*> ordered_;  // the ORDERED commands of the task set, oldest first
  std::deque<Command*> queued_;   // dormant: complete, and held back by `ordered_`; oldest first
  bool holds_queued_ = false;     // run_queued() has to wait, or is at it
  Callback<void()> on_idle_;

  Reservations reservations_;
  ReservationSaver save_;
  std::deque<Command*> reservation_changes_;
  bool saving_ = false;
};

}  // namespace holdfast::scsi
