// Ring: one io_uring and the way its completions find their objects.
//
// The ring has one submitter and runs its task work only inside enter() (SINGLE_ISSUER | DEFER_TASKRUN), so completions
// never interrupt the reactor and many of them cost one system call. It is made disabled and bound to the thread
// that enters it first.
//
// Every operation carries a Completion, which must live until its last completion was delivered: whoever no longer
// wants an operation cancels it and keeps the object (orphaned) until then.
// Thread: one reactor, except creation and destruction.
#pragma once

#include <liburing.h>

#include <memory>
#include <optional>

#include "base/result.h"
#include "io/env.h"

namespace holdfast::io {

// What an operation's completions are delivered to.
class Completion {
 public:
  // `result` as the system call would return it, errors negative. `flags`: IORING_CQE_F_*. The operation is over
  // unless IORING_CQE_F_MORE is set.
  virtual void on_completion(std::int32_t result, std::uint32_t flags) = 0;

 protected:
  ~Completion() = default;
};

class Ring {
 public:
  // UNSUPPORTED_SYSTEM, with what to do, when this kernel or container does not give us an io_uring.
  static Result<std::unique_ptr<Ring>> create(unsigned submission_entries);
  ~Ring();
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  // A cleared submission entry. The caller fills it with an io_uring_prep_*; it goes out with the next enter().
  // `completion` is set by this class: prepare(c, [](io_uring_sqe* entry) { io_uring_prep_nop(entry); }).
  template <typename Fill>
  void prepare(Completion* completion, Fill fill) {
    io_uring_sqe* entry = next_entry();
    fill(entry);
    io_uring_sqe_set_data(entry, completion);
    ++in_flight_;
  }
  // Asks the kernel to end what was prepared for `completion`, if it still runs.
  void cancel(Completion* completion);
  void cancel_everything();

  bool has_unsubmitted() { return io_uring_sq_ready(&ring_) != 0; }
  // True when collect() would find something, or the kernel waits to be entered to produce it. No system call.
  bool has_completions() {
    return io_uring_cq_ready(&ring_) != 0 ||
           (__atomic_load_n(ring_.sq.kflags, __ATOMIC_RELAXED) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
  }
  // Submits, and lets the kernel finish what it can without waiting. One system call.
  void submit();
  // Submits in the middle of a turn, what completes is not looked for; nothing before the ring has its thread. One
  // system call.
  void submit_early();
  // Submits and waits for a completion, a signal, or the end of `wait_max` (nullopt: without limit). One system call.
  void submit_and_wait(std::optional<Nanos> wait_max);
  // Delivers what has completed, at most one batch; returns how many.
  unsigned deliver();

  // To be called on the owning thread before another thread destroys the ring.
  void unbind();

  // Operations whose last completion was not delivered yet.
  unsigned in_flight() const { return in_flight_; }
  std::uint64_t system_calls() const { return system_calls_; }
  io_uring* raw() { return &ring_; }

 private:
  Ring() = default;
  io_uring_sqe* next_entry();
  void bind();
  // True: the call is to be made again.
  bool retry(int result);

  io_uring ring_{};
  bool initialized_ = false;
  bool bound_ = false;
  unsigned in_flight_ = 0;
  std::uint64_t system_calls_ = 0;
};

}  // namespace holdfast::io
