// Loop devices: the kernel's block device on a file. Source: loop(4), include/uapi/linux/loop.h.
// Thread: every call blocks and belongs on a helper thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/result.h"

namespace holdfast::fuse {

// The device, as /dev/loopN, that has `file` as its backing file.
std::optional<std::string> find_loop_device(const std::string& file);

// Sets a free loop device up on `file`: direct I/O, logical blocks of `block_size` bytes, a read-ahead of 4 MiB.
// UNSUPPORTED_SYSTEM without loop devices.
Result<std::string> make_loop_device(const std::string& file, std::uint32_t block_size);

// Lets go of the backing file. IN_USE while the device is mounted or held by somebody. `force`: it ends when its last
// user lets go of it. A device that has another backing file, or none: ok.
Status remove_loop_device(const std::string& device, const std::string& file, bool force);

// Writes down in the file `record` which device it is, so that one that outlives its backing file can be found again.
Status remember_loop_device(const std::string& device, const std::string& record);

// Ends the device that `record` names, if it is still on that file, which nobody serves any more; removes the record.
void forget_loop_device(const std::string& file, const std::string& record);

// Takes over the size of the backing file.
Status refresh_loop_device(const std::string& device, const std::string& file);

}  // namespace holdfast::fuse
