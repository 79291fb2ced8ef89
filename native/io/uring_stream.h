// UringStream: a connected socket. The user holds UringStream; StreamCore holds what the kernel may still use, and
// lives until both the handle is gone (or never was) and the last operation has completed.
//
// Receiving is one multishot operation into the reactor's shared buffers, until the handler wants a large piece of the
// stream in a place of its own. From then on pieces are received one by one: what is wanted into its place, and between
// two such pieces a little, since it tells where the next belongs; until several in a row have told of none. What
// arrives while receiving is paused (it was already on its way) is kept in order until receiving goes on. Sending is
// one operation at a time, a gather of everything queued, begun at the end of the turn.
//
// End: the peer's end (FIN) is reported once everything received was delivered and everything queued was sent, or
// sending stopped making progress. After shutdown() received bytes are thrown away, so that closing the socket does not
// reset the connection before the peer has read the last bytes sent. A failed send reports what was received before it
// reports the failure. While paused, only a failure is noticed, not an orderly end. Thread: one reactor.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <memory>

#include "io/env.h"
#include "io/loop.h"
#include "io/slice_queue.h"
#include "io/stream_handle.h"

namespace holdfast::io {

class StreamCore final : private TurnEnd {
 public:
  // Owns `fd`, a connected blocking socket.
  StreamCore(Loop& loop, int fd);

  void start(StreamHandler* handler);
  void send(std::span<Slice> parts);
  std::size_t unsent_bytes() const { return unsent_bytes_; }
  void pause_receiving();
  void resume_receiving();
  void shutdown();
  // The handle is gone: no callback any more; frees this when nothing is in flight.
  void abandon();

  const Address& local_address() const { return local_; }
  const Address& peer_address() const { return peer_; }

 private:
  static constexpr std::size_t kGatherMax = 128;
  static constexpr std::size_t kGatherBytesMax = 1u << 20;
  // Less is copied from a shared buffer: cheaper than an operation of its own.
  static constexpr std::size_t kInPlaceMin = 64u << 10;
  // Of one operation that waits for all of it: a slow peer is heard of now and then.
  static constexpr std::size_t kInPlaceMax = 512u << 10;
  // A little: the header of what follows, and not much of its payload.
  static constexpr std::size_t kPeekBytes = 1u << 10;
  static constexpr unsigned kPeeksMax = 8;  // in a row that tell of no large piece

  struct Receiving final : Completion {
    explicit Receiving(StreamCore& core) : stream(core) {}
    void on_completion(std::int32_t result, std::uint32_t flags) override { stream.received(result, flags); }
    StreamCore& stream;
    bool in_flight = false;
    bool cancelled = false;
    Slice place;  // where the handler wants it; empty: a shared buffer
  };
  struct Sending final : Completion {
    explicit Sending(StreamCore& core) : stream(core) {}
    void on_completion(std::int32_t result, std::uint32_t) override { stream.sent(result); }
    StreamCore& stream;
    bool in_flight = false;
    msghdr message{};
    std::array<iovec, kGatherMax> parts;
  };
  // While one exists, the core is not freed. At its end the core may be gone.
  class Guard {
   public:
    explicit Guard(StreamCore& core) : core_(core) { ++core_.guards_; }
    ~Guard() {
      --core_.guards_;
      core_.free_if_unused();
    }

   private:
    StreamCore& core_;
  };

  ~StreamCore();
  void at_turn_end() override;
  void received(std::int32_t result, std::uint32_t flags);
  void take_bytes(std::span<const std::byte> bytes, const Slice& place);
  Slice wanted() const;
  void choose_way(bool in_place);
  void note_receive_end(std::int32_t result);
  void sent(std::int32_t result);
  void deliver_stash();
  void begin_receiving();
  void begin_sending();
  void cancel_receiving();
  void drop_unsent();
  // Decides whether the stream is over.
  void settle();
  void finish(Status reason);
  void watch_progress();
  void release_socket();
  void free_if_unused();
  bool wants_bytes() const { return handler_ && !finished_ && !end_of_stream_ && (!paused_ || discarding_); }

  Loop& loop_;
  int fd_;
  const Address local_;
  const Address peer_;
  StreamHandler* handler_ = nullptr;
  Receiving receiving_{*this};
  Sending sending_{*this};

  SliceQueue unsent_;
  std::size_t unsent_bytes_ = 0;
  SliceQueue stash_;  // received while paused

  unsigned peeks_left_ = 0;  // > 0: pieces are received one by one
  bool paused_ = false;
  bool shutdown_requested_ = false;
  bool write_ended_ = false;    // our FIN is out
  bool discarding_ = false;     // after shutdown(): received bytes are thrown away
  bool end_of_stream_ = false;  // the peer's FIN
  bool finished_ = false;       // on_closed() was called, or is no longer wanted
  bool abandoned_ = false;
  Status receive_error_;
  Status send_error_;
  unsigned guards_ = 0;
  std::uint64_t progress_timer_ = 0;
  std::size_t unsent_at_last_look_ = 0;
};

using UringStream = StreamHandle<StreamCore>;

}  // namespace holdfast::io
