#include "io/uring_env.h"

#include <sys/random.h>
#include <time.h>

#include "io/loop.h"
#include "io/uring_connect.h"
#include "io/uring_file.h"
#include "io/uring_listener.h"
#include "io/uring_watch.h"

namespace holdfast {

namespace io {

Nanos UringEnv::now() { return loop_.now(); }

Nanos UringEnv::wall_clock() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return Nanos(now.tv_sec * std::int64_t{1'000'000'000} + now.tv_nsec);
}

std::uint64_t UringEnv::random() {
  loop_.check_thread();
  if (random_left_ == 0) {
    std::span<std::byte> missing = std::as_writable_bytes(std::span(random_));
    while (!missing.empty()) {
      ssize_t got = getrandom(missing.data(), missing.size(), 0);
      if (got > 0) missing = missing.subspan(static_cast<std::size_t>(got));
    }
    random_left_ = random_.size();
  }
  return random_[--random_left_];
}

void UringEnv::note_writes(int change) { loop_.note_writes(change); }
void UringEnv::note_reads(int change) { loop_.note_reads(change); }
void UringEnv::post(Callback<void()> work) { loop_.post(std::move(work)); }
std::uint64_t UringEnv::call_at(Nanos deadline, Callback<void()> work) {
  return loop_.call_at(deadline, std::move(work));
}
void UringEnv::cancel_call(std::uint64_t id) { loop_.cancel_call(id); }
void UringEnv::run_blocking(Callback<void()> work, Callback<void()> done) {
  loop_.run_blocking(std::move(work), std::move(done));
}
BufferPool& UringEnv::buffers() { return loop_.buffers(); }

void UringEnv::open_file(std::string path, FileOptions options, OpenCallback done) {
  struct Opening {
    Loop& loop;
    std::string path;
    FileOptions options;
    OpenCallback done;
    Result<OpenedFile> opened;

    // Also what remains of an opening whose Env ended before the answer came.
    ~Opening() {
      if (opened.ok() && opened->fd >= 0) UringFile abandoned(loop, path, *opened);
    }
  };
  auto opening = std::unique_ptr<Opening>(
      new Opening{loop_, std::move(path), options, std::move(done), Result<OpenedFile>(OpenedFile{})});
  Opening* shared = opening.get();
  loop_.run_blocking(
      [shared] { shared->opened = open_blocking(shared->path, shared->options); },
      [opening = std::move(opening)] {
        if (!opening->opened.ok()) return opening->done(std::move(opening->opened).error());
        OpenedFile opened = std::exchange(*opening->opened, OpenedFile{});
        opening->done(std::unique_ptr<File>(std::make_unique<UringFile>(opening->loop, opening->path, opened)));
      });
}

Result<std::unique_ptr<Listener>> UringEnv::listen(const Address& address, AcceptCallback on_stream) {
  return UringListener::create(loop_, address, std::move(on_stream));
}

void UringEnv::connect(const Address& address, Nanos timeout, ConnectCallback done) {
  connect_stream(loop_, address, timeout, std::move(done));
}

Result<std::unique_ptr<ReadWatch>> UringEnv::watch_readable(int fd, Callback<void()> readable) {
  loop_.check_thread();
  if (loop_.closing()) return Error(ErrorCode::kCancelled, "the reactor has stopped");
  return std::unique_ptr<ReadWatch>(std::make_unique<UringWatch>(loop_, fd, std::move(readable)));
}

}  // namespace io

// ---- Reactor ----

Reactor::Reactor() = default;

Reactor::~Reactor() {
  if (loop_) loop_->close();
}

Result<std::unique_ptr<Reactor>> Reactor::create(ReactorOptions options) {
  std::unique_ptr<Reactor> reactor(new Reactor);
  ASSIGN_OR_RETURN(reactor->loop_, io::Loop::create(options));
  reactor->env_ = std::make_unique<io::UringEnv>(*reactor->loop_);
  return reactor;
}

Env& Reactor::env() { return *env_; }

void Reactor::run() {
  while (!stopping_) loop_->turn(Nanos::max());
  loop_->close();
}

void Reactor::stop() {
  post_from_any_thread([this] { stopping_ = true; });
}

void Reactor::turn(Nanos wait_max) { loop_->turn(wait_max); }

void Reactor::post_from_any_thread(Callback<void()> work) { loop_->inbox().post(std::move(work)); }

ReactorStats Reactor::stats() const {
  const io::Loop::Counters& counters = loop_->counters;
  auto read = [](const std::atomic<std::uint64_t>& counter) { return counter.load(std::memory_order_relaxed); };
  ReactorStats stats;
  stats.turns = read(counters.turns);
  stats.sleeps = read(counters.sleeps);
  stats.spins = read(counters.spins);
  stats.spin_hits = read(counters.spin_hits);
  stats.completions = read(counters.completions);
  stats.system_calls = read(counters.system_calls);
  stats.received_bytes = read(counters.received_bytes);
  stats.sent_bytes = read(counters.sent_bytes);
  stats.receive_buffers_exhausted = read(counters.receive_buffers_exhausted);
  return stats;
}

}  // namespace holdfast
