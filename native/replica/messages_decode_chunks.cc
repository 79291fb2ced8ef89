// Decoding of what rebuilds and people ask about chunks and snapshots; see messages_decode.cc.
#include "replica/decoding.h"

namespace holdfast::replica {

namespace {

store::ChunkVersion chunk_version(pbf_reader reader) {
  store::ChunkVersion chunk;
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case varint(kChunkVersion_chunk):
        chunk.chunk = ChunkIndex(reader.get_uint64());
        break;
      case varint(kChunkVersion_epoch):
        chunk.version.epoch = Epoch(reader.get_uint64());
        break;
      case varint(kChunkVersion_seq):
        chunk.version.seq = Seq(reader.get_uint64());
        break;
      case varint(kChunkVersion_digest):
        chunk.digest = reader.get_uint32();
        break;
      case varint(kChunkVersion_layer):
        chunk.layer = reader.get_uint64();
        break;
      default:
        reader.skip();
    }
  }
  if (chunk.layer == 0)
    chunk.layer = store::kFirstLayer;  // of a replica that knows no layers, whether it says so or not
  return chunk;
}

Snapshot snapshot_of(pbf_reader reader) {
  Snapshot snapshot;
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case varint(kSnapshot_id):
        snapshot.info.id = SnapshotId(reader.get_uint64());
        break;
      case varint(kSnapshot_parent_id):
        snapshot.info.parent = SnapshotId(reader.get_uint64());
        break;
      case varint(kSnapshot_epoch):
        snapshot.info.position.epoch = Epoch(reader.get_uint64());
        break;
      case varint(kSnapshot_seq):
        snapshot.info.position.seq = Seq(reader.get_uint64());
        break;
      case varint(kSnapshot_size_blocks):
        snapshot.info.size_blocks = reader.get_uint64();
        break;
      case varint(kSnapshot_used_bytes):
        snapshot.info.used_bytes = reader.get_uint64();
        break;
      case varint(kSnapshot_layer):
        snapshot.layer = reader.get_uint64();
        break;
      default:
        reader.skip();
    }
  }
  return snapshot;
}

}  // namespace

DamagedChunk damaged_chunk(pbf_reader reader) {
  DamagedChunk chunk;
  (void)each_field(reader, [&](pbf_reader& field) {
    std::uint32_t tag = field.tag_and_type();
    if (tag == varint(kDamagedChunk_chunk)) return chunk.chunk = ChunkIndex(field.get_uint64()), true;
    if (tag == fixed(kDamagedChunk_blocks)) return chunk.blocks = field.get_fixed64(), true;
    return tag == bytes(kDamagedChunk_message) && (chunk.message = field.get_string(), true);
  });
  return chunk;
}

Status decode(const Slice& message, ListChunksRequest& into) {
  return guarded(message, "ListChunksRequest", [&](pbf_reader reader) -> Status {
    into = ListChunksRequest();
    return each_field(reader, [&](pbf_reader& field) {
      switch (field.tag_and_type()) {
        case fixed(kListChunksRequest_replica_id):
          return into.replica = ReplicaId(field.get_fixed64()), true;
        case varint(kListChunksRequest_min_seq):
          return into.min_seq = Seq(field.get_uint64()), true;
        case varint(kListChunksRequest_after_seq):
          return into.after = Seq(field.get_uint64()), true;
        case varint(kListChunksRequest_first_chunk):
          return into.first = ChunkIndex(field.get_uint64()), true;
        case varint(kListChunksRequest_end_chunk):
          return into.end = ChunkIndex(field.get_uint64()), true;
        case varint(kListChunksRequest_layers_seq):
          return into.layers = Seq(field.get_uint64()), true;
      }
      return false;
    });
  });
}

Status decode(const Slice& message, std::vector<store::ChunkVersion>& into) {
  return guarded(message, "ChunkVersions", [&](pbf_reader reader) -> Status {
    into.clear();
    return each_field(reader, [&](pbf_reader& field) {
      if (field.tag_and_type() != bytes(kChunkVersions_chunks)) return false;
      into.push_back(chunk_version(field.get_message()));
      return true;
    });
  });
}

Status decode(const Slice& message, ListSnapshotsRequest& into) {
  return guarded(message, "ListSnapshotsRequest", [&](pbf_reader reader) -> Status {
    into = ListSnapshotsRequest();
    return each_field(reader, [&](pbf_reader& field) {
      switch (field.tag_and_type()) {
        case fixed(kListSnapshotsRequest_replica_id):
          return into.replica = ReplicaId(field.get_fixed64()), true;
        case varint(kListSnapshotsRequest_min_seq):
          return into.min_seq = Seq(field.get_uint64()), true;
        case varint(kListSnapshotsRequest_settled):
          return into.settled = field.get_bool(), true;
      }
      return false;
    });
  });
}

Status decode(const Slice& message, SnapshotPage& into) {
  return guarded(message, "SnapshotPage", [&](pbf_reader reader) -> Status {
    into = SnapshotPage();
    return each_field(reader, [&](pbf_reader& field) {
      switch (field.tag_and_type()) {
        case bytes(kSnapshotPage_snapshots):
          return into.snapshots.push_back(snapshot_of(field.get_message())), true;
        case varint(kSnapshotPage_revision_epoch):
          return into.revision.epoch = Epoch(field.get_uint64()), true;
        case varint(kSnapshotPage_revision_seq):
          return into.revision.seq = Seq(field.get_uint64()), true;
        case varint(kSnapshotPage_head_layer):
          return into.head = field.get_uint64(), true;
        case varint(kSnapshotPage_forks):
          return into.forks.push_back(field.get_uint64()), true;
        case bytes(kSnapshotPage_forks): {
          for (std::uint64_t fork : field.get_packed_uint64()) into.forks.push_back(fork);
          return true;
        }
      }
      return false;
    });
  });
}

Status decode(const Slice& message, ScrubRequest& into) {
  return guarded(message, "ScrubRequest", [&](pbf_reader reader) -> Status {
    into = ScrubRequest();
    return each_field(reader, [&](pbf_reader& field) {
      std::uint32_t tag = field.tag_and_type();
      if (tag == fixed(kScrubRequest_replica_id)) return into.replica = ReplicaId(field.get_fixed64()), true;
      if (tag == varint(kScrubRequest_first_chunk)) return into.first = ChunkIndex(field.get_uint64()), true;
      if (tag == varint(kScrubRequest_end_chunk)) return into.end = ChunkIndex(field.get_uint64()), true;
      return tag == varint(kScrubRequest_bytes_per_second) && (into.bytes_per_second = field.get_uint64(), true);
    });
  });
}

Status decode(const Slice& message, ScrubProgress& into) {
  return guarded(message, "ScrubProgress", [&](pbf_reader reader) -> Status {
    into = ScrubProgress();
    return each_field(reader, [&](pbf_reader& field) {
      std::uint32_t tag = field.tag_and_type();
      if (tag == bytes(kScrubProgress_damaged)) {
        into.damaged.push_back(damaged_chunk(field.get_message()));
        return true;
      }
      if (tag == varint(kScrubProgress_next_chunk)) return into.next = ChunkIndex(field.get_uint64()), true;
      if (tag == varint(kScrubProgress_chunks_total)) return into.chunks_total = field.get_uint64(), true;
      if (tag == varint(kScrubProgress_blocks_checked)) return into.blocks_checked = field.get_uint64(), true;
      if (tag == varint(kScrubProgress_bytes_per_second)) return into.bytes_per_second = field.get_uint64(), true;
      return tag == varint(kScrubProgress_finished) && (into.finished = field.get_bool(), true);
    });
  });
}

}  // namespace holdfast::replica
