#include "addon/convert.h"

namespace holdfast::addon {

Napi::Value to_js_error(Napi::Env env, const Error& error) {
  Napi::Object object = Napi::Error::New(env, error.message()).Value();
  object.Set("code", std::string(error_code_name(error.code())));
  return object;
}

Status status_from_js(const Napi::Value& value) {
  if (!value.IsObject()) return Status();
  Napi::Object object = value.As<Napi::Object>();
  std::string name = object.Get("code").ToString().Utf8Value();
  std::string message = object.Get("message").ToString().Utf8Value();
  for (const ErrorCodeRow& row : kErrorCodes) {
    if (row.name == name) return Error(row.code, std::move(message));
  }
  return Error(ErrorCode::kInternal, std::move(message));
}

Record::Record(Napi::Env env, const Napi::Value& value, const char* what) : env_(env), what_(what) {
  if (value.IsObject()) {
    object_ = value.As<Napi::Object>();
  } else {
    wrong("", "a record");
  }
}

void Record::wrong(const char* name, const char* wanted) {
  ok_ = false;
  if (env_.IsExceptionPending()) return;
  std::string message = std::string(what_) + (*name ? "." : "") + name + " is not " + wanted;
  Napi::TypeError::New(env_, message).ThrowAsJavaScriptException();
}

Napi::Value Record::field(const char* name) {
  if (!ok_) return env_.Null();
  Napi::Value value = object_.Get(name);
  // Empty: the environment is being ended in this very moment.
  if (value.IsEmpty() || env_.IsExceptionPending()) ok_ = false;
  return ok_ ? value : env_.Null();
}

std::uint64_t Record::u64(const char* name) {
  Napi::Value value = field(name);
  bool lossless = false;
  std::uint64_t number = value.IsBigInt() ? value.As<Napi::BigInt>().Uint64Value(&lossless) : 0;
  if (ok_ && !lossless) wrong(name, "a bigint of 64 bits");
  return ok_ ? number : 0;
}

std::uint32_t Record::u32(const char* name) {
  Napi::Value value = field(name);
  if (ok_ && !value.IsNumber()) wrong(name, "a number");
  return ok_ ? value.As<Napi::Number>().Uint32Value() : 0;
}

bool Record::boolean(const char* name) {
  Napi::Value value = field(name);
  if (ok_ && !value.IsBoolean()) wrong(name, "a boolean");
  return ok_ && value.As<Napi::Boolean>().Value();
}

std::string Record::text(const char* name) {
  Napi::Value value = field(name);
  if (ok_ && !value.IsString()) wrong(name, "a string");
  return ok_ ? value.As<Napi::String>().Utf8Value() : std::string();
}

std::optional<std::string> Record::text_or_null(const char* name) {
  if (Napi::Value value = field(name); !ok_ || value.IsNull()) return std::nullopt;
  return text(name);
}

std::string Record::bytes(const char* name) {
  Napi::Value value = field(name);
  if (ok_ && !value.IsBuffer()) wrong(name, "a Buffer");
  if (!ok_) return {};
  auto buffer = value.As<Napi::Buffer<char>>();
  return std::string(buffer.Data(), buffer.Length());
}

Napi::Array Record::list(const char* name) {
  Napi::Value value = field(name);
  if (ok_ && !value.IsArray()) wrong(name, "an array");
  return ok_ ? value.As<Napi::Array>() : Napi::Array::New(env_);
}

std::vector<std::string> Record::texts(const char* name) {
  Napi::Array array = list(name);
  std::vector<std::string> out;
  for (std::uint32_t i = 0; ok_ && i < array.Length(); ++i) {
    Napi::Value element = array.Get(i);
    if (!element.IsString()) {
      wrong(name, "an array of strings");
    } else {
      out.push_back(element.As<Napi::String>().Utf8Value());
    }
  }
  return out;
}

tls::Credentials credentials_from_js(Record& record) {
  return {record.text("authority"), record.text("certificate"), record.text("key")};
}

}  // namespace holdfast::addon
