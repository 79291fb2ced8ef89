#include "io/memory_pressure.h"

#include <sys/mman.h>
#include <sys/prctl.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

namespace holdfast {

bool become_io_flusher() { return ::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0; }

bool lock_memory(std::span<std::byte> pages) { return ::mlock(pages.data(), pages.size()) == 0; }

}  // namespace holdfast
