// Field numbers of proto/holdfast/v1/replica.proto, for messages_encode.cc and messages_decode.cc alone.
// A name is Message_field; what the proto file says is repeated nowhere else.
#pragma once

#include <cstdint>

namespace holdfast::replica::fields {

using Tag = std::uint32_t;

inline constexpr Tag kLogEntry_epoch = 1, kLogEntry_seq = 2, kLogEntry_op = 3, kLogEntry_first_block = 4,
                     kLogEntry_block_count = 5, kLogEntry_crc = 6, kLogEntry_deallocate = 7, kLogEntry_snapshot_id = 8,
                     kLogEntry_size_blocks = 9, kLogEntry_data = 15;

inline constexpr Tag kDisk_disk_id = 1, kDisk_total_bytes = 2, kDisk_used_bytes = 3, kDisk_reserve_bytes = 4,
                     kDisk_free_bytes = 5, kDisk_format_version = 6, kDisk_journal_bytes = 7,
                     kDisk_journal_used_bytes = 8, kDisk_cached_bytes = 9, kDisk_failure = 10, kDisk_left_bytes = 11;

inline constexpr Tag kListReplicasResponse_replicas = 1;

inline constexpr Tag kCreateReplicaRequest_replica_id = 1, kCreateReplicaRequest_volume_id = 2,
                     kCreateReplicaRequest_size_blocks = 3, kCreateReplicaRequest_complete = 4,
                     kCreateReplicaRequest_source_replica_id = 5, kCreateReplicaRequest_snapshot_id = 6;

inline constexpr Tag kDeleteReplicaRequest_replica_id = 1, kDeleteReplicaRequest_force = 2;

inline constexpr Tag kOpenRequest_replica_id = 1, kOpenRequest_epoch = 2;

inline constexpr Tag kGetReplicaRequest_replica_id = 1;

inline constexpr Tag kEpochStart_epoch = 1, kEpochStart_first_seq = 2;

inline constexpr Tag kReplicaState_replica_id = 1, kReplicaState_volume_id = 2, kReplicaState_size_blocks = 3,
                     kReplicaState_promised_epoch = 4, kReplicaState_last_epoch = 5, kReplicaState_last_seq = 6,
                     kReplicaState_committed_seq = 7, kReplicaState_applied_seq = 8, kReplicaState_history = 9,
                     kReplicaState_complete = 10, kReplicaState_base_seq = 11, kReplicaState_used_bytes = 12,
                     kReplicaState_rebuild = 13;

inline constexpr Tag kRebuildProgress_chunks_total = 1, kRebuildProgress_chunks_examined = 2,
                     kRebuildProgress_bytes_copied = 3, kRebuildProgress_bytes_per_second = 4;

inline constexpr Tag kReplicaHello_replica_id = 1, kReplicaHello_epoch = 2;

inline constexpr Tag kAppendRequest_hello = 1, kAppendRequest_committed_seq = 2, kAppendRequest_flush_id = 3,
                     kAppendRequest_join = 4, kAppendRequest_rebuild_bytes_per_second = 5, kAppendRequest_entry = 15;

inline constexpr Tag kJoin_first_seq = 1, kJoin_base_seq = 2, kJoin_source_address = 3, kJoin_source_replica_id = 4,
                     kJoin_size_blocks = 5, kJoin_history = 6, kJoin_bytes_per_second = 7, kJoin_other_sources = 8,
                     kJoin_carry_damage = 9;

inline constexpr Tag kJoinSource_address = 1, kJoinSource_replica_id = 2;

inline constexpr Tag kAppendResponse_journalled_seq = 1, kAppendResponse_flushed_id = 2,
                     kAppendResponse_rebuilt_seq = 3, kAppendResponse_rebuild = 4, kAppendResponse_no_space = 5,
                     kAppendResponse_damaged = 6;

inline constexpr Tag kReadRequest_hello = 1, kReadRequest_id = 2, kReadRequest_first_block = 3,
                     kReadRequest_block_count = 4, kReadRequest_map_only = 5, kReadRequest_snapshot_id = 6;

inline constexpr Tag kReadResponse_id = 1, kReadResponse_error = 2, kReadResponse_message = 3,
                     kReadResponse_present = 4, kReadResponse_crc = 5, kReadResponse_data = 15;

inline constexpr Tag kReadLogRequest_replica_id = 1, kReadLogRequest_epoch = 2, kReadLogRequest_first_seq = 3,
                     kReadLogRequest_last_seq = 4;

inline constexpr Tag kListChunksRequest_replica_id = 1, kListChunksRequest_min_seq = 2,
                     kListChunksRequest_after_seq = 3, kListChunksRequest_first_chunk = 4,
                     kListChunksRequest_end_chunk = 5, kListChunksRequest_layers_seq = 6;

inline constexpr Tag kChunkVersions_chunks = 1;

inline constexpr Tag kChunkVersion_chunk = 1, kChunkVersion_epoch = 2, kChunkVersion_seq = 3, kChunkVersion_digest = 4,
                     kChunkVersion_layer = 5;

inline constexpr Tag kReadChunkRequest_replica_id = 1, kReadChunkRequest_id = 2, kReadChunkRequest_chunk = 3,
                     kReadChunkRequest_min_seq = 4, kReadChunkRequest_layer = 5, kReadChunkRequest_layers_seq = 6,
                     kReadChunkRequest_damaged_too = 7;

inline constexpr Tag kReadChunkResponse_id = 1, kReadChunkResponse_error = 2, kReadChunkResponse_message = 3,
                     kReadChunkResponse_epoch = 4, kReadChunkResponse_seq = 5, kReadChunkResponse_last_seq = 6,
                     kReadChunkResponse_present = 7, kReadChunkResponse_crc = 8, kReadChunkResponse_zero = 9,
                     kReadChunkResponse_damaged = 10, kReadChunkResponse_data = 15;

inline constexpr Tag kListSnapshotsRequest_replica_id = 1, kListSnapshotsRequest_min_seq = 2,
                     kListSnapshotsRequest_settled = 3;

inline constexpr Tag kSnapshotPage_snapshots = 1, kSnapshotPage_revision_epoch = 2, kSnapshotPage_revision_seq = 3,
                     kSnapshotPage_head_layer = 4, kSnapshotPage_forks = 5;

inline constexpr Tag kSnapshot_id = 1, kSnapshot_parent_id = 2, kSnapshot_epoch = 3, kSnapshot_seq = 4,
                     kSnapshot_size_blocks = 5, kSnapshot_used_bytes = 6, kSnapshot_layer = 7;

inline constexpr Tag kScrubRequest_replica_id = 1, kScrubRequest_first_chunk = 2, kScrubRequest_end_chunk = 3,
                     kScrubRequest_bytes_per_second = 4;

inline constexpr Tag kScrubProgress_next_chunk = 1, kScrubProgress_chunks_total = 2, kScrubProgress_blocks_checked = 3,
                     kScrubProgress_bytes_per_second = 4, kScrubProgress_damaged = 5, kScrubProgress_finished = 6;

inline constexpr Tag kDamagedChunk_chunk = 1, kDamagedChunk_blocks = 2, kDamagedChunk_message = 3;

}  // namespace holdfast::replica::fields
