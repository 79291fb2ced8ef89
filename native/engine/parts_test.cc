// The pure parts of the engine: range lock, histories, in-sync set, cutting of slice lists, window.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <random>
#include <set>

#include "engine/history.h"
#include "engine/in_sync_set.h"
#include "engine/log_window.h"
#include "engine/mapped_runs.h"
#include "engine/range_lock.h"
#include "engine/slice_cutter.h"

namespace holdfast::engine {
namespace {

// ---- mapped runs ----

TEST(MappedRunsTest, NeighboursBecomeOneAndRemovedPartsAreForgotten) {
  MappedRuns runs;
  runs.add(0, 128);
  runs.add(256, 512);
  EXPECT_EQ(runs.end_of_run(0), 128u);
  EXPECT_EQ(runs.end_of_run(128), std::nullopt);
  runs.add(128, 256);
  EXPECT_EQ(runs.size(), 1u);
  EXPECT_EQ(runs.end_of_run(5), 512u);
  runs.remove(200, 201);
  EXPECT_EQ(runs.end_of_run(199), 200u);
  EXPECT_EQ(runs.end_of_run(200), std::nullopt);
  EXPECT_EQ(runs.end_of_run(201), 512u);
  runs.remove(0, 1'000);
  EXPECT_EQ(runs.size(), 0u);
}

// Against a plain set of blocks: never claims what was not added, or what was removed.
TEST(MappedRunsTest, NeverClaimsTooMuch) {
  std::mt19937_64 random(7);
  MappedRuns runs;
  std::vector<bool> mapped(4'096);
  for (int step = 0; step < 3'000; ++step) {
    std::uint64_t begin = random() % mapped.size();
    std::uint64_t end = std::min<std::uint64_t>(mapped.size(), begin + 1 + random() % 300);
    bool adding = random() % 2 == 0;
    adding ? runs.add(begin, end) : runs.remove(begin, end);
    std::fill(mapped.begin() + std::ptrdiff_t(begin), mapped.begin() + std::ptrdiff_t(end), adding);
    for (std::uint64_t block = random() % 64; block < mapped.size(); block += 17) {
      std::optional<std::uint64_t> run_end = runs.end_of_run(block);
      if (!run_end) continue;
      ASSERT_GT(*run_end, block);
      for (std::uint64_t i = block; i < *run_end; ++i) ASSERT_TRUE(mapped[i]) << step << " " << i;
    }
  }
}

TEST(MappedRunsTest, KeepsABoundedNumber) {
  MappedRuns runs;
  for (std::uint64_t i = 0; i < 3 * MappedRuns::kRunsMax; ++i) {
    runs.add(i * 200, i * 200 + 100);
    ASSERT_LE(runs.size(), MappedRuns::kRunsMax);
  }
}

TEST(MappedRunsTest, FindsTheEndOfEqualBits) {
  std::mt19937_64 random(8);
  for (int round = 0; round < 2'000; ++round) {
    std::vector<std::uint8_t> bits(12);
    for (std::uint8_t& byte : bits) byte = random() % 3 == 0 ? std::uint8_t(random()) : random() % 2 == 0 ? 0xff : 0;
    auto count = static_cast<std::uint32_t>(1 + random() % 96);
    auto from = static_cast<std::uint32_t>(random() % count);
    auto bit = [&](std::uint32_t i) { return bits[i / 8] >> (i % 8) & 1; };
    std::uint32_t expected = from + 1;
    while (expected < count && bit(expected) == bit(from)) ++expected;
    ASSERT_EQ(end_of_equal_bits(bits, from, count), expected);
  }
}

// ---- range lock ----

struct Waiter {
  RangeLock::Request request;
  std::uint64_t begin = 0, end = 0;
  bool exclusive = false;
  bool granted = false;
  std::size_t arrival = 0;
};

void note(RangeLock::Request* request) { static_cast<Waiter*>(request->owner)->granted = true; }

class RangeLockTest : public testing::Test {
 protected:
  Waiter& ask(std::uint64_t begin, std::uint64_t end, bool exclusive) {
    Waiter& waiter = waiters.emplace_back();
    waiter.begin = begin;
    waiter.end = end;
    waiter.exclusive = exclusive;
    waiter.request.owner = &waiter;
    waiter.granted = lock.acquire(&waiter.request, begin, end, exclusive, &note);
    return waiter;
  }
  RangeLock lock;
  std::deque<Waiter> waiters;
};

TEST_F(RangeLockTest, ReadersShareAndWritersExclude) {
  Waiter& first = ask(0, 10, false);
  Waiter& second = ask(5, 15, false);
  EXPECT_TRUE(first.granted && second.granted);
  Waiter& writer = ask(9, 12, true);
  EXPECT_FALSE(writer.granted);
  Waiter& late_reader = ask(11, 12, false);
  EXPECT_FALSE(late_reader.granted) << "nothing overtakes a writer that waits";
  Waiter& elsewhere = ask(15, 20, true);
  EXPECT_TRUE(elsewhere.granted);
  lock.release(&first.request);
  EXPECT_FALSE(writer.granted);
  lock.release(&second.request);
  EXPECT_TRUE(writer.granted);
  EXPECT_FALSE(late_reader.granted);
  lock.release(&writer.request);
  EXPECT_TRUE(late_reader.granted);
}

TEST_F(RangeLockTest, OneThatStopsWaitingLetsOthersGoOn) {
  Waiter& holder = ask(0, 10, true);
  Waiter& waiting = ask(5, 600, true);
  Waiter& behind = ask(500, 501, false);
  EXPECT_FALSE(waiting.granted || behind.granted);
  lock.release(&waiting.request);
  EXPECT_TRUE(behind.granted);
  lock.release(&holder.request);
  EXPECT_FALSE(waiting.granted);
}

// Against the definition: a request holds exactly when no earlier conflicting request is left.
TEST_F(RangeLockTest, EqualsTheDefinitionUnderRandomUse) {
  std::mt19937_64 random(1);
  std::vector<Waiter*> live;
  std::size_t arrivals = 0;
  for (int step = 0; step < 20'000; ++step) {
    if (live.size() < 40 && random() % 2 == 0) {
      std::uint64_t size = random() % 10 == 0 ? 1 + random() % 5'000 : 1 + random() % 256;
      std::uint64_t begin = random() % 3'000;
      Waiter& waiter = ask(begin, begin + size, random() % 2 == 0);
      waiter.arrival = arrivals++;
      live.push_back(&waiter);
    } else if (!live.empty()) {
      std::size_t at = random() % live.size();
      Waiter* waiter = live[at];
      live.erase(live.begin() + static_cast<std::ptrdiff_t>(at));
      lock.release(&waiter->request);
    }
    for (Waiter* waiter : live) {
      bool blocked = std::any_of(live.begin(), live.end(), [waiter](Waiter* other) {
        return other->arrival < waiter->arrival && other->begin < waiter->end && waiter->begin < other->end &&
               (other->exclusive || waiter->exclusive);
      });
      ASSERT_EQ(waiter->granted, !blocked) << "step " << step;
    }
  }
}

// ---- histories ----

using History = std::vector<store::EpochStart>;

TEST(HistoryTest, FindsWhereTwoLogsPart) {
  History volume{{Epoch(1), Seq(1)}, {Epoch(3), Seq(11)}, {Epoch(4), Seq(21)}};
  EXPECT_EQ(common_seq(volume, Seq(30), volume, Seq(25)), Seq(25)) << "a prefix";
  History early{{Epoch(1), Seq(1)}};
  EXPECT_EQ(common_seq(early, Seq(5), volume, Seq(30)), Seq(5));
  EXPECT_EQ(common_seq(early, Seq(15), volume, Seq(30)), Seq(10)) << "it went on in epoch 1 where the volume did not";
  History other{{Epoch(1), Seq(1)}, {Epoch(2), Seq(8)}};
  EXPECT_EQ(common_seq(other, Seq(40), volume, Seq(30)), Seq(7));
  History later{{Epoch(1), Seq(1)}, {Epoch(3), Seq(11)}, {Epoch(5), Seq(15)}};
  EXPECT_EQ(common_seq(later, Seq(16), volume, Seq(30)), Seq(14));
  EXPECT_EQ(common_seq({}, Seq(0), volume, Seq(30)), Seq(0));
  History pruned{{Epoch(4), Seq(21)}};
  EXPECT_EQ(common_seq(pruned, Seq(22), volume, Seq(30)), Seq(22));
  EXPECT_EQ(common_seq(pruned, Seq(22), early, Seq(30)), Seq(0)) << "what is not known is not in common";
  EXPECT_EQ(epoch_at(volume, Seq(11)), Epoch(3));
  EXPECT_EQ(epoch_at(volume, Seq(10)), Epoch(1));
  EXPECT_EQ(epoch_at(pruned, Seq(20)), Epoch(0));
}

// Logs made by random engines: what is in common is what the entries themselves say.
TEST(HistoryTest, EqualsAComparisonOfEntries) {
  std::mt19937_64 random(2);
  for (int round = 0; round < 2'000; ++round) {
    std::vector<std::vector<std::uint64_t>> logs(2);  // epochs by seq - 1
    std::uint64_t shared = random() % 20;
    std::uint64_t epoch = 1;
    for (std::uint64_t i = 0; i < shared; ++i) {
      if (random() % 4 == 0) epoch += 1 + random() % 2;
      for (auto& log : logs) log.push_back(epoch);
    }
    std::uint64_t next[2] = {epoch + 1, epoch + 2};
    for (std::size_t which = 0; which < 2; ++which) {
      if (which == 0 && random() % 2 == 0) next[which] = epoch;  // one may go on in the same epoch
      for (std::uint64_t more = random() % 10; more > 0; --more) {
        logs[which].push_back(next[which]);
        // The epochs of the two never meet again.
        if (random() % 4 == 0) next[which] += next[which] == epoch ? 1 : 2;
      }
    }
    std::uint64_t expected = 0;
    while (expected < std::min(logs[0].size(), logs[1].size()) && logs[0][expected] == logs[1][expected]) ++expected;
    History histories[2];
    for (std::size_t which = 0; which < 2; ++which) {
      for (std::size_t i = 0; i < logs[which].size(); ++i) {
        if (i == 0 || logs[which][i] != logs[which][i - 1]) {
          histories[which].push_back({Epoch(logs[which][i]), Seq(i + 1)});
        }
      }
    }
    ASSERT_EQ(common_seq(histories[0], Seq(logs[0].size()), histories[1], Seq(logs[1].size())), Seq(expected));
  }
}

// ---- in-sync set ----

TEST(InSyncSetTest, BothSetsAreRequiredWhileAChangeIsUnderWay) {
  ReplicaId a(1), b(2), c(3);
  InSyncSet set({b, a});
  EXPECT_FALSE(set.next_change().has_value());
  set.add(c);
  EXPECT_FALSE(set.required(c));
  EXPECT_EQ(*set.next_change(), (std::vector<ReplicaId>{a, b, c}));
  EXPECT_TRUE(set.required(c));
  EXPECT_FALSE(set.stored(c));
  EXPECT_FALSE(set.certain(c));
  EXPECT_TRUE(set.certain(a));
  EXPECT_TRUE(set.remove(a));
  EXPECT_FALSE(set.next_change().has_value()) << "one change at a time";
  set.change_stored();
  EXPECT_TRUE(set.required(a));
  EXPECT_EQ(*set.next_change(), (std::vector<ReplicaId>{b, c}));
  EXPECT_TRUE(set.required(a)) << "until the removal is stored";
  EXPECT_FALSE(set.certain(a)) << "it may be";
  EXPECT_TRUE(set.certain(b));
  set.change_stored();
  EXPECT_FALSE(set.required(a));
  EXPECT_TRUE(set.remove(b));
  EXPECT_FALSE(set.remove(c)) << "the last one stays";
  EXPECT_EQ(set.wanted(), std::vector<ReplicaId>{c});
}

// ---- slices ----

TEST(SliceCutterTest, CutsComparesAndSumsPartsOfAnySize) {
  BufferPool pool;
  std::mt19937_64 random(3);
  std::string bytes(5 * kBlockSize, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  auto in_parts = [&](std::string_view text) {
    SliceList parts;
    while (!text.empty()) {
      std::size_t n = std::min<std::size_t>(text.size(), 1 + random() % 3'000);
      parts.push_back(pool.copy_of(as_bytes(text.substr(0, n))));
      text.remove_prefix(n);
    }
    return parts;
  };
  SliceList parts = in_parts(bytes);
  for (int round = 0; round < 50; ++round) {
    std::size_t offset = random() % bytes.size(), size = random() % (bytes.size() - offset);
    std::string got;
    for (const Slice& part : cut(parts, offset, size)) got += part.text();
    ASSERT_EQ(got, bytes.substr(offset, size));
  }
  std::vector<std::uint32_t> crcs;
  for_each_block_crc(parts, [&crcs](std::uint32_t crc) { crcs.push_back(crc); });
  ASSERT_EQ(crcs.size(), 5u);
  for (std::size_t i = 0; i < 5; ++i) EXPECT_EQ(crcs[i], crc32c(as_bytes(bytes).subspan(i * kBlockSize, kBlockSize)));
  EXPECT_EQ(first_difference(parts, in_parts(bytes)), bytes.size());
  for (std::size_t at : {std::size_t{0}, std::size_t{4'095}, std::size_t{9'000}, bytes.size() - 1}) {
    std::string other = bytes;
    other[at] = static_cast<char>(other[at] ^ 1);
    EXPECT_EQ(first_difference(parts, in_parts(other)), at);
  }
}

// ---- window ----

TEST(LogWindowTest, IsBoundedByEntriesAndBytes) {
  LogWindow window;
  std::deque<PendingEntry> entries(LogWindow::kEntriesMax);
  for (std::size_t i = 0; i < entries.size(); ++i) {
    EXPECT_TRUE(window.has_room_for(4'096));
    entries[i].entry.position.seq = Seq(i + 1);
    entries[i].bytes = 4'096;
    window.push(&entries[i]);
  }
  EXPECT_FALSE(window.has_room_for(0));
  std::vector<Seq> after;
  window.for_each_after(Seq(LogWindow::kEntriesMax - 2),
                        [&](PendingEntry& entry) { after.push_back(entry.entry.position.seq); });
  EXPECT_EQ(after, (std::vector<Seq>{Seq(LogWindow::kEntriesMax - 1), Seq(LogWindow::kEntriesMax)}));
  while (!window.empty()) window.pop_front();
  EXPECT_TRUE(window.has_room_for(LogWindow::kBytesMax + 1)) << "a large one is let in alone";
}

}  // namespace
}  // namespace holdfast::engine
