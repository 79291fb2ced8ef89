// Admission, unit attentions, sense data, INQUIRY and VPD pages, capacity, modes, supported commands.
#include <gtest/gtest.h>

#include <set>

#include "iscsi/testing/unit_fixture.h"

namespace holdfast::iscsi {
namespace {

using scsi::ScsiStatus;
using testing::bytes_of;
using testing::cdb;
using testing::Cdb;
using testing::inquiry;
using testing::number_at;
using testing::read16;

class ScsiUnitTest : public testing::ScsiTest {};

// ---- admission ----

TEST_F(ScsiUnitTest, UnknownCommands) {
  EXPECT_EQ(run(cdb({0xff})).code(), 0x2000u);
  EXPECT_EQ(run(cdb({0x04})).code(), 0x2000u) << "FORMAT UNIT";
  EXPECT_EQ(run(cdb({0x48, 0x02})).code(), 0x2000u) << "SANITIZE";
  Ended action = run(cdb({0x9e, 0x1f}));
  EXPECT_EQ(action.code(), 0x2400u) << "a known code with an unknown service action";
  EXPECT_EQ(action.sense.field->byte, 1);
}

TEST_F(ScsiUnitTest, NacaIsRefused) {
  Cdb with_naca = cdb({0x00});
  with_naca[5] = 0x04;
  EXPECT_EQ(run(with_naca).code(), 0x2400u);
}

TEST_F(ScsiUnitTest, OtherLunsAreNotThere) {
  EXPECT_EQ(run(cdb({0x00}), {}, nullptr, 1).code(), 0x2500u);
  EXPECT_EQ(run(read16(0, 1), {}, nullptr, ~0ull).code(), 0x2500u);
  Ended standard = run(inquiry(std::nullopt), {}, nullptr, 1);
  ASSERT_TRUE(standard.good());
  EXPECT_EQ(number_at(standard.data, 0, 1), 0x7fu) << "no device there";
  EXPECT_EQ(number_at(run(cdb({0x03, 0, 0, 0, 32}), {}, nullptr, 1).data, 12, 2), 0x2500u);
  Cdb luns = cdb({0xa0});
  testing::put(luns, 6, 4, 64);
  EXPECT_EQ(run(luns, {}, nullptr, 1).data, run(luns).data);
}

TEST_F(ScsiUnitTest, ReportLuns) {
  Cdb luns = cdb({0xa0});
  testing::put(luns, 6, 4, 64);
  EXPECT_EQ(run(luns).data, bytes_of({0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
  luns[2] = 1;
  EXPECT_EQ(run(luns).data, bytes_of({0, 0, 0, 0, 0, 0, 0, 0})) << "no well-known units";
  luns[2] = 3;
  EXPECT_EQ(run(luns).code(), 0x2400u);
  luns[2] = 0;
  testing::put(luns, 6, 4, 15);
  EXPECT_EQ(run(luns).code(), 0x2400u);
}

TEST_F(ScsiUnitTest, UnitAttentionsComeOnceInOrderAndPassSome) {
  scsi::Nexus* fresh = unit->attach_nexus("iqn.fresh,i,0x2");
  EXPECT_TRUE(run(inquiry(std::nullopt), {}, fresh).good());
  Cdb luns = cdb({0xa0});
  testing::put(luns, 6, 4, 64);
  EXPECT_TRUE(run(luns, {}, fresh).good());
  fresh->attend(scsi::attentions::kCapacityChanged);
  fresh->attend(scsi::attentions::kCapacityChanged);
  EXPECT_EQ(number_at(run(cdb({0x03, 0, 0, 0, 32}), {}, fresh).data, 12, 2), 0x2900u) << "REQUEST SENSE takes one";
  Ended told = run(cdb({0x00}), {}, fresh);
  EXPECT_EQ(told.sense.key, scsi::SenseKey::kUnitAttention);
  EXPECT_EQ(told.code(), 0x2a09u);
  EXPECT_TRUE(run(cdb({0x00}), {}, fresh).good());
  EXPECT_EQ(number_at(run(cdb({0x03, 0, 0, 0, 32}), {}, fresh).data, 12, 2), 0u);
}

TEST_F(ScsiUnitTest, NexusesAreBounded) {
  std::size_t count = 1;
  while (unit->attach_nexus("iqn.many,i,0x" + std::to_string(count))) ++count;
  EXPECT_EQ(count, scsi::kNexusesMax);
}

// ---- sense data (SPC-4 section 4.5) ----

TEST(Sense, FixedFormat) {
  std::array<std::byte, scsi::kSenseBytesMax> out;
  scsi::Sense sense = scsi::invalid_field(0x1234);
  sense.information = 0x89abcdef;
  std::size_t size = scsi::encode_sense(sense, false, out);
  EXPECT_EQ(std::string(reinterpret_cast<char*>(out.data()), size),
            bytes_of({0xf0, 0, 5, 0x89, 0xab, 0xcd, 0xef, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xc0, 0x12, 0x34}));
  sense.information = 1ull << 32;  // does not fit: not valid
  scsi::encode_sense(sense, false, out);
  EXPECT_EQ(out[0], std::byte{0x70});
}

TEST(Sense, DescriptorFormat) {
  std::array<std::byte, scsi::kSenseBytesMax> out;
  scsi::Sense sense = scsi::invalid_parameter(7);
  sense.information = 0x0123456789abcdefull;
  std::size_t size = scsi::encode_sense(sense, true, out);
  EXPECT_EQ(std::string(reinterpret_cast<char*>(out.data()), size),
            bytes_of({0x72, 5,    0x26, 0,    0,    0,    0, 20, 0, 10, 0x80, 0, 0x01, 0x23,
                      0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 2, 6,  0, 0,  0x80, 0, 7,    0}));
}

TEST(Sense, OfDeviceErrors) {
  EXPECT_EQ(scsi::sense_of(ErrorCode::kNoSpace).code, 0x2707);
  EXPECT_EQ(scsi::sense_of(ErrorCode::kNoSpace).key, scsi::SenseKey::kDataProtect);
  EXPECT_EQ(scsi::sense_of(ErrorCode::kCorrupt).key, scsi::SenseKey::kMediumError);
  EXPECT_EQ(scsi::sense_of(ErrorCode::kNoInSyncReplica).key, scsi::SenseKey::kNotReady);
  EXPECT_EQ(scsi::sense_of(ErrorCode::kInternal).key, scsi::SenseKey::kHardwareError);
}

TEST_F(ScsiUnitTest, DeviceErrorsReachTheHost) {
  device->fail_with(ErrorCode::kNoSpace);
  EXPECT_EQ(run(testing::write16(0, 1), block_of('a')).code(), 0x2707u);
  device->fail_with(ErrorCode::kCorrupt);
  EXPECT_EQ(run(read16(0, 1)).code(), 0x1100u);
  device->fail_with(ErrorCode::kNoInSyncReplica);
  EXPECT_EQ(run(testing::cdb10(0x35, 0, 0)).code(), 0x0401u) << "a flush that failed is never GOOD";
}

// ---- INQUIRY ----

TEST_F(ScsiUnitTest, StandardInquiry) {
  std::string data = run(inquiry(std::nullopt)).data;
  ASSERT_EQ(data.size(), 96u);
  EXPECT_EQ(data.substr(0, 8), bytes_of({0x00, 0x00, 0x06, 0x12, 91, 0x18, 0x00, 0x02}));
  EXPECT_EQ(data.substr(8, 28), "HOLDFASTVolume          1.0 ");
  EXPECT_EQ(data.substr(58, 8), bytes_of({0x00, 0xa0, 0x09, 0x60, 0x04, 0x60, 0x04, 0xc0}));
  EXPECT_EQ(run(inquiry(std::nullopt, 5)).data, data.substr(0, 5)) << "cut at the allocation length";
  Cdb wrong = inquiry(std::nullopt);
  wrong[2] = 0x80;
  EXPECT_EQ(run(wrong).code(), 0x2400u) << "a page code without EVPD";
}

TEST_F(ScsiUnitTest, EveryListedPageExistsAndNoOther) {
  std::string list = run(inquiry(0x00)).data.substr(4);
  EXPECT_EQ(list, bytes_of({0x00, 0x80, 0x83, 0x86, 0x87, 0x8f, 0xb0, 0xb1, 0xb2}));
  for (unsigned page = 0; page < 256; ++page) {
    Ended ended = run(inquiry(static_cast<std::uint8_t>(page)));
    bool listed = list.find(static_cast<char>(page)) != std::string::npos;
    EXPECT_EQ(ended.good(), listed) << page;
    if (!listed) continue;
    EXPECT_EQ(number_at(ended.data, 1, 1), page);
    EXPECT_EQ(number_at(ended.data, 2, 2), ended.data.size() - 4);
  }
}

TEST_F(ScsiUnitTest, IdentificationPages) {
  EXPECT_EQ(run(inquiry(0x80)).data.substr(4), "0123456789abcdef");
  std::string page = run(inquiry(0x83)).data.substr(4);
  EXPECT_EQ(page.substr(0, 20), bytes_of({0x01, 0x03, 0x00, 16,   0x60, 0x24, 0x84, 0x60, 0,    0,
                                          0,    0,    0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef}));
  std::size_t designators = 0;
  for (std::size_t at = 0; at < page.size(); ++designators) at += 4 + number_at(page, at + 3, 1);
  EXPECT_EQ(designators, 6u);
  EXPECT_NE(page.find("iqn.2026-11.io.holdfast:test,t,0x0001"), std::string::npos);
}

TEST_F(ScsiUnitTest, BlockLimits) {
  for (std::uint32_t block : {512u, 4096u}) {
    start(block);
    std::string page = run(inquiry(0xb0)).data;
    ASSERT_EQ(page.size(), 64u);
    EXPECT_EQ(number_at(page, 4, 1), 1u) << "WSNZ";
    EXPECT_EQ(number_at(page, 5, 1), block == 512 ? 128u : 16u) << "COMPARE AND WRITE";
    EXPECT_EQ(number_at(page, 6, 2), (256u << 10) / block) << "granularity";
    EXPECT_EQ(number_at(page, 8, 4), (8u << 20) / block) << "longest transfer";
    EXPECT_EQ(number_at(page, 12, 4), (1u << 20) / block) << "best transfer";
    EXPECT_EQ(number_at(page, 20, 4), (512u << 20) / block) << "UNMAP";
    EXPECT_EQ(number_at(page, 24, 4), 256u);
    EXPECT_EQ(number_at(page, 28, 4), 4096 / block) << "UNMAP granularity";
    EXPECT_EQ(number_at(page, 32, 4), 0x80000000u);
    EXPECT_EQ(number_at(page, 36, 8), (16u << 20) / block) << "WRITE SAME";
  }
}

TEST_F(ScsiUnitTest, CharacteristicsAndProvisioning) {
  std::string characteristics = run(inquiry(0xb1)).data;
  EXPECT_EQ(characteristics.size(), 64u);
  EXPECT_EQ(number_at(characteristics, 4, 2), 1u) << "not rotating";
  EXPECT_EQ(run(inquiry(0xb2)).data, bytes_of({0x00, 0xb2, 0, 4, 0, 0xe4, 0x02, 0}));
  EXPECT_EQ(number_at(run(inquiry(0x86)).data, 6, 1) & 1, 1u) << "V_SUP: there is a volatile cache";
}

// ---- capacity ----

TEST_F(ScsiUnitTest, ReadCapacity) {
  for (std::uint32_t block : {512u, 4096u}) {
    start(block);
    std::string ten = run(cdb({0x25})).data;
    EXPECT_EQ(number_at(ten, 0, 4), kVolumeBytes / block - 1);
    EXPECT_EQ(number_at(ten, 4, 4), block);
    Cdb sixteen = cdb({0x9e, 0x10});
    testing::put(sixteen, 10, 4, 32);
    std::string data = run(sixteen).data;
    ASSERT_EQ(data.size(), 32u);
    EXPECT_EQ(number_at(data, 0, 8), kVolumeBytes / block - 1);
    EXPECT_EQ(number_at(data, 8, 4), block);
    EXPECT_EQ(number_at(data, 13, 1), block == 512 ? 3u : 0u) << "the physical block is 4096 bytes";
    EXPECT_EQ(number_at(data, 14, 2), 0xc000u) << "LBPME, LBPRZ";
  }
}

// ---- mode pages ----

TEST_F(ScsiUnitTest, ModeSenseTellsTheTruthAboutTheCache) {
  std::string data = run(cdb({0x1a, 0x08, 0x08, 0, 255})).data;
  ASSERT_EQ(data.size(), 24u);
  EXPECT_EQ(number_at(data, 2, 1), 0x10u) << "DPOFUA";
  EXPECT_EQ(number_at(data, 4, 2), 0x0812u);
  EXPECT_EQ(number_at(data, 6, 1), 0x04u) << "WCE";
  std::string changeable = run(cdb({0x1a, 0x08, 0x48, 0, 255})).data;
  EXPECT_EQ(changeable.substr(6), std::string(18, '\0')) << "WCE cannot be changed";
}

TEST_F(ScsiUnitTest, ModeSenseForms) {
  std::string six = run(cdb({0x1a, 0x00, 0x3f, 0, 255})).data;
  EXPECT_EQ(number_at(six, 0, 1), six.size() - 1);
  EXPECT_EQ(number_at(six, 3, 1), 8u);
  EXPECT_EQ(number_at(six, 4, 4), kVolumeBytes / 512);
  EXPECT_EQ(number_at(six, 9, 3), 512u);
  Cdb ten = cdb({0x5a, 0x10, 0x3f});
  testing::put(ten, 7, 2, 512);
  std::string long_form = run(ten).data;
  EXPECT_EQ(number_at(long_form, 0, 2), long_form.size() - 2);
  EXPECT_EQ(number_at(long_form, 4, 1), 1u) << "LONGLBA";
  EXPECT_EQ(number_at(long_form, 6, 2), 16u);
  EXPECT_EQ(number_at(long_form, 8, 8), kVolumeBytes / 512);
  EXPECT_EQ(long_form.substr(24), six.substr(12)) << "the same pages";
  EXPECT_EQ(run(cdb({0x1a, 0x08, 0x02, 0, 255})).code(), 0x2400u) << "no such page";
  EXPECT_EQ(run(cdb({0x1a, 0x08, 0xc8, 0, 255})).code(), 0x3900u) << "no saved values";
}

std::string mode_select_list(std::string page) { return bytes_of({0, 0, 0, 0}) + page; }

TEST_F(ScsiUnitTest, ModeSelectChangesWhatMayChange) {
  scsi::Nexus* other = nexus("iqn.other,i,0x2");
  std::string control = run(cdb({0x1a, 0x08, 0x0a, 0, 255})).data.substr(4);
  std::string wanted = control;
  wanted[4] = 0x08;  // SWP
  Cdb select = cdb({0x15, 0x10, 0, 0, 16});
  ASSERT_TRUE(run(select, mode_select_list(wanted)).good());
  EXPECT_EQ(run(cdb({0x00}), {}, other).code(), 0x2a01u) << "MODE PARAMETERS CHANGED";
  EXPECT_EQ(number_at(run(cdb({0x1a, 0x08, 0x0a, 0, 255})).data, 2, 1), 0x90u) << "WP";
  for (const Cdb& write : {testing::write16(0, 1), testing::cdb16(0x93, 0, 1, 0x01), testing::cdb16(0x89, 0, 0)}) {
    EXPECT_EQ(run(write, block_of('a')).code(), 0x2702u) << unsigned{write[0]};
  }
  EXPECT_TRUE(run(read16(0, 1)).good());
  EXPECT_TRUE(run(testing::cdb10(0x35, 0, 0)).good()) << "what was written before may be flushed";
  ASSERT_TRUE(run(select, mode_select_list(control)).good());
  EXPECT_TRUE(run(testing::write16(0, 1), block_of('a')).good());
}

TEST_F(ScsiUnitTest, ModeSelectRefusesTheRest) {
  std::string caching = run(cdb({0x1a, 0x08, 0x08, 0, 255})).data.substr(4);
  Cdb select = cdb({0x15, 0x10, 0, 0, 24});
  EXPECT_TRUE(run(select, mode_select_list(caching)).good()) << "what is so already";
  caching[2] = 0x00;
  Ended refused = run(select, mode_select_list(caching));
  EXPECT_EQ(refused.code(), 0x2600u) << "switching the cache off would be a lie";
  EXPECT_EQ(refused.sense.field->byte, 6);
  EXPECT_FALSE(refused.sense.field->in_cdb);
  select[1] = 0x11;
  EXPECT_EQ(run(select, mode_select_list(caching)).code(), 0x2400u) << "SP";
  select[1] = 0x10;
  select[4] = 23;
  EXPECT_EQ(run(select, mode_select_list(caching)).code(), 0x1a00u) << "a page that is cut off";
  EXPECT_EQ(run(cdb({0x15, 0x10, 0, 0, 6}), mode_select_list(bytes_of({0x02, 0x00}))).code(), 0x2600u);
  EXPECT_TRUE(run(cdb({0x15, 0x10, 0, 0, 0})).good()) << "no list";
}

TEST_F(ScsiUnitTest, DescriptorSenseFollowsTheControlPage) {
  EXPECT_FALSE(unit->descriptor_sense());
  std::string control = run(cdb({0x1a, 0x08, 0x0a, 0, 255})).data.substr(4);
  control[2] = 0x04;
  ASSERT_TRUE(run(cdb({0x15, 0x10, 0, 0, 16}), mode_select_list(control)).good());
  EXPECT_TRUE(unit->descriptor_sense());
  unit->reset(host, nullptr);
  EXPECT_FALSE(unit->descriptor_sense()) << "a reset restores the defaults";
}

// ---- what is supported ----

TEST_F(ScsiUnitTest, SupportedCommandsAreExactlyTheTable) {
  Cdb all = cdb({0xa3, 0x0c, 0x80});
  testing::put(all, 6, 4, 65'535);
  std::string data = run(all).data;
  EXPECT_EQ(number_at(data, 0, 4), data.size() - 4);
  std::size_t count = 0;
  for (std::size_t at = 4; at < data.size(); at += 20, ++count) {
    Cdb one = cdb({0xa3, 0x0c, 0x80});
    bool has_action = number_at(data, at + 5, 1) & 1;
    one[2] |= has_action ? 2 : 1;
    one[3] = static_cast<std::uint8_t>(data[at]);
    testing::put(one, 4, 2, number_at(data, at + 2, 2));
    testing::put(one, 6, 4, 512);
    std::string each = run(one).data;
    EXPECT_EQ(number_at(each, 1, 1), 0x83u);
    std::size_t size = number_at(each, 2, 2);
    EXPECT_EQ(size, number_at(data, at + 6, 2));
    EXPECT_EQ(number_at(each, 4, 1), number_at(data, at, 1)) << "usage data begins with the code";
    EXPECT_EQ(number_at(each, 4 + size - 1, 1), 0x04u) << "and ends with NACA, which is looked at";
  }
  EXPECT_EQ(count, scsi::operations().size());
}

// Every command of the table can be sent, whatever its fields hold, and ends.
TEST_F(ScsiUnitTest, EveryCommandEndsWhateverItSays) {
  for (const scsi::Operation& operation : scsi::operations()) {
    for (unsigned fill : {0x00u, 0xffu, 0x5au, 0x01u}) {
      Cdb made;
      made.fill(static_cast<std::uint8_t>(fill));
      made[0] = operation.opcode;
      if (operation.has_service_action) {
        made[1] = static_cast<std::uint8_t>((made[1] & 0xe0) | operation.service_action);
      }
      made[operation.cdb_size - 1u] = 0;
      for (std::size_t size : {0u, 24u, 512u}) EXPECT_TRUE(run(made, std::string(size, '\x11')).ended);
      host->attentions.clear();
    }
  }
}

TEST_F(ScsiUnitTest, SupportedTaskManagement) {
  Cdb query = cdb({0xa3, 0x0d, 0x80});
  testing::put(query, 6, 4, 64);
  std::string data = run(query).data;
  ASSERT_EQ(data.size(), 16u);
  EXPECT_EQ(number_at(data, 0, 1), 0xdau) << "ABORT TASK (SET), CLEAR TASK SET, LUN and target reset";
}

TEST_F(ScsiUnitTest, TargetPortGroups) {
  Cdb query = cdb({0xa3, 0x0a});
  testing::put(query, 6, 4, 64);
  EXPECT_EQ(run(query).data, bytes_of({0, 0, 0, 12, 0x00, 0x01, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1}));
  query[1] = 0x2a;
  EXPECT_EQ(run(query).data.substr(0, 8), bytes_of({0, 0, 0, 16, 0x10, 0, 0, 0})) << "extended header";
  query[1] = 0x4a;
  EXPECT_EQ(run(query).code(), 0x2400u);
}

TEST_F(ScsiUnitTest, StartStopFlushes) {
  EXPECT_TRUE(run(cdb({0x1b, 0, 0, 0, 1})).good());
  EXPECT_EQ(device->flushes(), 0u);
  EXPECT_TRUE(run(cdb({0x1b, 0, 0, 0, 0})).good());
  EXPECT_EQ(device->flushes(), 1u);
  EXPECT_TRUE(run(read16(0, 1)).good()) << "still ready";
  EXPECT_EQ(run(cdb({0x1b, 0, 0, 0, 2})).code(), 0x2400u) << "nothing to eject";
  EXPECT_EQ(run(cdb({0x1b, 0, 0, 0, 0x10})).code(), 0x2400u) << "no power conditions";
}

}  // namespace
}  // namespace holdfast::iscsi
