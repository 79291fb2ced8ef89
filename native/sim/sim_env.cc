#include "sim/sim_env.h"

#include <algorithm>

#include "sim/sim_network.h"

namespace holdfast::sim {

namespace {
constexpr std::int64_t kMillion = 1'000'000;
constexpr Nanos kWallClockStart(1'700'000'000'000'000'000);
}  // namespace

SimEnv::SimEnv(World& world, Process* process)
    : world_(world),
      process_(process),
      offset_(world.clock(process->node).offset),
      drift_ppm_(world.clock(process->node).drift_ppm) {}
SimEnv::~SimEnv() = default;

Nanos SimEnv::now() {
  std::int64_t virtual_ns = world_.now().count();
  std::int64_t drift = virtual_ns / kMillion * drift_ppm_ + virtual_ns % kMillion * drift_ppm_ / kMillion;
  return offset_ + Nanos(virtual_ns + drift);
}

Nanos SimEnv::wall_clock() { return kWallClockStart + world_.now() + world_.clock(process_->node).wall_clock_error; }

void SimEnv::post(Callback<void()> work) {
  // Posts of one process run in the order of posting: times never fall, and the queue is stable.
  Nanos delay(world_.random().below(static_cast<std::uint64_t>(world_.delays().post_max.count())));
  process_->last_post = std::max(process_->last_post, world_.now() + delay);
  world_.schedule(process_->last_post, process_, std::move(work), "post");
}

std::uint64_t SimEnv::call_at(Nanos deadline, Callback<void()> work) {
  Nanos late(world_.random().below(50'000));
  std::int64_t left = std::max<std::int64_t>(0, (deadline - now()).count());
  // Never before the deadline by this process's clock: rounded up.
  if (drift_ppm_ != 0) {
    std::int64_t rate = kMillion + drift_ppm_;
    left = left / rate * kMillion + left % rate * kMillion / rate + 2;
  }
  return world_.schedule(world_.now() + Nanos(left) + late, process_, std::move(work), "timer");
}

void SimEnv::run_blocking(Callback<void()> work, Callback<void()> done) {
  struct Pending {
    Callback<void()> work, done;
  };
  auto* pending = new Pending{std::move(work), std::move(done)};
  world_.schedule(
      world_.now() + Nanos(world_.random().below(200'000)), process_,
      [pending] {
        std::unique_ptr<Pending> both(pending);
        both->work();
        both->done();
      },
      "blocking");
}

}  // namespace holdfast::sim
