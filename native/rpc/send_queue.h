// FrameWriter and SendQueue: from messages to what a Stream sends, without copying payload.
//
// FrameWriter collects the output of one loop turn: frame headers, prefixes and small parts are packed into one arena
// block, larger parts follow by reference. SendQueue holds the messages of one call until HTTP/2 flow control lets
// them go; the five-byte gRPC prefix is made when it is written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "io/env.h"
#include "rpc/message_reader.h"

namespace holdfast::rpc {

class FrameWriter {
 public:
  explicit FrameWriter(BufferPool& pool) : pool_(pool) {}

  void append_copy(std::span<const std::byte> bytes) {
    pending_bytes_ += bytes.size();
    while (!bytes.empty()) {
      if (block_end_ == block_.size()) next_block();
      std::size_t take = std::min(block_.size() - block_end_, bytes.size());
      std::memcpy(block_.data() + block_end_, bytes.data(), take);
      block_end_ += take;
      bytes = bytes.subspan(take);
    }
  }

  void append(Slice part) {
    // A reference costs an iovec and two counter updates; below this size copying is cheaper.
    if (part.size() <= kCopyBytesMax) return append_copy(part.bytes());
    pending_bytes_ += part.size();
    close_run();
    parts_.push_back(std::move(part));
  }

  std::size_t pending_bytes() const { return pending_bytes_; }

  void send_to(Stream& stream) {
    close_run();
    if (parts_.empty()) return;
    pending_bytes_ = 0;
    stream.send(parts_);
    parts_.clear();
  }

  void clear() {
    parts_.clear();
    block_ = Slice();
    block_begin_ = block_end_ = pending_bytes_ = 0;
  }

 private:
  static constexpr std::size_t kBlockBytes = 16u << 10;
  static constexpr std::size_t kCopyBytesMax = 512;

  void close_run() {
    if (block_end_ > block_begin_) parts_.push_back(block_.sub(block_begin_, block_end_ - block_begin_));
    block_begin_ = block_end_;
  }

  void next_block() {
    close_run();
    block_ = pool_.allocate(kBlockBytes);
    block_begin_ = block_end_ = 0;
  }

  BufferPool& pool_;
  std::vector<Slice> parts_;
  Slice block_;
  std::size_t block_begin_ = 0;  // first byte of the block that is not yet in parts_
  std::size_t block_end_ = 0;
  std::size_t pending_bytes_ = 0;
};

class SendQueue {
 public:
  // Prefix bytes included.
  std::size_t bytes() const { return bytes_; }

  void push_message(std::span<Slice> message) {
    compact();
    std::size_t size = total_size(message);
    pieces_.push_back({Slice(), static_cast<std::uint32_t>(size), true});
    for (Slice& part : message) {
      if (!part.empty()) pieces_.push_back({std::move(part), 0, false});
    }
    bytes_ += kPrefixBytes + size;
  }

  // Moves exactly `count` bytes (at most bytes()) to the writer.
  void take(std::size_t count, FrameWriter& writer) {
    CHECK(count <= bytes_);
    bytes_ -= count;
    while (count > 0) {
      Piece& piece = pieces_[head_];
      std::size_t left = piece.size() - front_offset_;
      std::size_t part = std::min(left, count);
      if (piece.is_prefix) {
        const std::byte prefix[kPrefixBytes] = {std::byte{0}, std::byte(piece.message_size >> 24),
                                                std::byte(piece.message_size >> 16), std::byte(piece.message_size >> 8),
                                                std::byte(piece.message_size)};
        writer.append_copy({prefix + front_offset_, part});
      } else if (part == piece.bytes.size()) {
        writer.append(std::move(piece.bytes));
      } else {
        writer.append(piece.bytes.sub(front_offset_, part));
      }
      count -= part;
      front_offset_ += part;
      if (part == left) {
        piece.bytes = Slice();
        ++head_;
        front_offset_ = 0;
      }
    }
    if (head_ == pieces_.size()) reset();
  }

  void clear() {
    reset();
    bytes_ = 0;
  }

 private:
  struct Piece {
    Slice bytes;
    std::uint32_t message_size;
    bool is_prefix;
    std::size_t size() const { return is_prefix ? kPrefixBytes : bytes.size(); }
  };

  void reset() {
    pieces_.clear();
    head_ = 0;
    front_offset_ = 0;
  }

  // A queue that never runs empty would otherwise grow by every piece ever sent.
  void compact() {
    if (head_ < 64 || head_ * 2 < pieces_.size()) return;
    pieces_.erase(pieces_.begin(), pieces_.begin() + static_cast<std::ptrdiff_t>(head_));
    head_ = 0;
  }

  std::vector<Piece> pieces_;
  std::size_t head_ = 0;
  std::size_t front_offset_ = 0;
  std::size_t bytes_ = 0;
};

}  // namespace holdfast::rpc
