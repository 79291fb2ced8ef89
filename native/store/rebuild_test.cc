// Rebuilds between two replicas under live writes, interrupted at any point, end with identical copies.
#include "store/damage_mark.h"
#include "store/test_machine.h"

namespace holdfast::store {
namespace {

constexpr std::uint64_t kBlocks = 20 * kBlocksPerChunk + 17;
constexpr std::uint64_t kChunks = 21;
const ReplicaId kSource(1);
const ReplicaId kTarget(2);
const ReplicaId kOrigin(3);
const SnapshotId kOriginal(0xFFFF);

class Rebuild {
 public:
  explicit Rebuild(std::uint64_t seed, bool linked = false) : machine_(seed), random_(seed + 1000) {
    machine_.options.capacity_bytes = 512u << 20;
    EXPECT_TRUE(machine_.open().ok());
    if (linked) {
      make_origin();
      EXPECT_TRUE(machine_.link(kSource, kOrigin, kOriginal).ok());
    } else {
      EXPECT_TRUE(machine_.create(kSource, kBlocks).ok());
    }
  }

  ReplicaStore& source() { return *machine_.disk->find(kSource); }
  ReplicaStore& target() { return *machine_.disk->find(kTarget); }
  TestMachine& machine() { return machine_; }
  sim::Random& random() { return random_; }

  // One entry for the volume; to the target too when it takes part.
  void write(bool to_target) {
    std::uint64_t seq = source().info().last.seq.value() + 1;
    std::uint64_t first = random_.below(kBlocks);
    auto count = static_cast<std::uint32_t>(std::min(random_.between(1, 100), kBlocks - first));
    if (random_.chance(1, 4)) {
      first = random_.below(kChunks - 2) * kBlocksPerChunk;
      count = 2 * kBlocksPerChunk;
    }
    BlockRange blocks{BlockIndex(first), count};
    bool zero = random_.chance(1, 4);
    std::uint64_t tag = next_tag_;
    next_tag_ += count;
    auto entry = [&] {
      return zero ? zero_entry(at(epoch_, seq), blocks) : write_entry(machine_.env(), at(epoch_, seq), blocks, tag);
    };
    int missing = to_target ? 2 : 1;
    auto done = [&missing](Status status) {
      EXPECT_TRUE(status.ok()) << status.error().to_string();
      --missing;
    };
    source().append(entry(), done);
    if (to_target) target().append(entry(), done);
    EXPECT_TRUE(machine_.world.run_until([&] { return missing == 0; }, 10s));
    if (random_.chance(3, 4)) {
      source().set_committed(Seq(seq));
      if (to_target) target().set_committed(Seq(seq));
    }
    if (random_.chance(1, 10)) machine_.world.run_for(600ms);
  }

  // Waits until the replica has journalled the entry.
  void append(ReplicaStore& replica, Entry entry) {
    Status status =
        machine_.wait<Status>([&](StatusCallback done) { replica.append(std::move(entry), std::move(done)); });
    EXPECT_TRUE(status.ok()) << status.error().to_string();
  }

  // Takes, drops or reverts to a snapshot, each of these replicas in the same way.
  void change_layers(std::span<ReplicaStore* const> replicas) {
    std::vector<SnapshotInfo> known = replicas.front()->snapshots();
    bool create = known.empty() || (known.size() < 5 && random_.chance(1, 2));
    Op op = create ? Op::kSnapshot : random_.chance(1, 4) ? Op::kRevert : Op::kDropSnapshot;
    SnapshotId id = create ? SnapshotId(next_tag_++) : known[random_.below(known.size())].id;
    for (ReplicaStore* replica : replicas) {
      // A revert is taken when all before it is applied, and applied before anything after it is taken.
      replica->set_committed(replica->info().last.seq);
      append(*replica, layer_entry(at(epoch_, replica->info().last.seq.value() + 1), op, id));
      replica->set_committed(replica->info().last.seq);
    }
  }

  // Entries of one replica alone.
  void go_astray() {
    ReplicaStore* replica = &target();
    for (std::uint64_t left = random_.below(6); left > 0; --left) {
      if (random_.chance(1, 2)) {
        change_layers(std::span(&replica, 1));
        continue;
      }
      BlockRange blocks{BlockIndex(random_.below(kBlocks - 100)), static_cast<std::uint32_t>(random_.between(1, 100))};
      LogPosition position = at(epoch_, replica->info().last.seq.value() + 1);
      append(*replica, random_.chance(1, 4) ? zero_entry(position, blocks)
                                            : write_entry(machine_.env(), position, blocks, 900'000));
      if (random_.chance(1, 2)) replica->set_committed(position.seq);
    }
    if (random_.chance(1, 2)) machine_.settle();
  }

  // What the engine and the replica process do: the target's log restarts behind the source's, and its layers become
  // those of the source. Entries of the source that change layers are committed.
  Status join(Seq base) {
    ReplicaInfo info = source().info();
    JoinRequest request{info.last.seq.next(), base, info.size_blocks, info.history};
    Status joined = machine_.wait<Status>([&](StatusCallback done) { target().join(request, std::move(done)); });
    if (!joined.ok()) return joined;
    auto layers = machine_.wait<Result<LayerState>>([&](auto done) { source().layers(std::move(done)); });
    if (!layers.ok()) return layers.status();
    LogPosition revision = layers->revision;
    Status adopted = machine_.wait<Status>(
        [&](StatusCallback done) { target().adopt_layers(std::move(layers).value(), std::move(done)); });
    if (!adopted.ok()) return adopted;
    // It may be a source itself one day: whoever lists its layers then must not be told that they have changed since.
    EXPECT_EQ(target().layers_revision(), revision);
    EXPECT_EQ(target().layers_rearranged(), revision);
    return adopted;
  }

  // Walks all chunks with live writes in between; returns how many were copied, nullopt when interrupted.
  std::optional<std::size_t> pull(bool may_interrupt) {
    std::size_t copied = 0;
    Seq base = target().info().base;
    for (std::uint64_t first = 0; first < kChunks; first += 6) {
      ChunkIndex begin(first);
      ChunkIndex end(std::min(first + 6, kChunks));
      auto theirs = machine_.wait<Result<std::vector<ChunkVersion>>>(
          [&](auto done) { source().list_chunks(begin, end, base, 1000, std::move(done)); });
      EXPECT_TRUE(theirs.ok());
      maybe_write();
      auto unknown = machine_.wait<Result<std::vector<ChunkLayer>>>(
          [&](auto done) { target().unknown_chunks(begin, end, *theirs, std::move(done)); });
      EXPECT_TRUE(unknown.ok());
      for (ChunkLayer chunk : *unknown) {
        maybe_write();
        auto content =
            machine_.wait<Result<ChunkContent>>([&](auto done) { source().read_layer(chunk, std::move(done)); });
        EXPECT_TRUE(content.ok());
        maybe_write();
        std::optional<Status> filled;
        target().fill_chunk(chunk, std::move(content).value(), [&](Status status) { filled = std::move(status); });
        maybe_write();
        EXPECT_TRUE(machine_.world.run_until([&] { return filled.has_value(); }, 10s));
        EXPECT_TRUE(filled->ok()) << filled->error().to_string();
        ++copied;
        if (may_interrupt && random_.chance(1, 12)) return std::nullopt;
      }
    }
    Status finished = machine_.wait<Status>([&](StatusCallback done) { target().finish_rebuild(std::move(done)); });
    EXPECT_TRUE(finished.ok());
    EXPECT_TRUE(target().info().complete);
    return copied;
  }

  void stop_and_open() {
    if (random_.chance(1, 3)) {
      machine_.kill();
    } else if (random_.chance(1, 2)) {
      // What is not flushed may be lost on both; flush so that the source stays the volume.
      auto flushed = machine_.wait<Status>([&](StatusCallback done) { source().flush(std::move(done)); });
      EXPECT_TRUE(flushed.ok());
      machine_.power_off();
    } else {
      return;
    }
    EXPECT_TRUE(machine_.open().ok());
    ++epoch_;
  }

  void expect_identical() {
    commit_all();
    machine_.settle();
    EXPECT_EQ(source().info().applied, source().info().last.seq);
    EXPECT_EQ(target().info().applied, target().info().last.seq);
    EXPECT_EQ(content_of(source()), content_of(target()));
    std::uint64_t used = 0;
    for (ReplicaId id : machine_.disk->list()) used += machine_.disk->find(id)->info().used_bytes;
    EXPECT_EQ(machine_.disk->space().used_bytes, used + machine_.disk->space().left_bytes);
    // What is shared counts elsewhere.
    if (machine_.disk->list().size() > 2 || machine_.disk->space().left_bytes > 0) return;
    EXPECT_EQ(source().info().used_bytes, target().info().used_bytes);
  }

  // A volume of its own that source, or target, or both are linked to.
  void make_origin() {
    EXPECT_TRUE(machine_.create(kOrigin, kBlocks).ok());
    ReplicaStore& origin = *machine_.disk->find(kOrigin);
    for (std::uint64_t seq = 1; seq <= 20; ++seq) {
      BlockRange blocks{BlockIndex(random_.below(kBlocks - 100)), static_cast<std::uint32_t>(random_.between(1, 100))};
      bool zero = random_.chance(1, 5);
      append(origin, zero ? zero_entry(at(1, seq), blocks)
                          : write_entry(machine_.env(), at(1, seq), blocks, 500'000 + seq * 1'000));
      origin.set_committed(Seq(seq));
    }
    append(origin, layer_entry(at(1, 21), Op::kSnapshot, kOriginal));
    origin.set_committed(Seq(21));
  }

  // A clone of one of the replica's snapshots, whose content nothing may change.
  void make_clone(ReplicaStore& replica) {
    std::vector<SnapshotInfo> known = replica.snapshots();
    if (known.empty()) return;
    SnapshotId snapshot = known[random_.below(known.size())].id;
    replica.set_committed(replica.info().last.seq);
    Clone clone{ReplicaId(100 + clones_.size()), content_of(replica, snapshot)};
    Status linked = machine_.link(clone.id, replica.info().id, snapshot);
    EXPECT_TRUE(linked.ok()) << linked.error().to_string();
    clones_.push_back(std::move(clone));
  }
  void expect_clones_unchanged() {
    for (const Clone& clone : clones_) EXPECT_EQ(content_of(*machine_.disk->find(clone.id)), clone.content);
  }
  // Whatever goes first, the rest keeps what it has, and in the end nothing is left.
  void remove_all() {
    std::vector<ReplicaId> left = machine_.disk->list();
    while (!left.empty()) {
      auto gone = left.begin() + static_cast<std::ptrdiff_t>(random_.below(left.size()));
      EXPECT_TRUE(machine_.remove(*gone).ok());
      std::erase_if(clones_, [&](const Clone& clone) { return clone.id == *gone; });
      left.erase(gone);
      expect_clones_unchanged();
    }
    machine_.settle();
    EXPECT_EQ(machine_.disk->space().used_bytes, 0u);
  }
  void expect_identical_snapshots() {
    std::vector<SnapshotInfo> ours = source().snapshots();
    std::vector<SnapshotInfo> theirs = target().snapshots();
    ASSERT_EQ(ours.size(), theirs.size());
    for (std::size_t i = 0; i < ours.size(); ++i) {
      EXPECT_EQ(ours[i].id, theirs[i].id);
      EXPECT_EQ(content_of(source(), ours[i].id), content_of(target(), ours[i].id));
    }
  }
  std::vector<std::uint64_t> content_of(ReplicaStore& replica, std::optional<SnapshotId> snapshot = std::nullopt) {
    std::vector<std::uint64_t> all;
    for (std::uint64_t first = 0; first < kBlocks; first += 256) {
      BlockRange blocks{BlockIndex(first), static_cast<std::uint32_t>(std::min<std::uint64_t>(256, kBlocks - first))};
      auto read = machine_.wait<Result<ReadOutcome>>([&](Callback<void(Result<ReadOutcome>)> done) {
        if (snapshot) return replica.read_snapshot(*snapshot, blocks, false, std::move(done));
        replica.read(blocks, std::move(done));
      });
      EXPECT_TRUE(read.ok()) << read.error().to_string();
      if (!read.ok()) return all;
      std::vector<std::uint64_t> tags = tags_of(read->present, blocks.count, read->crc, read->data);
      all.insert(all.end(), tags.begin(), tags.end());
    }
    return all;
  }
  void commit_all() {
    source().set_committed(source().info().last.seq);
    target().set_committed(target().info().last.seq);
  }

  bool live_ = false;
  bool live_snapshots_ = false;
  std::uint64_t epoch_ = 1;

 private:
  struct Clone {
    ReplicaId id;
    std::vector<std::uint64_t> content;
  };
  void maybe_write() {
    if (live_ && live_snapshots_ && random_.chance(1, 20)) take_snapshot_live();
    if (live_ && random_.chance(1, 3)) write(true);
  }
  // While the target is being rebuilt. It may be applied on either side at any time later.
  void take_snapshot_live() {
    SnapshotId id(next_tag_++);
    std::uint64_t seq = source().info().last.seq.value() + 1;
    append(source(), layer_entry(at(epoch_, seq), Op::kSnapshot, id));
    append(target(), layer_entry(at(epoch_, seq), Op::kSnapshot, id));
    if (random_.chance(1, 2)) source().set_committed(Seq(seq));
    if (random_.chance(1, 2)) target().set_committed(Seq(seq));
  }

  TestMachine machine_;
  sim::Random random_;
  std::uint64_t next_tag_ = 1;
  std::vector<Clone> clones_;
};

void rebuild_with_interruptions(std::uint64_t seed) {
  Rebuild rebuild(seed);
  for (int i = 0; i < 30; ++i) rebuild.write(false);
  ASSERT_TRUE(rebuild.machine().create(kTarget, kBlocks, false).ok());
  rebuild.live_ = true;
  for (int tries = 0;; ++tries) {
    ASSERT_TRUE(rebuild.join(Seq(0)).ok());
    if (rebuild.pull(tries < 5)) break;
    rebuild.stop_and_open();
  }
  for (int i = 0; i < 10; ++i) rebuild.write(true);
  rebuild.expect_identical();
}

void rebuild_from_base(std::uint64_t seed) {
  Rebuild rebuild(seed);
  ASSERT_TRUE(rebuild.machine().create(kTarget, kBlocks).ok());
  for (int i = 0; i < 30; ++i) rebuild.write(true);
  rebuild.commit_all();
  Seq base = rebuild.source().info().last.seq;
  // The target goes its own way for an entry that the volume never has, in an epoch of its own.
  if (seed % 2 == 0) {
    Entry stray = write_entry(rebuild.machine().env(), at(1, base.value() + 1), {BlockIndex(70), 5}, 900'000);
    ASSERT_TRUE(
        rebuild.machine()
            .wait<Status>([&](StatusCallback done) { rebuild.target().append(std::move(stray), std::move(done)); })
            .ok());
    if (seed % 4 == 0) rebuild.target().set_committed(base.next());
    rebuild.machine().settle();
  }
  rebuild.epoch_ = 2;
  rebuild.write(false);
  rebuild.stop_and_open();
  rebuild.epoch_ = 3;
  ASSERT_TRUE(rebuild.join(base).ok());
  std::optional<std::size_t> copied = rebuild.pull(false);
  ASSERT_TRUE(copied.has_value());
  EXPECT_LE(*copied, 4u);
  rebuild.expect_identical();
}

// Both sides change snapshots in ways of their own before the first join; the volume changes them between joins, too.
void rebuild_layers(std::uint64_t seed, bool clones) {
  // A replica that is linked and one that is not are equal to everybody else, in content, versions and digests.
  Rebuild rebuild(seed, clones);
  if (clones && seed % 3 > 0) {
    ASSERT_TRUE(rebuild.machine().link(kTarget, kOrigin, kOriginal).ok());
    ASSERT_TRUE(seed % 3 == 1 || rebuild.machine().remove(kOrigin).ok());
  } else if (clones) {
    ASSERT_TRUE(rebuild.machine().create(kTarget, kBlocks, false).ok());
    ASSERT_TRUE(rebuild.join(Seq(0)).ok());
    ASSERT_TRUE(rebuild.pull(false).has_value());
  } else {
    ASSERT_TRUE(rebuild.machine().create(kTarget, kBlocks).ok());
  }
  rebuild.live_snapshots_ = seed % 2 == 0;
  std::vector<ReplicaStore*> both = {&rebuild.source(), &rebuild.target()};
  for (int i = 0; i < 40; ++i) {
    if (rebuild.random().chance(1, 6)) {
      rebuild.change_layers(both);
    } else {
      rebuild.write(true);
    }
  }
  Seq base = rebuild.source().info().last.seq;
  for (int i = 0; clones && i < 2; ++i) rebuild.make_clone(*both[rebuild.random().below(2)]);
  rebuild.go_astray();
  if (clones && rebuild.random().chance(1, 2)) rebuild.make_clone(rebuild.target());
  for (int tries = 0;; ++tries) {
    ++rebuild.epoch_;
    rebuild.live_ = false;
    for (std::uint64_t left = rebuild.random().below(6); left > 0; --left) {
      ReplicaStore* source = &rebuild.source();
      if (rebuild.random().chance(1, 3)) {
        rebuild.change_layers(std::span(&source, 1));
      } else {
        rebuild.write(false);
      }
    }
    rebuild.stop_and_open();
    // Those that a restart found in the journal are committed again.
    rebuild.source().set_committed(rebuild.source().info().last.seq);
    if (clones && rebuild.random().chance(1, 3)) rebuild.make_clone(rebuild.source());
    if (!rebuild.target().info().complete) base = std::min(base, rebuild.target().info().base);
    ASSERT_TRUE(rebuild.join(base).ok());
    rebuild.live_ = true;
    if (rebuild.pull(tries < 5)) break;
  }
  for (int i = 0; i < 10; ++i) rebuild.write(true);
  rebuild.expect_identical();
  rebuild.expect_identical_snapshots();
  rebuild.expect_clones_unchanged();
  if (clones) rebuild.remove_all();
}

TEST(StoreRebuild, CopiesEverythingUnderLiveWritesThroughInterruptions) {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    ASSERT_TRUE(passes_in_child([seed] { rebuild_with_interruptions(seed); })) << "seed " << seed;
  }
}

TEST(StoreRebuild, DeltaCopiesOnlyWhatChangedOnEitherSide) {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    ASSERT_TRUE(passes_in_child([seed] { rebuild_from_base(seed); })) << "seed " << seed;
  }
}

TEST(StoreRebuild, LayersBecomeThoseOfTheVolumeWhateverBothSidesDid) {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    ASSERT_TRUE(passes_in_child([seed] { rebuild_layers(seed, false); })) << "seed " << seed;
  }
}

// The target dropped a snapshot by an entry that the volume never has, so its head's record holds what the volume has
// in the layer below, too. The layer below is filled first and hidden by that record, until the head is filled.
TEST(StoreRebuild, LinkedClonesKeepTheirContentThroughRebuildsOfAllSides) {
  std::uint64_t seeds = 90;
  if (const char* text = std::getenv("HOLDFAST_STORE_SEEDS")) seeds = std::strtoull(text, nullptr, 10);
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    ASSERT_TRUE(passes_in_child([seed] { rebuild_layers(seed, true); })) << "seed " << seed;
  }
}

TEST(StoreRebuild, BlocksThatAFillNoLongerHidesAreSeen) {
  Rebuild rebuild(1);
  Env& env = rebuild.machine().env();
  ASSERT_TRUE(rebuild.machine().create(kTarget, kBlocks).ok());
  for (ReplicaStore* replica : {&rebuild.source(), &rebuild.target()}) {
    rebuild.append(*replica, write_entry(env, at(1, 1), {BlockIndex(0), 1}, 10));
    rebuild.append(*replica, layer_entry(at(1, 2), Op::kSnapshot, SnapshotId(5)));
    rebuild.append(*replica, write_entry(env, at(1, 3), {BlockIndex(1), 1}, 20));
  }
  rebuild.append(rebuild.target(), layer_entry(at(1, 4), Op::kDropSnapshot, SnapshotId(5)));
  rebuild.append(rebuild.source(), write_entry(env, at(2, 4), {BlockIndex(2), 1}, 30));
  rebuild.commit_all();
  rebuild.machine().settle();
  ASSERT_TRUE(rebuild.join(Seq(3)).ok());
  EXPECT_EQ(rebuild.target().info().base, Seq(0)) << "the snapshot cannot be brought back";
  EXPECT_EQ(rebuild.pull(false), std::optional<std::size_t>(2)) << "both layers of the chunk";
  EXPECT_EQ(rebuild.content_of(rebuild.source())[0], 10u);
  EXPECT_EQ(rebuild.content_of(rebuild.target())[0], 10u);
  rebuild.expect_identical();
}

// The target took and dropped a snapshot by entries that the volume never has: what it had of a chunk before went into
// a layer that the volume does not have, or has for something else.
void rebuild_after_stray_merge(bool volume_takes_one) {
  Rebuild rebuild(1);
  Env& env = rebuild.machine().env();
  ASSERT_TRUE(rebuild.machine().create(kTarget, kBlocks).ok());
  for (ReplicaStore* replica : {&rebuild.source(), &rebuild.target()}) {
    rebuild.append(*replica, write_entry(env, at(1, 1), {BlockIndex(0), 2}, 10));
  }
  rebuild.append(rebuild.target(), layer_entry(at(1, 2), Op::kSnapshot, SnapshotId(5)));
  rebuild.append(rebuild.target(), write_entry(env, at(1, 3), {BlockIndex(1), 1}, 20));
  rebuild.append(rebuild.target(), layer_entry(at(1, 4), Op::kDropSnapshot, SnapshotId(5)));
  Entry next = volume_takes_one ? layer_entry(at(2, 2), Op::kSnapshot, SnapshotId(6))
                                : write_entry(env, at(2, 2), {BlockIndex(100), 1}, 30);
  rebuild.append(rebuild.source(), std::move(next));
  rebuild.commit_all();
  rebuild.machine().settle();
  ASSERT_TRUE(rebuild.join(Seq(1)).ok());
  ASSERT_TRUE(rebuild.pull(false).has_value());
  EXPECT_EQ(rebuild.content_of(rebuild.target())[0], 10u);
  EXPECT_EQ(rebuild.content_of(rebuild.target())[1], 11u);
  rebuild.expect_identical();
  rebuild.expect_identical_snapshots();
}

TEST(StoreRebuild, WhatAStrayDropMovedIsFetchedAgain) {
  rebuild_after_stray_merge(false);
  rebuild_after_stray_merge(true);
}

// The volume has one layer only; records in others must not come to light with its first snapshot.
TEST(StoreRebuild, RecordsOfAStraySnapshotAreRemoved) {
  Rebuild rebuild(1);
  Env& env = rebuild.machine().env();
  ASSERT_TRUE(rebuild.machine().create(kTarget, kBlocks).ok());
  std::vector<ReplicaStore*> both = {&rebuild.source(), &rebuild.target()};
  for (ReplicaStore* replica : both) {
    rebuild.append(*replica, write_entry(env, at(1, 1), {BlockIndex(0), 2}, 10));
  }
  rebuild.append(rebuild.target(), layer_entry(at(1, 2), Op::kSnapshot, SnapshotId(5)));
  rebuild.append(rebuild.target(), write_entry(env, at(1, 3), {BlockIndex(1), 1}, 20));
  rebuild.append(rebuild.source(), write_entry(env, at(2, 2), {BlockIndex(100), 1}, 30));
  rebuild.commit_all();
  rebuild.machine().settle();
  ASSERT_TRUE(rebuild.join(Seq(1)).ok());
  ASSERT_TRUE(rebuild.pull(false).has_value());
  rebuild.expect_identical();
  for (ReplicaStore* replica : both) {
    rebuild.append(*replica, layer_entry(at(2, 3), Op::kSnapshot, SnapshotId(6)));
    rebuild.append(*replica, write_entry(env, at(2, 4), {BlockIndex(0), 1}, 40));
  }
  rebuild.expect_identical();
  rebuild.expect_identical_snapshots();
}

TEST(StoreRebuild, IncompleteReplicasRefuseReads) {
  Rebuild rebuild(1);
  ASSERT_TRUE(rebuild.machine().create(kTarget, kBlocks, false).ok());
  auto read = rebuild.machine().wait<Result<ReadOutcome>>([&](auto done) {
    rebuild.target().read({BlockIndex(0), 1}, std::move(done));
  });
  ASSERT_FALSE(read.ok());
  EXPECT_EQ(read.error().code(), ErrorCode::kReplicaIncomplete);
}

TEST(StoreRebuild, FillsWithWrongContentAreRefused) {
  Rebuild rebuild(1);
  ASSERT_TRUE(rebuild.machine().create(kTarget, kBlocks, false).ok());
  ASSERT_TRUE(rebuild.join(Seq(0)).ok());
  ChunkContent content;
  content.present = 1;
  content.crc = {123};
  content.data.push_back(rebuild.machine().env().buffers().allocate(kBlockSize));
  std::memset(content.data[0].data(), 1, kBlockSize);
  Status filled = rebuild.machine().wait<Status>(
      [&](StatusCallback done) { rebuild.target().fill_chunk({ChunkIndex(0)}, std::move(content), std::move(done)); });
  ASSERT_FALSE(filled.ok());
  EXPECT_EQ(filled.error().code(), ErrorCode::kCorrupt);
}

// More than one round stores: who fetched them waits for all of them, and sends no more.
TEST(StoreRebuild, FillsThatARoundLeavesOverDoNotWaitForWorkToCome) {
  TestMachine machine(1);
  ASSERT_TRUE(machine.open().ok() && machine.create(kTarget, 160 * kBlocksPerChunk, false).ok());
  ReplicaStore& target = *machine.disk->find(kTarget);
  JoinRequest join{Seq(1), Seq(0), 160 * kBlocksPerChunk, {}};
  ASSERT_TRUE(machine.wait<Status>([&](StatusCallback done) { target.join(join, std::move(done)); }).ok());
  Slice data = write_entry(machine.env(), at(1, 1), {BlockIndex(0), 1}, 5).data;
  unsigned stored = 0;
  for (std::uint64_t chunk = 0; chunk < 160; ++chunk) {
    ChunkContent content{at(1, 1), Seq(1), 1, 0, {crc32c(data.bytes())}, {data}, 0};
    target.fill_chunk({ChunkIndex(chunk)}, content, [&stored](Status status) { stored += status.ok() ? 1 : 0; });
  }
  machine.world.run_for(400ms);
  EXPECT_EQ(stored, 160u);
}

// What a block ought to hold stays known, and that it does not.
TEST(StoreRebuild, DamagedBlocksKeepTheirCrcAndDoNotMatchIt) {
  Rebuild rebuild(1);
  ASSERT_TRUE(rebuild.machine().create(kTarget, kBlocks, false).ok());
  ASSERT_TRUE(rebuild.join(Seq(0)).ok());
  Slice data = rebuild.machine().env().buffers().allocate(2 * kBlockSize);
  fill_block(data.data(), 5);
  fill_block(data.data() + kBlockSize, 6);
  ChunkContent content{at(1, 1), Seq(1), 0b11, 0, {crc32c(data.bytes().first(kBlockSize)), 123}, {data}, 0b110};
  auto fill = [&] {
    return rebuild.machine().wait<Status>(
        [&](StatusCallback done) { rebuild.target().fill_chunk({ChunkIndex(0)}, content, std::move(done)); });
  };
  Status refused = fill();  // block 2 is not there
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code(), ErrorCode::kInvalidArgument);
  content.damaged = 0b10;
  ASSERT_TRUE(fill().ok());
  EXPECT_EQ(tag_of(data.data() + kBlockSize), 6u) << "the caller's memory is its own";
  ASSERT_TRUE(rebuild.machine()
                  .wait<Status>([&](StatusCallback done) { rebuild.target().finish_rebuild(std::move(done)); })
                  .ok());
  auto read = rebuild.machine().wait<Result<ReadOutcome>>([&](auto done) {
    rebuild.target().read({BlockIndex(0), 2}, std::move(done));
  });
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->crc, content.crc);
  std::string bytes;
  for (const Slice& part : read->data) bytes += part.text();
  ASSERT_EQ(bytes.size(), 2 * kBlockSize);
  std::span<const std::byte> first = as_bytes(bytes).first(kBlockSize), second = as_bytes(bytes).last(kBlockSize);
  EXPECT_EQ(tag_of(first.data()), 5u);
  EXPECT_NE(crc32c(second), 123u);
  EXPECT_TRUE(is_damage_mark(second, 123));
}

// Entries that were never committed keep their place in the journal. Nobody may ever come for them: an engine died, and
// its volume stays detached.
class UncommittedLog : public testing::Test {
 protected:
  UncommittedLog() : machine_(77) {
    machine_.options.journal_bytes = 4u << 20;
    EXPECT_TRUE(machine_.open().ok());
    EXPECT_TRUE(machine_.create(kTarget, kBlocks).ok());
    EXPECT_TRUE(machine_.create(kSource, kBlocks).ok());
  }
  ReplicaStore& left() { return *machine_.disk->find(kTarget); }
  ReplicaStore& other() { return *machine_.disk->find(kSource); }
  Status append(ReplicaStore& replica, Entry entry) {
    return machine_.wait<Status>([&](StatusCallback done) { replica.append(std::move(entry), std::move(done)); });
  }
  // So many entries of 32 KiB go through the journal behind what is there.
  void write_others(std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; ++i) {
      ++sent_;
      Status status = append(other(), write_entry(machine_.env(), at(1, sent_), blocks_, sent_ * 8));
      ASSERT_TRUE(status.ok()) << status.error().to_string();
      other().set_committed(Seq(sent_));
    }
  }

  TestMachine machine_;
  BlockRange blocks_{BlockIndex(0), 8};
  std::uint64_t sent_ = 0;
};

TEST_F(UncommittedLog, DoesNotHoldUpOtherReplicasOfTheDisk) {
  for (std::uint64_t seq = 1; seq <= 3; ++seq) {
    ASSERT_TRUE(append(left(), write_entry(machine_.env(), at(1, seq), blocks_, seq * 100)).ok());
  }
  left().set_committed(Seq(1));
  machine_.settle();
  EXPECT_EQ(left().info().applied, Seq(1)) << "while there is room they wait";
  write_others(1'000);  // the ring holds 120 of them
  EXPECT_EQ(left().info().applied, Seq(3));
  EXPECT_EQ(left().info().committed, Seq(1));
  EXPECT_EQ(left().info().last, at(1, 3));
  // What is not known to be committed tells nobody which snapshots there are; also after a restart.
  auto refused = [&] {
    auto layers = machine_.wait<Result<LayerState>>([&](auto done) { left().layers(std::move(done)); });
    return !layers.ok() && layers.error().code() == ErrorCode::kFailedPrecondition;
  };
  EXPECT_TRUE(refused());
  machine_.kill();
  ASSERT_TRUE(machine_.open().ok());
  EXPECT_EQ(left().info().committed, Seq(1));
  EXPECT_EQ(left().info().last, at(1, 3));
  EXPECT_TRUE(refused());
  // An engine comes, and goes on.
  ASSERT_TRUE(append(left(), write_entry(machine_.env(), at(2, 4), blocks_, 400)).ok());
  left().set_committed(Seq(4));
  machine_.settle();
  EXPECT_EQ(left().info().applied, Seq(4));
  EXPECT_EQ(left().info().committed, Seq(4));
  EXPECT_FALSE(refused());
}

TEST_F(UncommittedLog, IsUndoneByAJoin) {
  ASSERT_TRUE(append(left(), write_entry(machine_.env(), at(1, 1), blocks_, 100)).ok());
  left().set_committed(Seq(1));
  ASSERT_TRUE(append(left(), write_entry(machine_.env(), at(1, 2), blocks_, 200)).ok());
  write_others(1'000);
  ASSERT_EQ(left().info().applied, Seq(2));
  // The volume went on from entry 1 without entry 2.
  Status joined = machine_.wait<Status>([&](StatusCallback done) {
    left().join({Seq(2), Seq(1), kBlocks, {{Epoch(1), Seq(1)}}}, std::move(done));
  });
  ASSERT_TRUE(joined.ok());
  auto unknown = machine_.wait<Result<std::vector<ChunkLayer>>>(
      [&](auto done) { left().unknown_chunks(ChunkIndex(0), ChunkIndex(kChunks), {}, std::move(done)); });
  ASSERT_TRUE(unknown.ok());
  ASSERT_EQ(unknown->size(), 1u) << "the chunk that entry 2 changed is fetched again";
  EXPECT_EQ((*unknown)[0].chunk, ChunkIndex(0));
}

// A join has work noted that is under way already. Writers must not wait for that when it is done.
TEST(StoreRebuild, AfterAJoinNothingUncommittedIsWaitedFor) {
  TestMachine machine(79);
  machine.options.cache_bytes = 256u << 10;
  ASSERT_TRUE(machine.open().ok());
  ASSERT_TRUE(machine.create(kTarget, kBlocks).ok());
  ReplicaStore& joiner = *machine.disk->find(kTarget);
  auto append = [&](LogPosition position) {
    return machine.wait<Status>([&](StatusCallback done) {
      joiner.append(write_entry(machine.env(), position, {BlockIndex(position.seq.value()), 1}, 1), std::move(done));
    });
  };
  for (std::uint64_t seq = 1; seq <= 3; ++seq) ASSERT_TRUE(append(at(1, seq)).ok());
  Status joined = machine.wait<Status>([&](StatusCallback done) {
    joiner.join({Seq(4), Seq(0), kBlocks, {{Epoch(1), Seq(1)}}}, std::move(done));
  });
  ASSERT_TRUE(joined.ok());
  // More than the cache holds, and nothing of it may be applied.
  for (std::uint64_t seq = 4; seq < 104; ++seq) ASSERT_TRUE(append(at(1, seq)).ok());
  EXPECT_GT(machine.disk->space().cached_bytes, machine.options.cache_bytes);
  EXPECT_TRUE(joiner.accepts_more());
}

// Hosts of other volumes on the disk may write without end.
TEST(StoreRebuild, AJoinDoesNotWaitForOtherReplicasOfTheDisk) {
  TestMachine machine(78);
  ASSERT_TRUE(machine.open().ok());
  ASSERT_TRUE(machine.create(kTarget, kBlocks).ok());
  ASSERT_TRUE(machine.create(kSource, kBlocks).ok());
  ReplicaStore& joiner = *machine.disk->find(kTarget);
  ReplicaStore& other = *machine.disk->find(kSource);
  BlockRange blocks{BlockIndex(0), 8};
  Status uncommitted = machine.wait<Status>(
      [&](StatusCallback done) { joiner.append(write_entry(machine.env(), at(1, 1), blocks, 1), std::move(done)); });
  ASSERT_TRUE(uncommitted.ok());
  // Sixteen at once, for ever: a round of the destager never ends without another's work.
  std::uint64_t sent = 0;
  bool writing = true;
  std::function<void()> write_one = [&] {
    std::uint64_t seq = ++sent;
    other.append(write_entry(machine.env(), at(1, seq), blocks, seq * 8), [&, seq](Status status) {
      EXPECT_TRUE(status.ok());
      other.set_committed(Seq(seq));
      if (writing) write_one();
    });
  };
  for (int i = 0; i < 16; ++i) write_one();
  std::optional<Status> joined;
  joiner.join({Seq(2), Seq(0), kBlocks, {{Epoch(1), Seq(1)}}}, [&](Status status) { joined = std::move(status); });
  EXPECT_TRUE(machine.world.run_until([&] { return joined.has_value(); }, 5s));
  writing = false;
  ASSERT_TRUE(joined.has_value());
  EXPECT_TRUE(joined->ok());
  EXPECT_GT(sent, 100u) << "the other replica was written meanwhile";
  machine.world.run_for(2s);
}

}  // namespace
}  // namespace holdfast::store
