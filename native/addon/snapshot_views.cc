#include "addon/snapshot_views.h"

#include <utility>

#include "addon/target_host.h"

namespace holdfast::addon {

namespace {

// A journal of ext4 has at most 1 GiB, that of xfs 2 GiB, and of what is replayed every block counts once.
constexpr std::uint64_t kWrittenBytesMax = 512u << 20;

}  // namespace

void SnapshotViews::open(ViewRequest request, std::uint32_t block_size, Callback<void(Result<std::string>)> done) {
  View& view = views_[request.directory];
  if (view.file) return done(Error(ErrorCode::kInUse, request.directory + " shows a snapshot already"));
  // The engine is looked up for every read: it may be gone by then.
  auto read = [&host = host_, volume = request.volume, snapshot = request.snapshot](
                  BlockRange blocks, BlockDevice::ReadCallback read_done) {
    host.read_snapshot(volume, snapshot, blocks, std::move(read_done));
  };
  view.device = std::make_unique<fuse::OverlayDevice>(env_, std::move(read), request.first_byte, request.size_bytes,
                                                      block_size, kWrittenBytesMax);
  view.file = std::make_unique<fuse::ViewFile>(env_, request.directory, "snapshot-" + to_hex(request.snapshot.value()),
                                               *view.device);
  spawn(run_open(this, std::move(request.directory), std::move(done)));
}

Task<void> SnapshotViews::run_open(SnapshotViews* self, std::string directory,
                                   Callback<void(Result<std::string>)> done) {
  Task<Result<std::string>> opening = self->views_.at(directory).file->open();
  Result<std::string> opened = co_await std::move(opening);
  if (!opened.ok()) self->views_.erase(directory);
  done(std::move(opened));
}

void SnapshotViews::close(const std::string& directory, StatusCallback done) {
  auto found = views_.find(directory);
  if (found == views_.end()) return done({});
  View view = std::move(found->second);
  views_.erase(found);
  spawn(run_close(std::move(view), std::move(done)));
}

Task<void> SnapshotViews::run_close(View view, StatusCallback done) {
  Task<void> closing = view.file->close();
  co_await std::move(closing);
  done({});
}

void SnapshotViews::close_all(Callback<void()> done) { spawn(run_close_all(this, std::move(done))); }

Task<void> SnapshotViews::run_close_all(SnapshotViews* self, Callback<void()> done) {
  while (!self->views_.empty()) {
    View view = std::move(self->views_.begin()->second);
    self->views_.erase(self->views_.begin());
    Task<void> closing = view.file->close();
    co_await std::move(closing);
  }
  done();
}

}  // namespace holdfast::addon
