// SnapshotViews: snapshots of attached volumes as block devices of this host, for as long as somebody looks at their
// files. Writes (a journal that is replayed) stay in memory, the snapshot never changes. A view whose volume is
// detached gives I/O errors. Calls for one directory come one after the other. Thread: everything on the reactor.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>

#include "base/result.h"
#include "base/task.h"
#include "base/types.h"
#include "fuse/overlay_device.h"
#include "fuse/view_file.h"
#include "io/env.h"

namespace holdfast::addon {

class TargetHost;

struct ViewRequest {
  VolumeId volume;
  SnapshotId snapshot;
  // What is shown: a range of bytes inside the snapshot; multiples of 512.
  std::uint64_t first_byte = 0;
  std::uint64_t size_bytes = 0;
  std::string directory;  // names the view; made where it is missing, its parent is not
};

class SnapshotViews {
 public:
  SnapshotViews(Env& env, TargetHost& host) : env_(env), host_(host) {}
  SnapshotViews(const SnapshotViews&) = delete;
  SnapshotViews& operator=(const SnapshotViews&) = delete;

  // /dev/loopN.
  void open(ViewRequest request, std::uint32_t block_size, Callback<void(Result<std::string>)> done);
  // Whoever still uses it gets errors. Not open: ok.
  void close(const std::string& directory, StatusCallback done);
  void close_all(Callback<void()> done);

 private:
  struct View {
    std::unique_ptr<fuse::OverlayDevice> device;
    std::unique_ptr<fuse::ViewFile> file;
  };

  static Task<void> run_open(SnapshotViews* self, std::string directory, Callback<void(Result<std::string>)> done);
  static Task<void> run_close(View view, StatusCallback done);
  static Task<void> run_close_all(SnapshotViews* self, Callback<void()> done);

  Env& env_;
  TargetHost& host_;
  std::unordered_map<std::string, View> views_;
};

}  // namespace holdfast::addon
