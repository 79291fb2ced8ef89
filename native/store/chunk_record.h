// Chunk and replica records: what the metadata knows, as values and as bytes. docs/on-disk-format.md, "Metadata".
// Pure functions, any thread.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/types.h"
#include "store/layer_tree.h"
#include "store/store.h"

namespace holdfast::store {

// Where records of chunks are kept, on one disk only (space.h). At first that of a replica has the replica's number.
using SpaceId = Number<struct SpaceIdTag>;

inline constexpr std::uint64_t kNoSlot = std::numeric_limits<std::uint64_t>::max();
inline constexpr std::uint64_t kAllBlocks = std::numeric_limits<std::uint64_t>::max();

// Where the blocks of one chunk of one layer are. Invariants: data & zero == 0; there is a slot exactly when data != 0.
struct ChunkRecord {
  std::uint64_t slot = kNoSlot;
  std::uint64_t data = 0;                            // bit per block: stored in the slot
  std::uint64_t zero = 0;                            // explicitly zero
  std::uint64_t fresh = 0;                           // written by live entries since the join `fresh_generation`
  std::uint64_t fresh_generation = 0;                // log generation of that join
  LogPosition version;                               // last entry that changed the chunk
  std::array<std::uint32_t, kBlocksPerChunk> crc{};  // of the blocks in `data`

  // Nothing that a reader or a rebuild would miss if the record were gone.
  bool vanished() const { return data == 0 && zero == 0 && fresh == 0 && version.seq.value() == 0; }
};

constexpr std::uint64_t block_mask(std::uint32_t first, std::uint32_t count) {
  return (count >= 64 ? kAllBlocks : (std::uint64_t{1} << count) - 1) << first;
}

std::string encode_chunk_record(const ChunkRecord& record);
Result<ChunkRecord> decode_chunk_record(std::string_view bytes);
// CRC32C over the mask of stored blocks and their CRCs; never 0.
std::uint32_t chunk_digest(const ChunkRecord& record);

// Key of a record of the first layer, and of the index by layer (kLayerIndexTable) of the others.
std::string chunk_key(SpaceId space, std::uint64_t layer, ChunkIndex chunk);
ChunkIndex chunk_of_key(std::string_view key);
std::string layer_index_key(SpaceId space, LayerNumber layer, ChunkIndex chunk);
LayerNumber layer_of_index_key(std::string_view key);
ChunkIndex chunk_of_index_key(std::string_view key);
// Key of a record of a later layer: by chunk, the newest layer first.
std::string layered_key(SpaceId space, ChunkIndex chunk, LayerNumber layer);
LayerNumber layer_of_layered_key(std::string_view key);
ChunkIndex chunk_of_layered_key(std::string_view key);
// Where the record of a chunk in a layer is.
inline std::string record_key(SpaceId space, ChunkIndex chunk, LayerNumber layer) {
  return layer == kFirstLayer ? chunk_key(space, layer, chunk) : layered_key(space, chunk, layer);
}
ReplicaId replica_of_key(std::string_view key);  // of any key of a replica
SpaceId space_of_key(std::string_view key);      // of any key of a space
std::string replica_key(char table, ReplicaId replica);
std::string space_key(char table, SpaceId space);
// Of tables with one more number behind the space: snapshots and merges, by layer.
std::string layer_key(char table, SpaceId space, LayerNumber layer);
// [first, end) of a table.
std::string table_begin(char table);
std::string table_end(char table);

inline constexpr char kChunkTable = 'C';
inline constexpr char kLayeredTable = 'K';
inline constexpr char kLayerIndexTable = 'I';
inline constexpr char kLayerStateTable = 'H';
inline constexpr char kSnapshotTable = 'S';
inline constexpr char kMergeTable = 'M';
inline constexpr char kLinkTable = 'L';
inline constexpr char kLeftTable = 'O';
inline constexpr char kIdentityTable = 'R';
inline constexpr char kAppliedTable = 'A';
inline constexpr std::string_view kJournalKey = "J";

// What changes by promise, join and rebuild.
struct ReplicaIdentity {
  VolumeId volume;
  Epoch promised;
  std::uint64_t log_generation = 0;  // rises with every join
  bool complete = false;
  Seq base;
  std::uint64_t first_layer = kFirstLayer;
  // There are layers: versions of Holdfast that do not know them must not open the disk.
  bool layered = false;
  // The replica is linked, or its space is not the one with its own number: likewise.
  bool linked = false;
  SpaceId space;  // as stored only when `linked`; else the one with the replica's number
};
// What changes with destaging, in the same batch as the chunk records.
struct ReplicaApplied {
  LogPosition applied;
  Seq committed;
  std::uint64_t size_blocks = 0;
  std::vector<EpochStart> history;  // up to `applied`
};
// Chunks of these layers may have records to merge or remove; the work goes on from the cursor.
struct MergeJob {
  std::uint64_t number = 0;  // its key
  LayerRange layers;         // 0..0: all chunks that have later layers than the first
  LayerNumber cursor_layer = 0;
  ChunkIndex cursor_chunk;
};
// What a space sees below its first layer: another space of this disk, as of a snapshot there was when it was linked.
struct SpaceLink {
  SpaceId space;
  SnapshotRecord snapshot;
};
// Of a space whose replica has gone.
std::string encode_left();
std::string encode_link(const SpaceLink& link);
Result<SpaceLink> decode_link(std::string_view bytes);
std::string encode_merge_job(const MergeJob& job);
Result<MergeJob> decode_merge_job(std::string_view bytes);

std::string encode_identity(const ReplicaIdentity& identity);
Result<ReplicaIdentity> decode_identity(std::string_view bytes);
std::string encode_applied(const ReplicaApplied& applied);
Result<ReplicaApplied> decode_applied(std::string_view bytes);

}  // namespace holdfast::store
