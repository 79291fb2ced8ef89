// Task: one SCSI command of a session with the state of its data transfer, and the pool and table that hold tasks.
// Thread: one reactor.
//
// A task lives until both sides let go: the session (it answered, or ended) and the logical unit (command_done()).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "iscsi/pdu.h"
#include "iscsi/scsi/command.h"

namespace holdfast::iscsi {

class Session;

struct Task : scsi::Command {
  Session* session = nullptr;  // null once the session ended: nobody is to be answered
  std::uint64_t lun = 0;
  std::uint32_t tag = 0;       // InitiatorTaskTag
  std::uint32_t expected = 0;  // ExpectedDataTransferLength
  bool reads = false;
  bool writes = false;
  bool in_unit = false;   // admitted and not yet done
  bool discards = false;  // ended already; unsolicited data still arrives and is thrown away
  bool waits_for_memory = false;
  bool memory_granted = false;  // all that it still needs

  // Data-out. Bytes arrive strictly in order: with the command, unsolicited, solicited. `buffer` is for the kind that
  // is arriving, from `buffer_at` on.
  std::uint32_t wanted = 0;    // min(expected, data_out_length): what the logical unit gets
  std::uint32_t received = 0;  // in order, all kinds together
  Slice immediate;
  Slice unsolicited;  // once it is complete, and more is solicited
  Slice buffer;
  std::uint32_t buffer_at = 0;
  bool unsolicited_open = false;    // Data-Out PDUs without R2T are to come
  std::uint32_t sequence_end = 0;   // where the sequence that is arriving ends
  std::uint32_t next_data_sn = 0;   // of that sequence
  std::uint32_t solicited_end = 0;  // up to where R2Ts were sent
  std::uint32_t r2t_count = 0;      // R2TSN of the next
  std::uint32_t r2t_done = 0;       // R2Ts answered in full
  std::uint32_t first_transfer_tag = 0;

  std::uint64_t charged_bytes = 0;  // to the memory budget

  Task* hash_next = nullptr;
  Task* pool_next = nullptr;

  void recycle() {
    scsi::Command::recycle();
    session = nullptr;
    reads = writes = in_unit = discards = waits_for_memory = memory_granted = unsolicited_open = false;
    lun = 0;
    tag = expected = wanted = received = 0;
    immediate = Slice();
    unsolicited = Slice();
    buffer = Slice();
    buffer_at = 0;
    sequence_end = next_data_sn = solicited_end = r2t_count = r2t_done = first_transfer_tag = 0;
    charged_bytes = 0;
    hash_next = nullptr;
  }
};

// Free tasks, kept for the next command: no allocation once warm.
class TaskPool {
 public:
  TaskPool() = default;
  TaskPool(const TaskPool&) = delete;
  TaskPool& operator=(const TaskPool&) = delete;
  ~TaskPool() {
    // Nobody is left to hear that a command has ended.
    for (auto& task : all_) {
      for (auto& wait : task->abort_waits) wait->done.reset();
    }
  }

  Task* take() {
    if (!free_) {
      all_.push_back(std::make_unique<Task>());
      return all_.back().get();
    }
    Task* task = free_;
    free_ = task->pool_next;
    return task;
  }
  void give_back(Task* task) {
    task->recycle();
    task->pool_next = free_;
    free_ = task;
  }

 private:
  std::vector<std::unique_ptr<Task>> all_;
  Task* free_ = nullptr;
};

// Tasks of a session by InitiatorTaskTag.
class TaskTable {
 public:
  Task* find(std::uint32_t tag) const {
    for (Task* task = buckets_[bucket(tag)]; task; task = task->hash_next) {
      if (task->tag == tag) return task;
    }
    return nullptr;
  }
  void insert(Task* task) {
    Task*& head = buckets_[bucket(task->tag)];
    task->hash_next = head;
    head = task;
    ++size_;
  }
  void remove(Task* task) {
    Task** link = &buckets_[bucket(task->tag)];
    while (*link != task) link = &(*link)->hash_next;
    *link = task->hash_next;
    task->hash_next = nullptr;
    --size_;
  }
  std::size_t size() const { return size_; }
  // Removes and returns any task; null when empty.
  Task* take_any() {
    for (Task*& head : buckets_) {
      if (Task* task = head) {
        remove(task);
        return task;
      }
    }
    return nullptr;
  }
  template <typename Function>
  void for_each(Function function) const {
    for (Task* head : buckets_) {
      for (Task* task = head; task;) {
        Task* next = task->hash_next;
        function(*task);
        task = next;
      }
    }
  }

 private:
  static constexpr std::size_t kBuckets = 256;
  static std::size_t bucket(std::uint32_t tag) { return (tag * 0x9E3779B1u) >> 24; }
  std::array<Task*, kBuckets> buckets_{};
  std::size_t size_ = 0;
};

}  // namespace holdfast::iscsi
