#include "sim_cluster/engine_host.h"

namespace holdfast::sim {

Attachment::Attachment(EngineHost& host, MetadataStore& store, engine::VolumeConfig config)
    : host_(host), store_(store), config_(std::move(config)), process_(host.process()) {}

void Attachment::open(Callback<void(Attachment&)> opened) {
  opened_ = std::move(opened);
  host_.world().schedule(
      host_.world().now(), process_, [this] { spawn(run(this)); }, "attach");
}

Task<void> Attachment::run(Attachment* self) {
  if (self->state_ != State::kOpening) co_return;
  Task<Result<std::unique_ptr<engine::Engine>>> opening =
      engine::Engine::open(*self->process_->env, self->config_, *self, self->host_.channels());
  Result<std::unique_ptr<engine::Engine>> opened = co_await std::move(opening);
  if (self->state_ != State::kOpening) co_return;  // nobody wants it any more; it is destroyed here
  if (opened.ok()) {
    self->engine_ = std::move(opened).value();
    self->state_ = State::kServing;
  } else {
    self->failure_ = opened.error();
    self->state_ = State::kFailed;
  }
  self->opened_(*self);
}

void Attachment::start_client(Client::Setup setup) {
  client_ = std::make_unique<Client>(std::move(setup), *engine_);
  client_->start();
}

void Attachment::close() {
  closing_ = true;
  if (client_) client_->stop();
  if (!engine_) {
    state_ = State::kClosed;
    return;
  }
  host_.world().schedule(
      host_.world().now(), process_,
      [this] {
        if (state_ != State::kServing) return;
        engine_->close([this] { destroy(); });
      },
      "close");
}

void Attachment::destroy() {
  closing_ = true;
  if (client_) client_->stop();
  bool serving = state_ == State::kServing;
  state_ = State::kClosed;
  if (!serving) return;
  // In an event of its process, not under its own feet.
  host_.world().schedule(
      host_.world().now(), process_, [this] { engine_.reset(); }, "destroy");
}

void Attachment::abandon() {
  (void)engine_.release();
  if (client_) client_->stop();
  state_ = State::kClosed;
}

std::vector<ReplicaId> Attachment::granted_set() const {
  std::vector<ReplicaId> set;
  for (const engine::ReplicaConfig& replica : config_.replicas) {
    if (replica.in_sync) set.push_back(replica.id);
  }
  return set;
}

void Attachment::change(VolumeId volume, Epoch epoch, std::vector<ReplicaId> in_sync, std::string reason,
                        StatusCallback done) {
  store_.change(process_, epoch, std::move(in_sync), std::move(done));
}

void Attachment::lost_data(VolumeId volume, Epoch epoch, std::string why, StatusCallback done) {
  store_.lost_data(process_, epoch, std::move(done));
}

void Attachment::fenced(VolumeId volume, Epoch epoch) {
  fenced_ = true;
  if (client_) client_->fenced();
  if (!closing_) return;
  host_.world().schedule(
      host_.world().now() + 1s, process_, [this] { stuck_closing_ = state_ == State::kServing; }, "has it closed");
}

void EngineHost::ensure_process() {
  if (process_ != nullptr) return;
  process_ = world_.start_process(node_, "target");
  channels_ = std::make_unique<engine::ChannelPool>(*process_->env);
}

void EngineHost::abandon() {
  for (const std::unique_ptr<Attachment>& attachment : attachments) attachment->abandon();
  (void)channels_.release();
  process_ = nullptr;
}

void EngineHost::kill() {
  if (process_ == nullptr) return;
  world_.kill(process_);
  abandon();
}

}  // namespace holdfast::sim
