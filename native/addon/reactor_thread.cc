#include "addon/reactor_thread.h"

#include <cstdlib>
#include <optional>
#include <string>
#include <utility>

#include <pthread.h>
#include <signal.h>

#include "base/log.h"
#include "io/memory_pressure.h"
#include "io/poll_policy.h"

namespace holdfast::addon {

Result<std::unique_ptr<ReactorThread>> ReactorThread::start(std::string name) {
  ReactorOptions options;
  const char* wish = std::getenv("HOLDFAST_SPIN");
  if (std::optional<Nanos> spin = io::wished_spin(wish, options.spin_max)) {
    options.spin_max = *spin;
  } else {
    log_warn("io",
             "HOLDFAST_SPIN is \"" + std::string(wish) + "\", which is neither \"off\" nor 0 to 10000 microseconds");
  }
  ASSIGN_OR_RETURN(std::unique_ptr<Reactor> reactor, Reactor::create(options));
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
