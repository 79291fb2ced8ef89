#include "io/uring_watch.h"

#include <poll.h>

namespace holdfast::io {

class UringWatch::Core final : public Completion {
 public:
  Core(Loop& loop, int fd, Callback<void()> readable) : loop_(loop), fd_(fd), readable_(std::move(readable)) {
    begin();
  }

  void abandon() {
    abandoned_ = true;
    if (in_flight_) {
      loop_.ring().cancel(this);
    } else if (!calling_) {
      delete this;
    }
  }

 private:
  ~Core() = default;

  void begin() {
    in_flight_ = true;
    loop_.ring().prepare(this, [this](io_uring_sqe* entry) { io_uring_prep_poll_multishot(entry, fd_, POLLIN); });
  }

  void on_completion(std::int32_t result, std::uint32_t flags) override {
    if ((flags & IORING_CQE_F_MORE) == 0) in_flight_ = false;
    if (!abandoned_ && !loop_.closing() && result != -ECANCELED) {
      calling_ = true;
      readable_();
      calling_ = false;
    }
    if (abandoned_) {
      if (!in_flight_) delete this;
      return;
    }
    // The kernel ends a multishot poll when it ran out of room for completions, among others.
    if (!in_flight_ && !loop_.closing()) begin();
  }

  Loop& loop_;
  const int fd_;
  Callback<void()> readable_;
  bool in_flight_ = false;
  bool calling_ = false;
  bool abandoned_ = false;
};

UringWatch::UringWatch(Loop& loop, int fd, Callback<void()> readable)
    : loop_(loop), core_(new Core(loop, fd, std::move(readable))) {
  ++loop_.handles;
}

UringWatch::~UringWatch() {
  core_->abandon();
  --loop_.handles;
}

}  // namespace holdfast::io
