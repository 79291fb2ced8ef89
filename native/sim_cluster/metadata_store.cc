#include "sim_cluster/metadata_store.h"

#include <algorithm>
#include <memory>

#include "base/check.h"

namespace holdfast::sim {

namespace {
constexpr Nanos kRetry = 200ms;
}  // namespace

bool MetadataStore::in_sync(ReplicaId id) const {
  return std::find(record_.in_sync.begin(), record_.in_sync.end(), id) != record_.in_sync.end();
}

Epoch MetadataStore::grant() {
  CHECK(!record_.lost_data, "the control plane asks before it goes on with less than was acknowledged");
  return record_.epoch = record_.epoch.next();
}

void MetadataStore::accept_loss(std::vector<ReplicaId> in_sync) {
  record_ = {record_.epoch.next(), std::move(in_sync), false};
}

void MetadataStore::set_reachable(const std::string& node, bool reachable) {
  world_.trace("metadata store " + std::string(reachable ? "reachable" : "unreachable") + " from " + node);
  if (reachable) {
    unreachable_.erase(node);
  } else {
    unreachable_.insert(node);
  }
}

void MetadataStore::change(Process* process, Epoch epoch, std::vector<ReplicaId> in_sync, StatusCallback done) {
  CHECK(!in_sync.empty(), "the in-sync set is never empty");
  attempt(new Request{process, epoch, std::move(in_sync), std::move(done)}, Nanos(0));
}

void MetadataStore::lost_data(Process* process, Epoch epoch, StatusCallback done) {
  attempt(new Request{process, epoch, {}, std::move(done)}, Nanos(0));
}

Nanos MetadataStore::travel_time() {
  Nanos usual(world_.random().between(200'000, 6'000'000));
  return delay_max_ == Nanos(0) ? usual
                                : usual + Nanos(world_.random().below(static_cast<std::uint64_t>(delay_max_.count())));
}

// The request travels as an event of the world: it arrives even when its sender has died meanwhile.
void MetadataStore::attempt(Request* request, Nanos delay) {
  world_.schedule(
      world_.now() + delay + travel_time(), nullptr, [this, request] { decide(request); }, "store");
}

void MetadataStore::decide(Request* request) {
  if (!reachable(request->process->node)) {
    if (request->process->alive) attempt(request, kRetry);
    return;
  }
  Status outcome;
  if (request->epoch == record_.epoch && request->in_sync.empty()) {
    world_.trace("epoch " + std::to_string(record_.epoch.value()) + " has lost data");
    record_.lost_data = true;
  } else if (request->epoch == record_.epoch) {
    if (record_.in_sync != request->in_sync) ++changes_;
    record_.in_sync = request->in_sync;
    std::string set;
    for (ReplicaId id : record_.in_sync) set += " " + std::to_string(id.value());
    world_.trace("in-sync set of epoch " + std::to_string(record_.epoch.value()) + ":" + set);
  } else {
    outcome = Error(ErrorCode::kEpochSuperseded, "a newer epoch was granted");
  }
  if (!request->process->alive) return;
  if (world_.random().chance(1, 16)) return attempt(request, kRetry);  // the answer was lost
  auto* answer = new std::pair<Request*, Status>(request, std::move(outcome));
  world_.schedule(
      world_.now() + travel_time(), request->process,
      [answer] {
        std::unique_ptr<std::pair<Request*, Status>> owned(answer);
        std::unique_ptr<Request> asked(owned->first);
        asked->done(std::move(owned->second));
      },
      "store answer");
}

}  // namespace holdfast::sim
