#include "io/loop.h"

#include <sched.h>
#include <time.h>

#include <algorithm>

namespace holdfast::io {

namespace {

constexpr unsigned kTurnEndPassesMax = 4;
constexpr unsigned kSpinsPerYield = 8;
// A yield that nobody took, with the looks before it, takes less.
constexpr Nanos kUnsharedYield = 3us;

Nanos monotonic_now() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return Nanos(now.tv_sec * std::int64_t{1'000'000'000} + now.tv_nsec);
}

constexpr Nanos kRestoreInterval = 1s;

constexpr std::size_t kRetainedBytesMax = 64u << 20;
constexpr std::size_t kRetainedForGood = 8u << 20;

// AddressSanitizer watches the edges of what malloc gives, not those of blocks of a region.
BufferMemory& payload_memory([[maybe_unused]] HugeMemory& huge) {
#if defined(__SANITIZE_ADDRESS__)
  return heap_memory();
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
  return heap_memory();
#else
  return huge;
#endif
#else
  return huge;
#endif
}

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

Loop::Loop(const ReactorOptions& options)
    : trim_interval_(options.trim_interval),
      buffers_(kRetainedBytesMax, payload_memory(memory_)),
      blocking_pool_(inbox_, options.blocking_threads_max),
      poll_policy_(usable_cpus() < options.spin_cpus_min ? Nanos(0) : options.spin_max) {
  refresh_now();
}

Result<std::unique_ptr<Loop>> Loop::create(const ReactorOptions& options) {
  std::unique_ptr<Loop> loop(new Loop(options));
  ASSIGN_OR_RETURN(loop->ring_, Ring::create(options.submission_entries));
  TRY(loop->inbox_.open());
  ASSIGN_OR_RETURN(loop->receive_buffers_,
                   ReceiveBuffers::create(*loop->ring_, options.receive_buffers, options.receive_buffer_bytes));
  loop->arm_wake_up();
  return loop;
}

Loop::~Loop() {
  if (receive_buffers_) close();
  CHECK(handles == 0, "streams, files and listeners must be destroyed before their reactor");
}

void Loop::refresh_now() { now_ = monotonic_now(); }

// ---- work ----

void Loop::post(Callback<void()> work) {
  check_thread();
  if (!closing_) posted_.push_back(std::move(work));
}

std::uint64_t Loop::call_at(Nanos deadline, Callback<void()> work) {
  check_thread();
  if (closing_) {
    work.reset();
    return ~std::uint64_t{0};
  }
  // A deadline in the past counts as now, so that it cannot overtake what has been due for longer.
  return timers_.add(std::max(deadline, now_), std::move(work));
}

void Loop::run_blocking(Callback<void()> work, Callback<void()> done) {
  check_thread();
  if (!closing_) blocking_pool_.run(std::move(work), std::move(done));
}

void Loop::note_writes(int change) {
  writes_ += change;
  CHECK(writes_ >= 0, "more writes have ended than were begun");
  poll_policy_.under_way(static_cast<std::uint32_t>(writes_), now_);
  under_way_.note(static_cast<std::uint32_t>(writes_ + reads_), now_);
}

void Loop::note_reads(int change) {
  reads_ += change;
  CHECK(reads_ >= 0, "more reads have ended than were begun");
  under_way_.note(static_cast<std::uint32_t>(writes_ + reads_), now_);
}

void Loop::at_turn_end(TurnEnd* listed) {
  if (listed->listed_ || closed_) return;  // no turn follows the last
  listed->listed_ = true;
  turn_ends_.push_back(listed);
}

void Loop::run_posted() {
  running_.swap(posted_);
  for (Callback<void()>& work : running_) {
    if (!closing_) work();
  }
  running_.clear();
  if (!inbox_.has_work()) return;
  inbox_.take(running_);
  for (Callback<void()>& work : running_) {
    if (!closing_) work();
  }
  running_.clear();
}

void Loop::run_turn_ends() {
  // What one stream's handler sends on another stream still goes out in this turn; the bound keeps turns finite.
  for (unsigned pass = 0; pass < kTurnEndPassesMax && !turn_ends_.empty(); ++pass) {
    running_turn_ends_.swap(turn_ends_);
    for (TurnEnd* listed : running_turn_ends_) {
      listed->listed_ = false;
      listed->at_turn_end();
    }
    running_turn_ends_.clear();
  }
}

// ---- what others change in memory ----

void Loop::remove_poller(Poller* poller) {
  std::replace(pollers_.begin(), pollers_.end(), poller, static_cast<Poller*>(nullptr));
}

void Loop::poll_all() {
  // By index: a callback may add some.
  for (std::size_t i = 0; i < pollers_.size(); ++i) {
    if (pollers_[i] != nullptr) pollers_[i]->poll();
  }
  std::erase(pollers_, nullptr);
}

bool Loop::has_news() const {
  return std::any_of(pollers_.begin(), pollers_.end(),
                     [](Poller* poller) { return poller != nullptr && poller->has_news(); });
}

// False: there is something to do.
bool Loop::prepare_to_sleep() {
  if (!inbox_.prepare_to_sleep()) return false;
  for (Poller* poller : pollers_) {
    if (poller != nullptr) poller->announce_sleep();
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!has_news()) return true;
  woke_up();
  return false;
}

void Loop::woke_up() {
  inbox_.woke_up();
  for (Poller* poller : pollers_) {
    if (poller != nullptr) poller->woke_up();
  }
}

// ---- the turn ----

void Loop::turn(Nanos wait_max) {
  if (owner_ == std::thread::id()) owner_ = std::this_thread::get_id();
  CHECK(owner_ == std::this_thread::get_id(), "a reactor runs on one thread");
  if (closing_) return;
  add(counters.turns, 1);
  // Calls made between turns are served first; then this turn does not wait, as who drives the loop may wait for them.
  bool busy = !turn_ends_.empty();
  run_turn_ends();
  receive_buffers_->publish();
  enter(busy ? Nanos(0) : wait_max);
  refresh_now();
  add(counters.completions, ring_->deliver());
  poll_all();
  timers_.run_due(now_);
  run_posted();
  run_turn_ends();
  if (!trim_armed_ && buffers_.bytes_retained() > kRetainedForGood) arm_trim();
  counters.system_calls.store(ring_->system_calls(), std::memory_order_relaxed);
}

// Only while there is something to give up: an idle reactor does not wake up.
void Loop::arm_trim() {
  if (closing_) return;
  trim_armed_ = true;
  timers_.add(now_ + trim_interval_, [this] {
    trim_armed_ = false;
    buffers_.trim();
  });
}

void Loop::enter(Nanos wait) {
  if (!posted_.empty() || !turn_ends_.empty() || inbox_.has_work() || has_news()) wait = Nanos(0);
  std::optional<Nanos> deadline = timers_.next_deadline();
  if (wait > Nanos(0) && deadline) wait = std::min(wait, *deadline - monotonic_now());
  if (wait <= Nanos(0)) {
    if (ring_->has_unsubmitted() || ring_->has_completions()) ring_->submit();
    return;
  }
  Nanos budget = std::min(poll_policy_.spin_budget(now_), wait);
  if (budget > Nanos(0)) {
    // Entering the ring is also what makes the kernel finish completions that it only announced.
    if (ring_->has_unsubmitted() || ring_->has_completions()) ring_->submit();
    if (ring_->has_completions() || spin(budget)) return;
  }
  sleep(wait);
}

// Others that want this CPU get it at once, by sched_yield(): among them the kernel's worker that completes this very
// thread's writes, and the initiator. So a spin costs idle time only, and how much went to others is known.
bool Loop::spin(Nanos budget) {
  add(counters.spins, 1);
  Nanos began = monotonic_now();
  Nanos looked = began;
  Nanos lost{0};
  bool hit = false;
  for (unsigned round = 1; !hit; ++round) {
    hit = ring_->has_completions() || inbox_.has_work() || has_news();
    if (hit) break;
    relax();
    if (round % kSpinsPerYield != 0) continue;
    sched_yield();
    Nanos now = monotonic_now();
    if (now - looked > kUnsharedYield) lost += now - looked;
    looked = now;
    if (now - began >= budget) break;
  }
  if (hit) {
    add(counters.spin_hits, 1);
    if (ring_->has_completions()) ring_->submit();
  } else {
    refresh_now();
  }
  poll_policy_.spun(hit, now_);
  poll_policy_.shared(looked - began, lost, now_);
  return hit;
}

void Loop::sleep(Nanos wait_max) {
  settle_scheduling();
  if (!prepare_to_sleep()) {
    if (ring_->has_unsubmitted()) ring_->submit();
    return;
  }
  add(counters.sleeps, 1);
  bool watch = poll_policy_.watches_sleeps(now_);
  if (watch && ring_->has_unsubmitted()) {
    // What goes out may complete at once, and that says nothing about spinning.
    ring_->submit();
    if (ring_->has_completions()) return woke_up();
  }
  Nanos began = monotonic_now();
  if (wait_max == Nanos::max()) {
    ring_->submit_and_wait(std::nullopt);
  } else {
    ring_->submit_and_wait(wait_max);
  }
  woke_up();
  if (watch) poll_policy_.slept(monotonic_now() - began);
}

// How the thread is to be woken from the sleep that follows.
void Loop::settle_scheduling() {
  if (wake_policy_.wants_waits(under_way_.is_deep(now_), now_)) {
    if (std::optional<CpuWaits> waits = scheduling_.waits()) wake_policy_.waited(*waits, now_);
  }
  bool yields = wake_policy_.yields();
  if (yields == scheduling_.yields()) return;
  scheduling_.yield_on_wake_up(yields);
  if (yields) arm_restore();
}

// Workers that were made meanwhile must not stay like this for good.
void Loop::arm_restore() {
  if (restore_armed_ || closing_) return;
  restore_armed_ = true;
  timers_.add(now_ + kRestoreInterval, [this] {
    restore_armed_ = false;
    if (scheduling_.yields()) return arm_restore();
    ThreadScheduling::restore_workers();
  });
}

// ---- wake-ups by other threads ----

void Loop::arm_wake_up() {
  ring_->prepare(this, [this](io_uring_sqe* entry) {
    io_uring_prep_read(entry, inbox_.wake_fd(), &wake_count_, sizeof wake_count_, 0);
  });
  wake_armed_ = true;
}

void Loop::on_completion(std::int32_t result, std::uint32_t) {
  wake_armed_ = false;
  if (closing_) return;
  CHECK(result == sizeof wake_count_ || result == -EINTR || result == -EAGAIN, "the wake-up descriptor is broken");
  arm_wake_up();
}

// ---- the end ----

void Loop::close() {
  if (closing_) return;
  CHECK(owner_ == std::thread::id() || owner_ == std::this_thread::get_id(),
        "a reactor that has run is destroyed on its thread, or after run() returned");
  closing_ = true;
  blocking_pool_.close();
  {
    // Dropping callbacks may destroy streams and timers, which still finds everything in place.
    std::vector<Callback<void()>> from_threads = inbox_.close();
    std::vector<Callback<void()>> posted = std::exchange(posted_, {});
    timers_.clear();
  }
  ring_->cancel_everything();
  while (ring_->in_flight() > 0) {
    run_turn_ends();
    receive_buffers_->publish();
    ring_->submit_and_wait(std::nullopt);
    ring_->deliver();
  }
  while (!turn_ends_.empty()) run_turn_ends();
  ring_->unbind();
  closed_ = true;
}

}  // namespace holdfast::io
