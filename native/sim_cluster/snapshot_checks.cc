#include "sim_cluster/snapshot_checks.h"

#include <algorithm>
#include <set>

#include "base/crc32c.h"
#include "sim_cluster/rest_checks.h"
#include "sim_cluster/rest_wait.h"
#include "sim_cluster/unit_content.h"
#include "store/damage_mark.h"

namespace holdfast::sim {

namespace {

constexpr std::size_t kReadMax = 2;  // of a large volume

using Snapshots = std::vector<store::SnapshotInfo>;

std::string describe(const Snapshots& snapshots) {
  std::string text = "{";
  for (const store::SnapshotInfo& one : snapshots) {
    text += " " + std::to_string(one.id.value()) + " after " + std::to_string(one.parent.value()) + " at " +
            std::to_string(one.position.seq.value());
  }
  return text + " }";
}

bool same(const store::SnapshotInfo& a, const store::SnapshotInfo& b) {
  return a.id == b.id && a.parent == b.parent && a.position == b.position && a.size_blocks == b.size_blocks;
}

void check_existence(Cluster& cluster, const Snapshots& snapshots) {
  using Existence = SnapshotLog::Existence;
  std::set<SnapshotId> there;
  for (const store::SnapshotInfo& one : snapshots) there.insert(one.id);
  const SnapshotLog& log = cluster.oracle.snapshots();
  for (SnapshotId id : there) {
    if (log.existence(id) == Existence::kMustNot) {
      cluster.oracle.violated("snapshot " + std::to_string(id.value()) + " is there although it was dropped");
    }
  }
  log.for_each([&](SnapshotId id) {
    if (log.existence(id) == Existence::kMust && !there.contains(id)) {
      cluster.oracle.violated("snapshot " + std::to_string(id.value()) + " is gone");
    }
  });
}

}  // namespace

std::string read_snapshot(Cluster& cluster, const ReplicaNode& node, const store::SnapshotInfo& snapshot) {
  std::string whole(snapshot.size_blocks * kBlockSize, '\0');
  std::string name = "snapshot " + std::to_string(snapshot.id.value()) + " of " + name_of(node);
  for (std::uint64_t first = 0; first < snapshot.size_blocks; first += store::kWriteBlocksMax) {
    auto count =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(store::kWriteBlocksMax, snapshot.size_blocks - first));
    auto outcome = wait<Result<store::ReadOutcome>>(cluster, [&](Callback<void(Result<store::ReadOutcome>)> done) {
      node.store()->read_snapshot(snapshot.id, {BlockIndex(first), count}, false, std::move(done));
    });
    if (!outcome || !outcome->ok()) {
      cluster.oracle.violated(name + " cannot be read");
      return "";
    }
    std::string bytes;
    for (const Slice& part : (*outcome)->data) bytes += part.text();
    std::size_t index = 0;
    for (std::uint32_t i = 0; i < count; ++i) {
      if (((*outcome)->present[i / 8] >> (i % 8) & 1) == 0) continue;
      std::string_view block = std::string_view(bytes).substr(index * kBlockSize, kBlockSize);
      std::uint32_t crc = (*outcome)->crc[index];
      if (crc32c(as_bytes(block)) != crc && !node.damaged() && !may_be_carried_damage(cluster, block, crc)) {
        cluster.oracle.violated(name + " has a wrong CRC at block " + std::to_string(first + i));
      }
      whole.replace((first + i) * kBlockSize, kBlockSize, block);
      ++index;
    }
  }
  return whole;
}

void tell_history(Cluster& cluster, SnapshotId id, const std::string& content) {
  SnapshotLog::Interval when = cluster.oracle.snapshots().interval(id, cluster.world.now());
  std::size_t unit = cluster.scenario.logical_block_size;
  for (std::size_t at = 0; at < content.size(); at += unit) {
    if (is_damage_mark(content, at)) continue;
    std::optional<Value> value = value_of_unit(reinterpret_cast<const std::byte*>(content.data() + at), unit);
    if (!value) {
      return cluster.oracle.violated("snapshot " + std::to_string(id.value()) + " holds what nobody wrote at unit " +
                                     std::to_string(at / unit));
    }
    cluster.oracle.history().read_returned(at / unit, *value, when.begun, when.ended);
  }
}

namespace {

void check_content(Cluster& cluster, const store::SnapshotInfo& snapshot) {
  std::string content;
  for (const Cluster::Member& member : cluster.members) {
    if (!cluster.oracle.violation().empty()) return;
    if (member.node->damaged()) continue;
    std::string copy = read_snapshot(cluster, *member.node, snapshot);
    if (content.empty()) {
      content = std::move(copy);
      tell_history(cluster, snapshot.id, content);
    } else if (!same_but_for_damage(copy, content)) {
      cluster.oracle.violated(name_of(*member.node) + " differs in snapshot " + std::to_string(snapshot.id.value()));
    }
  }
}

}  // namespace

void check_snapshots(Cluster& cluster) {
  if (!cluster.scenario.snapshots) return;
  Snapshots snapshots = cluster.members.front().node->store()->snapshots();
  for (const Cluster::Member& member : cluster.members) {
    Snapshots others = member.node->store()->snapshots();
    if (!std::equal(snapshots.begin(), snapshots.end(), others.begin(), others.end(), same)) {
      return cluster.oracle.violated(name_of(*member.node) + " has the snapshots " + describe(others) + ", another " +
                                     describe(snapshots));
    }
  }
  check_existence(cluster, snapshots);
  bool large = cluster.scenario.size_blocks > 1'024;
  while (large && snapshots.size() > kReadMax) {
    snapshots.erase(snapshots.begin() + static_cast<std::ptrdiff_t>(cluster.world.random().below(snapshots.size())));
  }
  for (const store::SnapshotInfo& snapshot : snapshots) check_content(cluster, snapshot);
}

}  // namespace holdfast::sim
