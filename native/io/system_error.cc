#include "io/system_error.h"

#include <cerrno>
#include <system_error>

namespace holdfast::io {

namespace {

ErrorCode disk_code(int error_number) {
  switch (error_number) {
    case ENOSPC:
    case EDQUOT:
      return ErrorCode::kNoSpace;
    case ENOENT:
      return ErrorCode::kNotFound;
    case EBUSY:
    case ETXTBSY:
    case EWOULDBLOCK:
      return ErrorCode::kInUse;
    case EISDIR:
    case ENOTDIR:
    case ENAMETOOLONG:
    case ELOOP:
      return ErrorCode::kInvalidArgument;
    case EACCES:
    case EPERM:
    case EROFS:
      return ErrorCode::kFailedPrecondition;
    default:
      return ErrorCode::kDiskIo;
  }
}

ErrorCode network_code(int error_number) {
  switch (error_number) {
    case ETIMEDOUT:
      return ErrorCode::kTimedOut;
    case EADDRINUSE:
      return ErrorCode::kInUse;
    case EADDRNOTAVAIL:
    case EINVAL:
    case EAFNOSUPPORT:
    case ENOENT:
    case ENOTDIR:
    case ENAMETOOLONG:
      return ErrorCode::kInvalidArgument;
    case EACCES:
    case EPERM:
      return ErrorCode::kFailedPrecondition;
    default:
      return ErrorCode::kConnectionLost;
  }
}

std::string describe(std::string_view operation, std::string_view object, int error_number) {
  std::string text(operation);
  text += ' ';
  text += object;
  text += ": ";
  text += errno_text(error_number);
  return text;
}

}  // namespace

std::string errno_text(int error_number) { return std::generic_category().message(error_number); }

Error disk_error(std::string_view operation, std::string_view path, int error_number) {
  std::string text = describe(operation, path, error_number);
  if (error_number == EACCES || error_number == EPERM) text += " (run Holdfast as a user who may use it)";
  return Error(disk_code(error_number), std::move(text));
}

Error network_error(std::string_view operation, std::string_view address, int error_number) {
  std::string text = describe(operation, address, error_number);
  if (error_number == EADDRINUSE) text += " (another process listens there: stop it or choose another port)";
  if (error_number == EADDRNOTAVAIL) text += " (no interface of this host has that address)";
  return Error(network_code(error_number), std::move(text));
}

}  // namespace holdfast::io
