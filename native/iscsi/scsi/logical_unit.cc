#include "iscsi/scsi/logical_unit.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#include "iscsi/scsi/big_endian.h"

namespace holdfast::scsi {

std::uint64_t Command::cdb_field(std::size_t offset_in_cdb, std::size_t size) const {
  return load_be(cdb, offset_in_cdb, size);
}

void Command::recycle() {
  CHECK(state == State::kIdle, "a command was recycled inside its logical unit");
  nexus = nullptr;
  owner = nullptr;
  expected_data_out = 0;
  data_out.clear();
  operation = nullptr;
  data_out_length = data_in_estimate = 0;
  status = ScsiStatus::kGood;
  sense = Sense{};
  data_in.clear();
  data_in_length = 0;
  silent = nexus_lost = aborted = false;
  offset = length = done = 0;
  scratch = Slice();
}

LogicalUnit::LogicalUnit(Env& env, BlockDevice& device, Identity identity, Reservations reservations,
                         ReservationSaver save)
    : env_(env),
      device_(device),
      identity_(std::move(identity)),
      reservations_(std::move(reservations)),
      save_(std::move(save)) {
  device_.on_resized([this] { attend_others(nullptr, attentions::kCapacityChanged); });
}

LogicalUnit::~LogicalUnit() { device_.on_resized(nullptr); }

Nexus* LogicalUnit::attach_nexus(std::string initiator_port) {
  if (nexuses_.size() >= kNexusesMax) return nullptr;
  auto nexus = std::make_unique<Nexus>();
  nexus->port = std::move(initiator_port);
  nexus->attend(attentions::kPowerOnOrReset);
  nexuses_.push_back(std::move(nexus));
  return nexuses_.back().get();
}

void LogicalUnit::detach_nexus(Nexus* nexus) {
  abort_nexus_tasks(nexus, nexus, nullptr);
  for (Command* each = tasks_head_; each; each = each->next) {
    if (each->nexus == nexus) each->nexus = nullptr;
  }
  if (reserve6_holder == nexus) reserve6_holder = nullptr;
  std::erase_if(nexuses_, [&](auto& each) { return each.get() == nexus; });
}

Nexus* LogicalUnit::nexus_of_port(std::string_view port) {
  for (auto& each : nexuses_) {
    if (each->port == port) return each.get();
  }
  return nullptr;
}

void LogicalUnit::attend_others(const Nexus* but, SenseCode code) {
  for (auto& each : nexuses_) {
    if (each.get() != but) each->attend(code);
  }
}

void LogicalUnit::set_mode(const ModeParameters& wanted, const Nexus* by) {
  if (wanted == mode_) return;
  mode_ = wanted;
  attend_others(by, attentions::kModeParametersChanged);
}

// ---- admission ----

bool LogicalUnit::admit(Command& command, std::uint64_t lun) {
  bool opcode_known = false;
  command.operation = find_operation(command.cdb8(0), command.cdb8(1) & 0x1f, &opcode_known);
  if (lun != 0) return admit_without_unit(command);
  if (!command.operation) return reject(command, opcode_known ? invalid_field(1) : senses::kInvalidOpcode);
  const Operation& operation = *command.operation;
  if (command.cdb_size < operation.cdb_size) return reject(command, senses::kInvalidOpcode);
  if (!operation.passes_attentions && !command.nexus->attentions.empty()) {
    Sense attention{SenseKey::kUnitAttention, command.nexus->attentions.front()};
    command.nexus->attentions.erase(command.nexus->attentions.begin());
    return reject(command, attention);
  }
  if (command.cdb8(operation.cdb_size - 1u) & 0x04) return reject(command, invalid_field(operation.cdb_size - 1u));
  if (command.attribute == TaskAttribute::kAca) return reject(command, senses::kInvalidFieldInInformationUnit);
  if (!check_write_protection(command) || !check_reservations(command)) return false;
  if (!operation.prepare(*this, command)) return false;
  link(command);
  return true;
}

// LUNs other than 0 (SPC-4 section 6.4.2 and 6.33): INQUIRY, REPORT LUNS and REQUEST SENSE answer, others fail.
bool LogicalUnit::admit_without_unit(Command& command) {
  std::uint8_t opcode = command.cdb8(0);
  std::vector<std::byte> bytes;
  std::uint64_t allocation = 0;
  if (opcode == 0x12 && !(command.cdb8(1) & 1)) {
    bytes.resize(36);
    bytes[0] = std::byte{0x7f};  // no such peripheral device
    bytes[2] = std::byte{0x06};
    bytes[3] = std::byte{0x02};
    bytes[4] = std::byte{31};
    allocation = command.cdb_field(3, 2);
  } else if (opcode == 0x03) {
    bytes.resize(kSenseBytesMax);
    bytes.resize(encode_sense(senses::kLunNotSupported, command.cdb8(1) & 1,
                              std::span<std::byte, kSenseBytesMax>(bytes.data(), kSenseBytesMax)));
    allocation = command.cdb8(4);
  } else if (opcode == 0xa0 && command.operation) {
    link(command);
    return true;
  } else {
    return reject(command, senses::kLunNotSupported);
  }
  bytes.resize(std::min<std::uint64_t>(bytes.size(), allocation));
  if (!bytes.empty()) command.data_in.push_back(env_.buffers().copy_of(bytes));
  command.data_in_length = bytes.size();
  return false;
}

bool LogicalUnit::check_write_protection(Command& command) {
  if (!command.operation->changes_blocks || !mode_.write_protected) return true;
  return reject(command, senses::kSoftwareWriteProtected);
}

bool LogicalUnit::check_reservations(Command& command) {
  Access access = command.operation->access;
  auto conflict = [&] {
    command.status = ScsiStatus::kReservationConflict;
    return false;
  };
  if (reserve6_holder) {
    // SPC-2 section 5.5.1: persistent reservations and an old reservation exclude one another, even for its holder.
    if (access == Access::kPersistentIn || access == Access::kPersistentOut) return conflict();
    bool allowed =
        reserve6_holder == command.nexus || access == Access::kRelease6 || command.operation->passes_attentions;
    if (!allowed) return conflict();
  }
  if (access == Access::kStartStop && (command.cdb8(4) & 0xf1) == 0x01) return true;
  if (access == Access::kPrevent && (command.cdb8(4) & 0x03) == 0) return true;
  if (reservations_.conflicts(command.nexus->port, access)) return conflict();
  return true;
}

void LogicalUnit::link(Command& command) {
  CHECK(command.state == Command::State::kIdle);
  command.state = Command::State::kAdmitted;
  command.place = ++last_place_;
  if (command.attribute == TaskAttribute::kHeadOfQueue) {
    command.previous = tasks_tail_;
    command.next = nullptr;
  } else {
    command.previous = nullptr;
    command.next = tasks_head_;
    if (command.attribute == TaskAttribute::kOrdered) ordered_.push_back(&command);
  }
  (command.previous ? command.previous->next : tasks_head_) = &command;
  (command.next ? command.next->previous : tasks_tail_) = &command;
}

void LogicalUnit::unlink(Command& command) {
  (command.previous ? command.previous->next : tasks_head_) = command.next;
  (command.next ? command.next->previous : tasks_tail_) = command.previous;
  command.previous = command.next = nullptr;
  if (command.attribute == TaskAttribute::kOrdered) std::erase(ordered_, &command);
  command.state = Command::State::kIdle;
}

// ---- execution ----

// SAM-5 section 8.6: an ORDERED command waits for all before it, and all after it wait for it. HEAD OF QUEUE waits for
// nothing, and an ORDERED command waits for it.
bool LogicalUnit::may_run(const Command& command) const {
  if (ordered_.empty() || command.attribute == TaskAttribute::kHeadOfQueue) return true;
  const Command& oldest = *ordered_.front();
  if (&command == &oldest) return command.next == nullptr;
  return command.place < oldest.place;
}

void LogicalUnit::execute(Command& command) {
  DCHECK(command.state == Command::State::kAdmitted);
  if (may_run(command)) return run(command);
  queue(command);
}

void LogicalUnit::run(Command& command) {
  command.state = Command::State::kRunning;
  command.operation->execute(*this, command);
}

// Commands become complete in any order.
void LogicalUnit::queue(Command& command) {
  command.state = Command::State::kQueued;
  auto place = queued_.end();
  while (place != queued_.begin() && (*std::prev(place))->place > command.place) --place;
  queued_.insert(place, &command);
}

// What holds the first one back holds back all after it.
void LogicalUnit::run_queued() {
  if (holds_queued_) return;
  holds_queued_ = true;  // commands that end at once come back here
  while (!queued_.empty() && may_run(*queued_.front())) {
    Command& command = *queued_.front();
    queued_.pop_front();
    run(command);
  }
  holds_queued_ = false;
}

void LogicalUnit::finish(Command& command) {
  unlink(command);
  if (command.aborted) {
    command.status = ScsiStatus::kTaskAborted;
    command.data_in.clear();
    command.data_in_length = 0;
  }
  std::vector<std::shared_ptr<AbortWait>> waits;
  waits.swap(command.abort_waits);
  command.owner->command_done(command);
  waits.clear();
  if (!queued_.empty()) run_queued();
  if (on_idle_) check_idle();
}

void LogicalUnit::device_failed(Command& command, const Error& error) {
  if (error.code() == ErrorCode::kCancelled || error.code() == ErrorCode::kEpochSuperseded) {
    command.nexus_lost = true;
    return finish(command);
  }
  fail(command, sense_of(error.code()));
}

void LogicalUnit::answer(Command& command, std::span<const std::byte> bytes, std::uint64_t allocation_length) {
  bytes = bytes.first(std::min<std::uint64_t>(bytes.size(), allocation_length));
  if (!bytes.empty()) command.data_in.push_back(env_.buffers().copy_of(bytes));
  command.data_in_length = bytes.size();
  finish(command);
}

std::vector<std::byte> LogicalUnit::gather(std::span<const Slice> parts) {
  std::vector<std::byte> all;
  all.reserve(total_size(parts));
  for (const Slice& part : parts) all.insert(all.end(), part.bytes().begin(), part.bytes().end());
  return all;
}

// ---- task management ----

void LogicalUnit::abort(Command& command, bool silent, const std::shared_ptr<AbortWait>& wait) {
  command.silent = silent || (command.aborted && command.silent);
  command.aborted = true;
  if (wait) command.abort_waits.push_back(wait);
  if (command.state == Command::State::kRunning) return;  // leaves when the device answers
  if (command.state == Command::State::kQueued) std::erase(queued_, &command);
  finish(command);
}

void LogicalUnit::abort_task(Command& command, Callback<void()> done) {
  auto wait = std::make_shared<AbortWait>();
  wait->done = std::move(done);
  abort(command, true, wait);
}

// Aborts what `nexus` (null: every nexus) has in the task set. Commands of `by` end silently, those of others with
// TASK ABORTED (TAS=1).
void LogicalUnit::abort_nexus_tasks(Nexus* nexus, const Nexus* by, Callback<void()> done) {
  auto wait = std::make_shared<AbortWait>();
  wait->done = std::move(done);
  std::vector<Command*> affected;  // collected first: ending one may start or end others
  for (Command* each = tasks_head_; each; each = each->next) {
    if (!nexus || each->nexus == nexus) affected.push_back(each);
  }
  bool held = std::exchange(holds_queued_, true);  // none of them shall run because another was aborted
  for (Command* each : affected) {
    bool still_there = false;
    for (Command* task = tasks_head_; task && !still_there; task = task->next) still_there = task == each;
    if (still_there) abort(*each, each->nexus == by || !each->nexus, wait);
  }
  holds_queued_ = held;
  run_queued();
}

void LogicalUnit::abort_task_set(Nexus* nexus, Callback<void()> done) {
  abort_nexus_tasks(nexus, nexus, std::move(done));
}

void LogicalUnit::clear_task_set(Nexus* nexus, Callback<void()> done) {
  for (auto& each : nexuses_) {
    if (each.get() == nexus) continue;
    for (Command* task = tasks_head_; task; task = task->next) {
      if (task->nexus == each.get()) each->attend(attentions::kCommandsCleared);
    }
  }
  abort_nexus_tasks(nullptr, nexus, std::move(done));
}

// SAM-5 section 6.3.3: commands, old reservations, prevention of removal and mode parameters go; registrations stay.
void LogicalUnit::reset(Nexus* nexus, Callback<void()> done) {
  reserve6_holder = nullptr;
  mode_ = ModeParameters{};
  for (auto& each : nexuses_) {
    each->prevents_removal = false;
    each->attend(attentions::kBusDeviceReset);
  }
  abort_nexus_tasks(nullptr, nexus, std::move(done));
}

// ---- end ----

void LogicalUnit::when_idle(Callback<void()> done) {
  on_idle_ = std::move(done);
  check_idle();
}

void LogicalUnit::check_idle() {
  if (!idle()) return;
  // In a later turn: the caller may be deep inside this object.
  env_.post(std::exchange(on_idle_, nullptr));
}

}  // namespace holdfast::scsi
