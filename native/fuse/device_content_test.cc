// How the answer of a disk to GET LBA STATUS is read.
#include "fuse/device_content.h"

#include <gtest/gtest.h>

#include <array>
#include <cstddef>

namespace holdfast::fuse {
namespace {

std::array<std::byte, 24> answer(std::uint8_t lba, std::uint8_t blocks, std::uint8_t status) {
  std::array<std::byte, 24> bytes{};
  bytes[3] = std::byte{20};
  bytes[15] = std::byte{lba};
  bytes[19] = std::byte{blocks};
  bytes[20] = std::byte{status};
  return bytes;
}

TEST(LbaStatus, SaysWhatWasNeverWritten) {
  std::optional<MappedRun> run = parse_lba_status(answer(7, 9, 1), 7);
  ASSERT_TRUE(run);
  EXPECT_FALSE(run->mapped);
  EXPECT_EQ(run->blocks, 9u);
}

TEST(LbaStatus, AllElseIsData) {
  EXPECT_TRUE(parse_lba_status(answer(7, 9, 0), 7)->mapped);
  EXPECT_TRUE(parse_lba_status(answer(7, 9, 2), 7)->mapped);
}

TEST(LbaStatus, OfAnotherBlockOrOfNoneIsNoAnswer) {
  EXPECT_FALSE(parse_lba_status(answer(8, 9, 1), 7));
  EXPECT_FALSE(parse_lba_status(answer(7, 0, 1), 7));
  std::array<std::byte, 24> none{};
  EXPECT_FALSE(parse_lba_status(none, 0));
  EXPECT_FALSE(parse_lba_status(std::span(none).first(8), 0));
}

}  // namespace
}  // namespace holdfast::fuse
