#include "io/huge_memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <vector>

namespace holdfast::io {
namespace {

constexpr std::size_t kRegion = HugeMemory::kRegionBytes;

TEST(HugeMemory, AlignsPowersOfTwoToTheirSize) {
  HugeMemory memory;
  for (std::size_t bytes = 4096; bytes <= 8 * kRegion; bytes *= 2) {
    std::byte* block = memory.allocate(bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(block) % std::min(bytes, kRegion), 0u) << bytes;
    std::memset(block, 1, bytes);
    memory.free(block, bytes);
  }
}

TEST(HugeMemory, FreeHalvesBecomeOneAgain) {
  HugeMemory memory;
  std::vector<std::byte*> small;
  for (std::size_t i = 0; i < kRegion / 4096; ++i) small.push_back(memory.allocate(4096));
  EXPECT_EQ(memory.bytes_mapped(), kRegion);
  for (std::byte* block : small) memory.free(block, 4096);
  std::byte* whole = memory.allocate(kRegion);
  EXPECT_EQ(whole, *std::min_element(small.begin(), small.end()));
  EXPECT_EQ(memory.bytes_mapped(), kRegion);
  memory.free(whole, kRegion);
}

TEST(HugeMemory, WhatIsLeftOfABlockServesOthers) {
  HugeMemory memory;
  std::size_t large = kRegion / 8 * 5;
  std::byte* first = memory.allocate(large);
  std::byte* second = memory.allocate(kRegion / 4);
  std::byte* third = memory.allocate(kRegion / 8);
  EXPECT_EQ(memory.bytes_mapped(), kRegion);
  for (auto [block, bytes] : {std::pair{second, kRegion / 4}, {first, large}, {third, kRegion / 8}}) {
    memory.free(block, bytes);
  }
  std::byte* whole = memory.allocate(kRegion);
  EXPECT_EQ(memory.bytes_mapped(), kRegion);
  memory.free(whole, kRegion);
}

TEST(HugeMemory, KeepsOneFreeRegionAndGivesTheOthersBack) {
  HugeMemory memory;
  std::vector<std::byte*> regions;
  for (int i = 0; i < 5; ++i) regions.push_back(memory.allocate(kRegion));
  std::byte* large = memory.allocate(8 * kRegion + 4096);
  EXPECT_EQ(memory.bytes_mapped(), 13 * kRegion + 4096);
  memory.free(large, 8 * kRegion + 4096);
  for (std::byte* region : regions) memory.free(region, kRegion);
  EXPECT_EQ(memory.bytes_mapped(), kRegion);
}

// Each block keeps its own bytes, whatever is split and joined around it.
TEST(HugeMemory, BlocksNeverOverlap) {
  std::mt19937 random(7);
  HugeMemory memory;
  struct Block {
    std::size_t bytes;
    std::byte mark;
  };
  std::map<std::byte*, Block> blocks;
  auto intact = [](std::byte* block, const Block& is) {
    return std::all_of(block, block + is.bytes, [&is](std::byte each) { return each == is.mark; });
  };
  for (int i = 0; i < 5'000; ++i) {
    if (blocks.size() < 100 && random() % 2 == 0) {
      std::size_t bytes = (1 + random() % (random() % 2 ? 16 : 600)) * 4096;
      std::byte* block = memory.allocate(bytes);
      Block is{bytes, std::byte(random())};
      std::memset(block, static_cast<int>(is.mark), bytes);
      ASSERT_TRUE(blocks.emplace(block, is).second);
    } else if (!blocks.empty()) {
      auto chosen = std::next(blocks.begin(), static_cast<long>(random() % blocks.size()));
      ASSERT_TRUE(intact(chosen->first, chosen->second));
      memory.free(chosen->first, chosen->second.bytes);
      blocks.erase(chosen);
    }
  }
  for (const auto& [block, is] : blocks) {
    EXPECT_TRUE(intact(block, is));
    memory.free(block, is.bytes);
  }
  EXPECT_EQ(memory.bytes_mapped(), kRegion);
}

}  // namespace
}  // namespace holdfast::io
