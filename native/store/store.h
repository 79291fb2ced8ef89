// The store of one disk: a journal and chunks, holding any number of replicas. What docs/consistency.md
// calls a replica is a ReplicaStore here. Public interface; docs/on-disk-format.md describes the bytes.
//
// Thread: everything belongs to the reactor of the Env.
//
// Invariants (checked by recovery, asserted, attacked by tests):
//  1. An entry is reported journalled only when its journal batch (and, for a direct write, its chunk data)
//     was written, and so was every earlier entry of that replica.
//  2. The log of a replica is a gapless run of seqs; what is applied (destaged) is a prefix of it. Entries above
//     committed_seq are in the journal and not applied, unless a join or the lack of room in the journal has them
//     applied (docs/consistency.md, "A log that nobody commits").
//  3. Journal space is reused only after the chunk data and the metadata batch covering it are durable.
//  4. A chunk record never points to a slot that another record owns or that is free.
//  5. Every stored block has a CRC32C in its record or journal entry; reads return it with the bytes.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/result.h"
#include "base/task.h"
#include "base/types.h"
#include "io/env.h"
#include "store/kv.h"
#include "store/layer_tree.h"

namespace holdfast::store {

enum class Op : std::uint8_t { kWrite = 1, kZero = 2, kSnapshot = 3, kDropSnapshot = 4, kRevert = 5, kResize = 6 };

// 1 PiB: far beyond any volume, far below where arithmetic on sizes could wrap.
inline constexpr std::uint64_t kSizeBlocksMax = 1ull << 38;
inline constexpr std::uint32_t kWriteBlocksMax = 256;    // 1 MiB
inline constexpr std::uint32_t kZeroBlocksMax = 16'384;  // 64 MiB
inline constexpr std::uint32_t kMapBlocksMax = 16'384;   // 64 MiB

struct Entry {
  LogPosition position;
  Op op = Op::kWrite;
  BlockRange blocks;              // kWrite, kZero
  bool deallocate = false;        // kZero
  SnapshotId snapshot;            // kSnapshot, kDropSnapshot, kRevert
  std::uint64_t size_blocks = 0;  // kResize
  Slice crc;                      // kWrite: 4 bytes, little-endian, per block
  Slice data;                     // kWrite: blocks.count * 4096 bytes, page-aligned memory
};

struct EpochStart {
  Epoch epoch;
  Seq first;
};

struct ReplicaInfo {
  ReplicaId id;
  VolumeId volume;
  std::uint64_t size_blocks = 0;
  Epoch promised;
  LogPosition last;  // last entry journalled
  Seq committed;
  Seq applied;
  std::vector<EpochStart> history;
  bool complete = false;  // false while being rebuilt
  Seq base;               // when not complete: content is complete as of here
  std::uint64_t used_bytes = 0;
};

struct SpaceInfo {
  std::uint64_t total_bytes = 0;
  std::uint64_t used_bytes = 0;
  std::uint64_t reserve_bytes = 0;
  std::uint64_t free_bytes = 0;
  std::uint64_t journal_bytes = 0;
  std::uint64_t journal_used_bytes = 0;
  std::uint64_t cached_bytes = 0;
  std::uint64_t left_bytes = 0;  // of used_bytes: what linked clones still see of replicas that are gone
};

// Blocks read. `present` has a bit per block of the range (bit i of byte i / 8); `crc` and `data` cover the
// present blocks in order; the others read as zeros.
struct ReadOutcome {
  std::vector<std::uint8_t> present;
  std::vector<std::uint32_t> crc;
  SliceList data;  // each part a multiple of 4096 bytes
};

// Chunks are compared and copied by layer: what changed in a chunk between two snapshots. `layer` names a group of
// layers that the same snapshots see (layer_tree.h); of equal trees the same layers have the same names.
struct ChunkLayer {
  ChunkIndex chunk;
  LayerNumber layer = kFirstLayer;
  auto operator<=>(const ChunkLayer&) const = default;
};

struct ChunkVersion {
  ChunkIndex chunk;
  LogPosition version;
  std::uint32_t digest = 0;  // 0: has entries not destaged yet
  LayerNumber layer = kFirstLayer;
};

struct ChunkContent {
  LogPosition version;
  Seq source_last;                 // last of the source's log when it was read
  std::uint64_t present = 0;       // bit per block
  std::uint64_t zero = 0;          // blocks that hide those of older layers
  std::vector<std::uint32_t> crc;  // of each present block
  SliceList data;                  // present blocks back to back
  std::uint64_t damaged = 0;       // of those present: cannot be had as their CRCs say; their data means nothing
};

struct SnapshotInfo {
  SnapshotId id;
  SnapshotId parent;     // the next older one on its way to the root; 0: none
  LogPosition position;  // of its entry
  std::uint64_t size_blocks = 0;
  std::uint64_t used_bytes = 0;  // held by what changed between the parent and it
};

struct JoinRequest {
  Seq first;  // first live entry to come
  Seq base;   // last entry in common with the volume; 0: nothing, all content is discarded
  std::uint64_t size_blocks = 0;
  std::vector<EpochStart> history;  // of the volume, up to `first`
};

class ReplicaStore {
 public:
  virtual ~ReplicaStore() = default;

  virtual ReplicaInfo info() const = 0;

  // Durably raises the promised epoch. A lower one than promised: EPOCH_SUPERSEDED.
  virtual void promise(Epoch epoch, StatusCallback done) = 0;

  // Adds an entry after the last one. Refused at once (callback in a later turn) with LOG_GAP when the seq does not
  // follow, EPOCH_SUPERSEDED when position.epoch is below the last entry's, INVALID_ARGUMENT when malformed or out of
  // the volume, NO_SPACE when the disk has no room (nothing of it is kept), CORRUPT when a CRC does not match.
  // `done` comes when the entry is journalled (invariant 1). Callbacks come in seq order. An entry may wait here, after
  // accepts_more() turned false, for the data file to grow, a join to end, or (REVERT) all before it to be applied;
  // until then it is not part of the log (info().last) and may still be refused.
  virtual void append(Entry entry, StatusCallback done) = 0;
  // Refuses the entries that wait so (CANCELLED): what they wait for may never come when whoever sent them is gone.
  virtual void refuse_waiting() = 0;
  // Everything appended and journalled before this call is durable against power loss when `done` gets ok.
  virtual void flush(StatusCallback done) = 0;
  // Backpressure: false while cached bytes or journal use are above their limits; on_ready is called when that ends.
  virtual bool accepts_more() const = 0;
  virtual void on_ready(Callback<void()> ready) = 0;

  // The engine's commit watermark; never falls. Entries above it are neither destaged nor forgotten.
  virtual void set_committed(Seq seq) = 0;

  // Content as of every entry appended so far (journalled or not). At most kWriteBlocksMax blocks.
  // INCOMPLETE while being rebuilt. A device error or a record that cannot be read fails; CRCs are verified by the
  // reader.
  virtual void read(BlockRange blocks, Callback<void(Result<ReadOutcome>)> done) = 0;
  // Which blocks hold data, without reading them: present only. At most kMapBlocksMax blocks.
  virtual void map(BlockRange blocks, Callback<void(Result<ReadOutcome>)> done) = 0;

  // As of every entry appended so far, oldest first.
  virtual std::vector<SnapshotInfo> snapshots() const = 0;
  // read() and map() of a snapshot. NOT_FOUND when there is none of this id.
  virtual void read_snapshot(SnapshotId snapshot, BlockRange blocks, bool map_only,
                             Callback<void(Result<ReadOutcome>)> done) = 0;

  // Entries [first, last], which must all be in the journal still: NOT_FOUND if one was forgotten already. Fewer, but
  // at least one, when a later one cannot be read as it was written; CORRUPT when that is the first.
  virtual void read_log(Seq first, Seq last, Callback<void(Result<std::vector<Entry>>)> done) = 0;

  // ---- rebuild, source side ----
  // The snapshots and layers, once every entry that changes them is applied.
  virtual void layers(Callback<void(Result<LayerState>)> done) = 0;
  // Of the last entry appended that changes snapshots; what is said of layers holds while this stays the same.
  virtual LogPosition layers_revision() const = 0;
  // The same, but for SNAPSHOT entries: they begin a layer, and change nothing about those that there were.
  virtual LogPosition layers_rearranged() const { return layers_revision(); }
  // Versions of chunks in [first, end) changed after `after`, ascending by chunk and layer; all layers of the last
  // chunk are there, and at most about `max` of them.
  virtual void list_chunks(ChunkIndex first, ChunkIndex end, Seq after, std::size_t max,
                           Callback<void(Result<std::vector<ChunkVersion>>)> done) = 0;
  // What the volume holds in a chunk as of every entry appended so far.
  virtual void read_chunk(ChunkIndex chunk, Callback<void(Result<ChunkContent>)> done) = 0;
  // What one layer of the chunk holds, as of every entry appended so far. Blocks that the device cannot read are
  // `damaged`, and zeros in `data`; CRCs are verified by the reader.
  virtual void read_layer(ChunkLayer layer, Callback<void(Result<ChunkContent>)> done) = 0;

  // ---- rebuild, receiving side ----
  // Drops the log from base.next() on, becomes incomplete with this base, and expects entries from `first` on.
  // Durable before `done`. Content changed after `base` (or all of it when base is 0) counts as unknown. Entries that
  // drop or revert to snapshots are refused while incomplete (FAILED_PRECONDITION).
  virtual void join(JoinRequest request, StatusCallback done) = 0;
  // Makes snapshots and layers those of the volume as of before the first live entry, before that comes.
  virtual void adopt_layers(LayerState layers, StatusCallback done) = 0;
  // What is unknown in [first, end) given all the source's versions there: not equal in version and digest, or touched
  // since the join. Layers begun since the join are known: live entries bring all that is in them.
  virtual void unknown_chunks(ChunkIndex first, ChunkIndex end, std::vector<ChunkVersion> source,
                              Callback<void(Result<std::vector<ChunkLayer>>)> done) = 0;
  // Makes this the content of the layer; in the head without the blocks that live entries have written since the join.
  // CRCs are verified first, but for those of `damaged` blocks: they are kept, with a mark that does not match them
  // (damage_mark.h) as content.
  virtual void fill_chunk(ChunkLayer layer, ChunkContent content, StatusCallback done) = 0;
  // All chunks are known: makes everything durable, becomes complete. `done` ok: info().complete.
  virtual void finish_rebuild(StatusCallback done) = 0;
};

struct StoreOptions {
  std::string directory;                   // holds disk.json, data, journal, meta/
  std::string journal_path;                // empty: directory/journal
  std::uint64_t journal_bytes = 1u << 30;  // used when the journal is made
  std::uint64_t capacity_bytes = 0;        // 0: what the file system has; else at most this
  std::uint64_t reserve_bytes = 0;         // 0: max(256 MiB, 2 % of total), at most half
  std::uint64_t cache_bytes = 128u << 20;  // budget for data not yet destaged
  std::string expected_disk_id;            // empty: any
};

class DiskStore {
 public:
  // Opens what is in the folder, recovering it, or formats an empty folder. `open_kv` is RocksDB in production and a
  // model in the simulator. Fails with WRONG_DISK, FORMAT_TOO_NEW, IN_USE, JOURNAL_DAMAGED, DISK_IO, NO_SPACE.
  static Task<Result<std::unique_ptr<DiskStore>>> open(Env& env, StoreOptions options, OpenKv open_kv);
  virtual ~DiskStore() = default;

  virtual const std::string& disk_id() const = 0;
  virtual SpaceInfo space() const = 0;
  virtual std::string failure() const = 0;  // empty when healthy

  virtual void create_replica(ReplicaId id, VolumeId volume, std::uint64_t size_blocks, bool complete,
                              StatusCallback done) = 0;
  // A complete replica of a new volume that begins as what `snapshot` of `source`, a complete replica here, holds, and
  // shares its blocks: nothing is copied. Its log begins behind one entry, (1, 1), that stands for this content.
  // NOT_FOUND when there is no such snapshot. Neither dropping the snapshot nor deleting `source` changes what it
  // holds; what it still sees then stays on the disk (SpaceInfo::left_bytes) until the last clone that sees it is
  // deleted.
  virtual void create_linked(ReplicaId id, VolumeId volume, ReplicaId source, SnapshotId snapshot,
                             StatusCallback done) = 0;
  virtual void delete_replica(ReplicaId id, StatusCallback done) = 0;
  virtual ReplicaStore* find(ReplicaId id) = 0;
  virtual std::vector<ReplicaId> list() const = 0;

  // Destages everything committed, syncs, and closes. For a clean stop; a kill is safe at any point.
  virtual void close(Callback<void()> done) = 0;
};

}  // namespace holdfast::store
