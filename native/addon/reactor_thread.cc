#include "addon/reactor_thread.h"

#include <utility>

#include <pthread.h>
#include <signal.h>

#include "io/memory_pressure.h"

namespace holdfast::addon {

Result<std::unique_ptr<ReactorThread>> ReactorThread::start(std::string name) {
  ASSIGN_OR_RETURN(std::unique_ptr<Reactor> reactor, Reactor::create());
  std::unique_ptr<ReactorThread> self(new ReactorThread(std::move(reactor)));
  // Signals are for Node's thread.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  self->thread_ = std::thread([reactor = self->reactor_.get(), name = std::move(name)] {
    // A volume may be a block device of this very host, with dirty pages that only this thread can write.
    (void)become_io_flusher();
    pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
    reactor->run();
  });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return self;
}

void ReactorThread::stop() {
  if (!thread_.joinable()) return;
  reactor_->stop();
  thread_.join();
}

}  // namespace holdfast::addon
