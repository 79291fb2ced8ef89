// MemoryStream: a connection between two processes of this host, through memory that they share (SharedRings). No
// system call while both are awake; one that wakes the other while it sleeps. The unix socket that it began with tells
// of the peer's end.
//
// What is received is delivered out of the ring and makes room in it afterwards, so a stream whose receiving is paused
// holds its peer back by itself. As with sockets, the user holds MemoryStream, and the core lives until the handle is
// gone and the last operation has completed.
//
// End: as of a UringStream. The peer's half-close (it sends no more) and its end are known from the socket; all that it
// published before can be read by then. Thread: one reactor.
#pragma once

#include "io/env.h"
#include "io/loop.h"
#include "io/shared_rings.h"
#include "io/slice_queue.h"
#include "io/stream_handle.h"

namespace holdfast::io {

class MemoryStreamCore final : private TurnEnd, private Poller {
 public:
  MemoryStreamCore(Loop& loop, OwnedFd socket, SharedRings rings);

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
  // Handed over at once; then the other side may go on with it, or with the room.
  static constexpr std::size_t kPieceBytes = 128u << 10;

  // One of the two polls: of the bell, and of the socket.
  struct Watch final : Completion {
    Watch(MemoryStreamCore& core, void (MemoryStreamCore::*tell)(std::int32_t)) : stream(core), told(tell) {}
    void on_completion(std::int32_t result, std::uint32_t flags) override;
    MemoryStreamCore& stream;
    void (MemoryStreamCore::*told)(std::int32_t);
    bool in_flight = false;
  };
  // While one exists, the core is not freed. At its end the core may be gone.
  class Guard {
   public:
    explicit Guard(MemoryStreamCore& core) : core_(core) { ++core_.guards_; }
    ~Guard() {
      --core_.guards_;
      core_.free_if_unused();
    }

   private:
    MemoryStreamCore& core_;
  };

  ~MemoryStreamCore();
  void poll() override;
  void announce_sleep() override { rings_.announce_sleep(unsent_bytes_ > 0); }
  bool has_news() override;
  void woke_up() override { rings_.woke_up(); }
  void at_turn_end() override;
  void watch(Watch& watch, int fd, unsigned events);
  void bell_rang(std::int32_t) {}  // the turn polls anyway
  void socket_changed(std::int32_t events);
  void receive();
  void transmit();
  void drop_unsent();
  // Decides whether the stream is over.
  void settle();
  void finish(Status reason);
  void watch_progress();
  void release();
  void free_if_unused();
  bool reads() const { return !finished_ && handler_ != nullptr && (!paused_ || shutdown_requested_); }

  Loop& loop_;
  OwnedFd socket_;
  SharedRings rings_;
  const Address local_;
  const Address peer_;
  StreamHandler* handler_ = nullptr;
  Watch bell_{*this, &MemoryStreamCore::bell_rang};
  Watch end_{*this, &MemoryStreamCore::socket_changed};

  SliceQueue unsent_;
  std::size_t unsent_bytes_ = 0;

  bool paused_ = false;
  bool shutdown_requested_ = false;  // received bytes are thrown away
  bool write_ended_ = false;         // the peer knows that we send no more
  bool peer_ended_ = false;          // it sends no more
  bool peer_gone_ = false;           // and reads no more
  bool finished_ = false;            // on_closed() was called, or is no longer wanted
  bool abandoned_ = false;
  unsigned guards_ = 0;
  std::uint64_t progress_timer_ = 0;
  std::size_t unsent_at_last_look_ = 0;
};

using MemoryStream = StreamHandle<MemoryStreamCore>;

}  // namespace holdfast::io
