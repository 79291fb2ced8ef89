// The same engine on io_uring: real disks, RocksDB and sockets, everything on one reactor.
#include "engine/engine.h"
#include "engine/engine_test_cluster.h"
#include "test/reactor_support.h"

namespace holdfast::engine {
namespace {

constexpr VolumeId kVolume{7};
constexpr std::uint64_t kBlocks = 4'096;

struct Disk {
  test::TempDir folder;
  Address address{"127.0.0.1", 0, ""};
  std::unique_ptr<store::DiskStore> disk;
  std::unique_ptr<rpc::Server> server;
  std::unique_ptr<replica::ReplicaService> service;
};

class ReactorEngineTest : public testing::Test {
 protected:
  ReactorEngineTest() : membership({ReplicaId(1), ReplicaId(2), ReplicaId(3)}) {
    membership.env = &reactor->env();
    for (int i = 0; i < 3; ++i) {
      disks.push_back(std::make_unique<Disk>());
      open(*disks.back());
      Status created = wait<Status>([&](StatusCallback done) {
        disks.back()->disk->create_replica(ReplicaId(static_cast<std::uint64_t>(i) + 1), kVolume, kBlocks, true,
                                           std::move(done));
      });
      EXPECT_TRUE(created.ok());
    }
    VolumeConfig config;
    config.volume = kVolume;
    config.name = "test";
    config.epoch = membership.grant();
    config.replicas = configs();
    spawn(run_open(this, std::move(config)));
    EXPECT_TRUE(run_until([this] { return engine != nullptr; }));
  }
  ~ReactorEngineTest() override {
    bool closed = engine == nullptr;
    if (engine) engine->close([&closed] { closed = true; });
    EXPECT_TRUE(run_until([&closed] { return closed; }));
    engine.reset();
    turn();
    for (auto& disk : disks) close(*disk);
  }

  std::vector<ReplicaConfig> configs() {
    std::vector<ReplicaConfig> configs;
    for (std::size_t i = 0; i < disks.size(); ++i)
      configs.push_back({ReplicaId(i + 1), disks[i]->address, i == 0, true});
    return configs;
  }
  static Task<void> run_open(ReactorEngineTest* self, VolumeConfig config) {
    Task<Result<std::unique_ptr<Engine>>> opening =
        Engine::open(self->reactor->env(), std::move(config), self->membership, self->channels);
    Result<std::unique_ptr<Engine>> opened = co_await std::move(opening);
    EXPECT_TRUE(opened.ok());
    if (opened.ok()) self->engine = std::move(opened).value();
  }
  static Task<void> run_open_disk(Env* env, Disk* disk) {
    store::StoreOptions options;
    options.directory = disk->folder.path();
    options.journal_bytes = 16u << 20;
    options.capacity_bytes = 256u << 20;
    options.reserve_bytes = 1u << 20;
    Task<Result<std::unique_ptr<store::DiskStore>>> opening =
        store::DiskStore::open(*env, options, store::rocks_kv(1u << 20));
    Result<std::unique_ptr<store::DiskStore>> opened = co_await std::move(opening);
    EXPECT_TRUE(opened.ok());
    if (opened.ok()) disk->disk = std::move(opened).value();
  }
  void open(Disk& disk) {
    spawn(run_open_disk(&reactor->env(), &disk));
    EXPECT_TRUE(run_until([&disk] { return disk.disk != nullptr; }));
    disk.server = rpc::Server::create(reactor->env());
    disk.service = replica::ReplicaService::create(reactor->env(), *disk.disk, *disk.server);
    Result<Address> address = disk.server->listen(disk.address);
    EXPECT_TRUE(address.ok());
    disk.address = *address;
  }
  void close(Disk& disk) {
    disk.service.reset();
    disk.server.reset();
    bool closed = false;
    disk.disk->close([&closed] { closed = true; });
    EXPECT_TRUE(run_until([&closed] { return closed; }));
    turn();
    disk.disk.reset();
  }
  void turn() {
    for (int i = 0; i < 20; ++i) reactor->turn(1ms);
  }
  bool run_until(Callback<bool()> done) { return test::run_until(*reactor, std::move(done)); }
  template <typename T, typename Start>
  T wait(Start start) {
    std::optional<T> outcome;
    start(Callback<void(T)>([&outcome](T value) { outcome.emplace(std::move(value)); }));
    EXPECT_TRUE(run_until([&outcome] { return outcome.has_value(); }));
    return std::move(*outcome);
  }
  Status write(std::uint64_t offset, const std::string& bytes) {
    return wait<Status>([&](BlockDevice::DoneCallback done) {
      engine->write(offset, {reactor->env().buffers().copy_of(as_bytes(bytes))}, BlockDevice::Durability::kFlushed,
                    std::move(done));
    });
  }
  std::string read(std::uint64_t offset, std::uint64_t length) {
    auto content =
        wait<Result<SliceList>>([&](BlockDevice::ReadCallback done) { engine->read(offset, length, std::move(done)); });
    EXPECT_TRUE(content.ok());
    std::string bytes;
    if (content.ok()) {
      for (const Slice& part : *content) bytes += part.text();
    }
    return bytes;
  }

  std::unique_ptr<Reactor> reactor = test::make_reactor();
  ChannelPool channels{reactor->env()};
  FakeMembership membership;
  std::vector<std::unique_ptr<Disk>> disks;
  std::unique_ptr<Engine> engine;
};

TEST_F(ReactorEngineTest, WritesReadsAndGoesOnWithoutAReplica) {
  std::string model(kBlocks * kBlockSize, '\0');
  auto put = [&](std::size_t offset, std::size_t size, char seed) {
    std::string bytes = pattern(size, seed);
    ASSERT_TRUE(write(offset, bytes).ok());
    model.replace(offset, size, bytes);
  };
  put(0, 4096, 'a');
  put(1024, 512, 'b');
  put((1u << 20) - 1536, (4u << 20) + 1024, 'c');
  close(*disks[1]);
  put(8192, 65536, 'd');
  EXPECT_EQ(membership.in_sync.size(), 2u);
  EXPECT_TRUE(read(0, 8u << 20) == model.substr(0, 8u << 20));
  open(*disks[1]);
  engine->set_replicas(configs());
  EXPECT_TRUE(run_until([this] { return membership.in_sync.size() == 3; }));
  put(12288, 4096, 'e');
  EXPECT_TRUE(read(0, 8u << 20) == model.substr(0, 8u << 20));
  EXPECT_EQ(engine->status().committed, engine->status().last);
}

}  // namespace
}  // namespace holdfast::engine
