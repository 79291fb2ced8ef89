// Random operations on several replicas, with stops of every kind at any point, equal flat arrays of blocks: one for
// the volume and one for each snapshot.
#include <cstdio>
#include <list>
#include <map>

#include "base/log.h"
#include "store/test_machine.h"

namespace holdfast::store {
namespace {

// What one replica should hold: its log since the beginning, and the content that follows from a prefix of it.
struct ModelReplica {
  struct Step {
    Op op;
    BlockRange blocks;
    std::uint64_t tag = 0;
    std::uint64_t size_blocks = 0;
    SnapshotId snapshot;

    bool changes_blocks() const { return op == Op::kWrite || op == Op::kZero; }
  };
  struct Content {
    std::vector<std::uint64_t> head;
    std::map<SnapshotId, std::vector<std::uint64_t>> snapshots;
  };
  ReplicaId id;
  std::uint64_t size_blocks = 0;
  std::vector<std::uint64_t> initial;
  std::uint64_t first = 0;  // seq before the first step: 1 of a linked clone
  std::vector<Step> steps;  // entry of seq first + i + 1
  std::uint64_t acknowledged = 0;
  std::uint64_t flushed = 0;
  std::uint64_t committed = 0;
  Epoch epoch{1};

  Seq next_seq() const { return Seq(first + steps.size() + 1); }
  // As of the first `entries` entries.
  Content content(std::size_t entries) const {
    Content now{initial, {}};
    for (const Step& step : std::span(steps).first(entries)) {
      std::size_t size = now.head.size();
      if (step.op == Op::kResize) now.head.resize(step.size_blocks);
      if (step.op == Op::kSnapshot) now.snapshots[step.snapshot] = now.head;
      if (step.op == Op::kDropSnapshot) now.snapshots.erase(step.snapshot);
      if (step.op == Op::kRevert) {
        now.head = now.snapshots[step.snapshot];
        now.head.resize(size);
      }
      for (std::uint32_t i = 0; step.changes_blocks() && i < step.blocks.count; ++i) {
        now.head[step.blocks.begin() + i] = step.op == Op::kWrite ? step.tag + i : 0;
      }
    }
    return now;
  }
  std::vector<SnapshotId> snapshots() const {
    std::vector<SnapshotId> ids;
    for (const Step& step : steps) {
      if (step.op == Op::kSnapshot) ids.push_back(step.snapshot);
      if (step.op == Op::kDropSnapshot) std::erase(ids, step.snapshot);
    }
    return ids;
  }
};

// By replica: entries up to here may be applied whatever is committed.
std::map<ReplicaId, std::uint64_t> applied_uncommitted;

class Model {
 public:
  explicit Model(std::uint64_t seed) : machine_(seed), random_(seed * 77 + 5) {
    machine_.options.capacity_bytes = 256u << 20;
  }

  void run(int steps) {
    EXPECT_TRUE(machine_.open().ok());
    for (std::uint64_t i = 1; i <= 3; ++i) {
      ModelReplica replica;
      replica.id = ReplicaId(i);
      replica.size_blocks = random_.between(40, 900);
      replica.initial.resize(replica.size_blocks);
      ASSERT_TRUE(machine_.create(replica.id, replica.size_blocks).ok());
      replicas_.push_back(std::move(replica));
    }
    for (int i = 0; i < steps && !testing::Test::HasFailure(); ++i) step();
    machine_.settle();
    verify_all();
    verify_nothing_is_left_behind();
  }

 private:
  ModelReplica& any() {
    auto at = replicas_.begin();
    std::advance(at, random_.below(replicas_.size()));
    return *at;
  }
  ReplicaStore& store(const ModelReplica& replica) { return *machine_.disk->find(replica.id); }

  void step() {
    switch (random_.below(25)) {
      default:
        return append(any());
      case 12:
      case 13:
      case 14: {
        ModelReplica& replica = any();
        replica.committed = random_.between(replica.committed, replica.acknowledged);
        return store(replica).set_committed(Seq(replica.committed));
      }
      case 15:
      case 16:
        return verify_range(any());
      case 17:
        return flush(any());
      case 18:
        machine_.world.run_for(Nanos(random_.below(3'000'000)));
        return;
      case 19:
        if (random_.chance(1, 4)) machine_.world.run_for(1s);
        return;
      case 20:
        if (random_.chance(1, 6)) restart();
        return;
      case 21:
        if (random_.chance(1, 20)) verify_all();
        return;
      case 22:
        next_epoch(any());
        return;
      case 23:
        if (random_.chance(1, 3)) return make_clone(any());
        if (random_.chance(1, 3) && replicas_.size() > 1) remove(any());
        return;
    }
  }

  // Of what a snapshot holds; it may be a clone's.
  void make_clone(const ModelReplica& source) {
    std::vector<SnapshotId> known = source.snapshots();
    if (known.empty() || replicas_.size() > 8) return;
    SnapshotId snapshot = known[random_.below(known.size())];
    acknowledge_all();
    ModelReplica clone;
    clone.id = ReplicaId(next_replica_++);
    clone.initial = source.content(source.steps.size()).snapshots[snapshot];
    clone.size_blocks = clone.initial.size();
    clone.first = clone.acknowledged = clone.flushed = clone.committed = 1;
    Status linked = machine_.link(clone.id, source.id, snapshot);
    ASSERT_TRUE(linked.ok()) << linked.error().to_string();
    replicas_.push_back(std::move(clone));
  }

  void remove(const ModelReplica& replica) {
    acknowledge_all();
    ReplicaId id = replica.id;
    // Operations under way hold on to it.
    machine_.world.run_for(10ms);
    Status removed = machine_.remove(id);
    ASSERT_TRUE(removed.ok()) << removed.error().to_string();
    std::erase_if(replicas_, [id](const ModelReplica& one) { return one.id == id; });
  }

  static void next_epoch(ModelReplica& replica) { replica.epoch = replica.epoch.next(); }

  BlockRange random_range(const ModelReplica& replica, std::uint32_t longest) {
    std::uint64_t size = replica.size_blocks;
    std::uint64_t first = random_.below(size);
    auto count = static_cast<std::uint32_t>(random_.chance(1, 2) ? random_.between(1, 4) : random_.between(1, longest));
    if (random_.chance(1, 4)) {
      first = first / kBlocksPerChunk * kBlocksPerChunk;
      count = kBlocksPerChunk * static_cast<std::uint32_t>(random_.between(1, 4));
    }
    count = static_cast<std::uint32_t>(std::min<std::uint64_t>(count, size - first));
    return {BlockIndex(first), count};
  }

  void append(ModelReplica& replica) {
    LogPosition position{replica.epoch, replica.next_seq()};
    ModelReplica::Step step{Op::kWrite, {}, 0, 0, {}};
    Entry entry;
    std::uint64_t kind = random_.below(10);
    if (random_.chance(1, 10)) {
      choose_layer_change(replica, step);
      entry = layer_entry(position, step.op, step.snapshot);
    } else if (kind < 7) {
      step.blocks = random_range(replica, kWriteBlocksMax);
      step.tag = next_tag_;
      next_tag_ += step.blocks.count;
      entry = write_entry(machine_.env(), position, step.blocks, step.tag);
    } else if (kind < 9 || replica.size_blocks > 1500) {
      step.op = Op::kZero;
      step.blocks = random_range(replica, 600);
      entry = zero_entry(position, step.blocks);
    } else {
      step.op = Op::kResize;
      step.size_blocks = replica.size_blocks + random_.below(100);
      replica.size_blocks = step.size_blocks;
      entry = resize_entry(position, step.size_blocks);
    }
    replica.steps.push_back(step);
    ModelReplica* acknowledging = &replica;
    store(replica).append(std::move(entry), [acknowledging, seq = position.seq.value()](Status status) {
      EXPECT_TRUE(status.ok()) << status.error().to_string();
      EXPECT_EQ(acknowledging->acknowledged + 1, seq) << "acknowledged out of order";
      acknowledging->acknowledged = seq;
    });
    if (random_.chance(1, 3)) machine_.world.run_for(Nanos(random_.below(400'000)));
  }

  void choose_layer_change(ModelReplica& replica, ModelReplica::Step& step) {
    std::vector<SnapshotId> known = replica.snapshots();
    bool create = known.empty() || (known.size() < 6 && random_.chance(1, 2));
    step.op = create ? Op::kSnapshot : random_.chance(1, 4) ? Op::kRevert : Op::kDropSnapshot;
    step.snapshot = create ? SnapshotId(next_tag_++) : known[random_.below(known.size())];
  }

  void flush(ModelReplica& replica) {
    ModelReplica* flushing = &replica;
    store(replica).flush([flushing, seq = replica.acknowledged](Status status) {
      EXPECT_TRUE(status.ok());
      flushing->flushed = std::max(flushing->flushed, seq);
    });
  }

  // A read with appends, destaging and time passing around it: each block has what it had at the call or got since.
  void verify_range(ModelReplica& replica) {
    BlockRange blocks = random_range(replica, kWriteBlocksMax);
    if (blocks.end() > store(replica).info().size_blocks) return;
    // Entries that wait for room are not part of the log yet.
    std::size_t steps_before = store(replica).info().last.seq.value() - replica.first;
    std::vector<std::uint64_t> before = replica.content(steps_before).head;
    before.resize(replica.size_blocks);
    std::optional<Result<ReadOutcome>> outcome;
    store(replica).read(blocks, [&](Result<ReadOutcome> read) { outcome.emplace(std::move(read)); });
    for (std::uint64_t i = random_.below(3); i > 0; --i) append(replica);
    ASSERT_TRUE(machine_.world.run_until([&] { return outcome.has_value(); }, 60s));
    ASSERT_TRUE(outcome->ok()) << outcome->error().to_string();
    ReadOutcome& read = **outcome;
    std::vector<std::uint64_t> tags = tags_of(read.present, blocks.count, read.crc, read.data);
    for (std::uint32_t i = 0; i < blocks.count; ++i) {
      std::uint64_t block = blocks.begin() + i;
      bool right = tags[i] == before[block];
      for (std::size_t s = steps_before; s < replica.steps.size() && !right; ++s) {
        const ModelReplica::Step& step = replica.steps[s];
        if (step.op == Op::kRevert) right = tags[i] == replica.content(s + 1).head[block];
        if (!step.changes_blocks() || block < step.blocks.begin() || block >= step.blocks.end()) continue;
        right = tags[i] == (step.op == Op::kWrite ? step.tag + (block - step.blocks.begin()) : 0);
      }
      ASSERT_TRUE(right) << "replica " << replica.id.value() << " block " << block << " has " << tags[i] << ", not "
                         << before[block];
    }
  }

  // A small journal may be full of what is not committed; the engine commits what was acknowledged.
  void acknowledge_all() {
    auto done = [&] {
      bool all = true;
      for (ModelReplica& replica : replicas_) {
        replica.committed = replica.acknowledged;
        store(replica).set_committed(Seq(replica.committed));
        all = all && replica.acknowledged == replica.first + replica.steps.size();
      }
      return all;
    };
    ASSERT_TRUE(machine_.world.run_until(done, 60s));
  }

  void verify_all() {
    acknowledge_all();
    for (ModelReplica& replica : replicas_) {
      ModelReplica::Content expected = replica.content(replica.steps.size());
      verify_content(replica, std::nullopt, expected.head);
      std::vector<SnapshotInfo> listed = store(replica).snapshots();
      ASSERT_EQ(listed.size(), expected.snapshots.size()) << "replica " << replica.id.value();
      for (const SnapshotInfo& snapshot : listed) {
        ASSERT_TRUE(expected.snapshots.contains(snapshot.id));
        ASSERT_EQ(snapshot.size_blocks, expected.snapshots[snapshot.id].size());
        verify_content(replica, snapshot.id, expected.snapshots[snapshot.id]);
      }
    }
    verify_space();
  }

  void verify_content(ModelReplica& replica, std::optional<SnapshotId> snapshot,
                      const std::vector<std::uint64_t>& expected) {
    for (std::uint64_t first = 0; first < expected.size(); first += kWriteBlocksMax) {
      BlockRange blocks{BlockIndex(first),
                        static_cast<std::uint32_t>(std::min<std::uint64_t>(kWriteBlocksMax, expected.size() - first))};
      auto read = machine_.wait<Result<ReadOutcome>>([&](Callback<void(Result<ReadOutcome>)> done) {
        if (snapshot) return store(replica).read_snapshot(*snapshot, blocks, false, std::move(done));
        store(replica).read(blocks, std::move(done));
      });
      ASSERT_TRUE(read.ok()) << read.error().to_string();
      std::vector<std::uint64_t> tags = tags_of(read->present, blocks.count, read->crc, read->data);
      for (std::uint32_t i = 0; i < blocks.count; ++i) {
        ASSERT_EQ(tags[i], expected[first + i])
            << "replica " << replica.id.value() << " block " << first + i << " of " << expected.size() << " snapshot "
            << (snapshot ? snapshot->value() : 0);
      }
    }
  }

  // Without snapshots, and with everything applied, there is one slot for each chunk that holds anything.
  void verify_nothing_is_left_behind() {
    std::uint64_t chunks = 0;
    while (std::any_of(replicas_.begin(), replicas_.end(), [](const ModelReplica& one) { return one.first > 0; })) {
      remove(any());
    }
    ASSERT_EQ(machine_.disk->space().left_bytes, 0u);
    for (ModelReplica& replica : replicas_) {
      for (SnapshotId id : replica.snapshots()) {
        ModelReplica::Step step{Op::kDropSnapshot, {}, 0, 0, id};
        LogPosition position{replica.epoch, replica.next_seq()};
        replica.steps.push_back(step);
        ModelReplica* acknowledging = &replica;
        store(replica).append(layer_entry(position, step.op, id), [acknowledging](Status status) {
          EXPECT_TRUE(status.ok());
          ++acknowledging->acknowledged;
        });
      }
      std::vector<std::uint64_t> head = replica.content(replica.steps.size()).head;
      for (std::size_t first = 0; first < head.size(); first += kBlocksPerChunk) {
        auto begin = head.begin() + static_cast<std::ptrdiff_t>(first);
        auto end =
            head.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(first + kBlocksPerChunk, head.size()));
        chunks += std::any_of(begin, end, [](std::uint64_t tag) { return tag != 0; }) ? 1 : 0;
      }
    }
    acknowledge_all();
    machine_.settle();
    verify_all();
    ASSERT_EQ(machine_.disk->space().used_bytes, chunks * kChunkSize);
  }

  // Every slot in use belongs to a replica.
  void verify_space() {
    std::uint64_t used = 0;
    for (ModelReplica& replica : replicas_) used += store(replica).info().used_bytes;
    SpaceInfo space = machine_.disk->space();
    ASSERT_EQ(space.used_bytes, used + space.left_bytes);
    ASSERT_LE(space.used_bytes + space.free_bytes + space.reserve_bytes, space.total_bytes);
  }

  void restart() {
    std::uint64_t kind = random_.below(3);
    if (kind == 0) {
      acknowledge_all();
      machine_.close();
      for (ModelReplica& replica : replicas_) ASSERT_EQ(replica.acknowledged, replica.first + replica.steps.size());
    } else if (kind == 1) {
      machine_.kill();
    } else {
      machine_.power_off();
    }
    Status opened = machine_.open();
    ASSERT_TRUE(opened.ok()) << opened.error().to_string();
    for (ModelReplica& replica : replicas_) {
      ReplicaInfo info = store(replica).info();
      std::uint64_t last = info.last.seq.value();
      std::uint64_t least = kind == 2 ? replica.flushed : replica.acknowledged;
      ASSERT_GE(last, least) << "replica " << replica.id.value() << " lost entries, stop of kind " << kind;
      ASSERT_LE(last, replica.first + replica.steps.size());
      ASSERT_LE(info.applied, info.last.seq);
      ASSERT_LE(info.applied.value(), std::max({replica.committed, replica.flushed, applied_uncommitted[replica.id]}));
      replica.steps.resize(last - replica.first);
      replica.acknowledged = last;
      replica.committed = std::min(replica.committed, last);
      replica.flushed = std::min(replica.flushed, last);
      replica.size_blocks = info.size_blocks;
      replica.epoch = std::max(replica.epoch, info.last.epoch);
      ASSERT_EQ(replica.content(last - replica.first).head.size(), info.size_blocks);
    }
    if (random_.chance(1, 2)) verify_all();
  }

  TestMachine machine_;
  sim::Random random_;
  std::list<ModelReplica> replicas_;  // callbacks refer to them
  std::uint64_t next_replica_ = 4;
  std::uint64_t next_tag_ = 1;
};

// The store says of which entries nobody knows whether they are committed, and that they are applied all the same.
void note_applied_uncommitted(LogLevel, std::string_view, std::string_view message) {
  std::string text(message);
  unsigned long long id = 0, first = 0, last = 0;
  if (std::sscanf(text.c_str(), "replica %llx: entries %llu to %llu are not known", &id, &first, &last) == 3) {
    applied_uncommitted[ReplicaId(id)] = last;
  }
}

TEST(StoreModel, EqualsFlatArraysThroughStopsOfEveryKind) {
  std::uint64_t seeds = 60;
  std::uint64_t first = 1;
  if (const char* text = std::getenv("HOLDFAST_STORE_SEEDS")) seeds = std::strtoull(text, nullptr, 10);
  if (const char* text = std::getenv("HOLDFAST_STORE_SEED")) first = std::strtoull(text, nullptr, 10), seeds = 1;
  for (std::uint64_t seed = first; seed < first + seeds; ++seed) {
    bool passed = passes_in_child([seed] {
      set_log_sink(note_applied_uncommitted);
      Model model(seed);
      model.run(600);
    });
    ASSERT_TRUE(passed) << "replay with HOLDFAST_STORE_SEED=" << seed;
  }
}

}  // namespace
}  // namespace holdfast::store
