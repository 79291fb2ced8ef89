// Loop: what the parts of a reactor share. Env, files, streams and listeners are built on it.
//
// A turn: one system call that submits what the last turn prepared and waits for completions, their delivery, due
// timers, posted work, work of other threads, then what streams have to send or deliver. Nothing here is seen outside
// native/io.
//
// Once closing() is true, no callback of a user runs any more: what completes is only put away.
// Thread: one reactor (the Inbox excepted).
#pragma once

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "base/buffer.h"
#include "io/blocking_pool.h"
#include "io/env.h"
#include "io/huge_memory.h"
#include "io/inbox.h"
#include "io/poll_policy.h"
#include "io/reactor.h"
#include "io/receive_buffers.h"
#include "io/ring.h"
#include "io/timer_queue.h"
#include "io/wake_policy.h"

namespace holdfast::io {

class Loop;

// Something to be called once before this turn's submissions go out: streams gather here what one turn sends.
class TurnEnd {
 protected:
  ~TurnEnd() = default;

 private:
  friend class Loop;
  virtual void at_turn_end() = 0;
  bool listed_ = false;

 protected:
  // An object that is listed must not be freed before at_turn_end() was called.
  bool listed() const { return listed_; }
};

// Something that others change without the kernel's help, in memory that they share with this process. It is looked at
// once a turn, and before the reactor sleeps.
class Poller {
 protected:
  ~Poller() = default;

 private:
  friend class Loop;
  virtual void poll() = 0;
  // No poll() until woke_up(): what changes from now on must wake the reactor. A fence and has_news() follow.
  virtual void announce_sleep() = 0;
  virtual void woke_up() = 0;
  // Whether poll() would find something.
  virtual bool has_news() = 0;
};

class Loop final : private Completion {
 public:
  static Result<std::unique_ptr<Loop>> create(const ReactorOptions& options);
  ~Loop();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  void turn(Nanos wait_max);
  // Ends all I/O: cancels what can be cancelled, waits for the rest, drops every callback. Idempotent.
  void close();
  bool closing() const { return closing_; }
  bool closed() const { return closed_; }

  Nanos now() const { return now_; }
  void post(Callback<void()> work);
  std::uint64_t call_at(Nanos deadline, Callback<void()> work);
  void cancel_call(std::uint64_t id) { timers_.cancel(id); }
  void note_writes(int change);
  void note_reads(int change);
  void run_blocking(Callback<void()> work, Callback<void()> done);
  void at_turn_end(TurnEnd* listed);
  // Until it is removed, which may be done from inside its poll().
  void add_poller(Poller* poller) { pollers_.push_back(poller); }
  void remove_poller(Poller* poller);

  Ring& ring() { return *ring_; }
  ReceiveBuffers& receive_buffers() { return *receive_buffers_; }
  BufferPool& buffers() { return buffers_; }
  Inbox& inbox() { return inbox_; }
  // Debug builds: this is the reactor's thread, or the reactor has not run yet.
  void check_thread() const { DCHECK(owner_ == std::thread::id() || owner_ == std::this_thread::get_id()); }

  // Handles (streams, files, listeners) that users hold. They must be gone before the reactor is.
  unsigned handles = 0;

  struct Counters {
    std::atomic<std::uint64_t> turns{0};
    std::atomic<std::uint64_t> sleeps{0};
    std::atomic<std::uint64_t> spins{0};
    std::atomic<std::uint64_t> spin_hits{0};
    std::atomic<std::uint64_t> completions{0};
    std::atomic<std::uint64_t> system_calls{0};
    std::atomic<std::uint64_t> received_bytes{0};
    std::atomic<std::uint64_t> sent_bytes{0};
    std::atomic<std::uint64_t> receive_buffers_exhausted{0};
  };
  Counters counters;
  // One writer: the reactor. A plain load and store, no locked instruction.
  static void add(std::atomic<std::uint64_t>& counter, std::uint64_t more) {
    counter.store(counter.load(std::memory_order_relaxed) + more, std::memory_order_relaxed);
  }

 private:
  explicit Loop(const ReactorOptions& options);

  void on_completion(std::int32_t result, std::uint32_t flags) override;  // of the wake-up descriptor
  void arm_wake_up();
  void run_posted();
  void run_turn_ends();
  void poll_all();
  bool has_news() const;
  bool prepare_to_sleep();
  void woke_up();
  void arm_trim();
  void enter(Nanos wait);
  bool spin(Nanos budget);
  void sleep(Nanos wait_max);
  void settle_scheduling();
  void arm_restore();
  void refresh_now();

  HugeMemory memory_;
  const Nanos trim_interval_;
  bool trim_armed_ = false;
  BufferPool buffers_;  // slices everywhere below refer to it
  Inbox inbox_;
  std::unique_ptr<Ring> ring_;
  std::unique_ptr<ReceiveBuffers> receive_buffers_;
  TimerQueue timers_;
  BlockingPool blocking_pool_;
  PollPolicy poll_policy_;
  WakePolicy wake_policy_;
  ThreadScheduling scheduling_;
  bool restore_armed_ = false;
  int writes_ = 0;  // of hosts, under way
  int reads_ = 0;
  RecentPeak under_way_;  // of both
  std::vector<Callback<void()>> posted_;
  std::vector<Callback<void()>> running_;
  std::vector<TurnEnd*> turn_ends_;
  std::vector<TurnEnd*> running_turn_ends_;
  std::vector<Poller*> pollers_;  // null: removed since the last turn
  std::thread::id owner_;
  std::uint64_t wake_count_ = 0;
  bool wake_armed_ = false;
  bool closing_ = false;
  bool closed_ = false;
  Nanos now_{0};
};

}  // namespace holdfast::io
