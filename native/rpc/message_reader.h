// MessageReader: cuts the byte stream of one direction of a call into gRPC messages
// (1 byte compressed flag, 4 bytes big-endian length, then the message: PROTOCOL-HTTP2.md "Length-Prefixed-Message").
//
// Every payload byte is copied at most once, into a buffer that ends at a page boundary; those that were received there
// (rest()) are not copied at all. DATA frames may cut the
// stream anywhere, also inside a prefix, and may hold many messages. What incomplete messages of one connection have
// reserved is counted in `budget`, so that prefixes alone cannot make a peer's share of memory grow without bound.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>

#include "base/buffer.h"
#include "rpc/rpc.h"

namespace holdfast::rpc {

inline constexpr std::size_t kPrefixBytes = 5;

class MessageReader {
 public:
  enum class Outcome {
    kOk,
    kCompressed,  // the compressed flag is set; no compression is ever negotiated
    kTooLarge,    // longer than kMessageBytesMax
    kOverBudget,  // the connection's incomplete messages would exceed the budget
    kStopped,     // the sink returned false; the reader must not be touched again
  };

  // Consumes all of `bytes`, calling sink(Message) -> bool for each message that became complete.
  // After any outcome but kOk the call is over.
  template <typename Sink>
  Outcome feed(std::span<const std::byte> bytes, BufferPool& pool, std::size_t& budget, Sink&& sink) {
    while (!bytes.empty()) {
      if (prefix_filled_ < kPrefixBytes) {
        std::size_t take = std::min(kPrefixBytes - prefix_filled_, bytes.size());
        std::memcpy(prefix_ + prefix_filled_, bytes.data(), take);
        prefix_filled_ += take;
        bytes = bytes.subspan(take);
        if (prefix_filled_ < kPrefixBytes) return Outcome::kOk;
        Outcome outcome = begin_message(pool, budget);
        if (outcome != Outcome::kOk) return outcome;
      }
      std::size_t take = std::min(message_.size() - filled_, bytes.size());
      std::byte* to = message_.data() + filled_;
      if (take > 0 && bytes.data() != to) std::memmove(to, bytes.data(), take);
      filled_ += take;
      bytes = bytes.subspan(take);
      if (filled_ == message_.size()) {
        budget += filled_;
        prefix_filled_ = 0;
        filled_ = 0;
        if (!sink(std::move(message_))) return Outcome::kStopped;
      }
    }
    return Outcome::kOk;
  }

  // Where what is missing of a message that has begun belongs, at most `bytes` of it.
  Slice rest(std::size_t bytes) const {
    if (prefix_filled_ < kPrefixBytes) return {};
    return message_.sub(filled_, std::min(bytes, message_.size() - filled_));
  }

  // Part of a message has come and the rest has not.
  bool in_message() const { return prefix_filled_ > 0; }

  // Lets go of an incomplete message.
  void clear(std::size_t& budget) {
    budget += message_.size();
    message_ = Slice();
    prefix_filled_ = 0;
    filled_ = 0;
  }

 private:
  Outcome begin_message(BufferPool& pool, std::size_t& budget) {
    if (prefix_[0] != std::byte{0}) return Outcome::kCompressed;
    std::size_t size = std::to_integer<std::size_t>(prefix_[1]) << 24 | std::to_integer<std::size_t>(prefix_[2]) << 16 |
                       std::to_integer<std::size_t>(prefix_[3]) << 8 | std::to_integer<std::size_t>(prefix_[4]);
    if (size > kMessageBytesMax) return Outcome::kTooLarge;
    if (size > budget) return Outcome::kOverBudget;
    budget -= size;
    filled_ = 0;
    message_ = size > 0 ? pool.allocate_end_aligned(size) : Slice();
    return Outcome::kOk;
  }

  std::byte prefix_[kPrefixBytes];
  std::size_t prefix_filled_ = 0;
  std::size_t filled_ = 0;
  Slice message_;
};

}  // namespace holdfast::rpc
