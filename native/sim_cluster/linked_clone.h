// LinkedClone: a second volume on the disks of a cluster that is at rest: a linked clone of one of its snapshots, with
// an engine, clients and promises of its own. Source and clone are written, the snapshot is dropped, everything loses
// its power; at the end the source is deleted, then the clone: what it began with stays to its last block, and no slot
// stays behind.
//
// Its promises are those of any volume; every block's history begins with what the snapshot held.
#pragma once

#include <memory>
#include <string>

#include "sim_cluster/cluster.h"

namespace holdfast::sim {

class LinkedClone {
 public:
  static constexpr VolumeId kVolume{8};

  explicit LinkedClone(Cluster& cluster);

  // The source is at rest and served. What goes wrong is told to the cluster's oracle.
  void begin();
  // Both are written for a while, and the source's snapshot may go. Afterwards the clone is at rest; the source is read
  // and checked by the caller.
  void live();
  // The source is deleted, then the clone.
  void outlive_source();

 private:
  static ReplicaId id_on(const ReplicaNode& node) { return ReplicaId(node.id().value() + 1'000); }
  bool bad() const { return !cluster_.oracle.violation().empty(); }
  void violated(const std::string& what) { cluster_.oracle.violated("linked clone: " + what); }
  void take_snapshot();
  void drop_snapshot();
  void attach();
  void on_opened(Attachment& attachment);
  bool serving() const { return current_ && current_->state() == Attachment::State::kServing && current_->engine(); }
  void write_for(Nanos duration);
  void come_to_rest();
  bool settled() const;
  void lose_power();
  void delete_everywhere(ReplicaId (*id_of)(const ReplicaNode&));
  // Runs `work` in the clone's or the source's process, and until it has run.
  void in_process(Attachment& attachment, std::function<void()> work);

  Cluster& cluster_;
  MetadataStore store_;
  Oracle oracle_;
  LastSeen seen_;
  Attachment* current_ = nullptr;
  SnapshotId snapshot_;
  std::uint64_t size_blocks_ = 0;
  bool made_ = false;
};

}  // namespace holdfast::sim
