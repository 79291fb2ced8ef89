// Method Scrub: reads every chunk of a replica again, in every layer, and checks its blocks against their CRCs, at a
// limited rate.
//
// It reads as the source of a rebuild does: what is being written meanwhile is read as of one moment, so a mismatch is
// damage and never a race. Few chunks are in flight, and none while the peer does not take the answers. Thread: the
// reactor of the Env.
#pragma once

#include <deque>

#include "replica/replica_stream.h"
#include "replica/token_bucket.h"

namespace holdfast::replica {

class ScrubStream final : public OneRequestStream {
 public:
  static constexpr std::size_t kWindow = 4;  // chunks in flight
  static constexpr std::size_t kPageChunks = 1'024;
  static constexpr std::size_t kDamagedPerMessage = 256;
  static constexpr std::size_t kUnsentBytesMax = 1u << 20;
  static constexpr Nanos kReportInterval = 1s;

  ScrubStream(Ref<Core> shared, std::unique_ptr<rpc::ServerCall> call)
      : OneRequestStream(std::move(shared), std::move(call)),
        bucket_(0, kChunkSize, core().env.now()),
        throttle_(core().env),
        ticker_(core().env) {}

 private:
  // OneRequestStream
  void request(const rpc::Message& message) override;
  void drained() override { advance(); }
  void on_end() override;

  void advance();
  void list();
  void listed(Result<std::vector<store::ChunkVersion>> versions);
  void read(store::ChunkLayer layer);
  void check(store::ChunkLayer layer, Result<store::ChunkContent> content);
  void report(bool finished);
  void tick();

  bool started_ = false;
  bool listing_ = false;
  ChunkIndex next_;  // not listed yet
  ChunkIndex end_;
  std::uint64_t chunks_total_ = 0;
  std::deque<store::ChunkLayer> listed_;
  std::deque<store::ChunkLayer> reading_;  // ascending; answers come in any order
  TokenBucket bucket_;
  Timer throttle_;
  Timer ticker_;
  std::uint64_t blocks_checked_ = 0;
  std::uint64_t blocks_at_tick_ = 0;
  std::uint64_t bytes_per_second_ = 0;
  Nanos ticked_{};
  std::vector<DamagedChunk> damaged_;
};

}  // namespace holdfast::replica
