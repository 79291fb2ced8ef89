// ViewFile: a BlockDevice as a block device of this host for as long as this process wants it, and no longer: unlike a
// Mapping it does not outlive the process. What goes wrong below becomes an I/O error at once; nothing ever waits for a
// successor.
//
// Thread: the reactor of its Env. open() once, then close() once, before it is destroyed.
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

class ViewFile {
 public:
  // `directory` is made where it is missing, its parent is not. `name` is for people. `device` outlives this.
  ViewFile(Env& env, std::string directory, std::string name, BlockDevice& device)
      : env_(env), directory_(std::move(directory)), name_(std::move(name)), device_(device) {}
  ViewFile(const ViewFile&) = delete;
  ViewFile& operator=(const ViewFile&) = delete;

  // /dev/loopN. After a failure nothing is left.
  Task<Result<std::string>> open();
  // Whoever still uses it gets errors.
  Task<void> close();

 private:
  Env& env_;
  const std::string directory_;
  const std::string name_;
  BlockDevice& device_;
  std::optional<Mount> mount_;
  std::unique_ptr<Session> session_;
  std::string path_;
};

}  // namespace holdfast::fuse
