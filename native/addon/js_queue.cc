#include "addon/js_queue.h"

#include <utility>

#include "base/check.h"

namespace holdfast::addon {

std::shared_ptr<JsQueue> JsQueue::create(Napi::Env env, const char* name) {
  std::shared_ptr<JsQueue> queue(new JsQueue());
  // The function holds a share of the queue until finalize(), which Node calls last of all.
  auto* share = new std::shared_ptr<JsQueue>(queue);
  napi_status status =
      napi_create_threadsafe_function(env, nullptr, nullptr, Napi::String::New(env, name), /*max_queue_size=*/0,
                                      /*initial_thread_count=*/1, nullptr, finalize, share, call_js, &queue->function_);
  CHECK(status == napi_ok, "a thread-safe function can be made");
  return queue;
}

JsQueue::~JsQueue() { CHECK(function_ == nullptr, "a queue is finalized before it is destroyed"); }

void JsQueue::post(Work work) {
  std::lock_guard lock(mutex_);
  if (function_ == nullptr) return;
  waiting_.push_back(std::move(work));
  if (waiting_.size() > 1) return;  // a call is on its way
  napi_status status = napi_call_threadsafe_function(function_, nullptr, napi_tsfn_nonblocking);
  // Closing: the environment is being torn down. Node has taken back this thread's share; never touch it again.
  if (status != napi_ok) function_ = nullptr;
}

void JsQueue::close() {
  std::lock_guard lock(mutex_);
  if (function_ == nullptr) return;
  napi_release_threadsafe_function(std::exchange(function_, nullptr), napi_tsfn_abort);
  waiting_.clear();
}

void JsQueue::drain(napi_env env) {
  std::vector<Work> batch;
  {
    std::lock_guard lock(mutex_);
    batch.swap(waiting_);
  }
  for (Work& work : batch) {
    Napi::HandleScope scope(env);
    work(env);
    // A callback of the user threw: that is an uncaught exception, as everywhere else in Node.
    bool pending = false;
    napi_is_exception_pending(env, &pending);
    if (pending) {
      napi_value exception = nullptr;
      napi_get_and_clear_last_exception(env, &exception);
      napi_fatal_exception(env, exception);
    }
  }
}

void JsQueue::call_js(napi_env env, napi_value, void* context, void*) {
  // Without an environment the queue is only being emptied; the work must not run.
  if (env == nullptr) return;
  (*static_cast<std::shared_ptr<JsQueue>*>(context))->drain(env);
}

void JsQueue::finalize(napi_env, void*, void* context) {
  auto* share = static_cast<std::shared_ptr<JsQueue>*>(context);
  {
    std::lock_guard lock((*share)->mutex_);
    (*share)->function_ = nullptr;
    (*share)->waiting_.clear();
  }
  delete share;
}

}  // namespace holdfast::addon
