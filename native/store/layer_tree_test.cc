// Layers, viewpoints and groups against their definitions, by brute force over random histories.
#include "store/layer_tree.h"

#include <gtest/gtest.h>

#include <set>

#include "sim/world.h"

namespace holdfast::store {
namespace {

LogPosition at(std::uint64_t seq) { return {Epoch(1), Seq(seq)}; }

// All layers there ever were.
std::set<LayerNumber> layers_of(const LayerTree& tree, std::set<LayerNumber> known) {
  known.insert(tree.head());
  return known;
}

std::set<LayerNumber> viewpoints_of(const LayerTree& tree) {
  std::set<LayerNumber> found{tree.head()};
  for (const auto& [layer, snapshot] : tree.snapshots()) found.insert(layer);
  return found;
}

std::set<LayerNumber> viewers_of(const LayerTree& tree, LayerNumber layer) {
  std::set<LayerNumber> found;
  for (LayerNumber view : viewpoints_of(tree)) {
    if (tree.sees(view, layer)) found.insert(view);
  }
  return found;
}

bool covers(const std::vector<LayerRange>& work, LayerNumber layer) {
  for (const LayerRange& range : work) {
    if (range.first <= layer && layer <= range.last) return true;
  }
  return false;
}

void check_groups(const LayerTree& tree, const std::set<LayerNumber>& layers) {
  for (LayerNumber layer : layers) {
    std::set<LayerNumber> viewers = viewers_of(tree, layer);
    std::optional<LayerNumber> group = tree.group_of(layer);
    ASSERT_EQ(group.has_value(), !viewers.empty()) << std::hex << layer;
    if (!group) continue;
    ASSERT_EQ(viewers_of(tree, *group), viewers) << std::hex << layer << " group " << *group;
    ASSERT_EQ(tree.group_of(*group), group);
    if (tree.sees(tree.head(), layer)) {
      ASSERT_EQ(tree.owned_by_head(layer), viewers == std::set<LayerNumber>{tree.head()}) << std::hex << layer;
    }
    bool listed = false;
    for (const LayerRange& range : tree.layers_of_group(*group)) {
      listed = listed || (range.first <= layer && layer <= range.last);
    }
    ASSERT_TRUE(listed) << std::hex << layer << " group " << *group;
  }
  for (LayerNumber a : layers) {
    for (LayerNumber b : layers) {
      bool related = tree.sees(a, b) || tree.sees(b, a);
      std::set<LayerNumber> viewers = viewers_of(tree, a);
      if (!related || viewers.empty()) continue;
      ASSERT_EQ(tree.group_of(a) == tree.group_of(b), viewers == viewers_of(tree, b)) << std::hex << a << " " << b;
    }
  }
}

// What was in different groups before and is in one now, and what nobody sees any more, is named as work.
void check_work(const LayerTree& before, const LayerTree& after, const std::vector<LayerRange>& work,
                const std::set<LayerNumber>& layers) {
  for (LayerNumber newer : layers) {
    if (before.group_of(newer) && !after.group_of(newer)) {
      ASSERT_TRUE(covers(work, newer)) << std::hex << newer << " is unseen";
    }
    for (LayerNumber older : layers) {
      bool joined = older < newer && after.group_of(older) && after.group_of(older) == after.group_of(newer) &&
                    before.group_of(older) != before.group_of(newer);
      if (joined) ASSERT_TRUE(covers(work, newer)) << std::hex << older << " and " << newer << " are one group now";
    }
  }
}

void run_history(std::uint64_t seed) {
  sim::Random random(seed);
  LayerTree tree;
  std::set<LayerNumber> layers{kFirstLayer};
  std::vector<SnapshotId> known;
  std::vector<LayerTree> past{tree};
  for (std::uint64_t seq = 1; seq <= 60 && !testing::Test::HasFatalFailure(); ++seq) {
    LayerTree before = tree;
    std::vector<LayerRange> work;
    std::uint64_t kind = random.below(10);
    if (known.empty() || kind < 4) {
      known.emplace_back(1000 + seq);
      std::string state = tree.encode_state_after_snapshot(at(seq), 0);
      tree.take_snapshot(known.back(), at(seq), 100 + seq);
      ASSERT_EQ(tree.encode_state(), state);
    } else if (kind < 8) {
      std::size_t index = random.below(known.size());
      work = tree.try_drop(known[index]);
      ASSERT_TRUE(tree.same_layers(before));
      ASSERT_EQ(tree.drop_snapshot(known[index], at(seq)), work);
      known.erase(known.begin() + static_cast<std::ptrdiff_t>(index));
    } else {
      SnapshotId target = known[random.below(known.size())];
      std::string state = tree.encode_state_after_revert(target, at(seq));
      work = tree.try_revert(target);
      ASSERT_EQ(tree.revert_to(target, at(seq)), work);
      ASSERT_EQ(tree.encode_state(), state);
      ASSERT_TRUE(tree.sees(tree.head(), tree.find(target)->layer));
    }
    layers = layers_of(tree, layers);
    check_groups(tree, layers);
    check_work(before, tree, work, layers);
    for (const LayerTree& earlier : past) ASSERT_TRUE(earlier.keeps_apart(tree)) << "a delta is always possible";
    past.push_back(tree);
    Result<LayerTree> same = LayerTree::from_state(tree.state());
    ASSERT_TRUE(same.ok());
    ASSERT_TRUE(same->same_layers(tree));
    ASSERT_EQ(same->owned_by_head(kFirstLayer), tree.owned_by_head(kFirstLayer));
    std::vector<SnapshotRecord> records;
    for (const auto& [layer, snapshot] : tree.snapshots()) {
      Result<SnapshotRecord> record = decode_snapshot_record(encode_snapshot_record(snapshot));
      ASSERT_TRUE(record.ok());
      records.push_back(*record);
    }
    Result<LayerTree> stored = LayerTree::decode(tree.encode_state(), records);
    ASSERT_TRUE(stored.ok());
    ASSERT_TRUE(stored->same_layers(tree));
  }
}

TEST(LayerTree, GroupsAndWorkFollowFromWhatViewpointsSee) {
  for (std::uint64_t seed = 1; seed <= 80; ++seed) {
    run_history(seed);
    ASSERT_FALSE(testing::Test::HasFatalFailure()) << "seed " << seed;
  }
}

TEST(LayerTree, KnowsWhatItMovedOrRemovedThatAnotherHasNot) {
  LayerTree tree;
  tree.take_snapshot(SnapshotId(1), at(1), 10);
  tree.take_snapshot(SnapshotId(2), at(2), 10);
  LayerTree other = tree;
  other.take_snapshot(SnapshotId(4), at(4), 10);
  EXPECT_TRUE(tree.keeps_apart(other));
  tree.take_snapshot(SnapshotId(3), at(3), 10);
  EXPECT_TRUE(tree.keeps_apart(other)) << "another snapshot at the same place";
  LayerTree dropped = tree;
  dropped.drop_snapshot(SnapshotId(3), at(5));
  EXPECT_FALSE(dropped.keeps_apart(other));
  other.drop_snapshot(SnapshotId(4), at(5));
  EXPECT_TRUE(dropped.keeps_apart(other)) << "merged there, too";
  other.take_snapshot(SnapshotId(6), at(6), 10);
  other.revert_to(SnapshotId(1), at(7));
  LayerTree reverted = dropped;
  EXPECT_TRUE(reverted.keeps_apart(other));
  reverted.revert_to(SnapshotId(1), at(7));
  EXPECT_FALSE(reverted.keeps_apart(other)) << "the layers after the second snapshot are gone";
}

TEST(LayerTree, ParentsFollowThePathToTheRoot) {
  LayerTree tree;
  SnapshotId a(1), b(2), c(3);
  tree.take_snapshot(a, at(1), 10);
  tree.take_snapshot(b, at(2), 10);
  tree.revert_to(a, at(3));
  tree.take_snapshot(c, at(4), 10);
  EXPECT_EQ(tree.parent_of(tree.find(a)->layer), nullptr);
  EXPECT_EQ(tree.parent_of(tree.find(b)->layer)->id, a);
  EXPECT_EQ(tree.parent_of(tree.find(c)->layer)->id, a);
  EXPECT_EQ(tree.parent_of(tree.head())->id, c);
  tree.drop_snapshot(a, at(5));
  EXPECT_EQ(tree.parent_of(tree.find(c)->layer), nullptr);
}

TEST(LayerTree, RefusesMalformedStates) {
  LayerTree tree;
  tree.take_snapshot(SnapshotId(1), at(1), 10);
  LayerState good = tree.state();
  ASSERT_TRUE(LayerTree::from_state(good).ok());
  LayerState bad = good;
  bad.head = 0;
  EXPECT_FALSE(LayerTree::from_state(bad).ok());
  bad = good;
  bad.forks = {0, first_layer_of(3)};
  EXPECT_FALSE(LayerTree::from_state(bad).ok());
  bad = good;
  bad.snapshots.push_back(bad.snapshots[0]);
  EXPECT_FALSE(LayerTree::from_state(bad).ok());
  bad = good;
  bad.snapshots[0].layer = bad.head;
  EXPECT_FALSE(LayerTree::from_state(bad).ok());
  std::string state = tree.encode_state();
  for (std::size_t cut = 1; cut < state.size(); ++cut) EXPECT_FALSE(LayerTree::decode(state.substr(0, cut), {}).ok());
}

}  // namespace
}  // namespace holdfast::store
