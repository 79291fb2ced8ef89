#include "store/chunk_record.h"

#include <bit>

#include "base/crc32c.h"
#include "store/bytes.h"

namespace holdfast::store {

namespace {

constexpr std::uint32_t kRecordFormat = 1;
constexpr std::uint32_t kLayeredIdentityFormat = 2;
constexpr std::uint32_t kLinkedIdentityFormat = 3;
constexpr std::uint32_t kCompleteFlag = 1;
constexpr std::uint32_t kLayeredFlag = 2;  // format 3 only

struct ChunkRecordHeader {
  std::uint32_t format;
  std::uint32_t reserved;
  std::uint64_t slot;
  std::uint64_t data;
  std::uint64_t zero;
  std::uint64_t fresh;
  std::uint64_t fresh_generation;
  std::uint64_t epoch;
  std::uint64_t seq;
};
static_assert(sizeof(ChunkRecordHeader) == 64);
static_assert(offsetof(ChunkRecordHeader, data) == 16);
static_assert(offsetof(ChunkRecordHeader, epoch) == 48);

Error malformed(std::string_view what) {
  return Error(ErrorCode::kCorrupt, "the metadata has a malformed " + std::string(what) + " record");
}
Error too_new() {
  return Error(ErrorCode::kFormatTooNew, "the metadata was written by a newer version; upgrade this node");
}

// The CRCs of stored blocks in order, without gaps.
std::size_t packed_crcs(const ChunkRecord& record, std::array<std::uint32_t, kBlocksPerChunk>& out) {
  std::size_t count = 0;
  for (std::uint64_t left = record.data; left != 0; left &= left - 1) {
    out[count++] = record.crc[static_cast<std::size_t>(std::countr_zero(left))];
  }
  return count;
}

}  // namespace

std::string encode_chunk_record(const ChunkRecord& record) {
  CHECK((record.data & record.zero) == 0);
  CHECK((record.data != 0) == (record.slot != kNoSlot), "a chunk record owns a slot exactly when it has data");
  ChunkRecordHeader header{kRecordFormat,
                           0,
                           record.slot,
                           record.data,
                           record.zero,
                           record.fresh,
                           record.fresh_generation,
                           record.version.epoch.value(),
                           record.version.seq.value()};
  std::array<std::uint32_t, kBlocksPerChunk> crcs;
  std::size_t count = packed_crcs(record, crcs);
  std::string out;
  out.reserve(sizeof header + count * 4);
  out.append(reinterpret_cast<const char*>(&header), sizeof header);
  out.append(reinterpret_cast<const char*>(crcs.data()), count * 4);
  return out;
}

Result<ChunkRecord> decode_chunk_record(std::string_view bytes) {
  ChunkRecordHeader header;
  if (bytes.size() < sizeof header) return malformed("chunk");
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.format > kRecordFormat) return too_new();
  auto count = static_cast<std::size_t>(std::popcount(header.data));
  if (header.format != kRecordFormat || header.reserved != 0 || bytes.size() != sizeof header + count * 4 ||
      (header.data & header.zero) != 0 || (header.data != 0) != (header.slot != kNoSlot)) {
    return malformed("chunk");
  }
  ChunkRecord record;
  record.slot = header.slot;
  record.data = header.data;
  record.zero = header.zero;
  record.fresh = header.fresh;
  record.fresh_generation = header.fresh_generation;
  record.version = {Epoch(header.epoch), Seq(header.seq)};
  const char* at = bytes.data() + sizeof header;
  for (std::uint64_t left = record.data; left != 0; left &= left - 1, at += 4) {
    std::memcpy(&record.crc[static_cast<std::size_t>(std::countr_zero(left))], at, 4);
  }
  return record;
}

std::uint32_t chunk_digest(const ChunkRecord& record) {
  std::array<std::uint32_t, kBlocksPerChunk> crcs;
  std::size_t count = packed_crcs(record, crcs);
  std::uint32_t digest = crc32c(std::as_bytes(std::span(&record.data, 1)));
  digest = crc32c_extend(digest, std::as_bytes(std::span(crcs.data(), count)));
  return digest == 0 ? 1 : digest;
}

std::string chunk_key(SpaceId space, std::uint64_t layer, ChunkIndex chunk) {
  std::string key;
  key.reserve(25);
  key.push_back(kChunkTable);
  put_u64_big_endian(key, space.value());
  put_u64_big_endian(key, layer);
  put_u64_big_endian(key, chunk.value());
  return key;
}

ChunkIndex chunk_of_key(std::string_view key) {
  CHECK(key.size() == 25 && key[0] == kChunkTable);
  return ChunkIndex(ByteReader(key.substr(17)).u64_big_endian());
}

ReplicaId replica_of_key(std::string_view key) {
  CHECK(key.size() >= 9);
  return ReplicaId(ByteReader(key.substr(1)).u64_big_endian());
}

SpaceId space_of_key(std::string_view key) { return SpaceId(replica_of_key(key).value()); }

std::string replica_key(char table, ReplicaId replica) {
  std::string key(1, table);
  put_u64_big_endian(key, replica.value());
  return key;
}

std::string space_key(char table, SpaceId space) { return replica_key(table, ReplicaId(space.value())); }

std::string table_begin(char table) { return std::string(1, table); }
std::string table_end(char table) { return std::string(1, static_cast<char>(table + 1)); }

std::string layer_index_key(SpaceId space, LayerNumber layer, ChunkIndex chunk) {
  std::string key = chunk_key(space, layer, chunk);
  key[0] = kLayerIndexTable;
  return key;
}

LayerNumber layer_of_index_key(std::string_view key) {
  CHECK(key.size() == 25 && key[0] == kLayerIndexTable);
  return ByteReader(key.substr(9)).u64_big_endian();
}

ChunkIndex chunk_of_index_key(std::string_view key) {
  CHECK(key.size() == 25 && key[0] == kLayerIndexTable);
  return ChunkIndex(ByteReader(key.substr(17)).u64_big_endian());
}

std::string layered_key(SpaceId space, ChunkIndex chunk, LayerNumber layer) {
  std::string key;
  key.reserve(25);
  key.push_back(kLayeredTable);
  put_u64_big_endian(key, space.value());
  put_u64_big_endian(key, chunk.value());
  put_u64_big_endian(key, ~layer);
  return key;
}

LayerNumber layer_of_layered_key(std::string_view key) {
  CHECK(key.size() == 25 && key[0] == kLayeredTable);
  return ~ByteReader(key.substr(17)).u64_big_endian();
}

ChunkIndex chunk_of_layered_key(std::string_view key) {
  CHECK(key.size() == 25 && key[0] == kLayeredTable);
  return ChunkIndex(ByteReader(key.substr(9)).u64_big_endian());
}

std::string layer_key(char table, SpaceId space, LayerNumber layer) {
  std::string key = space_key(table, space);
  put_u64_big_endian(key, layer);
  return key;
}

std::string encode_merge_job(const MergeJob& job) {
  std::string out;
  put_u32(out, kRecordFormat);
  put_u32(out, 0);
  put_u64(out, job.layers.first);
  put_u64(out, job.layers.last);
  put_u64(out, job.cursor_layer);
  put_u64(out, job.cursor_chunk.value());
  return out;
}

Result<MergeJob> decode_merge_job(std::string_view bytes) {
  ByteReader in(bytes);
  MergeJob job;
  std::uint32_t format = in.u32();
  if (in.ok() && format > kRecordFormat) return too_new();
  std::uint32_t reserved = in.u32();
  job.layers.first = in.u64();
  job.layers.last = in.u64();
  job.cursor_layer = in.u64();
  job.cursor_chunk = ChunkIndex(in.u64());
  if (!in.at_end() || format != kRecordFormat || reserved != 0) return malformed("merge");
  return job;
}

std::string encode_identity(const ReplicaIdentity& identity) {
  std::string out;
  put_u32(out, identity.linked ? kLinkedIdentityFormat : identity.layered ? kLayeredIdentityFormat : kRecordFormat);
  put_u32(out, (identity.complete ? kCompleteFlag : 0) | (identity.linked && identity.layered ? kLayeredFlag : 0));
  put_u64(out, identity.volume.value());
  put_u64(out, identity.promised.value());
  put_u64(out, identity.log_generation);
  put_u64(out, identity.base.value());
  put_u64(out, identity.first_layer);
  if (identity.linked) put_u64(out, identity.space.value());
  return out;
}

Result<ReplicaIdentity> decode_identity(std::string_view bytes) {
  ByteReader in(bytes);
  ReplicaIdentity identity;
  std::uint32_t format = in.u32();
  if (in.ok() && format > kLinkedIdentityFormat) return too_new();
  identity.linked = format == kLinkedIdentityFormat;
  std::uint32_t flags = in.u32();
  identity.complete = (flags & kCompleteFlag) != 0;
  identity.layered = format == kLayeredIdentityFormat || (flags & kLayeredFlag) != 0;
  identity.volume = VolumeId(in.u64());
  identity.promised = Epoch(in.u64());
  identity.log_generation = in.u64();
  identity.base = Seq(in.u64());
  identity.first_layer = in.u64();
  if (identity.linked) identity.space = SpaceId(in.u64());
  std::uint32_t flags_max = identity.linked ? kCompleteFlag | kLayeredFlag : kCompleteFlag;
  if (!in.at_end() || format == 0 || flags > flags_max) return malformed("replica");
  return identity;
}

std::string encode_left() {
  std::string out;
  put_u32(out, kRecordFormat);
  put_u32(out, 0);
  return out;
}

std::string encode_link(const SpaceLink& link) {
  std::string out;
  put_u32(out, kRecordFormat);
  put_u32(out, 0);
  put_u64(out, link.space.value());
  return out + encode_snapshot_record(link.snapshot);
}

Result<SpaceLink> decode_link(std::string_view bytes) {
  ByteReader in(bytes);
  SpaceLink link;
  std::uint32_t format = in.u32();
  if (in.ok() && format > kRecordFormat) return too_new();
  std::uint32_t reserved = in.u32();
  link.space = SpaceId(in.u64());
  if (!in.ok() || format != kRecordFormat || reserved != 0) return malformed("link");
  ASSIGN_OR_RETURN(link.snapshot, decode_snapshot_record(bytes.substr(bytes.size() - in.left())));
  return link;
}

std::string encode_applied(const ReplicaApplied& applied) {
  std::string out;
  put_u32(out, kRecordFormat);
  put_u32(out, static_cast<std::uint32_t>(applied.history.size()));
  put_u64(out, applied.applied.epoch.value());
  put_u64(out, applied.applied.seq.value());
  put_u64(out, applied.committed.value());
  put_u64(out, applied.size_blocks);
  for (const EpochStart& start : applied.history) {
    put_u64(out, start.epoch.value());
    put_u64(out, start.first.value());
  }
  return out;
}

Result<ReplicaApplied> decode_applied(std::string_view bytes) {
  ByteReader in(bytes);
  ReplicaApplied applied;
  std::uint32_t format = in.u32();
  if (in.ok() && format > kRecordFormat) return too_new();
  std::uint32_t count = in.u32();
  Epoch epoch(in.u64());
  applied.applied = {epoch, Seq(in.u64())};
  applied.committed = Seq(in.u64());
  applied.size_blocks = in.u64();
  if (!in.ok() || format != kRecordFormat || in.left() != std::size_t{count} * 16) return malformed("replica");
  for (std::uint32_t i = 0; i < count; ++i) {
    Epoch start(in.u64());
    applied.history.push_back({start, Seq(in.u64())});
  }
  return applied;
}

}  // namespace holdfast::store
