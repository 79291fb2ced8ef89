// Round trips and bulk transfer between two reactors on two threads, with and without spinning.
// Counters: cpu_us = CPU time of both sides per round trip (or megabyte), calls = io_uring_enter of both per round
// trip.
#include <benchmark/benchmark.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <thread>

#include "io/uring_env.h"

namespace holdfast {
namespace {

constexpr std::size_t kMessage = 4096;

double cpu_microseconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  auto total = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_usec);
  };
  return total(usage.ru_utime) + total(usage.ru_stime);
}

// Answers every full message with one of the same size, or only counts.
struct Server final : StreamHandler {
  Env* env = nullptr;
  std::unique_ptr<Stream> stream;
  std::size_t pending = 0;
  bool echo = true;
  std::atomic<std::uint64_t> received{0};

  void on_data(std::span<const std::byte> bytes) override {
    received.store(received.load(std::memory_order_relaxed) + bytes.size(), std::memory_order_relaxed);
    if (!echo) return;
    for (pending += bytes.size(); pending >= kMessage; pending -= kMessage) {
      Slice answer = env->buffers().allocate(kMessage);
      stream->send({&answer, 1});
    }
  }
  void on_closed(Status) override { stream.reset(); }
};

struct Client final : StreamHandler {
  std::unique_ptr<Stream> stream;
  std::size_t received = 0;
  bool closed = false;
  void on_data(std::span<const std::byte> bytes) override { received += bytes.size(); }
  void on_closed(Status) override { closed = true; }
};

// A server reactor on its own thread, a client reactor on this one, one connection.
class Setting {
 public:
  Setting(bool unix_socket, Nanos spin, bool echo) {
    ReactorOptions options;
    options.spin_max = spin;
    client_reactor_ = std::move(*Reactor::create(options));
    server_reactor_ = std::move(*Reactor::create(options));
    server_.env = &server_reactor_->env();
    server_.echo = echo;
    std::string path = "unix:" + std::filesystem::temp_directory_path().string() + "/holdfast-bench-" +
                       std::to_string(getpid()) + ".sock";
    Result<std::unique_ptr<Listener>> listener = server_.env->listen(
        *Address::parse(unix_socket ? path : "127.0.0.1:0"), [this](std::unique_ptr<Stream> stream) {
          server_.stream = std::move(stream);
          server_.stream->start(&server_);
        });
    CHECK(listener.ok());
    listener_ = std::move(*listener);
    Address address = listener_->address();
    thread_ = std::thread([this] { server_reactor_->run(); });
    client_reactor_->env().connect(address, 5s, [this](Result<std::unique_ptr<Stream>> stream) {
      client.stream = std::move(*stream);
      client.stream->start(&client);
    });
    while (!client.stream) client_reactor_->turn(1s);
  }
  ~Setting() {
    server_reactor_->stop();
    thread_.join();
    server_.stream.reset();
    listener_.reset();
    client.stream.reset();
  }

  void send(std::size_t size) {
    Slice message = client_reactor_->env().buffers().allocate(size);
    client.stream->send({&message, 1});
  }
  void turn() { client_reactor_->turn(1s); }
  std::uint64_t server_received() const { return server_.received.load(std::memory_order_relaxed); }
  std::uint64_t calls() const { return client_reactor_->stats().system_calls + server_reactor_->stats().system_calls; }
  ReactorStats client_stats() const { return client_reactor_->stats(); }

  Client client;

 private:
  Server server_;
  std::unique_ptr<Reactor> client_reactor_;
  std::unique_ptr<Reactor> server_reactor_;
  std::unique_ptr<Listener> listener_;
  std::thread thread_;
};

void round_trips(benchmark::State& state) {
  Setting setting(state.range(0) != 0, std::chrono::microseconds(state.range(1)), true);
  auto depth = static_cast<std::size_t>(state.range(2));
  std::uint64_t messages = 0;
  std::size_t expected = 0;
  std::uint64_t calls = setting.calls();
  double cpu = cpu_microseconds();
  for (std::size_t i = 0; i < depth; ++i) setting.send(kMessage);
  for (auto _ : state) {
    // One answer comes back, one question goes out: `depth` are always under way.
    expected += kMessage;
    while (setting.client.received < expected) setting.turn();
    setting.send(kMessage);
    ++messages;
  }
  cpu = cpu_microseconds() - cpu;
  state.counters["cpu_us"] = cpu / static_cast<double>(messages);
  state.counters["calls"] = static_cast<double>(setting.calls() - calls) / static_cast<double>(messages);
  ReactorStats stats = setting.client_stats();
  state.counters["spins"] = static_cast<double>(stats.spins) / static_cast<double>(messages);
  state.counters["hits"] = static_cast<double>(stats.spin_hits) / static_cast<double>(messages);
}
BENCHMARK(round_trips)
    ->ArgNames({"unix", "spin_us", "depth"})
    ->ArgsProduct({{0, 1}, {0, 50, 100}, {1, 32}})
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);

void bulk(benchmark::State& state) {
  Setting setting(state.range(0) != 0, std::chrono::microseconds(state.range(1)), false);
  constexpr std::size_t kBytes = 1u << 20;
  std::uint64_t sent = 0;
  double cpu = cpu_microseconds();
  for (auto _ : state) {
    setting.send(kBytes);
    sent += kBytes;
    while (setting.client.stream->unsent_bytes() > 8 * kBytes) setting.turn();
  }
  while (setting.server_received() < sent) setting.turn();
  cpu = cpu_microseconds() - cpu;
  state.SetBytesProcessed(static_cast<std::int64_t>(sent));
  state.counters["cpu_us"] = cpu / static_cast<double>(sent / kBytes);
}
BENCHMARK(bulk)->ArgNames({"unix", "spin_us"})->ArgsProduct({{0, 1}, {0, 100}})->UseRealTime();

}  // namespace
}  // namespace holdfast

BENCHMARK_MAIN();
