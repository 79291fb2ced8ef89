// A simulated machine with one disk, for the tests of the store: open, kill, power off, and waiting for callbacks.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <vector>

#include "base/crc32c.h"
#include "sim/sim_env.h"
#include "sim/sim_file.h"
#include "store/model_kv.h"
#include "store/store.h"

namespace holdfast::store {

class TestMachine {
 public:
  explicit TestMachine(std::uint64_t seed) : world(seed) {
    options.directory = "/disk";
    options.journal_bytes = 4u << 20;
    options.capacity_bytes = 64u << 20;
    options.reserve_bytes = 1u << 20;
    options.cache_bytes = 1u << 20;
  }
  ~TestMachine() { kill(); }

  Status open() {
    process = world.start_process("node", "store");
    std::optional<Result<std::unique_ptr<DiskStore>>> opened;
    spawn(run_open(this, &opened));
    EXPECT_TRUE(world.run_until([&] { return opened.has_value(); }, 60s));
    if (!opened->ok()) return opened->status();
    disk = std::move(*opened).value();
    return Status();
  }
  void close() {
    bool closed = false;
    disk->close([&closed] { closed = true; });
    EXPECT_TRUE(world.run_until([&] { return closed; }, 60s));
    disk.reset();
    world.kill(process);
  }
  // The process is gone; its objects are never destroyed, like those of a real one.
  void kill() {
    if (process) world.kill(process);
    abandon();
  }
  void power_off() {
    world.power_off("node");
    abandon();
    kv.power_loss([this](std::uint64_t bound) { return world.random().below(bound); });
  }

  // Runs the world until the callback came.
  template <typename T, typename Start>
  T wait(Start start) {
    std::optional<T> outcome;
    start(Callback<void(T)>([&outcome](T value) { outcome.emplace(std::move(value)); }));
    EXPECT_TRUE(world.run_until([&] { return outcome.has_value(); }, 60s));
    return std::move(*outcome);
  }
  Status create(ReplicaId id, std::uint64_t size_blocks, bool complete = true) {
    return wait<Status>(
        [&](StatusCallback done) { disk->create_replica(id, VolumeId(7), size_blocks, complete, std::move(done)); });
  }
  Status link(ReplicaId id, ReplicaId source, SnapshotId snapshot) {
    return wait<Status>(
        [&](StatusCallback done) { disk->create_linked(id, VolumeId(8), source, snapshot, std::move(done)); });
  }
  Status remove(ReplicaId id) {
    return wait<Status>([&](StatusCallback done) { disk->delete_replica(id, std::move(done)); });
  }
  void settle() { world.run_for(2s); }
  Env& env() { return *process->env; }

  sim::World world;
  ModelKvDisk kv;
  StoreOptions options;
  sim::Process* process = nullptr;
  std::unique_ptr<DiskStore> disk;

 private:
  static Task<void> run_open(TestMachine* machine, std::optional<Result<std::unique_ptr<DiskStore>>>* out) {
    Task<Result<std::unique_ptr<DiskStore>>> opening =
        DiskStore::open(machine->env(), machine->options, model_kv(&machine->kv));
    Result<std::unique_ptr<DiskStore>> opened = co_await std::move(opening);
    out->emplace(std::move(opened));
  }
  void abandon() {
    // Reachable for ever, so that leak checkers know it is on purpose.
    static std::vector<DiskStore*>* abandoned = new std::vector<DiskStore*>;
    if (disk) abandoned->push_back(disk.release());
  }
};

// Runs `body` in a process of its own, whose memory goes back at its end: killed simulated processes leave theirs
// behind. False, after its messages were printed, when something in it failed.
template <typename Body>
bool passes_in_child(Body body) {
  std::fflush(nullptr);
  pid_t child = fork();
  if (child == 0) {
    body();
    std::fflush(nullptr);
    _exit(testing::Test::HasFailure() ? 1 : 0);
  }
  int status = 0;
  return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// A block whose content says `tag`; tag 0 is a block of zeros.
inline void fill_block(std::byte* block, std::uint64_t tag) {
  auto* words = reinterpret_cast<std::uint64_t*>(block);
  for (std::size_t i = 0; i < kBlockSize / 8; ++i) words[i] = tag == 0 ? 0 : tag * 0x9E3779B97F4A7C15ull + i;
}
inline std::uint64_t tag_of(const std::byte* block) {
  std::uint64_t word = 0;
  std::memcpy(&word, block, 8);
  std::uint64_t inverse = 0xF1DE83E19937733Dull;  // of the multiplier, modulo 2^64
  std::uint64_t tag = word * inverse;
  std::vector<std::byte> expected(kBlockSize);
  fill_block(expected.data(), tag);
  EXPECT_EQ(std::memcmp(expected.data(), block, kBlockSize), 0) << "a block with mixed content";
  return tag;
}

inline Entry write_entry(Env& env, LogPosition position, BlockRange blocks, std::uint64_t first_tag) {
  Entry entry;
  entry.position = position;
  entry.blocks = blocks;
  // As in a message: the payload last, at the end of a page.
  std::size_t crc_bytes = std::size_t{blocks.count} * 4;
  Slice message = env.buffers().allocate_end_aligned(crc_bytes + std::size_t{blocks.count} * kBlockSize);
  entry.crc = message.sub(0, crc_bytes);
  entry.data = message.sub(crc_bytes, std::size_t{blocks.count} * kBlockSize);
  for (std::uint32_t i = 0; i < blocks.count; ++i) {
    std::byte* block = entry.data.data() + std::size_t{i} * kBlockSize;
    fill_block(block, first_tag + i);
    std::uint32_t crc = crc32c(std::span(block, kBlockSize));
    std::memcpy(entry.crc.data() + std::size_t{i} * 4, &crc, 4);
  }
  return entry;
}
inline Entry zero_entry(LogPosition position, BlockRange blocks) {
  Entry entry;
  entry.position = position;
  entry.op = Op::kZero;
  entry.blocks = blocks;
  entry.deallocate = true;
  return entry;
}
inline Entry resize_entry(LogPosition position, std::uint64_t size_blocks) {
  Entry entry;
  entry.position = position;
  entry.op = Op::kResize;
  entry.size_blocks = size_blocks;
  return entry;
}
inline Entry layer_entry(LogPosition position, Op op, SnapshotId snapshot) {
  Entry entry;
  entry.position = position;
  entry.op = op;
  entry.snapshot = snapshot;
  return entry;
}
inline LogPosition at(std::uint64_t epoch, std::uint64_t seq) { return {Epoch(epoch), Seq(seq)}; }

// Tags of all blocks of an answer; checks CRCs.
inline std::vector<std::uint64_t> tags_of(std::span<const std::uint8_t> present, std::uint32_t count,
                                          std::span<const std::uint32_t> crc, const SliceList& data) {
  std::vector<std::byte> bytes;
  for (const Slice& part : data) {
    EXPECT_EQ(part.size() % kBlockSize, 0u);
    bytes.insert(bytes.end(), part.data(), part.data() + part.size());
  }
  EXPECT_EQ(bytes.size(), crc.size() * kBlockSize);
  std::vector<std::uint64_t> tags;
  std::size_t at_block = 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    if (!(present[i / 8] >> (i % 8) & 1)) {
      tags.push_back(0);
      continue;
    }
    std::byte* block = bytes.data() + at_block * kBlockSize;
    EXPECT_EQ(crc32c(std::span(block, kBlockSize)), crc[at_block]) << "block " << i;
    tags.push_back(tag_of(block));
    ++at_block;
  }
  EXPECT_EQ(at_block, crc.size());
  return tags;
}

}  // namespace holdfast::store
