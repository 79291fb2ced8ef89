// A SCSI command on its way through a logical unit, and the I_T nexus it came by. What a transport (iSCSI) and a
// device server share; nothing here knows the transport. Thread: the reactor of the logical unit.
//
// Life of a command:
//   transport fills "request" -> LogicalUnit::admit(): checks everything the CDB alone can tell; false: it has ended
//   transport collects data_out (min(expected_data_out, data_out_length) bytes) -> LogicalUnit::execute()
//   -> CommandOwner::command_done(), exactly once, possibly from inside execute() or an abort.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/callback.h"
#include "iscsi/scsi/sense.h"

namespace holdfast::scsi {

struct Command;
struct Operation;

// SAM-5 section 8.9.
enum class TaskAttribute : std::uint8_t { kUntagged = 0, kSimple = 1, kOrdered = 2, kHeadOfQueue = 3, kAca = 4 };

// An EXTENDED COPY as RECEIVE COPY STATUS tells it to the nexus that sent it.
struct CopyRecord {
  enum class State : std::uint8_t { kInProgress = 0, kDone = 1, kFailed = 2 };  // COPY MANAGER STATUS
  std::uint8_t list_identifier = 0;
  State state = State::kInProgress;
  std::uint16_t segments = 0;  // processed
  std::uint64_t bytes = 0;     // written
};

// One initiator port seen by one logical unit (an I_T_L nexus). Its unit attentions wait here, oldest first.
struct Nexus {
  // The SCSI initiator port name: "IQN,i,0xISID" (RFC 7143 section 4.4.1). Registrations belong to it.
  std::string port;
  std::vector<SenseCode> attentions;  // no duplicates
  bool prevents_removal = false;
  std::deque<CopyRecord> copies;  // the last few, oldest first

  void attend(SenseCode code) {
    for (SenseCode waiting : attentions) {
      if (waiting == code) return;
    }
    attentions.push_back(code);
  }
};

class CommandOwner {
 public:
  // The command has left the logical unit; its result is set. The owner may reuse or free it at once.
  virtual void command_done(Command& command) = 0;

 protected:
  ~CommandOwner() = default;
};

// Counts down the commands a task management function waits for; calls back when all have left the unit.
struct AbortWait {
  Callback<void()> done;
  ~AbortWait() {
    if (done) done();
  }
};

struct Command {
  // Request, set by the transport.
  std::array<std::byte, 16> cdb{};
  std::uint8_t cdb_size = 16;
  TaskAttribute attribute = TaskAttribute::kSimple;
  Nexus* nexus = nullptr;  // null once the nexus is gone
  CommandOwner* owner = nullptr;
  std::uint64_t expected_data_out = 0;  // what the initiator offers to send
  SliceList data_out;

  // Set by admit().
  const Operation* operation = nullptr;
  std::uint64_t data_out_length = 0;  // what the CDB asks of the initiator
  std::uint64_t data_in_estimate =
      0;  // bytes of data the command will hold when it answers, for the transport's budget

  // Result.
  ScsiStatus status = ScsiStatus::kGood;
  Sense sense;
  SliceList data_in;
  std::uint64_t data_in_length = 0;  // total_size(data_in)
  bool silent = false;               // aborted: no status goes to the initiator
  bool nexus_lost = false;           // the device went away: the transport drops the connection

  // The device server's own.
  enum class State : std::uint8_t { kIdle, kAdmitted, kQueued, kRunning };
  State state = State::kIdle;
  bool aborted = false;
  std::uint64_t offset = 0;  // bytes on the device
  std::uint64_t length = 0;
  std::uint64_t done = 0;  // of a command that works in steps
  Slice scratch;
  std::vector<std::shared_ptr<AbortWait>> abort_waits;
  std::uint64_t place = 0;      // in the order of arrival in the task set
  Command* previous = nullptr;  // the one after it in the task set
  Command* next = nullptr;      // the one before it

  std::uint8_t cdb8(std::size_t offset_in_cdb) const { return static_cast<std::uint8_t>(cdb[offset_in_cdb]); }
  std::uint64_t cdb_field(std::size_t offset_in_cdb, std::size_t size) const;

  // Ends in `status` or `reason`; the caller returns the command to its owner.
  void fail(const Sense& reason) {
    status = ScsiStatus::kCheckCondition;
    sense = reason;
    data_in.clear();
    data_in_length = 0;
  }

  void recycle();
};

}  // namespace holdfast::scsi
