// What two logs have in common, from their histories alone. Pure functions.
//
// A log is described by its epoch starts, ascending: `epoch` wrote the entries from `first` to the next start. An
// (epoch, seq) is given to one entry only, and whoever has it has the same entries before it; so the greatest seq at
// which both logs name the same epoch is where they part (docs/consistency.md, "Rebuild").
#pragma once

#include <span>

#include "base/types.h"
#include "store/store.h"

namespace holdfast::engine {

// The epoch that wrote `seq`; 0 when the history does not reach it.
Epoch epoch_at(std::span<const store::EpochStart> history, Seq seq);

// The last position that both logs have. 0: nothing in common, or the common part is older than the histories kept.
Seq common_seq(std::span<const store::EpochStart> a, Seq a_last, std::span<const store::EpochStart> b, Seq b_last);

}  // namespace holdfast::engine
