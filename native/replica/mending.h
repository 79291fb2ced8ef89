// Mending: looks elsewhere for the blocks of one fetched chunk that its source cannot give as their CRCs say: among
// what this replica held before its rebuild, then on the other in-sync replicas, one after the other. Only bytes that
// match the CRC in the source's record are taken, so nothing of different moments is mixed.
//
// Ends once: `done` gets the content, with what was found nowhere still `damaged`; it does not come after stop(). A
// replica that does not answer in time is passed over. Thread: the reactor of the Env.
#pragma once

#include <bit>
#include <memory>
#include <vector>

#include "replica/served_replica.h"
#include "rpc/rpc.h"

namespace holdfast::replica {

// Another in-sync replica of the volume.
struct Donor {
  ReplicaId replica;
  std::unique_ptr<rpc::Channel> channel;
};

class Mending final : public RefCounted, private rpc::CallHandler {
 public:
  static constexpr Nanos kAnswerMax = 5s;

  // `request` is the one that the source answered with `content`. `donors` must be there until done or stop().
  Mending(Ref<Core> core, Ref<ServedReplica> replica, const std::vector<Donor>& donors, const ReadChunkRequest& request,
          store::ChunkContent content, Callback<void(Mending&, store::ChunkContent)> done);

  void start();
  void stop();

 private:
  void on_message(rpc::Message message) override;
  void on_ended(Status status) override;
  void take_from(const store::ChunkContent& other);
  void ask_next();

  Ref<Core> core_;
  Ref<ServedReplica> replica_;
  const std::vector<Donor>& donors_;
  ReadChunkRequest request_;
  store::ChunkContent content_;
  Callback<void(Mending&, store::ChunkContent)> done_;
  bool stopped_ = false;
  std::size_t next_donor_ = 0;
  std::unique_ptr<rpc::ClientCall> call_;
};

// Where the data of the blocks in `present` begins: visit(block of the chunk, index among those present).
template <typename Visit>
void for_each_present(const store::ChunkContent& content, Visit visit) {
  std::size_t index = 0;
  for (std::uint64_t left = content.present; left != 0; left &= left - 1) {
    visit(static_cast<std::uint32_t>(std::countr_zero(left)), index++);
  }
}

}  // namespace holdfast::replica
