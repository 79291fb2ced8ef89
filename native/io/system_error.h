// errno to Error: what happened, to which object, and what to do. Thread: any.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace holdfast::io {

// The text of an errno value, safe on any thread.
std::string errno_text(int error_number);

// "write /data/journal: Input/output error". ENOSPC and EDQUOT become NO_SPACE, ENOENT becomes NOT_FOUND, locks and
// busy devices IN_USE, wrong kinds of path INVALID_ARGUMENT, everything else DISK_IO.
Error disk_error(std::string_view operation, std::string_view path, int error_number);

// "connect to 10.0.0.1:7000: Connection refused". ETIMEDOUT becomes TIMED_OUT, EADDRINUSE IN_USE, bad addresses
// INVALID_ARGUMENT, permissions FAILED_PRECONDITION, everything else CONNECTION_LOST.
Error network_error(std::string_view operation, std::string_view address, int error_number);

}  // namespace holdfast::io
