// Fuzz target: journal batches as recovery parses them. The first byte chooses whether the checksum is made right, so
// that the parser behind it is reached. Corpus: native/store/corpus/journal.
#include <cstring>

#include "base/buffer.h"
#include "store/journal_format.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace holdfast;
  using namespace holdfast::store;
  if (size < 1 + sizeof(BatchHeader)) return 0;
  bool repair = data[0] & 1;
  BatchHeader header;
  std::memcpy(&header, data + 1, sizeof header);
  std::size_t blocks = std::min<std::size_t>(std::max<std::size_t>(header.header_blocks, 1), kBatchHeaderBlocksMax);
  std::vector<std::byte> bytes(blocks * kBlockSize);
  std::memcpy(bytes.data(), data + 1, std::min(size - 1, bytes.size()));
  if (repair) seal_batch(bytes, header);
  std::optional<BatchHeader> peeked = peek_batch(std::span(bytes).first(kBlockSize), header.key);
  if (!peeked || peeked->header_blocks != blocks || !batch_crc_ok(bytes)) return 0;
  Result<std::vector<ParsedEntry>> entries = parse_entries(bytes);
  if (!entries.ok()) return 0;
  for (const ParsedEntry& entry : *entries) {
    CHECK(entry.payload_first + entry.payload_blocks <= peeked->payload_blocks);
    CHECK(entry.direct.size() <= kDirectPiecesMax);
  }
  return 0;
}
