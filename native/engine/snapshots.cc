// Snapshots of the volume: entries that take, drop and revert to them, and reading them. docs/consistency.md,
// "Snapshots".
//
// A replica refuses entries that make no sense, which would end its stream; so the engine, the only one that appends,
// knows which snapshots exist and sends no such entries.
#include "engine/volume_engine.h"

namespace holdfast::engine {

namespace {

// Between a snapshot and the flush that nobody waits for: several that are taken in a row share it.
constexpr Nanos kFlushDelay = 10ms;

template <typename Done>
void fail_later(Env& env, Done done, Error error) {
  struct Held {
    Done done;
    Error error;
  };
  auto held = std::make_unique<Held>(Held{std::move(done), std::move(error)});
  env.post([held = std::move(held)] { held->done(std::move(held->error)); });
}

void answer_later(Env& env, StatusCallback done, Status status) {
  struct Held {
    StatusCallback done;
    Status status;
  };
  auto held = std::make_unique<Held>(Held{std::move(done), std::move(status)});
  env.post([held = std::move(held)] { held->done(std::move(held->status)); });
}

}  // namespace

// Collects the pages of ListSnapshots of one replica; deletes itself after its callback.
class VolumeEngine::SnapshotLister final : public rpc::CallHandler {
 public:
  using Done = Callback<void(Result<std::vector<store::SnapshotInfo>>)>;

  static void start(VolumeEngine& engine, std::shared_ptr<rpc::Channel> channel, ReplicaId replica, Seq min_seq,
                    Done done) {
    auto* lister = new SnapshotLister(engine, std::move(channel), std::move(done));
    lister->call_ = lister->channel_->start(replica::kListSnapshotsPath, {}, std::nullopt, lister);
    Slice message = replica::encode(engine.env_.buffers(), replica::ListSnapshotsRequest{replica, min_seq, false});
    lister->call_->send({&message, 1});
    lister->call_->finish_sending();
  }

  void on_message(rpc::Message message) override {
    replica::SnapshotPage page;
    if (Status status = replica::decode(message, page); !status.ok()) return finish(std::move(status));
    for (replica::Snapshot& snapshot : page.snapshots) found_.push_back(snapshot.info);
  }
  void on_ended(Status status) override { finish(std::move(status)); }

 private:
  SnapshotLister(VolumeEngine& engine, std::shared_ptr<rpc::Channel> channel, Done done)
      : env_(engine.env_), alive_(engine.alive_), channel_(std::move(channel)), done_(std::move(done)) {}

  // In a later turn: the call must not go from inside its own callback.
  void finish(Status status) {
    if (std::exchange(finished_, true)) return;
    outcome_ = std::move(status);
    env_.post([this] {
      std::unique_ptr<SnapshotLister> owned(this);
      call_.reset();
      if (!*alive_) return;
      if (outcome_.ok()) {
        done_(std::move(found_));
      } else {
        done_(outcome_.error());
      }
    });
  }

  Env& env_;
  std::shared_ptr<bool> alive_;
  std::shared_ptr<rpc::Channel> channel_;
  std::unique_ptr<rpc::ClientCall> call_;
  std::vector<store::SnapshotInfo> found_;
  Done done_;
  Status outcome_;
  bool finished_ = false;
};

// ---- changing ----

void VolumeEngine::snapshot(SnapshotId id, StatusCallback done) {
  change_snapshots(store::Op::kSnapshot, id, std::move(done));
}

void VolumeEngine::drop_snapshot(SnapshotId id, StatusCallback done) {
  change_snapshots(store::Op::kDropSnapshot, id, std::move(done));
}

void VolumeEngine::revert(SnapshotId id, StatusCallback done) {
  change_snapshots(store::Op::kRevert, id, std::move(done));
}

void VolumeEngine::change_snapshots(store::Op op, SnapshotId id, StatusCallback done) {
  std::optional<Error> why = refusal();
  if (!why && id == SnapshotId()) why = Error(ErrorCode::kInvalidArgument, "a snapshot needs an id that is not 0");
  if (why) return answer_later(env_, std::move(done), std::move(*why));
  snapshot_requests_.push_back({op, id, std::move(done)});
  if (known_snapshots_) return run_snapshot_requests();
  learn_snapshots();
}

void VolumeEngine::learn_snapshots() {
  if (std::exchange(learning_snapshots_, true)) return;
  list_snapshots([this](Result<std::vector<store::SnapshotInfo>> found) {
    learning_snapshots_ = false;
    if (state_ == State::kStopped) return;
    if (!found.ok()) {
      for (SnapshotRequest& request : std::exchange(snapshot_requests_, {})) request.done(found.error());
      return;
    }
    known_snapshots_.emplace();
    for (const store::SnapshotInfo& snapshot : *found) known_snapshots_->insert(snapshot.id);
    run_snapshot_requests();
  });
}

// Entries about snapshots do not wait for room in the window: nothing acknowledged can be behind what waits there.
void VolumeEngine::run_snapshot_requests() {
  while (state_ != State::kStopped && !snapshot_requests_.empty()) {
    SnapshotRequest request = std::move(snapshot_requests_.front());
    snapshot_requests_.pop_front();
    bool known = known_snapshots_->contains(request.id);
    if (request.op == store::Op::kRevert && !known) {
      answer_later(
          env_, std::move(request.done),
          Error(ErrorCode::kNotFound, "volume " + config_.name + " has no snapshot " + to_hex(request.id.value())));
      continue;
    }
    if (known == (request.op == store::Op::kSnapshot)) {
      answer_later(env_, std::move(request.done), Status());
      continue;
    }
    if (request.op == store::Op::kSnapshot) known_snapshots_->insert(request.id);
    if (request.op == store::Op::kDropSnapshot) known_snapshots_->erase(request.id);
    PendingEntry* entry = new_entry(nullptr, request.op);
    entry->entry.snapshot = request.id;
    auto* held = new StatusCallback(std::move(request.done));
    if (request.op == store::Op::kRevert) forget_all_mapped();
    entry->done = [this, held, revert = request.op == store::Op::kRevert](Status status) {
      std::unique_ptr<StatusCallback> owned(held);
      if (revert) forget_all_mapped();
      if (status.ok() && !snapshot_flush_timer_.armed()) {
        snapshot_flush_timer_.arm_after(kFlushDelay, [this] { flush_after_commit({nullptr, nullptr}); });
      }
      (*owned)(std::move(status));
    };
    number_and_send(entry);
  }
}

// ---- looking ----

void VolumeEngine::list_snapshots(Callback<void(Result<std::vector<store::SnapshotInfo>>)> done) {
  std::optional<Error> why = refusal();
  Member* source = nullptr;
  for (const std::unique_ptr<Member>& member : members_) {
    if (member->phase != MemberPhase::kStreaming || !in_sync_.stored(member->config.id)) continue;
    if (!source || member->config.local) source = member.get();
  }
  if (!why && !source) {
    why = Error(ErrorCode::kNoInSyncReplica, "no in-sync replica of volume " + config_.name + " can be reached");
  }
  if (why) return fail_later(env_, std::move(done), std::move(*why));
  SnapshotLister::start(*this, channels_.get(source->config.address), source->config.id, committed_, std::move(done));
}

std::optional<Error> VolumeEngine::check_blocks(BlockRange blocks, std::uint32_t max) const {
  if (std::optional<Error> why = refusal()) return why;
  if (blocks.count == 0 || blocks.count > max || blocks.end() > size_blocks_) {
    return Error(ErrorCode::kInvalidArgument, "the range is empty, too long, or reaches beyond the volume");
  }
  return std::nullopt;
}

void VolumeEngine::read_snapshot(SnapshotId id, BlockRange blocks, ReadCallback done) {
  if (std::optional<Error> why = check_blocks(blocks, store::kWriteBlocksMax)) {
    return fail_later(env_, std::move(done), std::move(*why));
  }
  BlockRead* read = new_read(blocks);
  read->snapshot = id;
  read->done = std::move(done);
  route(read);
}

void VolumeEngine::map_snapshot(SnapshotId id, BlockRange blocks,
                                Callback<void(Result<std::vector<std::uint8_t>>)> done) {
  if (std::optional<Error> why = check_blocks(blocks, store::kMapBlocksMax)) {
    return fail_later(env_, std::move(done), std::move(*why));
  }
  BlockRead* read = new_read(blocks);
  read->snapshot = id;
  read->map_only = true;
  read->map_done = std::move(done);
  route(read);
}

void VolumeEngine::fail_snapshot_reads(const Error& error) {
  for (std::size_t slot = 0; slot < reads_.size(); ++slot) {
    BlockRead* read = reads_[slot];
    if (!read || read->snapshot == SnapshotId()) continue;
    reads_[slot] = nullptr;
    BlockRead::Done done = std::move(read->done);
    BlockRead::MapDone map_done = std::move(read->map_done);
    if (done) done(error);
    if (map_done) map_done(error);
  }
}

}  // namespace holdfast::engine
