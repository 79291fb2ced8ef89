// ReplicaHost: what a replica process runs on its reactor: one disk, served over gRPC.
// Thread: everything on the reactor, from construction to destruction.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/task.h"
#include "io/env.h"
#include "replica/replica_service.h"
#include "rpc/rpc.h"
#include "store/store.h"

namespace holdfast::addon {

struct ReplicaOptions {
  store::StoreOptions store;
  std::vector<std::string> listen;  // addresses, see Address::parse
  std::size_t metadata_cache_bytes = 0;
  std::optional<tls::Credentials> credentials;  // what TLS with other hosts needs; none: everything is plain
};

struct ReplicaOpened {
  std::string disk_id;
  std::vector<std::string> listen;  // as bound
};

struct DiskStatus {
  std::string disk_id;
  store::SpaceInfo space;
  std::string failure;
  std::uint64_t replicas = 0;
};

class ReplicaHost {
 public:
  explicit ReplicaHost(Env& env) : env_(env) {}
  ReplicaHost(const ReplicaHost&) = delete;
  ReplicaHost& operator=(const ReplicaHost&) = delete;

  // Opens (or formats) and recovers the disk, then listens. Once. On failure only close() is left.
  void open(ReplicaOptions options, Callback<void(Result<ReplicaOpened>)> done);
  // For connections made from now on. FAILED_PRECONDITION when it was opened without.
  Status set_credentials(const tls::Credentials& credentials);
  // FAILED_PRECONDITION before open() succeeded.
  Result<DiskStatus> status() const;
  // Hangs up, destages, closes the disk. After `done` nothing is in flight and the host may be destroyed.
  void close(Callback<void()> done);

 private:
  Task<Result<ReplicaOpened>> open_disk(ReplicaOptions options);
  static Task<void> run_open(ReplicaHost* host, ReplicaOptions options, Callback<void(Result<ReplicaOpened>)> done);

  Env& env_;
  std::shared_ptr<tls::Identity> identity_;
  // Destroyed in reverse: the service uses the other two.
  std::unique_ptr<store::DiskStore> disk_;
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<replica::ReplicaService> service_;
  bool opening_ = false;
  Callback<void()> close_after_open_;
  Callback<void()> close_done_;
};

}  // namespace holdfast::addon
