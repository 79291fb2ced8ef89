#include "sim/sim_file.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "sim/sim_env.h"

namespace holdfast::sim {

namespace {

constexpr std::uint64_t kPage = 4096;
constexpr SimPage::Bytes kZeros{};

std::vector<SimPage::Bytes*>& free_pages() {
  static thread_local std::vector<SimPage::Bytes*> pages;
  return pages;
}

class SimFile : public File {
 public:
  SimFile(SimEnv& env, SimDisk& disk, SimFileData* data) : env_(env), disk_(disk), data_(data) {}
  ~SimFile() override {
    CHECK(in_flight_ == 0, "a file is destroyed with operations in flight");
    if (data_->locked_by == env_.process()->id) data_->locked_by = 0;
  }

  void read(std::uint64_t offset, std::span<std::byte> into, StatusCallback done) override {
    check_aligned(offset, into.size(), into.data());
    finish_later(operation_delay(), std::move(done), [this, offset, into]() -> Status {
      if (offset + into.size() > data_->size) {
        return Error(ErrorCode::kDiskIo, data_->path + ": read past the end of the file");
      }
      DiskFaults& faults = env_.world().disk_faults(env_.process()->node);
      if (disk_.unreadable(*data_, offset, into.size())) {
        return Error(ErrorCode::kDiskIo, data_->path + ": simulated bad sector");
      }
      if (chance(faults.read_error_ppm)) return Error(ErrorCode::kDiskIo, data_->path + ": simulated read error");
      std::uint64_t from = offset;
      if (chance(faults.misdirected_read_ppm)) {
        from = env_.world().random().below((data_->size - into.size()) / kPage + 1) * kPage;
      }
      disk_.read(*data_, from, into);
      if (chance(faults.corrupt_read_ppm)) {
        std::uint64_t bit = env_.world().random().below(into.size() * 8);
        into[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
      }
      return {};
    });
  }

  void write(std::uint64_t offset, std::span<const std::span<const std::byte>> parts, StatusCallback done) override {
    auto* write = new SimWrite{data_, env_.process()->id, offset, 0, {}};
    CHECK(parts.size() <= 1024, "too many parts in one write");
    for (auto part : parts) {
      check_aligned(offset, part.size(), part.data());
      write->length += part.size();
      for (; !part.empty(); part = part.subspan(kPage)) {
        SimPage page = SimPage::make();
        std::memcpy(page->data(), part.data(), kPage);
        write->pages.push_back(std::move(page));
      }
    }
    disk_.begin_write(write);
    finish_later(operation_delay(), std::move(done), [this, write]() -> Status {
      DiskFaults& faults = env_.world().disk_faults(env_.process()->node);
      Status status;
      if (chance(faults.write_error_ppm)) {
        status = Error(ErrorCode::kDiskIo, data_->path + ": simulated write error");
        write->length = env_.world().random().below(write->length / kSectorSize + 1) * kSectorSize;
      } else if (write->offset + write->length > data_->size && !room_for(write->length)) {
        status = Error(ErrorCode::kNoSpace, data_->path + ": simulated disk is full");
        write->length = 0;
      } else if (!is_label() && chance(faults.lost_write_ppm)) {
        write->length = 0;
      } else if (!is_label() && chance(faults.misdirected_write_ppm) && write->length <= data_->size) {
        write->offset = env_.world().random().below((data_->size - write->length) / kPage + 1) * kPage;
      }
      disk_.finish_write(write);
      return status;
    });
  }

  void sync(StatusCallback done) override {
    std::uint64_t generation = disk_.begin_sync(*data_);
    Delays& delays = env_.world().delays();
    Nanos delay(env_.world().random().between(static_cast<std::uint64_t>(delays.sync_min.count()),
                                              static_cast<std::uint64_t>(delays.sync_max.count())));
    finish_later(delay, std::move(done), [this, generation]() -> Status {
      if (chance(env_.world().disk_faults(env_.process()->node).write_error_ppm)) {
        return Error(ErrorCode::kDiskIo, data_->path + ": simulated sync error");
      }
      disk_.end_sync(*data_, generation);
      return {};
    });
  }

  void allocate(std::uint64_t offset, std::uint64_t length, StatusCallback done) override {
    finish_later(operation_delay(), std::move(done), [this, offset, length]() -> Status {
      if (offset + length > data_->size && !room_for(offset + length - data_->size)) {
        return Error(ErrorCode::kNoSpace, data_->path + ": simulated disk is full");
      }
      data_->size = std::max(data_->size, offset + length);
      return {};
    });
  }

  void punch_hole(std::uint64_t offset, std::uint64_t length, StatusCallback done) override {
    finish_later(operation_delay(), std::move(done), [this, offset, length]() -> Status {
      disk_.fill_with_zeros(*data_, offset, length);
      return {};
    });
  }

  std::uint64_t size() const override { return data_->size; }

 private:
  bool chance(std::uint64_t ppm) { return ppm != 0 && env_.world().random().chance(ppm, 1'000'000); }
  // Written once, when a disk is formatted; without it there is no disk.
  bool is_label() const { return data_->path.ends_with("disk.json"); }
  bool room_for(std::uint64_t bytes) {
    return disk_.used_bytes() + bytes <= env_.world().disk_faults(env_.process()->node).capacity_bytes;
  }
  Nanos operation_delay() {
    Delays& delays = env_.world().delays();
    DiskFaults& faults = env_.world().disk_faults(env_.process()->node);
    auto low = static_cast<std::uint64_t>(delays.disk_min.count());
    auto high = static_cast<std::uint64_t>(delays.disk_max.count());
    if (chance(faults.slow_ppm)) high = static_cast<std::uint64_t>(faults.slow_max.count());
    return Nanos(env_.world().random().between(low, std::max(low, high)));
  }
  static void check_aligned(std::uint64_t offset, std::size_t length, const std::byte* memory) {
    CHECK(offset % kPage == 0 && length % kPage == 0 && length > 0, "direct I/O needs multiples of 4096 bytes");
    CHECK(reinterpret_cast<std::uintptr_t>(memory) % kSectorSize == 0, "direct I/O needs aligned memory");
  }

  template <typename Effect>
  void finish_later(Nanos delay, StatusCallback done, Effect effect) {
    struct Pending {
      Effect effect;
      StatusCallback done;
    };
    ++in_flight_;
    auto* pending = new Pending{std::move(effect), std::move(done)};
    World& world = env_.world();
    world.schedule(
        world.now() + delay, env_.process(),
        [this, pending] {
          Status status = pending->effect();
          --in_flight_;
          StatusCallback callback = std::move(pending->done);
          delete pending;
          callback(std::move(status));
        },
        "file");
  }

  SimEnv& env_;
  SimDisk& disk_;
  SimFileData* data_;
  int in_flight_ = 0;
};

}  // namespace

// What is on them is whatever was.
SimPage SimPage::make() {
  SimPage page;
  if (free_pages().empty()) {
    page.bytes_ = new Bytes;
  } else {
    page.bytes_ = free_pages().back();
    free_pages().pop_back();
  }
  return page;
}

SimPage::~SimPage() {
  if (bytes_ != nullptr) free_pages().push_back(bytes_);
}

SimFileData* SimDisk::find(const std::string& path) {
  auto found = files_.find(path);
  return found == files_.end() ? nullptr : &found->second;
}

SimFileData* SimDisk::create(const std::string& path) {
  SimFileData& file = files_[path];
  file.path = path;
  return &file;
}

void SimDisk::remove_tree(const std::string& prefix) {
  std::erase_if(files_, [&](const auto& entry) { return entry.first.starts_with(prefix); });
}

std::vector<std::string> SimDisk::paths() const {
  std::vector<std::string> paths;
  for (const auto& [path, file] : files_) paths.push_back(path);
  return paths;
}

std::uint64_t SimDisk::begin_sync(SimFileData& file) {
  if (!file.unsynced.empty() && !file.unsynced.back().before.empty()) {
    file.unsynced.push_back({file.next_generation++, {}});
  }
  return file.unsynced.empty() ? 0 : file.unsynced.back().id - 1;
}

void SimDisk::end_sync(SimFileData& file, std::uint64_t generation) {
  while (!file.unsynced.empty() && file.unsynced.front().id <= generation) file.unsynced.pop_front();
}

// The content so far is kept for a power loss before the next sync. Zeros over what never was anything are not stored.
void SimDisk::apply(SimFileData& file, std::uint64_t index, SimPage page) {
  file.size = std::max(file.size, (index + 1) * kPage);
  file.unreadable.erase(index);
  auto now = file.current.lower_bound(index);
  bool fresh = now == file.current.end() || now->first != index;
  if (fresh && *page == kZeros) return;
  if (file.unsynced.empty()) file.unsynced.push_back({file.next_generation++, {}});
  auto [before, first] = file.unsynced.back().before.try_emplace(index);
  if (fresh) {
    file.current.emplace_hint(now, index, std::move(page));
    return;
  }
  std::swap(now->second, page);
  if (first) before->second = std::move(page);
}

void SimDisk::apply(SimFileData& file, std::uint64_t offset, std::span<const std::byte> sectors) {
  while (!sectors.empty()) {
    std::uint64_t within = offset % kPage;
    std::size_t length = std::min<std::size_t>(sectors.size(), kPage - within);
    auto now = file.current.find(offset / kPage);
    SimPage page = SimPage::make();
    *page = now == file.current.end() ? kZeros : *now->second;
    std::memcpy(page->data() + within, sectors.data(), length);
    std::uint64_t size = file.size;
    apply(file, offset / kPage, std::move(page));
    offset += length;
    sectors = sectors.subspan(length);
    file.size = std::max(size, offset);
  }
}

void SimDisk::fill_with_zeros(SimFileData& file, std::uint64_t offset, std::uint64_t length) {
  for (std::uint64_t done = 0; done < length; done += kPage) {
    SimPage page = SimPage::make();
    *page = kZeros;
    apply(file, (offset + done) / kPage, std::move(page));
  }
}

void SimDisk::read(SimFileData& file, std::uint64_t offset, std::span<std::byte> into) const {
  for (std::size_t done = 0; done < into.size(); done += kPage) {
    auto page = file.current.find((offset + done) / kPage);
    if (page == file.current.end()) {
      std::memset(into.data() + done, 0, kPage);
    } else {
      std::memcpy(into.data() + done, page->second->data(), kPage);
    }
  }
}

std::uint64_t SimDisk::used_bytes() const {
  std::uint64_t used = 0;
  for (const auto& [path, file] : files_) used += file.size;
  return used;
}

void SimDisk::finish_write(SimWrite* write) {
  std::uint64_t whole = write->length / kPage;
  for (std::uint64_t i = 0; i < whole; ++i) {
    apply(*write->file, write->offset / kPage + i, std::move(write->pages[i]));
  }
  if (std::uint64_t rest = write->length % kPage; rest > 0) {
    apply(*write->file, write->offset + whole * kPage, std::span(*write->pages[whole]).first(rest));
  }
  std::erase(in_flight_, write);
  delete write;
}

void SimDisk::process_died(std::uint64_t process_id) {
  Random& random = world_.random();
  std::vector<SimWrite*> kept;
  for (SimWrite* write : in_flight_) {
    if (write->process_id != process_id) {
      kept.push_back(write);
      continue;
    }
    std::uint64_t fate = random.below(3);  // not at all, whole, some sectors
    for (std::size_t at = 0; fate != 0 && at < write->length; at += kSectorSize) {
      if (fate == 1 || random.chance(1, 2)) {
        std::span<const std::byte> page = *write->pages[at / kPage];
        apply(*write->file, write->offset + at, page.subspan(at % kPage, kSectorSize));
      }
    }
    delete write;
  }
  in_flight_ = std::move(kept);
  for (auto& [path, file] : files_) {
    if (file.locked_by == process_id) file.locked_by = 0;
  }
}

void SimDisk::power_lost() {
  Random& random = world_.random();
  std::uint64_t mood = random.below(4);  // nothing unsynced survives, all of it, by page, by sector
  for (auto& [path, file] : files_) {
    std::map<std::uint64_t, const SimPage*> durable;
    for (const SimFileData::Generation& generation : file.unsynced) {
      for (const auto& [index, page] : generation.before) durable.try_emplace(index, &page);
    }
    for (const auto& [index, page] : durable) {
      const SimPage::Bytes& old = *page ? **page : kZeros;
      SimPage& held = file.current[index];
      if (!held) {
        held = SimPage::make();
        *held = kZeros;
      }
      SimPage::Bytes& now = *held;
      bool page_survives = mood == 1 || (mood == 2 && random.chance(1, 2));
      for (std::size_t at = 0; at < kPage; at += kSectorSize) {
        bool survives = mood == 3 ? random.chance(1, 2) : page_survives;
        if (!survives) std::memcpy(now.data() + at, old.data() + at, kSectorSize);
      }
    }
    file.unsynced.clear();
  }
}

bool SimDisk::unreadable(const SimFileData& file, std::uint64_t offset, std::uint64_t length) const {
  auto bad = file.unreadable.lower_bound(offset / kPage);
  return bad != file.unreadable.end() && *bad < (offset + length) / kPage;
}

bool SimDisk::lose_page(const std::string& path) {
  SimFileData* file = find(path);
  if (!file || file->current.empty()) return false;
  auto page = file->current.begin();
  std::advance(page, static_cast<std::ptrdiff_t>(world_.random().below(file->current.size())));
  file->unreadable.insert(page->first);
  return true;
}

bool SimDisk::flip_stored_bit(const std::string& path) {
  SimFileData* file = find(path);
  if (!file || file->current.empty()) return false;
  auto page = file->current.begin();
  std::advance(page, static_cast<std::ptrdiff_t>(world_.random().below(file->current.size())));
  std::uint64_t bit = world_.random().below(kPage * 8);
  auto flipped = static_cast<std::byte>(1u << (bit % 8));
  (*page->second)[bit / 8] ^= flipped;
  for (SimFileData::Generation& generation : file->unsynced) {
    auto before = generation.before.find(page->first);
    if (before != generation.before.end() && before->second) (*before->second)[bit / 8] ^= flipped;
  }
  return true;
}

void SimEnv::open_file(std::string path, FileOptions options, OpenCallback done) {
  struct Pending {
    std::string path;
    FileOptions options;
    OpenCallback done;
  };
  auto* pending = new Pending{std::move(path), options, std::move(done)};
  world_.schedule(
      world_.now() + world_.delays().disk_min, process_,
      [this, pending] {
        std::unique_ptr<Pending> request(pending);
        SimDisk& disk = world_.disk(process_->node);
        SimFileData* file = disk.find(request->path);
        if (!file && !request->options.create) {
          request->done(Error(ErrorCode::kNotFound, request->path + ": no such file"));
          return;
        }
        if (!file) file = disk.create(request->path);
        if (request->options.exclusive) {
          if (file->locked_by != 0) {
            request->done(Error(ErrorCode::kInUse, request->path + " is locked by another process"));
            return;
          }
          file->locked_by = process_->id;
        }
        request->done(std::unique_ptr<File>(new SimFile(*this, disk, file)));
      },
      "open");
}

}  // namespace holdfast::sim
