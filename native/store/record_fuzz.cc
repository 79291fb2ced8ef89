// Fuzz target: every value of the metadata, and disk.json. What decodes must encode to the same bytes.
// The first byte chooses the kind. Corpus: native/store/corpus/record.
#include "store/chunk_record.h"
#include "store/disk_label.h"
#include "store/journal_format.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace holdfast;
  using namespace holdfast::store;
  if (size == 0) return 0;
  std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 8) {
    case 0: {
      Result<ChunkRecord> record = decode_chunk_record(bytes);
      if (record.ok()) {
        CHECK(encode_chunk_record(*record) == bytes);
        CHECK(chunk_digest(*record) != 0);
      }
      break;
    }
    case 1: {
      Result<ReplicaIdentity> identity = decode_identity(bytes);
      if (identity.ok()) CHECK(encode_identity(*identity) == bytes);
      break;
    }
    case 2: {
      Result<ReplicaApplied> applied = decode_applied(bytes);
      if (applied.ok()) CHECK(encode_applied(*applied) == bytes);
      break;
    }
    case 3: {
      Result<JournalState> state = decode_journal_state(bytes);
      if (state.ok()) CHECK(encode_journal_state(*state) == bytes);
      break;
    }
    case 4: {
      Result<SnapshotRecord> snapshot = decode_snapshot_record(bytes);
      if (snapshot.ok()) CHECK(encode_snapshot_record(*snapshot) == bytes);
      break;
    }
    case 5: {
      Result<MergeJob> job = decode_merge_job(bytes);
      if (job.ok()) CHECK(encode_merge_job(*job) == bytes);
      break;
    }
    case 6: {
      Result<LayerTree> tree = LayerTree::decode(bytes, {});
      if (tree.ok() && !bytes.empty()) CHECK(tree->encode_state() == bytes);
      break;
    }
    default:
      (void)decode_disk_label(bytes);
  }
  return 0;
}
