// ReactorThread: a thread that runs one Reactor.
//
// stop() may be called at any time: what is in flight is then cancelled or waited for, and callbacks are dropped.
// Objects that use the Env are destroyed after stop() and before this. Thread: post() on any, env() for objects of the
// reactor, the rest on the thread that called start().
#pragma once

#include <memory>
#include <string>
#include <thread>

#include "base/callback.h"
#include "base/result.h"
#include "io/reactor.h"

namespace holdfast::addon {

class ReactorThread {
 public:
  // `name`: of the thread, at most 15 characters. UNSUPPORTED_SYSTEM where there is no io_uring.
  static Result<std::unique_ptr<ReactorThread>> start(std::string name);
  ~ReactorThread() { stop(); }
  ReactorThread(const ReactorThread&) = delete;
  ReactorThread& operator=(const ReactorThread&) = delete;

  void post(Callback<void()> work) { reactor_->post_from_any_thread(std::move(work)); }
  Env& env() { return reactor_->env(); }
  ReactorStats stats() const { return reactor_->stats(); }
  void stop();

 private:
  explicit ReactorThread(std::unique_ptr<Reactor> reactor) : reactor_(std::move(reactor)) {}

  std::unique_ptr<Reactor> reactor_;
  std::thread thread_;
};

}  // namespace holdfast::addon
