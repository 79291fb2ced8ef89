#include "fuse/mapping.h"

#include <utility>

#include "base/log.h"
#include "fuse/blocking.h"
#include "fuse/loop_device.h"

namespace holdfast::fuse {

Task<Result<std::string>> Mapping::open(BlockDevice* device) {
  if (!mount_) {
    auto mount = [directory = directory_, name = name_] { return Mount::find_or_make(directory, name); };
    Result<Mount> mounted = co_await blocking<Result<Mount>>(&env_, std::move(mount));
    if (!mounted.ok()) co_return std::move(mounted).error();
    mount_.emplace(std::move(mounted).value());
    if (mount_->found()) log_info("fuse", name_ + ": took over the block device of a former process");
  }
  bool is_new = session_ == nullptr;
  if (is_new) session_ = std::make_unique<Session>(env_, mount_->fd(), mount_->can_resend(), name_);
  Status resumed = session_->resume(device, !is_new || mount_->found());
  if (!resumed.ok()) co_return std::move(resumed).error();
  if (!device_.empty()) co_return device_;

  auto find_or_make = [file = mount_->file(), record = directory_ + "/loop",
                       block_size = device->logical_block_size()]() -> Result<std::string> {
    std::optional<std::string> found = find_loop_device(file);
    Result<std::string> made = found ? Result<std::string>(*found) : make_loop_device(file, block_size);
    if (made.ok()) TRY(remember_loop_device(*made, record));
    return made;
  };
  Result<std::string> made = co_await apart<Result<std::string>>(&env_, std::move(find_or_make));
  if (made.ok()) {
    device_ = *made;
    Status anchored = co_await anchor();
    if (!anchored.ok()) made = std::move(anchored).error();
  }
  if (!made.ok()) {
    // Nothing uses the file: it goes again.
    Status ended = co_await close(false);
    if (!ended.ok()) log_warn("fuse", name_ + ": " + ended.error().message());
    co_return std::move(made).error();
  }
  co_return device_;
}

Task<Status> Mapping::anchor() {
  auto ensure = [mount = &*mount_] { return mount->ensure_anchor(); };
  co_return co_await blocking<Status>(&env_, std::move(ensure));
}

void Mapping::suspend() {
  if (session_) session_->suspend();
}

Task<Status> Mapping::refresh() {
  if (device_.empty()) co_return Status();
  session_->resized();
  auto refresh = [device = device_, file = mount_->file()] { return refresh_loop_device(device, file); };
  co_return co_await apart<Status>(&env_, std::move(refresh));
}

Task<Status> Mapping::close(bool force) {
  if (!mount_) {
    auto clear = [directory = directory_, force]() -> Status {
      std::string file = directory + "/device";
      std::optional<std::string> device = find_loop_device(file);
      Status removed = device ? remove_loop_device(*device, file, force) : Status();
      if (!removed.ok()) return removed;
      return clear_mount(directory);
    };
    co_return co_await apart<Status>(&env_, std::move(clear));
  }
  if (!device_.empty()) {
    auto remove = [device = device_, file = mount_->file(), force] { return remove_loop_device(device, file, force); };
    Status removed = co_await apart<Status>(&env_, std::move(remove));
    if (!removed.ok()) co_return removed;
    device_.clear();
  }
  session_->release_locks();
  // A kernel that cannot repeat requests does not tell us of an anchor that asked our predecessor: it ends last.
  auto unmount = [mount = &*mount_, force] { return mount->unmount(force || !mount->can_resend()); };
  Status unmounted = co_await blocking<Status>(&env_, std::move(unmount));
  if (!unmounted.ok()) co_return unmounted;
  // The descriptor must not be closed while the session watches it.
  co_await end_session();
  mount_->end();
  mount_.reset();
  co_return Status();
}

Task<void> Mapping::forget() {
  co_await end_session();
  mount_.reset();
  device_.clear();
}

Task<void> Mapping::end_session() {
  if (!session_) co_return;
  co_await holdfast::suspend<int>([this](Callback<void(int)> done) {
    auto resume = std::make_shared<Callback<void(int)>>(std::move(done));
    session_->close([resume] { (*resume)(0); });
  });
  session_.reset();
}

}  // namespace holdfast::fuse
