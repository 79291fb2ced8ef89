// LayerMerge: one step of the work that dropped snapshots and reverts leave behind (Space::merges): of some chunks,
// removes the records that nobody sees any more, and makes one record of two that the same viewpoints see. Only blocks
// of which the two layers hold different ones are copied, the smaller part to the larger. A step looks at no more than
// kChunksMax chunks and merges no more than kMergesMax records; what it did is stored in one batch with how far it
// came, so a crash repeats at most one step. Rounds of the destager do not run meanwhile.
//
// A block that cannot be read is tried again for a while: its device may come to itself. The step is put off meanwhile,
// as a crash would, and the rest of the disk is served. Then it is given up: its CRC stays in the record, so readers
// find the damage and get another copy. One bad sector must not take all replicas of the disk along, at every start
// anew.
//
// Why copying needs no journal: blocks are copied only to places that no viewpoint sees; the records before and after
// say the same of every block. Thread: reactor of the store.
#pragma once

#include <vector>

#include "base/task.h"
#include "store/chunk_view.h"
#include "store/replica.h"
#include "store/unreadable_blocks.h"

namespace holdfast::store {

class Disk;

class LayerMerge {
 public:
  static constexpr std::size_t kChunksMax = 64;
  static constexpr std::size_t kMergesMax = 128;

  LayerMerge(Disk& disk, Space& space, UnreadableBlocks& unreadable)
      : disk_(disk), space_(space), unreadable_(unreadable), job_(space.merges().front()) {}

  // True: done. False: put off. On failure the disk has failed.
  Task<bool> run();

 private:
  Task<Status> step();
  Task<Status> choose_chunks();
  Task<Status> tidy_chunk(ChunkIndex chunk);
  Task<Status> merge_group(ChunkIndex chunk, const ChunkStack& stack, const std::vector<std::size_t>& members);
  Task<Status> copy_blocks(std::uint64_t from, std::uint64_t to, std::uint64_t blocks);
  Task<Status> copy_run(std::uint64_t from_block, std::uint64_t to_block, std::uint32_t count);
  Task<Status> copy_one_by_one(std::uint64_t from_block, std::uint64_t to_block, std::uint32_t count);
  void remove_record(ChunkIndex chunk, LayerNumber layer);
  Task<Status> store();

  Disk& disk_;
  Space& space_;
  UnreadableBlocks& unreadable_;
  MergeJob job_;
  struct Place {
    LayerNumber layer;  // 0 when going by chunk
    ChunkIndex chunk;
  };
  std::vector<Place> places_;
  bool exhausted_ = false;  // nothing behind places_
  KvBatch batch_;
  std::vector<ChunkIndex> changed_;
  std::vector<std::uint64_t> freed_;
  std::map<LayerNumber, std::int64_t> layer_slots_;
  std::size_t merges_ = 0;
  bool copied_ = false;
  bool put_off_ = false;
};

}  // namespace holdfast::store
