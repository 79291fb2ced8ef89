// What a block device holds: firstData. Its shape is in engine/addon/native.ts. It works on a thread of Node's own
// pool.
#include <optional>
#include <string>

#include "addon/convert.h"
#include "addon/module.h"
#include "fuse/device_content.h"

namespace holdfast::addon {

namespace {

class FirstData final : public Napi::AsyncWorker {
 public:
  FirstData(Napi::Env env, std::string path)
      : Napi::AsyncWorker(env), path_(std::move(path)), deferred_(Napi::Promise::Deferred::New(env)) {}

  Napi::Promise promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override { found_.emplace(fuse::first_data(path_)); }
  void OnOK() override {
    Napi::Env env = Env();
    if (!found_->ok()) return deferred_.Reject(to_js_error(env, found_->error()));
    const std::optional<std::uint64_t>& offset = **found_;
    deferred_.Resolve(offset ? Napi::Value(to_js(env, *offset)) : env.Null());
  }

 private:
  const std::string path_;
  Napi::Promise::Deferred deferred_;
  std::optional<Result<std::optional<std::uint64_t>>> found_;
};

// firstData(path) -> promise of the offset of the first byte that is not zero; null: there is none.
Napi::Value first_data(const Napi::CallbackInfo& info) {
  auto* worker = new FirstData(info.Env(), info[0].As<Napi::String>().Utf8Value());  // ends itself
  Napi::Promise promise = worker->promise();
  worker->Queue();
  return promise;
}

}  // namespace

void export_device_content(Napi::Env env, Napi::Object exports) {
  exports.Set("firstData", Napi::Function::New(env, first_data, "firstData"));
}

}  // namespace holdfast::addon
