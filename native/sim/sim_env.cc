#include "sim/sim_env.h"

#include <algorithm>

#include "sim/sim_network.h"

namespace holdfast::sim {

SimEnv::SimEnv(World& world, Process* process) : world_(world), process_(process) {}
SimEnv::~SimEnv() = default;

void SimEnv::post(Callback<void()> work) {
  // Posts of one process run in the order of posting: times never fall, and the queue is stable.
  Nanos delay(world_.random().below(static_cast<std::uint64_t>(world_.delays().post_max.count())));
  process_->last_post = std::max(process_->last_post, world_.now() + delay);
  world_.schedule(process_->last_post, process_, std::move(work), "post");
}

std::uint64_t SimEnv::call_at(Nanos deadline, Callback<void()> work) {
  Nanos late(world_.random().below(50'000));
  return world_.schedule(std::max(deadline, world_.now()) + late, process_, std::move(work), "timer");
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
