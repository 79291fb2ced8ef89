// RawPeer: the other end of a connection, spoken byte by byte: frames made by hand, right or wrong.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "rpc/testing/memory_env.h"

namespace holdfast::rpc::testing {

enum FrameType : unsigned char {
  kData = 0,
  kHeaders = 1,
  kPriority = 2,
  kRstStream = 3,
  kSettings = 4,
  kPushPromise = 5,
  kPing = 6,
  kGoaway = 7,
  kWindowUpdate = 8,
  kContinuation = 9,
};
inline constexpr unsigned char kEndStream = 1, kAck = 1, kEndHeaders = 4, kPadded = 8;

inline std::string big_endian(std::uint32_t value, int bytes) {
  std::string text;
  for (int shift = (bytes - 1) * 8; shift >= 0; shift -= 8) text += static_cast<char>(value >> shift);
  return text;
}

inline std::string frame(unsigned char type, unsigned char flags, std::uint32_t stream, std::string_view payload) {
  std::string bytes = big_endian(static_cast<std::uint32_t>(payload.size()), 3);
  bytes += static_cast<char>(type);
  bytes += static_cast<char>(flags);
  return bytes + big_endian(stream, 4) + std::string(payload);
}

inline std::string window_update(std::uint32_t stream, std::uint32_t increment) {
  return frame(kWindowUpdate, 0, stream, big_endian(increment, 4));
}
inline std::string setting(std::uint32_t id, std::uint32_t value) {
  return frame(kSettings, 0, 0, big_endian(id, 2) + big_endian(value, 4));
}

// HPACK integer with a seven-bit prefix (RFC 7541 section 5.1).
inline std::string hpack_length(std::size_t length) {
  if (length < 127) return std::string(1, static_cast<char>(length));
  std::string bytes(1, '\x7f');
  for (length -= 127; length >= 128; length >>= 7) bytes += static_cast<char>(length | 128);
  return bytes + static_cast<char>(length);
}

// A literal field without indexing (RFC 7541 section 6.2.2).
inline std::string field(std::string_view name, std::string_view value) {
  return std::string(1, '\0') + hpack_length(name.size()) + std::string(name) + hpack_length(value.size()) +
         std::string(value);
}

inline std::string message(std::string_view body, char flag = 0) {
  return std::string(1, flag) + big_endian(static_cast<std::uint32_t>(body.size()), 4) + std::string(body);
}

// With the acknowledgement of the server's SETTINGS, which are on their way by then.
inline std::string preface() {
  return "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(kSettings, 0, 0, "") + frame(kSettings, kAck, 0, "");
}

inline std::string request_fields(std::string_view path, std::string_view more = {}) {
  return field(":method", "POST") + field(":scheme", "http") + field(":path", path) + field(":authority", "x") +
         field("te", "trailers") + field("content-type", "application/grpc") + std::string(more);
}

class RawPeer : public StreamHandler {
 public:
  // A client of the server at `address`.
  RawPeer(MemoryEnv& env, const Address& address) : env_(env) {
    env.connect(address, 1s, [this](Result<std::unique_ptr<Stream>> made) { take(std::move(*made)); });
    env.settle();
  }
  // A server that takes one connection after another.
  explicit RawPeer(MemoryEnv& env) : env_(env) {
    listener_ = std::move(*env.listen({"127.0.0.1", 0, ""}, [this](std::unique_ptr<Stream> made) {
      ++connections;
      take(std::move(made));
    }));
  }

  Address address() const { return listener_->address(); }

  void send(std::string_view bytes) {
    if (!stream) return;
    Slice part = env_.buffers().copy_of(as_bytes(bytes));
    stream->send({&part, 1});
    env_.settle();
  }

  struct Frame {
    unsigned char type;
    unsigned char flags;
    std::uint32_t stream;
    std::string payload;
  };
  // What came, cut into frames; the client's preface is skipped.
  std::vector<Frame> frames() const {
    std::string_view left = received;
    if (left.starts_with("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")) left.remove_prefix(24);
    std::vector<Frame> found;
    auto byte = [&](std::size_t i) { return static_cast<unsigned char>(left[i]); };
    while (left.size() >= 9) {
      std::size_t size = byte(0) << 16 | byte(1) << 8 | byte(2);
      if (left.size() < 9 + size) break;
      found.push_back({byte(3), byte(4),
                       static_cast<std::uint32_t>(byte(5) << 24 | byte(6) << 16 | byte(7) << 8 | byte(8)),
                       std::string(left.substr(9, size))});
      left.remove_prefix(9 + size);
    }
    return found;
  }
  std::size_t count(unsigned char type) const {
    std::size_t found = 0;
    for (const Frame& got : frames()) found += got.type == type;
    return found;
  }

  void on_data(std::span<const std::byte> bytes) override {
    received.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  void on_closed(Status) override { closed = true; }

  std::unique_ptr<Stream> stream;
  std::string received;
  bool closed = false;
  int connections = 0;

 private:
  void take(std::unique_ptr<Stream> made) {
    stream = std::move(made);
    received.clear();
    closed = false;
    stream->start(this);
  }

  MemoryEnv& env_;
  std::unique_ptr<Listener> listener_;
};

}  // namespace holdfast::rpc::testing
