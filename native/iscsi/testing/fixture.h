// A target with one volume in memory, on a MemoryEnv, and initiators that speak to it byte by byte.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/log.h"
#include "iscsi/memory_device.h"
#include "iscsi/target.h"
#include "iscsi/testing/cdbs.h"
#include "iscsi/testing/raw_initiator.h"

namespace holdfast::iscsi::testing {

// Keeps what it is given; answers when told to, or at once in a later turn.
class RecordingStore final : public ReservationStore {
 public:
  explicit RecordingStore(Env& env) : env_(env) {}
  void save(const std::string& iqn, std::string reservations, StatusCallback done) override {
    ++saves;
    if (!failure) saved[iqn] = std::move(reservations);
    waiting_.push_back(std::move(done));
    if (!held) answer();
  }
  void answer() {
    env_.post([this] {
      auto due = std::move(waiting_);
      waiting_.clear();
      for (auto& done : due) done(failure ? Status(Error(*failure, "told to fail")) : Status());
    });
  }

  std::map<std::string, std::string> saved;
  std::optional<ErrorCode> failure;
  bool held = false;
  int saves = 0;

 private:
  Env& env_;
  std::vector<StatusCallback> waiting_;
};

// `size` bytes that differ from place to place and from `seed` to seed.
inline std::string pattern(std::size_t size, std::uint64_t seed) {
  std::string bytes(size, '\0');
  std::uint64_t state = seed * 0x9E3779B97F4A7C15ull + 1;
  for (std::size_t i = 0; i < size; ++i) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    bytes[i] = static_cast<char>(state >> 56);
  }
  return bytes;
}

class TargetTest : public ::testing::Test {
 protected:
  void SetUp() override { start(512); }
  void TearDown() override {
    for (auto& each : initiators_) EXPECT_EQ(each->problem, "");
  }

  void start(std::uint32_t block_size, const std::function<void(TargetConfig&)>& change = nullptr) {
    set_log_level(LogLevel::kError);  // what happens here is meant to
    initiators_.clear();
    target.reset();
    device = *MemoryDevice::create(env, kVolumeBytes, block_size);
    target = Target::create(env, store, bytes_max);
    TargetConfig config;
    config.iqn = kTargetName;
    config.alias = "test";
    config.serial = "0123456789abcdef";
    config.naa_id = 0x0123456789abcdef;
    config.device = device.get();
    if (change) change(config);
    Status added = target->add_target(std::move(config));
    ASSERT_TRUE(added.ok()) << added.error().to_string();
    address = *target->listen({"127.0.0.1", 0, ""});
  }

  RawInitiator& connect() {
    initiators_.push_back(std::make_unique<RawInitiator>(env, address));
    return *initiators_.back();
  }
  // Logged in, unit attentions taken.
  RawInitiator& session(const RawInitiator::Keys& keys = {}, std::uint8_t port = 1) {
    RawInitiator& made = connect();
    made.isid[5] = port;
    EXPECT_EQ(made.login(keys), 0);
    made.clear_attentions();
    return made;
  }

  std::string on_device(std::uint64_t offset, std::size_t length) {
    return std::string(reinterpret_cast<const char*>(device->bytes().data()) + offset, length);
  }

  static constexpr std::uint64_t kVolumeBytes = 16u << 20;

  std::uint64_t bytes_max = kTargetBytesMax;
  MemoryEnv env;
  RecordingStore store{env};
  std::unique_ptr<MemoryDevice> device;
  std::unique_ptr<Target> target;
  Address address;

 private:
  std::vector<std::unique_ptr<RawInitiator>> initiators_;
};

}  // namespace holdfast::iscsi::testing
