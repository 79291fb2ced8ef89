// Mapping: a volume as a block device of this host: a file that a Session serves, and a loop device on it.
//
// A mapping outlives its engine: while there is none, I/O waits. It outlives this process too, as long as nobody ends
// it: the next process that opens it takes over (fuse/mount.h). close() ends it, forget() only lets go. Thread: the
// reactor of its Env; what blocks runs on helper threads. Calls of open, close and refresh do not overlap.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/block_device.h"
#include "base/task.h"
#include "fuse/mount.h"
#include "fuse/session.h"
#include "io/env.h"

namespace holdfast::fuse {

class Mapping {
 public:
  // `directory` is made where it is missing, its parent is not. `name` is for people.
  Mapping(Env& env, std::string directory, std::string name)
      : env_(env), directory_(std::move(directory)), name_(std::move(name)) {}
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  // Serves `device`, and makes or finds the block device: /dev/loopN. Again: the same one.
  Task<Result<std::string>> open(BlockDevice* device);
  // The engine goes: I/O waits until open() brings another.
  void suspend();
  // The volume has grown.
  Task<Status> refresh();
  // Ends the block device. IN_USE while somebody uses it; then it stays and is served. `force`: whoever uses it gets
  // errors.
  Task<Status> close(bool force);
  // Lets go without ending anything. After it the mapping may be destroyed.
  Task<void> forget();

  bool suspended() const { return session_ == nullptr || session_->suspended(); }
  // The anchor holds (fuse/mount.h).
  bool anchored() const { return session_ != nullptr && session_->waiting_for_locks() > 0; }
  // Empty before open() and after close().
  const std::string& device() const { return device_; }

 private:
  Task<Status> anchor();
  Task<void> end_session();

  Env& env_;
  const std::string directory_;
  const std::string name_;
  std::optional<Mount> mount_;
  std::unique_ptr<Session> session_;
  std::string device_;
};

}  // namespace holdfast::fuse
