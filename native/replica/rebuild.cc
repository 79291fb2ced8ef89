#include "replica/rebuild.h"

#include <bit>

#include "base/crc32c.h"
#include "base/log.h"

namespace holdfast::replica {

Rebuild::Rebuild(Ref<Core> core, Ref<ServedReplica> replica, Join join, RebuildEvents& events)
    : core_(std::move(core)),
      env_(core_->env),
      replica_(std::move(replica)),
      join_(std::move(join)),
      events_(events),
      layers_handler_(*this, &Rebuild::on_layers, &Rebuild::on_layers_listed),
      list_handler_(*this, &Rebuild::on_versions, &Rebuild::on_listed),
      chunks_handler_(*this, &Rebuild::on_chunk, &Rebuild::on_chunks_ended),
      chunks_total_(chunks_of(join_.request.size_blocks)),
      source_last_(join_.request.first.value() - 1),
      again_timer_(env_),
      bucket_(join_.bytes_per_second, kChunkSize, env_.now()),
      throttle_(env_),
      ticker_(env_) {
  progress_.chunks_total = chunks_total_;
}

void Rebuild::start() {
  Ref<Rebuild> keep(this);
  if (join_.request.first == Seq(0) || join_.request.base >= join_.request.first) {
    return fail(Error(ErrorCode::kInvalidArgument, "a join needs first > base"));
  }
  log_info("replica", "replica " + to_hex(replica_->id().value()) + ": rebuild from " + join_.source_address +
                          " begins after seq " + std::to_string(join_.request.base.value()));
  replica_->rebuilding = true;
  replica_->progress = progress_;
  Result<Address> address = Address::parse(join_.source_address);
  if (!address.ok()) return fail(std::move(address).error());
  channel_ = rpc::Channel::create(env_, *address, core_->source_options);
  for (const JoinSource& other : join_.others) {
    Result<Address> where = Address::parse(other.address);
    if (!where.ok()) return fail(std::move(where).error());
    donors_.push_back({other.replica, rpc::Channel::create(env_, *where, core_->source_options)});
  }
  ticked_ = source_heard_ = env_.now();
  ticker_.arm_after(kProgressInterval, [this] { tick(); });
  list_layers();
}

void Rebuild::stop() {
  if (std::exchange(stopped_, true)) return;
  replica_->rebuilding = false;
  core_->rebuild_chunks -= in_flight_;
  throttle_.cancel();
  ticker_.cancel();
  again_timer_.cancel();
  again_.clear();
  for (const Ref<Mending>& mending : mendings_) mending->stop();
  mendings_.clear();
  list_call_.reset();
  chunks_call_.reset();
  channel_.reset();
  donors_.clear();
}

void Rebuild::set_rate(std::uint64_t bytes_per_second) {
  if (stopped_) return;
  bucket_.set_rate(bytes_per_second, env_.now());
  throttle_.cancel();
  fetch();
}

void Rebuild::fail(Error error) {
  if (stopped_) return;
  log_warn("replica", "replica " + to_hex(replica_->id().value()) + ": rebuild from " + join_.source_address +
                          " ended: " + error.to_string());
  stop();
  events_.on_rebuild_failed(std::move(error));
}

Error Rebuild::source_error(const Error& error) const {
  return Error(error.code(), "rebuild from replica " + to_hex(join_.source_replica.value()) + " at " +
                                 join_.source_address + ": " + error.message());
}

// ---- layers ----

void Rebuild::list_layers() {
  list_call_ = channel_->start(kListSnapshotsPath, {}, std::nullopt, &layers_handler_);
  Slice request =
      encode(env_.buffers(), ListSnapshotsRequest{join_.source_replica, Seq(join_.request.first.value() - 1), true});
  list_call_->send(std::span(&request, 1));
  list_call_->finish_sending();
}

void Rebuild::on_layers(rpc::Message message) {
  source_heard_ = env_.now();
  SnapshotPage page;
  if (Status status = decode(message, page); !status.ok()) return fail(source_error(status.error()));
  if (!std::exchange(layers_begun_, true)) {
    layers_.revision = page.revision;
    layers_.head = page.head;
    layers_.forks = std::move(page.forks);
  }
  for (const Snapshot& one : page.snapshots) {
    layers_.snapshots.push_back({one.info.id, one.layer, one.info.position, one.info.size_blocks});
  }
}

void Rebuild::on_layers_listed(Status status) {
  list_call_.reset();
  if (stopped_) return;
  if (status.ok() && !layers_begun_) status = Error(ErrorCode::kProtocol, "ListSnapshots answered with nothing");
  if (status.ok() && layers_.revision.seq >= join_.request.first) {
    status = Error(ErrorCode::kFailedPrecondition, "snapshots have changed since the join");
  }
  if (!status.ok()) return fail(source_error(status.error()));
  source_last_ = std::max(source_last_, layers_.revision.seq);
  join_store();
}

// Only now: what this replica holds as a whole is given up for a source that answers. Changes that an earlier stream of
// the same engine left under way come first.
void Rebuild::join_store() {
  replica_->when_unchanging([self = Ref<Rebuild>(this)](Status) {
    if (self->stopped_) return;
    self->replica_->begin_change();
    self->replica_->store().join(self->join_.request, [self](Status joined) {
      self->replica_->reset_journalled();
      self->replica_->end_change();
      if (self->stopped_) return;
      if (!joined.ok()) return self->fail(std::move(joined).error());
      self->adopt_layers();
    });
  });
}

void Rebuild::adopt_layers() {
  replica_->begin_change();
  replica_->store().adopt_layers(layers_, [self = Ref<Rebuild>(this)](Status adopted) {
    self->replica_->end_change();
    if (self->stopped_) return;
    if (!adopted.ok()) return self->fail(std::move(adopted).error());
    self->events_.on_layers_adopted();
    if (!self->stopped_) self->list_range();
  });
}

// ---- versions of a range ----

void Rebuild::list_range() {
  if (range_first_ >= chunks_total_) return finish();
  range_end_ = std::min(range_first_ + kRangeChunks, chunks_total_);
  versions_.clear();
  source_heard_ = env_.now();
  list_call_ = channel_->start(kListChunksPath, {}, std::nullopt, &list_handler_);
  Slice request = encode(env_.buffers(), ListChunksRequest{join_.source_replica, Seq(join_.request.first.value() - 1),
                                                           replica_->store().info().base, ChunkIndex(range_first_),
                                                           ChunkIndex(range_end_), layers_.revision.seq});
  list_call_->send(std::span(&request, 1));
  list_call_->finish_sending();
}

void Rebuild::on_versions(rpc::Message message) {
  source_heard_ = env_.now();
  std::vector<store::ChunkVersion> page;
  if (Status status = decode(message, page); !status.ok()) return fail(source_error(status.error()));
  for (const store::ChunkVersion& version : page) {
    store::ChunkLayer place{version.chunk, version.layer};
    bool ascends = versions_.empty() || store::ChunkLayer{versions_.back().chunk, versions_.back().layer} < place;
    if (!ascends || version.chunk.value() < range_first_ || version.chunk.value() >= range_end_) {
      return fail(source_error(Error(ErrorCode::kProtocol, "ListChunks answered with chunks that were not asked for")));
    }
    source_last_ = std::max(source_last_, version.version.seq);
    versions_.push_back(version);
  }
}

void Rebuild::on_listed(Status status) {
  list_call_.reset();
  if (stopped_) return;
  if (!status.ok()) return fail(source_error(status.error()));
  replica_->begin_read();
  replica_->store().unknown_chunks(ChunkIndex(range_first_), ChunkIndex(range_end_), std::move(versions_),
                                   [self = Ref<Rebuild>(this)](Result<std::vector<store::ChunkLayer>> unknown) {
                                     self->replica_->end_read();
                                     if (!self->stopped_) self->on_unknown(std::move(unknown));
                                   });
  versions_ = {};
}

void Rebuild::on_unknown(Result<std::vector<store::ChunkLayer>> unknown) {
  if (!unknown.ok()) return fail(std::move(unknown).error());
  first_id_ += wanted_.size();
  wanted_.clear();
  for (store::ChunkLayer place : *unknown) wanted_.push_back({place});
  next_wanted_ = 0;
  stored_ = 0;
  if (wanted_.empty()) return end_range();
  fetch();
}

// ---- content ----

bool Rebuild::may_request() const {
  if (in_flight_ < kWindowMin) return true;
  return in_flight_ < kWindowMax && core_->rebuild_chunks < kSharedWindow;
}

void Rebuild::fetch() {
  Ref<Rebuild> keep(this);
  while (!stopped_ && next_wanted_ < wanted_.size() && may_request()) {
    if (throttle_.armed()) return;
    Nanos wait = bucket_.take(kChunkSize, env_.now());
    if (wait > Nanos(0)) {
      throttle_.arm_after(wait, [this] { fetch(); });
      return;
    }
    request(next_wanted_++);
  }
}

void Rebuild::request(std::size_t index) {
  ++in_flight_;
  ++core_->rebuild_chunks;
  ask(index);
}

ReadChunkRequest Rebuild::request_for(std::size_t index) const {
  return {join_.source_replica,       first_id_ + index,
          wanted_[index].place.chunk, Seq(join_.request.first.value() - 1),
          wanted_[index].place.layer, layers_.revision.seq,
          join_.carry_damage};
}

void Rebuild::ask(std::size_t index) {
  if (!chunks_call_) chunks_call_ = channel_->start(kReadChunksPath, {}, std::nullopt, &chunks_handler_);
  if (unanswered_++ == 0) source_heard_ = env_.now();
  wanted_[index].state = ChunkState::kRequested;
  encode(env_.buffers(), request_for(index), parts_);
  chunks_call_->send(parts_);
  parts_.clear();
}

void Rebuild::on_chunk(rpc::Message message) {
  source_heard_ = env_.now();
  ReadChunkResponse response;
  if (Status status = decode(message, env_.buffers(), response); !status.ok()) {
    return fail(source_error(status.error()));
  }
  Result<std::uint64_t> damaged = check(response);
  if (!damaged.ok()) return fail(source_error(damaged.error()));
  std::size_t index = response.id - first_id_;
  wanted_[index].state = ChunkState::kArrived;
  --unanswered_;
  source_last_ = std::max(source_last_, response.content.source_last);
  bucket_.give_back(kChunkSize - total_size(response.content.data));
  response.content.damaged = *damaged;
  if (*damaged != 0) return mend(index, std::move(response.content));
  fill(index, std::move(response.content));
}

// Nothing from the source is stored unless it is what was asked for and matches its checksums. The answer has the
// blocks that do not, when the join allows for some.
Result<std::uint64_t> Rebuild::check(const ReadChunkResponse& response) {
  std::uint64_t index = response.id - first_id_;
  if (response.id < first_id_ || index >= wanted_.size() || wanted_[index].state != ChunkState::kRequested) {
    return Error(ErrorCode::kProtocol, "ReadChunks answered a request that was not made");
  }
  TRY(response.status);
  const store::ChunkContent& content = response.content;
  auto blocks = static_cast<std::size_t>(std::popcount(content.present));
  if (content.crc.size() != blocks || total_size(content.data) != blocks * kBlockSize) {
    return Error(ErrorCode::kProtocol, "ReadChunks answered with data that does not fit its map");
  }
  if ((content.damaged & ~content.present) != 0) {
    return Error(ErrorCode::kProtocol, "ReadChunks answered with damage in blocks that it does not have");
  }
  std::uint64_t damaged = content.damaged;
  for_each_present(content, [&](std::uint32_t block, std::size_t i) {
    bool intact = crc32c(content.data[0].bytes().subspan(i * kBlockSize, kBlockSize)) == content.crc[i];
    if (!intact) damaged |= std::uint64_t{1} << block;
  });
  if (damaged != 0 && !join_.carry_damage) {
    return Error(ErrorCode::kCorrupt,
                 "chunk " + std::to_string(wanted_[index].place.chunk.value()) + " does not match its checksums there");
  }
  return damaged;
}

void Rebuild::fill(std::size_t index, store::ChunkContent content) {
  progress_.bytes_copied += total_size(content.data);
  replica_->begin_change();
  replica_->store().fill_chunk(wanted_[index].place, std::move(content), [self = Ref<Rebuild>(this)](Status status) {
    self->replica_->end_change();
    if (!self->stopped_) self->on_filled(std::move(status));
  });
}

// ---- damage ----

void Rebuild::mend(std::size_t index, store::ChunkContent content) {
  auto done = [self = Ref<Rebuild>(this), index](Mending& ended, store::ChunkContent mended) {
    std::erase_if(self->mendings_, [&ended](const Ref<Mending>& one) { return one.get() == &ended; });
    self->on_mended(index, std::move(mended));
  };
  Ref<Mending> mending =
      make_ref<Mending>(core_, replica_, donors_, request_for(index), std::move(content), std::move(done));
  mendings_.push_back(mending);
  mending->start();
}

void Rebuild::on_mended(std::size_t index, store::ChunkContent content) {
  if (content.damaged == 0) return fill(index, std::move(content));
  if (++wanted_[index].damaged_reads < kDamagedReadsMax) return ask_again_later(index);
  ChunkIndex chunk = wanted_[index].place.chunk;
  log_warn("replica", "replica " + to_hex(replica_->id().value()) + ": " +
                          std::to_string(std::popcount(content.damaged)) + " blocks of chunk " +
                          std::to_string(chunk.value()) + " are damaged on every copy and stay so on this one");
  events_.on_damage_carried({chunk, content.damaged, "damaged on every copy"});
  fill(index, std::move(content));
}

void Rebuild::ask_again_later(std::size_t index) {
  again_.push_back({env_.now() + kDamagedRetry, index});
  if (!again_timer_.armed()) again_timer_.arm_after(kDamagedRetry, [this] { ask_again(); });
}

void Rebuild::ask_again() {
  Ref<Rebuild> keep(this);
  while (!stopped_ && !again_.empty() && again_.front().due <= env_.now()) {
    std::size_t index = again_.front().index;
    again_.pop_front();
    ask(index);
  }
  if (!stopped_ && !again_.empty()) again_timer_.arm_after(again_.front().due - env_.now(), [this] { ask_again(); });
}

// A stream of requests ends only with the rebuild, or with the source.
void Rebuild::on_chunks_ended(Status status) {
  chunks_call_.reset();
  if (stopped_) return;
  fail(source_error(status.ok() ? Error(ErrorCode::kConnectionLost, "the source ended the stream") : status.error()));
}

void Rebuild::on_filled(Status status) {
  if (!status.ok()) return fail(std::move(status).error());
  --in_flight_;
  --core_->rebuild_chunks;
  ++stored_;
  // A chunk may have several layers; the range counts in full when the last is there.
  progress_.chunks_examined = range_first_ + (range_end_ - range_first_) * stored_ / wanted_.size();
  if (stored_ == wanted_.size()) return end_range();
  fetch();
}

void Rebuild::end_range() {
  progress_.chunks_examined = range_end_;
  range_first_ = range_end_;
  list_range();
}

void Rebuild::finish() {
  replica_->begin_change();
  replica_->store().finish_rebuild([self = Ref<Rebuild>(this)](Status status) {
    self->replica_->end_change();
    if (self->stopped_) return;
    if (!status.ok()) return self->fail(std::move(status).error());
    log_info("replica", "replica " + to_hex(self->replica_->id().value()) + ": rebuild finished, " +
                            std::to_string(self->progress_.bytes_copied) + " bytes copied");
    self->replica_->progress = self->progress_;
    self->stop();
    self->events_.on_rebuilt(self->source_last_);
  });
}

// ---- time ----

void Rebuild::tick() {
  Ref<Rebuild> keep(this);
  Nanos now = env_.now();
  bool waits_for_source = list_call_ || unanswered_ > 0;
  if (waits_for_source && now - source_heard_ > kSourceSilenceMax) {
    return fail(source_error(Error(ErrorCode::kTimedOut, "the source is silent")));
  }
  double seconds = std::chrono::duration<double>(now - ticked_).count();
  progress_.bytes_per_second =
      static_cast<std::uint64_t>(static_cast<double>(progress_.bytes_copied - copied_at_tick_) / seconds);
  copied_at_tick_ = progress_.bytes_copied;
  ticked_ = now;
  ticker_.arm_after(kProgressInterval, [this] { tick(); });
  events_.on_rebuild_progress(progress_);
}

}  // namespace holdfast::replica
