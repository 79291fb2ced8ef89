#include "replica/read_streams.h"

#include <algorithm>

namespace holdfast::replica {

namespace {

// ReadLog and ListChunks fetch more only when less than this is unsent.
constexpr std::size_t kUnsentBytesMax = 2u << 20;
// What ReadLog aims to fetch at once.
constexpr std::uint64_t kLogBatchBytes = 4u << 20;
constexpr std::uint64_t kLogBatchEntriesMax = 1'024;
constexpr std::size_t kVersionsPerMessage = 1'000;
constexpr std::size_t kSnapshotsPerMessage = 1'000;

// Whether what the peer knows about layers is still so. Snapshots may have been taken since.
Status check_layers(const store::ReplicaStore& store, const std::optional<Seq>& wanted) {
  Seq changed = store.layers_rearranged().seq;
  if (!wanted || *wanted >= changed) return Status();
  return Error(ErrorCode::kFailedPrecondition, "snapshots changed with entry " + std::to_string(changed.value()) +
                                                   ", after entry " + std::to_string(wanted->value()) +
                                                   "; list them again");
}

Error incomplete(ReplicaId id) {
  return Error(ErrorCode::kReplicaIncomplete,
               "replica " + to_hex(id.value()) + " is being rebuilt and cannot be copied from");
}

}  // namespace

// ---- Read ----

void ReadStream::receive(rpc::Message message) {
  ReadRequest request;
  if (Status status = decode(message, request); !status.ok()) return end(std::move(status));
  if (!bound()) {
    if (Status status = begin(request); !status.ok()) return end(std::move(status));
    if (request.id == 0 && request.blocks.count == 0) return;  // hello alone
  } else if (request.hello) {
    return end(Error(ErrorCode::kProtocol, "only the first message of a Read stream carries hello"));
  }
  accept(std::move(request));
}

Status ReadStream::begin(const ReadRequest& request) {
  if (!request.hello) return Error(ErrorCode::kProtocol, "the first message of a Read stream must carry hello");
  ServedReplica* found = core().find(request.hello->replica);
  if (found == nullptr) return no_such_replica(request.hello->replica);
  TRY(check_promised(found->store().info(), request.hello->epoch));
  bind(found, Fencing::kReads, request.hello->epoch);
  return Status();
}

std::size_t ReadStream::cost(const ReadRequest& request) const {
  return request.map_only ? 0 : std::size_t{std::min(request.blocks.count, store::kWriteBlocksMax)} * kBlockSize;
}

void ReadStream::run(const ReadRequest& request) {
  std::size_t answer_cost = cost(request);
  replica().begin_read();
  core().env.note_reads(1);
  auto done = [self = Ref<ReadStream>(this), id = request.id, answer_cost](Result<store::ReadOutcome> outcome) {
    self->core().env.note_reads(-1);
    self->replica().end_read();
    self->finish(id, answer_cost, std::move(outcome));
  };
  std::uint32_t blocks_max = request.map_only ? store::kMapBlocksMax : store::kWriteBlocksMax;
  if (request.blocks.count == 0 || request.blocks.count > blocks_max) {
    core().env.post([done = std::move(done), blocks_max]() mutable {
      done(Error(ErrorCode::kInvalidArgument, "this read has 1 to " + std::to_string(blocks_max) + " blocks"));
    });
  } else if (request.snapshot != SnapshotId()) {
    store().read_snapshot(request.snapshot, request.blocks, request.map_only, std::move(done));
  } else if (request.map_only) {
    store().map(request.blocks, std::move(done));
  } else {
    store().read(request.blocks, std::move(done));
  }
}

void ReadStream::finish(std::uint64_t id, std::size_t answer_cost, Result<store::ReadOutcome> outcome) {
  if (!ended()) {
    if (outcome.ok()) {
      encode_read_response(pool(), id, *outcome, parts_);
    } else {
      encode_read_response(pool(), id, outcome.error(), parts_);
    }
  }
  answered(answer_cost, parts_);
}

// ---- ReadChunks ----

void ReadChunksStream::receive(rpc::Message message) {
  ReadChunkRequest request;
  if (Status status = decode(message, request); !status.ok()) return end(std::move(status));
  if (!bound()) {
    ServedReplica* found = core().find(request.replica);
    if (found == nullptr) return end(no_such_replica(request.replica));
    bind(found, Fencing::kNone, Epoch());
  } else if (request.replica != ReplicaId() && request.replica != replica().id()) {
    return end(Error(ErrorCode::kProtocol, "all requests of a ReadChunks stream are for one replica"));
  }
  accept(std::move(request));
}

void ReadChunksStream::run(const ReadChunkRequest& request) {
  replica().when_journalled(request.min_seq, this,
                            [self = Ref<ReadChunksStream>(this), held = std::make_unique<ReadChunkRequest>(request)] {
                              if (!self->ended()) self->read(*held);
                            });
}

void ReadChunksStream::read(const ReadChunkRequest& request) {
  replica().begin_read();
  store::ReplicaInfo info = store().info();
  ChunkIndex chunk = request.chunk;
  auto done = [self = Ref<ReadChunksStream>(this),
               held = std::make_unique<ReadChunkRequest>(request)](Result<store::ChunkContent> content) {
    self->replica().end_read();
    self->finish(*held, std::move(content));
  };
  std::optional<Error> refusal;
  if (Status same = check_layers(store(), request.layers); !same.ok()) refusal = same.error();
  if (!info.complete) refusal = incomplete(info.id);
  if (chunk.value() >= chunks_of(info.size_blocks)) {
    refusal = Error(ErrorCode::kInvalidArgument,
                    "chunk " + std::to_string(chunk.value()) + " is not inside replica " + to_hex(info.id.value()));
  }
  if (refusal) {
    core().env.post([done = std::move(done), refusal = std::move(*refusal)]() mutable { done(std::move(refusal)); });
  } else if (request.layer != 0) {
    store().read_layer({chunk, request.layer}, std::move(done));
  } else {
    store().read_chunk(chunk, std::move(done));
  }
}

void ReadChunksStream::finish(const ReadChunkRequest& request, Result<store::ChunkContent> content) {
  if (!ended()) {
    Status same = check_layers(store(), request.layers);
    if (content.ok() && !same.ok()) content = same.error();
    if (content.ok() && content->damaged != 0 && !request.damaged_too) {
      content = Error(ErrorCode::kDiskIo, "chunk " + std::to_string(request.chunk.value()) + " of replica " +
                                              to_hex(replica().id().value()) + " has blocks that cannot be read");
    }
    if (content.ok()) {
      encode_read_chunk_response(pool(), request.id, *content, parts_);
    } else {
      encode_read_chunk_response(pool(), request.id, content.error(), parts_);
    }
  }
  answered(kChunkSize, parts_);
}

// ---- ReadLog ----

void ReadLogStream::request(const rpc::Message& message) {
  ReadLogRequest request;
  if (Status status = decode(message, request); !status.ok()) return end(std::move(status));
  ServedReplica* found = core().find(request.replica);
  if (found == nullptr) return end(no_such_replica(request.replica));
  if (Status status = check_promised(found->store().info(), request.epoch); !status.ok()) return end(std::move(status));
  if (request.first == Seq() || request.last < request.first) {
    return end(Error(ErrorCode::kInvalidArgument, "ReadLog needs 1 <= first_seq <= last_seq"));
  }
  bind(found, Fencing::kReads, request.epoch);
  next_ = request.first;
  last_ = request.last;
  started_ = true;
  advance();
}

void ReadLogStream::advance() {
  if (!started_ || ended() || reading_ || call().unsent_bytes() > kUnsentBytesMax) return;
  if (next_ > last_) return end(Status());
  std::uint64_t remaining = last_.value() - next_.value();  // without the first
  Seq until(next_.value() + std::min(remaining, batch_entries_ - 1));
  reading_ = true;
  replica().begin_read();
  store().read_log(next_, until, [self = Ref<ReadLogStream>(this)](Result<std::vector<store::Entry>> entries) {
    self->replica().end_read();
    self->send_entries(std::move(entries));
  });
}

void ReadLogStream::send_entries(Result<std::vector<store::Entry>> entries) {
  reading_ = false;
  if (ended()) return;
  if (!entries.ok()) return end(std::move(entries).error());
  if (entries->empty())
    return end(Error(ErrorCode::kNotFound, "the log has no entry " + std::to_string(next_.value())));
  std::uint64_t bytes = 0;
  for (const store::Entry& entry : *entries) {
    bytes += kBlockSize + entry.data.size();
    encode(pool(), entry, parts_);
    send(parts_);
    next_ = entry.position.seq.next();
    if (next_ == Seq()) return end(Status());
  }
  batch_entries_ = std::clamp<std::uint64_t>(kLogBatchBytes * entries->size() / bytes, 1, kLogBatchEntriesMax);
  advance();
}

// ---- ListChunks ----

void ListChunksStream::request(const rpc::Message& message) {
  ListChunksRequest request;
  if (Status status = decode(message, request); !status.ok()) return end(std::move(status));
  ServedReplica* found = core().find(request.replica);
  if (found == nullptr) return end(no_such_replica(request.replica));
  store::ReplicaInfo info = found->store().info();
  if (!info.complete) return end(incomplete(info.id));
  if (request.end < request.first) return end(Error(ErrorCode::kInvalidArgument, "ListChunks needs first <= end"));
  bind(found, Fencing::kNone, Epoch());
  next_ = request.first;
  end_ = request.end;
  after_ = request.after;
  layers_ = request.layers;
  replica().when_journalled(request.min_seq, this, [self = Ref<ListChunksStream>(this)] {
    if (self->ended()) return;
    self->started_ = true;
    self->advance();
  });
}

void ListChunksStream::advance() {
  if (!started_ || ended() || listing_ || call().unsent_bytes() > kUnsentBytesMax) return;
  if (Status same = check_layers(store(), layers_); !same.ok()) return end(std::move(same));
  if (next_ >= end_) return end(Status());
  listing_ = true;
  replica().begin_read();
  store().list_chunks(next_, end_, after_, kVersionsPerMessage,
                      [self = Ref<ListChunksStream>(this)](Result<std::vector<store::ChunkVersion>> versions) {
                        self->replica().end_read();
                        self->send_versions(std::move(versions));
                      });
}

void ListChunksStream::send_versions(Result<std::vector<store::ChunkVersion>> versions) {
  listing_ = false;
  if (ended()) return;
  if (!versions.ok()) return end(std::move(versions).error());
  if (!store().info().complete) return end(incomplete(replica().id()));  // a join began meanwhile
  if (Status same = check_layers(store(), layers_); !same.ok()) return end(std::move(same));
  if (!versions->empty()) {
    parts_.push_back(encode(pool(), *versions));
    send(parts_);
  }
  next_ = versions->size() < kVersionsPerMessage ? end_ : versions->back().chunk.next();
  advance();
}

// ---- ListSnapshots ----

void SnapshotsStream::request(const rpc::Message& message) {
  ListSnapshotsRequest request;
  if (Status status = decode(message, request); !status.ok()) return end(std::move(status));
  ServedReplica* found = core().find(request.replica);
  if (found == nullptr) return end(no_such_replica(request.replica));
  bind(found, Fencing::kNone, Epoch());
  replica().when_journalled(request.min_seq, this, [self = Ref<SnapshotsStream>(this), settled = request.settled] {
    if (!self->ended()) self->list(settled);
  });
}

void SnapshotsStream::list(bool settled) {
  all_.revision = store().layers_revision();
  if (!settled) {
    for (store::SnapshotInfo& info : store().snapshots()) all_.snapshots.push_back({info, 0});
    started_ = true;
    return advance();
  }
  replica().begin_read();
  store().layers([self = Ref<SnapshotsStream>(this)](Result<store::LayerState> layers) {
    self->replica().end_read();
    if (self->ended()) return;
    if (!layers.ok()) return self->end(std::move(layers).error());
    SnapshotPage& all = self->all_;
    all.revision = layers->revision;
    all.head = layers->head;
    all.forks = std::move(layers->forks);
    for (const store::SnapshotRecord& one : layers->snapshots) {
      all.snapshots.push_back({{one.id, SnapshotId(), one.position, one.size_blocks, 0}, one.layer});
    }
    self->started_ = true;
    self->advance();
  });
}

void SnapshotsStream::advance() {
  if (!started_ || ended()) return;
  while (call().unsent_bytes() <= kUnsentBytesMax) {
    if (!first_ && next_ == all_.snapshots.size()) return end(Status());
    SnapshotPage page;
    if (std::exchange(first_, false)) {
      page.revision = all_.revision;
      page.head = all_.head;
      page.forks = all_.forks;
    }
    std::size_t count = std::min(kSnapshotsPerMessage, all_.snapshots.size() - next_);
    auto from = all_.snapshots.begin() + static_cast<std::ptrdiff_t>(next_);
    page.snapshots.assign(from, from + static_cast<std::ptrdiff_t>(count));
    next_ += count;
    parts_.push_back(encode(pool(), page));
    send(parts_);
  }
}

}  // namespace holdfast::replica
