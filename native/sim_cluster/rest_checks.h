// What must hold when a healthy volume is at rest: every copy has the same log end, the same content with right CRCs,
// nothing left in memory or journal, and exactly the slots that its chunks need.
#pragma once

#include "sim_cluster/cluster.h"

namespace holdfast::sim {

// Reports what is wrong to the oracle of the cluster.
void check_at_rest(Cluster& cluster);

}  // namespace holdfast::sim
