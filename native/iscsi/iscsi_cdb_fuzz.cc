// libFuzzer target: commands to a logical unit. The input is a row of commands: a byte (bit 0: the second of two
// nexuses; bits 1 to 3: task attribute), 16 bytes of CDB, two bytes with the length of the data, the data. Each command
// must end, with sense data that can be encoded, and leave no memory behind. Corpus: native/iscsi/corpus/iscsi_cdb.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/log.h"
#include "iscsi/memory_device.h"
#include "iscsi/scsi/big_endian.h"
#include "iscsi/scsi/logical_unit.h"
#include "rpc/testing/memory_env.h"

namespace {

using namespace holdfast;  // NOLINT: a program

struct Owner final : scsi::CommandOwner {
  bool done = false;
  void command_done(scsi::Command&) override { done = true; }
};

void require(bool condition) {
  if (!condition) std::abort();
}

void run(rpc::testing::MemoryEnv& env, scsi::LogicalUnit& unit, scsi::Nexus* nexus, std::string_view head,
         std::string_view data) {
  Owner owner;
  scsi::Command command;
  for (std::size_t i = 0; i < command.cdb.size(); ++i) command.cdb[i] = static_cast<std::byte>(head[1 + i]);
  command.attribute = static_cast<scsi::TaskAttribute>(head[0] >> 1 & 7);
  command.nexus = nexus;
  command.owner = &owner;
  command.expected_data_out = data.size();
  if (unit.admit(command, 0)) {
    std::size_t wanted = std::min<std::size_t>(data.size(), command.data_out_length);
    if (wanted > 0) command.data_out.push_back(env.buffers().copy_of(as_bytes(data.substr(0, wanted))));
    unit.execute(command);
    env.settle();
    require(owner.done);
  }
  require(total_size(command.data_in) == command.data_in_length);
  require(command.status != scsi::ScsiStatus::kCheckCondition || command.data_in_length == 0);
  std::array<std::byte, scsi::kSenseBytesMax> sense;
  require(scsi::encode_sense(command.sense, false, sense) <= sense.size());
  require(scsi::encode_sense(command.sense, true, sense) <= sense.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::size_t kHead = 1 + 16 + 2;
  set_log_level(LogLevel::kError);
  rpc::testing::MemoryEnv env;
  {
    auto device = *iscsi::MemoryDevice::create(env, 1u << 20, size % 2 ? 512 : 4096);
    std::string saved;
    auto save = [&saved](std::string text, StatusCallback done) {
      saved = std::move(text);
      done(Status());
    };
    scsi::LogicalUnit unit(env, *device, {"iqn.x:y", "0123456789abcdef", 1}, {}, save);
    scsi::Nexus* nexuses[] = {unit.attach_nexus("iqn.a,i,0x000000000001"), unit.attach_nexus("iqn.b,i,0x000000000002")};
    for (scsi::Nexus* each : nexuses) each->attentions.clear();
    std::string_view input(reinterpret_cast<const char*>(data), size);
    while (input.size() >= kHead) {
      std::string_view head = input.substr(0, kHead);
      std::size_t length = load_be16(as_bytes(head), 17);
      std::string_view out = input.substr(kHead, length);
      input.remove_prefix(kHead + out.size());
      run(env, unit, nexuses[head[0] & 1], head, out);
    }
    require(unit.idle());
    auto restored = scsi::Reservations::restore(saved);
    require(restored.ok() && *restored == unit.reservations());
  }
  require(env.buffers().bytes_in_use() == 0);
  return 0;
}
