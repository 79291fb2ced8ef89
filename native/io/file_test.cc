// Files: direct I/O, space, locks, errors.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <random>

#include "io/uring_env.h"
#include "test/reactor_support.h"

namespace holdfast {
namespace {

using test::make_reactor;
using test::run_until;

class FileTest : public ::testing::Test {
 protected:
  explicit FileTest(ReactorOptions options = {}) : reactor(make_reactor(options)) {}
  Result<std::unique_ptr<File>> open(const std::string& path, FileOptions options) {
    std::optional<Result<std::unique_ptr<File>>> outcome;
    env.open_file(path, options, [&](Result<std::unique_ptr<File>> opened) { outcome.emplace(std::move(opened)); });
    CHECK(run_until(*reactor, [&] { return outcome.has_value(); }));
    return std::move(*outcome);
  }
  std::unique_ptr<File> created(const std::string& name) {
    Result<std::unique_ptr<File>> file = open(folder.file(name), {.create = true});
    CHECK(file.ok());
    return std::move(*file);
  }
  template <typename Start>
  Status wait(Start start) {
    std::optional<Status> outcome;
    start([&](Status status) { outcome.emplace(std::move(status)); });
    EXPECT_FALSE(outcome.has_value()) << "a callback came from inside the call";
    CHECK(run_until(*reactor, [&] { return outcome.has_value(); }));
    return std::move(*outcome);
  }
  Status write(File& file, std::uint64_t offset, std::span<const std::byte> bytes) {
    return wait([&](StatusCallback done) { file.write(offset, {&bytes, 1}, std::move(done)); });
  }
  Status read(File& file, std::uint64_t offset, std::span<std::byte> bytes) {
    return wait([&](StatusCallback done) { file.read(offset, bytes, std::move(done)); });
  }
  void many_at_once();
  Slice filled(std::size_t size, int seed) {
    Slice slice = env.buffers().allocate(size);
    std::mt19937 random(static_cast<unsigned>(seed));
    for (std::byte& byte : slice.bytes()) byte = static_cast<std::byte>(random());
    return slice;
  }

  test::TempDir folder;
  std::unique_ptr<Reactor> reactor;
  Env& env = reactor->env();
};

TEST_F(FileTest, WritesGatheredAndReadsBack) {
  auto file = created("data");
  Slice content = filled(1u << 20, 1);
  std::vector<std::span<const std::byte>> parts;
  for (std::size_t at = 0; at < content.size(); at += 8192) parts.push_back(content.bytes().subspan(at, 8192));
  EXPECT_TRUE(wait([&](StatusCallback done) { file->write(4096, parts, std::move(done)); }).ok());
  EXPECT_EQ(file->size(), (1u << 20) + 4096);
  EXPECT_TRUE(wait([&](StatusCallback done) { file->sync(std::move(done)); }).ok());
  Slice back = env.buffers().allocate(content.size());
  EXPECT_TRUE(read(*file, 4096, back.bytes()).ok());
  EXPECT_EQ(back.text(), content.text());
  file.reset();
  file = std::move(*open(folder.file("data"), {}));
  EXPECT_EQ(file->size(), (1u << 20) + 4096);
}

// More than the queues hold, of a small ring far more: completions overflow in the kernel and still all arrive.
void FileTest::many_at_once() {
  auto file = created("data");
  constexpr int kBlocks = 3'000;
  std::vector<Slice> out, in;
  int done = 0;
  for (int i = 0; i < kBlocks; ++i) {
    out.push_back(filled(4096, i));
    std::span<const std::byte> part = out.back().bytes();
    file->write(static_cast<std::uint64_t>(i) * 4096, {&part, 1}, [&](Status status) {
      EXPECT_TRUE(status.ok());
      ++done;
    });
  }
  ASSERT_TRUE(run_until(*reactor, [&] { return done == kBlocks; }));
  done = 0;
  for (int i = 0; i < kBlocks; ++i) {
    in.push_back(env.buffers().allocate(4096));
    file->read(static_cast<std::uint64_t>(i) * 4096, in.back().bytes(), [&](Status status) {
      EXPECT_TRUE(status.ok());
      ++done;
    });
  }
  ASSERT_TRUE(run_until(*reactor, [&] { return done == kBlocks; }));
  for (std::size_t i = 0; i < kBlocks; ++i) ASSERT_EQ(in[i].text(), out[i].text());
}

TEST_F(FileTest, ManyOperationsAtOnce) { many_at_once(); }

class SmallRingTest : public FileTest {
 protected:
  SmallRingTest() : FileTest({.submission_entries = 4}) {}
};
TEST_F(SmallRingTest, ManyOperationsAtOnce) { many_at_once(); }

// A turn may go on for long after it asked for a read; the device has it by then.
TEST_F(FileTest, ReadsAreUnderWayBeforeTheTurnEnds) {
  std::unique_ptr<File> file = created("f");
  Slice content = filled(4096, 1);
  ASSERT_TRUE(write(*file, 0, content.bytes()).ok());
  Slice into = env.buffers().allocate(4096);
  std::memset(into.data(), 0, 4096);
  bool done = false, was_read = false;
  env.post([&] {
    file->read(0, into.bytes(), [&](Status status) { done = status.ok(); });
    for (int i = 0; i < 5'000 && !was_read; ++i) {
      usleep(1'000);
      was_read = std::memcmp(into.data(), content.data(), 4096) == 0;
    }
  });
  ASSERT_TRUE(run_until(*reactor, [&] { return done; }));
  EXPECT_TRUE(was_read);
}

TEST_F(FileTest, AnEmptyWriteCompletes) {
  auto file = created("data");
  EXPECT_TRUE(wait([&](StatusCallback done) { file->write(0, {}, std::move(done)); }).ok());
  EXPECT_EQ(file->size(), 0u);
}

TEST_F(FileTest, ReadsPastTheEndFail) {
  auto file = created("data");
  Slice block = filled(4096, 1);
  ASSERT_TRUE(write(*file, 0, block.bytes()).ok());
  Slice two = env.buffers().allocate(8192);
  Status status = read(*file, 0, two.bytes());
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code(), ErrorCode::kDiskIo);
  EXPECT_NE(status.error().message().find(folder.file("data")), std::string::npos);
  EXPECT_FALSE(read(*file, 1u << 20, block.bytes()).ok());
}

TEST_F(FileTest, AllocatesZerosAndKeepsContent) {
  auto file = created("data");
  Slice block = filled(4096, 1);
  ASSERT_TRUE(write(*file, 4096, block.bytes()).ok());
  EXPECT_TRUE(wait([&](StatusCallback done) { file->allocate(0, 1u << 20, std::move(done)); }).ok());
  EXPECT_EQ(file->size(), 1u << 20);
  Slice all = env.buffers().allocate(1u << 20);
  ASSERT_TRUE(read(*file, 0, all.bytes()).ok());
  std::string expected(1u << 20, '\0');
  expected.replace(4096, 4096, block.text());
  EXPECT_EQ(all.text(), expected);
}

TEST_F(FileTest, PunchedHolesReadAsZerosAndGiveSpaceBack) {
  auto file = created("data");
  Slice content = filled(1u << 20, 1);
  ASSERT_TRUE(write(*file, 0, content.bytes()).ok());
  struct stat before {};
  stat(folder.file("data").c_str(), &before);
  EXPECT_TRUE(wait([&](StatusCallback done) { file->punch_hole(65'536, 512u << 10, std::move(done)); }).ok());
  struct stat after {};
  stat(folder.file("data").c_str(), &after);
  EXPECT_EQ(after.st_size, 1 << 20);
  EXPECT_LE(after.st_blocks, before.st_blocks - 1'000);
  Slice back = env.buffers().allocate(1u << 20);
  ASSERT_TRUE(read(*file, 0, back.bytes()).ok());
  std::string expected(content.text());
  expected.replace(65'536, 512u << 10, std::string(512u << 10, '\0'));
  EXPECT_EQ(back.text(), expected);
}

TEST_F(FileTest, OpenErrorsSayWhatIsWrong) {
  auto missing = open(folder.file("none"), {});
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code(), ErrorCode::kNotFound);
  EXPECT_NE(missing.error().message().find(folder.file("none")), std::string::npos);
  EXPECT_EQ(open(folder.file("no/folder"), {.create = true}).error().code(), ErrorCode::kNotFound);
  EXPECT_EQ(open(folder.path(), {}).error().code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(open("/dev/null", {}).error().code(), ErrorCode::kInvalidArgument);
  std::ofstream(folder.file("plain")) << "x";
  EXPECT_EQ(open(folder.file("plain/below"), {.create = true}).error().code(), ErrorCode::kInvalidArgument);
}

TEST_F(FileTest, AFullFileSystemIsNoSpace) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root to mount a small tmpfs";
  std::string mount_point = folder.file("small");
  ASSERT_EQ(mkdir(mount_point.c_str(), 0700), 0);
  if (mount("holdfast-test", mount_point.c_str(), "tmpfs", 0, "size=1m") != 0) GTEST_SKIP() << "mount is not permitted";
  {
    Result<std::unique_ptr<File>> file = open(mount_point + "/data", {.create = true});
    ASSERT_TRUE(file.ok()) << file.error().to_string();
    Slice content = filled(4u << 20, 1);
    Status status = write(**file, 0, content.bytes());
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code(), ErrorCode::kNoSpace);
    status = wait([&](StatusCallback done) { (*file)->allocate(0, 4u << 20, std::move(done)); });
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code(), ErrorCode::kNoSpace);
    Slice block = filled(4096, 2);
    EXPECT_TRUE(write(**file, 0, block.bytes()).ok());
  }
  umount2(mount_point.c_str(), MNT_DETACH);
}

TEST_F(FileTest, ExclusiveFilesAreInUse) {
  auto first = open(folder.file("data"), {.create = true, .exclusive = true});
  ASSERT_TRUE(first.ok());
  auto second = open(folder.file("data"), {.exclusive = true});
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code(), ErrorCode::kInUse);
  EXPECT_TRUE(open(folder.file("data"), {}).ok());  // advisory: who does not ask is not stopped
  first->reset();
  EXPECT_TRUE(open(folder.file("data"), {.exclusive = true}).ok());
}

// A killed process gives its lock back at once, however much it had in flight.
TEST_F(FileTest, AKilledProcessLeavesNoLock) {
  std::string path = folder.file("data");
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  pid_t child = fork();
  if (child == 0) {
    std::unique_ptr<Reactor> own = make_reactor();
    std::unique_ptr<File> file;
    own->env().open_file(path, {.create = true, .exclusive = true}, [&](Result<std::unique_ptr<File>> opened) {
      if (!opened.ok()) _exit(1);
      file = std::move(*opened);
    });
    run_until(*own, [&] { return file != nullptr; });
    Slice block = own->env().buffers().allocate(1u << 20);
    std::span<const std::byte> part = block.bytes();
    std::uint64_t offset = 0;
    bool told = false;
    for (;;) {
      file->write(offset, {&part, 1}, [](Status) {});
      offset = (offset + (1u << 20)) % (64u << 20);
      own->turn(0ms);
      if (offset == 0 && !told) {
        told = true;
        if (::write(ready[1], "x", 1) != 1) _exit(1);
      }
    }
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  kill(child, SIGKILL);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  auto file = open(path, {.exclusive = true});
  EXPECT_TRUE(file.ok()) << file.error().to_string();
  ::close(ready[0]);
  ::close(ready[1]);
}

// A file behind a loop device. Skipped where loop devices cannot be made.
class LoopDevice {
 public:
  explicit LoopDevice(const std::string& backing) {
    std::string command = "losetup --find --show " + backing + " 2>/dev/null";
    std::FILE* output = popen(command.c_str(), "r");
    char line[128] = {};
    if (output && std::fgets(line, sizeof line, output)) path_ = line;
    if (output) pclose(output);
    while (!path_.empty() && path_.back() == '\n') path_.pop_back();
  }
  ~LoopDevice() {
    if (!path_.empty() && std::system(("losetup --detach " + path_).c_str()) != 0) ADD_FAILURE();
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST_F(FileTest, ABlockDeviceIsAFileOfFixedSize) {
  std::string backing = folder.file("backing");
  std::ofstream(backing).close();
  std::filesystem::resize_file(backing, 4u << 20);
  LoopDevice device(backing);
  if (device.path().empty()) GTEST_SKIP() << "loop devices are not available";
  auto file = std::move(*open(device.path(), {.exclusive = true}));
  EXPECT_EQ(file->size(), 4u << 20);
  Slice content = filled(1u << 20, 1);
  ASSERT_TRUE(write(*file, 1u << 20, content.bytes()).ok());
  EXPECT_TRUE(wait([&](StatusCallback done) { file->sync(std::move(done)); }).ok());
  // Reserving keeps what is there, and does not go beyond the end.
  EXPECT_TRUE(wait([&](StatusCallback done) { file->allocate(0, 4u << 20, std::move(done)); }).ok());
  Status beyond = wait([&](StatusCallback done) { file->allocate(4u << 20, 4096, std::move(done)); });
  ASSERT_FALSE(beyond.ok());
  EXPECT_EQ(beyond.error().code(), ErrorCode::kNoSpace);
  EXPECT_TRUE(wait([&](StatusCallback done) { file->punch_hole(1u << 20, 4096, std::move(done)); }).ok());
  Slice back = env.buffers().allocate(1u << 20);
  ASSERT_TRUE(read(*file, 1u << 20, back.bytes()).ok());
  EXPECT_EQ(back.text(), std::string(4096, '\0') + std::string(content.text().substr(4096)));
  EXPECT_FALSE(write(*file, 4u << 20, content.bytes()).ok());
  EXPECT_FALSE(read(*file, (4u << 20) - 4096, back.bytes()).ok());
  EXPECT_EQ(file->size(), 4u << 20);

  auto second = open(device.path(), {.exclusive = true});
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code(), ErrorCode::kInUse);
  file.reset();
}

TEST_F(FileTest, TheReactorEndsWithOperationsInFlight) {
  auto file = created("data");
  Slice content = filled(8u << 20, 1);
  std::span<const std::byte> part = content.bytes();
  auto alive = std::make_shared<int>(1);
  bool called = false;
  reactor->stop();
  for (int i = 0; i < 20; ++i) {
    file->write(static_cast<std::uint64_t>(i) << 23, {&part, 1}, [alive](Status) {});
    file->sync([alive](Status) {});
  }
  reactor->run();  // submits, stops, and waits for what the disk does not give up
  EXPECT_EQ(alive.use_count(), 1);
  Slice block = filled(4096, 1);
  part = block.bytes();
  file->write(0, {&part, 1}, [alive, &called](Status) { called = true; });
  EXPECT_EQ(alive.use_count(), 1);
  file.reset();
  EXPECT_FALSE(called);
}

using FileDeathTest = FileTest;

TEST_F(FileDeathTest, ContractsAreChecked) {
  GTEST_FLAG_SET(death_test_style, "fast");
  auto file = created("data");
  Slice block = filled(8192, 1);
  EXPECT_DEATH(file->read(1, block.bytes().first(4096), [](Status) {}), "multiples of 4096");
  EXPECT_DEATH(file->read(0, block.bytes().first(100), [](Status) {}), "multiples of 4096");
  EXPECT_DEATH(file->read(0, block.bytes().subspan(512, 4096), [](Status) {}), "multiples of 4096");
  EXPECT_DEATH(
      {
        file->sync([](Status) {});
        file.reset();
      },
      "in flight");
}

}  // namespace
}  // namespace holdfast
