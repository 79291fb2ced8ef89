// What a process that serves the block devices of its own host asks of the kernel, so that freeing memory by writing to
// such a device never waits for this process to get memory. Best effort: without the rights nothing happens. Source:
// prctl(2) PR_SET_IO_FLUSHER, mlock(2). Thread: any.
#pragma once

#include <cstddef>
#include <span>

namespace holdfast {

// The calling thread, and those it starts from now on: allocations do not write dirty pages back, and writes of its own
// are not throttled for those of others. Takes CAP_SYS_RESOURCE.
bool become_io_flusher();

// These pages stay in memory. Takes CAP_IPC_LOCK, or a limit that allows it. (Never the whole process: V8 gives pages
// of its heap back with madvise(2), which fails on locked ones, and ends the process for that.)
bool lock_memory(std::span<std::byte> pages);

}  // namespace holdfast
