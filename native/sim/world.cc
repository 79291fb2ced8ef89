#include "sim/world.h"

#include <algorithm>
#include <cstdio>

#include "sim/sim_env.h"
#include "sim/sim_file.h"
#include "sim/sim_network.h"

// What a killed process held is never freed, so programs that simulate run without leak detection.
extern "C" const char* __asan_default_options();
extern "C" const char* __asan_default_options() { return "detect_leaks=0"; }

namespace holdfast::sim {

namespace {
// What abandoned processes leave behind stays reachable, so that leak checkers know it is on purpose.
void keep_for_ever(void* object) {
  static std::vector<void*>* kept = new std::vector<void*>;
  kept->push_back(object);
}
}  // namespace

namespace {

std::uint64_t split_mix(std::uint64_t& state) {
  std::uint64_t z = (state += 0x9E3779B97F4A7C15ull);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

std::uint64_t rotate_left(std::uint64_t value, int by) { return (value << by) | (value >> (64 - by)); }

}  // namespace

Random::Random(std::uint64_t seed) {
  for (std::uint64_t& word : state_) word = split_mix(seed);
}

std::uint64_t Random::next() {
  std::uint64_t result = rotate_left(state_[1] * 5, 7) * 9;
  std::uint64_t shifted = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= shifted;
  state_[3] = rotate_left(state_[3], 45);
  return result;
}

World::World(std::uint64_t seed, bool trace) : random_(seed), trace_(trace) {}

World::~World() {
  // The objects of simulated processes are the test's; what is left in the queue may point into them.
  while (!queue_.empty()) {
    abandon_work(queue_.top());
    queue_.pop();
  }
  for (Event* event : deferred_) abandon_work(event);
  for (auto& process : processes_) {
    if (!process->alive) keep_for_ever(process->env.release());
  }
}

Process* World::start_process(const std::string& node, const std::string& name) {
  auto process = std::make_unique<Process>();
  process->id = next_process_id_++;
  process->node = node;
  process->name = name;
  process->env = std::make_unique<SimEnv>(*this, process.get());
  trace("start " + name + " on " + node);
  processes_.push_back(std::move(process));
  return processes_.back().get();
}

void World::died(Process* process) {
  process->alive = false;
  process->frozen = false;
  process->env->drop_free_buffers();
}

void World::kill(Process* process) {
  if (!process->alive) return;
  trace("kill " + process->name);
  ++crashes_.kills;
  died(process);
  disk(process->node).process_died(process->id);
  std::erase_if(listeners_, [&](const auto& entry) { return entry.second->process() == process; });
  for (SimStream* stream : std::vector<SimStream*>(streams_)) {
    if (stream->process() == process) stream->process_died(/*silent=*/false);
  }
  std::erase_if(streams_, [&](SimStream* stream) { return stream->process() == process; });
}

void World::power_off(const std::string& node) {
  trace("power off " + node);
  ++crashes_.power_losses;
  for (auto& process : processes_) {
    if (process->node != node || !process->alive) continue;
    died(process.get());
    disk(node).process_died(process->id);
    std::erase_if(listeners_, [&](const auto& entry) { return entry.second->process() == process.get(); });
    for (SimStream* stream : std::vector<SimStream*>(streams_)) {
      if (stream->process() == process.get()) stream->process_died(/*silent=*/true);
    }
    std::erase_if(streams_, [&](SimStream* stream) { return stream->process() == process.get(); });
  }
  disk(node).power_lost();
}

void World::freeze(Process* process) {
  if (process->alive) {
    trace("freeze " + process->name);
    process->frozen = true;
  }
}

void World::thaw(Process* process) {
  if (!process->frozen) return;
  trace("thaw " + process->name);
  process->frozen = false;
  std::vector<Event*> kept;
  for (Event* event : deferred_) {
    if (event->process == process) {
      event->time = std::max(event->time, now_);
      queue_.push(event);
    } else {
      kept.push_back(event);
    }
  }
  deferred_ = std::move(kept);
}

void World::set_link(const std::string& from, const std::string& to, bool up) {
  trace((up ? "mend " : "cut ") + from + " -> " + to);
  if (!up) {
    cuts_.insert({from, to});
    return;
  }
  cuts_.erase({from, to});
  for (SimStream* stream : std::vector<SimStream*>(streams_)) stream->network_changed();
}

void World::set_extra_latency(const std::string& from, const std::string& to, Nanos extra) {
  extra_latency_[{from, to}] = extra;
}

void World::heal_network() {
  trace("heal network");
  cuts_.clear();
  extra_latency_.clear();
  for (SimStream* stream : std::vector<SimStream*>(streams_)) stream->network_changed();
}

void World::reset_random_connection(const std::string& node) {
  std::vector<SimStream*> candidates;
  for (SimStream* stream : streams_) {
    if (node.empty() || stream->process()->node == node) candidates.push_back(stream);
  }
  if (!candidates.empty()) candidates[random_.below(candidates.size())]->reset_connection();
}

bool World::link_up(const std::string& from, const std::string& to) const { return !cuts_.contains({from, to}); }

Nanos World::net_delay(const std::string& from, const std::string& to) {
  auto extra = extra_latency_.find({from, to});
  Nanos base = from == to ? delays_.net_min
                          : Nanos(random_.between(static_cast<std::uint64_t>(delays_.net_min.count()),
                                                  static_cast<std::uint64_t>(delays_.net_max.count())));
  return base + (extra == extra_latency_.end() ? Nanos(0) : extra->second);
}

SimDisk& World::disk(const std::string& node) {
  auto& disk = disks_[node];
  if (!disk) disk = std::make_unique<SimDisk>(*this, node);
  return *disk;
}

void World::retire() {
  disks_.clear();
  for (auto& process : processes_) process->env->drop_free_buffers();
}

std::uint64_t World::schedule(Nanos time, Process* process, Callback<void()> work, const char* what) {
  auto* event = new Event{std::max(time, now_), next_event_id_++, process, std::move(work), what};
  queue_.push(event);
  return event->id;
}

void World::cancel(std::uint64_t id) {
  if (id != 0) cancelled_.insert(id);
}

// Drops an event without running destructors of what it captured: that belongs to an abandoned process.
void World::abandon_work(Event* event) {
  if (event->process == nullptr || event->process->alive) {
    delete event;
    return;
  }
  keep_for_ever(new Callback<void()>(std::move(event->work)));
  delete event;
}

bool World::step() {
  while (!queue_.empty()) {
    Event* event = queue_.top();
    queue_.pop();
    if (event->process && !event->process->alive) {
      cancelled_.erase(event->id);
      abandon_work(event);
      continue;
    }
    if (!cancelled_.empty() && cancelled_.erase(event->id) > 0) {
      delete event;
      continue;
    }
    if (event->process && event->process->frozen) {
      deferred_.push_back(event);
      continue;
    }
    now_ = std::max(now_, event->time);
    ++events_;
    std::uint64_t owner = event->process ? event->process->id : 0;
    hash_ = (hash_ ^ static_cast<std::uint64_t>(now_.count()) ^ (owner << 56) ^ (event->id << 20)) * 0x100000001B3ull;
    // The work may crash its own process: then what it captured is abandoned, too.
    Process* process = event->process;
    event->work();
    if (process && !process->alive) {
      abandon_work(event);
    } else {
      delete event;
    }
    return true;
  }
  return false;
}

bool World::run_until(const std::function<bool()>& done, Nanos limit) {
  Nanos end = now_ + limit;
  while (!done()) {
    if (now_ > end || !step()) return done();
  }
  return true;
}

void World::run_for(Nanos duration) {
  bool over = false;
  schedule(
      now_ + duration, nullptr, [&over] { over = true; }, "run_for");
  while (!over && step()) {
  }
}

void World::trace(const std::string& line) {
  if (trace_) std::fprintf(stderr, "%12.6f %s\n", static_cast<double>(now_.count()) / 1e9, line.c_str());
}

}  // namespace holdfast::sim
