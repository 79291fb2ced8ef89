// JsQueue: brings work from reactor threads to the JavaScript thread of one environment.
//
// Thread: create() and close() on the JavaScript thread, post() on any. Work runs on the JavaScript thread in the order
// of posting, inside a handle scope. After close(), or once the environment is being torn down, work is dropped.
// An open queue keeps the event loop alive. Control only: nothing of the I/O path comes through here.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include <napi.h>

namespace holdfast::addon {

class JsQueue : public std::enable_shared_from_this<JsQueue> {
 public:
  using Work = std::function<void(Napi::Env)>;

  static std::shared_ptr<JsQueue> create(Napi::Env env, const char* name);
  ~JsQueue();
  JsQueue(const JsQueue&) = delete;
  JsQueue& operator=(const JsQueue&) = delete;

  void post(Work work);
  void close();

 private:
  JsQueue() = default;
  void drain(napi_env env);
  static void call_js(napi_env env, napi_value callback, void* context, void* data);
  static void finalize(napi_env env, void* data, void* context);

  std::mutex mutex_;
  std::vector<Work> waiting_;
  // nullptr once closed or torn down; guarded by mutex_, so that no thread uses it after that.
  napi_threadsafe_function function_ = nullptr;
};

}  // namespace holdfast::addon
