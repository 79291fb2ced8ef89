#include "store/disk.h"

#include <sys/statvfs.h>

#include <algorithm>

namespace holdfast::store {

namespace {
constexpr std::size_t kCachedRecordsMax = 32'768;  // about 12 MB; covers 8 GiB of chunks
constexpr Nanos kGrowthRetry = 2s;
constexpr std::size_t kRetainedBesides = 32u << 20;
constexpr std::size_t kDestageDepthMin = 4;
constexpr std::size_t kDestageDepthMax = 32;
constexpr std::uint64_t kGrowStepSlots = 1024;  // 256 MiB
constexpr std::uint64_t kReserveBytesMin = 256u << 20;
// What the data file leaves of a file system to the metadata of its chunks: what the database needs in order to write
// at all (rocks_kv.cc), twice, and 0.4 % for records, which take less than half of that.
constexpr std::uint64_t kMetadataBytesMin = 128u << 20;
constexpr std::uint64_t kDataPerMetadata = 256;

// What the file system of the folder could give to data, with what the data file has. The one look at the system that
// does not go through Env: a simulated disk always states its capacity.
std::uint64_t file_system_bytes(const std::string& directory, std::uint64_t data_bytes) {
  struct statvfs info;
  if (::statvfs(directory.c_str(), &info) != 0) return data_bytes;
  std::uint64_t free = std::uint64_t{info.f_bavail} * info.f_frsize;
  std::uint64_t bytes = data_bytes + free;
  std::uint64_t metadata = std::min(kMetadataBytesMin + bytes / kDataPerMetadata, bytes / 4);
  return data_bytes + (free > metadata ? free - metadata : 0);
}
}  // namespace

Disk::Disk(Env& env, StoreOptions options)
    : env_(env),
      options_(std::move(options)),
      small_copies_(env.buffers()),
      records_(kCachedRecordsMax),
      deferred_(env),
      destager_(*this, env) {
  // A message of a few blocks takes a page more than they do.
  env_.buffers().retain_at_least(options_.cache_bytes + options_.cache_bytes / (kCopiedBlocksMax + 1) +
                                 kRetainedBesides);
}

Disk::~Disk() = default;

SpaceInfo Disk::space() const {
  SpaceInfo info;
  // While the file grows the file system does not know yet whose the room is.
  std::uint64_t total = options_.capacity_bytes == 0 && !growing_ ? slots_possible() : total_slots_;
  info.total_bytes = total * kChunkSize;
  info.used_bytes = slots_.used() * kChunkSize;
  for (const auto& [id, space] : spaces_) info.left_bytes += space->left() ? space->used_slots() * kChunkSize : 0;
  info.reserve_bytes = reserve_slots_ * kChunkSize;
  std::uint64_t taken = slots_.used() + reserved_ + reserve_slots_;
  info.free_bytes = taken < total ? (total - taken) * kChunkSize : 0;
  info.journal_bytes = journal_->size_blocks() * kBlockSize;
  info.journal_used_bytes = journal_->used_blocks() * kBlockSize;
  info.cached_bytes = cached_bytes_;
  return info;
}

Status Disk::refusal() const {
  if (failure_) return *failure_;
  if (closing_) return Error(ErrorCode::kCancelled, "disk " + label_.id + " is being closed");
  return Status();
}

void Disk::fail(const Error& error) {
  if (failure_) return;
  failure_ = Error(ErrorCode::kDiskIo, "disk " + label_.id + " has failed: " + error.message());
  journal_->fail(*failure_);
  for (const auto& [id, replica] : replicas_) replica->fail_waiting(*failure_);
  if (!destager_.running()) destager_.drain(nullptr, [] {});
}

// ---- space ----

std::uint64_t Disk::slots_possible() const {
  std::uint64_t data = slots_.size() * kChunkSize;
  std::uint64_t bytes =
      options_.capacity_bytes != 0 ? options_.capacity_bytes : file_system_bytes(options_.directory, data);
  return std::max(bytes / kChunkSize, slots_.size());
}

// A file system that was enlarged has a larger reserve, too. One that others fill keeps its own.
void Disk::set_total_slots(std::uint64_t slots) {
  total_slots_ = slots;
  std::uint64_t wanted = options_.reserve_bytes != 0
                             ? options_.reserve_bytes
                             : std::max<std::uint64_t>(kReserveBytesMin, slots * kChunkSize / 50);
  reserve_slots_ = std::max(reserve_slots_, std::min(wanted / kChunkSize, slots / 2));
  grow_step_ = std::max(grow_step_, std::clamp<std::uint64_t>(slots / 16, 1, kGrowStepSlots));
}

Disk::Room Disk::room_for(Need need) {
  std::uint64_t wanted = need.certain + need.possible;
  if (wanted == 0) return Room::kYes;
  std::uint64_t taken = slots_.used() + reserved_;
  std::uint64_t hard = total_slots_ > taken ? total_slots_ - taken : 0;
  std::uint64_t soft = hard > reserve_slots_ ? hard - reserve_slots_ : 0;
  if (need.certain > soft || wanted > hard) return hope_for_growth(wanted) ? Room::kGrowing : Room::kNo;
  if (taken + wanted <= slots_.size()) return Room::kYes;
  grow_if_needed(wanted);
  return growing_ ? Room::kGrowing : Room::kNo;
}

bool Disk::hope_for_growth(std::uint64_t wanted) {
  if (growing_ || env_.now() - growth_refused_ < kGrowthRetry) return false;
  growth_refused_ = env_.now();
  std::uint64_t possible = slots_possible();
  if (possible <= total_slots_) return false;
  std::uint64_t before = total_slots_;
  set_total_slots(possible);
  // What was refused may have met the reserve and not the end of the file: there may be free slots enough for `wanted`.
  grow_if_needed(wanted + reserve_slots_);
  if (!growing_) total_slots_ = before;
  return growing_;
}

void Disk::grow_if_needed(std::uint64_t wanted) {
  std::uint64_t taken = slots_.used() + reserved_;
  if (growing_ || failure_ || slots_.size() >= total_slots_ || closing_) return;
  if (taken + std::max(wanted, grow_step_ / 2 + 1) <= slots_.size()) return;
  total_slots_ = std::min(total_slots_, slots_possible());  // others may have taken some
  if (slots_.size() >= total_slots_) return;
  growing_ = true;
  std::uint64_t slots = std::min(grow_step_, total_slots_ - slots_.size());
  data_->allocate(slots_.size() * kChunkSize, slots * kChunkSize, [this, slots](Status status) {
    if (!status.ok()) return on_grown(slots, std::move(status));
    // Durable before anything relies on it: after a power loss the reserved slots must still exist.
    data_->sync([this, slots](Status synced) { on_grown(slots, std::move(synced)); });
  });
}

void Disk::on_grown(std::uint64_t slots, Status status) {
  growing_ = false;
  if (grown_) std::exchange(grown_, nullptr)(true);
  if (status.ok()) {
    slots_.set_size(slots_.size() + slots);
  } else if (status.error().code() == ErrorCode::kNoSpace) {
    // The file system has less than expected. It is asked again when somebody needs room.
    total_slots_ = slots_.size();
    growth_refused_ = env_.now();
  } else {
    fail(status.error());
  }
  wake_writers();
  for (const auto& [id, replica] : replicas_) {
    if (!replica->fills().empty()) destager_.note_work(true);
  }
}

void Disk::free_slots_later(std::vector<std::uint64_t> slots, Callback<void()> done) {
  struct Freeing {
    std::vector<std::uint64_t> slots;
    Callback<void()> done;
  };
  auto* freeing = new Freeing{std::move(slots), std::move(done)};
  reads_.after_current([this, freeing] {
    std::unique_ptr<Freeing> owned(freeing);
    for (std::uint64_t slot : owned->slots) slots_.give_back(slot);
    owned->done();
  });
}

// ---- backpressure ----

bool Disk::above_limits() const {
  std::uint64_t ring = journal_->size_blocks();
  if (above_) {
    above_ = cached_bytes_ > options_.cache_bytes / 4 * 3 || journal_->used_blocks() > ring / 10 * 6;
  } else {
    above_ = cached_bytes_ > options_.cache_bytes || journal_->used_blocks() > ring / 4 * 3;
  }
  return above_;
}

bool Disk::above_low_marks() const {
  return cached_bytes_ > cache_low_mark() || unapplied_bytes_ > 4 * options_.cache_bytes ||
         journal_->used_blocks() > journal_->size_blocks() / 4 || journal_->waiting_for_room();
}

// An engine that died, or waits for another replica, leaves entries behind that are not known to be committed. The ring
// goes on behind them for a long while; then the other replicas of the disk must not wait for them.
void Disk::relieve_journal() {
  if (failure_ || closing_) return;
  if (!journal_->waiting_for_room() && journal_->used_blocks() <= journal_->size_blocks() / 4 * 3) return;
  std::uint64_t oldest = journal_->oldest_in_use();
  for (const auto& [id, replica] : replicas_) {
    if (!replica->deleted() && replica->holds_up(oldest)) replica->apply_uncommitted();
  }
}

// Rises from the marks where destaging begins towards what makes writers wait.
std::size_t Disk::destage_depth() const {
  if (closing_ || destager_.draining()) return kDestageDepthMax;
  auto share = [](std::uint64_t used, std::uint64_t of) {
    return static_cast<double>(used) / static_cast<double>(std::max<std::uint64_t>(of, 1));
  };
  double urgency = std::max((share(cached_bytes_, options_.cache_bytes) - 0.5) / 0.4,
                            (share(journal_->used_blocks(), journal_->size_blocks()) - 0.25) / 0.4);
  urgency = std::clamp(urgency, 0.0, 1.0);
  return kDestageDepthMin + static_cast<std::size_t>(urgency * (kDestageDepthMax - kDestageDepthMin));
}

void Disk::on_journalled(LogEntry& log) { log.owner->on_journalled(log); }

void Disk::wake_writers() {
  if (waking_) return;
  waking_ = true;
  env_.post([this] {
    waking_ = false;
    if (failure_) return;
    for (const auto& [id, replica] : replicas_) replica->try_waiting();
    for (const auto& [id, replica] : replicas_) replica->tell_ready();
  });
}

// ---- replicas ----

ReplicaStore* Disk::find(ReplicaId id) {
  auto at = replicas_.find(id);
  return at == replicas_.end() || at->second->deleted() ? nullptr : at->second.get();
}

std::vector<ReplicaId> Disk::list() const {
  std::vector<ReplicaId> ids;
  for (const auto& [id, replica] : replicas_) {
    if (!replica->deleted()) ids.push_back(id);
  }
  return ids;
}

// ---- closing ----

void Disk::close(Callback<void()> done) {
  closing_ = true;
  kv_->stop_waiting();
  for (const auto& [id, replica] : replicas_) {
    replica->fail_waiting(Error(ErrorCode::kCancelled, "disk " + label_.id + " is being closed"));
  }
  spawn(run_close(std::move(done)));
}

Task<void> Disk::run_close(Callback<void()> done) {
  Disk* self = this;
  Status completed =
      co_await suspend<Status>([self](StatusCallback next) { self->journal_->after_completion(std::move(next)); });
  if (completed.ok()) {
    (void)co_await suspend<bool>([self](Callback<void(bool)> next) {
      auto* waiting = new Callback<void(bool)>(std::move(next));
      self->destager_.drain(nullptr, [waiting] {
        std::unique_ptr<Callback<void(bool)>> owned(waiting);
        (*owned)(true);
      });
    });
    Status flushed = co_await suspend<Status>([self](StatusCallback next) { self->journal_->flush(std::move(next)); });
    (void)flushed;
  }
  // Merges of layers go on after the next start.
  (void)co_await suspend<bool>([self](Callback<void(bool)> next) {
    auto* waiting = new Callback<void(bool)>(std::move(next));
    self->destager_.pause([waiting] {
      std::unique_ptr<Callback<void(bool)>> owned(waiting);
      (*owned)(true);
    });
  });
  // What else may be under way: reads, growing the file, metadata writes, callbacks that are due.
  (void)co_await suspend<bool>([self](Callback<void(bool)> next) {
    auto* waiting = new Callback<void(bool)>(std::move(next));
    self->reads_.after_current([waiting] {
      std::unique_ptr<Callback<void(bool)>> owned(waiting);
      (*owned)(true);
    });
  });
  if (growing_) {
    (void)co_await suspend<bool>([self](Callback<void(bool)> next) { self->grown_ = std::move(next); });
  }
  Status written =
      co_await suspend<Status>([self](StatusCallback next) { self->kv_->write(KvBatch(), false, std::move(next)); });
  (void)written;
  (void)co_await suspend<Status>([self](StatusCallback next) { self->deferred_.call(std::move(next), Status()); });
  done();
}

}  // namespace holdfast::store
