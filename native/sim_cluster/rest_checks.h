// What must hold when a healthy volume is at rest: every copy has the same log end, the same content with right CRCs,
// nothing left in memory or journal, and exactly the slots that its chunks need.
#pragma once

#include <functional>
#include <string_view>

#include "sim_cluster/cluster.h"

namespace holdfast::sim {

// Reports what is wrong to the oracle of the cluster.
void check_at_rest(Cluster& cluster);

// The copies of one volume that the nodes hold: complete and equal, and the disks have given away no slot that their
// records do not own.
void check_copies(Cluster& cluster, const std::function<store::ReplicaStore*(const ReplicaNode&)>& copy_on);

// A rebuild copies what no in-sync copy has as damaged, and marks it (store/damage_mark.h): the record has the right
// CRC, the content never matches it, so reads fail. On a disk that no fault has damaged only such a block may be wrong.
bool may_be_carried_damage(const Cluster& cluster, std::string_view block, std::uint32_t crc);
// Whether the block that byte `at` is in is marked so. No client writes what looks like a mark.
bool is_damage_mark(std::string_view content, std::size_t at);
bool holds_damage_marks(std::string_view content);
// One copy may have what the other could not get any more; digests are compared all the same.
bool same_but_for_damage(std::string_view a, std::string_view b);

}  // namespace holdfast::sim
