#include "engine/range_lock.h"

namespace holdfast::engine {

RangeLock::RangeLock() : buckets_(kBuckets) {
  for (Node& head : buckets_) head.previous = head.next = &head;
  wide_.previous = wide_.next = &wide_;
  all_.previous = all_.next = &all_;
}

void RangeLock::link_before(Node* position, Node* node) {
  node->previous = position->previous;
  node->next = position;
  position->previous->next = node;
  position->previous = node;
}

void RangeLock::unlink(Node* node) {
  node->previous->next = node->next;
  node->next->previous = node->previous;
  node->previous = node->next = nullptr;
}

bool RangeLock::conflict(const Request& a, const Request& b) {
  return (a.exclusive_ || b.exclusive_) && a.begin_ < b.end_ && b.begin_ < a.end_;
}

// Two narrow requests meet once for each bucket both are in; a wide one meets every other exactly once. What is counted
// at acquire() is thus exactly what is counted down at release().
template <typename Visit>
void RangeLock::for_each_neighbour(Request& request, Visit visit) {
  if (request.wide()) {
    for (Node* node = all_.next; node != &all_; node = node->next) {
      if (node->owner != &request) visit(*node->owner);
    }
    return;
  }
  for (std::uint64_t i = 0; i < request.chunk_count_; ++i) {
    Node& head = bucket_of(request.first_chunk_ + i);
    for (Node* node = head.next; node != &head; node = node->next) {
      if (node->owner != &request) visit(*node->owner);
    }
  }
  for (Node* node = wide_.next; node != &wide_; node = node->next) visit(*node->owner);
}

bool RangeLock::acquire(Request* request, std::uint64_t begin, std::uint64_t end, bool exclusive,
                        void (*granted)(Request*)) {
  CHECK(request->idle() && begin < end);
  request->begin_ = begin;
  request->end_ = end;
  request->exclusive_ = exclusive;
  request->granted_ = granted;
  request->arrival_ = next_arrival_++;
  request->first_chunk_ = begin / kBlocksPerChunk;
  request->chunk_count_ = (end - 1) / kBlocksPerChunk - request->first_chunk_ + 1;
  request->blockers_ = 0;
  for_each_neighbour(*request, [request](const Request& other) {
    if (conflict(*request, other)) ++request->blockers_;
  });

  request->all_node_.owner = request;
  link_before(&all_, &request->all_node_);
  if (request->wide()) {
    request->wide_node_.owner = request;
    link_before(&wide_, &request->wide_node_);
  } else {
    for (std::uint64_t i = 0; i < request->chunk_count_; ++i) {
      request->chunk_nodes_[i].owner = request;
      link_before(&bucket_of(request->first_chunk_ + i), &request->chunk_nodes_[i]);
    }
  }
  request->state_ = request->blockers_ == 0 ? Request::State::kHeld : Request::State::kWaiting;
  return request->state_ == Request::State::kHeld;
}

void RangeLock::release(Request* request) {
  CHECK(!request->idle());
  if (request->state_ == Request::State::kReady) {
    Request** link = &ready_first_;
    Request* previous = nullptr;
    while (*link != request) {
      previous = *link;
      link = &(*link)->ready_next_;
    }
    *link = request->ready_next_;
    if (ready_last_ == request) ready_last_ = previous;
  }
  unlink(&request->all_node_);
  if (request->wide()) {
    unlink(&request->wide_node_);
  } else {
    for (std::uint64_t i = 0; i < request->chunk_count_; ++i) unlink(&request->chunk_nodes_[i]);
  }
  for_each_neighbour(*request, [this, request](Request& other) {
    if (other.arrival_ < request->arrival_ || !conflict(*request, other)) return;
    CHECK(other.blockers_ > 0);
    if (--other.blockers_ == 0) make_ready(&other);
  });
  request->state_ = Request::State::kIdle;
  run_ready();
}

void RangeLock::make_ready(Request* request) {
  request->state_ = Request::State::kReady;
  request->ready_next_ = nullptr;
  if (ready_first_) {
    ready_last_->ready_next_ = request;
  } else {
    ready_first_ = request;
  }
  ready_last_ = request;
}

void RangeLock::run_ready() {
  if (running_ready_) return;
  running_ready_ = true;
  while (ready_first_) {
    Request* request = ready_first_;
    ready_first_ = request->ready_next_;
    request->state_ = Request::State::kHeld;
    request->granted_(request);
  }
  running_ready_ = false;
}

}  // namespace holdfast::engine
