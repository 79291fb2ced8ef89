// Blocks that are bad on one copy: found by a read, or by a scrub. Their content is read again under an exclusive lock,
// since a write may come between, and written over the bad copy by an ordinary WRITE.
#include "base/log.h"
#include "engine/volume_engine.h"

namespace holdfast::engine {

namespace {
constexpr std::uint32_t kRepairsMax = 8;
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

}  // namespace holdfast::engine
