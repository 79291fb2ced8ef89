#include "store/journal_format.h"

#include <cstring>

#include "base/crc32c.h"
#include "store/bytes.h"

namespace holdfast::store {

namespace {

std::size_t crc_bytes(Op op, std::uint32_t block_count) {
  return op == Op::kWrite ? (std::size_t{block_count} * 4 + 7) / 8 * 8 : 0;
}

std::uint32_t header_crc(std::span<const std::byte> blocks) {
  constexpr std::size_t kAt = offsetof(BatchHeader, crc);
  const std::byte zero[4] = {};
  std::uint32_t crc = crc32c(blocks.first(kAt));
  crc = crc32c_extend(crc, zero);
  return crc32c_extend(crc, blocks.subspan(kAt + 4));
}

bool plausible(const EntryHeader& header) {
  switch (static_cast<Op>(header.op)) {
    case Op::kWrite:
      return header.block_count >= 1 && header.block_count <= kWriteBlocksMax &&
             header.direct_count <= kDirectPiecesMax;
    case Op::kZero:
      return header.block_count >= 1 && header.block_count <= kZeroBlocksMax && header.direct_count == 0;
    case Op::kResize:
    case Op::kSnapshot:
    case Op::kDropSnapshot:
    case Op::kRevert:
      return header.block_count == 0 && header.direct_count == 0;
  }
  return false;
}

}  // namespace

std::size_t entry_descriptor_bytes(Op op, std::uint32_t block_count, std::size_t direct_count) {
  return sizeof(EntryHeader) + crc_bytes(op, block_count) + direct_count * sizeof(DirectRecord);
}

std::size_t put_entry_descriptor(std::byte* out, const EntryHeader& header, std::span<const std::byte> crc,
                                 std::span<const DirectPiece> direct) {
  std::byte* at = out;
  std::memcpy(at, &header, sizeof header);
  at += sizeof header;
  std::size_t padded = crc_bytes(static_cast<Op>(header.op), header.block_count);
  DCHECK(crc.size() <= padded);
  if (padded > 0) {
    std::memcpy(at, crc.data(), crc.size());
    std::memset(at + crc.size(), 0, padded - crc.size());
    at += padded;
  }
  for (const DirectPiece& piece : direct) {
    DirectRecord record{piece.first, 0, piece.slot};
    std::memcpy(at, &record, sizeof record);
    at += sizeof record;
  }
  return static_cast<std::size_t>(at - out);
}

void seal_batch(std::span<std::byte> blocks, BatchHeader header) {
  header.magic = kJournalMagic;
  header.format = kJournalFormat;
  header.crc = 0;
  std::memcpy(blocks.data(), &header, sizeof header);
  header.crc = header_crc(blocks);
  std::memcpy(blocks.data() + offsetof(BatchHeader, crc), &header.crc, sizeof header.crc);
}

bool begins_batch(std::span<const std::byte> first_block, std::uint64_t key) {
  BatchHeader header;
  CHECK(first_block.size() >= sizeof header);
  std::memcpy(&header, first_block.data(), sizeof header);
  return header.magic == kJournalMagic && header.key == key;
}

std::optional<BatchHeader> peek_batch(std::span<const std::byte> first_block, std::uint64_t key) {
  BatchHeader header;
  CHECK(first_block.size() >= sizeof header);
  std::memcpy(&header, first_block.data(), sizeof header);
  if (header.magic != kJournalMagic || header.format != kJournalFormat || header.key != key) return std::nullopt;
  if (header.header_blocks < 1 || header.header_blocks > kBatchHeaderBlocksMax) return std::nullopt;
  if (std::uint64_t{header.header_blocks} + header.payload_blocks > kBatchBlocksMax) return std::nullopt;
  if (header.entry_count < 1 || header.entry_count > kBatchEntriesMax) return std::nullopt;
  if (sizeof header + std::uint64_t{header.entry_bytes} > std::uint64_t{header.header_blocks} * kBlockSize) {
    return std::nullopt;
  }
  return header;
}

bool batch_crc_ok(std::span<const std::byte> header_blocks) {
  BatchHeader header;
  std::memcpy(&header, header_blocks.data(), sizeof header);
  return header.crc == header_crc(header_blocks);
}

namespace {

// One descriptor at the front of `bytes`, which it consumes.
Result<ParsedEntry> take_entry(std::span<const std::byte>& bytes) {
  Error malformed(ErrorCode::kCorrupt, "a journal batch with a right checksum has a malformed entry");
  ParsedEntry entry;
  if (bytes.size() < sizeof entry.header) return malformed;
  std::memcpy(&entry.header, bytes.data(), sizeof entry.header);
  const EntryHeader& header = entry.header;
  if (!plausible(header)) return malformed;
  Op op = static_cast<Op>(header.op);
  std::size_t size = entry_descriptor_bytes(op, header.block_count, header.direct_count);
  if (bytes.size() < size) return malformed;
  if (op == Op::kWrite) {
    entry.crc = bytes.subspan(sizeof header, std::size_t{header.block_count} * 4);
    entry.payload_blocks = header.block_count;
  }
  std::size_t at = sizeof header + crc_bytes(op, header.block_count);
  for (std::uint32_t i = 0; i < header.direct_count; ++i, at += sizeof(DirectRecord)) {
    DirectRecord record;
    std::memcpy(&record, bytes.data() + at, sizeof record);
    // Ascending, aligned to chunks, inside the entry.
    bool aligned = (header.first_block + record.first) % kBlocksPerChunk == 0;
    bool inside = std::uint64_t{record.first} + kBlocksPerChunk <= header.block_count;
    bool ascending = entry.direct.empty() || record.first >= entry.direct.back().first + kBlocksPerChunk;
    if (!aligned || !inside || !ascending) return malformed;
    entry.direct.push_back({record.first, record.slot});
    entry.payload_blocks -= kBlocksPerChunk;
  }
  bytes = bytes.subspan(size);
  return entry;
}

}  // namespace

Result<std::vector<ParsedEntry>> parse_entries(std::span<const std::byte> header_blocks) {
  BatchHeader header;
  std::memcpy(&header, header_blocks.data(), sizeof header);
  std::span<const std::byte> bytes = header_blocks.subspan(sizeof header, header.entry_bytes);
  std::vector<ParsedEntry> entries;
  entries.reserve(header.entry_count);
  std::uint32_t payload = 0;
  for (std::uint32_t i = 0; i < header.entry_count; ++i) {
    ASSIGN_OR_RETURN(ParsedEntry entry, take_entry(bytes));
    entry.payload_first = payload;
    payload += entry.payload_blocks;
    entries.push_back(std::move(entry));
  }
  if (!bytes.empty() || payload != header.payload_blocks) {
    return Error(ErrorCode::kCorrupt, "a journal batch with a right checksum does not add up");
  }
  return entries;
}

std::uint64_t JournalState::generation_of(std::uint64_t number) const {
  std::uint64_t generation = 0;
  for (const Run& run : runs) {
    if (run.first_number > number) break;
    generation = run.generation;
  }
  return generation;
}

void JournalState::prune() {
  std::vector<Run> kept;
  for (const Run& run : runs) {
    if (!kept.empty() && (kept.back().first_number >= run.first_number || run.first_number <= oldest_number)) {
      kept.back() = run;
    } else {
      kept.push_back(run);
    }
  }
  runs = std::move(kept);
}

std::string encode_journal_state(const JournalState& state) {
  std::string out;
  put_u32(out, kJournalFormat);
  put_u32(out, static_cast<std::uint32_t>(state.runs.size()));
  put_u64(out, state.oldest_number);
  put_u64(out, state.oldest_position);
  for (const JournalState::Run& run : state.runs) {
    put_u64(out, run.generation);
    put_u64(out, run.first_number);
  }
  return out;
}

Result<JournalState> decode_journal_state(std::string_view bytes) {
  ByteReader in(bytes);
  JournalState state;
  std::uint32_t format = in.u32();
  if (in.ok() && format > kJournalFormat) {
    return Error(ErrorCode::kFormatTooNew, "the journal was written by a newer version; upgrade this node");
  }
  std::uint32_t runs = in.u32();
  state.oldest_number = in.u64();
  state.oldest_position = in.u64();
  bool valid = in.ok() && format == kJournalFormat && in.left() == std::size_t{runs} * 16;
  for (std::uint32_t i = 0; valid && i < runs; ++i) {
    JournalState::Run run{};
    run.generation = in.u64();
    run.first_number = in.u64();
    valid = state.runs.empty() ||
            (run.generation > state.runs.back().generation && run.first_number > state.runs.back().first_number);
    state.runs.push_back(run);
  }
  if (!valid) return Error(ErrorCode::kCorrupt, "the metadata's record of the journal is malformed");
  return state;
}

}  // namespace holdfast::store
