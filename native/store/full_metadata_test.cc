// A full file system under the metadata: nothing fails, writes wait or are refused for lack of room, and all goes on
// when there is room again. RocksDB on files that run out of space when they are told to.
#include <rocksdb/env.h>
#include <rocksdb/file_system.h>

#include <atomic>

#include "io/uring_env.h"
#include "store/test_machine.h"
#include "test/reactor_support.h"

namespace holdfast::store {
namespace {

using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;

// As the operating system's files report it.
IOStatus no_space() {
  IOStatus status = IOStatus::NoSpace("No space left on device");
  status.SetRetryable(true);
  return status;
}

class BoundedFile final : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  BoundedFile(std::unique_ptr<rocksdb::FSWritableFile> file, const std::atomic<bool>& full)
      : FSWritableFileOwnerWrapper(std::move(file)), full_(full) {}
  // Half of what does not fit is in the file nevertheless.
  IOStatus Append(const rocksdb::Slice& data, const IOOptions& options, IODebugContext* context) override {
    if (!full_) return target()->Append(data, options, context);
    IOStatus status = target()->Append(rocksdb::Slice(data.data(), data.size() / 2), options, context);
    return status.ok() ? no_space() : status;
  }
  IOStatus Append(const rocksdb::Slice& data, const IOOptions& options, const rocksdb::DataVerificationInfo&,
                  IODebugContext* context) override {
    return Append(data, options, context);
  }

 private:
  const std::atomic<bool>& full_;
};

class BoundedFiles final : public rocksdb::FileSystemWrapper {
 public:
  BoundedFiles() : FileSystemWrapper(rocksdb::FileSystem::Default()) {}
  const char* Name() const override { return "BoundedFiles"; }
  IOStatus NewWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                           std::unique_ptr<rocksdb::FSWritableFile>* file, IODebugContext* context) override {
    IOStatus status = target()->NewWritableFile(name, options, file, context);
    if (status.ok()) file->reset(new BoundedFile(std::move(*file), full));
    return status;
  }
  IOStatus GetFreeSpace(const std::string& path, const IOOptions& options, std::uint64_t* bytes,
                        IODebugContext* context) override {
    if (!full_for_sure) return target()->GetFreeSpace(path, options, bytes, context);
    *bytes = 0;
    return IOStatus::OK();
  }
  void set_full(bool value) { full = full_for_sure = value; }
  std::atomic<bool> full = false;           // writes of files fail
  std::atomic<bool> full_for_sure = false;  // and whoever asks is told so
};

class FullMetadata : public testing::Test {
 protected:
  void SetUp() override {
    Result<std::unique_ptr<Reactor>> created = Reactor::create();
    if (!created.ok()) GTEST_SKIP() << created.error().message();
    reactor = std::move(created).value();
  }

  OpenKv how() { return rocks_kv(8u << 20, files_env.get()); }
  static Task<void> run_open(FullMetadata* test, std::optional<Status>* outcome) {
    Task<Result<std::unique_ptr<Kv>>> opening = test->how()(test->reactor->env(), test->directory.file("meta"));
    Result<std::unique_ptr<Kv>> opened = co_await std::move(opening);
    outcome->emplace(opened.ok() ? Status() : Status(opened.error()));
    if (opened.ok()) test->kv = std::move(opened).value();
  }
  Status try_open_kv() {
    kv.reset();
    std::optional<Status> outcome;
    spawn(run_open(this, &outcome));
    EXPECT_TRUE(turn_until([&] { return outcome.has_value(); }));
    return *outcome;
  }
  void open_kv() { ASSERT_TRUE(try_open_kv().ok()); }
  static Task<void> run_open_store(FullMetadata* test) {
    StoreOptions options;
    options.directory = test->directory.path();
    options.journal_bytes = 16u << 20;
    options.reserve_bytes = 1u << 20;
    options.capacity_bytes = 256u << 20;
    Task<Result<std::unique_ptr<DiskStore>>> opening = DiskStore::open(test->reactor->env(), options, test->how());
    Result<std::unique_ptr<DiskStore>> opened = co_await std::move(opening);
    CHECK(opened.ok());
    test->disk = std::move(opened).value();
  }
  void open_store() {
    spawn(run_open_store(this));
    ASSERT_TRUE(turn_until([this] { return disk != nullptr; }));
  }
  void close_store() {
    bool closed = false;
    disk->close([&] { closed = true; });
    ASSERT_TRUE(turn_until([&] { return closed; }));
    disk.reset();
  }
  void create_replica() {
    bool created = false;
    disk->create_replica(ReplicaId(1), VolumeId(1), kBlocks, true, [&](Status status) { created = status.ok(); });
    ASSERT_TRUE(turn_until([&] { return created; }));
  }

  bool turn_until(const std::function<bool()>& done) {
    for (int turns = 0; !done(); ++turns) {
      if (turns == 60'000) return false;
      reactor->turn(1ms);
    }
    return true;
  }
  // Appends one block; the outcome comes later.
  std::shared_ptr<std::optional<Status>> append(std::uint64_t seq) {
    auto outcome = std::make_shared<std::optional<Status>>();
    BlockRange block{BlockIndex(seq * 37 % kBlocks), 1};
    disk->find(ReplicaId(1))
        ->append(write_entry(reactor->env(), at(1, seq), block, seq * 1000),
                 [outcome](Status status) { outcome->emplace(std::move(status)); });
    return outcome;
  }
  // Appends until the disk refuses for lack of room; the last seq that was taken.
  std::uint64_t append_until_refused() {
    for (std::uint64_t seq = 1;; ++seq) {
      auto outcome = append(seq);
      EXPECT_TRUE(turn_until([&] { return outcome->has_value(); }));
      if (!outcome->has_value() || !(*outcome)->ok()) {
        EXPECT_EQ((*outcome)->error().code(), ErrorCode::kNoSpace) << (*outcome)->error().to_string();
        return seq - 1;
      }
      disk->find(ReplicaId(1))->set_committed(Seq(seq));
      reactor->turn(1ms);
    }
  }
  std::uint64_t tag_of(std::uint64_t seq) {
    std::optional<Result<ReadOutcome>> read;
    BlockRange block{BlockIndex(seq * 37 % kBlocks), 1};
    disk->find(ReplicaId(1))->read(block, [&](Result<ReadOutcome> outcome) { read.emplace(std::move(outcome)); });
    EXPECT_TRUE(turn_until([&] { return read.has_value(); }));
    return tags_of((*read)->present, 1, (*read)->crc, (*read)->data)[0];
  }

  static constexpr std::uint64_t kBlocks = 100'003;
  test::TempDir directory;
  std::shared_ptr<BoundedFiles> files = std::make_shared<BoundedFiles>();
  std::unique_ptr<rocksdb::Env> files_env = rocksdb::NewCompositeEnv(files);
  std::unique_ptr<Reactor> reactor;
  std::unique_ptr<Kv> kv;
  std::unique_ptr<DiskStore> disk;
};

KvBatch put(const std::string& key) {
  KvBatch batch;
  batch.put(key, "value of " + key);
  return batch;
}

TEST_F(FullMetadata, WritesWaitAndGoOnInOrder) {
  open_kv();
  int changes = 0;
  std::vector<std::string> written;
  auto write = [&](const std::string& key) {
    kv->write(put(key), true, [&written, name = std::string(key)](Status status) {
      EXPECT_TRUE(status.ok()) << status.error().to_string();
      written.push_back(name);
    });
  };
  kv->on_space([&] { ++changes; });
  write("a");
  ASSERT_TRUE(turn_until([&] { return written.size() == 1; }));
  files->set_full(true);
  write("b");
  write("c");
  ASSERT_TRUE(turn_until([&] { return kv->waits_for_space(); }));
  write("d");
  EXPECT_EQ(changes, 1);
  EXPECT_EQ(written.size(), 1u);
  EXPECT_EQ(kv->get_if_cached("a"), std::optional<std::string>("value of a"));
  files->set_full(false);
  ASSERT_TRUE(turn_until([&] { return written.size() == 4; }));
  EXPECT_EQ(written, (std::vector<std::string>{"a", "b", "c", "d"}));
  EXPECT_FALSE(kv->waits_for_space());
  EXPECT_EQ(changes, 2);
  for (int i = 0; i < 2; ++i) {
    for (const std::string& key : written) {
      std::optional<std::string> value;
      bool answered = false;
      kv->get(key, [&](Result<std::optional<std::string>> found) {
        value = *found;
        answered = true;
      });
      ASSERT_TRUE(turn_until([&] { return answered; }));
      EXPECT_EQ(value, "value of " + key);
    }
    open_kv();
  }
}

// Others may take the last room between the question and the write. The database recovers from that by itself.
TEST_F(FullMetadata, TheEndMetInTheMiddleOfAWriteIsWaitedOutToo) {
  open_kv();
  std::optional<Status> outcome;
  auto write = [&](const std::string& key) {
    outcome.reset();
    kv->write(put(key), true, [&](Status status) { outcome.emplace(std::move(status)); });
  };
  write("a");
  ASSERT_TRUE(turn_until([&] { return outcome.has_value(); }));
  files->full = true;
  write("b");
  ASSERT_TRUE(turn_until([&] { return kv->waits_for_space(); }));
  files->full = false;
  ASSERT_TRUE(turn_until([&] { return outcome.has_value(); }));
  EXPECT_TRUE(outcome->ok()) << outcome->error().to_string();
  open_kv();
  bool answered = false;
  kv->get("b", [&](Result<std::optional<std::string>> found) {
    EXPECT_EQ(*found, "value of b");
    answered = true;
  });
  ASSERT_TRUE(turn_until([&] { return answered; }));
}

TEST_F(FullMetadata, OpeningWithoutRoomIsRefusedWithTheReason) {
  open_kv();
  kv.reset();
  files->set_full(true);
  Status outcome = try_open_kv();
  ASSERT_FALSE(outcome.ok());
  EXPECT_EQ(outcome.error().code(), ErrorCode::kNoSpace);
  EXPECT_NE(outcome.error().message().find("0 MiB are free"), std::string::npos) << outcome.error().message();
}

TEST_F(FullMetadata, WhoMustEndIsToldThatThereIsNoRoom) {
  open_kv();
  files->set_full(true);
  std::optional<Status> outcome;
  kv->write(put("a"), true, [&](Status status) { outcome.emplace(std::move(status)); });
  ASSERT_TRUE(turn_until([&] { return kv->waits_for_space(); }));
  EXPECT_FALSE(outcome.has_value());
  kv->stop_waiting();
  ASSERT_TRUE(turn_until([&] { return outcome.has_value(); }));
  EXPECT_EQ(outcome->error().code(), ErrorCode::kNoSpace);
}

TEST_F(FullMetadata, ADiskRefusesWritesUntilThereIsRoom) {
  open_store();
  create_replica();
  files->set_full(true);
  std::uint64_t taken = append_until_refused();
  ASSERT_GT(taken, 0u);
  EXPECT_EQ(tag_of(taken), taken * 1000);
  files->set_full(false);
  // Whoever was refused tries again.
  ASSERT_TRUE(turn_until([&] {
    auto outcome = append(taken + 1);
    EXPECT_TRUE(turn_until([&] { return outcome->has_value(); }));
    return (*outcome)->ok();
  }));
  ++taken;
  disk->find(ReplicaId(1))->set_committed(Seq(taken));
  close_store();
  open_store();
  EXPECT_EQ(disk->find(ReplicaId(1))->info().last.seq, Seq(taken));
  for (std::uint64_t seq = taken > 20 ? taken - 20 : 1; seq <= taken; ++seq) EXPECT_EQ(tag_of(seq), seq * 1000);
  close_store();
}

TEST_F(FullMetadata, ADiskWithoutRoomClosesAndLosesNothing) {
  open_store();
  create_replica();
  files->set_full(true);
  std::uint64_t taken = append_until_refused();
  close_store();
  files->set_full(false);
  open_store();
  EXPECT_EQ(disk->find(ReplicaId(1))->info().last.seq, Seq(taken));
  for (std::uint64_t seq = taken > 20 ? taken - 20 : 1; seq <= taken; ++seq) EXPECT_EQ(tag_of(seq), seq * 1000);
  close_store();
}

}  // namespace
}  // namespace holdfast::store
