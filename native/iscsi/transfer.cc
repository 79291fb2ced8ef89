// Commands of a session and their data: immediate, unsolicited and solicited data-out, Data-In, status and residuals
// (RFC 7143 sections 11.3, 11.4, 11.7 and 11.8).
#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "iscsi/session.h"
#include "iscsi/target_server.h"

namespace holdfast::iscsi {

// ---- commands ----

// What is wrong with the shape of a command PDU; null when nothing is.
const char* Session::command_fault(const ScsiCommand& pdu, std::size_t immediate_bytes) const {
  bool writes = pdu.flags & ScsiCommand::kWrite, final = pdu.flags & kFinalBit;
  if (immediate_bytes > 0) {
    if (!writes) return "immediate data without the W bit";
    if (!parameters_.ImmediateData) return "immediate data although ImmediateData=No was agreed";
    if (immediate_bytes > parameters_.FirstBurstLength) return "immediate data exceeds FirstBurstLength";
    if (immediate_bytes > pdu.ExpectedDataTransferLength) return "immediate data exceeds the transfer length";
  }
  if (final) return nullptr;
  if (!writes) return "a command without data-out and without the F bit";
  if (parameters_.InitialR2T) return "unsolicited data although InitialR2T=Yes was agreed";
  if (immediate_bytes >= std::min<std::uint32_t>(parameters_.FirstBurstLength, pdu.ExpectedDataTransferLength)) {
    return "no unsolicited data can follow, but the F bit is not set";
  }
  return nullptr;
}

void Session::handle_command(const ScsiCommand& pdu, Slice data) {
  const auto& header = *reinterpret_cast<const Header*>(&pdu);
  if (!unit_) return protocol_error(header, "a SCSI command in a discovery session");
  if (tasks_.find(pdu.InitiatorTaskTag)) return reject(RejectReason::kTaskInProgress, header);
  if (tasks_.size() >= kCommandWindow + kImmediateTasksMax) {
    return reject(RejectReason::kTooManyImmediateCommands, header);
  }
  if (const char* fault = command_fault(pdu, data.size())) return protocol_error(header, fault);
  ++commands_;
  Task& task = *server_.tasks().take();
  task.session = this;
  task.owner = &server_;
  task.nexus = nexus_;
  task.tag = pdu.InitiatorTaskTag;
  task.lun = decode_lun(pdu.LUN);
  task.expected = pdu.ExpectedDataTransferLength;
  task.reads = pdu.flags & ScsiCommand::kRead;
  task.writes = pdu.flags & ScsiCommand::kWrite;
  task.attribute = static_cast<scsi::TaskAttribute>(pdu.flags & ScsiCommand::kAttributeMask);
  std::memcpy(task.cdb.data(), pdu.CDB, sizeof(pdu.CDB));
  task.expected_data_out = task.writes ? task.expected : 0;
  task.received = static_cast<std::uint32_t>(data.size());
  task.immediate = std::move(data);
  task.unsolicited_open = task.writes && !(pdu.flags & kFinalBit);
  tasks_.insert(&task);

  if (!admit(task)) {
    if (!task.unsolicited_open) return respond(task);
    task.discards = true;
    task.immediate = Slice();
    return;
  }
  task.in_unit = true;
  take_memory(task, bytes_unasked(task));
  if (task.reads && task.expected > 0 && task.data_out_length > 0) {
    // Announced as a read: its data will never come, and GOOD would say that it was written.
    return unit_->unit->fail(task, scsi::senses::kInvalidFieldInInformationUnit);
  }
  task.wanted = static_cast<std::uint32_t>(std::min<std::uint64_t>(task.expected_data_out, task.data_out_length));
  if (task.received >= task.wanted && !task.unsolicited_open) return data_out_complete(task);
  start_data_out(task);
}

// False: the task has ended with the result set.
bool Session::admit(Task& task) {
  if (task.reads && task.writes) {  // no command here moves data in both directions
    task.fail(scsi::senses::kInvalidFieldInInformationUnit);
    return false;
  }
  if (!unasked_fits(bytes_unasked(task))) {
    // SAM-5 section 5.3.1. Initiators send it again, with fewer commands at a time. To stop reading instead would hold
    // up pings, task management and the data of other tasks behind it.
    task.status = tasks_.size() > 1 ? scsi::ScsiStatus::kTaskSetFull : scsi::ScsiStatus::kBusy;
    return false;
  }
  return unit_->unit->admit(task, task.lun);
}

// ---- memory ----

// Data that comes whether there is room or not: with the command and, up to FirstBurstLength, after it.
std::uint64_t Session::bytes_unasked(const Task& task) const {
  return task.unsolicited_open ? std::min(task.expected, parameters_.FirstBurstLength) : task.immediate.size();
}

bool Session::unasked_fits(std::uint64_t bytes) const {
  return bytes == 0 || server_.memory_allows_unasked(bytes) || charged_ + connection_.unsent_bytes() == 0;
}

// What the task needs beyond that.
std::uint64_t Session::memory_needed(const Task& task) const {
  if (task.memory_granted) return 0;
  return (task.received < task.wanted ? task.wanted - task.received : 0) + task.data_in_estimate;
}

void Session::take_memory(Task& task, std::uint64_t bytes) {
  task.charged_bytes += bytes;
  charged_ += bytes;
  server_.memory_taken(bytes);
}

// Whether the task may take what it needs now. In a session whose answers were all taken, and that waits for no memory
// of its own, it always may, so that nobody starves.
bool Session::memory_fits(const Task& task) const {
  std::uint64_t bytes = memory_needed(task), unsent = connection_.unsent_bytes();
  if (charged_ + unsent + bytes <= kSessionBytesMax && server_.memory_allows(bytes)) return true;
  return unsent == 0 && !memory_comes_back(task);
}

// Whether another task holds memory and will end by itself. One that waits for more does not, nor one that the logical
// unit holds back: it may wait, behind an ORDERED command, for the very task that asks.
bool Session::memory_comes_back(const Task& but) const {
  bool comes = false;
  tasks_.for_each([&](const Task& each) {
    bool waits = each.waits_for_memory || each.state == scsi::Command::State::kQueued;
    comes = comes || (&each != &but && each.charged_bytes > 0 && !waits);
  });
  return comes;
}

// Takes all the memory that the task will still need, at once; false: it waits its turn.
bool Session::charge(Task& task) {
  std::uint64_t bytes = memory_needed(task);
  if (bytes == 0) return true;
  bool in_turn = resuming_ || waiting_.empty();
  if (!in_turn || !memory_fits(task)) {
    if (!task.waits_for_memory) waiting_.push_back(&task);
    task.waits_for_memory = true;
    server_.memory_wanted();
    if (!in_turn) resume_waiting();  // those before it may have waited for what it holds
    return false;
  }
  task.memory_granted = true;
  take_memory(task, bytes);
  return true;
}

void Session::resume_waiting() {
  if (resuming_) return;
  resuming_ = true;
  while (!waiting_.empty() && !connection_.closed()) {
    Task& task = *waiting_.front();
    if (!memory_fits(task)) {
      server_.memory_wanted();
      break;
    }
    waiting_.pop_front();
    task.waits_for_memory = false;
    if (task.received < task.wanted) {
      solicit(task);
    } else {
      run(task);
    }
  }
  resuming_ = false;
}

// ---- data-out ----

void Session::start_data_out(Task& task) {
  if (!task.unsolicited_open) return solicit(task);
  task.sequence_end = std::min(task.expected, parameters_.FirstBurstLength);
  task.buffer_at = task.received;
  task.buffer = server_.env().buffers().allocate(task.sequence_end - task.received);
}

// Sends as many R2Ts as may be outstanding. Their tags are consecutive within a task.
void Session::solicit(Task& task) {
  if (task.r2t_count == 0) {
    if (!charge(task)) return;
    task.unsolicited = task.buffer.sub(0, task.received - task.immediate.size());
    task.buffer_at = task.received;
    task.buffer = server_.env().buffers().allocate(task.wanted - task.received);
    std::uint32_t sequences = (task.wanted - task.received) / parameters_.MaxBurstLength + 1;
    if (next_transfer_tag_ > kReservedTag - sequences - 1) next_transfer_tag_ = 1;
    task.first_transfer_tag = next_transfer_tag_;
    next_transfer_tag_ += sequences;
    task.solicited_end = task.received;
    task.sequence_end = std::min(task.received + parameters_.MaxBurstLength, task.wanted);
    task.next_data_sn = 0;
  }
  while (task.solicited_end < task.wanted && task.r2t_count - task.r2t_done < parameters_.MaxOutstandingR2T) {
    R2t pdu;
    pdu.InitiatorTaskTag = task.tag;
    pdu.TargetTransferTag = task.first_transfer_tag + task.r2t_count;
    pdu.R2TSN = task.r2t_count;
    pdu.BufferOffset = task.solicited_end;
    std::uint32_t size = std::min(task.wanted - task.solicited_end, parameters_.MaxBurstLength);
    pdu.DesiredDataTransferLength = size;
    stamp(pdu);
    connection_.send(pdu);
    task.solicited_end += size;
    ++task.r2t_count;
  }
}

// What is wrong with a Data-Out for this task; null when nothing is. Data comes in order (DataPDUInOrder=Yes,
// DataSequenceInOrder=Yes).
const char* Session::data_out_fault(const Task& task, const DataOut& pdu, std::size_t size) const {
  bool solicited = pdu.TargetTransferTag != kReservedTag;
  if (solicited) {
    if (task.unsolicited_open || task.r2t_done >= task.r2t_count) return "no R2T is open";
    if (pdu.TargetTransferTag != task.first_transfer_tag + task.r2t_done) return "not the TargetTransferTag in turn";
  } else if (!task.unsolicited_open) {
    return "no unsolicited data is expected";
  }
  if (pdu.DataSN != task.next_data_sn) return "DataSN out of order";
  if (pdu.BufferOffset != task.received) return "BufferOffset out of order";
  if (size > task.sequence_end - task.received) return "more data than the sequence has";
  if (solicited && (pdu.flags & kFinalBit) && task.received + size != task.sequence_end) return "the sequence is short";
  return nullptr;
}

Slice Session::data_out_target(const DataOut& pdu, std::size_t size) {
  Task* task = tasks_.find(pdu.InitiatorTaskTag);
  if (!task || task->discards || !task->in_unit || data_out_fault(*task, pdu, size)) return Slice();
  return task->buffer.sub(task->received - task->buffer_at, size);
}

void Session::handle_data_out(const DataOut& pdu, std::size_t size, bool digest_ok) {
  Task* task = tasks_.find(pdu.InitiatorTaskTag);
  if (!task) return;  // its task was aborted or has failed meanwhile
  bool solicited = pdu.TargetTransferTag != kReservedTag, final = pdu.flags & kFinalBit;
  if (task->discards) {
    if (!solicited && final) {
      task->unsolicited_open = false;
      respond(*task);
    }
    return;
  }
  const char* fault = data_out_fault(*task, pdu, size);
  if (fault || !digest_ok) {
    if (!digest_ok) reject(RejectReason::kDataDigestError, *reinterpret_cast<const Header*>(&pdu));
    if (!solicited && final) task->unsolicited_open = false;
    // RFC 7143 section 7.8: the task ends with ABORTED COMMAND; what else arrives for it is thrown away.
    if (task->state == scsi::Command::State::kAdmitted) {
      unit_->unit->fail(*task, scsi::senses::kProtocolServiceCrcError);
    }
    return;
  }
  task->received += static_cast<std::uint32_t>(size);
  ++task->next_data_sn;
  if (final || task->received == task->sequence_end) sequence_complete(*task, solicited);
}

void Session::sequence_complete(Task& task, bool solicited) {
  if (solicited) {
    ++task.r2t_done;
  } else {
    task.unsolicited_open = false;
  }
  if (task.received >= task.wanted) return data_out_complete(task);
  if (solicited) {
    task.next_data_sn = 0;
    task.sequence_end = std::min(task.received + parameters_.MaxBurstLength, task.wanted);
  }
  solicit(task);
}

void Session::data_out_complete(Task& task) {
  std::size_t left = task.wanted;
  for (const Slice* part : {&task.immediate, &task.unsolicited, &task.buffer}) {
    std::size_t size = std::min(part->size(), left);
    if (size > 0) task.data_out.push_back(part->sub(0, size));
    left -= size;
  }
  task.received = std::max(task.received, task.wanted);
  run(task);
}

void Session::run(Task& task) {
  if (!charge(task)) return;
  unit_->unit->execute(task);
  if (!waiting_.empty()) resume_waiting();  // it may be held back there
}

// ---- answers ----

void Session::task_done(Task& task) {
  if (task.waits_for_memory) std::erase(waiting_, &task);
  if (task.nexus_lost) {
    // The volume is no longer served here; the initiator finds out where when it logs in again.
    return connection_.close(Connection::Close::kNow, "the volume has stopped serving");
  }
  if (task.silent) return release(task);
  if (task.unsolicited_open) {
    task.discards = true;
    return;
  }
  respond(task);
}

void Session::release(Task& task) {
  tasks_.remove(&task);
  give_back(task);
}

void Session::give_back(Task& task) {
  std::uint64_t bytes = task.charged_bytes;
  server_.tasks().give_back(&task);
  charged_ -= bytes;
  server_.memory_returned(bytes);
  if (!waiting_.empty()) resume_waiting();
}

// Residuals compare what the CDB moves with what the initiator expected (RFC 7143 section 11.4.5).
void Session::respond(Task& task) {
  tasks_.remove(&task);  // before the answer, whose MaxCmdSN then counts it as ended
  bool failed = task.status == scsi::ScsiStatus::kCheckCondition;
  std::uint64_t in = failed ? 0 : task.data_in_length;
  std::uint64_t moved = task.writes ? task.data_out_length : failed ? 0 : std::max(in, task.data_out_length);
  // Without a direction nothing is transferred, whatever length was expected.
  std::uint64_t expected = task.reads || task.writes ? task.expected : 0;
  std::uint8_t flags = 0;
  std::uint64_t residual = 0;
  if (moved > expected) {
    flags = kOverflowBit;
    residual = moved - expected;
  } else if (moved < expected) {
    flags = kUnderflowBit;
    residual = expected - moved;
  }
  auto count = static_cast<std::uint32_t>(std::min<std::uint64_t>(residual, 0xffff'ffff));
  std::uint64_t send = task.reads && !task.writes ? std::min<std::uint64_t>(in, task.expected) : 0;
  if (send > 0) {
    send_data_in(task, send, flags, count);
  } else {
    send_response(task, flags, count);
  }
  give_back(task);
}

// Header and payload slices go out without a copy; the last PDU carries GOOD status.
void Session::send_data_in(Task& task, std::uint64_t length, std::uint8_t residual_flags, std::uint32_t residual) {
  std::array<Slice, 16> parts;
  bool collapsed = task.status == scsi::ScsiStatus::kGood;
  std::uint64_t offset = 0;
  std::uint64_t burst_left = parameters_.MaxBurstLength;
  std::size_t slice = 0, in_slice = 0;
  std::uint32_t data_sn = 0;
  while (offset < length) {
    std::uint64_t wanted = std::min({length - offset, burst_left, std::uint64_t{parameters_.MaxRecvDataSegmentLength}});
    std::size_t count = 0;
    std::uint64_t size = 0;
    while (size < wanted && count < parts.size()) {
      const Slice& from = task.data_in[slice];
      std::size_t take = std::min<std::uint64_t>(from.size() - in_slice, wanted - size);
      parts[count++] = from.sub(in_slice, take);
      size += take;
      in_slice += take;
      if (in_slice == from.size()) ++slice, in_slice = 0;
    }
    bool last = offset + size == length;
    burst_left -= size;
    DataIn pdu;
    pdu.InitiatorTaskTag = task.tag;
    pdu.DataSN = data_sn++;
    pdu.BufferOffset = static_cast<std::uint32_t>(offset);
    if (last || burst_left == 0) pdu.flags |= kFinalBit;
    if (burst_left == 0) burst_left = parameters_.MaxBurstLength;
    if (last && collapsed) {
      pdu.flags |= DataIn::kStatusBit | residual_flags;
      pdu.Status = static_cast<std::uint8_t>(task.status);
      pdu.ResidualCount = residual;
      stamp_status(pdu);
    } else {
      stamp(pdu);
      pdu.StatSN = 0;
    }
    connection_.send(pdu, std::span(parts).first(count));
    offset += size;
  }
  task.r2t_count = data_sn;  // becomes ExpDataSN
  if (!collapsed) send_response(task, residual_flags, residual);
}

void Session::send_response(Task& task, std::uint8_t residual_flags, std::uint32_t residual) {
  ScsiResponse pdu;
  pdu.InitiatorTaskTag = task.tag;
  pdu.flags |= residual_flags;
  pdu.Status = static_cast<std::uint8_t>(task.status);
  pdu.ResidualCount = residual;
  pdu.ExpDataSN = task.r2t_count;
  stamp_status(pdu);
  if (task.status != scsi::ScsiStatus::kCheckCondition) return connection_.send(pdu);
  std::array<std::byte, 2 + scsi::kSenseBytesMax> bytes{};
  std::size_t size = scsi::encode_sense(task.sense, unit_->unit->descriptor_sense(),
                                        std::span(bytes).subspan<2, scsi::kSenseBytesMax>());
  store_be(bytes, 0, 2, size);
  Slice data = server_.env().buffers().copy_of(std::span(bytes).first(2 + size));
  connection_.send(pdu, std::span(&data, 1));
}

}  // namespace holdfast::iscsi
