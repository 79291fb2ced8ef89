// Commands about blocks, on 512e and 4Kn alike: reading, writing, comparing, zeroing, copying, and what reaches the
// device as a flush.
#include <gtest/gtest.h>

#include "iscsi/testing/unit_fixture.h"

namespace holdfast::iscsi {
namespace {

using scsi::SenseKey;
using testing::bytes_of;
using testing::cdb;
using testing::Cdb;
using testing::cdb10;
using testing::cdb12;
using testing::cdb16;
using testing::number_at;
using testing::put_number;
using testing::read16;
using testing::write16;

class ScsiBlocksTest : public testing::ScsiTest, public ::testing::WithParamInterface<std::uint32_t> {
 protected:
  void SetUp() override {
    start(GetParam());
    block = GetParam();
    count = kVolumeBytes / block;
  }
  std::string on_device(std::uint64_t lba, std::size_t blocks) {
    return std::string(reinterpret_cast<const char*>(device->bytes().data()) + lba * block, blocks * block);
  }
  std::string blocks_of(std::size_t blocks, char fill) const { return std::string(blocks * block, fill); }
  std::string unmap_list(std::vector<std::pair<std::uint64_t, std::uint32_t>> ranges) {
    std::string list(8 + 16 * ranges.size(), '\0');
    put_number(list, 0, 2, list.size() - 2);
    put_number(list, 2, 2, list.size() - 8);
    for (std::size_t i = 0; i < ranges.size(); ++i) {
      put_number(list, 8 + 16 * i, 8, ranges[i].first);
      put_number(list, 16 + 16 * i, 4, ranges[i].second);
    }
    return list;
  }
  Ended unmap(const std::string& list) { return run(cdb10(0x42, 0, static_cast<std::uint16_t>(list.size())), list); }

  std::uint64_t block = 0, count = 0;
};

INSTANTIATE_TEST_SUITE_P(BlockSizes, ScsiBlocksTest, ::testing::Values(512u, 4096u),
                         [](auto& tested) { return tested.param == 512 ? "Emulated512" : "Native4096"; });

TEST_P(ScsiBlocksTest, EveryFormOfReadAndWrite) {
  std::string data = blocks_of(3, 'a') + blocks_of(1, 'b');
  struct Form {
    Cdb write, read;
  };
  Cdb write6{0x0a, 0, 0, 40, 4}, read6{0x08, 0, 0, 40, 4};
  for (const Form& form : {Form{write6, read6}, Form{cdb10(0x2a, 40, 4), cdb10(0x28, 40, 4)},
                           Form{cdb12(0xaa, 40, 4), cdb12(0xa8, 40, 4)}, Form{write16(40, 4), read16(40, 4)}}) {
    std::fill(device->bytes().begin(), device->bytes().end(), std::byte{0});
    ASSERT_TRUE(run(form.write, data).good()) << unsigned{form.write[0]};
    EXPECT_EQ(on_device(40, 4), data);
    EXPECT_EQ(run(form.read).data, data);
  }
  Cdb whole{0x08, 0, 0, 0, 0};
  EXPECT_EQ(run(whole).data.size(), 256 * block) << "a count of 0 in READ(6) is 256";
  EXPECT_EQ(run(read16(0, 0)).data, "") << "but nothing elsewhere";
}

TEST_P(ScsiBlocksTest, RangesAreChecked) {
  EXPECT_TRUE(run(read16(count - 1, 1)).good());
  EXPECT_TRUE(run(read16(count, 0)).good());
  for (const Cdb& wrong : {read16(count, 1), read16(count - 1, 2), read16(~0ull, 1), read16(~0ull, ~0u),
                           read16(count + 1, 0), cdb10(0x28, 0xffff'ffff, 1), cdb16(0x8f, count, 1),
                           cdb16(0x91, count, 1), cdb16(0x93, count, 1, 1), cdb16(0x90, count, 1)}) {
    Ended ended = run(wrong, wrong[0] == 0x93 ? "" : blocks_of(1, 'x'));
    EXPECT_EQ(ended.code(), 0x2100u) << unsigned{wrong[0]};
  }
  Ended longest = run(read16(0, static_cast<std::uint32_t>((8u << 20) / block + 1)));
  EXPECT_EQ(longest.code(), 0x2400u);
  EXPECT_EQ(longest.sense.field->byte, 10);
}

TEST_P(ScsiBlocksTest, ProtectionInformationIsRefused) {
  for (std::uint8_t opcode : {0x28, 0x2a, 0x2e, 0x2f, 0x41}) {
    Ended ended = run(cdb10(opcode, 0, 1, 0x20), blocks_of(1, 'x'));
    EXPECT_EQ(ended.code(), 0x2400u) << unsigned{opcode};
    EXPECT_EQ(ended.sense.field->byte, 1);
  }
}

// ---- durability ----

TEST_P(ScsiBlocksTest, FlushesReachTheDevice) {
  ASSERT_TRUE(run(write16(0, 1), blocks_of(1, 'a')).good());
  EXPECT_EQ(device->flushed_writes(), 0u);
  ASSERT_TRUE(run(write16(0, 1, 0x08), blocks_of(1, 'a')).good());
  EXPECT_EQ(device->flushed_writes(), 1u) << "FUA";
  ASSERT_TRUE(run(write16(0, 1, 0x10), blocks_of(1, 'a')).good());
  EXPECT_EQ(device->flushed_writes(), 1u) << "DPO alone asks for nothing";
  EXPECT_EQ(device->flushes(), 0u);
  for (const Cdb& sync : {cdb10(0x35, 0, 0), cdb16(0x91, 0, 0), cdb10(0x35, 5, 1), cdb10(0x35, 0, 0, 0x02)}) {
    std::uint64_t before = device->flushes();
    ASSERT_TRUE(run(sync).good());
    EXPECT_EQ(device->flushes(), before + 1);
  }
  std::uint64_t before = device->flushes();
  ASSERT_TRUE(run(read16(0, 1, 0x08)).good());
  EXPECT_EQ(device->flushes(), before + 1) << "a FUA read is of the medium";
  ASSERT_TRUE(run(cdb16(0x89, 0, 1, 0x08)).code() != 0);
  Cdb compare = cdb16(0x89, 0, 0, 0x08);
  compare[13] = 1;
  ASSERT_TRUE(run(compare, blocks_of(1, 'a') + blocks_of(1, 'b')).good());
  EXPECT_EQ(device->flushed_writes(), 2u);
  ASSERT_TRUE(run(cdb16(0x8e, 0, 1), blocks_of(1, 'c')).good());
  EXPECT_EQ(device->flushed_writes(), 3u) << "WRITE AND VERIFY";
}

TEST_P(ScsiBlocksTest, ASixByteWriteHasNoFlags) {
  Cdb write6{0x0a, 0x08, 0, 0, 1};  // bit 3 of byte 1 belongs to the LBA
  Ended ended = run(write6, blocks_of(1, 'a'));
  EXPECT_EQ(ended.code(), 0x80000u < count ? 0u : 0x2100u);
  EXPECT_EQ(device->flushed_writes(), 0u);
}

// ---- comparing ----

TEST_P(ScsiBlocksTest, Verify) {
  ASSERT_TRUE(run(write16(0, 4), blocks_of(4, 'a')).good());
  EXPECT_TRUE(run(cdb16(0x8f, 0, 4)).good()) << "the medium only";
  EXPECT_TRUE(run(cdb16(0x8f, 0, 4, 0x02), blocks_of(4, 'a')).good());
  std::string other = blocks_of(4, 'a');
  other[3 * block + 7] = 'b';
  Ended differs = run(cdb16(0x8f, 0, 4, 0x02), other);
  EXPECT_EQ(differs.sense.key, SenseKey::kMiscompare);
  EXPECT_EQ(differs.sense.information, 3 * block + 7);
  EXPECT_TRUE(run(cdb16(0x8f, 0, 4, 0x06), blocks_of(1, 'a')).good()) << "every block against one";
  EXPECT_EQ(run(cdb16(0x8f, 0, 5, 0x06), blocks_of(1, 'a')).sense.information, 4 * block);
  EXPECT_EQ(run(cdb16(0x8f, 0, 4, 0x04), blocks_of(4, 'a')).code(), 0x2400u) << "BYTCHK 10b is reserved";
  EXPECT_EQ(run(cdb16(0x8f, 0, 4, 0x02), blocks_of(3, 'a')).code(), 0x0e03u) << "less than all proves nothing";
  EXPECT_TRUE(run(cdb10(0x2f, 0, 4, 0x02), blocks_of(4, 'a')).good());
  EXPECT_TRUE(run(cdb12(0xaf, 0, 4, 0x02), blocks_of(4, 'a')).good());
}

TEST_P(ScsiBlocksTest, VerifyOfMoreThanAStep) {
  auto blocks = static_cast<std::uint32_t>((3u << 20) / block);
  ASSERT_TRUE(run(write16(0, blocks), blocks_of(blocks, 'a')).good());
  EXPECT_TRUE(run(cdb16(0x8f, 0, blocks, 0x02), blocks_of(blocks, 'a')).good());
  EXPECT_TRUE(run(cdb16(0x8f, 0, blocks, 0x06), blocks_of(1, 'a')).good());
  std::string other = blocks_of(blocks, 'a');
  other.back() = 'b';
  EXPECT_EQ(run(cdb16(0x8f, 0, blocks, 0x02), other).sense.information, other.size() - 1);
}

Cdb compare_and_write(std::uint64_t lba, std::uint8_t blocks) {
  Cdb made = cdb16(0x89, lba, 0);
  made[13] = blocks;
  return made;
}

TEST_P(ScsiBlocksTest, CompareAndWrite) {
  ASSERT_TRUE(run(write16(8, 2), blocks_of(2, 'a')).good());
  EXPECT_TRUE(run(compare_and_write(8, 2), blocks_of(2, 'a') + blocks_of(2, 'b')).good());
  EXPECT_EQ(on_device(8, 2), blocks_of(2, 'b'));
  std::string expected = blocks_of(2, 'b');
  expected[block + 5] = 'x';
  Ended differs = run(compare_and_write(8, 2), expected + blocks_of(2, 'c'));
  EXPECT_EQ(differs.sense.key, SenseKey::kMiscompare);
  EXPECT_EQ(differs.code(), 0x1d00u);
  EXPECT_EQ(differs.sense.information, block + 5);
  EXPECT_EQ(on_device(8, 2), blocks_of(2, 'b')) << "nothing was written";
  EXPECT_TRUE(run(compare_and_write(8, 0)).good()) << "zero blocks compare equal";
}

TEST_P(ScsiBlocksTest, CompareAndWriteRefusesWhatItCannotDoAtOnce) {
  auto most = static_cast<std::uint8_t>((64u << 10) / block);
  EXPECT_TRUE(run(compare_and_write(0, most), blocks_of(2u * most, '\0')).good());
  Ended longer = run(compare_and_write(0, static_cast<std::uint8_t>(most + 1)), blocks_of(2u * (most + 1u), '\0'));
  EXPECT_EQ(longer.code(), 0x2400u);
  EXPECT_EQ(longer.sense.field->byte, 13);
  EXPECT_EQ(run(compare_and_write(0, 1), blocks_of(1, '\0')).code(), 0x2400u) << "half of the data";
  EXPECT_EQ(run(compare_and_write(0, 1), blocks_of(4, '\0')).code(), 0x2400u) << "twice the data";
  EXPECT_EQ(run(compare_and_write(count, 1), blocks_of(2, '\0')).code(), 0x2100u);
}

TEST_P(ScsiBlocksTest, OrWrite) {
  ASSERT_TRUE(run(write16(0, 2), blocks_of(2, '\x41')).good());
  ASSERT_TRUE(run(cdb16(0x8b, 0, 2), blocks_of(1, '\x12') + blocks_of(1, '\0')).good());
  EXPECT_EQ(on_device(0, 2), blocks_of(1, '\x53') + blocks_of(1, '\x41'));
}

// ---- zeros and provisioning ----

TEST_P(ScsiBlocksTest, UnmapReadsAsZeros) {
  ASSERT_TRUE(run(write16(0, 64), blocks_of(64, 'a')).good());
  ASSERT_TRUE(unmap(unmap_list({{8, 8}, {0, 0}, {24, 3}, {40, 1}})).good());
  for (std::uint64_t lba = 0; lba < 64; ++lba) {
    bool gone = (lba >= 8 && lba < 16) || (lba >= 24 && lba < 27) || lba == 40;
    EXPECT_EQ(on_device(lba, 1), blocks_of(1, gone ? '\0' : 'a')) << lba;
  }
}

// All descriptors are checked before any takes effect.
TEST_P(ScsiBlocksTest, AnUnmapThatIsWrongChangesNothing) {
  ASSERT_TRUE(run(write16(0, 64), blocks_of(64, 'a')).good());
  EXPECT_EQ(unmap(unmap_list({{0, 8}, {count, 1}})).code(), 0x2100u);
  EXPECT_EQ(unmap(unmap_list({{0, 8}, {~0ull, 1}})).code(), 0x2100u);
  EXPECT_EQ(unmap(unmap_list({{0, 8}, {0, 0xffff'ffff}})).code(), 0x2100u);
  std::string cut = unmap_list({{0, 8}, {16, 8}});
  EXPECT_EQ(unmap(cut.substr(0, cut.size() - 1)).code(), 0x1a00u);
  std::string short_of = unmap_list({{0, 8}});
  EXPECT_EQ(run(cdb10(0x42, 0, 40), short_of).code(), 0x1a00u) << "less data than announced";
  EXPECT_EQ(run(cdb10(0x42, 0, static_cast<std::uint16_t>(short_of.size()), 0x01), short_of).code(), 0x2400u)
      << "ANCHOR";
  std::vector<std::pair<std::uint64_t, std::uint32_t>> many(257, {0, 1});
  EXPECT_EQ(unmap(unmap_list(many)).code(), 0x2600u);
  EXPECT_EQ(on_device(0, 64), blocks_of(64, 'a'));
  EXPECT_TRUE(run(cdb10(0x42, 0, 0)).good()) << "no list, nothing to do";
  EXPECT_TRUE(unmap(std::string(8, '\0')).good());
}

TEST_P(ScsiBlocksTest, WriteSame) {
  ASSERT_TRUE(run(write16(0, 64), blocks_of(64, 'a')).good());
  ASSERT_TRUE(run(cdb16(0x93, 8, 5), blocks_of(1, 'b')).good());
  ASSERT_TRUE(run(cdb10(0x41, 16, 5), blocks_of(1, 'c')).good());
  ASSERT_TRUE(run(cdb16(0x93, 24, 5, 0x01)).good()) << "NDOB: no data, zeros";
  EXPECT_EQ(on_device(7, 7), blocks_of(1, 'a') + blocks_of(5, 'b') + blocks_of(1, 'a'));
  EXPECT_EQ(on_device(16, 6), blocks_of(5, 'c') + blocks_of(1, 'a'));
  EXPECT_EQ(on_device(24, 6), blocks_of(5, '\0') + blocks_of(1, 'a'));
}

// SBC-3: with LBPRZ=1, UNMAP=1 may unmap only where the block is zeros. What is asked to be 0xFF must read as 0xFF.
TEST_P(ScsiBlocksTest, WriteSameWithUnmapNeverLosesThePattern) {
  for (const Cdb& command : {cdb16(0x93, 8, 16, 0x08), cdb10(0x41, 8, 16, 0x08)}) {
    ASSERT_TRUE(run(command, blocks_of(1, '\xff')).good());
    EXPECT_EQ(on_device(8, 16), blocks_of(16, '\xff'));
    ASSERT_TRUE(run(command, blocks_of(1, '\0')).good());
    EXPECT_EQ(on_device(8, 16), blocks_of(16, '\0'));
  }
}

TEST_P(ScsiBlocksTest, WriteSameToTheLastBlock) {
  for (std::uint32_t length = 1; length <= 64; ++length) {
    ASSERT_TRUE(run(write16(count - length, length), blocks_of(length, '\xff')).good());
    ASSERT_TRUE(run(cdb16(0x93, count - length, length, 0x08), blocks_of(1, '\0')).good());
    ASSERT_EQ(on_device(count - length, length), blocks_of(length, '\0'));
  }
}

TEST_P(ScsiBlocksTest, WriteSameRefusals) {
  EXPECT_EQ(run(cdb16(0x93, 0, 0), blocks_of(1, 'a')).code(), 0x2400u) << "WSNZ";
  EXPECT_EQ(run(cdb10(0x41, 0, 0), blocks_of(1, 'a')).code(), 0x2400u);
  EXPECT_EQ(run(cdb16(0x93, 0, 1, 0x10), blocks_of(1, 'a')).code(), 0x2400u) << "ANCHOR";
  EXPECT_EQ(run(cdb16(0x93, 0, 1, 0x04), blocks_of(1, 'a')).code(), 0x2400u) << "obsolete";
  EXPECT_EQ(run(cdb16(0x93, 0, 1), blocks_of(2, 'a')).code(), 0x0e03u) << "one block is wanted";
  auto limit = static_cast<std::uint32_t>((16u << 20) / block);
  EXPECT_TRUE(run(cdb16(0x93, 0, limit, 0x01)).good());
}

TEST_P(ScsiBlocksTest, AWriteSameOfMoreThanAStep) {
  auto blocks = static_cast<std::uint32_t>((3u << 20) / block + 1);
  ASSERT_TRUE(run(cdb16(0x93, 1, blocks), blocks_of(1, 'z')).good());
  EXPECT_EQ(on_device(1, blocks), blocks_of(blocks, 'z'));
  EXPECT_EQ(on_device(0, 1), blocks_of(1, '\0'));
  EXPECT_EQ(on_device(1 + blocks, 1), blocks_of(1, '\0'));
}

struct LbaStatus {
  std::uint64_t lba, blocks;
  unsigned status;
  bool operator==(const LbaStatus&) const = default;
};

TEST_P(ScsiBlocksTest, GetLbaStatus) {
  auto ask = [&](std::uint64_t lba, std::uint32_t allocation) {
    Cdb query = cdb({0x9e, 0x12});
    testing::put(query, 2, 8, lba);
    testing::put(query, 10, 4, allocation);
    std::string data = run(query).data;
    std::vector<LbaStatus> found;
    for (std::size_t at = 8; at + 16 <= data.size(); at += 16) {
      found.push_back(
          {number_at(data, at, 8), number_at(data, at + 8, 4), static_cast<unsigned>(number_at(data, at + 12, 1))});
    }
    return found;
  };
  std::uint64_t unit_blocks = 4096 / block;
  ASSERT_TRUE(
      run(write16(8 * unit_blocks, static_cast<std::uint32_t>(4 * unit_blocks)), blocks_of(4 * unit_blocks, 'a'))
          .good());
  std::vector<LbaStatus> all = ask(0, 512);
  std::vector<LbaStatus> expected = {
      {0, 8 * unit_blocks, 1}, {8 * unit_blocks, 4 * unit_blocks, 0}, {12 * unit_blocks, count - 12 * unit_blocks, 1}};
  EXPECT_EQ(all, expected);
  EXPECT_EQ(ask(8 * unit_blocks + 1, 24).at(0), (LbaStatus{8 * unit_blocks + 1, 4 * unit_blocks - 1, 0}))
      << "the first descriptor begins where the host asked";
  EXPECT_EQ(ask(0, 24).size(), 1u);
  Cdb beyond = cdb({0x9e, 0x12});
  testing::put(beyond, 2, 8, count);
  testing::put(beyond, 10, 4, 512);
  EXPECT_EQ(run(beyond).code(), 0x2100u);
}

// ---- EXTENDED COPY ----

class ExtendedCopy : public ScsiBlocksTest {
 protected:
  struct Segment {
    std::uint64_t source, destination;
    std::uint16_t blocks;
    std::uint16_t from = 0, to = 0;
  };
  std::string list(std::uint8_t identifier, const std::vector<Segment>& segments, std::uint8_t usage = 0) {
    std::string text(16 + 32, '\0');
    text[0] = static_cast<char>(identifier);
    text[1] = static_cast<char>(usage);
    put_number(text, 2, 2, 32);
    put_number(text, 8, 4, 28 * segments.size());
    text[16] = '\xe4';
    text.replace(20, 4, bytes_of({1, 3, 0, 16}));
    auto naa = scsi::naa_identifier(unit->identity());
    text.replace(24, 16, std::string(reinterpret_cast<char*>(naa.data()), 16));
    put_number(text, 16 + 29, 3, block);
    for (const Segment& each : segments) {
      std::string made(28, '\0');
      made[0] = 0x02;
      put_number(made, 2, 2, 24);
      put_number(made, 4, 2, each.from);
      put_number(made, 6, 2, each.to);
      put_number(made, 10, 2, each.blocks);
      put_number(made, 12, 8, each.source);
      put_number(made, 20, 8, each.destination);
      text += made;
    }
    return text;
  }
  Ended copy(const std::string& parameters, scsi::Nexus* from = nullptr) {
    Cdb made = cdb({0x83});
    testing::put(made, 10, 4, parameters.size());
    return run(made, parameters, from);
  }
  Ended status_of(std::uint8_t identifier, scsi::Nexus* from = nullptr) {
    Cdb made = cdb({0x84, 0x00, identifier});
    testing::put(made, 10, 4, 64);
    return run(made, {}, from);
  }
};

INSTANTIATE_TEST_SUITE_P(BlockSizes, ExtendedCopy, ::testing::Values(512u, 4096u),
                         [](auto& tested) { return tested.param == 512 ? "Emulated512" : "Native4096"; });

TEST_P(ExtendedCopy, CopiesSegmentsInOrder) {
  ASSERT_TRUE(run(write16(0, 8), blocks_of(4, 'a') + blocks_of(4, 'b')).good());
  ASSERT_TRUE(copy(list(7, {{0, 100, 8}, {100, 200, 4}, {0, 0, 0}, {2, 4, 4}})).good());
  EXPECT_EQ(on_device(100, 8), blocks_of(4, 'a') + blocks_of(4, 'b'));
  EXPECT_EQ(on_device(200, 4), blocks_of(4, 'a'));
  EXPECT_EQ(on_device(4, 4), blocks_of(2, 'a') + blocks_of(2, 'b')) << "an overlap is read whole before it is written";
  std::string status = status_of(7).data;
  EXPECT_EQ(number_at(status, 4, 1), 1u) << "completed";
  EXPECT_EQ(number_at(status, 5, 2), 4u);
  EXPECT_EQ(number_at(status, 8, 4), 16 * block);
}

// Identifiers belong to the nexus that sent them.
TEST_P(ExtendedCopy, AnotherNexusKnowsNothingOfIt) {
  scsi::Nexus* other = nexus("iqn.other,i,0x2");
  ASSERT_TRUE(copy(list(7, {{0, 100, 1}})).good());
  EXPECT_EQ(status_of(7, other).code(), 0x2400u);
  EXPECT_EQ(status_of(8).code(), 0x2400u);
  ASSERT_TRUE(copy(list(9, {{0, 100, 1}}, 0x18)).good());
  EXPECT_EQ(status_of(9).code(), 0x2400u) << "LIST ID USAGE 11b: not to be asked about";
}

TEST_P(ExtendedCopy, SegmentErrorsAreCopyAborted) {
  for (const Segment& wrong : {Segment{0, count, 1}, Segment{count - 1, 0, 2}, Segment{0, 1, 1, 0, 1}}) {
    Ended ended = copy(list(1, {{0, 100, 1}, wrong}));
    EXPECT_EQ(ended.sense.key, SenseKey::kCopyAborted);
    EXPECT_EQ(ended.code(), wrong.to ? 0x0804u : 0u);
  }
}

TEST_P(ExtendedCopy, MalformedLists) {
  std::string good = list(1, {{0, 100, 1}});
  EXPECT_EQ(copy(good.substr(0, 15)).code(), 0x1a00u);
  EXPECT_EQ(copy(good.substr(0, good.size() - 1)).code(), 0x1a00u);
  std::string inline_data = good;
  put_number(inline_data, 12, 4, 4);
  EXPECT_EQ(copy(inline_data).code(), 0x260bu);
  std::string segment_type = good;
  segment_type[48] = 0x00;
  EXPECT_EQ(copy(segment_type).code(), 0x2609u);
  std::string target_type = good;
  target_type[16] = '\xe0';
  EXPECT_EQ(copy(target_type).code(), 0x2607u);
  std::string stranger = good;
  stranger[30] ^= 1;
  Ended elsewhere = copy(stranger);
  EXPECT_EQ(elsewhere.sense.key, SenseKey::kCopyAborted);
  EXPECT_EQ(elsewhere.code(), 0x0d02u);
  EXPECT_EQ(copy(list(1, std::vector<Segment>(65, Segment{0, 1, 1}))).code(), 0x2608u);
  EXPECT_TRUE(copy("").good()) << "no list, nothing to do";
}

TEST_P(ExtendedCopy, AFailureIsRemembered) {
  std::string parameters = list(3, {{0, 100, 1}});
  device->fail_with(ErrorCode::kCorrupt);
  EXPECT_EQ(copy(parameters).code(), 0x1100u);
  device->fail_with(std::nullopt);
  EXPECT_EQ(number_at(status_of(3).data, 4, 1), 2u);
}

TEST_P(ExtendedCopy, WhatItSaysOfItselfAgrees) {
  Cdb query = cdb({0x84, 0x03});
  testing::put(query, 10, 4, 512);
  std::string parameters = run(query).data;
  EXPECT_EQ(number_at(parameters, 0, 4), parameters.size() - 4);
  std::string page = run(testing::inquiry(0x8f)).data;
  std::map<std::uint64_t, std::string> descriptors;
  for (std::size_t at = 4; at < page.size();) {
    std::size_t size = number_at(page, at + 2, 2);
    EXPECT_EQ(size % 4, 0u);
    descriptors[number_at(page, at, 2)] = page.substr(at + 4, size);
    at += 4 + size;
  }
  ASSERT_EQ(descriptors.size(), 5u);
  EXPECT_EQ(descriptors[0x0001].substr(0, 8), bytes_of({7, 0x83, 1, 0x00, 0x84, 2, 0x00, 0x03}));
  EXPECT_EQ(descriptors[0x0004].substr(4, 8), parameters.substr(8, 8)) << "counts and list length";
  EXPECT_EQ(descriptors[0x0008].substr(0, 3), bytes_of({2, 0x02, 0xe4}));
  EXPECT_EQ(number_at(descriptors[0x8001], 8, 4), number_at(parameters, 16, 4)) << "segment length";
}

}  // namespace
}  // namespace holdfast::iscsi
