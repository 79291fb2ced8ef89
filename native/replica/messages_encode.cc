// Encoding of messages.h with protozero. Hot messages are written straight into one pooled header whose size bound is
// known beforehand; cold ones go through a string. Fields that hold their proto3 default are omitted.
//
// protozero reports a full buffer by an exception, so this file is compiled with them (CMakeLists.txt); the bounds make
// that impossible, and noexcept turns a mistake in them into a stop.
#include <array>
#include <bit>
#include <cstring>
#include <protozero/buffer_fixed.hpp>
#include <protozero/buffer_string.hpp>
#include <protozero/pbf_writer.hpp>

#include "replica/messages.h"
#include "replica/wire_fields.h"

static_assert(std::endian::native == std::endian::little, "CRCs are copied as they lie in memory");

namespace holdfast::replica {

namespace {

using namespace fields;  // NOLINT: only numbers
using FixedBuffer = protozero::fixed_size_buffer_adaptor;
using FixedWriter = protozero::basic_pbf_writer<FixedBuffer>;

// Upper bounds in bytes. A number field takes at most a tag and ten bytes, a length at most five.
constexpr std::size_t kNumberMax = 11;
constexpr std::size_t kLengthMax = 6;
constexpr std::size_t kErrorTextMax = 1'000;

template <typename Writer>
void put(Writer& writer, Tag tag, std::uint64_t value) {
  if (value != 0) writer.add_uint64(tag, value);
}
template <typename Writer>
void put_fixed(Writer& writer, Tag tag, std::uint64_t value) {
  if (value != 0) writer.add_fixed64(tag, value);
}
template <typename Writer>
void put_bytes(Writer& writer, Tag tag, const void* data, std::size_t size) {
  if (size != 0) writer.add_bytes(tag, static_cast<const char*>(data), size);
}

// A nested message, written by `fill(pbf_writer&)`. A writer that is given no field takes the whole message back when
// it ends, though one whose fields all hold their defaults is there and counts.
template <typename Fill>
void put_message(protozero::pbf_writer& writer, Tag tag, Fill fill) {
  std::string bytes;  // small
  protozero::pbf_writer item(bytes);
  fill(item);
  writer.add_message(tag, bytes);
}

// The tag and length of a field whose content follows by other means.
void put_length_prefix(FixedBuffer& buffer, Tag tag, std::size_t length) {
  protozero::add_varint_to_buffer(&buffer, (std::uint64_t{tag} << 3) | 2);
  protozero::add_varint_to_buffer(&buffer, length);
}
std::size_t length_prefix_size(std::size_t length) {
  return 1 + static_cast<std::size_t>(protozero::length_of_varint(length));
}

// A pooled buffer that becomes the header slice.
class Header {
 public:
  Header(BufferPool& pool, std::size_t bound)
      : slice_(pool.allocate(bound)), buffer_(reinterpret_cast<char*>(slice_.data()), bound), writer_(buffer_) {}
  FixedWriter& writer() { return writer_; }
  FixedBuffer& buffer() { return buffer_; }
  Slice take() { return slice_.sub(0, buffer_.size()); }

 private:
  Slice slice_;
  FixedBuffer buffer_;
  FixedWriter writer_;
};

Slice to_slice(BufferPool& pool, const std::string& message) { return pool.copy_of(as_bytes(message)); }

std::string hello_message(const ReplicaHello& hello) {
  std::string bytes;  // small enough for the string's own storage or sent once per stream
  protozero::pbf_writer writer(bytes);
  put_fixed(writer, kReplicaHello_replica_id, hello.replica.value());
  put(writer, kReplicaHello_epoch, hello.epoch.value());
  return bytes;
}
constexpr std::size_t kHelloMax = kLengthMax + 2 * kNumberMax;

void add_history(protozero::pbf_writer& writer, Tag tag, const std::vector<store::EpochStart>& history) {
  for (const store::EpochStart& start : history) {
    put_message(writer, tag, [&](protozero::pbf_writer& item) {
      put(item, kEpochStart_epoch, start.epoch.value());
      put(item, kEpochStart_first_seq, start.first.value());
    });
  }
}

std::string join_message(const Join& join) {
  std::string bytes;
  protozero::pbf_writer writer(bytes);
  put(writer, kJoin_first_seq, join.request.first.value());
  put(writer, kJoin_base_seq, join.request.base.value());
  if (!join.source_address.empty()) writer.add_string(kJoin_source_address, join.source_address);
  put_fixed(writer, kJoin_source_replica_id, join.source_replica.value());
  put(writer, kJoin_size_blocks, join.request.size_blocks);
  add_history(writer, kJoin_history, join.request.history);
  put(writer, kJoin_bytes_per_second, join.bytes_per_second);
  for (const JoinSource& other : join.others) {
    put_message(writer, kJoin_other_sources, [&](protozero::pbf_writer& item) {
      if (!other.address.empty()) item.add_string(kJoinSource_address, other.address);
      put_fixed(item, kJoinSource_replica_id, other.replica.value());
    });
  }
  put(writer, kJoin_carry_damage, join.carry_damage ? 1 : 0);
  return bytes;
}

std::string damaged_message(const DamagedChunk& damaged) {
  std::string bytes;
  protozero::pbf_writer writer(bytes);
  put(writer, kDamagedChunk_chunk, damaged.chunk.value());
  put_fixed(writer, kDamagedChunk_blocks, damaged.blocks);
  if (!damaged.message.empty()) writer.add_string(kDamagedChunk_message, damaged.message);
  return bytes;
}

template <typename Writer>
void put_progress(Writer& writer, const RebuildProgress& progress) {
  put(writer, kRebuildProgress_chunks_total, progress.chunks_total);
  put(writer, kRebuildProgress_chunks_examined, progress.chunks_examined);
  put(writer, kRebuildProgress_bytes_copied, progress.bytes_copied);
  put(writer, kRebuildProgress_bytes_per_second, progress.bytes_per_second);
}

constexpr std::size_t kEntryNumbersMax = 8 * kNumberMax;
std::size_t entry_bound(const store::Entry& entry) { return kEntryNumbersMax + 2 * kLengthMax + entry.crc.size(); }

// The LogEntry fields, without the bytes of `data`, which the caller sends next. With `tag`, as a nested message.
void put_entry(FixedBuffer& buffer, std::optional<Tag> tag, const store::Entry& entry, std::size_t data) {
  std::array<char, kEntryNumbersMax> numbers_memory;
  FixedBuffer numbers(numbers_memory);
  FixedWriter writer(numbers);
  put(writer, kLogEntry_epoch, entry.position.epoch.value());
  put(writer, kLogEntry_seq, entry.position.seq.value());
  put(writer, kLogEntry_op, static_cast<std::uint64_t>(entry.op));
  put(writer, kLogEntry_first_block, entry.blocks.first.value());
  put(writer, kLogEntry_block_count, entry.blocks.count);
  put(writer, kLogEntry_deallocate, entry.deallocate ? 1 : 0);
  put(writer, kLogEntry_snapshot_id, entry.snapshot.value());
  put(writer, kLogEntry_size_blocks, entry.size_blocks);

  std::size_t crc = entry.crc.size();
  if (tag) {
    std::size_t size =
        numbers.size() + (crc ? length_prefix_size(crc) + crc : 0) + (data ? length_prefix_size(data) + data : 0);
    put_length_prefix(buffer, *tag, size);
  }
  buffer.append(numbers.data(), numbers.size());
  if (crc) {
    put_length_prefix(buffer, kLogEntry_crc, crc);
    buffer.append(reinterpret_cast<const char*>(entry.crc.data()), crc);
  }
  if (data) put_length_prefix(buffer, kLogEntry_data, data);
}

void put_error(FixedWriter& writer, Tag code_tag, Tag text_tag, const Error& error) {
  put(writer, code_tag, 1 + static_cast<std::uint64_t>(error.code()));
  put_bytes(writer, text_tag, error.message().data(), std::min(error.message().size(), kErrorTextMax));
}

void append_parts(SliceList& out, std::span<const Slice> parts) {
  for (const Slice& part : parts) {
    if (!part.empty()) out.push_back(part);
  }
}

std::string state_message(const ReplicaState& state) {
  const store::ReplicaInfo& info = state.info;
  std::string bytes;
  protozero::pbf_writer writer(bytes);
  put_fixed(writer, kReplicaState_replica_id, info.id.value());
  put_fixed(writer, kReplicaState_volume_id, info.volume.value());
  put(writer, kReplicaState_size_blocks, info.size_blocks);
  put(writer, kReplicaState_promised_epoch, info.promised.value());
  put(writer, kReplicaState_last_epoch, info.last.epoch.value());
  put(writer, kReplicaState_last_seq, info.last.seq.value());
  put(writer, kReplicaState_committed_seq, info.committed.value());
  put(writer, kReplicaState_applied_seq, info.applied.value());
  add_history(writer, kReplicaState_history, info.history);
  put(writer, kReplicaState_complete, info.complete ? 1 : 0);
  put(writer, kReplicaState_base_seq, info.base.value());
  put(writer, kReplicaState_used_bytes, info.used_bytes);
  if (state.rebuild) {
    put_message(writer, kReplicaState_rebuild, [&](auto& progress) { put_progress(progress, *state.rebuild); });
  }
  return bytes;
}

}  // namespace

// ---- hot ----

void encode(BufferPool& pool, const AppendRequest& request, SliceList& out) {
  encode(pool, request, request.entry ? std::span(&request.entry->data, 1) : std::span<const Slice>(), out);
}

void encode(BufferPool& pool, const AppendRequest& request, std::span<const Slice> data, SliceList& out) {
  std::string join = request.join ? join_message(*request.join) : std::string();
  std::size_t bound = kHelloMax + 3 * kNumberMax + kLengthMax + join.size() + kLengthMax;
  if (request.entry) bound += entry_bound(*request.entry);
  Header header(pool, bound);
  FixedWriter& writer = header.writer();
  if (request.hello) writer.add_message(kAppendRequest_hello, hello_message(*request.hello));
  put(writer, kAppendRequest_committed_seq, request.committed.value());
  put(writer, kAppendRequest_flush_id, request.flush_id);
  if (request.join) writer.add_message(kAppendRequest_join, join);
  if (request.rebuild_bytes_per_second) {
    writer.add_uint64(kAppendRequest_rebuild_bytes_per_second, *request.rebuild_bytes_per_second);
  }
  if (request.entry) put_entry(header.buffer(), kAppendRequest_entry, *request.entry, total_size(data));
  out.push_back(header.take());
  append_parts(out, data);
}

void encode(BufferPool& pool, const AppendResponse& response, SliceList& out) {
  std::string damaged;
  protozero::pbf_writer damaged_writer(damaged);
  for (const DamagedChunk& chunk : response.damaged) {
    damaged_writer.add_message(kAppendResponse_damaged, damaged_message(chunk));
  }
  Header header(pool, 4 * kNumberMax + kLengthMax + 4 * kNumberMax + damaged.size());
  FixedWriter& writer = header.writer();
  put(writer, kAppendResponse_journalled_seq, response.journalled.value());
  put(writer, kAppendResponse_flushed_id, response.flushed_id);
  if (response.rebuilt) writer.add_uint64(kAppendResponse_rebuilt_seq, response.rebuilt->value());
  if (response.rebuild) {
    std::string progress;
    protozero::pbf_writer progress_writer(progress);
    put_progress(progress_writer, *response.rebuild);
    writer.add_message(kAppendResponse_rebuild, progress);
  }
  put(writer, kAppendResponse_no_space, response.no_space ? 1 : 0);
  header.buffer().append(damaged.data(), damaged.size());
  out.push_back(header.take());
}

void encode(BufferPool& pool, const ReadRequest& request, SliceList& out) {
  Header header(pool, kHelloMax + 5 * kNumberMax);
  FixedWriter& writer = header.writer();
  if (request.hello) writer.add_message(kReadRequest_hello, hello_message(*request.hello));
  put(writer, kReadRequest_id, request.id);
  put(writer, kReadRequest_first_block, request.blocks.first.value());
  put(writer, kReadRequest_block_count, request.blocks.count);
  put(writer, kReadRequest_map_only, request.map_only ? 1 : 0);
  put(writer, kReadRequest_snapshot_id, request.snapshot.value());
  out.push_back(header.take());
}

void encode_read_response(BufferPool& pool, std::uint64_t id, const store::ReadOutcome& outcome, SliceList& out) {
  std::size_t crc_bytes = outcome.crc.size() * sizeof(std::uint32_t);
  std::size_t data_bytes = total_size(outcome.data);
  Header header(pool, kNumberMax + 3 * kLengthMax + outcome.present.size() + crc_bytes);
  put(header.writer(), kReadResponse_id, id);
  put_bytes(header.writer(), kReadResponse_present, outcome.present.data(), outcome.present.size());
  put_bytes(header.writer(), kReadResponse_crc, outcome.crc.data(), crc_bytes);
  if (data_bytes) put_length_prefix(header.buffer(), kReadResponse_data, data_bytes);
  out.push_back(header.take());
  append_parts(out, outcome.data);
}

void encode_read_response(BufferPool& pool, std::uint64_t id, const Error& error, SliceList& out) {
  Header header(pool, 2 * kNumberMax + kLengthMax + kErrorTextMax);
  put(header.writer(), kReadResponse_id, id);
  put_error(header.writer(), kReadResponse_error, kReadResponse_message, error);
  out.push_back(header.take());
}

void encode(BufferPool& pool, const store::Entry& entry, SliceList& out) {
  Header header(pool, entry_bound(entry));
  put_entry(header.buffer(), std::nullopt, entry, entry.data.size());
  out.push_back(header.take());
  if (!entry.data.empty()) out.push_back(entry.data);
}

void encode(BufferPool& pool, const ReadChunkRequest& request, SliceList& out) {
  Header header(pool, 6 * kNumberMax);
  FixedWriter& writer = header.writer();
  put_fixed(writer, kReadChunkRequest_replica_id, request.replica.value());
  put(writer, kReadChunkRequest_id, request.id);
  put(writer, kReadChunkRequest_chunk, request.chunk.value());
  put(writer, kReadChunkRequest_min_seq, request.min_seq.value());
  put(writer, kReadChunkRequest_layer, request.layer);
  if (request.layers) writer.add_uint64(kReadChunkRequest_layers_seq, request.layers->value());
  put(writer, kReadChunkRequest_damaged_too, request.damaged_too ? 1 : 0);
  out.push_back(header.take());
}

void encode_read_chunk_response(BufferPool& pool, std::uint64_t id, const store::ChunkContent& content,
                                SliceList& out) {
  std::size_t crc_bytes = content.crc.size() * sizeof(std::uint32_t);
  std::size_t data_bytes = total_size(content.data);
  Header header(pool, 7 * kNumberMax + 2 * kLengthMax + crc_bytes);
  FixedWriter& writer = header.writer();
  put(writer, kReadChunkResponse_id, id);
  put(writer, kReadChunkResponse_epoch, content.version.epoch.value());
  put(writer, kReadChunkResponse_seq, content.version.seq.value());
  put(writer, kReadChunkResponse_last_seq, content.source_last.value());
  put_fixed(writer, kReadChunkResponse_present, content.present);
  put_bytes(writer, kReadChunkResponse_crc, content.crc.data(), crc_bytes);
  put_fixed(writer, kReadChunkResponse_zero, content.zero);
  put_fixed(writer, kReadChunkResponse_damaged, content.damaged);
  if (data_bytes) put_length_prefix(header.buffer(), kReadChunkResponse_data, data_bytes);
  out.push_back(header.take());
  append_parts(out, content.data);
}

void encode_read_chunk_response(BufferPool& pool, std::uint64_t id, const Error& error, SliceList& out) {
  Header header(pool, 2 * kNumberMax + kLengthMax + kErrorTextMax);
  put(header.writer(), kReadChunkResponse_id, id);
  put_error(header.writer(), kReadChunkResponse_error, kReadChunkResponse_message, error);
  out.push_back(header.take());
}

// ---- the rest ----

Slice encode(BufferPool& pool, const Disk& disk) {
  std::string bytes;
  protozero::pbf_writer writer(bytes);
  put_bytes(writer, kDisk_disk_id, disk.disk_id.data(), disk.disk_id.size());
  put(writer, kDisk_total_bytes, disk.space.total_bytes);
  put(writer, kDisk_used_bytes, disk.space.used_bytes);
  put(writer, kDisk_left_bytes, disk.space.left_bytes);
  put(writer, kDisk_reserve_bytes, disk.space.reserve_bytes);
  put(writer, kDisk_free_bytes, disk.space.free_bytes);
  put(writer, kDisk_format_version, disk.format_version);
  put(writer, kDisk_journal_bytes, disk.space.journal_bytes);
  put(writer, kDisk_journal_used_bytes, disk.space.journal_used_bytes);
  put(writer, kDisk_cached_bytes, disk.space.cached_bytes);
  put_bytes(writer, kDisk_failure, disk.failure.data(), disk.failure.size());
  return to_slice(pool, bytes);
}

Slice encode(BufferPool& pool, const CreateReplicaRequest& request) {
  std::string bytes;
  protozero::pbf_writer writer(bytes);
  put_fixed(writer, kCreateReplicaRequest_replica_id, request.replica.value());
  put_fixed(writer, kCreateReplicaRequest_volume_id, request.volume.value());
  put(writer, kCreateReplicaRequest_size_blocks, request.size_blocks);
  put(writer, kCreateReplicaRequest_complete, request.complete ? 1 : 0);
  put_fixed(writer, kCreateReplicaRequest_source_replica_id, request.source.value());
  put_fixed(writer, kCreateReplicaRequest_snapshot_id, request.snapshot.value());
  return to_slice(pool, bytes);
}

Slice encode(BufferPool& pool, const DeleteReplicaRequest& request) {
  std::string bytes;
  protozero::pbf_writer writer(bytes);
  put_fixed(writer, kDeleteReplicaRequest_replica_id, request.replica.value());
  put(writer, kDeleteReplicaRequest_force, request.force ? 1 : 0);
  return to_slice(pool, bytes);
}

Slice encode(BufferPool& pool, const OpenRequest& request) {
  std::string bytes;
  protozero::pbf_writer writer(bytes);
  put_fixed(writer, kOpenRequest_replica_id, request.replica.value());
  put(writer, kOpenRequest_epoch, request.epoch.value());
  return to_slice(pool, bytes);
}

Slice encode(BufferPool& pool, const GetReplicaRequest& request) {
  std::string bytes;
  protozero::pbf_writer writer(bytes);
  put_fixed(writer, kGetReplicaRequest_replica_id, request.replica.value());
  return to_slice(pool, bytes);
}

Slice encode(BufferPool& pool, const ReplicaState& state) { return to_slice(pool, state_message(state)); }

Slice encode(BufferPool& pool, const std::vector<ReplicaState>& replicas) {
  std::string bytes;
  protozero::pbf_writer writer(bytes);
  for (const ReplicaState& state : replicas) {
    writer.add_message(kListReplicasResponse_replicas, state_message(state));
  }
  return to_slice(pool, bytes);
}

Slice encode(BufferPool& pool, const ReadLogRequest& request) {
  std::string bytes;
  protozero::pbf_writer writer(bytes);
  put_fixed(writer, kReadLogRequest_replica_id, request.replica.value());
  put(writer, kReadLogRequest_epoch, request.epoch.value());
  put(writer, kReadLogRequest_first_seq, request.first.value());
  put(writer, kReadLogRequest_last_seq, request.last.value());
  return to_slice(pool, bytes);
}

Slice encode(BufferPool& pool, const ListChunksRequest& request) {
  std::string bytes;
  protozero::pbf_writer writer(bytes);
  put_fixed(writer, kListChunksRequest_replica_id, request.replica.value());
  put(writer, kListChunksRequest_min_seq, request.min_seq.value());
  put(writer, kListChunksRequest_after_seq, request.after.value());
  put(writer, kListChunksRequest_first_chunk, request.first.value());
  put(writer, kListChunksRequest_end_chunk, request.end.value());
  if (request.layers) writer.add_uint64(kListChunksRequest_layers_seq, request.layers->value());
  return to_slice(pool, bytes);
}

Slice encode(BufferPool& pool, const std::vector<store::ChunkVersion>& chunks) {
  std::string bytes;
  protozero::pbf_writer writer(bytes);
  for (const store::ChunkVersion& chunk : chunks) {
    put_message(writer, kChunkVersions_chunks, [&](protozero::pbf_writer& item) {
      put(item, kChunkVersion_chunk, chunk.chunk.value());
      put(item, kChunkVersion_epoch, chunk.version.epoch.value());
      put(item, kChunkVersion_seq, chunk.version.seq.value());
      put(item, kChunkVersion_digest, chunk.digest);
      put(item, kChunkVersion_layer, chunk.layer);
    });
  }
  return to_slice(pool, bytes);
}

Slice encode(BufferPool& pool, const ListSnapshotsRequest& request) {
  std::string bytes;
  protozero::pbf_writer writer(bytes);
  put_fixed(writer, kListSnapshotsRequest_replica_id, request.replica.value());
  put(writer, kListSnapshotsRequest_min_seq, request.min_seq.value());
  put(writer, kListSnapshotsRequest_settled, request.settled ? 1 : 0);
  return to_slice(pool, bytes);
}

Slice encode(BufferPool& pool, const SnapshotPage& page) {
  std::string bytes;
  protozero::pbf_writer writer(bytes);
  for (const Snapshot& snapshot : page.snapshots) {
    put_message(writer, kSnapshotPage_snapshots, [&](protozero::pbf_writer& item) {
      put(item, kSnapshot_id, snapshot.info.id.value());
      put(item, kSnapshot_parent_id, snapshot.info.parent.value());
      put(item, kSnapshot_epoch, snapshot.info.position.epoch.value());
      put(item, kSnapshot_seq, snapshot.info.position.seq.value());
      put(item, kSnapshot_size_blocks, snapshot.info.size_blocks);
      put(item, kSnapshot_used_bytes, snapshot.info.used_bytes);
      put(item, kSnapshot_layer, snapshot.layer);
    });
  }
  put(writer, kSnapshotPage_revision_epoch, page.revision.epoch.value());
  put(writer, kSnapshotPage_revision_seq, page.revision.seq.value());
  put(writer, kSnapshotPage_head_layer, page.head);
  writer.add_packed_uint64(kSnapshotPage_forks, page.forks.begin(), page.forks.end());
  return to_slice(pool, bytes);
}

Slice encode(BufferPool& pool, const ScrubRequest& request) {
  std::string bytes;
  protozero::pbf_writer writer(bytes);
  put_fixed(writer, kScrubRequest_replica_id, request.replica.value());
  put(writer, kScrubRequest_first_chunk, request.first.value());
  put(writer, kScrubRequest_end_chunk, request.end.value());
  put(writer, kScrubRequest_bytes_per_second, request.bytes_per_second);
  return to_slice(pool, bytes);
}

Slice encode(BufferPool& pool, const ScrubProgress& progress) {
  std::string bytes;
  protozero::pbf_writer writer(bytes);
  put(writer, kScrubProgress_next_chunk, progress.next.value());
  put(writer, kScrubProgress_chunks_total, progress.chunks_total);
  put(writer, kScrubProgress_blocks_checked, progress.blocks_checked);
  put(writer, kScrubProgress_bytes_per_second, progress.bytes_per_second);
  for (const DamagedChunk& damaged : progress.damaged) {
    writer.add_message(kScrubProgress_damaged, damaged_message(damaged));
  }
  put(writer, kScrubProgress_finished, progress.finished ? 1 : 0);
  return to_slice(pool, bytes);
}

}  // namespace holdfast::replica
