// PipelinedStream: a stream of requests that are answered in any order, many at a time: methods Read and ReadChunks.
//
// Bounds: at most kRunningMax requests run; further ones wait while the bytes that running requests will send and those
// that the peer has not taken exceed kBytesMax. Beyond kPauseAt waiting requests the peer gets no more flow-control
// credit; a peer that has more than kWaitingMax out anyway ends with PROTOCOL. Thread: the reactor of the Env.
#pragma once

#include <deque>

#include "replica/replica_stream.h"

namespace holdfast::replica {

template <typename Request>
class PipelinedStream : public ReplicaStream {
 public:
  static constexpr std::size_t kRunningMax = 256;
  static constexpr std::size_t kBytesMax = 32u << 20;
  static constexpr std::size_t kPauseAt = 1'024;
  static constexpr std::size_t kWaitingMax = 65'536;

 protected:
  using ReplicaStream::ReplicaStream;

  // Bytes the answer may have.
  virtual std::size_t cost(const Request& request) const = 0;
  // Starts the request; answered() must follow once, unless the stream ends before.
  virtual void run(const Request& request) = 0;

  void accept(Request request) {
    if (waiting_.size() >= kWaitingMax) {
      return end(Error(ErrorCode::kProtocol, "more than " + std::to_string(kWaitingMax) +
                                                 " requests wait on one stream; send fewer at once"));
    }
    waiting_.push_back(std::move(request));
    pump();
  }

  // The request ran: `parts` is its answer.
  void answered(std::size_t answer_cost, SliceList& parts) {
    CHECK(running_ > 0);
    --running_;
    running_bytes_ -= answer_cost;
    if (ended()) return;
    send(parts);
    pump();
    if (!ended() && peer_finished_ && running_ == 0 && waiting_.empty()) end(Status());
  }

 private:
  bool may_run() const {
    return running_ == 0 || (running_ < kRunningMax && running_bytes_ + call().unsent_bytes() < kBytesMax);
  }
  void pump() {
    while (!ended() && !waiting_.empty() && call().unsent_bytes() < kBytesMax && may_run()) {
      Request request = std::move(waiting_.front());
      waiting_.pop_front();
      ++running_;
      running_bytes_ += cost(request);
      run(request);
    }
    if (ended()) return;
    if (!paused_ && waiting_.size() > kPauseAt) {
      paused_ = true;
      call().pause_receiving();
    } else if (paused_ && waiting_.size() <= kPauseAt / 2) {
      paused_ = false;
      call().resume_receiving();
    }
  }
  void drained() final { pump(); }
  void peer_finished() final {
    peer_finished_ = true;
    if (running_ == 0 && waiting_.empty()) end(Status());
  }
  void on_end() final { waiting_.clear(); }

  std::deque<Request> waiting_;
  std::size_t running_ = 0;
  std::size_t running_bytes_ = 0;
  bool paused_ = false;
  bool peer_finished_ = false;
};

}  // namespace holdfast::replica
