// Extended attributes of files (xattr(7)), among them POSIX ACLs, which Node.js cannot read: readFileAttributes,
// writeFileAttribute. They do not follow a link at the end of the path. Their shapes are in engine/addon/native.ts.
// Thread: they block the one of JavaScript.
#include <sys/xattr.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "addon/convert.h"
#include "addon/module.h"

namespace holdfast::addon {

namespace {

// The list may grow between the question for its size and the one for itself.
constexpr int kAttempts = 8;

std::string text_of(const Napi::Value& value) {
  auto bytes = value.As<Napi::Buffer<char>>();
  return std::string(bytes.Data(), bytes.Length());
}

// Calls `get(buffer, size)`, which works as listxattr(2) does, until it has everything; nullopt with errno.
template <typename Get>
std::optional<std::vector<char>> read_whole(Get get) {
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    ssize_t size = get(nullptr, 0);
    if (size < 0) return std::nullopt;
    std::vector<char> bytes(static_cast<std::size_t>(size));
    if (size == 0) return bytes;
    ssize_t got = get(bytes.data(), bytes.size());
    if (got >= 0) {
      bytes.resize(static_cast<std::size_t>(got));
      return bytes;
    }
    if (errno != ERANGE) return std::nullopt;
  }
  return std::nullopt;
}

// readFileAttributes(path) -> [{name, value}]; null: they cannot be listed (there are more than 64 KiB of names, say),
// and a value of null: it cannot be read.
Napi::Value read_attributes(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const std::string path = text_of(info[0]);
  Napi::Array out = Napi::Array::New(env);
  std::optional<std::vector<char>> names =
      read_whole([&](char* into, std::size_t size) { return ::llistxattr(path.c_str(), into, size); });
  if (!names) return errno == EOPNOTSUPP ? Napi::Value(out) : env.Null();
  for (std::size_t at = 0; at < names->size();) {
    const char* name = names->data() + at;
    std::size_t length = ::strnlen(name, names->size() - at);
    at += length + 1;
    std::optional<std::vector<char>> value =
        read_whole([&](char* into, std::size_t size) { return ::lgetxattr(path.c_str(), name, into, size); });
    Napi::Object attribute = Napi::Object::New(env);
    attribute.Set("name", Napi::Buffer<char>::Copy(env, name, length));
    attribute.Set("value", value ? Napi::Buffer<char>::Copy(env, value->data(), value->size()) : env.Null());
    out.Set(out.Length(), attribute);
  }
  return out;
}

// What says that this file system, or this user, does not keep the attribute.
bool is_refusal(int error_number) {
  switch (error_number) {
    case EOPNOTSUPP:
    case EPERM:
    case EACCES:
    case EINVAL:
    case ERANGE:
    case E2BIG:
    case ENOSPC:
    case EDQUOT:
      return true;
    default:
      return false;
  }
}

// writeFileAttribute(path, name, value) -> whether it is kept.
Napi::Value write_attribute(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const std::string path = text_of(info[0]);
  const std::string name = text_of(info[1]);
  auto value = info[2].As<Napi::Buffer<char>>();
  if (::lsetxattr(path.c_str(), name.c_str(), value.Data(), value.Length(), 0) == 0) {
    return Napi::Boolean::New(env, true);
  }
  if (is_refusal(errno)) return Napi::Boolean::New(env, false);
  Error error(ErrorCode::kDiskIo, "attribute " + name + " of " + path + " cannot be written: " + std::strerror(errno));
  napi_throw(env, to_js_error(env, error));
  return env.Undefined();
}

}  // namespace

void export_file_attributes(Napi::Env env, Napi::Object exports) {
  exports.Set("readFileAttributes", Napi::Function::New(env, read_attributes, "readFileAttributes"));
  exports.Set("writeFileAttribute", Napi::Function::New(env, write_attribute, "writeFileAttribute"));
}

}  // namespace holdfast::addon
