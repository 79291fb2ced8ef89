// A logical unit over a device in memory, without iSCSI around it.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "iscsi/memory_device.h"
#include "iscsi/scsi/logical_unit.h"
#include "iscsi/testing/cdbs.h"
#include "rpc/testing/memory_env.h"

namespace holdfast::iscsi::testing {

inline std::string bytes_of(std::initializer_list<unsigned> values) {
  std::string text;
  for (unsigned value : values) text.push_back(static_cast<char>(value));
  return text;
}
inline std::uint64_t number_at(std::string_view text, std::size_t at, std::size_t size) {
  return at + size <= text.size() ? load_be(as_bytes(text), at, size) : ~0ull;
}
inline void put_number(std::string& text, std::size_t at, std::size_t size, std::uint64_t value) {
  store_be(std::as_writable_bytes(std::span(text)), at, size, value);
}

class ScsiTest : public ::testing::Test, protected scsi::CommandOwner {
 protected:
  struct Ended {
    bool ended = false;
    scsi::ScsiStatus status = scsi::ScsiStatus::kGood;
    scsi::Sense sense;
    std::string data;
    bool good() const { return ended && status == scsi::ScsiStatus::kGood; }
    // Sense code of a CHECK CONDITION; 0 when it ended well.
    unsigned code() const { return status == scsi::ScsiStatus::kCheckCondition ? sense.code : 0; }
  };

  void SetUp() override { start(512); }
  void start(std::uint32_t block_size, scsi::Reservations reservations = {}) {
    unit.reset();
    device = *MemoryDevice::create(env, kVolumeBytes, block_size);
    scsi::Identity identity{"iqn.2026-11.io.holdfast:test", "0123456789abcdef", 0x0123456789abcdef};
    auto save = [this](std::string text, StatusCallback done) {
      if (!save_fails) saved = std::move(text);
      done(save_fails ? Status(Error(ErrorCode::kStoreUnavailable, "told to fail")) : Status());
    };
    unit = std::make_unique<scsi::LogicalUnit>(env, *device, identity, std::move(reservations), save);
    host = nexus("iqn.host,i,0x1");
  }
  // A nexus whose unit attentions are taken.
  scsi::Nexus* nexus(const std::string& port) {
    scsi::Nexus* made = unit->attach_nexus(port);
    made->attentions.clear();
    return made;
  }

  Ended run(const Cdb& cdb, std::string_view data_out = {}, scsi::Nexus* from = nullptr, std::uint64_t lun = 0) {
    scsi::Command command;
    for (std::size_t i = 0; i < cdb.size(); ++i) command.cdb[i] = static_cast<std::byte>(cdb[i]);
    command.nexus = from ? from : host;
    command.owner = this;
    command.expected_data_out = data_out.size();
    done_ = false;
    if (!unit->admit(command, lun)) return end(command);
    std::size_t wanted = std::min<std::size_t>(data_out.size(), command.data_out_length);
    if (wanted > 0) command.data_out.push_back(env.buffers().copy_of(as_bytes(data_out.substr(0, wanted))));
    unit->execute(command);
    env.settle();
    EXPECT_TRUE(done_) << "the command did not end";
    return end(command);
  }
  std::string read_blocks(std::uint64_t lba, std::uint32_t count) { return run(read16(lba, count)).data; }
  std::string block_of(char fill) const { return std::string(device->logical_block_size(), fill); }

  void command_done(scsi::Command&) override { done_ = true; }

  static constexpr std::uint64_t kVolumeBytes = 16u << 20;
  rpc::testing::MemoryEnv env;
  std::unique_ptr<MemoryDevice> device;
  std::unique_ptr<scsi::LogicalUnit> unit;
  scsi::Nexus* host = nullptr;
  std::string saved;
  bool save_fails = false;

 private:
  static Ended end(scsi::Command& command) {
    Ended ended{true, command.status, command.sense, {}};
    for (const Slice& part : command.data_in) ended.data += part.text();
    EXPECT_EQ(ended.data.size(), command.data_in_length);
    return ended;
  }
  bool done_ = false;
};

}  // namespace holdfast::iscsi::testing
