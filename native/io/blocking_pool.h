// BlockingPool: a few helper threads for calls that block (RocksDB, open, sync of a folder).
//
// Threads start when work waits and none is idle, up to a bound, and live until the pool is closed.
// Thread: run() and close() on the reactor; `work` on a helper; `done` on the reactor, through its inbox.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/callback.h"
#include "io/inbox.h"

namespace holdfast::io {

class BlockingPool {
 public:
  BlockingPool(Inbox& inbox, unsigned threads_max) : inbox_(inbox), threads_max_(threads_max) {}
  ~BlockingPool() { close(); }

  void run(Callback<void()> work, Callback<void()> done);
  // Waits for the work that has begun, drops the rest without calling it.
  void close();

 private:
  struct Job {
    Callback<void()> work;
    Callback<void()> done;
  };

  void start_thread();
  void serve();

  Inbox& inbox_;
  const unsigned threads_max_;
  std::vector<std::thread> threads_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::unique_ptr<Job>> waiting_;  // guarded by mutex_
  unsigned idle_ = 0;                         // guarded by mutex_
  bool closed_ = false;                       // guarded by mutex_
};

}  // namespace holdfast::io
