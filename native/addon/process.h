// Process<Host>: the bridge between one JavaScript handle and a Host on a reactor thread of its own.
//
// A call from JavaScript becomes a job on the reactor; its answer comes back through the JsQueue and settles a promise.
// Every promise settles: what is unanswered when the process closes is rejected with CANCELLED.
//
// Host has `close(Callback<void()> done)`, and may be destroyed once its reactor has stopped.
// Invariants: host_ is made and used on the reactor thread, and destroyed after that thread has ended; everything else
// belongs to the JavaScript thread. An open process is owned by its Environment.
#pragma once

#include <chrono>
#include <future>
#include <map>
#include <memory>
#include <utility>
#include <variant>

#include <napi.h>

#include "addon/convert.h"
#include "addon/environment.h"
#include "addon/js_queue.h"
#include "addon/reactor_thread.h"
#include "base/log.h"
#include "io/memory_pressure.h"

namespace holdfast::addon {

// The answer of a call that returns nothing.
using Done = std::monostate;

template <typename T>
using Answer = Callback<void(Result<T>)>;

inline Result<Done> done_if_ok(Status status) {
  if (!status.ok()) return std::move(status).error();
  return Done{};
}

template <typename Host>
class Process : public Closable, public std::enable_shared_from_this<Process<Host>> {
 public:
  // `make(Env&, Process&)` makes the host, on the reactor. Where the system has no io_uring a JavaScript error is
  // pending and nullptr is returned.
  template <typename Make>
  static std::shared_ptr<Process> start(Napi::Env env, const char* name, Make make) {
    Result<std::unique_ptr<ReactorThread>> thread = ReactorThread::start(name);
    if (!thread.ok()) {
      napi_throw(env, to_js_error(env, thread.error()));
      return nullptr;
    }
    auto process = std::make_shared<Process>();
    (void)become_io_flusher();  // questions of the data plane are answered on this thread
    process->queue_ = JsQueue::create(env, name);
    process->thread_ = std::move(thread).value();
    process->thread_->post([self = process.get(), make] { self->host_ = make(self->thread_->env(), *self); });
    Environment::of(env).add(process);
    return process;
  }

  // JavaScript thread. Runs `call(Host&, Answer<T>)` on the reactor; the promise gets `convert(env, T)`.
  template <typename T, typename Call, typename Convert>
  Napi::Value ask(Napi::Env env, Call call, Convert convert) {
    auto deferred = Napi::Promise::Deferred::New(env);
    if (closing_) {
      deferred.Reject(to_js_error(env, closed_error()));
      return deferred.Promise();
    }
    std::uint64_t id = ++last_id_;
    pending_.emplace(id, deferred);
    thread_->post([this, id, convert, job = std::make_unique<Call>(std::move(call))] {
      (*job)(*host_, Answer<T>([this, id, convert](Result<T> result) {
        queue_->post(
            [this, id, convert, result = std::move(result)](Napi::Env js) { settle(js, id, convert, result); });
      }));
    });
    return deferred.Promise();
  }

  // The same for a call that returns nothing: `call(Host&, StatusCallback)`. The promise gets null.
  template <typename Call>
  Napi::Value ask_done(Napi::Env env, Call call) {
    auto wrapped = [call = std::move(call)](Host& host, Answer<Done> answer) mutable {
      auto shared = std::make_shared<Answer<Done>>(std::move(answer));
      call(host, [shared](Status status) { (*shared)(done_if_ok(std::move(status))); });
    };
    return ask<Done>(env, std::move(wrapped), [](Napi::Env js, const Done&) -> Napi::Value { return js.Null(); });
  }

  // JavaScript thread. Runs `work(Host&)` on the reactor.
  template <typename Work>
  void tell(Work work) {
    if (closing_) return;
    thread_->post([this, job = std::make_unique<Work>(std::move(work))] { (*job)(*host_); });
  }

  // Reactor thread. Runs `work(Napi::Env)` on the JavaScript thread, unless the process has been closed.
  void to_javascript(JsQueue::Work work) { queue_->post(std::move(work)); }

  // JavaScript thread. Closes the host and ends the thread; then the promise gets null.
  Napi::Value close(Napi::Env env) {
    auto deferred = Napi::Promise::Deferred::New(env);
    if (std::exchange(closing_, true)) {
      deferred.Reject(to_js_error(env, closed_error()));
      return deferred.Promise();
    }
    thread_->post([this, deferred] {
      host_->close([this, deferred] { queue_->post([this, deferred](Napi::Env js) { finish_close(js, deferred); }); });
    });
    return deferred.Promise();
  }

  // A host that takes too long is cut off as if killed, which is safe at any point.
  void close_at_exit() override {
    auto closed = std::make_shared<std::promise<void>>();
    std::future<void> wait = closed->get_future();
    if (!std::exchange(closing_, true)) {
      thread_->post([this, closed] { host_->close([closed] { closed->set_value(); }); });
      if (wait.wait_for(kExitWait) != std::future_status::ready) {
        log_warn("addon", "the disk or volume did not close in time; it is cut off and recovers at the next start");
      }
    }
    stop();
    queue_->close();
  }

 private:
  static constexpr std::chrono::seconds kExitWait{5};

  static Error closed_error() { return Error(ErrorCode::kCancelled, "the process has been closed"); }

  template <typename T, typename Convert>
  void settle(Napi::Env env, std::uint64_t id, Convert& convert, const Result<T>& result) {
    auto found = pending_.find(id);
    if (found == pending_.end()) return;
    Napi::Promise::Deferred deferred = found->second;
    pending_.erase(found);
    if (result.ok()) {
      deferred.Resolve(convert(env, *result));
    } else {
      deferred.Reject(to_js_error(env, result.error()));
    }
  }

  void finish_close(Napi::Env env, const Napi::Promise::Deferred& deferred) {
    std::shared_ptr<Process> self = this->shared_from_this();  // the environment may hold the last other share
    stop();
    for (auto& [id, unanswered] : pending_) unanswered.Reject(to_js_error(env, closed_error()));
    pending_.clear();
    deferred.Resolve(env.Null());
    Environment::of(env).remove(self);
    queue_->close();
  }

  void stop() {
    thread_->stop();
    host_.reset();
    thread_.reset();
  }

  std::shared_ptr<JsQueue> queue_;
  std::unique_ptr<ReactorThread> thread_;
  std::unique_ptr<Host> host_;
  std::map<std::uint64_t, Napi::Promise::Deferred> pending_;
  std::uint64_t last_id_ = 0;
  bool closing_ = false;
};

// ---- handles: what JavaScript holds of a process ----

// An external value that can be told from every other by its tag.
template <typename Host>
Napi::Value make_handle(Napi::Env env, std::shared_ptr<Process<Host>> process, const napi_type_tag& tag) {
  using Share = std::shared_ptr<Process<Host>>;
  auto share = std::make_unique<Share>(std::move(process));
  auto handle = Napi::External<Share>::New(env, share.get(), [](Napi::Env, Share* last) { delete last; });
  // The environment is being ended in this very moment, and closes the process.
  if (handle.IsEmpty()) return env.Undefined();
  (void)share.release();
  handle.TypeTag(&tag);
  return handle;
}

// nullptr and a pending TypeError for anything but a handle with this tag.
template <typename Host>
std::shared_ptr<Process<Host>> process_of(const Napi::CallbackInfo& info, const napi_type_tag& tag) {
  Napi::Value value = info[0];
  if (!value.IsExternal() || !value.As<Napi::External<std::shared_ptr<Process<Host>>>>().CheckTypeTag(&tag)) {
    Napi::TypeError::New(info.Env(), "the first argument is not the right handle").ThrowAsJavaScriptException();
    return nullptr;
  }
  return *value.As<Napi::External<std::shared_ptr<Process<Host>>>>().Data();
}

}  // namespace holdfast::addon
