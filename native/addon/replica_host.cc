#include "addon/replica_host.h"

#include <utility>

#include "io/socket_owner.h"
#include "store/kv.h"

namespace holdfast::addon {

void ReplicaHost::open(ReplicaOptions options, Callback<void(Result<ReplicaOpened>)> done) {
  CHECK(!opening_ && !disk_, "a host is opened once");
  opening_ = true;
  spawn(run_open(this, std::move(options), std::move(done)));
}

Task<void> ReplicaHost::run_open(ReplicaHost* host, ReplicaOptions options,
                                 Callback<void(Result<ReplicaOpened>)> done) {
  Result<ReplicaOpened> opened = co_await host->open_disk(std::move(options));
  host->opening_ = false;
  done(std::move(opened));
  if (host->close_after_open_) {
    Callback<void()> closed = std::exchange(host->close_after_open_, nullptr);
    host->close(std::move(closed));
  }
}

Task<Result<ReplicaOpened>> ReplicaHost::open_disk(ReplicaOptions options) {
  std::vector<Address> addresses;
  for (const std::string& text : options.listen) {
    CO_ASSIGN_OR_RETURN(Address address, Address::parse(text));
    addresses.push_back(std::move(address));
  }
  if (options.credentials) {
    CO_ASSIGN_OR_RETURN(identity_, tls::Identity::create(*options.credentials));
  }
  rpc::ServerOptions serving;
  rpc::ChannelOptions calling;
  serving.tls = calling.tls = {identity_};
  // On one machine the kernel says who calls.
  serving.admits_local = [](const Address& local, const Address& peer) {
    std::optional<uid_t> user = io::socket_owner(local, peer);
    return user && io::is_trusted_user(*user);
  };
  store::OpenKv open_kv = store::rocks_kv(options.metadata_cache_bytes);
  Result<std::unique_ptr<store::DiskStore>> disk =
      co_await store::DiskStore::open(env_, std::move(options.store), std::move(open_kv));
  if (!disk.ok()) co_return std::move(disk).error();
  disk_ = std::move(disk).value();
  server_ = rpc::Server::create(env_, std::move(serving));
  service_ = replica::ReplicaService::create(env_, *disk_, *server_, std::move(calling));

  ReplicaOpened opened{disk_->disk_id(), {}};
  for (const Address& address : addresses) {
    CO_ASSIGN_OR_RETURN(Address bound, server_->listen(address));
    opened.listen.push_back(bound.to_string());
  }
  co_return opened;
}

Status ReplicaHost::set_credentials(const tls::Credentials& credentials) {
  if (!identity_) return Error(ErrorCode::kFailedPrecondition, "the disk is served without TLS");
  return identity_->replace(credentials);
}

Result<DiskStatus> ReplicaHost::status() const {
  if (!service_) return Error(ErrorCode::kFailedPrecondition, "the disk is not open");
  return DiskStatus{disk_->disk_id(), disk_->space(), disk_->failure(), disk_->list().size()};
}

void ReplicaHost::close(Callback<void()> done) {
  if (opening_) {
    // Recovery cannot be broken off half-way; a bounded caller may kill the process instead, which is safe at any
    // point.
    close_after_open_ = std::move(done);
    return;
  }
  service_.reset();
  server_.reset();
  if (!disk_) {
    env_.post(std::move(done));
    return;
  }
  close_done_ = std::move(done);
  disk_->close([this] {
    // Not from inside a call of the disk itself.
    env_.post([this] {
      disk_.reset();
      close_done_();
    });
  });
}

}  // namespace holdfast::addon
