// RangeLock: operations on overlapping block ranges wait for each other in order of arrival; readers share.
//
// A request waits for every earlier request that overlaps it unless both are shared, waiting ones included, so nothing
// is overtaken and nothing starves. All of a request's range is asked for at once and only earlier requests are waited
// for, so there is no deadlock.
//
// Requests of at most kNarrowChunks chunks are found by chunk in a hash table; wider ones (large UNMAPs) are compared
// with everything. Nothing is allocated: the links live in the request. Thread: the reactor of the engine.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/check.h"
#include "base/types.h"

namespace holdfast::engine {

class RangeLock {
 public:
  // 1 MiB at any block offset touches at most five chunks.
  static constexpr std::uint32_t kNarrowChunks = 5;

  class Request;
  RangeLock();
  RangeLock(const RangeLock&) = delete;
  RangeLock& operator=(const RangeLock&) = delete;

  // Asks for blocks [begin, end). True: granted now. Otherwise `granted(request)` is called once it is.
  bool acquire(Request* request, std::uint64_t begin, std::uint64_t end, bool exclusive, void (*granted)(Request*));
  // Gives back, or stops waiting. Calls `granted` of others; a release inside such a call does not nest.
  void release(Request* request);

 private:
  struct Node {
    Request* owner = nullptr;
    Node* previous = nullptr;
    Node* next = nullptr;
  };
  static constexpr std::size_t kBuckets = 512;

  static void link_before(Node* position, Node* node);
  static void unlink(Node* node);
  static bool conflict(const Request& a, const Request& b);
  Node& bucket_of(std::uint64_t chunk) { return buckets_[chunk % kBuckets]; }
  // Calls visit(other) for every request that `request` may conflict with, once for each list they share.
  template <typename Visit>
  void for_each_neighbour(Request& request, Visit visit);
  void make_ready(Request* request);
  void run_ready();

  std::vector<Node> buckets_;  // list heads
  Node wide_;                  // list head: wide requests
  Node all_;                   // list head: all requests
  std::uint64_t next_arrival_ = 1;
  Request* ready_first_ = nullptr;
  Request* ready_last_ = nullptr;
  bool running_ready_ = false;
};

// Embedded in an operation; must stay where it is from acquire() to release().
class RangeLock::Request {
 public:
  bool held() const { return state_ == State::kHeld; }
  bool idle() const { return state_ == State::kIdle; }

  void* owner = nullptr;  // for the user: what the request is part of

 private:
  friend class RangeLock;
  enum class State : std::uint8_t { kIdle, kWaiting, kReady, kHeld };

  bool wide() const { return chunk_count_ > kNarrowChunks; }

  std::uint64_t begin_ = 0;
  std::uint64_t end_ = 0;
  std::uint64_t arrival_ = 0;
  std::uint64_t first_chunk_ = 0;
  std::uint64_t chunk_count_ = 0;
  std::uint32_t blockers_ = 0;
  bool exclusive_ = false;
  State state_ = State::kIdle;
  void (*granted_)(Request*) = nullptr;
  Request* ready_next_ = nullptr;
  std::array<Node, kNarrowChunks> chunk_nodes_;
  Node wide_node_;
  Node all_node_;
};

}  // namespace holdfast::engine
