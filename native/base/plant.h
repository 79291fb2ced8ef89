// Planted bugs: deliberate mistakes in real code that prove that the simulator finds such mistakes. docs/simulator.md
// has the table. They exist only in builds with -DHOLDFAST_PLANTS=ON, one at a time, chosen by `sim --plant NAME`; in
// every other build HOLDFAST_PLANT(name) is the constant false and nothing of them is compiled.
//
//   if (HOLDFAST_PLANT(kFlushWithoutSync)) return done(Status());
#pragma once

#ifdef HOLDFAST_PLANTS

#include <array>
#include <cstddef>
#include <string_view>

namespace holdfast {

enum class Plant : unsigned char {
  kNone,
  // store
  kAckBeforeJournal,
  kFlushWithoutSync,
  kPromiseNotDurable,
  kAcceptLowerEpoch,
  kReuseJournalBeforeSync,
  kDropLastBatch,
  kTakeTornBatch,
  kIgnoreFreshMask,
  kForgetUnmapped,
  kLeakSlots,
  // replica
  kKeepOldStreams,
  // engine
  kAckWithoutOne,
  kAckBeforeRemovalIsStored,
  kFlushOne,
  kSkipCrc,
  kReadWithoutLock,
  kSkipLease,
  kReadFromLeaving,
  kNoLeaseWait,
  kAnyLogWins,
  kSkipTails,
  kPromoteEarly,
  kRebuildFromWrongBase,
  kAckPendingResize,
  kJoinKeepsSize,
  kForgetLoss,
  kServeAfterLoss,
  kIgnorePins,
};

struct PlantName {
  Plant plant;
  std::string_view name;
  // The first seed that found it when this was last looked at: where the search begins. It goes on from seed 1, so a
  // seed that no longer finds it costs time and nothing else.
  unsigned found_by;
};
inline constexpr std::array kPlantNames = {
    PlantName{Plant::kAckBeforeJournal, "ack-before-journal", 4},
    PlantName{Plant::kFlushWithoutSync, "flush-without-sync", 27},
    PlantName{Plant::kPromiseNotDurable, "promise-not-durable", 20},
    PlantName{Plant::kAcceptLowerEpoch, "accept-lower-epoch", 17},
    PlantName{Plant::kReuseJournalBeforeSync, "reuse-journal-before-sync", 14},
    PlantName{Plant::kDropLastBatch, "drop-last-batch", 4},
    PlantName{Plant::kTakeTornBatch, "take-torn-batch", 22},
    PlantName{Plant::kIgnoreFreshMask, "ignore-fresh-mask", 3},
    PlantName{Plant::kForgetUnmapped, "forget-unmapped", 18},
    PlantName{Plant::kLeakSlots, "leak-slots", 1},
    PlantName{Plant::kKeepOldStreams, "keep-old-streams", 62},
    PlantName{Plant::kAckWithoutOne, "ack-without-one", 95},
    PlantName{Plant::kAckBeforeRemovalIsStored, "ack-before-removal-is-stored", 30},
    PlantName{Plant::kFlushOne, "flush-one", 29},
    PlantName{Plant::kSkipCrc, "skip-crc", 14},
    PlantName{Plant::kReadWithoutLock, "read-without-lock", 82},
    PlantName{Plant::kSkipLease, "skip-lease", 543},
    PlantName{Plant::kReadFromLeaving, "read-from-leaving", 20},
    PlantName{Plant::kNoLeaseWait, "no-lease-wait", 54},
    PlantName{Plant::kAnyLogWins, "any-log-wins", 15},
    PlantName{Plant::kSkipTails, "skip-tails", 79},
    PlantName{Plant::kPromoteEarly, "promote-early", 117},
    PlantName{Plant::kRebuildFromWrongBase, "rebuild-from-wrong-base", 96},
    PlantName{Plant::kAckPendingResize, "ack-pending-resize", 56},
    PlantName{Plant::kJoinKeepsSize, "join-keeps-size", 3},
    PlantName{Plant::kForgetLoss, "forget-loss", 29},
    PlantName{Plant::kServeAfterLoss, "serve-after-loss", 29},
    PlantName{Plant::kIgnorePins, "ignore-pins", 83},
};

// Set once, before anything runs.
inline Plant planted = Plant::kNone;

}  // namespace holdfast

#define HOLDFAST_PLANT(name) (::holdfast::planted == ::holdfast::Plant::name)

#else

#define HOLDFAST_PLANT(name) false

#endif
