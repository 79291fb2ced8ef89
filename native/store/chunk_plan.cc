#include "store/chunk_plan.h"

#include <bit>

#include "base/plant.h"

namespace holdfast::store {

namespace {

class Planner {
 public:
  Planner(const std::optional<ChunkRecord>& old, std::uint64_t below, std::optional<std::uint64_t> join_generation,
          ChunkPlan& plan, ChunkWrites& writes)
      : plan_(plan), writes_(writes), below_(below), tracks_fresh_(join_generation.has_value()) {
    plan_ = {};
    writes_.blocks = 0;
    ChunkRecord& record = plan_.next;
    if (old) record = *old;
    slot_ = record.slot;
    had_record_ = old.has_value();
    if (!tracks_fresh_) {
      record.fresh = record.fresh_generation = 0;
    } else if (record.fresh_generation != *join_generation) {
      record.fresh = 0;
      record.fresh_generation = *join_generation;
      // Of a former lineage perhaps; live entries and fills say the new version.
      version_known_ = false;
    }
  }

  // Fetched content always goes to a fresh slot: it is in no journal, so it must not be written over anything.
  void fill(const ChunkContent& content) {
    ChunkRecord& record = plan_.next;
    std::uint64_t kept = HOLDFAST_PLANT(kIgnoreFreshMask) ? 0 : record.fresh;
    std::uint64_t taken = content.present & ~kept;
    record.data = (record.data & kept) | taken;
    record.zero = (record.zero & kept) | (content.zero & ~kept);
    plan_.copies = record.data & kept;
    std::size_t index = 0;
    std::size_t offset = 0;
    auto part = content.data.begin();
    for (std::uint64_t left = content.present; left != 0; left &= left - 1, ++index) {
      auto block = static_cast<std::size_t>(std::countr_zero(left));
      while (offset == part->size()) {
        ++part;
        offset = 0;
      }
      if (taken >> block & 1) {
        write(block, part->data() + offset);
        record.crc[block] = content.crc[index];
      }
      offset += kBlockSize;
    }
    leave_slot();
    raise_version(content.version);
  }

  void piece(const Piece& piece) {
    ChunkRecord& record = plan_.next;
    std::uint64_t mask = piece.mask();
    plan_.copies &= ~mask;
    writes_.blocks &= ~mask;
    if (tracks_fresh_) record.fresh |= mask;
    raise_version(piece.log->entry.position);
    if (piece.kind == Piece::Kind::kDirect) {
      leave_slot();
      slot_ = piece.slot;
    }
    for (std::uint32_t block = piece.first; block < std::uint32_t{piece.first} + piece.count; ++block) {
      if (piece.kind == Piece::Kind::kZero) continue;
      wrote_data_ = true;
      record.crc[block] = piece.crc_of(block);
      if (piece.kind == Piece::Kind::kData) write(block, piece.log->entry.data.data() + piece.data_offset(block));
    }
    if (piece.kind == Piece::Kind::kZero) {
      record.data &= ~mask;
      record.zero |= mask;
    } else {
      record.data |= mask;
      record.zero &= ~mask;
    }
  }

  void finish() {
    ChunkRecord& record = plan_.next;
    if (record.data == 0) leave_slot();
    record.slot = slot_;
    plan_.needs_slot = record.data != 0 && slot_ == kNoSlot;
    // Zeroing what never held anything changes nothing: discarding a huge empty volume leaves no records. What was
    // written and zeroed in one round did hold something: another replica may have destaged only the write.
    bool hides = (record.zero & below_) != 0;
    plan_.remove =
        record.data == 0 && (record.vanished() || (!tracks_fresh_ && !had_record_ && !wrote_data_ && !hides));
    if (HOLDFAST_PLANT(kForgetUnmapped)) plan_.remove = record.data == 0;
  }

 private:
  void write(std::size_t block, const std::byte* bytes) {
    writes_.blocks |= std::uint64_t{1} << block;
    writes_.bytes[block] = bytes;
  }
  void leave_slot() {
    if (slot_ != kNoSlot) plan_.freed.push_back(slot_);
    slot_ = kNoSlot;
  }
  void raise_version(LogPosition version) {
    LogPosition& now = plan_.next.version;
    now = version_known_ ? std::max(now, version) : version;
    version_known_ = true;
  }

  ChunkPlan& plan_;
  ChunkWrites& writes_;
  std::uint64_t below_;
  bool tracks_fresh_;
  bool version_known_ = true;
  bool had_record_ = false;
  bool wrote_data_ = false;
  std::uint64_t slot_ = kNoSlot;
};

}  // namespace

void plan_chunk(const std::optional<ChunkRecord>& old, std::uint64_t below, std::span<const Piece> pieces,
                const ChunkContent* fill, std::optional<std::uint64_t> join_generation, ChunkPlan& plan,
                ChunkWrites& writes) {
  Planner planner(old, below, join_generation, plan, writes);
  if (fill) planner.fill(*fill);
  for (const Piece& piece : pieces) planner.piece(piece);
  planner.finish();
}

}  // namespace holdfast::store
