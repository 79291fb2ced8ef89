#include "replica/mending.h"

#include <array>
#include <bit>
#include <cstring>

#include "base/crc32c.h"

namespace holdfast::replica {

Mending::Mending(Ref<Core> core, Ref<ServedReplica> replica, const std::vector<Donor>& donors,
                 const ReadChunkRequest& request, store::ChunkContent content,
                 Callback<void(Mending&, store::ChunkContent)> done)
    : core_(std::move(core)),
      replica_(std::move(replica)),
      donors_(donors),
      request_(request),
      content_(std::move(content)),
      done_(std::move(done)) {}

void Mending::start() {
  replica_->begin_read();
  replica_->store().read_layer({request_.chunk, request_.layer},
                               [self = Ref<Mending>(this)](Result<store::ChunkContent> own) {
                                 self->replica_->end_read();
                                 if (self->stopped_) return;
                                 if (own.ok()) self->take_from(*own);
                                 self->ask_next();
                               });
}

void Mending::stop() {
  stopped_ = true;
  call_.reset();
}

// A call for each: damage is rare, and a deadline ends what its replica does not answer.
void Mending::ask_next() {
  if (content_.damaged == 0 || next_donor_ == donors_.size()) {
    stopped_ = true;
    return done_(*this, std::move(content_));
  }
  const Donor& donor = donors_[next_donor_++];
  request_.replica = donor.replica;
  call_ = donor.channel->start(kReadChunksPath, {}, kAnswerMax, this);
  SliceList parts;
  encode(core_->env.buffers(), request_, parts);
  call_->send(parts);
  call_->finish_sending();
}

void Mending::on_message(rpc::Message message) {
  ReadChunkResponse response;
  if (!decode(message, core_->env.buffers(), response).ok() || !response.status.ok()) return;
  take_from(response.content);
}

void Mending::on_ended(Status) {
  Ref<Mending> keep(this);
  call_.reset();
  if (!stopped_) ask_next();
}

void Mending::take_from(const store::ChunkContent& other) {
  auto blocks = static_cast<std::size_t>(std::popcount(other.present));
  bool well_formed = other.crc.size() == blocks && total_size(other.data) == blocks * kBlockSize;
  if (!well_formed || blocks == 0 || other.data.size() != 1) return;
  std::array<const std::byte*, kBlocksPerChunk> offered{};
  std::array<std::uint32_t, kBlocksPerChunk> crc{};
  for_each_present(other, [&](std::uint32_t block, std::size_t index) {
    offered[block] = other.data[0].data() + index * kBlockSize;
    crc[block] = other.crc[index];
  });
  for_each_present(content_, [&](std::uint32_t block, std::size_t index) {
    if ((content_.damaged >> block & 1) == 0 || !offered[block] || crc[block] != content_.crc[index]) return;
    if (crc32c({offered[block], kBlockSize}) != crc[block]) return;
    std::memcpy(content_.data[0].bytes().data() + index * kBlockSize, offered[block], kBlockSize);
    content_.damaged &= ~(std::uint64_t{1} << block);
  });
}

}  // namespace holdfast::replica
