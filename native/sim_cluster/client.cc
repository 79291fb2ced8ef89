#include "sim_cluster/client.h"

#include <algorithm>

#include "sim_cluster/unit_content.h"

namespace holdfast::sim {

namespace {
constexpr std::size_t kSnapshotsMax = 4;
constexpr unsigned kProbesMax = 64;  // reads beyond the depth
}  // namespace

Client::Client(Setup setup, engine::Engine& engine)
    : setup_(std::move(setup)),
      engine_(engine),
      random_(setup_.world->random().next()),
      unit_(engine.logical_block_size()),
      units_(engine.size_bytes() / unit_),
      blocks_asked_(engine.size_bytes() / kBlockSize) {
  setup_.seen->values.resize(setup_.scenario->size_blocks_max * kBlockSize / unit_, 0);
  engine_.on_resized([this] { units_ = engine_.size_bytes() / unit_; });
}

void Client::start() {
  running_ = true;
  tick();
}

void Client::tick() {
  if (!running_) return;
  for (std::uint64_t n = 1 + random_.below(3); n > 0 && in_flight_ < setup_.scenario->depth; --n) {
    if (!pausing_) issue();
  }
  if (pausing_ && in_flight_ == 0) revert();
  // When writes wait, an engine that was replaced must still be seen to answer no reads.
  bool stuck = in_flight_ >= setup_.scenario->depth && in_flight_ < setup_.scenario->depth + kProbesMax;
  if (stuck && !pausing_ && random_.chance(1, 4)) read(random_.below(units_), 1);
  Nanos pause(random_.below(static_cast<std::uint64_t>(setup_.scenario->think_max.count())));
  setup_.env->call_at(setup_.env->now() + pause, [this] { tick(); });
}

void Client::issue() {
  if (setup_.seen->snapshots_change && random_.chance(1, 150)) return change_snapshots();
  if (setup_.seen->size_changes && random_.chance(1, 200)) return grow();
  std::uint64_t dice = random_.below(100);
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  if (dice < 45) {
    write();
  } else if (dice < 85) {
    pick_range(&first, &count, false);
    read(first, count);
  } else if (dice < 91) {
    zero();
  } else if (dice < 95) {
    compare_and_write();
  } else {
    flush();
  }
}

// Crowded on few blocks, so that operations meet; sometimes anywhere, sometimes large.
void Client::pick_range(std::uint64_t* first, std::uint64_t* count, bool small) {
  bool large = !small && random_.chance(setup_.scenario->large_percent, 100);
  std::uint64_t most = large ? (std::uint64_t{1} << random_.between(16, 21)) / unit_ : 16;
  *count = 1 + random_.below(std::min(most, units_));
  std::uint64_t area = random_.chance(2, 3) ? std::min<std::uint64_t>(units_, 128) : units_;
  *count = std::min(*count, area);
  *first = random_.below(area - *count + 1);
}

SliceList Client::content(std::uint64_t count, const std::function<Value(std::uint64_t)>& value_of) {
  SliceList parts;
  for (std::uint64_t at = 0; at < count;) {
    std::uint64_t length = std::min<std::uint64_t>(count - at, random_.chance(1, 4) ? 1 + random_.below(64) : 256);
    Slice part = setup_.env->buffers().allocate(length * unit_);
    for (std::uint64_t i = 0; i < length; ++i) fill_unit(part.data() + i * unit_, unit_, value_of(at + i));
    parts.push_back(std::move(part));
    at += length;
  }
  return parts;
}

// ---- around every operation ----

Client::Op* Client::begin(const char* name, std::uint64_t first, std::uint64_t count) {
  auto* op = new Op;
  op->name = name;
  op->first = first;
  op->count = count;
  op->begun = setup_.world->now();
  op->late = fenced_ || setup_.oracle->superseded(setup_.epoch);
  op->acknowledged = setup_.oracle->acknowledged_seq();
  setup_.oracle->sending(setup_.epoch, engine_.status().last);
  ++in_flight_;
  ++setup_.counts->operations;
  return op;
}

void Client::begin_write(Op* op) {
  if (op->late) return;
  for (std::uint64_t i = 0; i < op->count; ++i) {
    std::optional<Value> expected;
    if (!op->expected.empty()) expected = op->expected[i];
    op->handles.push_back(setup_.oracle->history().write_begins(op->first + i, op->value_at(i), op->begun, expected));
  }
}

bool Client::end(Op* op, const Status& status) {
  --in_flight_;
  setup_.world->trace(std::string(op->name) + " " + std::to_string(op->first) + "+" + std::to_string(op->count) +
                      " value " + std::to_string(op->value) + " epoch " + std::to_string(setup_.epoch.value()) + ": " +
                      (status.ok() ? "ok" : status.error().to_string()));
  Nanos took = setup_.world->now() - op->begun;
  setup_.counts->slowest = std::max(setup_.counts->slowest, took);
  if (took > setup_.scenario->stall_max() && op->snapshot == SnapshotId()) {
    setup_.oracle->violated(std::string("a ") + op->name + " took " + std::to_string(took.count() / 1'000'000) +
                            " ms while a good replica was there");
  }
  if (!status.ok()) {
    ++setup_.counts->failed;
    // Commands about snapshots ask one replica first and are tried again by whoever gave them.
    bool command = op->snapshot != SnapshotId() && setup_.scenario->any_fault();
    if (!command && !setup_.may_fail(status.error().code())) {
      setup_.oracle->violated(std::string("a ") + op->name + " failed for no reason: " + status.error().to_string());
    }
    return false;
  }
  ++setup_.counts->succeeded;
  if (op->late) {
    setup_.oracle->violated(std::string("a ") + op->name + " that began on epoch " +
                            std::to_string(setup_.epoch.value()) + " after it was over succeeded");
    return false;
  }
  // A read, too: what it saw is committed, and it may be the first to see what a recovery found in the logs.
  setup_.oracle->acknowledged(setup_.epoch, engine_.status().committed);
  return true;
}

void Client::acknowledge(Op* op) {
  Oracle& oracle = *setup_.oracle;
  for (std::uint64_t i = 0; i < op->count; ++i) {
    oracle.history().write_acknowledged(op->first + i, op->handles[i], setup_.world->now(), op->durable);
    setup_.seen->values[op->first + i] = op->value_at(i);
  }
  if (!op->durable) return;
  oracle.history().flush_acknowledged(op->begun);
  oracle.flushed(op->acknowledged);
}

// ---- operations ----

BlockDevice::Durability Client::durability(Op* op) {
  op->durable = random_.chance(1, 12);
  return op->durable ? BlockDevice::Durability::kFlushed : BlockDevice::Durability::kJournalled;
}

void Client::write() {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  pick_range(&first, &count, false);
  Op* op = begin("write", first, count);
  op->value = setup_.oracle->new_value();
  begin_write(op);
  SliceList data = content(count, [op](std::uint64_t) { return op->value; });
  engine_.write(first * unit_, std::move(data), durability(op), [this, op](Status status) {
    std::unique_ptr<Op> owned(op);
    if (end(op, status)) acknowledge(op);
  });
}

void Client::zero() {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  pick_range(&first, &count, false);
  if (random_.chance(1, 4)) {  // whole chunks, so that slots are freed
    std::uint64_t chunk = kChunkSize / unit_;
    first = first / chunk * chunk;
    count = std::min(units_ - first, chunk * (1 + random_.below(4)));
  }
  Op* op = begin("zero", first, count);
  begin_write(op);
  engine_.zero(first * unit_, count * unit_, random_.chance(1, 2), [this, op](Status status) {
    std::unique_ptr<Op> owned(op);
    if (end(op, status)) acknowledge(op);
  });
}

void Client::read(std::uint64_t first, std::uint64_t count) {
  Op* op = begin("read", first, count);
  engine_.read(first * unit_, count * unit_, [this, op](Result<SliceList> content) {
    std::unique_ptr<Op> owned(op);
    on_read(op, std::move(content));
  });
}

void Client::on_read(Op* op, Result<SliceList> content) {
  if (!end(op, content.status())) return;
  if (total_size(*content) != op->count * unit_) return setup_.oracle->violated("a read returned another length");
  std::vector<std::byte> bytes;
  bytes.reserve(op->count * unit_);
  for (const Slice& part : *content) bytes.insert(bytes.end(), part.bytes().begin(), part.bytes().end());
  for (std::uint64_t i = 0; i < op->count; ++i) {
    std::optional<Value> value = value_of_unit(bytes.data() + i * unit_, unit_);
    if (!value) {
      return setup_.oracle->violated("block " + std::to_string(op->first + i) + " holds what nobody wrote");
    }
    setup_.oracle->history().read_returned(op->first + i, *value, op->begun, setup_.world->now());
    setup_.seen->values[op->first + i] = *value;
  }
}

void Client::compare_and_write() {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  pick_range(&first, &count, true);
  count = std::min<std::uint64_t>(count, 4);
  Op* op = begin("compare-and-write", first, count);
  op->value = setup_.oracle->new_value();
  for (std::uint64_t i = 0; i < count; ++i) op->expected.push_back(setup_.seen->values[first + i]);
  begin_write(op);
  SliceList expected = content(count, [op](std::uint64_t i) { return op->expected[i]; });
  SliceList replacement = content(count, [op](std::uint64_t) { return op->value; });
  engine_.compare_and_write(first * unit_, std::move(expected), std::move(replacement), durability(op),
                            [this, op](Result<std::optional<std::uint64_t>> outcome) {
                              std::unique_ptr<Op> owned(op);
                              on_compared(op, std::move(outcome));
                            });
}

void Client::on_compared(Op* op, Result<std::optional<std::uint64_t>> outcome) {
  if (!end(op, outcome.status())) return;
  if (!*outcome) return acknowledge(op);
  std::uint64_t differs = **outcome / unit_;
  if (differs >= op->count) return setup_.oracle->violated("a comparison differs beyond its end");
  History& history = setup_.oracle->history();
  for (std::uint64_t i = 0; i < op->count; ++i) {
    history.write_refused(op->first + i, op->handles[i]);
    if (i < differs) history.read_returned(op->first + i, op->expected[i], op->begun, setup_.world->now());
  }
  history.read_differed(op->first + differs, op->expected[differs], op->begun, setup_.world->now());
}

void Client::flush() {
  Op* op = begin("flush", 0, 0);
  engine_.flush([this, op](Status status) {
    std::unique_ptr<Op> owned(op);
    flush_failed_ = !status.ok();
    if (!end(op, status)) return;
    setup_.oracle->history().flush_acknowledged(op->begun);
    setup_.oracle->flushed(op->acknowledged);
  });
}

// A little; now and then to a size that is asked for already, as after an answer that got lost.
void Client::grow() {
  std::uint64_t left = setup_.scenario->size_blocks_max - blocks_asked_;
  if (left > 0 && random_.chance(2, 3)) blocks_asked_ += 1 + random_.below(std::min<std::uint64_t>(left, 200));
  // What it has already is true whoever says so, also an engine that is over.
  if (blocks_asked_ * kBlockSize == engine_.size_bytes()) return;
  Op* op = begin("resize", 0, 0);
  op->value = blocks_asked_;
  setup_.oracle->size_asked(blocks_asked_);
  engine_.resize(blocks_asked_ * kBlockSize, [this, op](Status status) {
    std::unique_ptr<Op> owned(op);
    if (!end(op, status)) return;
    if (engine_.size_bytes() < op->value * kBlockSize) setup_.oracle->violated("a resize has changed nothing");
    setup_.oracle->size_acknowledged(op->value);
  });
}

// ---- snapshots ----

// Engines that are over are not asked: they may say of a snapshot they never knew that it is gone.
void Client::change_snapshots() {
  if (fenced_ || setup_.oracle->superseded(setup_.epoch)) return;
  std::vector<SnapshotId>& known = setup_.seen->snapshots;
  if (known.empty() || (known.size() < kSnapshotsMax && random_.chance(1, 2))) return take_snapshot();
  if (random_.chance(1, 5)) {
    pausing_ = true;
  } else {
    drop_snapshot();
  }
}

void Client::take_snapshot() {
  Op* op = begin("snapshot", 0, 0);
  op->snapshot = setup_.oracle->snapshots().take_begins(op->begun);
  engine_.snapshot(op->snapshot, [this, op](Status status) {
    std::unique_ptr<Op> owned(op);
    if (!end(op, status)) return;
    setup_.oracle->snapshots().taken(op->snapshot, setup_.world->now(), engine_.status().committed);
    setup_.seen->snapshots.push_back(op->snapshot);
  });
}

void Client::drop_snapshot() {
  std::vector<SnapshotId>& known = setup_.seen->snapshots;
  std::size_t index = random_.below(known.size());
  Op* op = begin("drop of a snapshot", 0, 0);
  op->snapshot = known[index];
  known.erase(known.begin() + static_cast<std::ptrdiff_t>(index));
  setup_.oracle->snapshots().drop_begins(op->snapshot);
  engine_.drop_snapshot(op->snapshot, [this, op](Status status) {
    std::unique_ptr<Op> owned(op);
    if (!end(op, status)) return;
    setup_.oracle->snapshots().dropped(op->snapshot, engine_.status().committed);
  });
}

// While nothing else is asked of the volume: a write of what the snapshot holds, which is read first.
void Client::revert() {
  if (setup_.seen->snapshots.empty()) {
    pausing_ = false;
    return;
  }
  Op* op = begin("revert", 0, units_);
  op->snapshot = setup_.seen->snapshots[random_.below(setup_.seen->snapshots.size())];
  read_for_revert(op);
}

void Client::read_for_revert(Op* op) {
  std::uint64_t blocks = units_ * unit_ / kBlockSize;
  std::uint64_t first = op->content.size() * unit_ / kBlockSize;
  if (first >= blocks) return revert_to(op);
  auto count = static_cast<std::uint32_t>(std::min<std::uint64_t>(blocks - first, store::kWriteBlocksMax));
  engine_.read_snapshot(op->snapshot, {BlockIndex(first), count}, [this, op](Result<SliceList> content) {
    std::vector<std::byte> bytes;
    if (content.ok()) {
      for (const Slice& part : *content) bytes.insert(bytes.end(), part.bytes().begin(), part.bytes().end());
    }
    for (std::size_t at = 0; at < bytes.size(); at += unit_) {
      std::optional<Value> value = value_of_unit(bytes.data() + at, unit_);
      if (!value) return setup_.oracle->violated("a snapshot holds what nobody wrote");
      op->content.push_back(*value);
    }
    if (content.ok()) return read_for_revert(op);
    std::unique_ptr<Op> owned(op);
    pausing_ = false;
    end(op, content.status());
  });
}

void Client::revert_to(Op* op) {
  begin_write(op);
  engine_.revert(op->snapshot, [this, op](Status status) {
    std::unique_ptr<Op> owned(op);
    pausing_ = false;
    if (end(op, status)) acknowledge(op);
  });
}

void Client::read_all() {
  std::uint64_t step = (1u << 20) / unit_;
  for (std::uint64_t first = 0; first < units_; first += step) read(first, std::min(step, units_ - first));
}

}  // namespace holdfast::sim
