// The Kv on RocksDB. One write runs at a time on a helper thread; those that arrive meanwhile go together in the next
// one (so batches become durable in the order of writing, and syncs are shared).
#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>

#include "base/log.h"
#include "store/kv.h"

namespace holdfast::store {

namespace {

constexpr Nanos kSpaceRetry = 1s;
// What the database may need beyond what it has: a flush of what is in memory, and a new log. It is not let to meet the
// end of the file system: after a failed write of its log it goes on only by itself, every few seconds, or not at all.
constexpr std::uint64_t kRoom = 64u << 20;
// What RocksDB's batch adds to a key and a value: a tag and two lengths.
constexpr std::size_t kBatchBytesPerChange = 16;

// What keeps it from writing, if anything.
rocksdb::Status room_in(rocksdb::Env& files, const std::string& directory) {
  std::uint64_t free = 0;
  if (!files.GetFreeSpace(directory, &free).ok() || free >= kRoom) return rocksdb::Status::OK();
  return rocksdb::Status::NoSpace(std::to_string(free >> 20) + " MiB are free in the file system of " + directory +
                                  ", " + std::to_string(kRoom >> 20) + " MiB are needed");
}

Error disk_error(const rocksdb::Status& status) {
  ErrorCode code = status.IsCorruption() ? ErrorCode::kCorrupt
                   : status.IsNoSpace()  ? ErrorCode::kNoSpace
                                         : ErrorCode::kDiskIo;
  return Error(code, "the metadata database failed: " + status.ToString());
}

class RocksKv final : public Kv {
 public:
  RocksKv(Env& env, std::string directory, std::unique_ptr<rocksdb::DB> db)
      : env_(env), directory_(std::move(directory)), db_(std::move(db)), space_timer_(env) {}

  std::optional<std::optional<std::string>> get_if_cached(std::string_view key) override {
    rocksdb::ReadOptions options;
    options.read_tier = rocksdb::kBlockCacheTier;
    rocksdb::PinnableSlice value;
    rocksdb::Status status = db_->Get(options, db_->DefaultColumnFamily(), slice_of(key), &value);
    if (status.ok()) return std::optional<std::string>(value.ToString());
    if (status.IsNotFound()) return std::optional<std::string>();
    return std::nullopt;
  }

  void get(std::string key, Callback<void(Result<std::optional<std::string>>)> done) override {
    struct Operation {
      std::string key;
      std::string value;
      rocksdb::Status status;
      Callback<void(Result<std::optional<std::string>>)> done;
    };
    auto* operation = new Operation{std::move(key), {}, {}, std::move(done)};
    env_.run_blocking(
        [db = db_.get(), operation] { operation->status = db->Get({}, operation->key, &operation->value); },
        [operation] {
          std::unique_ptr<Operation> owned(operation);
          if (owned->status.ok()) {
            owned->done(std::optional<std::string>(std::move(owned->value)));
          } else if (owned->status.IsNotFound()) {
            owned->done(std::optional<std::string>());
          } else {
            owned->done(disk_error(owned->status));
          }
        });
  }

  void range(std::string first, std::string end, std::size_t max, Callback<void(Result<KvPairs>)> done) override {
    struct Operation {
      std::string first, end;
      std::size_t max;
      KvPairs pairs;
      rocksdb::Status status;
      Callback<void(Result<KvPairs>)> done;
    };
    auto* operation = new Operation{std::move(first), std::move(end), max, {}, {}, std::move(done)};
    env_.run_blocking(
        [db = db_.get(), operation] {
          rocksdb::Slice bound(operation->end);
          rocksdb::ReadOptions options;
          options.iterate_upper_bound = &bound;
          options.fill_cache = false;
          std::unique_ptr<rocksdb::Iterator> at(db->NewIterator(options));
          for (at->Seek(operation->first); at->Valid() && operation->pairs.size() < operation->max; at->Next()) {
            operation->pairs.emplace_back(at->key().ToString(), at->value().ToString());
          }
          operation->status = at->status();
        },
        [operation] {
          std::unique_ptr<Operation> owned(operation);
          if (owned->status.ok()) {
            owned->done(std::move(owned->pairs));
          } else {
            owned->done(disk_error(owned->status));
          }
        });
  }

  void write(KvBatch batch, bool sync, StatusCallback done) override {
    waiting_.push_back({std::move(batch), sync, std::move(done)});
    if (!running_) start_writing();
  }

  bool waits_for_space() const override { return told_full_; }
  void on_space(Callback<void()> changed) override { space_changed_ = std::move(changed); }
  void stop_waiting() override {
    stopping_ = true;
    space_timer_.cancel();
    if (full_) end(std::move(full_));
  }

  std::uint64_t disk_bytes() override {
    std::uint64_t bytes = 0;
    db_->GetIntProperty(rocksdb::DB::Properties::kTotalSstFilesSize, &bytes);
    std::uint64_t memory = 0;
    db_->GetIntProperty(rocksdb::DB::Properties::kCurSizeAllMemTables, &memory);
    return bytes + memory;
  }

 private:
  struct Write {
    KvBatch batch;
    bool sync;
    StatusCallback done;
  };
  // The writes of one run, all or none.
  struct Run {
    std::vector<Write> writes;
    rocksdb::Status status;
  };

  static rocksdb::Slice slice_of(std::string_view text) { return rocksdb::Slice(text.data(), text.size()); }

  void start_writing() {
    running_ = true;
    perform_later(std::unique_ptr<Run>(new Run{std::exchange(waiting_, {}), {}}));
  }
  void perform_later(std::unique_ptr<Run> owned) {
    Run* run = owned.release();
    env_.run_blocking([db = db_.get(), run] { run->status = perform(db, run->writes); },
                      [this, run] { finish(std::unique_ptr<Run>(run)); });
  }

  static rocksdb::Status perform(rocksdb::DB* db, const std::vector<Write>& writes) {
    if (rocksdb::Status room = room_in(*db->GetEnv(), db->GetName()); !room.ok()) return room;
    std::size_t bytes = 0;
    for (const Write& write : writes) bytes += write.batch.bytes() + write.batch.count() * kBatchBytesPerChange;
    rocksdb::WriteBatch together(bytes);
    rocksdb::WriteOptions options;
    rocksdb::Status status;
    auto add = [&](const KvBatch::Change& change) {
      if (!status.ok()) return;
      switch (change.kind) {
        case KvBatch::Kind::kPut:
          status = together.Put(slice_of(change.key), slice_of(change.value));
          break;
        case KvBatch::Kind::kRemove:
          status = together.Delete(slice_of(change.key));
          break;
        case KvBatch::Kind::kRemoveRange:
          status = together.DeleteRange(slice_of(change.key), slice_of(change.value));
          break;
      }
    };
    for (const Write& write : writes) {
      options.sync |= write.sync;
      write.batch.for_each(add);
    }
    if (!status.ok()) return status;
    return db->Write(options, &together);
  }

  void finish(std::unique_ptr<Run> run) {
    if (run->status.IsNoSpace() && !stopping_) return wait_for_space(std::move(run));
    if (std::exchange(told_full_, false)) {
      log_info("store", "the metadata in " + directory_ + " has room again");
      if (space_changed_) space_changed_();
    }
    end(std::move(run));
  }

  // Should the database have met the end: whether a batch whose write failed survives a crash is open, as for any write
  // that has not ended. It is written again before anything else, so that the order stays.
  void wait_for_space(std::unique_ptr<Run> run) {
    full_ = std::move(run);
    space_timer_.arm_after(kSpaceRetry, [this] { perform_later(std::move(full_)); });
    if (std::exchange(told_full_, true)) return;
    log_warn("store", "the file system of " + directory_ + " is full: writes wait until there is room for metadata");
    if (space_changed_) space_changed_();
  }
  void end(std::unique_ptr<Run> run) {
    running_ = false;
    if (!waiting_.empty()) start_writing();
    for (Write& write : run->writes) {
      write.done(run->status.ok() ? Status() : Status(disk_error(run->status)));
    }
  }

  Env& env_;
  std::string directory_;
  std::unique_ptr<rocksdb::DB> db_;
  std::vector<Write> waiting_;
  bool running_ = false;
  bool stopping_ = false;
  bool told_full_ = false;
  std::unique_ptr<Run> full_;  // found no room; the timer is to repeat it
  Timer space_timer_;
  Callback<void()> space_changed_;
};

rocksdb::Options options_of(std::size_t cache_bytes, rocksdb::Env* files) {
  rocksdb::Options options;
  if (files) options.env = files;
  options.create_if_missing = true;
  options.paranoid_checks = true;
  options.compression = rocksdb::kNoCompression;  // values are mostly CRCs
  options.write_buffer_size = 32u << 20;
  options.max_write_buffer_number = 3;
  options.max_background_jobs = 2;
  options.max_open_files = 512;
  options.max_total_wal_size = 128u << 20;
  options.keep_log_file_num = 4;
  options.max_log_file_size = 4u << 20;
  options.stats_dump_period_sec = 0;  // no wake-ups when idle
  options.stats_persist_period_sec = 0;
  options.info_log_level = rocksdb::WARN_LEVEL;
  // A power loss may leave holes in the unsynced end of the log. That nothing synced is missing is checked against the
  // journal (BatchHeader::oldest_number).
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kPointInTimeRecovery;
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = rocksdb::NewLRUCache(cache_bytes);
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  table.cache_index_and_filter_blocks = true;
  table.format_version = 5;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

Task<Result<std::unique_ptr<Kv>>> open_rocks(Env* env, std::string directory, std::size_t cache_bytes,
                                             rocksdb::Env* files) {
  struct Opening {
    std::string directory;
    rocksdb::Options options;
    rocksdb::DB* db = nullptr;
    rocksdb::Status status;
  };
  auto opening = std::make_unique<Opening>();
  opening->directory = std::move(directory);
  opening->options = options_of(cache_bytes, files);
  Opening* work = opening.get();
  co_await suspend<bool>([env, work](Callback<void(bool)> done) {
    // The callback is too large to travel inside another one.
    auto* finished = new Callback<void(bool)>(std::move(done));
    env->run_blocking(
        [work] {
          work->status = room_in(*work->options.env, work->directory);
          if (work->status.ok()) work->status = rocksdb::DB::Open(work->options, work->directory, &work->db);
        },
        [finished] {
          std::unique_ptr<Callback<void(bool)>> owned(finished);
          (*owned)(true);
        });
  });
  if (!work->status.ok()) co_return disk_error(work->status);
  std::unique_ptr<Kv> kv = std::make_unique<RocksKv>(*env, work->directory, std::unique_ptr<rocksdb::DB>(work->db));
  co_return kv;
}

}  // namespace

OpenKv rocks_kv(std::size_t cache_bytes, rocksdb::Env* files) {
  return [=](Env& env, std::string directory) { return open_rocks(&env, std::move(directory), cache_bytes, files); };
}

}  // namespace holdfast::store
