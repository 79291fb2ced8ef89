// The bytes of the journal: batch headers, entry descriptors, and how they are checked. docs/on-disk-format.md has the
// grammar and a worked example. Pure functions, any thread. All integers are little-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/result.h"
#include "base/types.h"
#include "store/store.h"

namespace holdfast::store {

inline constexpr std::uint64_t kJournalMagic = 0x3130'4C4E'524A'4648ull;  // "HFJRNL01"
inline constexpr std::uint32_t kJournalFormat = 1;
inline constexpr std::uint32_t kJournalBlocksMin = 1024;  // 4 MiB: three of the largest entries fit
// 4 MiB, and never more than a quarter of the ring or the largest entry alone.
inline constexpr std::uint32_t kBatchBlocksMax = 1024;
inline constexpr std::uint32_t kLargestEntryBlocks = kWriteBlocksMax + 1;  // its data and its header
inline constexpr std::uint32_t kBatchHeaderBlocksMax = 16;
inline constexpr std::uint32_t kBatchEntriesMax = 480;  // 2 parts each at most, below File's 1,024 parts
inline constexpr std::uint32_t kDirectPiecesMax = kWriteBlocksMax / kBlocksPerChunk;

// First bytes of a batch. `crc` covers all header blocks with itself as zero.
struct BatchHeader {
  std::uint64_t magic;
  std::uint32_t format;
  std::uint32_t crc;
  std::uint64_t key;         // of this journal, secret: a guest's data cannot look like a header
  std::uint64_t generation;  // rises with every open; see JournalState
  std::uint64_t number;      // of the batch, no gaps
  std::uint64_t position;    // in blocks since the journal was made; modulo the ring's size it is the place
  std::uint32_t header_blocks;
  std::uint32_t payload_blocks;
  std::uint32_t entry_count;
  std::uint32_t entry_bytes;       // of all descriptors, after this struct
  std::uint64_t flushed_number;    // every batch up to here was durable when this one was made
  std::uint64_t completed_number;  // every batch up to here was written, and so could be acknowledged
  std::uint64_t oldest_number;     // JournalState::oldest_number that was durable in the metadata
  std::uint64_t reserved;
};
static_assert(sizeof(BatchHeader) == 96);
static_assert(offsetof(BatchHeader, crc) == 12);
static_assert(offsetof(BatchHeader, position) == 40);
static_assert(offsetof(BatchHeader, entry_count) == 56);
static_assert(offsetof(BatchHeader, flushed_number) == 64);

// One entry. Followed by block_count CRC32Cs (WRITE only) padded to 8 bytes, then direct_count DirectRecords.
// Payload blocks of all entries (those not in a direct piece) follow the header blocks in the same order.
struct EntryHeader {
  std::uint64_t replica;
  std::uint64_t log_generation;  // of the replica's log; entries of a former log are ignored
  std::uint64_t epoch;
  std::uint64_t seq;
  std::uint64_t committed;    // commit watermark of the replica when this was appended
  std::uint64_t first_block;  // RESIZE: the new size in blocks; SNAPSHOT, DROP_SNAPSHOT, REVERT: the snapshot
  std::uint32_t block_count;
  std::uint8_t op;
  std::uint8_t flags;  // bit 0: deallocate
  std::uint8_t direct_count;
  std::uint8_t reserved;
};
static_assert(sizeof(EntryHeader) == 56);
static_assert(offsetof(EntryHeader, block_count) == 48);

// A whole chunk of the entry whose data was written straight to `slot`.
struct DirectRecord {
  std::uint32_t first;  // block within the entry
  std::uint32_t reserved;
  std::uint64_t slot;
};
static_assert(sizeof(DirectRecord) == 16);

struct DirectPiece {
  std::uint32_t first = 0;
  std::uint64_t slot = 0;
};

// What a descriptor says; `crc` and payload are borrowed from the bytes it was parsed from.
struct ParsedEntry {
  EntryHeader header{};
  std::span<const std::byte> crc;
  std::vector<DirectPiece> direct;
  std::uint32_t payload_first = 0;   // block within the batch's payload
  std::uint32_t payload_blocks = 0;  // block_count minus the direct ones
};

std::size_t entry_descriptor_bytes(Op op, std::uint32_t block_count, std::size_t direct_count);
// Writes one descriptor to `out` (large enough); returns its size.
std::size_t put_entry_descriptor(std::byte* out, const EntryHeader& header, std::span<const std::byte> crc,
                                 std::span<const DirectPiece> direct);
// Fills in magic, format and crc of the header at the start of `blocks`, which are all header blocks of the batch.
void seal_batch(std::span<std::byte> blocks, BatchHeader header);

// Whether a batch of this journal was written to this place, be it in part.
bool begins_batch(std::span<const std::byte> first_block, std::uint64_t key);

// The fixed part of what may be a batch: magic, format, key and sizes are plausible. The CRC is not checked.
std::optional<BatchHeader> peek_batch(std::span<const std::byte> first_block, std::uint64_t key);
// Whether the CRC over all header blocks is right.
bool batch_crc_ok(std::span<const std::byte> header_blocks);
// The descriptors of a batch whose CRC is right. CORRUPT when they contradict themselves.
Result<std::vector<ParsedEntry>> parse_entries(std::span<const std::byte> header_blocks);

// What metadata remembers of the journal: where the oldest batch in use is, and which generations its batches have.
// A batch is genuine only if its generation is that of the run its number falls in. An open always starts a run, so
// what an open cut off can never be taken for a later batch with the same number.
struct JournalState {
  struct Run {
    std::uint64_t generation;
    std::uint64_t first_number;
  };
  std::uint64_t oldest_number = 1;
  std::uint64_t oldest_position = 0;
  std::vector<Run> runs;  // ascending; the first one covers oldest_number

  std::uint64_t generation_of(std::uint64_t number) const;
  // Forgets runs without a batch in use, and replaces an empty last run.
  void prune();
};
std::string encode_journal_state(const JournalState& state);
Result<JournalState> decode_journal_state(std::string_view bytes);

}  // namespace holdfast::store
