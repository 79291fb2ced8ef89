// What the kernel's FUSE protocol has beyond the <linux/fuse.h> of older distributions, and the sizes of its messages
// as we use them. Source: include/uapi/linux/fuse.h of Linux 6.9.
#pragma once

#include <linux/fuse.h>

#include <cstddef>
#include <cstdint>

namespace holdfast::fuse {

// Bytes of one READ or WRITE at most.
inline constexpr std::uint32_t kMaxIoBytes = 1u << 20;
// Requests of the kernel in flight for one device. What is above waits in the kernel.
inline constexpr std::uint16_t kMaxBackground = 64;

// Notification code (the `error` field of a message with unique 0): the kernel sends everything again that was read and
// not answered. Linux 6.9, announced by a flag of INIT.
inline constexpr std::int32_t kNotifyResend = 7;
inline constexpr std::uint64_t kHasResend = 1ull << 39;

// A WRITE is a header, this, and the data.
inline constexpr std::size_t kWriteHeadBytes = sizeof(fuse_in_header) + sizeof(fuse_write_in);
static_assert(sizeof(fuse_in_header) == 40 && sizeof(fuse_write_in) == 40 && sizeof(fuse_out_header) == 16);

}  // namespace holdfast::fuse
