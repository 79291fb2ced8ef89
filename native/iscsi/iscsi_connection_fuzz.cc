// libFuzzer target: any bytes from an initiator, to a target with one volume. The first byte says how the input is cut
// into deliveries (bits 2 to 7) and whether the login comes for free (bit 0), with digests (bit 1). Corpus:
// native/iscsi/corpus/iscsi_connection.
#include <cstdint>
#include <cstdlib>

#include "base/log.h"
#include "iscsi/memory_device.h"
#include "iscsi/target.h"
#include "iscsi/testing/raw_initiator.h"

namespace {

using namespace holdfast;         // NOLINT: a program
using namespace holdfast::iscsi;  // NOLINT

class SaveNothing final : public ReservationStore {
 public:
  void save(const std::string&, std::string, StatusCallback done) override { done(Status()); }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  set_log_level(LogLevel::kError);
  if (size == 0) return 0;
  testing::MemoryEnv env;
  SaveNothing store;
  {
    auto device = *MemoryDevice::create(env, 1u << 20, 512);
    auto target = Target::create(env, store);
    TargetConfig config;
    config.iqn = testing::kTargetName;
    config.serial = "0123456789abcdef";
    config.device = device.get();
    if (!target->add_target(std::move(config)).ok()) std::abort();
    Address address = *target->listen({"127.0.0.1", 0, ""});
    testing::RawInitiator host(env, address);
    host.cmd_sn = 0;
    if (data[0] & 1) {
      const char* digest = data[0] & 2 ? "CRC32C" : "None";
      if (host.login({{"InitialR2T", "No"}, {"HeaderDigest", digest}, {"DataDigest", digest}}) != 0) std::abort();
      host.clear_attentions();
    }
    env.chunk_bytes = data[0] < 4 ? 65'536 : data[0] >> 2;
    host.send_bytes({reinterpret_cast<const char*>(data) + 1, size - 1});
    env.advance(120s);  // beyond login timeout and keep-alive: a peer that says no more is gone
    if (!host.closed) std::abort();
    if (!target->sessions().empty()) std::abort();
    // Others are served as before.
    testing::RawInitiator other(env, address);
    other.isid[5] = 9;
    if (other.login() != 0) std::abort();
  }
  env.settle();
  if (env.buffers().bytes_in_use() != 0) std::abort();
  return 0;
}
