// LayerTree: the snapshots of one replica and how its layers hang together. Pure logic, any thread.
//
// A layer is what changed between two snapshots. Its number is `branch << 32 | index`: a SNAPSHOT ends the head layer
// and begins the next index of the same branch; a REVERT begins a new branch, which forks at the layer of the snapshot
// that was reverted to. Numbers follow from the log alone, so in-sync replicas agree about them. Along a path from the
// root to any layer they rise.
//
// A *viewpoint* is a live snapshot, or the head. It sees the layers on its path up to its own. Layers that the same
// viewpoints see form a *group*; the newest of them names it. Two records of one chunk in one group can be merged, a
// record that no viewpoint sees can be removed, and a record in the head's group may be written in place.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "base/types.h"

namespace holdfast::store {

using LayerNumber = std::uint64_t;

inline constexpr LayerNumber kFirstLayer = 1;
constexpr std::uint64_t branch_of(LayerNumber layer) { return layer >> 32; }
constexpr LayerNumber first_layer_of(std::uint64_t branch) { return branch << 32 | 1; }

struct SnapshotRecord {
  SnapshotId id;
  LayerNumber layer = 0;
  LogPosition position;  // of its SNAPSHOT entry
  std::uint64_t size_blocks = 0;

  bool operator==(const SnapshotRecord&) const = default;
};

// All of a tree, for other replicas.
struct LayerState {
  LogPosition revision;
  LayerNumber head = kFirstLayer;
  std::vector<LayerNumber> forks = {0};
  std::vector<SnapshotRecord> snapshots;  // by layer
};

// Layers first..last of one branch.
struct LayerRange {
  LayerNumber first = 0;
  LayerNumber last = 0;

  bool operator==(const LayerRange&) const = default;
};

class LayerTree {
 public:
  LayerNumber head() const { return head_; }
  // Of the last entry that changed the tree.
  LogPosition revision() const { return revision_; }
  // Whether there ever was more than one layer.
  bool layered() const { return head_ != kFirstLayer; }
  // Rises when views of chunks that were worked out before may be wrong (not by a snapshot).
  std::uint64_t generation() const { return generation_; }
  const std::map<LayerNumber, SnapshotRecord>& snapshots() const { return snapshots_; }
  const SnapshotRecord* find(SnapshotId id) const;
  // The nearest older snapshot on the path of this layer.
  const SnapshotRecord* parent_of(LayerNumber layer) const;
  const std::vector<LayerNumber>& forks() const { return forks_; }

  // Whether the viewpoint at layer `view` sees `layer`.
  bool sees(LayerNumber view, LayerNumber layer) const;
  // nullopt: no viewpoint sees the layer.
  std::optional<LayerNumber> group_of(LayerNumber layer) const;
  // Whether only the head sees this layer, which must be on the head's path.
  bool owned_by_head(LayerNumber layer) const { return layer > floor_; }
  // The layers of a group, given its newest one.
  std::vector<LayerRange> layers_of_group(LayerNumber group) const;

  // What the entries do. A snapshot that exists, or one to drop that does not, changes only the revision. The ranges
  // returned are those whose chunks may have records to merge with older ones or to remove.
  void take_snapshot(SnapshotId id, LogPosition position, std::uint64_t size_blocks);
  std::vector<LayerRange> drop_snapshot(SnapshotId id, LogPosition position);
  // The snapshot exists.
  std::vector<LayerRange> revert_to(SnapshotId id, LogPosition position);
  // A viewpoint that no entry drops (space.h); nothing happens when the snapshot exists.
  void hold(const SnapshotRecord& snapshot);
  // There is no head any more: only snapshots see anything.
  void leave_head();
  // What drop and revert would return; nothing is changed in the end.
  std::vector<LayerRange> try_drop(SnapshotId id);
  std::vector<LayerRange> try_revert(SnapshotId id) const;
  // Becomes the other; views worked out before are void.
  void adopt(const LayerTree& other);

  // Head, revision and branches as bytes; snapshots have records of their own.
  std::string encode_state() const;
  static Result<LayerTree> decode(std::string_view state, std::vector<SnapshotRecord> snapshots);
  // As take_snapshot(), after so many other snapshots, or revert_to() would leave it.
  std::string encode_state_after_snapshot(LogPosition position, std::size_t others_before) const;
  std::string encode_state_after_revert(SnapshotId id, LogPosition position) const;
  std::string encode_state_at(LogPosition revision) const;

  LayerState state() const;
  static Result<LayerTree> from_state(const LayerState& state);
  bool same_layers(const LayerTree& other) const;
  // Whether records of a replica with this tree are where the other's are, in all layers that both have had: it has
  // merged none across what is a boundary there, and removed none of a branch it left that are seen there.
  bool keeps_apart(const LayerTree& other) const;

 private:
  std::uint64_t branches() const { return forks_.size(); }
  bool is_viewpoint(LayerNumber layer) const { return (!headless_ && layer == head_) || snapshots_.contains(layer); }
  // The first point (viewpoint, or fork with something alive behind it) of the branch at or after `layer`.
  std::optional<LayerNumber> next_point(LayerNumber layer) const;
  std::optional<LayerNumber> last_point_before(LayerNumber layer) const;
  std::vector<std::uint64_t> live_branches_at(LayerNumber layer) const;
  // Whether layers behind this point are seen by other viewpoints than those up to it.
  bool is_boundary(LayerNumber point) const;
  // Of a point that is no boundary: where its only continuation begins.
  std::optional<LayerNumber> continuation_of(LayerNumber point) const;
  void collect_group_after(LayerNumber point, std::vector<LayerRange>& out) const;
  struct Boundary {
    LayerNumber layer;
    std::vector<LayerRange> group;
  };
  std::vector<LayerRange> work_after(const std::vector<Boundary>& before) const;
  std::vector<Boundary> boundaries_towards_root(LayerNumber layer) const;
  void refresh();
  // Of the points of a branch from `first` on, before `end`.
  template <typename Visit>
  void for_each_point(LayerNumber first, LayerNumber end, Visit visit) const;
  static Result<LayerTree> checked(LayerTree tree, const std::vector<SnapshotRecord>& snapshots);

  LayerNumber head_ = kFirstLayer;
  bool headless_ = false;
  LogPosition revision_;
  std::vector<LayerNumber> forks_ = {0};  // by branch: the layer it forks at; branch 0: 0
  std::map<LayerNumber, SnapshotRecord> snapshots_;
  std::unordered_map<SnapshotId, LayerNumber> layers_;
  std::vector<bool> live_ = {true};  // by branch: has a viewpoint in it or behind it
  LayerNumber floor_ = 0;            // newest layer of the head's path that others see too
  std::uint64_t generation_ = 0;
};

std::string encode_snapshot_record(const SnapshotRecord& snapshot);
Result<SnapshotRecord> decode_snapshot_record(std::string_view bytes);

}  // namespace holdfast::store
