// engine_bench: the replicated path without iSCSI: an engine on one thread, three replicas (store, service, server) on
// a thread each, TCP over loopback between them. Prints one line a case: operations and bytes a second, latency, and
// CPU time of the engine's thread and of all replica threads for one operation.
//
//   engine_bench --dir DIR [--seconds N] [--replicas N] [--only CASE]
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <future>
#include <thread>

#include "engine/engine.h"
#include "io/reactor.h"
#include "replica/replica_service.h"

namespace holdfast::engine {
namespace {

constexpr VolumeId kVolume{1};
constexpr std::uint64_t kVolumeBytes = 4ull << 30;

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "engine_bench: %s\n", what.c_str());
  ::_exit(1);
}

double thread_cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

std::unique_ptr<Reactor> make_reactor() {
  Result<std::unique_ptr<Reactor>> reactor = Reactor::create();
  if (!reactor.ok()) fail(reactor.error().to_string());
  return std::move(reactor).value();
}

// One replica on a thread of its own.
class ReplicaThread {
 public:
  ReplicaThread(std::string directory, ReplicaId id) : id_(id) {
    options_.directory = std::move(directory);
    options_.journal_bytes = 256u << 20;
    std::filesystem::create_directories(options_.directory);
    std::future<Address> ready = ready_.get_future();
    thread_ = std::thread([this] { run(); });
    address_ = ready.get();
  }
  const Address& address() const { return address_; }
  double cpu_seconds() {
    std::promise<double> answer;
    reactor_->post_from_any_thread([&answer] { answer.set_value(thread_cpu_seconds()); });
    return answer.get_future().get();
  }
  void stop() {
    reactor_->post_from_any_thread([this] {
      service_.reset();
      server_.reset();
      disk_->close([this] {
        reactor_->env().post([this] {
          disk_.reset();
          reactor_->stop();
        });
      });
    });
    thread_.join();
    reactor_.reset();
  }

 private:
  void run() {
    reactor_ = make_reactor();
    spawn(open());
    reactor_->run();
  }
  Task<void> open() {
    Env& env = reactor_->env();
    Task<Result<std::unique_ptr<store::DiskStore>>> opening =
        store::DiskStore::open(env, options_, store::rocks_kv(32u << 20));
    Result<std::unique_ptr<store::DiskStore>> disk = co_await std::move(opening);
    if (!disk.ok()) fail(disk.error().to_string());
    disk_ = std::move(disk).value();
    Status created = co_await suspend<Status>([this](StatusCallback done) {
      disk_->create_replica(id_, kVolume, kVolumeBytes / kBlockSize, true, std::move(done));
    });
    if (!created.ok()) fail(created.error().to_string());
    server_ = rpc::Server::create(env);
    service_ = replica::ReplicaService::create(env, *disk_, *server_);
    Result<Address> address = server_->listen(Address{"127.0.0.1", 0, ""});
    if (!address.ok()) fail(address.error().to_string());
    ready_.set_value(*address);
  }

  ReplicaId id_;
  store::StoreOptions options_;
  std::promise<Address> ready_;
  Address address_;
  std::unique_ptr<Reactor> reactor_;
  std::unique_ptr<store::DiskStore> disk_;
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<replica::ReplicaService> service_;
  std::thread thread_;
};

class AlwaysStored final : public Membership {
 public:
  void change(VolumeId, Epoch, std::vector<ReplicaId>, std::string reason, StatusCallback done) override {
    std::fprintf(stderr, "the in-sync set changed: %s\n", reason.c_str());
    done(Status());
  }
  void fenced(VolumeId, Epoch) override { fail("fenced"); }
};

struct Case {
  const char* name;
  bool write;
  std::uint32_t bytes;
  unsigned depth;
  bool random;
  bool durable;
};
constexpr Case kCases[] = {
    {"write-4k-d1", true, 4096, 1, true, false},      {"write-4k-d32", true, 4096, 32, true, false},
    {"fua-4k-d1", true, 4096, 1, true, true},         {"read-4k-d1", false, 4096, 1, true, false},
    {"read-4k-d32", false, 4096, 32, true, false},    {"write-512-d32", true, 512, 32, true, false},
    {"write-1m-d8", true, 1u << 20, 8, false, false}, {"read-1m-d8", false, 1u << 20, 8, false, false},
};

class Run {
 public:
  Run(Env& env, Engine& engine, const Case& what, Nanos duration)
      : env_(env), engine_(engine), what_(what), end_(env.now() + duration) {
    payload_ = env.buffers().allocate(what.bytes);
    for (std::size_t i = 0; i < what.bytes; i += 8) {
      std::uint64_t word = env.random();
      std::memcpy(payload_.data() + i, &word, sizeof word);
    }
    for (unsigned i = 0; i < what.depth; ++i) next();
  }
  bool done() const { return in_flight_ == 0; }
  std::vector<Nanos> latencies;

 private:
  void next() {
    if (env_.now() >= end_) return;
    ++in_flight_;
    std::uint64_t slots = kVolumeBytes / what_.bytes;
    std::uint64_t slot = what_.random ? env_.random() % slots : position_++ % slots;
    Nanos start = env_.now();
    auto finished = [this, start] {
      latencies.push_back(env_.now() - start);
      --in_flight_;
      next();
    };
    if (what_.write) {
      engine_.write(slot * what_.bytes, {payload_},
                    what_.durable ? BlockDevice::Durability::kFlushed : BlockDevice::Durability::kJournalled,
                    [finished](Status status) mutable {
                      if (!status.ok()) fail(status.error().to_string());
                      finished();
                    });
    } else {
      engine_.read(slot * what_.bytes, what_.bytes, [finished](Result<SliceList> content) mutable {
        if (!content.ok()) fail(content.error().to_string());
        finished();
      });
    }
  }

  Env& env_;
  Engine& engine_;
  const Case& what_;
  Nanos end_;
  Slice payload_;
  std::uint64_t position_ = 0;
  unsigned in_flight_ = 0;
};

double micros(Nanos time) { return static_cast<double>(time.count()) / 1'000; }

void report(const Case& what, std::vector<Nanos>& latencies, double seconds, double engine_cpu, double replica_cpu) {
  std::sort(latencies.begin(), latencies.end());
  if (latencies.empty()) fail("nothing was done");
  double count = static_cast<double>(latencies.size());
  std::printf("%-14s %9.0f /s %8.1f MB/s  p50 %7.1f us  p99 %8.1f us  engine %6.2f us  replicas %6.2f us CPU each\n",
              what.name, count / seconds, count * what.bytes / seconds / 1e6, micros(latencies[latencies.size() / 2]),
              micros(latencies[latencies.size() * 99 / 100]), engine_cpu * 1e6 / count, replica_cpu * 1e6 / count);
  std::fflush(stdout);
}

struct Options {
  std::string directory;
  std::string only;
  unsigned seconds = 3;
  unsigned replicas = 3;
};

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    std::string name = argv[i];
    if (name == "--dir") options.directory = argv[i + 1];
    if (name == "--only") options.only = argv[i + 1];
    if (name == "--seconds") options.seconds = static_cast<unsigned>(std::atoi(argv[i + 1]));
    if (name == "--replicas") options.replicas = static_cast<unsigned>(std::atoi(argv[i + 1]));
  }
  if (options.directory.empty()) fail("--dir is needed");
  return options;
}

Task<void> open_engine(Env* env, VolumeConfig config, Membership* membership, ChannelPool* channels,
                       std::unique_ptr<Engine>* out) {
  Task<Result<std::unique_ptr<Engine>>> opening = Engine::open(*env, std::move(config), *membership, *channels);
  Result<std::unique_ptr<Engine>> engine = co_await std::move(opening);
  if (!engine.ok()) fail(engine.error().to_string());
  *out = std::move(engine).value();
}

void run(const Options& options) {
  std::vector<std::unique_ptr<ReplicaThread>> replicas;
  VolumeConfig config;
  config.volume = kVolume;
  config.name = "bench";
  config.epoch = Epoch(1);
  for (unsigned i = 0; i < options.replicas; ++i) {
    ReplicaId id(i + 1);
    std::string directory = options.directory + "/disk" + std::to_string(i + 1);
    std::filesystem::remove_all(directory);
    replicas.push_back(std::make_unique<ReplicaThread>(directory, id));
    config.replicas.push_back({id, replicas.back()->address(), false, true});
  }
  std::unique_ptr<Reactor> reactor = make_reactor();
  AlwaysStored membership;
  {
    ChannelPool channels(reactor->env());
    std::unique_ptr<Engine> engine;
    spawn(open_engine(&reactor->env(), config, &membership, &channels, &engine));
    while (!engine) reactor->turn(1ms);
    auto replica_cpu = [&replicas] {
      double total = 0;
      for (auto& replica : replicas) total += replica->cpu_seconds();
      return total / static_cast<double>(replicas.size());
    };
    for (const Case& what : kCases) {
      if (!options.only.empty() && options.only != what.name) continue;
      reactor->turn(0ms);
      double engine_before = thread_cpu_seconds(), replicas_before = replica_cpu();
      Nanos start = reactor->env().now();
      Run bench(reactor->env(), *engine, what, std::chrono::seconds(options.seconds));
      while (!bench.done()) reactor->turn(10ms);
      double seconds = std::chrono::duration<double>(reactor->env().now() - start).count();
      report(what, bench.latencies, seconds, thread_cpu_seconds() - engine_before, replica_cpu() - replicas_before);
    }
    bool closed = false;
    engine->close([&closed] { closed = true; });
    while (!closed) reactor->turn(10ms);
    engine.reset();
    for (int i = 0; i < 10; ++i) reactor->turn(1ms);
  }
  for (auto& replica : replicas) replica->stop();
  std::filesystem::remove_all(options.directory);
}

}  // namespace
}  // namespace holdfast::engine

int main(int argc, char** argv) {
  holdfast::engine::run(holdfast::engine::parse(argc, argv));
  return 0;
}
