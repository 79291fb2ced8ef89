// rpc_bench: gRPC round trips between two reactors on two threads: 4 KiB messages acknowledged one by one, and 1 MiB
// messages one way, also with TLS. CPU is that of the whole process: client and server together.
#include <benchmark/benchmark.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <semaphore>
#include <thread>

#include "io/uring_env.h"
#include "rpc/rpc.h"
#include "tls/testing/certificates.h"

namespace holdfast::rpc {
namespace {

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

// Answers every message with a few bytes; ends with its call.
struct AckCall final : CallHandler {
  std::unique_ptr<ServerCall> call;
  Slice ack;
  void on_message(Message) override {
    Slice part = ack;
    call->send({&part, 1});
  }
  void on_peer_finished() override {
    call->finish(Status());
    delete this;
  }
  void on_ended(Status) override { delete this; }
};

// A server on a thread of its own.
class ServerThread {
 public:
  ServerThread(const Address& address, const tls::Options& tls) {
    thread_ = std::thread([this, address, tls] {
      auto reactor = std::move(*Reactor::create());
      reactor_ = reactor.get();
      {
        ServerOptions options;
        options.tls = tls;
        auto server = Server::create(reactor->env(), std::move(options));
        server->add_stream_method("/b/Ack", [&](std::unique_ptr<ServerCall> call, CallHandler** handler) {
          auto* ack = new AckCall();
          ack->call = std::move(call);
          ack->ack = reactor->env().buffers().copy_of(as_bytes("acknowledged"));
          *handler = ack;
        });
        bound_ = *server->listen(address);
        ready_.release();
        reactor->run();
      }
    });
    ready_.acquire();
  }
  ~ServerThread() {
    reactor_->stop();
    thread_.join();
  }
  const Address& address() const { return bound_; }

 private:
  std::thread thread_;
  std::binary_semaphore ready_{0};
  Reactor* reactor_ = nullptr;
  Address bound_;
};

// Keeps `outstanding` messages of `size` bytes on one stream until `total` were acknowledged.
struct Pump final : CallHandler {
  std::unique_ptr<ClientCall> call;
  Slice head, payload;
  std::int64_t to_send = 0;
  std::int64_t to_acknowledge = 0;

  void send_one() {
    if (to_send == 0) return;
    --to_send;
    Slice parts[] = {head, payload};
    call->send(parts);
  }
  void on_message(Message) override {
    --to_acknowledge;
    send_one();
  }
  void on_ended(Status status) override { CHECK(false, status.ok() ? "ended" : status.error().message().c_str()); }
};

void round_trips(benchmark::State& state, const Address& listen_at, const tls::Options& of_server = {},
                 const tls::Options& of_client = {}) {
  const auto size = static_cast<std::size_t>(state.range(0));
  const auto outstanding = state.range(1);
  ServerThread server(listen_at, of_server);
  auto reactor = std::move(*Reactor::create());
  Env& env = reactor->env();
  ChannelOptions options;
  options.tls = of_client;
  auto channel = Channel::create(env, server.address(), std::move(options));
  Pump pump;
  pump.head = env.buffers().copy_of(as_bytes("the fields before it"));
  pump.payload = env.buffers().allocate(size);
  std::fill(pump.payload.bytes().begin(), pump.payload.bytes().end(), std::byte{7});
  pump.call = channel->start("/b/Ack", {}, std::nullopt, &pump);
  const std::int64_t batch =
      std::max<std::int64_t>(outstanding * 8, (64 << 20) / static_cast<std::int64_t>(size + 8192));
  double cpu_before = cpu_seconds();
  for (auto _ : state) {
    pump.to_send = pump.to_acknowledge = batch;
    for (std::int64_t i = 0; i < outstanding; ++i) pump.send_one();
    while (pump.to_acknowledge > 0) reactor->turn(100ms);
  }
  double operations = static_cast<double>(batch * state.iterations());
  state.SetItemsProcessed(batch * state.iterations());
  state.SetBytesProcessed(batch * state.iterations() * static_cast<std::int64_t>(size));
  state.counters["cpu_us/op"] = (cpu_seconds() - cpu_before) * 1e6 / operations;
  pump.call.reset();
  channel.reset();
}

void tcp(benchmark::State& state) { round_trips(state, {"127.0.0.1", 0, ""}); }
void unix_socket(benchmark::State& state) {
  std::string path = "/tmp/holdfast-rpc-bench-" + std::to_string(getpid());
  round_trips(state, {"", 0, path});
  unlink(path.c_str());
}

// An identity belongs to one reactor.
void tcp_with_tls(benchmark::State& state) {
  tls::testing::Authority authority("bench");
  tls::Options of_server{std::move(*tls::Identity::create(authority.issue("node server"))), true};
  tls::Options of_client{std::move(*tls::Identity::create(authority.issue("node client"))), true};
  round_trips(state, {"127.0.0.1", 0, ""}, of_server, of_client);
}
// As `tcp_with_tls`, without TLS: not by the unix socket that loopback addresses have besides.
void tcp_alone(benchmark::State& state) { round_trips(state, {"127.0.0.1", 0, ""}, {nullptr, true}, {nullptr, true}); }

BENCHMARK(tcp)->Args({4096, 1})->Args({4096, 32})->Args({1 << 20, 8})->UseRealTime()->MeasureProcessCPUTime();
BENCHMARK(unix_socket)->Args({4096, 1})->Args({4096, 32})->Args({1 << 20, 8})->UseRealTime()->MeasureProcessCPUTime();
BENCHMARK(tcp_alone)->Args({4096, 1})->Args({4096, 32})->Args({1 << 20, 8})->UseRealTime()->MeasureProcessCPUTime();
BENCHMARK(tcp_with_tls)->Args({4096, 1})->Args({4096, 32})->Args({1 << 20, 8})->UseRealTime()->MeasureProcessCPUTime();

}  // namespace
}  // namespace holdfast::rpc

BENCHMARK_MAIN();
