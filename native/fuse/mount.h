// Mount: a FUSE connection mounted over a file, the keeper that lets it outlive the process that serves it, and the
// anchor that lets all of them die at once.
//
// The kernel ends a connection when its last descriptor is closed. So a small process of its own, the keeper, holds a
// duplicate and does nothing else. When the serving process dies, requests wait; its successor finds the keeper by the
// file `keeper` of the folder and takes a duplicate back (pidfd_getfd). docs/decisions/0007-local-devices.md.
//
// The last process of a mount namespace unmounts what is mounted there while it exits, and closes its descriptors only
// after that (the kernel runs such deferred work last in, first out). Were that process a holder of the connection, it
// would wait for ever for the file system on the device to be written back through a connection that only it can end.
// So one more process, the anchor, waits for a lock on the file that nobody ever grants: not even SIGKILL ends it
// before the connection has ended, so no holder of the connection is ever the last one.
//
// A folder holds: `device`, over which the connection is mounted; `keeper` and `anchor`: which processes these are;
// `loop`: the loop device on it.
// Thread: every call blocks and belongs on a helper thread; a Mount is moved between threads, never shared.
#pragma once

#include <string>

#include "base/result.h"

namespace holdfast::fuse {

class Mount {
 public:
  // What a former process left in `directory`, else a new one. `name` shows in /proc/mounts. FAILED_PRECONDITION when
  // it takes rights that this process lacks; UNSUPPORTED_SYSTEM without FUSE.
  static Result<Mount> find_or_make(const std::string& directory, const std::string& name);
  // A new one without a keeper: it ends with this process, and whoever uses it then gets errors.
  static Result<Mount> make_own(const std::string& directory, const std::string& name);
  Mount(Mount&& other) noexcept;
  Mount& operator=(Mount&& other) noexcept;
  ~Mount();  // closes the descriptor; the connection lives on with its keeper

  int fd() const { return fd_; }
  // A former process served it: requests may be unanswered.
  bool found() const { return found_; }
  // The kernel sends unanswered requests again when asked.
  bool can_resend() const { return can_resend_; }
  const std::string& file() const { return file_; }

  // Starts the anchor where there is none. It takes a session that serves the connection, and has the file open until
  // that session lets it go (Session::release_locks).
  Status ensure_anchor();

  // IN_USE while the file is open, unless `force`.
  Status unmount(bool force);
  // After unmount(), with the session gone: ends keeper and anchor and with it the connection. Who still has the file
  // open gets errors from then on.
  void end();

 private:
  Mount() = default;
  Status mount_anew(const std::string& name);

  int fd_ = -1;
  int keeper_ = 0;  // pid; 0: it has none
  int anchor_ = 0;  // likewise
  bool found_ = false;
  bool can_resend_ = false;
  std::string directory_;
  std::string file_;
};

// Clears away what is left in `directory` of a mount whose keeper is gone: also its loop device, which the kernel keeps
// although all I/O on it fails. Nothing there: ok.
Status clear_mount(const std::string& directory);

}  // namespace holdfast::fuse
