// libFuzzer target: any bytes, decoded as each message. What decodes is encoded and decoded again, and must give the
// same encoding. The first byte chooses the message. Corpus: native/replica/corpus/messages.
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "replica/messages.h"

namespace {

using namespace holdfast;           // NOLINT: a program
using namespace holdfast::replica;  // NOLINT

std::string joined(const SliceList& parts) {
  std::string text;
  for (const Slice& part : parts) text.append(part.text());
  return text;
}

void require(bool condition) {
  if (!condition) std::abort();
}

// `encoded(value)` gives a string; `decoded(slice, value)` a Status.
template <typename Message, typename Encode, typename Decode>
void round_trip(BufferPool& pool, const Slice& input, Encode encoded, Decode decoded) {
  Message first;
  if (!decoded(input, first).ok()) return;
  std::string once = encoded(first);
  Message second;
  require(decoded(pool.copy_of(as_bytes(once)), second).ok());
  require(encoded(second) == once);
}

template <typename Message>
void hot(BufferPool& pool, const Slice& input) {
  round_trip<Message>(
      pool, input,
      [&](const Message& message) {
        SliceList out;
        encode(pool, message, out);
        return joined(out);
      },
      [&](const Slice& bytes, Message& message) {
        if constexpr (requires { decode(bytes, pool, message); }) {
          return decode(bytes, pool, message);
        } else {
          return decode(bytes, message);
        }
      });
}

template <typename Message>
void cold(BufferPool& pool, const Slice& input) {
  round_trip<Message>(
      pool, input, [&](const Message& message) { return std::string(encode(pool, message).text()); },
      [](const Slice& bytes, Message& message) { return decode(bytes, message); });
}

template <typename Message>
void decode_only(BufferPool& pool, const Slice& input) {
  Message message;
  if constexpr (requires { decode(input, pool, message); }) {
    (void)decode(input, pool, message).ok();
  } else {
    (void)decode(input, message).ok();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  BufferPool pool(0);  // nothing is retained, so that the sanitizer sees every buffer's end of life
  Slice input = pool.copy_of({reinterpret_cast<const std::byte*>(data) + 1, size - 1});
  switch (data[0] % 20) {
    case 0:
      return hot<AppendRequest>(pool, input), 0;
    case 1:
      return hot<AppendResponse>(pool, input), 0;
    case 2:
      return hot<ReadRequest>(pool, input), 0;
    case 3:
      return hot<store::Entry>(pool, input), 0;
    case 4:
      return hot<ReadChunkRequest>(pool, input), 0;
    case 5:
      return decode_only<ReadResponse>(pool, input), 0;
    case 6:
      return decode_only<ReadChunkResponse>(pool, input), 0;
    case 7:
      return cold<Disk>(pool, input), 0;
    case 8:
      return cold<CreateReplicaRequest>(pool, input), 0;
    case 9:
      return cold<DeleteReplicaRequest>(pool, input), 0;
    case 10:
      return cold<OpenRequest>(pool, input), 0;
    case 11:
      return cold<ReplicaState>(pool, input), 0;
    case 12:
      return cold<std::vector<ReplicaState>>(pool, input), 0;
    case 13:
      return cold<ReadLogRequest>(pool, input), 0;
    case 14:
      return cold<ListChunksRequest>(pool, input), 0;
    case 15:
      return cold<std::vector<store::ChunkVersion>>(pool, input), 0;
    case 16:
      return cold<ListSnapshotsRequest>(pool, input), 0;
    case 17:
      return cold<ScrubRequest>(pool, input), 0;
    case 18:
      return cold<ScrubProgress>(pool, input), 0;
    default:
      return cold<SnapshotPage>(pool, input), 0;
  }
}
