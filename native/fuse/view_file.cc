#include "fuse/view_file.h"

#include <utility>

#include "base/log.h"
#include "fuse/blocking.h"
#include "fuse/loop_device.h"

namespace holdfast::fuse {

Task<Result<std::string>> ViewFile::open() {
  auto mount = [directory = directory_, name = name_] { return Mount::make_own(directory, name); };
  Result<Mount> mounted = co_await blocking<Result<Mount>>(&env_, std::move(mount));
  if (!mounted.ok()) co_return std::move(mounted).error();
  mount_.emplace(std::move(mounted).value());
  session_ = std::make_unique<Session>(env_, mount_->fd(), false, name_);
  Status resumed = session_->resume(&device_, false);
  Result<std::string> made = Error(ErrorCode::kInternal, "not made");
  if (resumed.ok()) {
    auto make = [file = mount_->file(), block_size = device_.logical_block_size()] {
      return make_loop_device(file, block_size);
    };
    made = co_await apart<Result<std::string>>(&env_, std::move(make));
  } else {
    made = std::move(resumed).error();
  }
  if (made.ok()) {
    path_ = *made;
    co_return made;
  }
  Task<void> closing = close();
  co_await std::move(closing);
  co_return made;
}

Task<void> ViewFile::close() {
  if (!mount_) co_return;
  auto end = [path = path_, mount = &*mount_]() -> Status {
    Status removed = path.empty() ? Status() : remove_loop_device(path, mount->file(), true);
    Status unmounted = mount->unmount(true);
    return removed.ok() ? unmounted : removed;
  };
  Status ended = co_await apart<Status>(&env_, std::move(end));
  if (!ended.ok()) log_warn("fuse", name_ + ": " + ended.error().message());
  // The descriptor must not be closed while the session watches it.
  co_await holdfast::suspend<int>([this](Callback<void(int)> done) {
    auto resume = std::make_shared<Callback<void(int)>>(std::move(done));
    session_->close([resume] { (*resume)(0); });
  });
  session_.reset();
  mount_->end();
  mount_.reset();
}

}  // namespace holdfast::fuse
