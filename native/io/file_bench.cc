// 4 KiB random reads and writes, alone and many at once, with different spins. The file is on the file system of
// $HOLDFAST_BENCH_DIR, else of the system's folder for temporary files. Counters: cpu_us = CPU time of this process per
// operation.
#include <benchmark/benchmark.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <random>
#include <string>

#include "io/uring_env.h"

namespace holdfast {
namespace {

constexpr std::uint64_t kFileBytes = 1u << 30;

double cpu_microseconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  auto total = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_usec);
  };
  return total(usage.ru_utime) + total(usage.ru_stime);
}

}  // namespace

// One file full of data, shared by all cases of a run; main() removes it.
static const std::string& prepared_file() {
  static const std::string path = [] {
    const char* folder = std::getenv("HOLDFAST_BENCH_DIR");
    std::string name = (folder ? std::string(folder) : std::filesystem::temp_directory_path().string()) +
                       "/holdfast-file-bench-" + std::to_string(getpid());
    auto reactor = std::move(*Reactor::create());
    std::unique_ptr<File> file;
    reactor->env().open_file(name, {.create = true}, [&](auto opened) { file = std::move(*opened); });
    while (!file) reactor->turn(1s);
    Slice megabyte = reactor->env().buffers().allocate(1u << 20);
    std::memset(megabyte.data(), 0x5a, megabyte.size());
    std::span<const std::byte> part = megabyte.bytes();
    for (std::uint64_t at = 0; at < kFileBytes; at += part.size()) {
      bool done = false;
      file->write(at, {&part, 1}, [&](Status status) {
        CHECK(status.ok());
        done = true;
      });
      while (!done) reactor->turn(1s);
    }
    return name;
  }();
  return path;
}

namespace {

void random_access(benchmark::State& state) {
  bool writes = state.range(0) != 0;
  auto depth = static_cast<std::size_t>(state.range(2));
  ReactorOptions options;
  options.spin_max = std::chrono::microseconds(state.range(1));
  auto reactor = std::move(*Reactor::create(options));
  std::unique_ptr<File> file;
  reactor->env().open_file(prepared_file(), {}, [&](auto opened) { file = std::move(*opened); });
  while (!file) reactor->turn(1s);
  std::mt19937_64 random(1);
  std::uint64_t started = 0;
  std::uint64_t completed = 0;
  std::vector<Slice> blocks;
  for (std::size_t i = 0; i < depth; ++i) blocks.push_back(reactor->env().buffers().allocate(4096));
  auto start = [&] {
    std::uint64_t offset = random() % (kFileBytes / 4096) * 4096;
    std::span<std::byte> block = blocks[started++ % depth].bytes();
    auto done = [&completed](Status status) {
      CHECK(status.ok());
      ++completed;
    };
    if (writes) {
      std::span<const std::byte> part = block;
      file->write(offset, {&part, 1}, done);
    } else {
      file->read(offset, block, done);
    }
  };
  double cpu = cpu_microseconds();
  while (started < depth) start();
  for (auto _ : state) {
    std::uint64_t before = completed;
    while (completed == before) reactor->turn(1s);
    while (started < completed + depth) start();
  }
  while (completed < started) reactor->turn(1s);
  state.SetItemsProcessed(static_cast<std::int64_t>(completed));
  state.counters["cpu_us"] = (cpu_microseconds() - cpu) / static_cast<double>(completed);
}
BENCHMARK(random_access)
    ->ArgNames({"write", "spin_us", "depth"})
    ->ArgsProduct({{0, 1}, {0, 50, 100, 200}, {1, 32}})
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace holdfast

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  unlink(holdfast::prepared_file().c_str());
}
