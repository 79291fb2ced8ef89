#include "base/buffer.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace holdfast {
namespace {

bool page_aligned(const std::byte* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % 4096 == 0; }

TEST(BufferPool, AlignsAllSizes) {
  BufferPool pool;
  for (std::size_t size : {1u, 2u, 4095u, 4096u, 4097u, 8191u, 65'536u, 65'537u, 1u << 20, 64u << 20}) {
    Slice slice = pool.allocate(size);
    EXPECT_EQ(slice.size(), size);
    EXPECT_TRUE(page_aligned(slice.data()));
    slice.data()[size - 1] = std::byte{1};
    Slice ending = pool.allocate_end_aligned(size);
    EXPECT_EQ(ending.size(), size);
    EXPECT_TRUE(page_aligned(ending.data() + size));
    ending.data()[0] = std::byte{1};
  }
  EXPECT_EQ(pool.bytes_in_use(), 0u);
}

// No more than a fourth of a large buffer is left unused.
TEST(BufferPool, TakesLittleMoreThanItIsAskedFor) {
  BufferPool pool;
  for (std::size_t size = 4096; size <= 4u << 20; size += 4096) {
    Slice slice = pool.allocate(size);
    EXPECT_GE(pool.bytes_in_use(), size);
    EXPECT_LE(pool.bytes_in_use(), std::max(size + 4096, size * 5 / 4)) << size;
  }
}

TEST(BufferPool, GivesTheSameMemoryAgain) {
  BufferPool pool;
  Slice first = pool.allocate(5'000);
  std::byte* memory = first.data();
  first = Slice();
  Slice second = pool.allocate(8'000);  // the same power of two
  EXPECT_EQ(second.data(), memory);
  Slice third = pool.allocate(8'000);
  EXPECT_NE(third.data(), memory);
}

TEST(BufferPool, RetainsNoMoreThanItMay) {
  // Retaining nothing still counts correctly (the sanitizer run sees leaks and double frees).
  for (std::size_t retained : {std::size_t{0}, std::size_t{8192}, std::size_t{1} << 20}) {
    BufferPool pool(retained);
    std::vector<Slice> slices;
    for (int i = 0; i < 100; ++i) slices.push_back(pool.allocate(4096));
    EXPECT_EQ(pool.bytes_in_use(), 100u * 4096);
    slices.clear();
    EXPECT_EQ(pool.bytes_in_use(), 0u);
  }
}

TEST(BufferPool, GivesUpTheSizeThatIsNoLongerUsed) {
  BufferPool pool(4u << 20);
  std::vector<Slice> large;
  for (int i = 0; i < 4; ++i) large.push_back(pool.allocate(1u << 20));
  large.clear();
  EXPECT_EQ(pool.bytes_retained(), 4u << 20);
  std::vector<Slice> small;
  for (int i = 0; i < 300; ++i) small.push_back(pool.allocate(8192));
  small.clear();
  // Three of the large ones made room for all small ones.
  EXPECT_EQ(pool.bytes_retained(), (1u << 20) + 300 * 8192);
  // Those are what is used now, also when there are more of them than may be kept.
  for (int i = 0; i < 1'000; ++i) small.push_back(pool.allocate(8192));
  small.clear();
  EXPECT_EQ(pool.bytes_retained(), 4u << 20);
  large.push_back(pool.allocate(1u << 20));
  large.clear();
  EXPECT_EQ(pool.bytes_retained(), 4u << 20);
  EXPECT_EQ(pool.bytes_in_use(), 0u);
}

TEST(BufferPool, TrimGivesUpWhatNobodyAskedFor) {
  BufferPool pool(64u << 20);
  std::vector<Slice> slices;
  for (int i = 0; i < 32; ++i) slices.push_back(pool.allocate(1u << 20));
  slices.clear();
  pool.trim();
  EXPECT_EQ(pool.bytes_retained(), 32u << 20) << "all were in use a moment ago";
  // Eight at a time are used from now on.
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < 8; ++i) slices.push_back(pool.allocate(1u << 20));
    slices.clear();
    pool.trim();
  }
  EXPECT_EQ(pool.bytes_retained(), 8u << 20);
  for (int round = 0; round < 4; ++round) pool.trim();
  EXPECT_EQ(pool.bytes_retained(), 0u);
  Slice again = pool.allocate(1u << 20);
  EXPECT_EQ(pool.bytes_in_use(), 1u << 20);
}

TEST(Slice, CopiesCountAndMovesDoNot) {
  BufferPool pool;
  Slice slice = pool.copy_of(as_bytes("holdfast"));
  Slice copy = slice;
  Slice moved = std::move(slice);
  EXPECT_TRUE(slice.empty());  // NOLINT: what is moved from is empty
  EXPECT_EQ(slice.data(), nullptr);
  EXPECT_EQ(copy.data(), moved.data());
  moved = moved.sub(4, 4);
  EXPECT_EQ(moved.text(), "fast");
  Slice& same = moved;
  moved = same;
  EXPECT_EQ(moved.text(), "fast");
  copy = Slice();
  EXPECT_EQ(pool.bytes_in_use(), 4096u);
  moved = Slice();
  EXPECT_EQ(pool.bytes_in_use(), 0u);
}

TEST(Slice, EmptyOnes) {
  BufferPool pool;
  Slice empty = pool.copy_of({});
  EXPECT_TRUE(empty.empty());
  EXPECT_EQ(empty.text(), "");
  EXPECT_EQ(pool.bytes_in_use(), 0u);
  EXPECT_EQ(total_size({}), 0u);
}

TEST(BufferPool, RandomUseKeepsContentApart) {
  BufferPool pool(1u << 20);
  std::mt19937 random(5);
  struct Held {
    Slice slice;
    std::byte mark;
  };
  std::vector<Held> held;
  std::size_t in_use_max = 0;
  for (int step = 0; step < 5'000; ++step) {
    if (held.size() < 50 && random() % 2) {
      std::size_t size = 1 + random() % 20'000;
      Held one{random() % 2 ? pool.allocate(size) : pool.allocate_end_aligned(size), static_cast<std::byte>(random())};
      std::memset(one.slice.data(), static_cast<int>(one.mark), size);
      if (size > 10) one.slice = one.slice.sub(5, size - 10);
      held.push_back(std::move(one));
    } else if (!held.empty()) {
      std::swap(held[random() % held.size()], held.back());
      for (std::byte byte : held.back().slice.bytes()) ASSERT_EQ(byte, held.back().mark);
      held.pop_back();
    }
    in_use_max = std::max(in_use_max, pool.bytes_in_use());
  }
  held.clear();
  EXPECT_EQ(pool.bytes_in_use(), 0u);
  EXPECT_GT(in_use_max, 100'000u);
}

TEST(SmallCopies, ShareAPageUntilTheLastIsGone) {
  BufferPool pool;
  std::vector<Slice> held;
  {
    SmallCopies copies(pool);
    for (std::uint32_t i = 0; i < 1'500; ++i) held.push_back(copies.copy_of(std::as_bytes(std::span(&i, 1))));
    EXPECT_TRUE(copies.copy_of({}).empty());
  }
  EXPECT_EQ(pool.bytes_in_use(), 8192u) << "1,024 of them in each";
  for (std::uint32_t i = 0; i < 1'500; ++i) {
    std::uint32_t copy;
    ASSERT_EQ(held[i].size(), sizeof copy);
    std::memcpy(&copy, held[i].data(), sizeof copy);
    ASSERT_EQ(copy, i);
  }
  held.erase(held.begin(), held.begin() + 1'023);
  EXPECT_EQ(pool.bytes_in_use(), 8192u);
  held.erase(held.begin());
  EXPECT_EQ(pool.bytes_in_use(), 4096u);
  held.clear();
  EXPECT_EQ(pool.bytes_in_use(), 0u);
}

TEST(SmallCopies, BeginAPageWhenACopyDoesNotFit) {
  BufferPool pool;
  SmallCopies copies(pool);
  std::vector<std::byte> bytes(SmallCopies::kBytesMax - 1, std::byte{7});
  std::vector<Slice> held;
  for (int i = 0; i < 5; ++i) held.push_back(copies.copy_of(bytes));
  EXPECT_EQ(pool.bytes_in_use(), 8192u) << "four of them in a page";
  EXPECT_EQ(held.back().bytes().back(), std::byte{7});
}

TEST(BufferPoolDeathTest, RefusesSizesOutOfRange) {
  BufferPool pool;
  EXPECT_DEATH((void)pool.allocate(0), "out of range");
  EXPECT_DEATH((void)pool.allocate(std::size_t{1} << 40), "out of range");
}

}  // namespace
}  // namespace holdfast
