// iscsi_memory: a target whose one volume is memory or a mapped file. For compliance suites, load and profiling of the
// iSCSI side alone. Prints its URL when it serves; ends on SIGINT or SIGTERM.
//
//   iscsi_memory [--portal 127.0.0.1:3260] [--size-mib 256] [--block-size 512|4096] [--file PATH]
//                [--iqn NAME] [--user NAME --secret SECRET [--mutual-user NAME --mutual-secret SECRET]]
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "io/uring_env.h"
#include "iscsi/memory_device.h"
#include "iscsi/target.h"

namespace {

using namespace holdfast;

struct Options {
  std::string portal = "127.0.0.1:3260";
  std::uint64_t size_mib = 256;
  std::uint32_t block_size = 512;
  std::string file;
  std::string iqn = "iqn.2026-11.io.holdfast:memory";
  std::string user, secret, mutual_user, mutual_secret;
};

bool parse(int count, char** arguments, Options& options) {
  for (int i = 1; i < count; i += 2) {
    std::string_view flag = arguments[i];
    if (i + 1 >= count) return false;
    std::string value = arguments[i + 1];
    if (flag == "--portal") {
      options.portal = value;
    } else if (flag == "--size-mib") {
      options.size_mib = std::strtoull(value.c_str(), nullptr, 10);
    } else if (flag == "--block-size") {
      options.block_size = static_cast<std::uint32_t>(std::strtoul(value.c_str(), nullptr, 10));
    } else if (flag == "--file") {
      options.file = value;
    } else if (flag == "--iqn") {
      options.iqn = value;
    } else if (flag == "--user") {
      options.user = value;
    } else if (flag == "--secret") {
      options.secret = value;
    } else if (flag == "--mutual-user") {
      options.mutual_user = value;
    } else if (flag == "--mutual-secret") {
      options.mutual_secret = value;
    } else {
      return false;
    }
  }
  return true;
}

class KeepNothing final : public iscsi::ReservationStore {
 public:
  explicit KeepNothing(Env& env) : env_(env) {}
  void save(const std::string&, std::string, StatusCallback done) override {
    done_.push_back(std::move(done));
    env_.post([this] {
      std::vector<StatusCallback> due = std::move(done_);
      done_.clear();
      for (StatusCallback& each : due) each(Status());
    });
  }

 private:
  Env& env_;
  std::vector<StatusCallback> done_;
};

Reactor* running = nullptr;

int fail(const Error& error) {
  std::fprintf(stderr, "iscsi_memory: %s\n", error.to_string().c_str());
  return 1;
}

}  // namespace

int main(int count, char** arguments) {
  Options options;
  if (!parse(count, arguments, options)) {
    std::fprintf(stderr, "iscsi_memory: bad usage; the head of iscsi_memory_main.cc lists the flags\n");
    return 2;
  }
  auto reactor = Reactor::create();
  if (!reactor.ok()) return fail(reactor.error());
  Env& env = (*reactor)->env();
  auto device = iscsi::MemoryDevice::create(env, options.size_mib << 20, options.block_size, options.file);
  if (!device.ok()) return fail(device.error());
  KeepNothing reservations(env);
  auto target = iscsi::Target::create(env, reservations);
  iscsi::TargetConfig config;
  config.iqn = options.iqn;
  config.serial = "00000000c0ffee00";
  config.naa_id = 0xc0ffee00;
  config.device = device->get();
  if (!options.user.empty()) config.chap = iscsi::ChapCredentials{options.user, options.secret};
  if (!options.mutual_user.empty())
    config.mutual_chap = iscsi::ChapCredentials{options.mutual_user, options.mutual_secret};
  if (Status added = target->add_target(std::move(config)); !added.ok()) return fail(added.error());
  auto address = Address::parse(options.portal);
  if (!address.ok()) return fail(address.error());
  auto bound = target->listen(*address);
  if (!bound.ok()) return fail(bound.error());
  std::printf("iscsi://%s/%s/0\n", bound->to_string().c_str(), options.iqn.c_str());
  std::fflush(stdout);
  running = reactor->get();
  auto stop = [](int) { running->stop(); };
  std::signal(SIGINT, stop);
  std::signal(SIGTERM, stop);
  (*reactor)->run();
  target.reset();
  return 0;
}
