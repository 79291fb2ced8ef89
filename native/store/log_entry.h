// LogEntry: an entry of a replica's log from append until it is applied (destaged).
#pragma once

#include <array>
#include <cstdint>

#include "io/env.h"
#include "store/journal_format.h"
#include "store/store.h"

namespace holdfast::store {

class Replica;

struct LogEntry {
  Entry entry;  // `data` is let go once all of it is in slots
  Replica* owner = nullptr;
  ReplicaId replica;
  std::uint64_t log_generation = 0;
  Seq committed;  // of the replica at the time of append
  std::array<DirectPiece, kDirectPiecesMax> direct{};
  std::uint32_t direct_count = 0;
  std::uint32_t direct_pending = 0;  // direct writes in flight
  std::uint64_t cached_bytes = 0;    // what it counts for in the cache budget
  std::uint64_t written_bytes = 0;   // of data, wherever it is
  std::uint64_t ticket = 0;          // order of appends over all replicas
  std::uint64_t batch = 0;           // number of its batch; 0 until it is part of one
  bool journalled = false;
  StatusCallback done;

  // Stands for what a chunk that a ZERO touches takes in memory, here and in a round: nothing else bounds how many
  // wait.
  static constexpr std::uint64_t kZeroedChunkBytes = 512;

  // Sets cached_bytes and written_bytes; the direct pieces are known.
  void weigh() {
    if (entry.op == Op::kZero) {
      std::uint64_t first = entry.blocks.begin() / kBlocksPerChunk;
      cached_bytes = ((entry.blocks.end() - 1) / kBlocksPerChunk - first + 1) * kZeroedChunkBytes;
    } else if (entry.op == Op::kWrite) {
      written_bytes = std::uint64_t{entry.blocks.count} * kBlockSize;
      cached_bytes = payload_blocks() > 0 ? written_bytes : 0;
    }
  }
  bool changes_blocks() const { return entry.op == Op::kWrite || entry.op == Op::kZero; }
  bool changes_layers() const {
    return entry.op == Op::kSnapshot || entry.op == Op::kDropSnapshot || entry.op == Op::kRevert;
  }
  std::span<const DirectPiece> direct_pieces() const { return {direct.data(), direct_count}; }
  std::uint32_t payload_blocks() const {
    return entry.op == Op::kWrite ? entry.blocks.count - direct_count * kBlocksPerChunk : 0;
  }
};

}  // namespace holdfast::store
