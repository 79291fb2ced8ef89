#include "store/destager.h"

#include <algorithm>
#include <iterator>

#include "store/destage_round.h"
#include "store/disk.h"
#include "store/layer_merge.h"

namespace holdfast::store {

bool Destager::any_work() const {
  for (const auto& [id, replica] : disk_.replicas()) {
    if (!replica->deleted() && replica->has_work()) return true;
  }
  return disk_.journal().has_releasable();
}

// What a rebuild has fetched: it waits for each chunk to be stored, and fetches no more than so many meanwhile.
bool Destager::any_fills() const {
  return std::any_of(disk_.replicas().begin(), disk_.replicas().end(),
                     [](const auto& each) { return !each.second->deleted() && !each.second->fills().empty(); });
}

Space* Destager::any_merges() const {
  if (merge_timer_.armed()) return nullptr;
  for (const auto& [id, space] : disk_.spaces()) {
    if (!space->merges().empty()) return space.get();
  }
  return nullptr;
}

void Destager::note_work(bool urgent) {
  work_pending_ = true;
  if (running_ || start_posted_ || paused_ > 0 || disk_.failed()) return;
  if (!urgent && drain_waiters_.empty()) {
    if (!timer_.armed()) timer_.arm_after(kIdleDelay, [this] { note_work(true); });
    return;
  }
  timer_.cancel();
  start_posted_ = true;
  env_.post([this] {
    start_posted_ = false;
    if (!running_ && paused_ == 0 && !disk_.failed()) start();
  });
}

namespace {

Task<void> run_round(std::unique_ptr<Round> round, Callback<void()> ended) {
  co_await round->run();
  ended();
}

Task<void> run_merge(std::unique_ptr<LayerMerge> merge, Callback<void(bool)> ended) {
  bool done = co_await merge->run();
  ended(done);
}

}  // namespace

// Rounds and merges take turns while there is work for both.
void Destager::start() {
  Space* merging = any_merges();
  if (merging && (!merged_last_ || !any_work())) return start_merge(*merging);
  merged_last_ = false;
  running_ = true;
  work_pending_ = false;
  auto round = std::make_unique<Round>(disk_);
  chosen_something_ = round->choose();
  cut_ = round->cut();
  spawn(run_round(std::move(round), [this] { on_round_ended(); }));
}

void Destager::start_merge(Space& space) {
  running_ = true;
  merged_last_ = true;
  chosen_something_ = true;
  spawn(run_merge(std::make_unique<LayerMerge>(disk_, space, unreadable_), [this](bool done) {
    if (!done) merge_timer_.arm_after(kMergeRetry, [this] { note_work(true); });
    on_round_ended();
  }));
}

void Destager::on_round_ended() {
  running_ = false;
  disk_.relieve_journal();
  for (Callback<void()>& paused : std::exchange(pause_waiters_, {})) paused();
  bool work = !disk_.failed() && any_work();
  // Work that came while a round with nothing to do was ending has told nobody else.
  if (work && (chosen_something_ || work_pending_)) note_work(cut_ || any_fills() || disk_.above_low_marks());
  // What was noted during the round may have been part of it: nobody must wait for it.
  if (!work) work_pending_ = false;
  if (!disk_.failed() && any_merges()) note_work(true);
  tell_drained(work);
  disk_.wake_writers();
}

void Destager::tell_drained(bool work) {
  auto waits = [&](const DrainWaiter& waiter) {
    return work && (!waiter.replica || (!waiter.replica->deleted() && waiter.replica->has_work()));
  };
  auto due = std::stable_partition(drain_waiters_.begin(), drain_waiters_.end(), waits);
  std::vector<DrainWaiter> told(std::make_move_iterator(due), std::make_move_iterator(drain_waiters_.end()));
  drain_waiters_.erase(due, drain_waiters_.end());
  for (DrainWaiter& waiter : told) waiter.drained();
}

void Destager::pause(Callback<void()> paused) {
  ++paused_;
  timer_.cancel();
  if (running_) {
    pause_waiters_.push_back(std::move(paused));
  } else {
    paused();
  }
}

void Destager::resume() {
  CHECK(paused_ > 0);
  if (--paused_ > 0) return;
  if (any_merges()) return note_work(true);
  if (work_pending_ || !drain_waiters_.empty() || any_work()) note_work(any_fills() || disk_.above_low_marks());
}

void Destager::drain(const Replica* replica, Callback<void()> drained) {
  drain_waiters_.push_back({replica, std::move(drained)});
  if (disk_.failed()) {
    env_.post([this] { tell_drained(false); });
    return;
  }
  note_work(true);
}

}  // namespace holdfast::store
