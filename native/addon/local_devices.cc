#include "addon/local_devices.h"

#include <utility>
#include <vector>

#include "base/log.h"
#include "io/memory_pressure.h"

namespace holdfast::addon {

namespace {

// What the first device sets aside for its data, so that writing back dirty pages takes no fresh memory in the usual
// case.
constexpr std::size_t kReservedBytes = 32u << 20;
constexpr std::size_t kReservedPiece = fuse::kMaxIoBytes;

}  // namespace

fuse::Mapping* LocalDevices::find(VolumeId volume) const {
  auto found = mappings_.find(volume);
  return found == mappings_.end() ? nullptr : found->second.get();
}

// The dirty pages that fill the memory of this host are written through this process, which must not need fresh memory
// for it.
void LocalDevices::prepare_memory() {
  if (std::exchange(memory_prepared_, true)) return;
  std::vector<Slice> reserved;  // given back to the pool, which keeps them
  bool locked = true;
  for (std::size_t bytes = 0; bytes < kReservedBytes; bytes += kReservedPiece) {
    reserved.push_back(env_.buffers().allocate(kReservedPiece));
    locked = lock_memory(reserved.back().bytes()) && locked;
  }
  if (!locked) log_warn("fuse", "buffers of local devices may be paged out: locking them takes CAP_IPC_LOCK");
}

void LocalDevices::map(VolumeId volume, std::string directory, std::string name, BlockDevice* device,
                       Callback<void(Result<std::string>)> done) {
  prepare_memory();
  std::unique_ptr<fuse::Mapping>& mapping = mappings_[volume];
  if (!mapping) mapping = std::make_unique<fuse::Mapping>(env_, std::move(directory), std::move(name));
  spawn(run_map(this, volume, device, std::move(done)));
}

Task<void> LocalDevices::run_map(LocalDevices* self, VolumeId volume, BlockDevice* device,
                                 Callback<void(Result<std::string>)> done) {
  fuse::Mapping* mapping = self->find(volume);
  Result<std::string> opened = co_await mapping->open(device);
  if (!opened.ok() && mapping->device().empty()) {
    co_await mapping->forget();
    self->mappings_.erase(volume);
  }
  done(std::move(opened));
}

void LocalDevices::unmap(VolumeId volume, std::string directory, bool force, StatusCallback done) {
  std::unique_ptr<fuse::Mapping>& mapping = mappings_[volume];
  if (!mapping) mapping = std::make_unique<fuse::Mapping>(env_, std::move(directory), to_hex(volume.value()));
  spawn(run_unmap(this, volume, force, std::move(done)));
}

Task<void> LocalDevices::run_unmap(LocalDevices* self, VolumeId volume, bool force, StatusCallback done) {
  Status closed = co_await self->find(volume)->close(force);
  if (closed.ok()) self->mappings_.erase(volume);
  done(std::move(closed));
}

void LocalDevices::suspend(VolumeId volume) {
  if (fuse::Mapping* mapping = find(volume)) mapping->suspend();
}

void LocalDevices::resized(VolumeId volume, StatusCallback done) {
  fuse::Mapping* mapping = find(volume);
  if (!mapping) return done({});
  spawn(run_resized(mapping, std::move(done)));
}

Task<void> LocalDevices::run_resized(fuse::Mapping* mapping, StatusCallback done) {
  Status refreshed = co_await mapping->refresh();
  done(std::move(refreshed));
}

std::string LocalDevices::device_of(VolumeId volume) const {
  fuse::Mapping* mapping = find(volume);
  return mapping ? mapping->device() : std::string();
}

void LocalDevices::end_unused(Callback<void()> done) { spawn(run_end_unused(this, std::move(done))); }

Task<void> LocalDevices::run_end_unused(LocalDevices* self, Callback<void()> done) {
  std::vector<VolumeId> volumes;
  for (const auto& [volume, mapping] : self->mappings_) volumes.push_back(volume);
  for (VolumeId volume : volumes) {
    fuse::Mapping* mapping = self->find(volume);
    if (!mapping || mapping->suspended()) continue;  // without an engine it could only hang
    Status closed = co_await mapping->close(false);
    if (closed.ok()) self->mappings_.erase(volume);
  }
  done();
}

void LocalDevices::forget(Callback<void()> done) { spawn(run_forget(this, std::move(done))); }

Task<void> LocalDevices::run_forget(LocalDevices* self, Callback<void()> done) {
  while (!self->mappings_.empty()) {
    auto mapping = self->mappings_.begin();
    log_info("fuse", mapping->second->device() + " is in use: its I/O waits until a target process serves it again");
    co_await mapping->second->forget();
    self->mappings_.erase(mapping);
  }
  done();
}

}  // namespace holdfast::addon
