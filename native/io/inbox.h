// Inbox: how other threads hand work to a reactor, and how they wake it.
//
// Invariant (no lost wake-up): a poster publishes its work before it looks at sleeping_; the reactor sets sleeping_
// before it looks for work a last time. Both are sequentially consistent, so at least one of them sees the other.
// Thread: post() from any; everything else on the reactor.
#pragma once

#include <atomic>
#include <mutex>
#include <vector>

#include "base/callback.h"
#include "base/result.h"

namespace holdfast::io {

class Inbox {
 public:
  Inbox() = default;
  ~Inbox();
  Inbox(const Inbox&) = delete;
  Inbox& operator=(const Inbox&) = delete;

  Status open();
  // An eventfd that becomes readable when a sleeping reactor has to wake.
  int wake_fd() const { return wake_fd_; }

  // False when the inbox is closed: `work` was dropped.
  bool post(Callback<void()> work);
  // Wakes the reactor without work.
  void wake();

  bool has_work() const { return has_work_.load(std::memory_order_acquire); }
  // To be called before sleeping. False: there is work, do not sleep.
  bool prepare_to_sleep();
  void woke_up() { sleeping_.store(false, std::memory_order_relaxed); }
  // Takes all work posted so far into `out`, which must be empty.
  void take(std::vector<Callback<void()>>& out);
  // From now on post() drops. Returns what was still there, for the caller to drop.
  std::vector<Callback<void()>> close();

 private:
  std::mutex mutex_;
  std::vector<Callback<void()>> work_;  // guarded by mutex_
  bool closed_ = false;                 // guarded by mutex_
  std::atomic<bool> has_work_{false};
  std::atomic<bool> sleeping_{false};
  int wake_fd_ = -1;
};

}  // namespace holdfast::io
