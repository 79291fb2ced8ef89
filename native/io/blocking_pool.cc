#include "io/blocking_pool.h"

#include <pthread.h>
#include <signal.h>

namespace holdfast::io {

void BlockingPool::run(Callback<void()> work, Callback<void()> done) {
  auto job = std::make_unique<Job>(Job{std::move(work), std::move(done)});
  bool needs_thread;
  {
    std::lock_guard lock(mutex_);
    if (closed_) return;
    waiting_.push_back(std::move(job));
    needs_thread = waiting_.size() > idle_ && threads_.size() < threads_max_;
  }
  changed_.notify_one();
  if (needs_thread) start_thread();
}

void BlockingPool::start_thread() {
  // A new thread inherits the mask: signals are for the threads that installed handlers.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  threads_.emplace_back([this] { serve(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void BlockingPool::serve() {
  pthread_setname_np(pthread_self(), "hf-blocking");
  std::unique_lock lock(mutex_);
  for (;;) {
    ++idle_;
    changed_.wait(lock, [this] { return closed_ || !waiting_.empty(); });
    --idle_;
    if (closed_) return;
    std::unique_ptr<Job> job = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    job->work();
    // The job goes back whole: what `work` captured belongs to the reactor's thread.
    inbox_.post([job = std::move(job)] {
      Callback<void()> done = std::move(job->done);
      job->work.reset();
      done();
    });
    lock.lock();
  }
}

void BlockingPool::close() {
  std::deque<std::unique_ptr<Job>> dropped;
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    dropped.swap(waiting_);
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

}  // namespace holdfast::io
