// Decoding of messages.h with protozero. A field is recognized by number and wire type together; anything else is
// skipped as unknown, as protobuf demands. A nested message that occurs twice is merged.
#include <cstring>

#include "replica/decoding.h"

namespace holdfast::replica {

namespace {

// `view` lies within `message`.
Slice part_of(const Slice& message, data_view view) {
  if (view.size() == 0) return Slice();
  auto offset = static_cast<std::size_t>(view.data() - reinterpret_cast<const char*>(message.data()));
  return message.sub(offset, view.size());
}

constexpr std::size_t kPageSize = 4096;

// Payload that goes to a disk must start at a page boundary.
Slice aligned_part_of(const Slice& message, data_view view, BufferPool& pool) {
  Slice part = part_of(message, view);
  if (reinterpret_cast<std::uintptr_t>(part.data()) % kPageSize == 0) return part;
  return pool.copy_of(part.bytes());
}

std::string text_of(data_view view) { return std::string(view.data(), view.size()); }

void merge_hello(pbf_reader reader, std::optional<ReplicaHello>& into) {
  if (!into) into.emplace();
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case fixed(kReplicaHello_replica_id):
        into->replica = ReplicaId(reader.get_fixed64());
        break;
      case varint(kReplicaHello_epoch):
        into->epoch = Epoch(reader.get_uint64());
        break;
      default:
        reader.skip();
    }
  }
}

store::EpochStart epoch_start(pbf_reader reader) {
  store::EpochStart start;
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case varint(kEpochStart_epoch):
        start.epoch = Epoch(reader.get_uint64());
        break;
      case varint(kEpochStart_first_seq):
        start.first = Seq(reader.get_uint64());
        break;
      default:
        reader.skip();
    }
  }
  return start;
}

JoinSource join_source(pbf_reader reader) {
  JoinSource source;
  (void)each_field(reader, [&](pbf_reader& field) {
    std::uint32_t tag = field.tag_and_type();
    if (tag == bytes(kJoinSource_address)) return source.address = text_of(field.get_view()), true;
    return tag == fixed(kJoinSource_replica_id) && (source.replica = ReplicaId(field.get_fixed64()), true);
  });
  return source;
}

void merge_join(pbf_reader reader, std::optional<Join>& into) {
  if (!into) into.emplace();
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case varint(kJoin_first_seq):
        into->request.first = Seq(reader.get_uint64());
        break;
      case varint(kJoin_base_seq):
        into->request.base = Seq(reader.get_uint64());
        break;
      case bytes(kJoin_source_address):
        into->source_address = text_of(reader.get_view());
        break;
      case fixed(kJoin_source_replica_id):
        into->source_replica = ReplicaId(reader.get_fixed64());
        break;
      case varint(kJoin_size_blocks):
        into->request.size_blocks = reader.get_uint64();
        break;
      case bytes(kJoin_history):
        into->request.history.push_back(epoch_start(reader.get_message()));
        break;
      case varint(kJoin_bytes_per_second):
        into->bytes_per_second = reader.get_uint64();
        break;
      case bytes(kJoin_other_sources):
        into->others.push_back(join_source(reader.get_message()));
        break;
      case varint(kJoin_carry_damage):
        into->carry_damage = reader.get_bool();
        break;
      default:
        reader.skip();
    }
  }
}

void merge_progress(pbf_reader reader, std::optional<RebuildProgress>& into) {
  if (!into) into.emplace();
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case varint(kRebuildProgress_chunks_total):
        into->chunks_total = reader.get_uint64();
        break;
      case varint(kRebuildProgress_chunks_examined):
        into->chunks_examined = reader.get_uint64();
        break;
      case varint(kRebuildProgress_bytes_copied):
        into->bytes_copied = reader.get_uint64();
        break;
      case varint(kRebuildProgress_bytes_per_second):
        into->bytes_per_second = reader.get_uint64();
        break;
      default:
        reader.skip();
    }
  }
}

// An op this version does not know must not be taken for another one.
Status set_op(std::uint64_t value, store::Entry& entry) {
  if (value > static_cast<std::uint64_t>(store::Op::kResize)) {
    return Error(ErrorCode::kUnimplemented, "log entry with op " + std::to_string(value) +
                                                ", which this version does not know; upgrade this node first");
  }
  entry.op = static_cast<store::Op>(value);
  return Status();
}

// `entry` starts out with op 0, so that a missing one is noticed by finish_entry().
Status merge_entry(pbf_reader reader, const Slice& message, BufferPool& pool, store::Entry& entry) {
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case varint(kLogEntry_epoch):
        entry.position.epoch = Epoch(reader.get_uint64());
        break;
      case varint(kLogEntry_seq):
        entry.position.seq = Seq(reader.get_uint64());
        break;
      case varint(kLogEntry_op):
        TRY(set_op(reader.get_uint64(), entry));
        break;
      case varint(kLogEntry_first_block):
        entry.blocks.first = BlockIndex(reader.get_uint64());
        break;
      case varint(kLogEntry_block_count):
        entry.blocks.count = reader.get_uint32();
        break;
      case bytes(kLogEntry_crc):
        entry.crc = part_of(message, reader.get_view());
        break;
      case varint(kLogEntry_deallocate):
        entry.deallocate = reader.get_bool();
        break;
      case varint(kLogEntry_snapshot_id):
        entry.snapshot = SnapshotId(reader.get_uint64());
        break;
      case varint(kLogEntry_size_blocks):
        entry.size_blocks = reader.get_uint64();
        break;
      case bytes(kLogEntry_data):
        entry.data = aligned_part_of(message, reader.get_view(), pool);
        break;
      default:
        reader.skip();
    }
  }
  return Status();
}

store::Entry empty_entry() {
  store::Entry entry;
  entry.op = store::Op{};
  return entry;
}

Status finish_entry(const store::Entry& entry) {
  if (entry.op == store::Op{}) return Error(ErrorCode::kProtocol, "log entry without an op");
  return Status();
}

void merge_state(pbf_reader reader, ReplicaState& into) {
  store::ReplicaInfo& info = into.info;
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case fixed(kReplicaState_replica_id):
        info.id = ReplicaId(reader.get_fixed64());
        break;
      case fixed(kReplicaState_volume_id):
        info.volume = VolumeId(reader.get_fixed64());
        break;
      case varint(kReplicaState_size_blocks):
        info.size_blocks = reader.get_uint64();
        break;
      case varint(kReplicaState_promised_epoch):
        info.promised = Epoch(reader.get_uint64());
        break;
      case varint(kReplicaState_last_epoch):
        info.last.epoch = Epoch(reader.get_uint64());
        break;
      case varint(kReplicaState_last_seq):
        info.last.seq = Seq(reader.get_uint64());
        break;
      case varint(kReplicaState_committed_seq):
        info.committed = Seq(reader.get_uint64());
        break;
      case varint(kReplicaState_applied_seq):
        info.applied = Seq(reader.get_uint64());
        break;
      case bytes(kReplicaState_history):
        info.history.push_back(epoch_start(reader.get_message()));
        break;
      case varint(kReplicaState_complete):
        info.complete = reader.get_bool();
        break;
      case varint(kReplicaState_base_seq):
        info.base = Seq(reader.get_uint64());
        break;
      case varint(kReplicaState_used_bytes):
        info.used_bytes = reader.get_uint64();
        break;
      case bytes(kReplicaState_rebuild):
        merge_progress(reader.get_message(), into.rebuild);
        break;
      default:
        reader.skip();
    }
  }
}

// The `error` and `message` fields of a response.
Status status_of(std::uint32_t wire_code, std::string text) {
  if (wire_code == 0) return Status();
  ErrorCode code = wire_code <= std::size(kErrorCodes) ? static_cast<ErrorCode>(wire_code - 1) : ErrorCode::kInternal;
  return Error(code, std::move(text));
}

}  // namespace

// ---- hot ----

Status decode(const Slice& message, BufferPool& pool, AppendRequest& into) {
  return guarded(message, "AppendRequest", [&](pbf_reader reader) -> Status {
    into = AppendRequest();
    while (reader.next()) {
      switch (reader.tag_and_type()) {
        case bytes(kAppendRequest_hello):
          merge_hello(reader.get_message(), into.hello);
          break;
        case varint(kAppendRequest_committed_seq):
          into.committed = Seq(reader.get_uint64());
          break;
        case varint(kAppendRequest_flush_id):
          into.flush_id = reader.get_uint64();
          break;
        case bytes(kAppendRequest_join):
          merge_join(reader.get_message(), into.join);
          break;
        case varint(kAppendRequest_rebuild_bytes_per_second):
          into.rebuild_bytes_per_second = reader.get_uint64();
          break;
        case bytes(kAppendRequest_entry):
          if (!into.entry) into.entry.emplace(empty_entry());
          TRY(merge_entry(reader.get_message(), message, pool, *into.entry));
          break;
        default:
          reader.skip();
      }
    }
    return into.entry ? finish_entry(*into.entry) : Status();
  });
}

Status decode(const Slice& message, AppendResponse& into) {
  return guarded(message, "AppendResponse", [&](pbf_reader reader) -> Status {
    into = AppendResponse();
    while (reader.next()) {
      switch (reader.tag_and_type()) {
        case varint(kAppendResponse_journalled_seq):
          into.journalled = Seq(reader.get_uint64());
          break;
        case varint(kAppendResponse_flushed_id):
          into.flushed_id = reader.get_uint64();
          break;
        case varint(kAppendResponse_rebuilt_seq):
          into.rebuilt = Seq(reader.get_uint64());
          break;
        case bytes(kAppendResponse_rebuild):
          merge_progress(reader.get_message(), into.rebuild);
          break;
        case varint(kAppendResponse_no_space):
          into.no_space = reader.get_bool();
          break;
        case bytes(kAppendResponse_damaged):
          into.damaged.push_back(damaged_chunk(reader.get_message()));
          break;
        default:
          reader.skip();
      }
    }
    return Status();
  });
}

Status decode(const Slice& message, ReadRequest& into) {
  return guarded(message, "ReadRequest", [&](pbf_reader reader) -> Status {
    into = ReadRequest();
    while (reader.next()) {
      switch (reader.tag_and_type()) {
        case bytes(kReadRequest_hello):
          merge_hello(reader.get_message(), into.hello);
          break;
        case varint(kReadRequest_id):
          into.id = reader.get_uint64();
          break;
        case varint(kReadRequest_first_block):
          into.blocks.first = BlockIndex(reader.get_uint64());
          break;
        case varint(kReadRequest_block_count):
          into.blocks.count = reader.get_uint32();
          break;
        case varint(kReadRequest_map_only):
          into.map_only = reader.get_bool();
          break;
        case varint(kReadRequest_snapshot_id):
          into.snapshot = SnapshotId(reader.get_uint64());
          break;
        default:
          reader.skip();
      }
    }
    return Status();
  });
}

Status decode(const Slice& message, ReadResponse& into) {
  return guarded(message, "ReadResponse", [&](pbf_reader reader) -> Status {
    into = ReadResponse();
    std::uint32_t error = 0;
    data_view text;
    while (reader.next()) {
      switch (reader.tag_and_type()) {
        case varint(kReadResponse_id):
          into.id = reader.get_uint64();
          break;
        case varint(kReadResponse_error):
          error = reader.get_uint32();
          break;
        case bytes(kReadResponse_message):
          text = reader.get_view();
          break;
        case bytes(kReadResponse_present):
          into.present = part_of(message, reader.get_view());
          break;
        case bytes(kReadResponse_crc):
          into.crc = part_of(message, reader.get_view());
          break;
        case bytes(kReadResponse_data):
          into.data = part_of(message, reader.get_view());
          break;
        default:
          reader.skip();
      }
    }
    if (error != 0) into.status = status_of(error, text_of(text));
    return Status();
  });
}

Status decode(const Slice& message, BufferPool& pool, store::Entry& into) {
  return guarded(message, "LogEntry", [&](pbf_reader reader) -> Status {
    into = empty_entry();
    TRY(merge_entry(reader, message, pool, into));
    return finish_entry(into);
  });
}

Status decode(const Slice& message, ReadChunkRequest& into) {
  return guarded(message, "ReadChunkRequest", [&](pbf_reader reader) -> Status {
    into = ReadChunkRequest();
    return each_field(reader, [&](pbf_reader& field) {
      switch (field.tag_and_type()) {
        case fixed(kReadChunkRequest_replica_id):
          return into.replica = ReplicaId(field.get_fixed64()), true;
        case varint(kReadChunkRequest_id):
          return into.id = field.get_uint64(), true;
        case varint(kReadChunkRequest_chunk):
          return into.chunk = ChunkIndex(field.get_uint64()), true;
        case varint(kReadChunkRequest_min_seq):
          return into.min_seq = Seq(field.get_uint64()), true;
        case varint(kReadChunkRequest_layer):
          return into.layer = field.get_uint64(), true;
        case varint(kReadChunkRequest_layers_seq):
          return into.layers = Seq(field.get_uint64()), true;
        case varint(kReadChunkRequest_damaged_too):
          return into.damaged_too = field.get_bool(), true;
      }
      return false;
    });
  });
}

Status decode(const Slice& message, BufferPool& pool, ReadChunkResponse& into) {
  return guarded(message, "ReadChunkResponse", [&](pbf_reader reader) -> Status {
    into = ReadChunkResponse();
    std::uint32_t error = 0;
    data_view text, crc;
    while (reader.next()) {
      switch (reader.tag_and_type()) {
        case varint(kReadChunkResponse_id):
          into.id = reader.get_uint64();
          break;
        case varint(kReadChunkResponse_error):
          error = reader.get_uint32();
          break;
        case bytes(kReadChunkResponse_message):
          text = reader.get_view();
          break;
        case varint(kReadChunkResponse_epoch):
          into.content.version.epoch = Epoch(reader.get_uint64());
          break;
        case varint(kReadChunkResponse_seq):
          into.content.version.seq = Seq(reader.get_uint64());
          break;
        case varint(kReadChunkResponse_last_seq):
          into.content.source_last = Seq(reader.get_uint64());
          break;
        case fixed(kReadChunkResponse_present):
          into.content.present = reader.get_fixed64();
          break;
        case bytes(kReadChunkResponse_crc):
          crc = reader.get_view();
          break;
        case fixed(kReadChunkResponse_zero):
          into.content.zero = reader.get_fixed64();
          break;
        case fixed(kReadChunkResponse_damaged):
          into.content.damaged = reader.get_fixed64();
          break;
        case bytes(kReadChunkResponse_data): {
          Slice data = aligned_part_of(message, reader.get_view(), pool);
          into.content.data.clear();
          if (!data.empty()) into.content.data.push_back(std::move(data));
          break;
        }
        default:
          reader.skip();
      }
    }
    if (crc.size() % sizeof(std::uint32_t) != 0) {
      return Error(ErrorCode::kProtocol, "malformed ReadChunkResponse message: crc is not made of 32-bit values");
    }
    into.content.crc.resize(crc.size() / sizeof(std::uint32_t));
    if (crc.size() != 0) std::memcpy(into.content.crc.data(), crc.data(), crc.size());
    if (error != 0) into.status = status_of(error, text_of(text));
    return Status();
  });
}

// ---- the rest ----

Status decode(const Slice& message, Disk& into) {
  return guarded(message, "Disk", [&](pbf_reader reader) -> Status {
    into = Disk();
    return each_field(reader, [&](pbf_reader& field) {
      switch (field.tag_and_type()) {
        case bytes(kDisk_disk_id):
          return into.disk_id = text_of(field.get_view()), true;
        case varint(kDisk_total_bytes):
          return into.space.total_bytes = field.get_uint64(), true;
        case varint(kDisk_left_bytes):
          return into.space.left_bytes = field.get_uint64(), true;
        case varint(kDisk_used_bytes):
          return into.space.used_bytes = field.get_uint64(), true;
        case varint(kDisk_reserve_bytes):
          return into.space.reserve_bytes = field.get_uint64(), true;
        case varint(kDisk_free_bytes):
          return into.space.free_bytes = field.get_uint64(), true;
        case varint(kDisk_format_version):
          return into.format_version = field.get_uint32(), true;
        case varint(kDisk_journal_bytes):
          return into.space.journal_bytes = field.get_uint64(), true;
        case varint(kDisk_journal_used_bytes):
          return into.space.journal_used_bytes = field.get_uint64(), true;
        case varint(kDisk_cached_bytes):
          return into.space.cached_bytes = field.get_uint64(), true;
        case bytes(kDisk_failure):
          return into.failure = text_of(field.get_view()), true;
      }
      return false;
    });
  });
}

Status decode(const Slice& message, CreateReplicaRequest& into) {
  return guarded(message, "CreateReplicaRequest", [&](pbf_reader reader) -> Status {
    into = CreateReplicaRequest();
    return each_field(reader, [&](pbf_reader& field) {
      switch (field.tag_and_type()) {
        case fixed(kCreateReplicaRequest_replica_id):
          return into.replica = ReplicaId(field.get_fixed64()), true;
        case fixed(kCreateReplicaRequest_volume_id):
          return into.volume = VolumeId(field.get_fixed64()), true;
        case varint(kCreateReplicaRequest_size_blocks):
          return into.size_blocks = field.get_uint64(), true;
        case varint(kCreateReplicaRequest_complete):
          return into.complete = field.get_bool(), true;
        case fixed(kCreateReplicaRequest_source_replica_id):
          return into.source = ReplicaId(field.get_fixed64()), true;
        case fixed(kCreateReplicaRequest_snapshot_id):
          return into.snapshot = SnapshotId(field.get_fixed64()), true;
      }
      return false;
    });
  });
}

Status decode(const Slice& message, DeleteReplicaRequest& into) {
  return guarded(message, "DeleteReplicaRequest", [&](pbf_reader reader) -> Status {
    into = DeleteReplicaRequest();
    return each_field(reader, [&](pbf_reader& field) {
      switch (field.tag_and_type()) {
        case fixed(kDeleteReplicaRequest_replica_id):
          return into.replica = ReplicaId(field.get_fixed64()), true;
        case varint(kDeleteReplicaRequest_force):
          return into.force = field.get_bool(), true;
      }
      return false;
    });
  });
}

Status decode(const Slice& message, OpenRequest& into) {
  return guarded(message, "OpenRequest", [&](pbf_reader reader) -> Status {
    into = OpenRequest();
    return each_field(reader, [&](pbf_reader& field) {
      switch (field.tag_and_type()) {
        case fixed(kOpenRequest_replica_id):
          return into.replica = ReplicaId(field.get_fixed64()), true;
        case varint(kOpenRequest_epoch):
          return into.epoch = Epoch(field.get_uint64()), true;
      }
      return false;
    });
  });
}

Status decode(const Slice& message, GetReplicaRequest& into) {
  return guarded(message, "GetReplicaRequest", [&](pbf_reader reader) -> Status {
    into = GetReplicaRequest();
    return each_field(reader, [&](pbf_reader& field) {
      if (field.tag_and_type() != fixed(kGetReplicaRequest_replica_id)) return false;
      into.replica = ReplicaId(field.get_fixed64());
      return true;
    });
  });
}

Status decode(const Slice& message, ReplicaState& into) {
  return guarded(message, "ReplicaState", [&](pbf_reader reader) -> Status {
    into = ReplicaState();
    merge_state(reader, into);
    return Status();
  });
}

Status decode(const Slice& message, std::vector<ReplicaState>& into) {
  return guarded(message, "ListReplicasResponse", [&](pbf_reader reader) -> Status {
    into.clear();
    return each_field(reader, [&](pbf_reader& field) {
      if (field.tag_and_type() != bytes(kListReplicasResponse_replicas)) return false;
      merge_state(field.get_message(), into.emplace_back());
      return true;
    });
  });
}

Status decode(const Slice& message, ReadLogRequest& into) {
  return guarded(message, "ReadLogRequest", [&](pbf_reader reader) -> Status {
    into = ReadLogRequest();
    return each_field(reader, [&](pbf_reader& field) {
      switch (field.tag_and_type()) {
        case fixed(kReadLogRequest_replica_id):
          return into.replica = ReplicaId(field.get_fixed64()), true;
        case varint(kReadLogRequest_epoch):
          return into.epoch = Epoch(field.get_uint64()), true;
        case varint(kReadLogRequest_first_seq):
          return into.first = Seq(field.get_uint64()), true;
        case varint(kReadLogRequest_last_seq):
          return into.last = Seq(field.get_uint64()), true;
      }
      return false;
    });
  });
}

}  // namespace holdfast::replica
