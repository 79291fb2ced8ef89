// Between JavaScript values and ours. The TypeScript side has validated everything (engine/addon), so a wrong type here
// is a bug of that side and throws a TypeError; the returned value is then of no use.
//
// Rules of the border: 64-bit numbers are bigints, absent is null and never undefined, bytes are Buffers, records are
// plain objects with the same field names on both sides.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <napi.h>

#include "base/result.h"
#include "tls/identity.h"

namespace holdfast::addon {

// An Error of JavaScript with `code` and `message`.
Napi::Value to_js_error(Napi::Env env, const Error& error);
// null is ok; an object {code, message} is an error. An unknown code becomes INTERNAL.
Status status_from_js(const Napi::Value& value);

inline Napi::BigInt to_js(Napi::Env env, std::uint64_t value) { return Napi::BigInt::New(env, value); }
inline Napi::String to_js(Napi::Env env, const std::string& value) { return Napi::String::New(env, value); }

class Record;
// {authority, certificate, key}
tls::Credentials credentials_from_js(Record& record);

// Reads the fields of a record that JavaScript passed. After the first wrong one a TypeError is pending and ok() is
// false; the rest then yields empty values.
class Record {
 public:
  Record(Napi::Env env, const Napi::Value& value, const char* what);

  bool ok() const { return ok_; }
  std::uint64_t u64(const char* name);
  std::uint32_t u32(const char* name);
  bool boolean(const char* name);
  std::string text(const char* name);
  std::optional<std::string> text_or_null(const char* name);
  std::string bytes(const char* name);
  std::vector<std::string> texts(const char* name);
  // Calls `each(Record&)` for every element of an array of records.
  template <typename Each>
  void records(const char* name, Each each) {
    Napi::Array array = list(name);
    for (std::uint32_t i = 0; ok_ && i < array.Length(); ++i) {
      Record element(env_, array.Get(i), name);
      if (element.ok()) each(element);
      ok_ = ok_ && element.ok();
    }
  }
  // Calls `use(Record&)` unless the field is null.
  template <typename Use>
  void record_or_null(const char* name, Use use) {
    Napi::Value value = field(name);
    if (!ok_ || value.IsNull()) return;
    Record inner(env_, value, name);
    if (inner.ok()) use(inner);
    ok_ = ok_ && inner.ok();
  }

 private:
  Napi::Value field(const char* name);
  Napi::Array list(const char* name);
  void wrong(const char* name, const char* wanted);

  Napi::Env env_;
  Napi::Object object_;
  const char* what_;
  bool ok_ = true;
};

}  // namespace holdfast::addon
