// Against the kernel: a device in memory, mapped, and used through its file and its loop device. Takes root, FUSE and
// loop devices; says so where they are missing.
#include "fuse/mapping.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <future>
#include <iterator>
#include <thread>

#include "fuse/device_content.h"
#include "fuse/helper_process.h"
#include "fuse/loop_device.h"
#include "iscsi/memory_device.h"
#include "test/reactor_support.h"

namespace holdfast::fuse {
namespace {

constexpr std::uint64_t kSize = 32u << 20;
constexpr std::size_t kPage = 4096;

// Memory that direct I/O takes.
struct Pages {
  explicit Pages(std::size_t bytes, int fill = 0)
      : data(std::aligned_alloc(kPage, std::max(bytes, kPage))), size(bytes) {
    std::memset(data, fill, bytes);
  }
  ~Pages() { std::free(data); }
  Pages(const Pages&) = delete;
  bool all(int value) const {
    for (std::size_t i = 0; i < size; ++i) {
      if (static_cast<unsigned char*>(data)[i] != value) return false;
    }
    return true;
  }
  void* data;
  std::size_t size;
};

class MappingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::getuid() != 0) GTEST_SKIP() << "local devices take root";
    if (::access("/dev/fuse", R_OK | W_OK) != 0) GTEST_SKIP() << "there is no /dev/fuse here";
    if (::access("/dev/loop-control", R_OK | W_OK) != 0) GTEST_SKIP() << "there is no /dev/loop-control here";
    reactor_ = test::make_reactor();
    thread_ = std::thread([this] { reactor_->run(); });
    call([this] { memory_ = make_memory(512); });
  }

  void TearDown() override {
    if (!reactor_) return;
    if (mapping_) {
      EXPECT_TRUE(close(true).ok());
      destroy();
    }
    call([this] {
      memory_.reset();
      second_.reset();
    });
    reactor_->stop();
    thread_.join();
  }

  std::unique_ptr<iscsi::MemoryDevice> make_memory(std::uint32_t block_size) {
    auto made = iscsi::MemoryDevice::create(reactor_->env(), kSize, block_size);
    EXPECT_TRUE(made.ok());
    return std::move(made).value();
  }

  // Runs `work` on the reactor and waits for it.
  void call(std::function<void()> work) {
    std::promise<void> done;
    reactor_->post_from_any_thread([&] {
      work();
      done.set_value();
    });
    done.get_future().wait();
  }

  template <typename T>
  T await(std::function<Task<T>()> start) {
    std::promise<T> done;
    reactor_->post_from_any_thread([&] { spawn(deliver(start(), &done)); });
    return done.get_future().get();
  }
  template <typename T>
  static Task<void> deliver(Task<T> task, std::promise<T>* done) {
    T result = co_await std::move(task);
    done->set_value(std::move(result));
  }
  static Task<int> forget_task(Mapping* mapping) {
    co_await mapping->forget();
    co_return 0;
  }

  void open(BlockDevice* device) {
    if (!mapping_) mapping_ = std::make_unique<Mapping>(reactor_->env(), folder_.file("map"), "v");
    Result<std::string> opened = await<Result<std::string>>([&] { return mapping_->open(device); });
    ASSERT_TRUE(opened.ok()) << opened.error().to_string();
    device_ = *opened;
  }
  Status close(bool force) {
    return await<Status>([&] { return mapping_->close(force); });
  }
  void forget() {
    await<int>([&] { return forget_task(mapping_.get()); });
    destroy();
  }
  void destroy() {
    call([this] { mapping_.reset(); });
  }
  std::string file() const { return folder_.file("map/device"); }

  test::TempDir folder_;
  std::unique_ptr<Reactor> reactor_;
  std::thread thread_;
  std::unique_ptr<iscsi::MemoryDevice> memory_;
  std::unique_ptr<iscsi::MemoryDevice> second_;
  std::unique_ptr<Mapping> mapping_;
  std::string device_;
};

struct Open {
  Open(const std::string& path, int flags) : fd(::open(path.c_str(), flags | O_CLOEXEC)) { EXPECT_GE(fd, 0) << path; }
  ~Open() { ::close(fd); }
  const int fd;
};

// As in /proc/PID/stat; 0 when there is no such process.
char state_of(int pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/stat");
  std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  std::size_t end_of_name = text.rfind(')');
  return end_of_name == std::string::npos ? '\0' : text[end_of_name + 2];
}

TEST_F(MappingTest, LoopDeviceReadsWritesFlushesAndDiscards) {
  ASSERT_NO_FATAL_FAILURE(open(memory_.get()));
  {
    Open disk(device_, O_RDWR | O_DIRECT);
    std::uint64_t size = 0;
    int sector = 0;
    ASSERT_EQ(::ioctl(disk.fd, BLKGETSIZE64, &size), 0);
    ASSERT_EQ(::ioctl(disk.fd, BLKSSZGET, &sector), 0);
    EXPECT_EQ(size, kSize);
    EXPECT_EQ(sector, 512);

    // One that takes small buffers, one that takes both, one of several requests, one of a sector.
    std::uint64_t at = kPage;
    for (std::size_t bytes : {kPage, std::size_t{160} << 10, std::size_t{4} << 20, std::size_t{512}}) {
      int fill = static_cast<int>(1 + bytes / 512 % 200);
      Pages out(bytes, fill);
      Pages in(bytes);
      ASSERT_EQ(::pwrite(disk.fd, out.data, bytes, static_cast<off_t>(at)), static_cast<ssize_t>(bytes));
      EXPECT_EQ(std::memcmp(memory_->bytes().data() + at, out.data, bytes), 0);
      ASSERT_EQ(::pread(disk.fd, in.data, bytes, static_cast<off_t>(at)), static_cast<ssize_t>(bytes));
      EXPECT_TRUE(in.all(fill));
      at += bytes;
    }
    std::uint64_t flushes = memory_->flushes();
    ASSERT_EQ(::fsync(disk.fd), 0);
    EXPECT_GT(memory_->flushes(), flushes);

    Pages ones(1u << 20, 1);
    ASSERT_EQ(::pwrite(disk.fd, ones.data, ones.size, 0), static_cast<ssize_t>(ones.size));
    std::uint64_t discarded[] = {kPage, 64 * kPage};
    ASSERT_EQ(::ioctl(disk.fd, BLKDISCARD, discarded), 0) << std::strerror(errno);
    std::uint64_t zeroed[] = {128 * kPage, 8 * kPage};
    ASSERT_EQ(::ioctl(disk.fd, BLKZEROOUT, zeroed), 0) << std::strerror(errno);
    Pages in(ones.size);
    ASSERT_EQ(::pread(disk.fd, in.data, in.size, 0), static_cast<ssize_t>(in.size));
    for (std::size_t page = 0; page < in.size / kPage; ++page) {
      bool is_zero = (page >= 1 && page < 65) || (page >= 128 && page < 136);
      EXPECT_EQ(static_cast<unsigned char*>(in.data)[page * kPage], is_zero ? 0 : 1) << page;
    }
  }
  EXPECT_TRUE(close(false).ok());
  EXPECT_NE(::access(file().c_str(), F_OK), 0);
}

TEST_F(MappingTest, BlocksOf4096StayThat) {
  call([this] { memory_ = make_memory(4096); });
  ASSERT_NO_FATAL_FAILURE(open(memory_.get()));
  Open disk(device_, O_RDONLY);
  int sector = 0;
  ASSERT_EQ(::ioctl(disk.fd, BLKSSZGET, &sector), 0);
  EXPECT_EQ(sector, 4096);
}

// Also where the device had another one before.
TEST_F(MappingTest, ReadsAheadFurtherThanTheKernelDoesByItself) {
  ASSERT_NO_FATAL_FAILURE(open(memory_.get()));
  Open disk(device_, O_RDONLY);
  long sectors = 0;
  ASSERT_EQ(::ioctl(disk.fd, BLKRAGET, &sectors), 0);
  EXPECT_EQ(sectors, 8192);
}

TEST_F(MappingTest, ErrorsOfTheDeviceReachTheCaller) {
  ASSERT_NO_FATAL_FAILURE(open(memory_.get()));
  Open disk(device_, O_RDWR | O_DIRECT);
  Pages page(kPage, 7);
  call([this] { memory_->fail_with(ErrorCode::kNoSpace); });
  EXPECT_LT(::pwrite(disk.fd, page.data, kPage, 0), 0);
  EXPECT_EQ(errno, ENOSPC);
  call([this] { memory_->fail_with(ErrorCode::kCorrupt); });
  EXPECT_LT(::pread(disk.fd, page.data, kPage, 0), 0);
  EXPECT_EQ(errno, EIO);
  EXPECT_NE(::fsync(disk.fd), 0);
  call([this] { memory_->fail_with(std::nullopt); });
  EXPECT_EQ(::pread(disk.fd, page.data, kPage, 0), static_cast<ssize_t>(kPage));
}

TEST_F(MappingTest, InUseIsNotTakenAway) {
  ASSERT_NO_FATAL_FAILURE(open(memory_.get()));
  {
    Open disk(device_, O_RDWR | O_EXCL);  // as a mounted file system does
    Status closed = close(false);
    ASSERT_FALSE(closed.ok());
    EXPECT_EQ(closed.error().code(), ErrorCode::kInUse);
    Pages page(kPage, 9);
    EXPECT_EQ(::pwrite(disk.fd, page.data, kPage, 0), static_cast<ssize_t>(kPage)) << "still served";
  }
  EXPECT_TRUE(close(false).ok());
}

// Programs that look at all loop devices, as mkfs does, must not wait with one of them.
TEST_F(MappingTest, MayBeLookedAtWhileItWaits) {
  ASSERT_NO_FATAL_FAILURE(open(memory_.get()));
  Open disk(device_, O_RDWR | O_DIRECT);
  Pages page(kPage, 1);
  ASSERT_EQ(::pwrite(disk.fd, page.data, kPage, 0), static_cast<ssize_t>(kPage));
  call([this] { mapping_->suspend(); });
  auto looked = std::async(std::launch::async, [&] {
    loop_info64 info{};
    return ::ioctl(disk.fd, LOOP_GET_STATUS64, &info) == 0;
  });
  ASSERT_EQ(looked.wait_for(std::chrono::seconds(10)), std::future_status::ready);
  EXPECT_TRUE(looked.get());
}

TEST_F(MappingTest, SaysWhereDataIs) {
  open(memory_.get());
  for (const std::string& path : {file(), device_}) {
    Result<std::optional<std::uint64_t>> found = first_data(path);
    ASSERT_TRUE(found.ok()) << found.error().to_string();
    EXPECT_EQ(*found, std::nullopt) << path;
  }
  {
    Open opened(device_, O_RDWR | O_DIRECT);
    Pages page(kPage, 0x5a);
    ASSERT_EQ(::pwrite(opened.fd, page.data, kPage, 20 << 20), static_cast<ssize_t>(kPage));
    ASSERT_EQ(::fsync(opened.fd), 0);
  }
  Open opened(file(), O_RDONLY);
  EXPECT_EQ(::lseek(opened.fd, 4096, SEEK_DATA), 20 << 20);
  EXPECT_EQ(::lseek(opened.fd, 20 << 20, SEEK_HOLE), (20 << 20) + static_cast<off_t>(kPage));
  EXPECT_EQ(::lseek(opened.fd, 21 << 20, SEEK_HOLE), 21 << 20);
  EXPECT_EQ(::lseek(opened.fd, 21 << 20, SEEK_DATA), -1);
  EXPECT_EQ(errno, ENXIO);
  for (const std::string& path : {file(), device_}) {
    EXPECT_EQ(*first_data(path), std::optional<std::uint64_t>(20 << 20));
  }
}

TEST_F(MappingTest, WrittenZerosAreNoData) {
  open(memory_.get());
  {
    Open opened(device_, O_RDWR | O_DIRECT);
    Pages page(kPage);
    ASSERT_EQ(::pwrite(opened.fd, page.data, kPage, 8 << 20), static_cast<ssize_t>(kPage));
  }
  EXPECT_EQ(*first_data(file()), std::nullopt);
}

TEST_F(MappingTest, GrowsWithItsVolume) {
  call([this] { memory_->shrink_to(kSize / 2); });
  ASSERT_NO_FATAL_FAILURE(open(memory_.get()));
  call([this] { memory_->shrink_to(kSize); });
  Status refreshed = await<Status>([&] { return mapping_->refresh(); });
  ASSERT_TRUE(refreshed.ok()) << refreshed.error().to_string();
  Open disk(device_, O_RDONLY);
  std::uint64_t size = 0;
  ASSERT_EQ(::ioctl(disk.fd, BLKGETSIZE64, &size), 0);
  EXPECT_EQ(size, kSize);
}

// What a process that died had read and not answered is done by its successor; the program that waits notices nothing.
TEST_F(MappingTest, IoOutlivesTheProcessThatServesIt) {
  ASSERT_NO_FATAL_FAILURE(open(memory_.get()));
  std::string first = device_;
  Open disk(device_, O_RDWR | O_DIRECT);
  call([this] {
    memory_->hold();
    memory_->fail_with(ErrorCode::kCancelled);
  });
  Pages page(kPage, 0x5a);
  auto written =
      std::async(std::launch::async, [&] { return ::pwrite(disk.fd, page.data, kPage, 8 * kPage) == ssize_t{kPage}; });
  bool arrived = false;
  while (!arrived) call([&] { arrived = memory_->waiting() > 0; });
  // The engine goes away under it.
  call([this] {
    mapping_->suspend();
    memory_->release();
  });
  forget();
  EXPECT_EQ(written.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout) << "it waits";
  call([this] { second_ = make_memory(512); });
  ASSERT_NO_FATAL_FAILURE(open(second_.get()));
  EXPECT_EQ(device_, first);
  EXPECT_TRUE(written.get());
  EXPECT_EQ(std::memcmp(second_->bytes().data() + 8 * kPage, page.data, kPage), 0);
}

// Without a successor it ends with errors, and nothing is left.
TEST_F(MappingTest, ForcedEndGivesErrorsAndLeavesNothing) {
  ASSERT_NO_FATAL_FAILURE(open(memory_.get()));
  Open disk(device_, O_RDWR | O_DIRECT);
  call([this] { mapping_->suspend(); });
  auto page = std::make_unique<Pages>(kPage, 1);
  auto written = std::async(std::launch::async, [&] { return ::pwrite(disk.fd, page->data, kPage, 0); });
  EXPECT_EQ(written.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  ASSERT_TRUE(close(true).ok());
  EXPECT_LT(written.get(), 0);
  EXPECT_NE(::access(file().c_str(), F_OK), 0);
  EXPECT_FALSE(find_loop_device(file()).has_value());
}

// The process that has the mount namespace of all others must not end before the connection has (fuse/mount.h).
TEST_F(MappingTest, ItsAnchorEndsWithItAndNotBefore) {
  ASSERT_NO_FATAL_FAILURE(open(memory_.get()));
  int anchor = find_helper(folder_.file("map/anchor"));
  ASSERT_NE(anchor, 0);
  auto until_anchored = [this] {
    bool anchored = false;
    while (!anchored) call([&] { anchored = mapping_->anchored(); });
  };
  until_anchored();
  ASSERT_EQ(::kill(anchor, SIGKILL), 0);
  // Killed, it goes on waiting, where nothing can end it ("D").
  while (state_of(anchor) != 'D') ASSERT_NE(state_of(anchor), 'Z');

  // A successor finds it as it is.
  call([this] { mapping_->suspend(); });
  forget();
  ASSERT_NO_FATAL_FAILURE(open(memory_.get()));
  until_anchored();
  EXPECT_EQ(find_helper(folder_.file("map/anchor")), anchor);
  EXPECT_EQ(state_of(anchor), 'D');
  EXPECT_TRUE(close(false).ok());
  EXPECT_EQ(state_of(anchor), '\0');
}

// The kernel keeps a loop device whose file nobody serves any more.
TEST_F(MappingTest, WhatDiedWithAllItsProcessesIsClearedAway) {
  ASSERT_NO_FATAL_FAILURE(open(memory_.get()));
  std::string loop = "/sys/block/" + device_.substr(5) + "/loop";
  int keeper = find_helper(folder_.file("map/keeper"));
  ASSERT_NE(keeper, 0);
  end_helper(keeper);
  forget();
  end_helper(find_helper(folder_.file("map/anchor")));
  EXPECT_EQ(::access(loop.c_str(), F_OK), 0);
  // As where the namespace of its mount has gone as well.
  ASSERT_EQ(::umount2(file().c_str(), MNT_DETACH), 0);

  mapping_ = std::make_unique<Mapping>(reactor_->env(), folder_.file("map"), "v");
  EXPECT_TRUE(close(false).ok());
  EXPECT_NE(::access(loop.c_str(), F_OK), 0);
  EXPECT_NE(::access(file().c_str(), F_OK), 0);
}

}  // namespace
}  // namespace holdfast::fuse
