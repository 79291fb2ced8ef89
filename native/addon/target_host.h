// TargetHost: what a target process runs on its reactor: the iSCSI target of a node and the engines of the volumes
// attached there. What it cannot decide itself (membership, reservations) it asks through TargetEvents.
//
// Calls for one volume come one after the other (the TypeScript side keeps them in order); calls for different volumes
// overlap. Thread: everything on the reactor, from construction to destruction.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "addon/local_devices.h"
#include "addon/snapshot_views.h"
#include "base/result.h"
#include "base/types.h"
#include "engine/engine.h"
#include "io/env.h"
#include "iscsi/target.h"

namespace holdfast::addon {

struct AttachRequest {
  engine::VolumeConfig volume;
  std::vector<std::string> replica_addresses;  // parsed here: one per volume.replicas
  iscsi::TargetConfig target;                  // `device` is filled in here
  bool internal = false;                       // no front-end: for work on a volume that no host uses
};

struct AttachOutcome {
  std::string portal;
  std::uint64_t size_bytes = 0;
  Nanos lease_waited{};
  std::vector<ReplicaId> left_out;
};

struct VolumeStatus {
  VolumeId volume;
  engine::EngineStatus engine;
  std::vector<iscsi::SessionInfo> sessions;
  std::string device;              // /dev/loopN while it is mapped
  std::uint64_t copied_bytes = 0;  // of the copy that fills it, or that was the last to
};

enum class SnapshotChange : std::uint8_t { kCreate, kDelete, kRevert };

// Asks the control plane. `id` is answered by TargetHost::answer(); it is never 0 and never used twice.
class TargetEvents {
 public:
  virtual ~TargetEvents() = default;
  virtual void change_in_sync_set(std::uint64_t id, VolumeId volume, Epoch epoch, std::vector<ReplicaId> in_sync,
                                  std::string reason) = 0;
  virtual void save_reservations(std::uint64_t id, VolumeId volume, Epoch epoch, std::string reservations) = 0;
  // To be told, not to be answered.
  virtual void lost_data(std::uint64_t id, VolumeId volume, Epoch epoch, std::string reason) = 0;
  virtual void damage_found(VolumeId volume, Epoch epoch, std::string text) = 0;
  virtual void fenced(VolumeId volume, Epoch epoch) = 0;
};

class TargetHost final : private engine::Membership, private iscsi::ReservationStore {
 public:
  TargetHost(Env& env, TargetEvents& events);
  ~TargetHost() override;
  TargetHost(const TargetHost&) = delete;
  TargetHost& operator=(const TargetHost&) = delete;

  // Listens. Returns the portal as bound. `credentials`: what TLS with replicas of other hosts needs; none: plain.
  Result<std::string> open(const std::string& portal, const std::optional<tls::Credentials>& credentials);
  // For connections made from now on. FAILED_PRECONDITION when it was opened without.
  Status set_credentials(const tls::Credentials& credentials);
  // Opens the engine, exports the volume. The volume must not be attached.
  void attach(AttachRequest request, Callback<void(Result<AttachOutcome>)> done);
  // Ends sessions, finishes and flushes I/O, closes the engine. Not attached: ok.
  void detach(VolumeId volume, StatusCallback done);
  Status configure(VolumeId volume, std::vector<engine::ReplicaConfig> replicas, std::uint64_t rebuild_bytes_per_second,
                   std::uint32_t foreground_percent, const engine::QosLimits& qos);
  void repair(VolumeId volume, BlockRange blocks, ReplicaId bad, bool differs,
              Callback<void(Result<engine::RepairOutcome>)> done);
  void resize(VolumeId volume, std::uint64_t size_bytes, StatusCallback done);
  // A revert needs a volume that was attached `internal` (VOLUME_ATTACHED).
  void change_snapshot(VolumeId volume, SnapshotChange change, SnapshotId snapshot, StatusCallback done);
  // Writes what the snapshot holds to `target`, which is attached here too and holds nothing yet; flushed at the end.
  void copy_snapshot(VolumeId source, SnapshotId snapshot, VolumeId target, StatusCallback done);
  // A block device of this host for an attached volume: /dev/loopN. It survives detach() and attach(); I/O waits
  // meanwhile.
  void map(VolumeId volume, std::string directory, Callback<void(Result<std::string>)> done);
  void unmap(VolumeId volume, std::string directory, bool force, StatusCallback done);
  // A snapshot of an attached volume as a block device of this host: /dev/loopN. Writes to it are forgotten with it.
  void open_view(ViewRequest request, Callback<void(Result<std::string>)> done);
  void close_view(const std::string& directory, StatusCallback done);
  // Whole blocks, at most 256.
  void read_snapshot(VolumeId volume, SnapshotId snapshot, BlockRange blocks, BlockDevice::ReadCallback done);
  Status set_redirects(const std::vector<std::pair<std::string, std::string>>& iqn_and_portal,
                       std::vector<std::string> expected_iqns);
  std::vector<VolumeStatus> status() const;
  void answer(std::uint64_t id, Status status);
  // Ends local devices that nobody uses, detaches every volume.
  void close(Callback<void()> done);

 private:
  struct Volume {
    VolumeId id;
    std::string name;
    Epoch epoch;
    std::string iqn;
    std::unique_ptr<engine::Engine> engine;  // nullptr while it opens
    bool abandoned = false;                  // close() came while the engine opened
    bool detaching = false;                  // on its way out: nothing more may be begun
    bool internal = false;
    std::uint64_t copied_bytes = 0;
  };

  static Task<void> run_attach(TargetHost* host, Volume* volume, AttachRequest request,
                               Callback<void(Result<AttachOutcome>)> done);
  Volume* find(VolumeId volume);
  // Its engine, if it serves.
  Result<engine::Engine*> engine_of(VolumeId volume);
  Status export_volume(Volume& volume, iscsi::TargetConfig config);
  void close_engine(Volume* volume, StatusCallback done);
  void forget(VolumeId volume);
  void detach_all();
  void finish_close();

  void change(VolumeId volume, Epoch epoch, std::vector<ReplicaId> in_sync, std::string reason,
              StatusCallback done) override;
  void lost_data(VolumeId volume, Epoch epoch, std::string reason, StatusCallback done) override;
  void damage_found(VolumeId volume, Epoch epoch, std::string text) override;
  void fenced(VolumeId volume, Epoch epoch) override;
  void save(const std::string& iqn, std::string reservations, StatusCallback done) override;

  Env& env_;
  TargetEvents& events_;
  std::uint64_t last_request_ = 0;
  std::unordered_map<std::uint64_t, StatusCallback> unanswered_;
  friend class SnapshotCopy;

  std::string portal_;
  std::shared_ptr<tls::Identity> identity_;
  engine::ChannelPool channels_;
  std::unordered_map<VolumeId, std::unique_ptr<Volume>> volumes_;
  LocalDevices devices_;
  SnapshotViews views_;
  std::unique_ptr<iscsi::Target> target_;
  Callback<void()> closed_;
};

// Parses the addresses of `replicas` in order. INVALID_ARGUMENT names the one that is not an address.
Status parse_addresses(const std::vector<std::string>& texts, std::vector<engine::ReplicaConfig>& replicas);

}  // namespace holdfast::addon
