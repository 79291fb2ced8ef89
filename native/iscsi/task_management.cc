// Task management functions of a session (RFC 7143 section 11.5). The answer comes when every command concerned has
// left the logical unit, so that nothing of an aborted command can reach the medium afterwards.
#include <utility>

#include "iscsi/session.h"
#include "iscsi/target_server.h"

namespace holdfast::iscsi {

void Session::send_task_response(std::uint32_t tag, TaskResponse response) {
  TaskManagementResponse pdu;
  pdu.InitiatorTaskTag = tag;
  pdu.Response = static_cast<std::uint8_t>(response);
  stamp_status(pdu);
  connection_.send(pdu);
}

// The session may have ended by the time the commands have.
Callback<void()> Session::task_response_later(std::uint32_t tag) {
  return [server = &server_, id = id_, tag] {
    if (Session* session = server->find_session(id)) session->send_task_response(tag, TaskResponse::kComplete);
  };
}

void Session::handle_task_management(const TaskManagementRequest& pdu) {
  const auto& header = *reinterpret_cast<const Header*>(&pdu);
  if (!unit_) return protocol_error(header, "a task management function in a discovery session");
  auto function = static_cast<TaskFunction>(pdu.function & 0x7f);
  std::uint32_t tag = pdu.InitiatorTaskTag;
  bool needs_lun = function == TaskFunction::kAbortTaskSet || function == TaskFunction::kClearTaskSet ||
                   function == TaskFunction::kLogicalUnitReset;
  if (needs_lun && decode_lun(pdu.LUN) != 0) return send_task_response(tag, TaskResponse::kNoSuchLun);
  scsi::LogicalUnit& unit = *unit_->unit;
  switch (function) {
    case TaskFunction::kAbortTask:
      return abort_task(pdu);
    case TaskFunction::kAbortTaskSet:
      return unit.abort_task_set(nexus_, task_response_later(tag));
    case TaskFunction::kClearTaskSet:
      return unit.clear_task_set(nexus_, task_response_later(tag));
    case TaskFunction::kLogicalUnitReset:
    case TaskFunction::kTargetWarmReset:
      return unit.reset(nexus_, task_response_later(tag));
    case TaskFunction::kTargetColdReset:
      return unit.reset(nexus_, [server = &server_, unit_reset = unit_, id = id_, tag] {
        if (Session* session = server->find_session(id)) session->send_task_response(tag, TaskResponse::kComplete);
        server->drop_sessions(unit_reset, Connection::Close::kAfterSending, "target cold reset");
      });
    case TaskFunction::kTaskReassign:
      return send_task_response(tag, TaskResponse::kReassignNotSupported);
    case TaskFunction::kClearAca:
      return send_task_response(tag, TaskResponse::kNotSupported);
  }
  send_task_response(tag, TaskResponse::kRejected);
}

void Session::abort_task(const TaskManagementRequest& pdu) {
  std::uint32_t tag = pdu.InitiatorTaskTag;
  if (Task* task = tasks_.find(pdu.ReferencedTaskTag)) {
    if (task->in_unit) return unit_->unit->abort_task(*task, task_response_later(tag));
    release(*task);  // it has failed already and only swallows its data
    return send_task_response(tag, TaskResponse::kComplete);
  }
  // A task that is still to come, or waits for its turn, counts as received (RFC 7143 section 11.5.5): those after it
  // do not wait for it, and it is ignored if it comes.
  std::uint32_t ref = pdu.RefCmdSN;
  bool in_window = !serial_less(ref, exp_cmd_sn_) && !serial_less(max_cmd_sn_, ref) && serial_less(ref, pdu.CmdSN);
  if (in_window) {
    if (auto held = held_.find(ref); held != held_.end()) take_held(held);
    held_.try_emplace(ref);
    send_task_response(tag, TaskResponse::kComplete);
    return advance();
  }
  send_task_response(tag, TaskResponse::kNoSuchTask);
}

}  // namespace holdfast::iscsi
