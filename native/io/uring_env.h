// UringEnv: Env on io_uring. Made by Reactor (io/reactor.h), which most users include through this file.
// Thread: one reactor.
#pragma once

#include <array>

#include "io/env.h"
#include "io/reactor.h"

namespace holdfast::io {

class UringEnv final : public Env {
 public:
  explicit UringEnv(Loop& loop) : loop_(loop) {}

  Nanos now() override;
  Nanos wall_clock() override;
  std::uint64_t random() override;
  void note_writes(int change) override;
  void note_reads(int change) override;
  void post(Callback<void()> work) override;
  std::uint64_t call_at(Nanos deadline, Callback<void()> work) override;
  void cancel_call(std::uint64_t id) override;
  void run_blocking(Callback<void()> work, Callback<void()> done) override;
  BufferPool& buffers() override;
  void open_file(std::string path, FileOptions options, OpenCallback done) override;
  Result<std::unique_ptr<Listener>> listen(const Address& address, AcceptCallback on_stream) override;
  void connect(const Address& address, Nanos timeout, ConnectCallback done) override;
  Result<std::unique_ptr<ReadWatch>> watch_readable(int fd, Callback<void()> readable) override;

 private:
  Loop& loop_;
  // From the kernel's generator, fetched in batches: fit for keys and ids alike.
  std::array<std::uint64_t, 64> random_{};
  std::size_t random_left_ = 0;
};

}  // namespace holdfast::io
