// Reads: choice of the copy, CRC check of every block, other copies when one is bad, repair, the lease.
//
// I5: a read is answered only from a replica that is certainly in the stored in-sync set, while the lease holds, both
// at the time of the answer. One that is just leaving may have left: the engine that takes over then serves without
// asking it, and without waiting for the lease when all others have promised. The range lock of the operation has kept
// overlapping writes out since before the replica was asked.
#include <algorithm>
#include <bit>
#include <cstring>

#include "base/crc32c.h"
#include "base/log.h"
#include "base/plant.h"
#include "engine/volume_engine.h"

namespace holdfast::engine {

namespace {

constexpr unsigned kSlotBits = 16;
constexpr Nanos kStalledRetry = 50ms;
constexpr Nanos kWarningInterval = 1s;  // a bad disk must not fill the log

bool bit(const Slice& bits, std::uint32_t i) {
  return (std::to_integer<unsigned>(bits.data()[i / 8]) >> (i % 8) & 1) != 0;
}

// Whether the message has the sizes that its range and bitmap call for.
bool well_formed(const replica::ReadResponse& response, std::uint32_t blocks, bool map_only) {
  if (response.present.size() != (blocks + 7) / 8) return false;
  if (map_only) return true;
  std::size_t present = 0;
  for (std::uint32_t i = 0; i < blocks; ++i) present += bit(response.present, i) ? 1 : 0;
  return response.crc.size() == present * sizeof(std::uint32_t) && response.data.size() == present * kBlockSize;
}

bool bad_copy(ErrorCode code) { return code == ErrorCode::kCorrupt || code == ErrorCode::kDiskIo; }

}  // namespace

BlockRead* VolumeEngine::new_read(BlockRange blocks) {
  BlockRead* read = read_pool_.take();
  std::uint32_t slot;
  if (free_read_slots_.empty()) {
    slot = static_cast<std::uint32_t>(reads_.size());
    CHECK(slot < (1u << kSlotBits), "too many reads in flight");
    reads_.push_back(nullptr);
  } else {
    slot = free_read_slots_.back();
    free_read_slots_.pop_back();
  }
  reads_[slot] = read;
  read->id = slot;
  read->blocks = blocks;
  return read;
}

void VolumeEngine::read_blocks(BlockRange blocks, std::optional<ReplicaId> first_choice, BlockRead::Done done) {
  BlockRead* read = new_read(blocks);
  read->first_choice = first_choice;
  read->done = std::move(done);
  route(read);
}

void VolumeEngine::map_blocks(BlockRange blocks, BlockRead::MapDone done) {
  BlockRead* read = new_read(blocks);
  read->map_only = true;
  read->map_done = std::move(done);
  route(read);
}

Member* VolumeEngine::choose_for_read(const BlockRead& read) {
  Member* best = nullptr;
  for (const std::unique_ptr<Member>& member : members_) {
    if (member->phase != MemberPhase::kStreaming || !in_sync_.certain(member->config.id)) continue;
    if (std::find(read.tried.begin(), read.tried.end(), member->config.id) != read.tried.end()) continue;
    if (read.avoid == member->config.id) continue;
    if (read.first_choice == member->config.id) return member.get();
    auto rank = [](const Member& m) { return std::pair(!m.config.local, m.reads_outstanding); };
    if (!best || rank(*member) < rank(*best)) best = member.get();
  }
  return best;
}

void VolumeEngine::route(BlockRead* read) {
  if (!lease_valid()) return stall(read);
  Member* member = choose_for_read(*read);
  if (!member) {
    if ((read->tried.empty() && !read->avoid) || may_be_left(*read)) return stall(read);
    return fail_read(read, read->last_error ? *read->last_error : Error(ErrorCode::kCorrupt, "no good copy is left"));
  }
  // A new id for every attempt: the answer to an older one finds nothing.
  read->id = (++read_counter_ << kSlotBits) | (read->id & ((1u << kSlotBits) - 1));
  read->at = member;
  if (member->reads_outstanding++ == 0) member->read_progress = env_.now();
  replica::ReadRequest request;
  request.id = read->id;
  request.blocks = read->blocks;
  request.map_only = read->map_only;
  request.snapshot = read->snapshot;
  member->link->read(request);
  watch_silence();
}

// Whether a copy that was not tried is just leaving: it may be the only good one, and whether it has left is known
// soon.
bool VolumeEngine::may_be_left(const BlockRead& read) const {
  return std::any_of(members_.begin(), members_.end(), [&](const std::unique_ptr<Member>& member) {
    ReplicaId id = member->config.id;
    return member->phase == MemberPhase::kStreaming && in_sync_.stored(id) && !in_sync_.certain(id) &&
           read.avoid != id && std::find(read.tried.begin(), read.tried.end(), id) == read.tried.end();
  });
}

BlockRead* VolumeEngine::take_read(std::uint64_t id) {
  std::uint64_t slot = id & ((1u << kSlotBits) - 1);
  if (slot >= reads_.size() || !reads_[slot] || reads_[slot]->id != id) return nullptr;
  return reads_[slot];
}

void VolumeEngine::on_read_response(Member& member, replica::ReadResponse response) {
  if (state_ == State::kStopped) return;
  BlockRead* read = take_read(response.id);
  if (!read || read->at != &member) return;
  read->at = nullptr;
  --member.reads_outstanding;
  member.read_progress = env_.now();
  take_answer(read, member, response);
}

void VolumeEngine::take_answer(BlockRead* read, Member& member, replica::ReadResponse& response) {
  if (!response.status.ok()) return try_other_copy(read, member, std::move(response.status).error());
  if (!well_formed(response, read->blocks.count, read->map_only)) {
    return try_other_copy(read, member, Error(ErrorCode::kProtocol, "the replica's answer does not fit the read"));
  }
  if (read->map_only) {
    if (!may_answer_from(member)) return stall(read);
    std::vector<std::uint8_t> present(response.present.size());
    std::memcpy(present.data(), response.present.data(), present.size());
    return finish_map(read, std::move(present));
  }
  SliceList whole;
  if (!take_blocks(read, response, &whole)) {
    return try_other_copy(
        read, member,
        Error(ErrorCode::kCorrupt, "blocks of volume " + config_.name + " have wrong checksums on replica " +
                                       to_hex(member.config.id.value())));
  }
  if (!may_answer_from(member)) return stall(read);
  finish_read(read, std::move(whole));
}

bool VolumeEngine::may_answer_from(const Member& member) { return lease_valid() && in_sync_.certain(member.config.id); }

// True when every block was read with the right CRC; `whole` then holds them. Good blocks of a partly bad copy are
// kept.
bool VolumeEngine::take_blocks(BlockRead* read, const replica::ReadResponse& response, SliceList* whole) {
  std::uint32_t count = read->blocks.count;
  auto crc_of = [&response](std::size_t i) {
    std::uint32_t crc;
    std::memcpy(&crc, response.crc.data() + i * sizeof crc, sizeof crc);
    return crc;
  };
  auto intact = [&](std::size_t i) {
    if (HOLDFAST_PLANT(kSkipCrc)) return true;
    return crc32c(response.data.bytes().subspan(i * kBlockSize, kBlockSize)) == crc_of(i);
  };

  std::size_t present_count = response.data.size() / kBlockSize;
  bool all_intact = true;
  for (std::size_t i = 0; i < present_count && all_intact; ++i) all_intact = intact(i);
  if (all_intact && present_count == count) {
    *whole = {response.data};
    return true;
  }
  if (read->good.empty() && !all_intact) read->good.resize(count);

  std::size_t index = 0;  // among the present blocks
  bool complete = true;
  std::uint32_t i = 0;
  while (all_intact && i < count) {  // runs of data and of zeros
    std::uint32_t run = i;
    bool present = bit(response.present, i);
    while (run < count && bit(response.present, run) == present) ++run;
    if (present) {
      whole->push_back(response.data.sub(index * kBlockSize, std::size_t{run - i} * kBlockSize));
      index += run - i;
    } else {
      for (Slice& part : zeros(std::uint64_t{run - i} * kBlockSize)) whole->push_back(std::move(part));
    }
    i = run;
  }
  if (all_intact) return true;

  for (i = 0; i < count; ++i) {
    bool present = bit(response.present, i);
    bool good = !present || intact(index);
    if (good && read->good[i].empty()) {
      read->good[i] = present ? response.data.sub(index * kBlockSize, kBlockSize) : zeros(kBlockSize)[0];
    }
    if (!good) {
      read->bad_first = std::min(read->bad_first, i);
      read->bad_end = std::max(read->bad_end, i + 1);
    }
    if (present) ++index;
    complete = complete && !read->good[i].empty();
  }
  if (complete) *whole = std::move(read->good);
  read->found_bad = true;
  return complete;
}

void VolumeEngine::try_other_copy(BlockRead* read, Member& bad, Error error) {
  if (error.code() == ErrorCode::kEpochSuperseded) return fence();
  if (env_.now() >= read_warning_next_) {
    read_warning_next_ = env_.now() + kWarningInterval;
    log_warn("engine", "a read of volume " + config_.name + " failed on replica " + to_hex(bad.config.id.value()) +
                           " and is tried on another: " + error.to_string());
  }
  read->tried.push_back(bad.config.id);
  if (bad_copy(error.code())) {
    read->found_bad = true;
    read->bad_replica = bad.config.id;
    if (error.code() == ErrorCode::kDiskIo || read->good.empty()) {
      read->bad_first = 0;
      read->bad_end = read->blocks.count;
    }
  }
  if (!read->last_error || read->last_error->code() != ErrorCode::kCorrupt) read->last_error = std::move(error);
  route(read);
}

// Lets go of the read before its callback, which may start others.
void VolumeEngine::finish_read(BlockRead* read, Result<SliceList> outcome) {
  bool of_volume = read->snapshot == SnapshotId();  // nothing can be written to a snapshot
  if (outcome.ok() && of_volume && read->found_bad && read->bad_replica && !read->first_choice &&
      read->bad_first < read->bad_end) {
    repair_later({BlockIndex(read->blocks.begin() + read->bad_first), read->bad_end - read->bad_first},
                 *read->bad_replica);
  }
  BlockRead::Done done = std::move(read->done);
  bool found_bad = read->found_bad;
  release_read(read);
  read_found_bad_ = found_bad;
  done(std::move(outcome));
}

void VolumeEngine::finish_map(BlockRead* read, Result<std::vector<std::uint8_t>> outcome) {
  BlockRead::MapDone done = std::move(read->map_done);
  release_read(read);
  done(std::move(outcome));
}

void VolumeEngine::release_read(BlockRead* read) {
  std::uint32_t slot = static_cast<std::uint32_t>(read->id & ((1u << kSlotBits) - 1));
  reads_[slot] = nullptr;
  free_read_slots_.push_back(slot);
  read->clear();
  read_pool_.give_back(read);
}

void VolumeEngine::fail_read(BlockRead* read, Error error) {
  if (read->map_only) return finish_map(read, std::move(error));
  finish_read(read, std::move(error));
}

// The replica is gone, which says nothing about its copy.
void VolumeEngine::reroute_reads_of(Member& member) {
  member.reads_outstanding = 0;
  std::vector<BlockRead*> affected;
  for (BlockRead* read : reads_) {
    if (read && read->at == &member) affected.push_back(read);
  }
  for (BlockRead* read : affected) {
    if (state_ == State::kStopped) return;
    read->at = nullptr;
    stall(read);
  }
}

// Whether no other engine can be serving: every replica that must agree before one does was known to be ours recently.
bool VolumeEngine::lease_valid() {
  if (HOLDFAST_PLANT(kSkipLease)) return true;
  Nanos now = env_.now();
  for (const std::unique_ptr<Member>& member : members_) {
    if (!required(*member) && member->phase != MemberPhase::kPromoting) continue;
    if (member->counts()) {
      if (std::optional<Nanos> confirmed = member->link->channel().confirmed_at()) {
        member->confirmed = std::max(member->confirmed, *confirmed);
      }
    }
    if (now - member->confirmed >= config_.lease) return false;
  }
  return true;
}

// Waits for a replica or for the lease. What was read so far may be old by then and is dropped.
void VolumeEngine::stall(BlockRead* read) {
  read->tried.clear();
  read->good.clear();
  read->last_error.reset();
  read->found_bad = false;
  read->bad_replica.reset();
  read->bad_first = UINT32_MAX;
  read->bad_end = 0;
  stalled_reads_.push_back(read);
  if (!stalled_timer_.armed()) stalled_timer_.arm_after(kStalledRetry, [this] { retry_stalled(); });
}

void VolumeEngine::retry_stalled() {
  std::vector<BlockRead*> reads = std::move(stalled_reads_);
  stalled_reads_.clear();
  for (BlockRead* read : reads) {
    if (state_ == State::kStopped) return;
    route(read);
  }
}

}  // namespace holdfast::engine
