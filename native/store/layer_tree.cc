#include "store/layer_tree.h"

#include <algorithm>

#include "base/check.h"
#include "store/bytes.h"

namespace holdfast::store {

namespace {

constexpr std::uint32_t kLayerFormat = 1;

Error malformed(std::string_view what) {
  return Error(ErrorCode::kCorrupt, "the metadata has a malformed record of " + std::string(what));
}

std::string encode(LayerNumber head, LogPosition revision, const std::vector<LayerNumber>& forks) {
  std::string out;
  put_u32(out, kLayerFormat);
  put_u32(out, static_cast<std::uint32_t>(forks.size()));
  put_u64(out, head);
  put_u64(out, revision.epoch.value());
  put_u64(out, revision.seq.value());
  for (LayerNumber fork : forks) put_u64(out, fork);
  return out;
}

}  // namespace

// ---- looking ----

const SnapshotRecord* LayerTree::find(SnapshotId id) const {
  auto at = layers_.find(id);
  return at == layers_.end() ? nullptr : &snapshots_.find(at->second)->second;
}

const SnapshotRecord* LayerTree::parent_of(LayerNumber layer) const {
  for (LayerNumber below = layer; below != 0;) {
    auto at = snapshots_.lower_bound(below);
    if (at != snapshots_.begin() && branch_of((--at)->first) == branch_of(below)) return &at->second;
    LayerNumber fork = forks_[branch_of(below)];
    if (fork == 0) return nullptr;
    if (auto found = snapshots_.find(fork); found != snapshots_.end()) return &found->second;
    below = fork;
  }
  return nullptr;
}

bool LayerTree::sees(LayerNumber view, LayerNumber layer) const {
  while (branch_of(view) > branch_of(layer)) view = forks_[branch_of(view)];
  return branch_of(view) == branch_of(layer) && layer <= view;
}

std::vector<std::uint64_t> LayerTree::live_branches_at(LayerNumber layer) const {
  std::vector<std::uint64_t> found;
  for (std::uint64_t branch = branch_of(layer) + 1; branch < branches(); ++branch) {
    if (forks_[branch] == layer && live_[branch]) found.push_back(branch);
  }
  return found;
}

std::optional<LayerNumber> LayerTree::next_point(LayerNumber layer) const {
  std::uint64_t branch = branch_of(layer);
  std::optional<LayerNumber> best;
  auto consider = [&](LayerNumber point) {
    if (branch_of(point) == branch && point >= layer && (!best || point < *best)) best = point;
  };
  if (!headless_) consider(head_);
  if (auto at = snapshots_.lower_bound(layer); at != snapshots_.end()) consider(at->first);
  for (std::uint64_t other = branch + 1; other < branches(); ++other) {
    if (live_[other]) consider(forks_[other]);
  }
  return best;
}

std::optional<LayerNumber> LayerTree::last_point_before(LayerNumber layer) const {
  std::uint64_t branch = branch_of(layer);
  std::optional<LayerNumber> best;
  auto consider = [&](LayerNumber point) {
    if (branch_of(point) == branch && point < layer && (!best || point > *best)) best = point;
  };
  if (!headless_) consider(head_);
  if (auto at = snapshots_.lower_bound(layer); at != snapshots_.begin()) consider(std::prev(at)->first);
  for (std::uint64_t other = branch + 1; other < branches(); ++other) {
    if (live_[other]) consider(forks_[other]);
  }
  return best;
}

bool LayerTree::is_boundary(LayerNumber point) const {
  if (is_viewpoint(point)) return true;
  std::size_t continuations = live_branches_at(point).size() + (next_point(point + 1) ? 1 : 0);
  return continuations > 1;
}

std::optional<LayerNumber> LayerTree::continuation_of(LayerNumber point) const {
  if (next_point(point + 1)) return point + 1;
  std::vector<std::uint64_t> behind = live_branches_at(point);
  if (behind.empty()) return std::nullopt;
  return first_layer_of(behind.front());
}

std::optional<LayerNumber> LayerTree::group_of(LayerNumber layer) const {
  for (;;) {
    std::optional<LayerNumber> point = next_point(layer);
    if (!point) return std::nullopt;
    if (is_boundary(*point)) return point;
    std::optional<LayerNumber> next = continuation_of(*point);
    CHECK(next.has_value(), "a point has something alive behind it");
    layer = *next;
  }
}

std::vector<LayerRange> LayerTree::layers_of_group(LayerNumber group) const {
  std::vector<LayerRange> ranges;
  for (LayerNumber top = group; top != 0;) {
    std::optional<LayerNumber> below = last_point_before(top);
    LayerNumber first = below ? *below + 1 : first_layer_of(branch_of(top));
    ranges.push_back({first, top});
    LayerNumber next = below ? *below : forks_[branch_of(top)];
    if (next == 0 || is_boundary(next)) break;
    top = next;
  }
  return ranges;
}

// ---- changing ----

void LayerTree::refresh() {
  live_.assign(branches(), false);
  for (std::uint64_t branch = branches(); branch-- > 0;) {
    bool viewpoint = !headless_ && branch_of(head_) == branch;
    auto at = snapshots_.lower_bound(first_layer_of(branch));
    viewpoint = viewpoint || (at != snapshots_.end() && branch_of(at->first) == branch);
    if (viewpoint) live_[branch] = true;
    if (live_[branch] && branch > 0) live_[branch_of(forks_[branch])] = true;
  }
  if (headless_) return;
  std::vector<LayerRange> own = layers_of_group(head_);
  floor_ = own.back().first - 1;
  // A branch that begins with the head's group: what is below is the layer it forks at.
  if (floor_ == branch_of(own.back().first) << 32) floor_ = forks_[branch_of(own.back().first)];
}

void LayerTree::take_snapshot(SnapshotId id, LogPosition position, std::uint64_t size_blocks) {
  revision_ = position;
  if (find(id)) return;
  snapshots_.emplace(head_, SnapshotRecord{id, head_, position, size_blocks});
  layers_.emplace(id, head_);
  floor_ = head_++;
}

std::vector<LayerTree::Boundary> LayerTree::boundaries_towards_root(LayerNumber layer) const {
  std::vector<Boundary> found;
  for (LayerNumber at = layer; at != 0; at = forks_[branch_of(at)]) {
    if (is_boundary(at)) found.push_back({at, layers_of_group(at)});
    // Of a point that was a boundary only because something came behind it in its branch.
    std::optional<LayerNumber> before = last_point_before(at);
    if (before && is_boundary(*before)) found.push_back({*before, layers_of_group(*before)});
  }
  return found;
}

void LayerTree::collect_group_after(LayerNumber point, std::vector<LayerRange>& out) const {
  for (;;) {
    std::optional<LayerNumber> first = continuation_of(point);
    if (!first) return;
    std::optional<LayerNumber> next = next_point(*first);
    CHECK(next.has_value(), "a continuation leads to a point");
    out.push_back({*first, *next});
    if (is_boundary(*next)) return;
    point = *next;
  }
}

// What has to be looked at, given what was a boundary before and may not be one any more.
std::vector<LayerRange> LayerTree::work_after(const std::vector<Boundary>& before) const {
  std::vector<LayerRange> work;
  for (const Boundary& boundary : before) {
    if (!group_of(boundary.layer)) {
      work.insert(work.end(), boundary.group.begin(), boundary.group.end());
    } else if (!is_boundary(boundary.layer)) {
      collect_group_after(boundary.layer, work);
    }
  }
  return work;
}

std::vector<LayerRange> LayerTree::drop_snapshot(SnapshotId id, LogPosition position) {
  revision_ = position;
  auto known = layers_.find(id);
  if (known == layers_.end()) return {};
  std::vector<Boundary> before = boundaries_towards_root(known->second);
  snapshots_.erase(known->second);
  layers_.erase(known);
  refresh();
  ++generation_;
  return work_after(before);
}

std::vector<LayerRange> LayerTree::revert_to(SnapshotId id, LogPosition position) {
  revision_ = position;
  const SnapshotRecord* target = find(id);
  CHECK(target != nullptr, "the snapshot to revert to exists");
  std::vector<Boundary> before = boundaries_towards_root(head_);
  forks_.push_back(target->layer);
  head_ = first_layer_of(branches() - 1);
  refresh();
  ++generation_;
  return work_after(before);
}

void LayerTree::hold(const SnapshotRecord& snapshot) {
  if (find(snapshot.id)) return;
  snapshots_.emplace(snapshot.layer, snapshot);
  layers_.emplace(snapshot.id, snapshot.layer);
  refresh();
  ++generation_;
}

void LayerTree::leave_head() {
  headless_ = true;
  refresh();
  ++generation_;
}

// Without a copy: there may be many snapshots.
std::vector<LayerRange> LayerTree::try_drop(SnapshotId id) {
  auto known = layers_.find(id);
  if (known == layers_.end()) return {};
  std::vector<Boundary> before = boundaries_towards_root(known->second);
  auto node = snapshots_.extract(known->second);
  refresh();
  std::vector<LayerRange> work = work_after(before);
  snapshots_.insert(std::move(node));
  refresh();
  return work;
}

std::vector<LayerRange> LayerTree::try_revert(SnapshotId id) const {
  LayerTree copy = *this;
  return copy.revert_to(id, revision_);
}

void LayerTree::adopt(const LayerTree& other) {
  std::uint64_t generation = generation_ + 1;
  *this = other;
  generation_ = generation;
}

bool LayerTree::same_layers(const LayerTree& other) const {
  return head_ == other.head_ && forks_ == other.forks_ && snapshots_ == other.snapshots_;
}

template <typename Visit>
void LayerTree::for_each_point(LayerNumber first, LayerNumber end, Visit visit) const {
  for (std::optional<LayerNumber> at = next_point(first); at && *at < end; at = next_point(*at + 1)) visit(*at);
}

bool LayerTree::keeps_apart(const LayerTree& other) const {
  std::vector<LayerNumber> points;
  for (std::uint64_t branch = 0; branch < branches(); ++branch) {
    for_each_point(first_layer_of(branch), first_layer_of(branch + 1), [&](LayerNumber at) { points.push_back(at); });
  }
  for (LayerNumber point : points) {
    if (!is_boundary(point)) continue;
    std::optional<LayerNumber> group = other.group_of(point);
    bool same = true;
    for (const LayerRange& layers : layers_of_group(point)) {
      same = same && other.group_of(layers.first) == group && other.group_of(layers.last) == group;
      // Between its points a branch belongs to one group.
      other.for_each_point(layers.first, layers.last, [&](LayerNumber at) {
        same = same && other.group_of(at) == group && other.group_of(at + 1) == group;
      });
    }
    if (!same) return false;
  }
  // Of a branch that was left, nothing is new there.
  for (std::uint64_t branch = 0; branch + 1 < branches() && branch < other.branches(); ++branch) {
    bool seen = true;
    other.for_each_point(first_layer_of(branch), first_layer_of(branch + 1),
                         [&](LayerNumber at) { seen = seen && group_of(at).has_value(); });
    if (!seen) return false;
  }
  return true;
}

// ---- bytes ----

std::string LayerTree::encode_state() const { return encode(head_, revision_, forks_); }
std::string LayerTree::encode_state_at(LogPosition revision) const { return encode(head_, revision, forks_); }
std::string LayerTree::encode_state_after_snapshot(LogPosition position, std::size_t others_before) const {
  return encode(head_ + others_before + 1, position, forks_);
}
std::string LayerTree::encode_state_after_revert(SnapshotId id, LogPosition position) const {
  std::vector<LayerNumber> forks = forks_;
  forks.push_back(find(id)->layer);
  return encode(first_layer_of(forks.size() - 1), position, forks);
}

Result<LayerTree> LayerTree::decode(std::string_view state, std::vector<SnapshotRecord> snapshots) {
  LayerTree tree;
  if (!state.empty()) {
    ByteReader in(state);
    std::uint32_t format = in.u32();
    if (in.ok() && format > kLayerFormat) {
      return Error(ErrorCode::kFormatTooNew, "the metadata was written by a newer version; upgrade this node");
    }
    std::uint32_t branches = in.u32();
    tree.head_ = in.u64();
    Epoch epoch(in.u64());
    tree.revision_ = {epoch, Seq(in.u64())};
    if (!in.ok() || format != kLayerFormat || in.left() != std::size_t{branches} * 8) return malformed("layers");
    tree.forks_.clear();
    while (in.left() > 0) tree.forks_.push_back(in.u64());
  }
  return checked(std::move(tree), snapshots);
}

LayerState LayerTree::state() const {
  LayerState state{revision_, head_, forks_, {}};
  for (const auto& [layer, snapshot] : snapshots_) state.snapshots.push_back(snapshot);
  return state;
}

Result<LayerTree> LayerTree::from_state(const LayerState& state) {
  LayerTree tree;
  tree.revision_ = state.revision;
  tree.head_ = state.head;
  tree.forks_ = state.forks;
  return checked(std::move(tree), state.snapshots);
}

// Nothing of a malformed tree is used: it came from a disk or from another replica.
Result<LayerTree> LayerTree::checked(LayerTree tree, const std::vector<SnapshotRecord>& snapshots) {
  auto numbered = [](LayerNumber layer) { return (layer & UINT32_MAX) != 0; };
  bool valid = !tree.forks_.empty() && tree.forks_[0] == 0 && numbered(tree.head_) &&
               branch_of(tree.head_) == tree.branches() - 1;
  for (std::size_t i = 1; valid && i < tree.forks_.size(); ++i) {
    valid = branch_of(tree.forks_[i]) < i && numbered(tree.forks_[i]);
  }
  if (!valid) return malformed("layers");
  for (const SnapshotRecord& snapshot : snapshots) {
    bool inside = snapshot.id != SnapshotId() && numbered(snapshot.layer) && snapshot.layer < tree.head_;
    bool unique = tree.layers_.emplace(snapshot.id, snapshot.layer).second &&
                  tree.snapshots_.emplace(snapshot.layer, snapshot).second;
    if (!inside || !unique) return malformed("a snapshot");
  }
  tree.refresh();
  return tree;
}

std::string encode_snapshot_record(const SnapshotRecord& snapshot) {
  std::string out;
  put_u32(out, kLayerFormat);
  put_u32(out, 0);
  put_u64(out, snapshot.id.value());
  put_u64(out, snapshot.layer);
  put_u64(out, snapshot.position.epoch.value());
  put_u64(out, snapshot.position.seq.value());
  put_u64(out, snapshot.size_blocks);
  return out;
}

Result<SnapshotRecord> decode_snapshot_record(std::string_view bytes) {
  ByteReader in(bytes);
  std::uint32_t format = in.u32();
  if (in.ok() && format > kLayerFormat) {
    return Error(ErrorCode::kFormatTooNew, "the metadata was written by a newer version; upgrade this node");
  }
  std::uint32_t reserved = in.u32();
  SnapshotRecord snapshot;
  snapshot.id = SnapshotId(in.u64());
  snapshot.layer = in.u64();
  Epoch epoch(in.u64());
  snapshot.position = {epoch, Seq(in.u64())};
  snapshot.size_blocks = in.u64();
  if (!in.at_end() || format != kLayerFormat || reserved != 0) return malformed("a snapshot");
  return snapshot;
}

}  // namespace holdfast::store
