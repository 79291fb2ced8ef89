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
  kNoLeaseWait,
  kAnyLogWins,
  kSkipTails,
  kPromoteEarly,
  kRebuildFromWrongBase,
};

struct PlantName {
  Plant plant;
  std::string_view name;
};
inline constexpr std::array kPlantNames = {
    PlantName{Plant::kAckBeforeJournal, "ack-before-journal"},
    PlantName{Plant::kFlushWithoutSync, "flush-without-sync"},
    PlantName{Plant::kPromiseNotDurable, "promise-not-durable"},
    PlantName{Plant::kAcceptLowerEpoch, "accept-lower-epoch"},
    PlantName{Plant::kReuseJournalBeforeSync, "reuse-journal-before-sync"},
    PlantName{Plant::kDropLastBatch, "drop-last-batch"},
    PlantName{Plant::kTakeTornBatch, "take-torn-batch"},
    PlantName{Plant::kIgnoreFreshMask, "ignore-fresh-mask"},
    PlantName{Plant::kForgetUnmapped, "forget-unmapped"},
    PlantName{Plant::kLeakSlots, "leak-slots"},
    PlantName{Plant::kKeepOldStreams, "keep-old-streams"},
    PlantName{Plant::kAckWithoutOne, "ack-without-one"},
    PlantName{Plant::kAckBeforeRemovalIsStored, "ack-before-removal-is-stored"},
    PlantName{Plant::kFlushOne, "flush-one"},
    PlantName{Plant::kSkipCrc, "skip-crc"},
    PlantName{Plant::kReadWithoutLock, "read-without-lock"},
    PlantName{Plant::kSkipLease, "skip-lease"},
    PlantName{Plant::kNoLeaseWait, "no-lease-wait"},
    PlantName{Plant::kAnyLogWins, "any-log-wins"},
    PlantName{Plant::kSkipTails, "skip-tails"},
    PlantName{Plant::kPromoteEarly, "promote-early"},
    PlantName{Plant::kRebuildFromWrongBase, "rebuild-from-wrong-base"},
};

// Set once, before anything runs.
inline Plant planted = Plant::kNone;

}  // namespace holdfast

#define HOLDFAST_PLANT(name) (::holdfast::planted == ::holdfast::Plant::name)

#else

#define HOLDFAST_PLANT(name) false

#endif
