#include "replica/scrub_stream.h"

#include <algorithm>
#include <bit>

#include "base/crc32c.h"
#include "base/log.h"

namespace holdfast::replica {

namespace {

// The present blocks that cannot be read or whose bytes do not match, a bit per block.
std::uint64_t damaged_blocks(const store::ChunkContent& content) {
  std::uint64_t damaged = content.damaged;
  std::uint64_t left = content.present;
  std::size_t index = 0;
  for (const Slice& part : content.data) {
    for (std::size_t at = 0; at < part.size(); at += kBlockSize, ++index, left &= left - 1) {
      if (crc32c(part.bytes().subspan(at, kBlockSize)) != content.crc[index]) {
        damaged |= std::uint64_t{1} << std::countr_zero(left);
      }
    }
  }
  return damaged;
}

}  // namespace

void ScrubStream::request(const rpc::Message& message) {
  ScrubRequest request;
  if (Status status = decode(message, request); !status.ok()) return end(std::move(status));
  ServedReplica* found = core().find(request.replica);
  if (found == nullptr) return end(no_such_replica(request.replica));
  store::ReplicaInfo info = found->store().info();
  if (!info.complete) {
    return end(Error(ErrorCode::kReplicaIncomplete,
                     "replica " + to_hex(info.id.value()) + " is being rebuilt and cannot be scrubbed"));
  }
  chunks_total_ = chunks_of(info.size_blocks);
  end_ = request.end.value() == 0 ? ChunkIndex(chunks_total_) : std::min(request.end, ChunkIndex(chunks_total_));
  if (end_ < request.first) return end(Error(ErrorCode::kInvalidArgument, "Scrub needs first_chunk <= end_chunk"));
  bind(found, Fencing::kNone, Epoch());
  next_ = request.first;
  started_ = true;
  ticked_ = core().env.now();
  bucket_.set_rate(request.bytes_per_second, ticked_);
  ticker_.arm_after(kReportInterval, [this] { tick(); });
  advance();
}

void ScrubStream::advance() {
  if (!started_) return;
  Ref<ScrubStream> keep(this);
  while (!ended() && !listed_.empty() && reading_.size() < kWindow && !throttle_.armed()) {
    if (call().unsent_bytes() > kUnsentBytesMax) return;
    if (Nanos wait = bucket_.take(kChunkSize, core().env.now()); wait > Nanos(0)) {
      throttle_.arm_after(wait, [this] { advance(); });
      return;
    }
    store::ChunkLayer layer = listed_.front();
    listed_.pop_front();
    reading_.push_back(layer);
    read(layer);
  }
  if (ended() || !listed_.empty() || listing_) return;
  if (next_ < end_) return list();
  if (!reading_.empty()) return;
  report(true);
  end(Status());
}

void ScrubStream::list() {
  listing_ = true;
  replica().begin_read();
  store().list_chunks(next_, end_, Seq(), kPageChunks,
                      [self = Ref<ScrubStream>(this)](Result<std::vector<store::ChunkVersion>> versions) {
                        self->replica().end_read();
                        self->listing_ = false;
                        if (!self->ended()) self->listed(std::move(versions));
                      });
}

void ScrubStream::listed(Result<std::vector<store::ChunkVersion>> versions) {
  if (!versions.ok()) return end(std::move(versions).error());
  for (const store::ChunkVersion& version : *versions) listed_.push_back({version.chunk, version.layer});
  next_ = versions->size() < kPageChunks ? end_ : versions->back().chunk.next();
  advance();
}

void ScrubStream::read(store::ChunkLayer layer) {
  replica().begin_read();
  store().read_layer(layer, [self = Ref<ScrubStream>(this), layer](Result<store::ChunkContent> content) {
    self->replica().end_read();
    if (!self->ended()) self->check(layer, std::move(content));
  });
}

void ScrubStream::check(store::ChunkLayer layer, Result<store::ChunkContent> content) {
  std::erase(reading_, layer);
  ChunkIndex chunk = layer.chunk;
  if (content.ok()) {
    std::uint64_t blocks = damaged_blocks(*content);
    auto present = static_cast<std::uint64_t>(std::popcount(content->present));
    blocks_checked_ += present;
    bucket_.give_back(kChunkSize - present * kBlockSize);
    if (blocks != 0) {
      bool unreadable = content->damaged != 0;
      damaged_.push_back(
          {chunk, blocks, unreadable ? "the device cannot read blocks" : "blocks do not match their checksums"});
    }
  } else if (content.error().code() == ErrorCode::kDiskIo || content.error().code() == ErrorCode::kCorrupt) {
    damaged_.push_back({chunk, ~std::uint64_t{0}, content.error().message()});
  } else if (content.error().code() != ErrorCode::kNotFound) {  // a layer that was merged or dropped meanwhile
    return end(std::move(content).error());
  }
  if (!damaged_.empty() && damaged_.back().chunk == chunk) {
    log_warn("replica", "replica " + to_hex(replica().id().value()) + ": chunk " + std::to_string(chunk.value()) +
                            " is damaged: " + damaged_.back().message);
  }
  if (damaged_.size() >= kDamagedPerMessage) report(false);
  advance();
}

void ScrubStream::report(bool finished) {
  ScrubProgress progress;
  progress.next = !reading_.empty() ? reading_.front().chunk : !listed_.empty() ? listed_.front().chunk : next_;
  progress.chunks_total = chunks_total_;
  progress.blocks_checked = blocks_checked_;
  progress.bytes_per_second = bytes_per_second_;
  progress.damaged = std::exchange(damaged_, {});
  progress.finished = finished;
  Slice message = encode(pool(), progress);
  call().send(std::span(&message, 1));
}

void ScrubStream::tick() {
  Nanos now = core().env.now();
  double seconds = std::chrono::duration<double>(now - ticked_).count();
  double bytes = static_cast<double>((blocks_checked_ - blocks_at_tick_) * kBlockSize);
  bytes_per_second_ = static_cast<std::uint64_t>(bytes / seconds);
  blocks_at_tick_ = blocks_checked_;
  ticked_ = now;
  ticker_.arm_after(kReportInterval, [this] { tick(); });
  if (call().unsent_bytes() <= kUnsentBytesMax) report(false);
}

void ScrubStream::on_end() {
  throttle_.cancel();
  ticker_.cancel();
  listed_.clear();
}

}  // namespace holdfast::replica
