#include "fuse/overlay_device.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "iscsi/memory_device.h"
#include "test/reactor_support.h"

namespace holdfast::fuse {
namespace {

constexpr std::uint64_t kBelow = 4u << 20;

class OverlayTest : public ::testing::Test {
 protected:
  void SetUp() override {
    reactor_ = test::make_reactor();
    auto made = iscsi::MemoryDevice::create(reactor_->env(), kBelow, 512);
    ASSERT_TRUE(made.ok());
    below_ = std::move(made).value();
    for (std::size_t i = 0; i < kBelow; ++i) below_->bytes()[i] = static_cast<std::byte>(i * 7 + i / 4096);
    original_.assign(below_->bytes().begin(), below_->bytes().end());
  }

  void open(std::uint64_t first, std::uint64_t size, std::uint64_t written_max = kBelow) {
    auto read = [this](BlockRange blocks, BlockDevice::ReadCallback done) {
      EXPECT_LE(blocks.count, OverlayDevice::kBelowBlocksMax);
      below_->read(blocks.begin() * kBlockSize, blocks.count * kBlockSize, std::move(done));
    };
    device_ = std::make_unique<OverlayDevice>(reactor_->env(), read, first, size, 512, written_max);
    model_.assign(original_.begin() + static_cast<std::ptrdiff_t>(first),
                  original_.begin() + static_cast<std::ptrdiff_t>(first + size));
  }

  SliceList data(std::uint64_t bytes, std::byte fill) {
    SliceList out;
    for (std::uint64_t at = 0; at < bytes;) {
      std::uint64_t part = std::min<std::uint64_t>(bytes - at, 1000);
      out.push_back(reactor_->env().buffers().allocate(part));
      std::fill_n(out.back().data(), part, fill);
      at += part;
    }
    return out;
  }

  Status wait(std::function<void(StatusCallback)> start) {
    std::optional<Status> outcome;
    start([&](Status status) { outcome = std::move(status); });
    EXPECT_TRUE(test::run_until(*reactor_, [&] { return outcome.has_value(); }));
    return *outcome;
  }

  Status write(std::uint64_t offset, std::uint64_t bytes, std::byte fill) {
    return wait([&](StatusCallback done) {
      device_->write(offset, data(bytes, fill), BlockDevice::Durability::kJournalled, std::move(done));
    });
  }

  std::vector<std::byte> read(std::uint64_t offset, std::uint64_t bytes) {
    std::optional<Result<SliceList>> outcome;
    device_->read(offset, bytes, [&](Result<SliceList> got) { outcome.emplace(std::move(got)); });
    EXPECT_TRUE(test::run_until(*reactor_, [&] { return outcome.has_value(); }));
    std::vector<std::byte> out;
    if (!outcome->ok()) return out;
    for (const Slice& part : **outcome) out.insert(out.end(), part.bytes().begin(), part.bytes().end());
    return out;
  }

  std::unique_ptr<Reactor> reactor_;
  std::unique_ptr<iscsi::MemoryDevice> below_;
  std::unique_ptr<OverlayDevice> device_;
  std::vector<std::byte> original_;
  std::vector<std::byte> model_;
};

TEST_F(OverlayTest, EqualsAByteArrayAndLeavesWhatIsBelowAsItIs) {
  open(512 * 3, kBelow - 512 * 10);
  std::mt19937_64 random(5);
  for (int i = 0; i < 400; ++i) {
    std::uint64_t offset = random() % (model_.size() - 1);
    std::uint64_t bytes =
        std::min<std::uint64_t>(1 + random() % (i % 10 == 0 ? 1'200'000 : 9'000), model_.size() - offset);
    switch (random() % 3) {
      case 0: {
        auto fill = static_cast<std::byte>(random());
        ASSERT_TRUE(write(offset, bytes, fill).ok());
        std::fill_n(model_.begin() + static_cast<std::ptrdiff_t>(offset), bytes, fill);
        break;
      }
      case 1:
        ASSERT_TRUE(wait([&](StatusCallback done) { device_->zero(offset, bytes, true, std::move(done)); }).ok());
        std::fill_n(model_.begin() + static_cast<std::ptrdiff_t>(offset), bytes, std::byte{0});
        break;
      default: {
        auto expected = std::vector<std::byte>(model_.begin() + static_cast<std::ptrdiff_t>(offset),
                                               model_.begin() + static_cast<std::ptrdiff_t>(offset + bytes));
        ASSERT_EQ(read(offset, bytes), expected) << "step " << i;
      }
    }
  }
  EXPECT_TRUE(std::equal(original_.begin(), original_.end(), below_->bytes().begin()));
}

// Both need the rest of the block from below; neither may undo the other.
TEST_F(OverlayTest, WritesToPartsOfOneBlockSideBySide) {
  open(0, kBelow);
  below_->hold();
  int done = 0;
  auto count = [&](Status status) {
    EXPECT_TRUE(status.ok());
    ++done;
  };
  device_->write(512, data(512, std::byte{1}), BlockDevice::Durability::kJournalled, count);
  device_->write(1024, data(512, std::byte{2}), BlockDevice::Durability::kJournalled, count);
  below_->release();
  ASSERT_TRUE(test::run_until(*reactor_, [&] { return done == 2; }));
  auto block = read(0, 4096);
  EXPECT_EQ(block[511], original_[511]);
  EXPECT_EQ(block[512], std::byte{1});
  EXPECT_EQ(block[1024], std::byte{2});
  EXPECT_EQ(block[1536], original_[1536]);
}

TEST_F(OverlayTest, TakesNoMoreMemoryThanItMay) {
  open(0, kBelow, 8 * kBlockSize);
  EXPECT_TRUE(write(0, 8 * kBlockSize, std::byte{1}).ok());
  EXPECT_TRUE(write(0, 8 * kBlockSize, std::byte{2}).ok());
  EXPECT_EQ(write(8 * kBlockSize, kBlockSize, std::byte{3}).error().code(), ErrorCode::kNoSpace);
  EXPECT_EQ(read(8 * kBlockSize, 1)[0], original_[8 * kBlockSize]);
}

TEST_F(OverlayTest, ErrorsFromBelowArePassedOn) {
  open(0, kBelow);
  below_->fail_with(ErrorCode::kCorrupt);
  EXPECT_TRUE(read(0, 4096).empty());
  EXPECT_EQ(write(512, 512, std::byte{1}).error().code(), ErrorCode::kCorrupt);
  EXPECT_TRUE(write(4096, 4096, std::byte{1}).ok());
  EXPECT_EQ(read(4096, 4096).size(), 4096u);
  EXPECT_EQ(write(kBelow, 512, std::byte{1}).error().code(), ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace holdfast::fuse
