// Micro-benchmarks of the iSCSI side: finding a command's row, admission and execution of reads and writes by a logical
// unit over memory, sense data, login text. Without a network: iscsi_memory with a real initiator measures that.
#include <benchmark/benchmark.h>

#include "iscsi/memory_device.h"
#include "iscsi/negotiation.h"
#include "iscsi/scsi/big_endian.h"
#include "iscsi/scsi/logical_unit.h"
#include "rpc/testing/memory_env.h"

namespace holdfast::iscsi {
namespace {

struct Owner final : scsi::CommandOwner {
  void command_done(scsi::Command&) override { ++done; }
  std::uint64_t done = 0;
};

struct Bench {
  Bench() {
    auto save = [](std::string, StatusCallback done) { done(Status()); };
    unit = std::make_unique<scsi::LogicalUnit>(env, *device, scsi::Identity{"iqn.x:y", "0123456789abcdef", 1},
                                               scsi::Reservations(), save);
    nexus = unit->attach_nexus("iqn.host,i,0x1");
    nexus->attentions.clear();
  }
  void set(scsi::Command& command, std::uint8_t opcode, std::uint64_t lba, std::uint32_t count) {
    command.cdb.fill(std::byte{0});
    command.cdb[0] = static_cast<std::byte>(opcode);
    store_be(command.cdb, 2, 8, lba);
    store_be(command.cdb, 10, 4, count);
    command.nexus = nexus;
    command.owner = &owner;
  }

  rpc::testing::MemoryEnv env;
  std::unique_ptr<MemoryDevice> device = *MemoryDevice::create(env, 16u << 20, 512);
  std::unique_ptr<scsi::LogicalUnit> unit;
  scsi::Nexus* nexus = nullptr;
  Owner owner;
};

void find_row(benchmark::State& state) {
  constexpr std::pair<std::uint8_t, std::uint8_t> kCommands[] = {{0x28, 0}, {0x2a, 0}, {0x88, 0}, {0x9e, 0x12}};
  std::size_t i = 0;
  for (auto _ : state) {
    auto [opcode, action] = kCommands[i++ % std::size(kCommands)];
    benchmark::DoNotOptimize(scsi::find_operation(opcode, action, nullptr));
  }
}
BENCHMARK(find_row);

// Decoding and all checks of a command, up to where it would run.
void admit_read(benchmark::State& state) {
  Bench bench;
  scsi::Command command;
  for (auto _ : state) {
    bench.set(command, 0x88, 32'768, 8);  // beyond the end: refused by the last check
    benchmark::DoNotOptimize(bench.unit->admit(command, 0));
    command.recycle();
  }
}
BENCHMARK(admit_read);

void read_4k(benchmark::State& state) {
  Bench bench;
  scsi::Command command;
  std::uint64_t lba = 0;
  for (auto _ : state) {
    bench.set(command, 0x88, lba = (lba + 8) % 32'768, 8);
    bench.unit->admit(command, 0);
    bench.unit->execute(command);
    bench.env.settle();
    command.recycle();
  }
}
BENCHMARK(read_4k);

void write_4k(benchmark::State& state) {
  Bench bench;
  scsi::Command command;
  Slice data = bench.env.buffers().allocate(4096);
  std::uint64_t lba = 0;
  for (auto _ : state) {
    bench.set(command, 0x8a, lba = (lba + 8) % 32'768, 8);
    command.expected_data_out = 4096;
    bench.unit->admit(command, 0);
    command.data_out.push_back(data);
    bench.unit->execute(command);
    bench.env.settle();
    command.recycle();
  }
}
BENCHMARK(write_4k);

void encode_sense(benchmark::State& state) {
  std::array<std::byte, scsi::kSenseBytesMax> out;
  scsi::Sense sense = scsi::invalid_field(2);
  for (auto _ : state) benchmark::DoNotOptimize(scsi::encode_sense(sense, state.range(0) != 0, out));
}
BENCHMARK(encode_sense)->Arg(0)->Arg(1);

void negotiate_login(benchmark::State& state) {
  std::string text;
  for (auto [key, value] : {std::pair("HeaderDigest", "CRC32C,None"), std::pair("MaxBurstLength", "262144"),
                            std::pair("InitialR2T", "No"), std::pair("MaxRecvDataSegmentLength", "262144")}) {
    append_text(text, key, value);
  }
  for (auto _ : state) {
    SessionParameters parameters;
    std::string answer;
    Result<TextPairs> pairs = parse_text(text);
    for (const auto& [key, value] : *pairs) negotiate(key, value, parameters, answer);
    benchmark::DoNotOptimize(answer);
  }
}
BENCHMARK(negotiate_login);

}  // namespace
}  // namespace holdfast::iscsi

BENCHMARK_MAIN();
