// The parts of engine_test_cluster.h (the file's name puts it into the test program).
#include "engine/engine_test_cluster.h"

#include <algorithm>
#include <cstring>

#include "base/crc32c.h"

namespace holdfast::engine {

// ---- membership ----

void FakeMembership::change(VolumeId volume, Epoch of, std::vector<ReplicaId> set, std::string reason,
                            StatusCallback done) {
  EXPECT_FALSE(set.empty()) << "the in-sync set may never become empty";
  auto waiting = std::make_unique<Waiting>(Waiting{of, std::move(set), std::move(done)});
  if (of == cut_off) return;
  if (!reachable) {
    waiting_.push_back(std::move(waiting));
    return;
  }
  env->call_at(env->now() + 2ms, [this, waiting = std::move(waiting)] { decide(std::move(*waiting)); });
}

void FakeMembership::decide(Waiting waiting) {
  if (waiting.of != epoch) {
    return waiting.done(Error(ErrorCode::kEpochSuperseded, "a newer epoch was granted"));
  }
  in_sync = waiting.set;
  ++changes;
  waiting.done(Status());
}

void FakeMembership::set_reachable(bool now_reachable) {
  reachable = now_reachable;
  while (reachable && !waiting_.empty()) {
    std::unique_ptr<Waiting> waiting = std::move(waiting_.front());
    waiting_.pop_front();
    decide(std::move(*waiting));
  }
}

// ---- replicas ----

EngineCluster::EngineCluster(std::uint64_t seed, std::uint64_t blocks, unsigned count)
    : world(seed), size_blocks(blocks) {
  std::vector<ReplicaId> ids;
  for (unsigned i = 0; i < count; ++i) {
    TestReplica& replica = add_replica();
    ids.push_back(replica.id);
    create_on(replica, true);
  }
  membership = std::make_unique<FakeMembership>(ids);
}

// Killed processes are never destroyed; what they hold stays reachable, so that leak checkers know it is on purpose.
namespace {
struct Graveyard {
  std::vector<store::DiskStore*> disks;
  std::vector<rpc::Server*> servers;
  std::vector<replica::ReplicaService*> services;
  std::vector<Engine*> engines;
  std::vector<ChannelPool*> channels;
};
Graveyard& graveyard() {
  static Graveyard* graves = new Graveyard;
  return *graves;
}
}  // namespace

EngineCluster::~EngineCluster() {
  for (TestHost& host : hosts) kill(host);
  for (TestReplica& replica : replicas) kill(replica);
}

TestReplica& EngineCluster::add_replica() {
  TestReplica& replica = replicas.emplace_back();
  replica.node = "10.0.0." + std::to_string(replicas.size());  // a numeric address: the service parses it
  replica.id = ReplicaId(100 + replicas.size());
  replica.address = Address{replica.node, 7000, ""};
  start(replica);
  return replica;
}

void EngineCluster::create_on(TestReplica& replica, bool complete) {
  Status created = wait<Status>([&](StatusCallback done) {
    replica.disk->create_replica(replica.id, kVolume, size_blocks, complete, std::move(done));
  });
  EXPECT_TRUE(created.ok());
}

Task<void> EngineCluster::open_disk(EngineCluster* cluster, TestReplica* replica, bool* opened) {
  store::StoreOptions options;
  options.directory = "/disk";
  options.journal_bytes = 16u << 20;
  options.capacity_bytes = replica->capacity_bytes;
  options.reserve_bytes = 1u << 20;
  options.cache_bytes = 4u << 20;
  Task<Result<std::unique_ptr<store::DiskStore>>> opening =
      store::DiskStore::open(*replica->process->env, options, store::model_kv(&replica->kv));
  Result<std::unique_ptr<store::DiskStore>> disk = co_await std::move(opening);
  EXPECT_TRUE(disk.ok());
  if (disk.ok()) replica->disk = std::move(disk).value();
  *opened = true;
}

void EngineCluster::start(TestReplica& replica) {
  replica.process = world.start_process(replica.node, "replica");
  auto opened = std::make_shared<bool>(false);
  spawn(open_disk(this, &replica, opened.get()));
  EXPECT_TRUE(run_until([opened] { return *opened; }));
  if (!replica.disk) return;
  replica.server = rpc::Server::create(*replica.process->env);
  replica.service = replica::ReplicaService::create(*replica.process->env, *replica.disk, *replica.server);
  Result<Address> address = replica.server->listen(replica.address);
  EXPECT_TRUE(address.ok());
}

void EngineCluster::abandon(TestReplica& replica) {
  graveyard().services.push_back(replica.service.release());
  graveyard().servers.push_back(replica.server.release());
  graveyard().disks.push_back(replica.disk.release());
  replica.process = nullptr;
}

void EngineCluster::kill(TestReplica& replica) {
  if (!replica.process) return;
  world.kill(replica.process);
  abandon(replica);
}

void EngineCluster::power_off(TestReplica& replica) {
  world.power_off(replica.node);
  abandon(replica);
  replica.kv.power_loss([this](std::uint64_t bound) { return world.random().below(bound); });
}

// ---- engines ----

std::vector<ReplicaConfig> EngineCluster::configs() const {
  std::vector<ReplicaConfig> configs;
  for (const TestReplica& replica : replicas) {
    bool in_sync = std::count(membership->in_sync.begin(), membership->in_sync.end(), replica.id) > 0;
    configs.push_back({replica.id, replica.address, false, in_sync});
  }
  return configs;
}

Task<void> EngineCluster::open_engine(EngineCluster* cluster, TestHost* host, VolumeConfig config) {
  Task<Result<std::unique_ptr<Engine>>> opening =
      Engine::open(*host->process->env, std::move(config), *cluster->membership, *host->channels);
  Result<std::unique_ptr<Engine>> engine = co_await std::move(opening);
  if (engine.ok()) {
    host->engine = std::move(engine).value();
  } else {
    host->failure = engine.error();
  }
  host->attached = true;
}

TestHost& EngineCluster::begin_attach(const std::string& node) {
  TestHost& host = hosts.emplace_back();
  host.process = world.start_process(node, "host");
  host.channels = std::make_unique<ChannelPool>(*host.process->env);
  VolumeConfig config;
  config.volume = kVolume;
  config.name = "test";
  config.epoch = membership->grant();
  config.size_bytes = size_blocks * kBlockSize;
  config.logical_block_size = logical_block_size;
  config.replicas = configs();
  config.rebuild_bytes_per_second = rebuild_rate;
  membership->env = host.process->env.get();
  spawn(open_engine(this, &host, std::move(config)));
  return host;
}

TestHost& EngineCluster::attach(const std::string& node) {
  TestHost& host = begin_attach(node);
  EXPECT_TRUE(run_until([&host] { return host.attached; }));
  EXPECT_FALSE(host.failure.has_value()) << host.failure->to_string();
  return host;
}

void EngineCluster::kill(TestHost& host) {
  if (!host.process) return;
  world.kill(host.process);
  graveyard().engines.push_back(host.engine.release());
  graveyard().channels.push_back(host.channels.release());
  host.process = nullptr;
}

bool EngineCluster::wait_all_in_sync() {
  return run_until(
      [this] {
        EngineStatus status = engine().status();
        return status.replicas.size() == replicas.size() &&
               std::all_of(status.replicas.begin(), status.replicas.end(),
                           [](const ReplicaStatus& replica) { return replica.phase == ReplicaPhase::kInSync; });
      },
      300s);
}

// ---- single operations ----

Status EngineCluster::write(std::uint64_t offset, std::string_view bytes, BlockDevice::Durability durability) {
  SliceList data{slice(bytes)};
  return wait<Status>(
      [&](BlockDevice::DoneCallback done) { engine().write(offset, std::move(data), durability, std::move(done)); });
}

Result<std::string> EngineCluster::read(std::uint64_t offset, std::uint64_t length) {
  Result<SliceList> content =
      wait<Result<SliceList>>([&](BlockDevice::ReadCallback done) { engine().read(offset, length, std::move(done)); });
  if (!content.ok()) return content.error();
  std::string bytes;
  for (const Slice& part : *content) bytes += part.text();
  EXPECT_EQ(bytes.size(), length);
  return bytes;
}

Status EngineCluster::zero(std::uint64_t offset, std::uint64_t length) {
  return wait<Status>([&](BlockDevice::DoneCallback done) { engine().zero(offset, length, true, std::move(done)); });
}

Status EngineCluster::flush() {
  return wait<Status>([&](BlockDevice::DoneCallback done) { engine().flush(std::move(done)); });
}

// ---- comparing ----

std::string EngineCluster::content_of(TestReplica& replica) {
  store::ReplicaStore* copy = replica.disk->find(replica.id);
  EXPECT_NE(copy, nullptr);
  std::string all(copy->info().size_blocks * kBlockSize, '\0');
  std::uint64_t chunks = (copy->info().size_blocks + kBlocksPerChunk - 1) / kBlocksPerChunk;
  for (std::uint64_t chunk = 0; chunk < chunks; ++chunk) {
    Result<store::ChunkContent> content =
        wait<Result<store::ChunkContent>>([&](Callback<void(Result<store::ChunkContent>)> done) {
          copy->read_chunk(ChunkIndex(chunk), std::move(done));
        });
    EXPECT_TRUE(content.ok());
    if (!content.ok()) continue;
    std::string bytes;
    for (const Slice& part : content->data) bytes += part.text();
    std::size_t index = 0;
    for (std::uint64_t i = 0; i < kBlocksPerChunk; ++i) {
      if ((content->present >> i & 1) == 0) continue;
      std::string_view block = std::string_view(bytes).substr(index * kBlockSize, kBlockSize);
      EXPECT_EQ(crc32c(as_bytes(block)), content->crc[index]) << replica.node << " chunk " << chunk << " block " << i;
      all.replace((chunk * kBlocksPerChunk + i) * kBlockSize, kBlockSize, block);
      ++index;
    }
  }
  return all;
}

namespace {
constexpr char kNoRecord[] = " (no record)";
std::string describe(const std::vector<store::ChunkVersion>& versions, std::uint64_t chunk) {
  for (const store::ChunkVersion& version : versions) {
    if (version.chunk.value() != chunk) continue;
    return " (epoch " + std::to_string(version.version.epoch.value()) + " seq " +
           std::to_string(version.version.seq.value()) + ")";
  }
  return kNoRecord;
}
}  // namespace

void EngineCluster::expect_identical() {
  world.run_for(500ms);  // the last watermark travels
  std::string first;
  std::vector<store::ChunkVersion> first_versions;
  const TestReplica* reference = nullptr;
  for (TestReplica& replica : replicas) {
    bool in_sync = std::count(membership->in_sync.begin(), membership->in_sync.end(), replica.id) > 0;
    if (!in_sync || !replica.process) continue;
    store::ReplicaStore* copy = replica.disk->find(replica.id);
    EXPECT_TRUE(copy->info().complete);
    EXPECT_EQ(copy->info().last.seq, engine().status().last) << replica.node;
    std::string content = content_of(replica);
    auto versions = wait<Result<std::vector<store::ChunkVersion>>>(
        [&](Callback<void(Result<std::vector<store::ChunkVersion>>)> done) {
          copy->list_chunks(ChunkIndex(0), ChunkIndex(UINT32_MAX), Seq(0), 1'000'000, std::move(done));
        });
    ASSERT_TRUE(versions.ok());
    if (!reference) {
      reference = &replica;
      first = std::move(content);
      first_versions = *versions;
      continue;
    }
    for (std::size_t at = 0; at < first.size(); at += kBlockSize) {
      EXPECT_TRUE(content.compare(at, kBlockSize, first, at, kBlockSize) == 0)
          << reference->node << " and " << replica.node << " differ in block " << at / kBlockSize << " of chunk "
          << at / kChunkSize << describe(first_versions, at / kChunkSize) << describe(*versions, at / kChunkSize);
    }
    for (std::uint64_t chunk = 0; chunk * kChunkSize < first.size(); ++chunk) {
      // A chunk that holds nothing may have a record or not.
      if (describe(*versions, chunk) == kNoRecord || describe(first_versions, chunk) == kNoRecord) continue;
      EXPECT_EQ(describe(*versions, chunk), describe(first_versions, chunk))
          << reference->node << " and " << replica.node << " differ in chunk " << chunk;
    }
  }
  EXPECT_NE(reference, nullptr);
}

// ---- workload ----

Workload::Workload(EngineCluster& cluster, std::uint64_t seed)
    : cluster_(cluster),
      random_(seed),
      sectors_(cluster.size_blocks * kBlockSize / kSector),
      newest_(sectors_, 0),
      allowed_(sectors_, std::vector<std::uint64_t>{0}) {}

// Mostly small and crowded on a part of the volume, sometimes large; half of them aligned to blocks.
void Workload::pick_range(std::uint64_t* first, std::uint64_t* count) {
  std::uint64_t unit = random_.chance(1, 2) ? 8 : cluster_.logical_block_size / kSector;
  std::uint64_t large = random_.chance(1, 20) ? 1u << random_.below(13) : 1u << random_.below(6);
  std::uint64_t area = random_.chance(2, 3) ? std::min<std::uint64_t>(sectors_, 1024) : sectors_;
  *count = std::max<std::uint64_t>(unit, (1 + random_.below(large)) / unit * unit);
  *count = std::min(*count, area / unit * unit);
  *first = random_.below((area - *count) / unit + 1) * unit;
}

std::string Workload::content(std::uint64_t count, std::uint64_t value) const {
  std::string bytes(count * kSector, '\0');
  for (std::size_t at = 0; at < bytes.size(); at += sizeof value) std::memcpy(bytes.data() + at, &value, sizeof value);
  return bytes;
}

std::string Workload::expected(std::uint64_t first, std::uint64_t count) const {
  std::string bytes;
  for (std::uint64_t i = 0; i < count; ++i) bytes += content(1, newest_[first + i]);
  return bytes;
}

void Workload::apply(std::uint64_t first, std::uint64_t count, std::uint64_t value) {
  for (std::uint64_t i = first; i < first + count; ++i) {
    newest_[i] = value;
    allowed_[i].push_back(value);
  }
}

// Acknowledged: what came before it in order is gone for ever.
void Workload::settle(std::uint64_t first, std::uint64_t count, std::uint64_t value) {
  for (std::uint64_t i = first; i < first + count; ++i) {
    auto at = std::find(allowed_[i].begin(), allowed_[i].end(), value);
    if (at != allowed_[i].end()) allowed_[i].erase(allowed_[i].begin(), at);
  }
}

void Workload::finished(bool ok) {
  --in_flight;
  ++completed;
  if (!ok) ++failed;
  EXPECT_TRUE(ok || expect_errors) << "an operation failed";
}

void Workload::start_one() {
  std::uint64_t dice = random_.below(100);
  ++in_flight;
  if (dice < 45) return start_write();
  if (dice < 55) return start_zero();
  if (dice < 88) return start_read();
  if (dice < 94) return start_compare();
  start_flush();
}

void Workload::start_write() {
  std::uint64_t first, count;
  pick_range(&first, &count);
  std::uint64_t value = next_value_++;
  apply(first, count, value);
  // In parts of odd places and sizes, as a front-end has them.
  std::string bytes = content(count, value);
  SliceList data;
  for (std::size_t at = 0; at < bytes.size();) {
    std::size_t n =
        std::min<std::size_t>(bytes.size() - at, (1 + random_.below(5)) * kSector * (random_.chance(1, 4) ? 1 : 8));
    Slice part = cluster_.slice(std::string(24, 'x') + bytes.substr(at, n));
    data.push_back(part.sub(24, n));
    at += n;
  }
  auto durability = random_.chance(1, 10) ? BlockDevice::Durability::kFlushed : BlockDevice::Durability::kJournalled;
  cluster_.engine().write(first * kSector, std::move(data), durability,
                          [this, first, count, value, generation = generation_](Status status) {
                            if (generation != generation_) return;
                            if (status.ok()) settle(first, count, value);
                            finished(status.ok());
                          });
}

void Workload::start_zero() {
  std::uint64_t first, count;
  pick_range(&first, &count);
  // A number of its own for the bookkeeping is not possible here: zeros look alike. 0 may appear several times.
  apply(first, count, 0);
  cluster_.engine().zero(first * kSector, count * kSector, random_.chance(1, 2),
                         [this, generation = generation_](Status status) {
                           if (generation == generation_) finished(status.ok());
                         });
}

void Workload::start_read() {
  std::uint64_t first, count;
  pick_range(&first, &count);
  auto want = std::make_unique<std::string>(expected(first, count));
  cluster_.engine().read(first * kSector, count * kSector,
                         [this, want = std::move(want), first, generation = generation_](Result<SliceList> content) {
                           if (generation != generation_) return;
                           if (content.ok()) {
                             std::string bytes;
                             for (const Slice& part : *content) bytes += part.text();
                             EXPECT_TRUE(bytes == *want) << "a read at sector " << first << " gave other content";
                           }
                           finished(content.ok());
                         });
}

void Workload::start_compare() {
  std::uint64_t first, count;
  pick_range(&first, &count);
  std::uint64_t unit = cluster_.logical_block_size / kSector;
  count = std::max<std::uint64_t>(std::min<std::uint64_t>(count, 64) / unit * unit, unit);
  std::string want = expected(first, count);
  bool match = random_.chance(2, 3);
  std::uint64_t differs = 0;
  if (!match) {
    differs = random_.below(want.size());
    want[differs] = static_cast<char>(want[differs] ^ 0x5a);
  }
  std::uint64_t value = next_value_++;
  if (match) apply(first, count, value);
  cluster_.engine().compare_and_write(first * kSector, {cluster_.slice(want)}, {cluster_.slice(content(count, value))},
                                      BlockDevice::Durability::kJournalled,
                                      [this, match, differs, first, count, value,
                                       generation = generation_](Result<std::optional<std::uint64_t>> outcome) {
                                        if (generation != generation_) return;
                                        if (outcome.ok()) {
                                          EXPECT_EQ(outcome->has_value(), !match);
                                          if (!match && outcome->has_value()) {
                                            EXPECT_EQ(**outcome, differs);
                                          }
                                          if (match) settle(first, count, value);
                                        }
                                        finished(outcome.ok());
                                      });
}

void Workload::start_flush() {
  cluster_.engine().flush([this, generation = generation_](Status status) {
    if (generation == generation_) finished(status.ok());
  });
}

void Workload::run(unsigned count, unsigned depth, const std::function<void(unsigned)>& at_each) {
  for (unsigned started = 0; started < count; ++started) {
    ASSERT_TRUE(cluster_.run_until([&] { return in_flight < depth; })) << in_flight << " operations hang";
    if (at_each) at_each(started);
    start_one();
  }
  drain();
}

void Workload::drain() {
  EXPECT_TRUE(cluster_.run_until([this] { return in_flight == 0; })) << in_flight << " operations hang";
  for (std::uint64_t i = 0; i < sectors_; ++i) allowed_[i].assign(1, newest_[i]);
}

void Workload::forget_in_flight() {
  ++generation_;
  in_flight = 0;
}

void Workload::verify_all() {
  constexpr std::uint64_t kStep = 2048;
  for (std::uint64_t first = 0; first < sectors_; first += kStep) {
    std::uint64_t count = std::min(kStep, sectors_ - first);
    Result<std::string> bytes = cluster_.read(first * kSector, count * kSector);
    ASSERT_TRUE(bytes.ok()) << bytes.error().to_string();
    for (std::uint64_t i = 0; i < count; ++i) {
      std::uint64_t value = 0;
      std::memcpy(&value, bytes->data() + i * kSector, sizeof value);
      EXPECT_TRUE(bytes->compare(i * kSector, kSector, content(1, value)) == 0)
          << "sector " << first + i << " is mixed";
      const std::vector<std::uint64_t>& allowed = allowed_[first + i];
      ASSERT_TRUE(std::find(allowed.begin(), allowed.end(), value) != allowed.end())
          << "sector " << first + i << " holds " << value << ", newest is " << newest_[first + i];
      newest_[first + i] = value;
      allowed_[first + i].assign(1, value);
    }
  }
}

}  // namespace holdfast::engine
