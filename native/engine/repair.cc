// Blocks that are bad on one copy: found by a read, or by a scrub. Their content is read again under an exclusive lock,
// since a write may come between, and written over the bad copy by an ordinary WRITE.
//
// Blocks that a rebuild copied as damaged, because no copy had them, are told about once the replica is in-sync, and
// looked at once more: what could not be read for a while may be readable again.
#include <algorithm>
#include <bit>

#include "base/log.h"
#include "engine/volume_engine.h"

namespace holdfast::engine {

namespace {
constexpr std::uint32_t kRepairsMax = 8;
constexpr std::size_t kRangesTold = 32;
constexpr std::size_t kCarriedMax = 4'096;  // beyond, a scrub mends what can be mended

// Block numbers: "5, 64-66, 200".
std::string describe(const std::map<ChunkIndex, std::uint64_t>& damaged) {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;  // first and last
  for (const auto& [chunk, blocks] : damaged) {
    for (std::uint64_t left = blocks; left != 0; left &= left - 1) {
      std::uint64_t block = first_block_of(chunk).value() + static_cast<std::uint64_t>(std::countr_zero(left));
      if (!ranges.empty() && ranges.back().second + 1 == block) {
        ranges.back().second = block;
      } else {
        ranges.emplace_back(block, block);
      }
    }
  }
  std::string text;
  for (std::size_t i = 0; i < std::min(ranges.size(), kRangesTold); ++i) {
    auto [first, last] = ranges[i];
    text += (i == 0 ? "" : ", ") + std::to_string(first) + (last > first ? "-" + std::to_string(last) : "");
  }
  return text + (ranges.size() > kRangesTold ? ", ..." : "");
}
}  // namespace

void VolumeEngine::repair_later(BlockRange blocks, ReplicaId bad) {
  if (state_ != State::kServing || repairs_under_way_ >= kRepairsMax) return;
  ++repairs_under_way_;
  Op* op = new_op(Op::Kind::kRepair, blocks.begin() * kBlockSize, std::uint64_t{blocks.count} * kBlockSize);
  op->repair_from = bad;
  begin(op);
}

void VolumeEngine::repair(BlockRange blocks, ReplicaId bad, bool differs, Callback<void(Result<RepairOutcome>)> done) {
  std::optional<Error> why = refusal();
  if (!why && (blocks.count == 0 || blocks.count > store::kWriteBlocksMax || blocks.end() > size_blocks_)) {
    why = Error(ErrorCode::kInvalidArgument, "a repair is of 1 to 256 blocks of the volume");
  }
  Member* member = find(bad);
  if (!why && (!member || member->phase != MemberPhase::kStreaming)) {
    why = Error(ErrorCode::kReplicaIncomplete,
                "replica " + to_hex(bad.value()) + " is not in-sync: a rebuild repairs it");
  }
  if (!why && differs && in_sync_.stored().size() < 2) {
    why = Error(ErrorCode::kNoInSyncReplica, "volume " + config_.name + " has no other in-sync replica to repair from");
  }
  if (why) {
    struct Held {
      Callback<void(Result<RepairOutcome>)> done;
      Error error;
    };
    env_.post([held = std::make_unique<Held>(Held{std::move(done), std::move(*why)})] {
      held->done(std::move(held->error));
    });
    return;
  }
  ++repairs_under_way_;
  Op* op = new_op(Op::Kind::kRepair, blocks.begin() * kBlockSize, std::uint64_t{blocks.count} * kBlockSize);
  op->repair_from = bad;
  op->repair_differs = differs;
  op->repair_done = std::move(done);
  begin(op);
}

// Begins with the copy that was bad: it may have been written since.
void VolumeEngine::run_repair(Op* op) {
  BlockRange blocks{BlockIndex(op->first_block()), static_cast<std::uint32_t>(op->end_block() - op->first_block())};
  BlockRead* read = new_read(blocks);
  (op->repair_differs ? read->avoid : read->first_choice) = op->repair_from;
  read->done = [this, op, blocks](Result<SliceList> content) {
    if (!content.ok() || !(read_found_bad_ || op->repair_differs)) {
      answer(op, content.status());
      return finish(op);
    }
    log_warn("engine", "repairing " + std::to_string(blocks.count) + " blocks at block " +
                           std::to_string(blocks.begin()) + " of volume " + config_.name + " on replica " +
                           to_hex(op->repair_from->value()));
    repaired_blocks_ += blocks.count;
    op->repaired_blocks = blocks.count;
    write_blocks(op, blocks, std::move(*content));
  };
  route(read);
}

// ---- damage that a rebuild carried over ----

// Kept while the rebuild is tried again: what it has copied already it does not copy and tell again.
void VolumeEngine::note_damage(Member& member, const std::vector<replica::DamagedChunk>& chunks) {
  for (const replica::DamagedChunk& one : chunks) {
    if (one.chunk < chunk_of(BlockIndex(size_blocks_numbered_)).next()) member.damaged[one.chunk] |= one.blocks;
  }
}

// The replica has become in-sync.
void VolumeEngine::take_damage_over(Member& member) {
  bool idle = carried_damage_.empty();
  carried_damage_.insert(carried_damage_.end(), unmended_.begin(), unmended_.end());
  unmended_.clear();
  if (!member.damaged.empty()) tell_damage(member);
  if (idle) look_at_carried_damage();
}

void VolumeEngine::tell_damage(Member& member) {
  std::uint64_t count = 0;
  for (const auto& [chunk, blocks] : member.damaged) {
    for (std::uint64_t left = blocks; left != 0; left &= left - 1, ++count) {
      BlockIndex block(first_block_of(chunk).value() + static_cast<std::uint64_t>(std::countr_zero(left)));
      if (carried_damage_.size() < kCarriedMax) carried_damage_.push_back({member.config.id, block});
    }
  }
  std::string text = "replica " + to_hex(member.config.id.value()) + " was rebuilt, but " + std::to_string(count) +
                     " blocks (of 4 KiB) are damaged on every in-sync replica of volume " + config_.name +
                     " or of its snapshots, and on this one, too: " + describe(member.damaged) +
                     "; reads of them fail until they are written";
  member.damaged.clear();
  log_error("engine", text);
  membership_.damage_found(config_.volume, config_.epoch, std::move(text));
}

// One after the other. A device that failed for a while may have them again, or the replica that has become in-sync
// does: then the one with the damage gets them.
void VolumeEngine::look_at_carried_damage() {
  if (state_ != State::kServing) carried_damage_.clear();
  if (carried_damage_.empty()) return;
  CarriedDamage next = carried_damage_.front();
  repair({next.block, 1}, next.replica, false, [this, alive = alive_](Result<RepairOutcome> outcome) {
    if (!*alive) return;
    bool known = find(carried_damage_.front().replica) != nullptr;
    if (!outcome.ok() && known && unmended_.size() < kCarriedMax) unmended_.push_back(carried_damage_.front());
    carried_damage_.pop_front();
    look_at_carried_damage();
  });
}

}  // namespace holdfast::engine
