// What block devices and files hold: firstData, which works on a thread of Node's own pool, and nextData, which is done
// at once. Their shapes are in engine/addon/native.ts.
#include <unistd.h>

#include <cerrno>
#include <cstring>
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

// nextData(fd, offset) -> {begin, end}, the next part of an open file that is no hole; null: there is none.
Napi::Value next_data(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int fd = info[0].As<Napi::Number>().Int32Value();
  const auto offset = static_cast<off_t>(info[1].As<Napi::Number>().Int64Value());
  off_t begin = ::lseek(fd, offset, SEEK_DATA);
  if (begin < 0 && errno == ENXIO) return env.Null();
  off_t end = begin < 0 ? -1 : ::lseek(fd, begin, SEEK_HOLE);
  if (end < 0) {
    Error error(ErrorCode::kDiskIo, std::string("a file cannot be searched for holes: ") + std::strerror(errno));
    napi_throw(env, to_js_error(env, error));
    return env.Undefined();
  }
  Napi::Object found = Napi::Object::New(env);
  found.Set("begin", Napi::Number::New(env, static_cast<double>(begin)));
  found.Set("end", Napi::Number::New(env, static_cast<double>(end)));
  return found;
}

}  // namespace

void export_device_content(Napi::Env env, Napi::Object exports) {
  exports.Set("firstData", Napi::Function::New(env, first_data, "firstData"));
  exports.Set("nextData", Napi::Function::New(env, next_data, "nextData"));
}

}  // namespace holdfast::addon
