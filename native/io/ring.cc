#include "io/ring.h"

#include <sched.h>

#include <cerrno>
#include <string>

#include "io/system_error.h"

namespace holdfast::io {

namespace {

constexpr unsigned kDeliverBatch = 256;
constexpr unsigned kCompletionsPerSubmission = 8;
constexpr unsigned kRetriesMax = 10'000;

Error unsupported(int error_number) {
  std::string text = "io_uring is not usable: " + errno_text(error_number) + ". ";
  switch (error_number) {
    case ENOSYS:
      text += "This kernel was built without it; Holdfast needs Linux 6.1 or newer with CONFIG_IO_URING.";
      break;
    case EPERM:
    case EACCES:
      text +=
          "It is forbidden here: allow it with `sysctl kernel.io_uring_disabled=0`, and in a container with a seccomp "
          "profile that permits io_uring_setup, io_uring_enter and io_uring_register.";
      break;
    case EINVAL:
      text += "This kernel is too old; Holdfast needs Linux 6.1 or newer.";
      break;
    case ENOMEM:
      text += "Raise the limit of locked memory (ulimit -l) or free memory.";
      break;
    case EMFILE:
    case ENFILE:
      text += "Raise the limit of open files (ulimit -n).";
      break;
    default:
      text += "Holdfast needs Linux 6.1 or newer with io_uring allowed.";
  }
  return Error(ErrorCode::kUnsupportedSystem, std::move(text));
}

}  // namespace

Result<std::unique_ptr<Ring>> Ring::create(unsigned submission_entries) {
  std::unique_ptr<Ring> ring(new Ring);
  io_uring_params params{};
  params.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
                 IORING_SETUP_SUBMIT_ALL | IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
  params.cq_entries = submission_entries * kCompletionsPerSubmission;
  int result = io_uring_queue_init_params(submission_entries, &ring->ring_, &params);
  if (result < 0) return unsupported(-result);
  ring->initialized_ = true;
  if ((params.features & IORING_FEAT_EXT_ARG) == 0 || (params.features & IORING_FEAT_NODROP) == 0) {
    return unsupported(EINVAL);
  }
  return ring;
}

Ring::~Ring() {
  if (initialized_) io_uring_queue_exit(&ring_);
}

io_uring_sqe* Ring::next_entry() {
  io_uring_sqe* entry = io_uring_get_sqe(&ring_);
  if (entry != nullptr) return entry;
  // The submission queue is full in the middle of a turn: hand it over now.
  bind();
  for (unsigned tries = 0; tries < kRetriesMax && entry == nullptr; ++tries) {
    ++system_calls_;
    retry(io_uring_submit(&ring_));
    entry = io_uring_get_sqe(&ring_);
  }
  CHECK(entry != nullptr, "the kernel takes no more submissions");
  return entry;
}

void Ring::cancel(Completion* completion) {
  io_uring_sqe* entry = next_entry();
  io_uring_prep_cancel(entry, completion, 0);
  io_uring_sqe_set_data(entry, nullptr);
  entry->flags |= IOSQE_CQE_SKIP_SUCCESS;
}

void Ring::cancel_everything() {
  io_uring_sqe* entry = next_entry();
  io_uring_prep_cancel(entry, nullptr, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
  io_uring_sqe_set_data(entry, nullptr);
}

void Ring::bind() {
  if (bound_) return;
  bound_ = true;
  // Not by io_uring_enable_rings(), which liburing 2.3 forgot to export.
  int result = io_uring_register(static_cast<unsigned>(ring_.ring_fd), IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
  CHECK(result == 0, "io_uring_enable_rings failed");
  // Saves a lookup per system call; fails harmlessly when this thread has too many rings.
  (void)io_uring_register_ring_fd(&ring_);
}

void Ring::unbind() {
  if (bound_) (void)io_uring_unregister_ring_fd(&ring_);
}

bool Ring::retry(int result) {
  if (result >= 0 || result == -ETIME || result == -EINTR) return false;
  // EAGAIN: the kernel is short of memory for requests. EBUSY: completions overflowed and must be collected first.
  CHECK(result == -EAGAIN || result == -EBUSY, "io_uring_enter failed");
  (void)io_uring_get_events(&ring_);
  sched_yield();
  return true;
}

void Ring::submit() {
  bind();
  ++system_calls_;
  // What could not be submitted stays queued for the next turn.
  retry(io_uring_submit_and_get_events(&ring_));
}

void Ring::submit_early() {
  if (!bound_) return;
  ++system_calls_;
  retry(io_uring_submit(&ring_));
}

void Ring::submit_and_wait(std::optional<Nanos> wait_max) {
  bind();
  ++system_calls_;
  if (!wait_max) {
    retry(io_uring_submit_and_wait(&ring_, 1));
    return;
  }
  __kernel_timespec limit{};
  limit.tv_sec = wait_max->count() / 1'000'000'000;
  limit.tv_nsec = wait_max->count() % 1'000'000'000;
  io_uring_cqe* ignored = nullptr;
  retry(io_uring_submit_and_wait_timeout(&ring_, &ignored, 1, &limit, nullptr));
}

unsigned Ring::deliver() {
  // Copied out before anything is called, so that callbacks find room in both queues.
  struct Arrived {
    Completion* completion;
    std::int32_t result;
    std::uint32_t flags;
  } batch[kDeliverBatch];
  unsigned count = 0;
  unsigned head;
  io_uring_cqe* entry;
  io_uring_for_each_cqe(&ring_, head, entry) {
    if (count == kDeliverBatch) break;
    batch[count++] = {static_cast<Completion*>(io_uring_cqe_get_data(entry)), entry->res, entry->flags};
  }
  io_uring_cq_advance(&ring_, count);
  for (unsigned i = 0; i < count; ++i) {
    if (batch[i].completion == nullptr) continue;
    if ((batch[i].flags & IORING_CQE_F_MORE) == 0) --in_flight_;
    batch[i].completion->on_completion(batch[i].result, batch[i].flags);
  }
  return count;
}

}  // namespace holdfast::io
