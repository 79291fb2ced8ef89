#include "store/model_kv.h"

#include <deque>

#include "store/bytes.h"

namespace holdfast::store {

namespace {

void apply_batch(std::map<std::string, std::string>& pairs, const KvBatch& batch) {
  batch.for_each([&](const KvBatch::Change& change) {
    std::string key(change.key);
    switch (change.kind) {
      case KvBatch::Kind::kPut:
        pairs[key] = std::string(change.value);
        break;
      case KvBatch::Kind::kRemove:
        pairs.erase(key);
        break;
      case KvBatch::Kind::kRemoveRange:
        pairs.erase(pairs.lower_bound(key), pairs.lower_bound(std::string(change.value)));
        break;
    }
  });
}

}  // namespace

class ModelKv final : public Kv {
 public:
  ModelKv(Env& env, ModelKvDisk* disk, std::string directory)
      : env_(env), disk_(disk), database_(disk->databases_[std::move(directory)]) {}

  // Now and then "not in memory", so that both ways are taken.
  std::optional<std::optional<std::string>> get_if_cached(std::string_view key) override {
    if (env_.random() % 4 == 0) return std::nullopt;
    return find(key);
  }

  void get(std::string key, Callback<void(Result<std::optional<std::string>>)> done) override {
    struct Operation {
      std::string key;
      Callback<void(Result<std::optional<std::string>>)> done;
    };
    auto* operation = new Operation{std::move(key), std::move(done)};
    env_.run_blocking([] {},
                      [this, operation] {
                        std::unique_ptr<Operation> owned(operation);
                        owned->done(find(owned->key));
                      });
  }

  void range(std::string first, std::string end, std::size_t max, Callback<void(Result<KvPairs>)> done) override {
    struct Operation {
      std::string first, end;
      std::size_t max;
      Callback<void(Result<KvPairs>)> done;
    };
    auto* operation = new Operation{std::move(first), std::move(end), max, std::move(done)};
    env_.run_blocking([] {},
                      [this, operation] {
                        std::unique_ptr<Operation> owned(operation);
                        KvPairs pairs;
                        auto at = database_.current.lower_bound(owned->first);
                        while (at != database_.current.end() && at->first < owned->end && pairs.size() < owned->max) {
                          pairs.push_back(*at++);
                        }
                        owned->done(std::move(pairs));
                      });
  }

  void write(KvBatch batch, bool sync, StatusCallback done) override {
    writes_.push_back({std::move(batch), sync, std::move(done), false});
    if (!writing_) write_next();
  }

  std::uint64_t disk_bytes() override {
    std::uint64_t bytes = 0;
    for (const auto& [key, value] : database_.current) bytes += key.size() + value.size();
    return bytes;
  }

 private:
  struct Write {
    KvBatch batch;
    bool sync;
    StatusCallback done;
    bool failed;
  };

  std::optional<std::string> find(std::string_view key) const {
    ++disk_->lookups_;
    auto at = database_.current.find(std::string(key));
    if (at == database_.current.end()) return std::nullopt;
    return at->second;
  }

  // One at a time: batches become durable in the order of writing. A kill may come between that and the callback.
  void write_next() {
    if (writes_.empty()) return;
    writing_ = true;
    env_.run_blocking([] {},
                      [this] {
                        perform(writes_.front());
                        env_.post([this] { finish(); });
                      });
  }

  void finish() {
    Write finished = std::move(writes_.front());
    writes_.pop_front();
    writing_ = false;
    write_next();
    finished.done(finished.failed ? Status(Error(ErrorCode::kDiskIo, "metadata write failed")) : Status());
  }

  void perform(Write& write) {
    if (disk_->failing_) {
      write.failed = true;
      return;
    }
    apply_batch(database_.current, write.batch);
    database_.unsynced.push_back(write.batch);
    if (!write.sync) return;
    for (const KvBatch& earlier : database_.unsynced) apply_batch(database_.synced, earlier);
    database_.unsynced.clear();
    ++disk_->syncs_;
  }

  Env& env_;
  ModelKvDisk* disk_;
  ModelKvDisk::Database& database_;
  std::deque<Write> writes_;
  bool writing_ = false;
};

void ModelKvDisk::power_loss(const std::function<std::uint64_t(std::uint64_t)>& random) {
  for (auto& [directory, database] : databases_) {
    std::uint64_t kept = random(database.unsynced.size() + 1);
    for (std::uint64_t i = 0; i < kept; ++i) apply_batch(database.synced, database.unsynced[i]);
    database.unsynced.clear();
    database.current = database.synced;
  }
}

std::string ModelKvDisk::dump(const std::string& directory) const {
  std::string out;
  auto found = databases_.find(directory);
  if (found == databases_.end()) return out;
  for (const auto& [key, value] : found->second.current) {
    put_u32(out, static_cast<std::uint32_t>(key.size()));
    put_u32(out, static_cast<std::uint32_t>(value.size()));
    out += key + value;
  }
  return out;
}

void ModelKvDisk::load(const std::string& directory, std::string_view bytes) {
  Database& database = databases_[directory];
  while (bytes.size() >= 8) {
    ByteReader sizes(bytes);
    std::size_t key = sizes.u32();
    std::size_t value = sizes.u32();
    CHECK(bytes.size() >= 8 + key + value);
    database.current[std::string(bytes.substr(8, key))] = std::string(bytes.substr(8 + key, value));
    bytes.remove_prefix(8 + key + value);
  }
  database.synced = database.current;
}

namespace {

Task<Result<std::unique_ptr<Kv>>> open_model(Env* env, ModelKvDisk* disk, std::string directory) {
  std::unique_ptr<Kv> kv = std::make_unique<ModelKv>(*env, disk, std::move(directory));
  co_return kv;
}

}  // namespace

OpenKv model_kv(ModelKvDisk* disk) {
  return [disk](Env& env, std::string directory) { return open_model(&env, disk, std::move(directory)); };
}

}  // namespace holdfast::store
