// What one disk does on a real file system: HOLDFAST_BENCH_DIR=DIR store_bench [seconds per case] [snapshots]
// With "snapshots": random reads and writes of 1 GiB at 0, 10, 1,000 and 10,000 snapshots, and how long taking one
// takes while writes go on. Needs about 8 GiB. Every case uses one replica; entries are committed as soon as they are
// journalled, so destaging runs along.
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <random>

#include "base/crc32c.h"
#include "io/uring_env.h"
#include "store/store.h"

namespace holdfast::store {
namespace {

constexpr std::uint64_t kVolumeBlocks = 1u << 20;  // 4 GiB

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  auto seconds = [](const timeval& time) { return double(time.tv_sec) + double(time.tv_usec) / 1e6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

struct Case {
  const char* name;
  bool read;
  std::uint32_t blocks;
  unsigned depth;
  bool sequential;
  std::uint64_t span_blocks;
};

class Bench {
 public:
  Bench(Reactor& reactor, DiskStore& disk) : reactor_(reactor), disk_(disk), random_(1) {
    template_ = reactor.env().buffers().allocate(kWriteBlocksMax * kBlockSize);
    for (std::size_t i = 0; i < template_.size(); ++i) template_.data()[i] = static_cast<std::byte>(random_());
    crcs_.resize(kWriteBlocksMax);
    for (std::size_t i = 0; i < kWriteBlocksMax; ++i) {
      crcs_[i] = crc32c(template_.bytes().subspan(i * kBlockSize, kBlockSize));
    }
    replica_ = disk_.find(ReplicaId(1));
    seq_ = replica_->info().last.seq;
    replica_->on_ready([this] { fill(); });
  }

  void run(const Case& which, double seconds) {
    case_ = which;
    latencies_.clear();
    stopping_ = false;
    Nanos start = now();
    double cpu = cpu_seconds();
    Nanos end = start + Nanos(static_cast<std::int64_t>(seconds * 1e9));
    fill();
    while (now() < end) reactor_.turn(1ms);
    stopping_ = true;
    double measured = double((now() - start).count()) / 1e9;
    double used = cpu_seconds() - cpu;
    std::size_t done = latencies_.size();
    rate_ = double(done) / measured;
    while (in_flight_ > 0) reactor_.turn(1ms);
    std::sort(latencies_.begin(), latencies_.end());
    auto at = [this](double share) {
      return latencies_.empty() ? 0.0 : double(latencies_[std::size_t(double(latencies_.size() - 1) * share)]) / 1e3;
    };
    std::printf("%-28s %9.0f/s %8.1f MB/s  p50 %7.1f us  p99 %8.1f us  CPU %6.2f us/op\n", which.name,
                double(done) / measured, double(done) * which.blocks * kBlockSize / measured / 1e6, at(0.5), at(0.99),
                used * 1e6 / double(done));
    std::fflush(stdout);
  }

  // Of the last run().
  double rate() const { return rate_; }

  // Some writes and a snapshot, until there are so many.
  void take_snapshots(std::uint64_t count, std::uint64_t span_blocks) {
    constexpr unsigned kWritesBetween = 2;
    for (; snapshots_ < count;) {
      case_ = {"", false, 1, 1, false, span_blocks};
      stopping_ = true;
      for (unsigned i = 0; i < kWritesBetween; ++i) start_one();
      take_snapshot();
      while (in_flight_ > 0) reactor_.turn(1ms);
    }
  }

  // A snapshot every 20 ms under random writes; prints how long they took.
  void measure_creation(double seconds, std::uint64_t span_blocks) {
    case_ = {"", false, 1, 32, false, span_blocks};
    creations_.clear();
    stopping_ = false;
    Nanos end = now() + Nanos(static_cast<std::int64_t>(seconds * 1e9));
    Nanos next = now();
    fill();
    while (now() < end) {
      if (now() >= next) {
        next = now() + 20ms;
        take_snapshot();
      }
      reactor_.turn(1ms);
    }
    stopping_ = true;
    while (in_flight_ > 0) reactor_.turn(1ms);
    std::sort(creations_.begin(), creations_.end());
    std::printf("%-28s %zu taken  p50 %7.1f us  p99 %8.1f us  max %8.1f us\n", "snapshot under load", creations_.size(),
                double(creations_[creations_.size() / 2]) / 1e3, double(creations_[creations_.size() * 99 / 100]) / 1e3,
                double(creations_.back()) / 1e3);
    std::fflush(stdout);
  }

  // Until everything is destaged.
  void settle() {
    while (replica_->info().applied < replica_->info().last.seq) reactor_.turn(10ms);
  }

 private:
  static Nanos now() { return std::chrono::steady_clock::now().time_since_epoch(); }

  void fill() {
    while (!stopping_ && in_flight_ < case_.depth) {
      if (!case_.read && !replica_->accepts_more()) return;
      start_one();
    }
  }

  BlockRange next_range() {
    std::uint64_t slots = case_.span_blocks / case_.blocks;
    std::uint64_t slot = case_.sequential ? cursor_++ % slots : random_() % slots;
    return {BlockIndex(slot * case_.blocks), case_.blocks};
  }

  void start_one() {
    ++in_flight_;
    Nanos started = now();
    if (case_.read && case_.blocks > kWriteBlocksMax) {
      replica_->map(next_range(), [this, started](Result<ReadOutcome> outcome) {
        CHECK(outcome.ok());
        finish(started);
      });
      return;
    }
    if (case_.read) {
      replica_->read(next_range(), [this, started](Result<ReadOutcome> outcome) {
        CHECK(outcome.ok());
        finish(started);
      });
      return;
    }
    Entry entry;
    seq_ = seq_.next();
    entry.position = {Epoch(1), seq_};
    entry.blocks = next_range();
    entry.data = reactor_.env().buffers().allocate(std::size_t{case_.blocks} * kBlockSize);
    std::memcpy(entry.data.data(), template_.data(), entry.data.size());
    entry.crc = reactor_.env().buffers().copy_of(std::as_bytes(std::span(crcs_).first(case_.blocks)));
    replica_->append(std::move(entry), [this, started, seq = seq_](Status status) {
      CHECK(status.ok());
      replica_->set_committed(seq);
      finish(started);
    });
  }

  void take_snapshot() {
    ++in_flight_;
    Nanos started = now();
    Entry entry;
    seq_ = seq_.next();
    entry.position = {Epoch(1), seq_};
    entry.op = Op::kSnapshot;
    entry.snapshot = SnapshotId(++snapshots_);
    replica_->append(std::move(entry), [this, started, seq = seq_](Status status) {
      CHECK(status.ok());
      replica_->set_committed(seq);
      creations_.push_back((now() - started).count());
      --in_flight_;
      fill();
    });
  }

  void finish(Nanos started) {
    --in_flight_;
    if (!stopping_) latencies_.push_back((now() - started).count());
    fill();
  }

  Reactor& reactor_;
  DiskStore& disk_;
  std::mt19937_64 random_;
  ReplicaStore* replica_;
  Slice template_;
  std::vector<std::uint32_t> crcs_;
  Seq seq_;
  Case case_{};
  std::uint64_t cursor_ = 0;
  unsigned in_flight_ = 0;
  bool stopping_ = false;
  std::vector<std::int64_t> latencies_;
  std::vector<std::int64_t> creations_;
  std::uint64_t snapshots_ = 0;
  double rate_ = 0;
};

Task<void> open_store(Env* env, StoreOptions options, std::unique_ptr<DiskStore>* out) {
  Task<Result<std::unique_ptr<DiskStore>>> opening = DiskStore::open(*env, options, rocks_kv(64u << 20));
  Result<std::unique_ptr<DiskStore>> opened = co_await std::move(opening);
  if (!opened.ok()) std::fprintf(stderr, "%s\n", opened.error().to_string().c_str());
  CHECK(opened.ok());
  *out = std::move(opened).value();
}

void run_snapshots(Bench& bench, double seconds) {
  constexpr std::uint64_t kSpan = 1u << 18;          // 1 GiB
  constexpr std::uint64_t kCreationSpan = 1u << 12;  // 16 MiB: each snapshot may take that much
  bench.run({"fill 1 GiB", false, 256, 8, true, kSpan}, std::max(seconds, 5.0));
  bench.settle();
  double reads = 0, writes = 0;
  for (std::uint64_t count : {0u, 10u, 1'000u, 10'000u}) {
    bench.take_snapshots(count, kSpan);
    bench.settle();
    std::printf("-- %llu snapshots\n", static_cast<unsigned long long>(count));
    bench.run({"read 4 KiB depth 32", true, 1, 32, false, kSpan}, seconds);  // through the layers
    if (count == 0) reads = bench.rate();
    double read_ratio = bench.rate() / reads;
    bench.run({"first write after a snapshot", false, 1, 32, false, kSpan}, seconds);  // takes a slot for each chunk
    bench.settle();
    bench.run({"fill", false, 256, 8, true, kSpan}, seconds);
    bench.settle();
    bench.run({"append 4 KiB depth 32", false, 1, 32, false, kSpan}, seconds);
    bench.settle();
    if (count == 0) writes = bench.rate();
    std::printf("   of that without snapshots: writes %.2f, reads %.2f\n", bench.rate() / writes, read_ratio);
  }
  bench.measure_creation(seconds, kCreationSpan);
  bench.settle();
}

int run(const std::string& directory, double seconds, bool snapshots) {
  Result<std::unique_ptr<Reactor>> reactor = Reactor::create();
  CHECK(reactor.ok());
  StoreOptions options;
  options.directory = directory;
  options.capacity_bytes = 12ull << 30;
  std::unique_ptr<DiskStore> disk;
  spawn(open_store(&(*reactor)->env(), options, &disk));
  while (!disk) (*reactor)->turn(10ms);
  bool created = false;
  disk->create_replica(ReplicaId(1), VolumeId(1), kVolumeBlocks, true, [&](Status) { created = true; });
  while (!created) (*reactor)->turn(10ms);

  const Case cases[] = {
      {"append 4 KiB depth 1", false, 1, 1, false, kVolumeBlocks},
      {"append 4 KiB depth 32, 256 MiB", false, 1, 32, false, 65'536},
      {"append 4 KiB depth 32", false, 1, 32, false, kVolumeBlocks},
      {"append 4 KiB depth 128", false, 1, 128, false, kVolumeBlocks},
      {"append 1 MiB depth 8", false, 256, 8, true, kVolumeBlocks},
      {"read 4 KiB depth 1", true, 1, 1, false, kVolumeBlocks},
      {"read 4 KiB depth 32", true, 1, 32, false, kVolumeBlocks},
      {"read 1 MiB depth 8", true, 256, 8, true, kVolumeBlocks},
      {"map 64 MiB depth 1", true, kMapBlocksMax, 1, false, kVolumeBlocks},
  };
  {
    Bench bench(**reactor, *disk);
    if (snapshots) run_snapshots(bench, seconds);
    for (const Case& which : cases) {
      if (snapshots) break;
      bench.run(which, seconds);
      bench.settle();
    }
  }
  bool closed = false;
  disk->close([&] { closed = true; });
  while (!closed) (*reactor)->turn(10ms);
  disk.reset();
  return 0;
}

}  // namespace
}  // namespace holdfast::store

int main(int argc, char** argv) {
  const char* base = std::getenv("HOLDFAST_BENCH_DIR");
  if (!base) {
    std::fprintf(stderr, "HOLDFAST_BENCH_DIR must name a folder on the disk to measure\n");
    return 2;
  }
  std::string directory = std::string(base) + "/holdfast-store-bench";
  std::filesystem::remove_all(directory);
  std::filesystem::create_directories(directory);
  bool snapshots = argc > 2 && std::strcmp(argv[2], "snapshots") == 0;
  int outcome = holdfast::store::run(directory, argc > 1 ? std::atof(argv[1]) : 5, snapshots);
  std::filesystem::remove_all(directory);
  return outcome;
}
