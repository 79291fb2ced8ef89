#include "io/inbox.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

#include "io/system_error.h"

namespace holdfast::io {

Inbox::~Inbox() {
  if (wake_fd_ >= 0) ::close(wake_fd_);
}

Status Inbox::open() {
  // Blocking on purpose: io_uring would answer a read of a non-blocking descriptor with EAGAIN instead of waiting.
  wake_fd_ = eventfd(0, EFD_CLOEXEC);
  if (wake_fd_ < 0) {
    return Error(ErrorCode::kUnsupportedSystem, "eventfd: " + errno_text(errno) + " (raise the open files limit)");
  }
  return {};
}

bool Inbox::post(Callback<void()> work) {
  {
    std::lock_guard lock(mutex_);
    if (closed_) return false;
    work_.push_back(std::move(work));
  }
  has_work_.store(true, std::memory_order_seq_cst);
  wake();
  return true;
}

void Inbox::wake() {
  if (!sleeping_.exchange(false, std::memory_order_seq_cst)) return;
  std::uint64_t one = 1;
  while (write(wake_fd_, &one, sizeof one) < 0 && errno == EINTR) {
  }
}

bool Inbox::prepare_to_sleep() {
  sleeping_.store(true, std::memory_order_seq_cst);
  if (!has_work_.load(std::memory_order_seq_cst)) return true;
  sleeping_.store(false, std::memory_order_relaxed);
  return false;
}

void Inbox::take(std::vector<Callback<void()>>& out) {
  DCHECK(out.empty());
  std::lock_guard lock(mutex_);
  has_work_.store(false, std::memory_order_relaxed);
  out.swap(work_);
}

std::vector<Callback<void()>> Inbox::close() {
  std::lock_guard lock(mutex_);
  closed_ = true;
  return std::exchange(work_, {});
}

}  // namespace holdfast::io
