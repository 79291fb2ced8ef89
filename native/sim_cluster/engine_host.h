// EngineHost: a node that may attach the volume, with its target process; Attachment: one engine in it, from its epoch
// being granted to its end.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "sim/sim_env.h"
#include "sim_cluster/client.h"
#include "sim_cluster/metadata_store.h"

namespace holdfast::sim {

class EngineHost;

class Attachment final : public engine::Membership {
 public:
  enum class State : std::uint8_t { kOpening, kServing, kFailed, kClosed };

  Attachment(EngineHost& host, MetadataStore& store, engine::VolumeConfig config);

  // `opened` is called on the process of the host when the engine serves or could not be opened.
  void open(Callback<void(Attachment&)> opened);
  void start_client(Client::Setup setup);
  // In order: everything is flushed first. The engine is gone when state() is kClosed.
  void close();
  // The engine is destroyed where it stands.
  void destroy();
  // Its process was killed: nothing of it is touched again.
  void abandon();

  State state() const { return state_; }
  Epoch epoch() const { return config_.epoch; }
  VolumeId volume() const { return config_.volume; }
  bool is_fenced() const { return fenced_; }
  // It was told to go: nothing new is asked of it.
  bool is_closing() const { return closing_; }
  // Its engine was stopped by another while it closed, and never said that it has closed.
  bool is_stuck_closing() const { return stuck_closing_; }
  EngineHost& host() const { return host_; }
  engine::Engine* engine() const { return engine_.get(); }
  Client* client() const { return client_.get(); }
  const std::optional<Error>& failure() const { return failure_; }
  // Members of the stored in-sync set when the epoch was granted.
  std::vector<ReplicaId> granted_set() const;

  // Membership
  void change(VolumeId volume, Epoch epoch, std::vector<ReplicaId> in_sync, std::string reason,
              StatusCallback done) override;
  void lost_data(VolumeId volume, Epoch epoch, std::string why, StatusCallback done) override;
  void fenced(VolumeId volume, Epoch epoch) override;

 private:
  static Task<void> run(Attachment* self);

  EngineHost& host_;
  MetadataStore& store_;
  engine::VolumeConfig config_;
  Process* process_;
  State state_ = State::kOpening;
  bool fenced_ = false;
  bool closing_ = false;
  bool stuck_closing_ = false;
  std::optional<Error> failure_;
  std::unique_ptr<engine::Engine> engine_;
  std::unique_ptr<Client> client_;
  Callback<void(Attachment&)> opened_;
};

class EngineHost {
 public:
  EngineHost(World& world, std::string node) : world_(world), node_(std::move(node)) {}

  void ensure_process();
  void kill();
  void lost_power() { abandon(); }
  const std::string& node() const { return node_; }
  Process* process() const { return process_; }
  bool alive() const { return process_ != nullptr && process_->alive; }
  engine::ChannelPool& channels() { return *channels_; }
  World& world() { return world_; }

  // Not before this the node has power.
  Nanos available_at{0};
  std::vector<std::unique_ptr<Attachment>> attachments;

 private:
  void abandon();

  World& world_;
  std::string node_;
  Process* process_ = nullptr;
  std::unique_ptr<engine::ChannelPool> channels_;
};

}  // namespace holdfast::sim
