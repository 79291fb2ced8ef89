// Session: one I_T nexus in full feature phase (RFC 7143 chapters 4 and 11): the command window, requests in order,
// data transfer, task management. One connection per session (MaxConnections=1), ErrorRecoveryLevel 0.
//
// Invariants:
//  1. Non-immediate requests take effect in CmdSN order; ExpCmdSN and MaxCmdSN never fall; at most kCommandWindow
//     commands are outstanding (immediate ones have a bound of their own).
//  2. The logical unit gets a command with exactly the bytes it asked for, in order, or not at all.
//  3. Data is received into memory that is accounted for. What comes unasked is counted when it comes, and refused with
//     TASK SET FULL while the target has no memory and the session holds some already; what is asked for waits until
//     there is some. A session none of whose memory comes back by itself gets what it needs, so that none waits for
//     ever.
//  4. A task is answered at most once, and never after its session ended or after it was aborted silently.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>

#include "iscsi/connection.h"
#include "iscsi/login.h"
#include "iscsi/pdu.h"
#include "iscsi/scsi/logical_unit.h"
#include "iscsi/task.h"

namespace holdfast::iscsi {

struct Unit;

inline constexpr Nanos kKeepaliveInterval = 5s;
inline constexpr Nanos kIdleBeforePing = 10s;   // silence after which the target sends a NOP-In
inline constexpr Nanos kIdleBeforeClose = 25s;  // silence after which the peer is taken for gone
inline constexpr std::size_t kSessionBytesMax = 64u << 20;
inline constexpr std::size_t kHeldBytesMax = 16u << 20;  // data of requests that came before their turn
inline constexpr std::size_t kImmediateTasksMax = 64;

class Session {
 public:
  // `unit` is null in a discovery session.
  Session(TargetServer& server, Connection& connection, const Login& login, std::uint64_t id, Unit* unit,
          std::uint32_t first_cmd_sn);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // False: the logical unit has no room for another nexus.
  bool begin();

  // A data segment of `size` bytes follows this Data-Out header: where it goes (empty: thrown away).
  Slice data_out_target(const DataOut& pdu, std::size_t size);
  void handle_data_out(const DataOut& pdu, std::size_t size, bool digest_ok);
  // Any other PDU, with its data segment.
  void handle(const Header& header, Slice data);
  void reject(RejectReason reason, const Header& header);
  // Breaks the protocol: says so and ends the connection.
  void protocol_error(const Header& header, std::string_view why);

  void task_done(Task& task);  // from the logical unit
  void resume_waiting();
  void request_logout(std::uint16_t seconds);

  std::uint64_t id() const { return id_; }
  const std::string& initiator() const { return initiator_; }
  const Isid& isid() const { return isid_; }
  std::uint16_t tsih() const { return tsih_; }
  Unit* unit() const { return unit_; }
  std::uint64_t commands() const { return commands_; }
  Connection& connection() { return connection_; }
  const SessionParameters& parameters() const { return parameters_; }

 private:
  struct Held {  // a request that came before its turn; no header: one aborted before it came
    bool present = false;
    Header header;
    Slice data;
  };

  // session.cc: sequence and the simple requests
  void deliver(const Header& header, Slice data);
  void advance();
  Held take_held(std::map<std::uint32_t, Held>::iterator at);
  std::uint32_t max_cmd_sn();
  template <typename T>
  void stamp(T& pdu) {  // sequence numbers of a PDU that carries no status of its own
    pdu.StatSN = connection_.stat_sn();
    pdu.ExpCmdSN = exp_cmd_sn_;
    pdu.MaxCmdSN = max_cmd_sn();
  }
  template <typename T>
  void stamp_status(T& pdu) {
    pdu.StatSN = connection_.take_stat_sn();
    pdu.ExpCmdSN = exp_cmd_sn_;
    pdu.MaxCmdSN = max_cmd_sn();
  }
  void handle_nop_out(const NopOut& pdu, Slice data);
  void handle_text(const TextRequest& pdu, const Slice& data);
  void send_text(std::uint32_t tag, std::uint64_t lun);
  std::string answer_text(const TextPairs& pairs);
  void handle_logout(const LogoutRequest& pdu);
  void keep_alive();

  // transfer.cc: commands and their data
  void handle_command(const ScsiCommand& pdu, Slice data);
  bool admit(Task& task);
  const char* command_fault(const ScsiCommand& pdu, std::size_t immediate_bytes) const;
  const char* data_out_fault(const Task& task, const DataOut& pdu, std::size_t size) const;
  void start_data_out(Task& task);
  void solicit(Task& task);
  void data_out_complete(Task& task);
  void run(Task& task);
  std::uint64_t bytes_unasked(const Task& task) const;
  bool unasked_fits(std::uint64_t bytes) const;
  std::uint64_t memory_needed(const Task& task) const;
  bool memory_fits(const Task& task) const;
  bool memory_comes_back(const Task& but) const;
  void take_memory(Task& task, std::uint64_t bytes);
  bool charge(Task& task);
  void sequence_complete(Task& task, bool solicited);
  void respond(Task& task);
  void send_data_in(Task& task, std::uint64_t length, std::uint8_t residual_flags, std::uint32_t residual);
  void send_response(Task& task, std::uint8_t residual_flags, std::uint32_t residual);
  void release(Task& task);    // without an answer
  void give_back(Task& task);  // out of the table already

  // task_management.cc
  void handle_task_management(const TaskManagementRequest& pdu);
  void abort_task(const TaskManagementRequest& pdu);
  void send_task_response(std::uint32_t tag, TaskResponse response);
  Callback<void()> task_response_later(std::uint32_t tag);

  TargetServer& server_;
  Connection& connection_;
  Unit* unit_;
  scsi::Nexus* nexus_ = nullptr;
  SessionType type_;
  SessionParameters parameters_;
  std::string initiator_;
  Isid isid_;
  std::uint16_t tsih_;
  std::uint16_t cid_;
  std::uint64_t id_;
  std::uint64_t commands_ = 0;

  std::uint32_t exp_cmd_sn_;
  std::uint32_t max_cmd_sn_;
  std::map<std::uint32_t, Held> held_;
  std::size_t held_bytes_ = 0;

  TaskTable tasks_;
  std::deque<Task*> waiting_;  // for memory
  std::uint64_t charged_ = 0;  // of tasks and of `held_`
  std::uint32_t next_transfer_tag_ = 1;
  bool resuming_ = false;

  std::string text_in_;  // a request that comes in several PDUs, so far
  std::uint32_t text_tag_ = 0;
  std::string text_out_;
  bool text_open_ = false;
  Timer keepalive_;
  bool ping_open_ = false;
  bool logging_out_ = false;
};

// The LUN of an 8-byte LUN field (SAM-5 section 4.7): single level, peripheral or flat addressing; ~0 for others.
std::uint64_t decode_lun(std::uint64_t field);

}  // namespace holdfast::iscsi
