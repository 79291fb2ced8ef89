// Reactor: one thread with one io_uring, and the Env on it.
//
// Life: create() on any thread; then one thread owns it: the first that calls run() or turn(). Env calls before
// that are allowed from the creating thread. stop() and post_from_any_thread() may be called from any thread while the
// Reactor exists. run() returns after stop(), and by then the Env is dead: everything in flight has been
// cancelled or waited for, callbacks were dropped, calls to the Env do nothing. Streams, files and listeners must be
// destroyed before the Reactor; after run() has returned, both may be destroyed on any thread.
#pragma once

#include <memory>

#include "base/callback.h"
#include "base/result.h"
#include "io/env.h"

namespace holdfast {

namespace io {
class Loop;
class UringEnv;
}  // namespace io

struct ReactorOptions {
  unsigned submission_entries = 1'024;
  // Memory that all streams of the reactor receive into. The count is a power of two.
  unsigned receive_buffers = 64;
  std::size_t receive_buffer_bytes = 64u << 10;
  // Longest spin for new events before the thread sleeps, while that pays. Zero: never.
  Nanos spin_max = 250us;
  // Fewer usable CPUs (affinity, control group quota): never spin.
  unsigned spin_cpus_min = 2;
  unsigned blocking_threads_max = 4;
  // How long payload memory is kept that nobody has asked for. A little is kept for good.
  Nanos trim_interval = 5s;
};

struct ReactorStats {
  std::uint64_t turns = 0;
  std::uint64_t sleeps = 0;
  std::uint64_t spins = 0;
  std::uint64_t spin_hits = 0;
  std::uint64_t completions = 0;
  std::uint64_t system_calls = 0;  // io_uring_enter
  std::uint64_t received_bytes = 0;
  std::uint64_t sent_bytes = 0;
  std::uint64_t receive_buffers_exhausted = 0;
};

class Reactor {
 public:
  // UNSUPPORTED_SYSTEM when this kernel or container gives us no io_uring; the message says what to do.
  static Result<std::unique_ptr<Reactor>> create(ReactorOptions options = {});
  ~Reactor();
  Reactor(const Reactor&) = delete;
  Reactor& operator=(const Reactor&) = delete;

  Env& env();

  // Runs until stop().
  void run();
  // Any thread, also a callback. Work posted before is still run.
  void stop();
  // One turn of the loop that sleeps at most `wait_max`. For tests and tools that drive the loop themselves.
  void turn(Nanos wait_max);
  // Any thread. Runs `work` on the reactor in the order of posting (of one thread). Dropped, on the calling thread,
  // when the reactor has stopped.
  void post_from_any_thread(Callback<void()> work);
  // Any thread.
  ReactorStats stats() const;

 private:
  Reactor();
  std::unique_ptr<io::Loop> loop_;
  std::unique_ptr<io::UringEnv> env_;
  bool stopping_ = false;
};

}  // namespace holdfast
