// SnapshotCopy: fills a volume with what a snapshot of another one holds, both attached here. Blocks that hold nothing
// are not written. Volumes are looked up for every step, so that a detach in between ends the copy and nothing else.
// Thread: reactor of the target host.
#include "addon/target_host.h"

namespace holdfast::addon {

namespace {

constexpr std::uint32_t kInFlightMax = 8;

bool holds_data(const std::vector<std::uint8_t>& present, std::uint32_t block) {
  return (present[block / 8] >> (block % 8) & 1) != 0;
}

}  // namespace

class SnapshotCopy {
 public:
  SnapshotCopy(TargetHost& host, VolumeId source, SnapshotId snapshot, VolumeId target, StatusCallback done)
      : host_(host), source_(source), snapshot_(snapshot), target_(target), done_(std::move(done)) {}

  // Deletes itself at the end.
  void start() { next_window(); }

 private:
  // One question about up to 64 MiB after the other.
  void next_window() {
    Result<engine::Engine*> target = host_.engine_of(target_);
    if (!target.ok()) return finish(target.status());
    host_.find(target_)->copied_bytes = window_ * kBlockSize;
    std::uint64_t size = (*target)->size_bytes() / kBlockSize;
    if (window_ >= size) return flush();
    count_ = static_cast<std::uint32_t>(std::min<std::uint64_t>(store::kMapBlocksMax, size - window_));
    Result<engine::Engine*> source = host_.engine_of(source_);
    if (!source.ok()) return finish(source.status());
    (*source)->map_snapshot(snapshot_, {BlockIndex(window_), count_},
                            [this](Result<std::vector<std::uint8_t>> present) {
                              if (!present.ok()) return finish(present.status());
                              present_ = std::move(present).value();
                              at_ = 0;
                              copy_more();
                            });
  }

  // Runs of blocks that hold data, at most 1 MiB each.
  void copy_more() {
    while (status_.ok() && in_flight_ < kInFlightMax) {
      while (at_ < count_ && !holds_data(present_, at_)) ++at_;
      if (at_ == count_) break;
      std::uint32_t end = at_;
      while (end < count_ && end - at_ < store::kWriteBlocksMax && holds_data(present_, end)) ++end;
      BlockRange run{BlockIndex(window_ + at_), end - at_};
      at_ = end;
      ++in_flight_;
      copy(run);
    }
    if (in_flight_ > 0) return;
    if (!status_.ok()) return finish(status_);
    window_ += count_;
    next_window();
  }

  void copy(BlockRange run) {
    Result<engine::Engine*> source = host_.engine_of(source_);
    if (!source.ok()) return later(source.status());
    (*source)->read_snapshot(snapshot_, run, [this, run](Result<SliceList> data) {
      Result<engine::Engine*> target = host_.engine_of(target_);
      if (!data.ok() || !target.ok()) return ended(data.ok() ? target.status() : data.status());
      (*target)->write(run.begin() * kBlockSize, std::move(data).value(), BlockDevice::Durability::kJournalled,
                       [this](Status status) { ended(std::move(status)); });
    });
  }

  void later(Status status) {
    host_.env_.post([this, held = std::make_unique<Status>(std::move(status))] { ended(std::move(*held)); });
  }

  void ended(Status status) {
    --in_flight_;
    if (!status.ok()) status_ = std::move(status);
    copy_more();
  }

  void flush() {
    (*host_.engine_of(target_))->flush([this](Status status) { finish(std::move(status)); });
  }

  void finish(Status status) {
    std::unique_ptr<SnapshotCopy> owned(this);
    done_(std::move(status));
  }

  TargetHost& host_;
  VolumeId source_;
  SnapshotId snapshot_;
  VolumeId target_;
  StatusCallback done_;
  std::uint64_t window_ = 0;  // first block of the window
  std::uint32_t count_ = 0;   // of blocks in it
  std::uint32_t at_ = 0;      // next block to look at
  std::vector<std::uint8_t> present_;
  std::uint32_t in_flight_ = 0;
  Status status_;
};

void TargetHost::copy_snapshot(VolumeId source, SnapshotId snapshot, VolumeId target, StatusCallback done) {
  Result<engine::Engine*> both = engine_of(source);
  if (both.ok()) both = engine_of(target);
  if (!both.ok()) return done(both.status());
  (new SnapshotCopy(*this, source, snapshot, target, std::move(done)))->start();
}

}  // namespace holdfast::addon
