// What must hold when a healthy volume is at rest: every copy has the same log end, the same content with right CRCs,
// nothing left in memory or journal, and exactly the slots that its chunks need.
#pragma once

#include <functional>

#include "sim_cluster/cluster.h"

namespace holdfast::sim {

// Reports what is wrong to the oracle of the cluster.
void check_at_rest(Cluster& cluster);

// The copies of one volume that the nodes hold: complete and equal, and the disks have given away no slot that their
// records do not own.
void check_copies(Cluster& cluster, const std::function<store::ReplicaStore*(const ReplicaNode&)>& copy_on);

}  // namespace holdfast::sim
