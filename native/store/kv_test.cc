// The contract of Kv, on RocksDB and on the model, and a store on a real reactor with RocksDB that is opened again.
#include <filesystem>
#include <map>
#include <random>

#include "io/uring_env.h"
#include "store/test_machine.h"
#include "test/reactor_support.h"

namespace holdfast::store {
namespace {

// Short sleeps, since a turn runs what is due before it sleeps.
bool turn_until(Reactor& reactor, const std::function<bool()>& done) {
  for (int turns = 0; !done(); ++turns) {
    if (turns == 60'000) return false;
    reactor.turn(1ms);
  }
  return true;
}

class KvTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    Result<std::unique_ptr<Reactor>> created = Reactor::create();
    if (!created.ok()) GTEST_SKIP() << created.error().message();
    reactor = std::move(created).value();
    open();
  }
  void TearDown() override { kv.reset(); }

  static Task<void> run_open(KvTest* test) {
    OpenKv how = GetParam() ? rocks_kv(8u << 20) : model_kv(&test->model);
    Task<Result<std::unique_ptr<Kv>>> opening = how(test->reactor->env(), test->directory.file("meta"));
    Result<std::unique_ptr<Kv>> opened = co_await std::move(opening);
    CHECK(opened.ok());
    test->kv = std::move(opened).value();
  }
  void open() {
    kv.reset();
    spawn(run_open(this));
    ASSERT_TRUE(turn_until(*reactor, [this] { return kv != nullptr; }));
  }
  template <typename T, typename Start>
  T wait(Start start) {
    std::optional<T> outcome;
    start(Callback<void(T)>([&outcome](T value) { outcome.emplace(std::move(value)); }));
    EXPECT_TRUE(turn_until(*reactor, [&outcome] { return outcome.has_value(); }));
    return std::move(*outcome);
  }
  Status write(KvBatch batch, bool sync) {
    return wait<Status>([&](StatusCallback done) { kv->write(std::move(batch), sync, std::move(done)); });
  }
  std::optional<std::string> get(const std::string& key) {
    auto value = wait<Result<std::optional<std::string>>>([&](auto done) { kv->get(key, std::move(done)); });
    EXPECT_TRUE(value.ok());
    auto cached = kv->get_if_cached(key);
    if (cached) {
      EXPECT_EQ(*cached, *value);
    }
    return *value;
  }
  KvPairs range(const std::string& first, const std::string& end, std::size_t max) {
    auto pairs = wait<Result<KvPairs>>([&](auto done) { kv->range(first, end, max, std::move(done)); });
    EXPECT_TRUE(pairs.ok());
    return *pairs;
  }

  test::TempDir directory;
  ModelKvDisk model;
  std::unique_ptr<Reactor> reactor;
  std::unique_ptr<Kv> kv;
};

// Keys as those of records of many layers: what a batch is made of must not matter to the database.
TEST_P(KvTest, RandomBatchesEqualAMap) {
  std::mt19937 random(7);
  std::map<std::string, std::string> expected;
  for (int round = 0; round < 300; ++round) {
    KvBatch batch;
    for (std::size_t changes = 1 + random() % 40; changes > 0; --changes) {
      std::string key = std::string(1, random() % 2 ? 'C' : 'K') + std::string(15, '\0') +
                        static_cast<char>(random() % 6) + std::string(7, '\0') + static_cast<char>(random() % 100);
      if (random() % 10 == 0) {
        std::string end = key;
        end.back() = '\x7f';
        batch.remove_range(key, end);
        expected.erase(expected.lower_bound(key), expected.lower_bound(end));
      } else if (random() % 3 == 0) {
        batch.remove(key);
        expected.erase(key);
      } else {
        std::string value(random() % 400, static_cast<char>(random()));
        batch.put(key, value);
        expected[key] = value;
      }
    }
    ASSERT_TRUE(write(std::move(batch), round % 50 == 0).ok());
  }
  KvPairs pairs = range("A", "Z", 10'000);
  EXPECT_EQ((std::map<std::string, std::string>(pairs.begin(), pairs.end())), expected);
}

TEST_P(KvTest, BatchesApplyInOrderAndSurviveReopening) {
  KvBatch batch;
  for (int i = 0; i < 10; ++i) batch.put("k" + std::to_string(i), "v" + std::to_string(i));
  batch.put("z", std::string("\0binary", 7));
  ASSERT_TRUE(write(std::move(batch), true).ok());
  EXPECT_EQ(get("k3"), "v3");
  EXPECT_EQ(get("k"), std::nullopt);

  // Written without waiting: the later one wins.
  KvBatch first;
  first.put("k3", "first");
  KvBatch second;
  second.remove_range("k4", "k8");
  second.put("k3", "second");
  second.remove("k9");
  int missing = 2;
  kv->write(std::move(first), false, [&](Status) { --missing; });
  kv->write(std::move(second), true, [&](Status) { --missing; });
  ASSERT_TRUE(turn_until(*reactor, [&] { return missing == 0; }));
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(get("k3"), "second");
    EXPECT_EQ(get("k5"), std::nullopt);
    EXPECT_EQ(get("z"), std::string("\0binary", 7));
    KvPairs pairs = range("k", "l", 100);
    ASSERT_EQ(pairs.size(), 5u);
    EXPECT_EQ(pairs[0].first, "k0");
    EXPECT_EQ(pairs[4].first, "k8");
    EXPECT_EQ(range("k1", "l", 2).back().first, "k2");
    open();
  }
}

INSTANTIATE_TEST_SUITE_P(Both, KvTest, testing::Bool(),
                         [](const testing::TestParamInfo<bool>& which) { return which.param ? "Rocks" : "Model"; });

TEST(ModelKvDisk, PowerLossKeepsAPrefixFromTheLastSyncOn) {
  sim::World world(1);
  ModelKvDisk disk;
  Env& env = *world.start_process("a", "kv")->env;
  std::unique_ptr<Kv> kv;
  struct Opening {
    static Task<void> run(Env* environment, ModelKvDisk* on, std::unique_ptr<Kv>* out) {
      Task<Result<std::unique_ptr<Kv>>> opening = model_kv(on)(*environment, "/m");
      Result<std::unique_ptr<Kv>> opened = co_await std::move(opening);
      *out = std::move(opened).value();
    }
  };
  spawn(Opening::run(&env, &disk, &kv));
  int written = 0;
  for (int i = 0; i < 4; ++i) {
    KvBatch batch;
    batch.put("k" + std::to_string(i), "v");
    kv->write(std::move(batch), i == 1, [&](Status) { ++written; });
  }
  ASSERT_TRUE(world.run_until([&] { return written == 4; }, 1s));
  disk.power_loss([](std::uint64_t bound) {
    EXPECT_EQ(bound, 3u);
    return 1;
  });
  std::vector<std::string> left;
  bool done = false;
  kv->range("", "z", 10, [&](Result<KvPairs> pairs) {
    for (auto& [key, value] : *pairs) left.push_back(key);
    done = true;
  });
  ASSERT_TRUE(world.run_until([&] { return done; }, 1s));
  EXPECT_EQ(left, (std::vector<std::string>{"k0", "k1", "k2"}));
}

// ---- the whole store on the real thing ----

Task<void> open_store(Env* env, StoreOptions options, std::optional<Result<std::unique_ptr<DiskStore>>>* out) {
  Task<Result<std::unique_ptr<DiskStore>>> opening = DiskStore::open(*env, options, rocks_kv(8u << 20));
  Result<std::unique_ptr<DiskStore>> opened = co_await std::move(opening);
  out->emplace(std::move(opened));
}

TEST(StoreOnRealDisk, KeepsContentOverClosingAndOpening) {
  test::TempDir directory;
  Result<std::unique_ptr<Reactor>> reactor = Reactor::create();
  if (!reactor.ok()) GTEST_SKIP() << reactor.error().message();
  StoreOptions options;
  options.directory = directory.path();
  options.journal_bytes = 16u << 20;
  options.reserve_bytes = 1u << 20;
  options.capacity_bytes = 256u << 20;
  std::uint64_t seq = 0;
  for (int round = 0; round < 3; ++round) {
    std::optional<Result<std::unique_ptr<DiskStore>>> opened;
    spawn(open_store(&(*reactor)->env(), options, &opened));
    ASSERT_TRUE(turn_until(**reactor, [&] { return opened.has_value(); }));
    ASSERT_TRUE(opened->ok()) << opened->error().to_string();
    std::unique_ptr<DiskStore> disk = std::move(*opened).value();
    if (round == 0) {
      bool created = false;
      disk->create_replica(ReplicaId(1), VolumeId(1), 10'000, true, [&](Status) { created = true; });
      ASSERT_TRUE(turn_until(**reactor, [&] { return created; }));
    }
    ReplicaStore* replica = disk->find(ReplicaId(1));
    ASSERT_NE(replica, nullptr);
    EXPECT_EQ(replica->info().last.seq, Seq(seq));
    std::uint64_t acknowledged = seq;
    for (int i = 0; i < 200; ++i) {
      ++seq;
      BlockRange blocks{BlockIndex(seq * 37 % 9'700), static_cast<std::uint32_t>(1 + seq % 200)};
      replica->append(write_entry((*reactor)->env(), at(1, seq), blocks, seq * 1000), [&](Status status) {
        EXPECT_TRUE(status.ok()) << status.error().to_string();
        replica->set_committed(Seq(++acknowledged));
      });
    }
    bool flushed = false;
    ASSERT_TRUE(turn_until(**reactor, [&] { return acknowledged == seq; }));
    replica->flush([&](Status status) { flushed = status.ok(); });
    ASSERT_TRUE(turn_until(**reactor, [&] { return flushed; }));
    for (std::uint64_t entry = seq - 3; entry <= seq; ++entry) {
      BlockRange block{BlockIndex(seq * 37 % 9'700), 1};
      std::optional<Result<ReadOutcome>> read;
      replica->read(block, [&](Result<ReadOutcome> outcome) { read.emplace(std::move(outcome)); });
      ASSERT_TRUE(turn_until(**reactor, [&] { return read.has_value(); }));
      ASSERT_TRUE(read->ok());
      EXPECT_EQ(tags_of((*read)->present, 1, (*read)->crc, (*read)->data)[0], seq * 1000);
    }
    bool closed = false;
    disk->close([&] { closed = true; });
    ASSERT_TRUE(turn_until(**reactor, [&] { return closed; }));
  }
}

}  // namespace
}  // namespace holdfast::store
