// replica_server: one disk served without Node, for tests and interoperability: opens (or makes and formats) a folder,
// serves the replica API on an address, and prints one line {"listen":ADDRESS,"diskId":ID}. SIGTERM and SIGINT end it
// in an orderly way; SIGKILL is safe at any point.
//
//   replica_server --dir DIR --listen HOST:PORT|unix:PATH [--journal-bytes N] [--capacity-bytes N]
//
// Threads: main waits for signals, another one runs the reactor, which everything belongs to.
#include <signal.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <filesystem>
#include <thread>

#include "io/reactor.h"
#include "replica/replica_service.h"

namespace holdfast {
namespace {

struct Options {
  store::StoreOptions store;
  std::string listen;
};

constexpr std::size_t kMetadataCacheBytes = 32u << 20;

Result<std::uint64_t> parse_number(const std::string& name, std::string_view text) {
  std::uint64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    return Error(ErrorCode::kInvalidArgument, name + " takes a number of bytes");
  }
  return value;
}

Result<Options> parse_options(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i += 2) {
    std::string name = argv[i];
    if (i + 1 == argc) return Error(ErrorCode::kInvalidArgument, name + " needs a value");
    std::string value = argv[i + 1];
    if (name == "--dir") {
      options.store.directory = value;
    } else if (name == "--listen") {
      options.listen = value;
    } else if (name == "--journal-bytes") {
      ASSIGN_OR_RETURN(options.store.journal_bytes, parse_number(name, value));
    } else if (name == "--capacity-bytes") {
      ASSIGN_OR_RETURN(options.store.capacity_bytes, parse_number(name, value));
    } else {
      return Error(ErrorCode::kInvalidArgument, "unknown option " + name);
    }
  }
  if (options.store.directory.empty() || options.listen.empty()) {
    return Error(ErrorCode::kInvalidArgument, "--dir and --listen are needed");
  }
  return options;
}

[[noreturn]] void fail(const Error& error, int exit_code) {
  std::fprintf(stderr, "replica_server: %s\n", error.to_string().c_str());
  ::_exit(exit_code);
}

class ReplicaServer {
 public:
  explicit ReplicaServer(Reactor& reactor) : reactor_(reactor) {}

  void open(Options options) { spawn(run_open(this, std::move(options))); }

  void close() {
    service_.reset();
    server_.reset();
    if (!disk_) return reactor_.stop();
    disk_->close([this] {
      reactor_.env().post([this] {  // not from inside a call of the disk itself
        disk_.reset();
        reactor_.stop();
      });
    });
  }

 private:
  static Task<void> run_open(ReplicaServer* self, Options options) {
    Result<Address> address = Address::parse(options.listen);
    if (!address.ok()) fail(address.error(), 2);
    Env& env = self->reactor_.env();
    std::error_code ignored;  // opening will tell
    std::filesystem::create_directories(options.store.directory, ignored);
    store::OpenKv open_kv = store::rocks_kv(kMetadataCacheBytes);
    Result<std::unique_ptr<store::DiskStore>> disk =
        co_await store::DiskStore::open(env, std::move(options.store), std::move(open_kv));
    if (!disk.ok()) fail(disk.error(), 1);
    self->disk_ = std::move(disk).value();
    self->server_ = rpc::Server::create(env);
    self->service_ = replica::ReplicaService::create(env, *self->disk_, *self->server_);
    Result<Address> bound = self->server_->listen(*address);
    if (!bound.ok()) fail(bound.error(), 1);
    std::printf("{\"listen\":\"%s\",\"diskId\":\"%s\"}\n", bound->to_string().c_str(), self->disk_->disk_id().c_str());
    std::fflush(stdout);
  }

  Reactor& reactor_;
  std::unique_ptr<store::DiskStore> disk_;
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<replica::ReplicaService> service_;
};

int run(int argc, char** argv) {
  Result<Options> options = parse_options(argc, argv);
  if (!options.ok()) fail(options.error(), 2);
  sigset_t ending;
  sigemptyset(&ending);
  sigaddset(&ending, SIGTERM);
  sigaddset(&ending, SIGINT);
  pthread_sigmask(SIG_BLOCK, &ending, nullptr);

  Result<std::unique_ptr<Reactor>> reactor = Reactor::create();
  if (!reactor.ok()) fail(reactor.error(), 1);
  ReplicaServer server(**reactor);
  server.open(std::move(options).value());
  std::thread thread([&] { (*reactor)->run(); });
  int signal = 0;
  sigwait(&ending, &signal);
  (*reactor)->post_from_any_thread([&server] { server.close(); });
  thread.join();
  return 0;
}

}  // namespace
}  // namespace holdfast

int main(int argc, char** argv) { return holdfast::run(argc, argv); }
