// SimEnv: the Env of one simulated process. Thread: the one that runs its World.
#pragma once

#include <optional>

#include "io/env.h"
#include "sim/world.h"

namespace holdfast::sim {

class SimEnv : public Env {
 public:
  SimEnv(World& world, Process* process);
  ~SimEnv() override;

  Nanos now() override;
  Nanos wall_clock() override;
  std::uint64_t random() override { return world_.random().next(); }
  void post(Callback<void()> work) override;
  std::uint64_t call_at(Nanos deadline, Callback<void()> work) override;
  void cancel_call(std::uint64_t id) override { world_.cancel(id); }
  void run_blocking(Callback<void()> work, Callback<void()> done) override;
  BufferPool& buffers() override { return *buffers_; }
  void open_file(std::string path, FileOptions options, OpenCallback done) override;
  Result<std::unique_ptr<Listener>> listen(const Address& address, AcceptCallback on_stream) override;
  void connect(const Address& address, Nanos timeout, ConnectCallback done) override;

  World& world() { return world_; }
  Process* process() { return process_; }
  // Gives back the memory of all free buffers. The pool stays where it is, for what has yet to return to it.
  void drop_free_buffers() { buffers_.emplace(std::size_t{0}); }

 private:
  World& world_;
  Process* process_;
  Nanos offset_;
  std::int64_t drift_ppm_;
  std::optional<BufferPool> buffers_{std::in_place};
};

}  // namespace holdfast::sim
