// LocalDevices: the volumes of a target process that are mapped as block devices of this host.
//
// A device lives longer than the engine of its volume: between two engines its I/O waits. Calls for one volume come one
// after the other (see TargetHost). Thread: everything on the reactor.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>

#include "base/block_device.h"
#include "base/result.h"
#include "base/task.h"
#include "base/types.h"
#include "fuse/mapping.h"
#include "io/env.h"

namespace holdfast::addon {

class LocalDevices {
 public:
  explicit LocalDevices(Env& env) : env_(env) {}
  LocalDevices(const LocalDevices&) = delete;
  LocalDevices& operator=(const LocalDevices&) = delete;

  // Serves `device` as a block device; /dev/loopN. One that a former process left in `directory` is taken over. Again:
  // the same answer.
  void map(VolumeId volume, std::string directory, std::string name, BlockDevice* device,
           Callback<void(Result<std::string>)> done);
  // IN_USE while somebody uses it, unless `force`. Not mapped: what is left in `directory` is cleared away, ok.
  void unmap(VolumeId volume, std::string directory, bool force, StatusCallback done);
  // The engine of the volume is about to go. Not mapped: nothing.
  void suspend(VolumeId volume);
  // The volume has grown. Not mapped: ok.
  void resized(VolumeId volume, StatusCallback done);
  // /dev/loopN, or empty.
  std::string device_of(VolumeId volume) const;

  // Ends those that nobody uses, while their engines still serve.
  void end_unused(Callback<void()> done);
  // Lets go of the others: they wait for the next process. After their engines have gone.
  void forget(Callback<void()> done);

 private:
  static Task<void> run_map(LocalDevices* self, VolumeId volume, BlockDevice* device,
                            Callback<void(Result<std::string>)> done);
  static Task<void> run_unmap(LocalDevices* self, VolumeId volume, bool force, StatusCallback done);
  static Task<void> run_resized(fuse::Mapping* mapping, StatusCallback done);
  static Task<void> run_end_unused(LocalDevices* self, Callback<void()> done);
  static Task<void> run_forget(LocalDevices* self, Callback<void()> done);
  fuse::Mapping* find(VolumeId volume) const;
  void prepare_memory();

  Env& env_;
  bool memory_prepared_ = false;
  std::unordered_map<VolumeId, std::unique_ptr<fuse::Mapping>> mappings_;
};

}  // namespace holdfast::addon
