#include "io/wake_policy.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <charconv>
#include <cstdlib>

namespace holdfast::io {

namespace {

void schedule(pid_t thread, int policy) {
  sched_param parameters{};
  // Anybody may choose either; a thread that has ended meanwhile, or that a sandbox holds, goes on as it is.
  (void)sched_setscheduler(thread, policy, &parameters);
}

}  // namespace

ThreadScheduling::~ThreadScheduling() {
  if (file_ >= 0) close(file_);
}

// "ran waited turns", in nanoseconds.
std::optional<CpuWaits> ThreadScheduling::waits() {
  if (unknown_) return std::nullopt;
  if (file_ < 0 && sched_getscheduler(0) == SCHED_OTHER) {
    file_ = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
  }
  char text[80];
  ssize_t length = file_ < 0 ? -1 : pread(file_, text, sizeof text, 0);
  std::int64_t fields[3] = {};
  const char* at = text;
  const char* end = text + std::max<ssize_t>(length, 0);
  for (std::int64_t& field : fields) {
    auto [after, error] = std::from_chars(at, end, field);
    if (error != std::errc()) {
      unknown_ = true;
      return std::nullopt;
    }
    at = after < end ? after + 1 : after;
  }
  return CpuWaits{Nanos(fields[1]), static_cast<std::uint64_t>(fields[2])};
}

void ThreadScheduling::yield_on_wake_up(bool yields) {
  if (yields == yields_) return;
  yields_ = yields;
  schedule(0, yields ? SCHED_BATCH : SCHED_OTHER);
}

void ThreadScheduling::restore_workers() {
  DIR* threads = opendir("/proc/self/task");
  if (!threads) return;
  while (const dirent* entry = readdir(threads)) {
    auto thread = static_cast<pid_t>(std::strtol(entry->d_name, nullptr, 10));
    if (thread > 0 && sched_getscheduler(thread) == SCHED_BATCH) schedule(thread, SCHED_OTHER);
  }
  closedir(threads);
}

}  // namespace holdfast::io
