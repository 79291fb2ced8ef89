// Snapshots of a healthy volume at rest: those that were taken are there, those that were dropped are not, and every
// copy has the same ones with the same content, which is what the volume held when they were taken.
#pragma once

#include "sim_cluster/cluster.h"

namespace holdfast::sim {

// Reports what is wrong to the oracle of the cluster. Content goes into the oracle's history, which is checked at the
// end.
void check_snapshots(Cluster& cluster);

// All that a node holds of a snapshot, with its checksums checked. Empty: something was wrong and is reported.
std::string read_snapshot(Cluster& cluster, const ReplicaNode& node, const store::SnapshotInfo& snapshot);
// As if every block (but those that a rebuild copied as damaged) had been read at one moment while the snapshot was
// being taken.
void tell_history(Cluster& cluster, SnapshotId id, const std::string& content);

}  // namespace holdfast::sim
