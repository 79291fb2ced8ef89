// Overlay: what the log of one replica changes in each chunk and has not been applied to its record yet.
// Thread: reactor of the store.
#pragma once

#include <algorithm>
#include <optional>
#include <unordered_map>
#include <vector>

#include "store/chunk_record.h"
#include "store/log_entry.h"

namespace holdfast::store {

// The part of a log entry that falls into one chunk.
struct Piece {
  enum class Kind : std::uint8_t { kData, kZero, kDirect };
  Kind kind = Kind::kData;
  std::uint8_t first = 0;  // block within the chunk
  std::uint8_t count = 0;
  std::uint32_t entry_block = 0;  // the entry's block that is `first`
  std::uint64_t slot = kNoSlot;   // kDirect
  const LogEntry* log = nullptr;
  Seq seq;  // of `log`, which is seldom in the CPU's cache

  std::uint64_t mask() const { return block_mask(first, count); }
  std::uint32_t crc_of(std::uint32_t block_in_chunk) const {
    std::uint32_t crc;
    std::memcpy(&crc, log->entry.crc.data() + std::size_t{entry_block + block_in_chunk - first} * 4, 4);
    return crc;
  }
  std::size_t data_offset(std::uint32_t block_in_chunk) const {
    return std::size_t{entry_block + block_in_chunk - first} * kBlockSize;
  }
  // The bytes are in the entry's buffer (and not, or not for sure, in a slot).
  bool in_memory() const { return kind == Kind::kData || (kind == Kind::kDirect && !log->journalled); }
};

// The slots set aside for one chunk: one for each segment of the log (what lies between two SNAPSHOT entries) that may
// need one. A segment is named by the seq of the SNAPSHOT before it; 0 when that was applied before the disk was
// opened.
class ReservedSlots {
 public:
  bool has(Seq segment) const {
    return (first_ && *first_ == segment) || std::find(more_.begin(), more_.end(), segment) != more_.end();
  }
  void add(Seq segment) {
    if (first_) {
      more_.push_back(segment);
    } else {
      first_ = segment;
    }
  }
  bool take(Seq segment) {
    if (first_ && *first_ == segment) {
      first_.reset();
      return true;
    }
    return std::erase(more_, segment) > 0;
  }
  // Removes those of segments before this one; returns how many.
  std::uint64_t take_before(Seq segment) {
    std::uint64_t taken = std::erase_if(more_, [segment](Seq one) { return one < segment; });
    if (first_ && *first_ < segment) {
      first_.reset();
      ++taken;
    }
    return taken;
  }
  std::uint64_t count() const { return more_.size() + (first_ ? 1 : 0); }

 private:
  std::optional<Seq> first_;
  std::vector<Seq> more_;
};

struct ChunkOverlay {
  std::vector<Piece> pieces;  // in order of seq
  ReservedSlots reserved;

  // Of the pieces after `after`.
  bool has(Piece::Kind kind, Seq after) const {
    return std::any_of(pieces.rbegin(), pieces.rend(),
                       [kind, after](const Piece& piece) { return piece.kind == kind && piece.seq > after; });
  }
};

class Overlay {
 public:
  ChunkOverlay* find(ChunkIndex chunk) {
    auto at = chunks_.find(chunk.value());
    return at == chunks_.end() ? nullptr : &at->second;
  }
  ChunkOverlay& of(ChunkIndex chunk) { return chunks_[chunk.value()]; }
  void erase(ChunkIndex chunk) { chunks_.erase(chunk.value()); }
  bool empty() const { return chunks_.empty(); }
  void clear() { chunks_.clear(); }

  // Chunks in [first, end) with pieces, ascending.
  std::vector<ChunkIndex> chunks(ChunkIndex first, ChunkIndex end) const {
    std::vector<ChunkIndex> found;
    for (const auto& [chunk, overlay] : chunks_) {
      if (chunk >= first.value() && chunk < end.value() && !overlay.pieces.empty()) found.emplace_back(chunk);
    }
    std::sort(found.begin(), found.end());
    return found;
  }

 private:
  std::unordered_map<std::uint64_t, ChunkOverlay> chunks_;
};

// Calls visit(ChunkIndex, first block in chunk, count, block of the range) for each chunk a range touches.
template <typename Visit>
void for_each_chunk(BlockRange blocks, Visit visit) {
  for (std::uint64_t at = blocks.begin(); at < blocks.end();) {
    std::uint32_t first = block_in_chunk(BlockIndex(at));
    auto count = static_cast<std::uint32_t>(std::min<std::uint64_t>(kBlocksPerChunk - first, blocks.end() - at));
    visit(chunk_of(BlockIndex(at)), first, count, static_cast<std::uint32_t>(at - blocks.begin()));
    at += count;
  }
}

// Adds the pieces of an entry; calls each(ChunkIndex, ChunkOverlay&, const Piece&) after adding one.
template <typename Each>
void add_pieces(Overlay& overlay, const LogEntry& log, Each each) {
  if (!log.changes_blocks()) return;
  auto direct = log.direct_pieces();
  for_each_chunk(log.entry.blocks,
                 [&](ChunkIndex chunk, std::uint32_t first, std::uint32_t count, std::uint32_t entry_block) {
                   Piece piece;
                   piece.kind = log.entry.op == Op::kZero ? Piece::Kind::kZero : Piece::Kind::kData;
                   piece.first = static_cast<std::uint8_t>(first);
                   piece.count = static_cast<std::uint8_t>(count);
                   piece.entry_block = entry_block;
                   piece.log = &log;
                   piece.seq = log.entry.position.seq;
                   if (!direct.empty() && direct.front().first == entry_block) {
                     piece.kind = Piece::Kind::kDirect;
                     piece.slot = direct.front().slot;
                     direct = direct.subspan(1);
                   }
                   ChunkOverlay& target = overlay.of(chunk);
                   target.pieces.push_back(piece);
                   each(chunk, target, piece);
                 });
}

}  // namespace holdfast::store
