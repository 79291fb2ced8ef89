// The messages of proto/holdfast/v1/replica.proto as plain structs, and their encoding.
//
// Encoding appends slices to `out`, which a caller on the I/O path reuses: one small header from the pool, then the
// payload slices themselves. Payload is never copied and nothing else is allocated. A message that carries `data`
// has it last on the wire, so that a receiver's buffer (rpc::Message) holds it page-aligned.
//
// Decoding accepts what any protobuf implementation may send: fields in any order, omitted defaults, unknown fields,
// repeated fields packed or not. Malformed bytes are a PROTOCOL error. Decoded slices are parts of the message; only
// payload that must be aligned and is not (a peer that put `data` elsewhere) is copied. Values are not judged here.
//
// Thread: the reactor of the pool and the message.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/result.h"
#include "base/types.h"
#include "store/store.h"

namespace holdfast::replica {

inline constexpr char kGetDiskPath[] = "/holdfast.v1.Replica/GetDisk";
inline constexpr char kListReplicasPath[] = "/holdfast.v1.Replica/ListReplicas";
inline constexpr char kCreateReplicaPath[] = "/holdfast.v1.Replica/CreateReplica";
inline constexpr char kDeleteReplicaPath[] = "/holdfast.v1.Replica/DeleteReplica";
inline constexpr char kOpenPath[] = "/holdfast.v1.Replica/Open";
inline constexpr char kGetReplicaPath[] = "/holdfast.v1.Replica/GetReplica";
inline constexpr char kAppendPath[] = "/holdfast.v1.Replica/Append";
inline constexpr char kReadPath[] = "/holdfast.v1.Replica/Read";
inline constexpr char kReadLogPath[] = "/holdfast.v1.Replica/ReadLog";
inline constexpr char kListChunksPath[] = "/holdfast.v1.Replica/ListChunks";
inline constexpr char kReadChunksPath[] = "/holdfast.v1.Replica/ReadChunks";
inline constexpr char kListSnapshotsPath[] = "/holdfast.v1.Replica/ListSnapshots";
inline constexpr char kScrubPath[] = "/holdfast.v1.Replica/Scrub";

// ---- the disk ----

struct Disk {
  std::string disk_id;
  store::SpaceInfo space;
  std::uint32_t format_version = 0;
  std::string failure;  // empty when healthy
};

struct CreateReplicaRequest {
  ReplicaId replica;
  VolumeId volume;
  std::uint64_t size_blocks = 0;
  bool complete = false;
  // Of a linked clone.
  ReplicaId source;
  SnapshotId snapshot;
};

struct DeleteReplicaRequest {
  ReplicaId replica;
  bool force = false;
};

// ---- one replica ----

struct OpenRequest {
  ReplicaId replica;
  Epoch epoch;
};

struct GetReplicaRequest {
  ReplicaId replica;
};

struct RebuildProgress {
  std::uint64_t chunks_total = 0;
  std::uint64_t chunks_examined = 0;
  std::uint64_t bytes_copied = 0;
  std::uint64_t bytes_per_second = 0;
};

struct ReplicaState {
  store::ReplicaInfo info;
  std::optional<RebuildProgress> rebuild;  // while one runs
};

struct ReplicaHello {
  ReplicaId replica;
  Epoch epoch;
};

struct JoinSource {
  std::string address;  // as Address::parse takes it
  ReplicaId replica;
};

struct Join {
  store::JoinRequest request;
  std::string source_address;  // as Address::parse takes it
  ReplicaId source_replica;
  std::uint64_t bytes_per_second = 0;  // 0: unlimited
  std::vector<JoinSource> others;      // asked for what is damaged at the source
  bool carry_damage = false;           // what is damaged everywhere is copied as damaged; false: it ends the rebuild
};

struct DamagedChunk {
  ChunkIndex chunk;
  std::uint64_t blocks = 0;  // bit per block
  std::string message;
};

struct AppendRequest {
  std::optional<ReplicaHello> hello;
  Seq committed;
  std::uint64_t flush_id = 0;
  std::optional<Join> join;
  std::optional<std::uint64_t> rebuild_bytes_per_second;  // nullopt: as it is
  std::optional<store::Entry> entry;
};

struct AppendResponse {
  Seq journalled;
  std::uint64_t flushed_id = 0;
  std::optional<Seq> rebuilt;  // the rebuild finished, complete as of here (0 for a volume without entries)
  std::optional<RebuildProgress> rebuild;
  bool no_space = false;              // the next entry waits for room
  std::vector<DamagedChunk> damaged;  // that the rebuild has copied as damaged since the last response
};

struct ReadRequest {
  std::optional<ReplicaHello> hello;
  std::uint64_t id = 0;
  BlockRange blocks;
  bool map_only = false;
  SnapshotId snapshot;  // 0: the volume
};

// The receiver's view. A sender encodes a store::ReadOutcome or an Error instead.
struct ReadResponse {
  std::uint64_t id = 0;
  Status status;
  Slice present;  // a bit per block, little-endian
  Slice crc;      // 4 bytes, little-endian, per present block
  Slice data;     // present blocks back to back; any alignment
};

struct ReadLogRequest {
  ReplicaId replica;
  Epoch epoch;
  Seq first;
  Seq last;  // inclusive
};

struct ListChunksRequest {
  ReplicaId replica;
  Seq min_seq;
  Seq after;
  ChunkIndex first;
  ChunkIndex end;  // exclusive
  std::optional<Seq> layers;
};

struct ReadChunkRequest {
  ReplicaId replica;
  std::uint64_t id = 0;
  ChunkIndex chunk;
  Seq min_seq;
  store::LayerNumber layer = 0;  // 0: what the volume holds
  std::optional<Seq> layers;
  bool damaged_too = false;  // of a layer: an answer although some blocks cannot be read
};

// The receiver's view. A sender encodes a store::ChunkContent or an Error instead.
struct ReadChunkResponse {
  std::uint64_t id = 0;
  Status status;
  store::ChunkContent content;  // data: at most one part, page-aligned
};

struct ListSnapshotsRequest {
  ReplicaId replica;
  Seq min_seq;
  bool settled = false;
};

struct Snapshot {
  store::SnapshotInfo info;
  store::LayerNumber layer = 0;
};

struct SnapshotPage {
  std::vector<Snapshot> snapshots;
  LogPosition revision;
  store::LayerNumber head = 0;
  std::vector<store::LayerNumber> forks;
};

struct ScrubRequest {
  ReplicaId replica;
  ChunkIndex first;
  ChunkIndex end;  // exclusive; 0: to the end
  std::uint64_t bytes_per_second = 0;
};

struct ScrubProgress {
  ChunkIndex next;
  std::uint64_t chunks_total = 0;
  std::uint64_t blocks_checked = 0;
  std::uint64_t bytes_per_second = 0;
  std::vector<DamagedChunk> damaged;
  bool finished = false;
};

// ---- encoding: hot (appends to `out`) ----

void encode(BufferPool& pool, const AppendRequest& request, SliceList& out);
// The same for an entry whose payload lies in several parts (`entry->data` is then empty).
void encode(BufferPool& pool, const AppendRequest& request, std::span<const Slice> data, SliceList& out);
void encode(BufferPool& pool, const AppendResponse& response, SliceList& out);
void encode(BufferPool& pool, const ReadRequest& request, SliceList& out);
void encode_read_response(BufferPool& pool, std::uint64_t id, const store::ReadOutcome& outcome, SliceList& out);
void encode_read_response(BufferPool& pool, std::uint64_t id, const Error& error, SliceList& out);
void encode(BufferPool& pool, const store::Entry& entry, SliceList& out);  // message LogEntry
void encode(BufferPool& pool, const ReadChunkRequest& request, SliceList& out);
void encode_read_chunk_response(BufferPool& pool, std::uint64_t id, const store::ChunkContent& content, SliceList& out);
void encode_read_chunk_response(BufferPool& pool, std::uint64_t id, const Error& error, SliceList& out);

// ---- encoding: the rest. An empty message is an empty Slice. ----

Slice encode(BufferPool& pool, const Disk& disk);
Slice encode(BufferPool& pool, const CreateReplicaRequest& request);
Slice encode(BufferPool& pool, const DeleteReplicaRequest& request);
Slice encode(BufferPool& pool, const OpenRequest& request);
Slice encode(BufferPool& pool, const GetReplicaRequest& request);
Slice encode(BufferPool& pool, const ReplicaState& state);
Slice encode(BufferPool& pool, const std::vector<ReplicaState>& replicas);  // message ListReplicasResponse
Slice encode(BufferPool& pool, const ReadLogRequest& request);
Slice encode(BufferPool& pool, const ListChunksRequest& request);
Slice encode(BufferPool& pool, const std::vector<store::ChunkVersion>& chunks);  // message ChunkVersions
Slice encode(BufferPool& pool, const ListSnapshotsRequest& request);
Slice encode(BufferPool& pool, const SnapshotPage& page);
Slice encode(BufferPool& pool, const ScrubRequest& request);
Slice encode(BufferPool& pool, const ScrubProgress& progress);

// ---- decoding. `into` is overwritten; after an error its content means nothing. ----
// The pool is used where payload must be aligned; the others never copy payload.

Status decode(const Slice& message, BufferPool& pool, AppendRequest& into);
Status decode(const Slice& message, AppendResponse& into);
Status decode(const Slice& message, ReadRequest& into);
Status decode(const Slice& message, ReadResponse& into);
Status decode(const Slice& message, BufferPool& pool, store::Entry& into);  // message LogEntry
Status decode(const Slice& message, ReadChunkRequest& into);
Status decode(const Slice& message, BufferPool& pool, ReadChunkResponse& into);

Status decode(const Slice& message, Disk& into);
Status decode(const Slice& message, CreateReplicaRequest& into);
Status decode(const Slice& message, DeleteReplicaRequest& into);
Status decode(const Slice& message, OpenRequest& into);
Status decode(const Slice& message, GetReplicaRequest& into);
Status decode(const Slice& message, ReplicaState& into);
Status decode(const Slice& message, std::vector<ReplicaState>& into);  // message ListReplicasResponse
Status decode(const Slice& message, ReadLogRequest& into);
Status decode(const Slice& message, ListChunksRequest& into);
Status decode(const Slice& message, std::vector<store::ChunkVersion>& into);  // message ChunkVersions
Status decode(const Slice& message, ListSnapshotsRequest& into);
Status decode(const Slice& message, SnapshotPage& into);
Status decode(const Slice& message, ScrubRequest& into);
Status decode(const Slice& message, ScrubProgress& into);

}  // namespace holdfast::replica
