// Env: the only door from the core (journal, store, engine, iSCSI, rpc) to clock, randomness, disk and
// network. io/uring_env implements it on io_uring, sim/ in memory with a seeded scheduler and faults.
//
// Thread: an Env belongs to one reactor. Every call is made on it and every callback arrives on it,
// never from inside the call that took the callback (so no re-entrancy), unless said otherwise.
// Completions may arrive in any order. Memory passed by span stays valid and untouched until the
// callback. Callbacks still pending when their Env is destroyed are dropped without being called.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/buffer.h"
#include "base/callback.h"
#include "base/result.h"

namespace holdfast {

using Nanos = std::chrono::nanoseconds;
using namespace std::chrono_literals;

using StatusCallback = Callback<void(Status)>;

// Where a listener or stream is. "127.0.0.1:3260", "[::1]:3260", "unix:/path/to/socket", or "unix:@name" in the
// abstract namespace, which has no file: its streams go through memory that both ends share, and they refuse each
// other unless the other's user is theirs or root.
struct Address {
  std::string host;        // numeric IPv4 or IPv6; empty for a unix socket
  std::uint16_t port = 0;  // 0 when listening: the kernel chooses
  std::string unix_path;   // empty for TCP

  static Result<Address> parse(std::string_view text);
  std::string to_string() const;
  bool is_loopback() const { return host.starts_with("127.") || host == "::1"; }
  bool is_abstract() const { return unix_path.starts_with('@'); }
  bool operator==(const Address&) const = default;
};

// A file opened for direct I/O. Offsets, lengths and memory are multiples of 4096.
// Several operations may be in flight; overlapping ones in flight have no defined order.
// Destroying a File with operations in flight is a bug.
class File {
 public:
  virtual ~File() = default;
  // Fills `into` completely or fails; a range that ends past the end of the file is an error.
  virtual void read(std::uint64_t offset, std::span<std::byte> into, StatusCallback done) = 0;
  // Writes all parts back to back from `offset` (a gather write, one system call) or fails. After a crash
  // an unsynced write may be there, not there, or torn at any 512-byte sector. At most 1,024 parts.
  virtual void write(std::uint64_t offset, std::span<const std::span<const std::byte>> parts, StatusCallback done) = 0;
  // Makes all writes that completed before this call durable (fdatasync).
  virtual void sync(StatusCallback done) = 0;
  // Reserves [offset, offset + length), growing the file where needed. What was never written reads as zeros; content
  // stays. On a block device nothing is to be reserved, and content stays what it is: NO_SPACE past its end.
  virtual void allocate(std::uint64_t offset, std::uint64_t length, StatusCallback done) = 0;
  // Gives the space of the range back to the file system; it then reads as zeros. The size stays.
  virtual void punch_hole(std::uint64_t offset, std::uint64_t length, StatusCallback done) = 0;
  virtual std::uint64_t size() const = 0;
};

struct FileOptions {
  bool create = false;     // create it when missing (parent folder must exist; its entry is made durable)
  bool exclusive = false;  // take an advisory lock; IN_USE when another process holds it
};

// Receives what a Stream delivers. Calls come on the stream's reactor.
class StreamHandler {
 public:
  // Bytes in order. The span is valid only during the call. The handler consumes all of it; it may call
  // pause_receiving() to get no more, and may destroy or close the stream from inside.
  virtual void on_data(std::span<const std::byte> bytes) = 0;
  // Where the next bytes of the stream belong, if the handler knows; empty: anywhere. They may then be received right
  // there, and come to on_data() as a span of this memory, which the stream keeps until then. Changes nothing.
  virtual Slice wanted() const { return {}; }
  // Everything sent so far has been handed to the kernel (unsent_bytes() became 0).
  virtual void on_drained() {}
  // The stream ended: ok for an orderly end by the peer, which is reported once all that it sent was delivered and what
  // was queued was sent (or made no progress for seconds). While receiving is paused an orderly end goes unnoticed, a
  // broken connection is noticed when something is sent. The last call made.
  virtual void on_closed(Status reason) = 0;

 protected:
  ~StreamHandler() = default;
};

// A connected byte stream. Destroying it closes it and ends all callbacks.
class Stream {
 public:
  virtual ~Stream() = default;
  // Begins delivery to `handler`, which must stay valid until the stream is destroyed or on_closed().
  virtual void start(StreamHandler* handler) = 0;
  // Queues the slices in order, keeps them until the kernel took them. Never blocks, never fails here
  // (a failure arrives as on_closed). Everything sent in one turn of the loop goes out in few system calls.
  virtual void send(std::span<Slice> parts) = 0;  // moves from `parts`
  virtual std::size_t unsent_bytes() const = 0;
  virtual void pause_receiving() = 0;
  virtual void resume_receiving() = 0;
  // Sends what is queued, then ends the stream. No on_data() follows, on_closed() does: when the peer has ended its
  // side too, or seconds later.
  virtual void shutdown() = 0;
  virtual Address local_address() const = 0;
  virtual Address peer_address() const = 0;
};

class Listener {
 public:
  virtual ~Listener() = default;  // stops listening
  virtual Address address() const = 0;
};

// Watches a descriptor that is not a Stream (FUSE's device, for one). Destroying it ends the callbacks.
class ReadWatch {
 public:
  virtual ~ReadWatch() = default;
};

using AcceptCallback = Callback<void(std::unique_ptr<Stream>)>;
using ConnectCallback = Callback<void(Result<std::unique_ptr<Stream>>)>;
using OpenCallback = Callback<void(Result<std::unique_ptr<File>>)>;

// A timer that is cancelled by its destruction. The callback runs once per arming.
class Timer;

class Env {
 public:
  virtual ~Env() = default;

  // Monotonic, from an arbitrary start. Cached once per turn of the loop.
  virtual Nanos now() = 0;
  // Wall clock since 1970 in UTC, for people only: no decision may depend on it.
  virtual Nanos wall_clock() = 0;
  virtual std::uint64_t random() = 0;

  // Runs `work` in a later turn of the loop, in the order of posting.
  virtual void post(Callback<void()> work) = 0;
  // Calls back once, at `deadline` (in terms of now()) or a little later. Returns an id > 0 that is never reused.
  virtual std::uint64_t call_at(Nanos deadline, Callback<void()> work) = 0;
  // Drops the callback if it has not run. Harmless for one that has.
  virtual void cancel_call(std::uint64_t id) = 0;
  // Runs `work` on a helper thread of this Env (calls of one Env are not ordered), then `done` here. For RocksDB.
  virtual void run_blocking(Callback<void()> work, Callback<void()> done) = 0;

  virtual BufferPool& buffers() = 0;

  // Of writes, or reads, of hosts, `change` more (or fewer) are under way here. With more than a few writes there is no
  // waiting for one known thing, and a reactor sleeps rather than spins; with a few of either, it lets others have the
  // CPU until they sleep (wake_policy.h).
  virtual void note_writes(int change) {}
  virtual void note_reads(int change) {}

  // `path` is a file or a block device.
  virtual void open_file(std::string path, FileOptions options, OpenCallback done) = 0;
  virtual Result<std::unique_ptr<Listener>> listen(const Address& address, AcceptCallback on_stream) = 0;
  virtual void connect(const Address& address, Nanos timeout, ConnectCallback done) = 0;
  // Calls `readable` when `fd`, a non-blocking descriptor that stays open as long as the watch, can be read or has
  // failed. The callee reads until there is no more (EAGAIN), and may destroy the watch from inside.
  virtual Result<std::unique_ptr<ReadWatch>> watch_readable(int fd, Callback<void()> readable) {
    return Error(ErrorCode::kUnsupportedSystem, "this Env has no descriptors to watch");
  }
};

class Timer {
 public:
  explicit Timer(Env& env) : env_(&env) {}
  ~Timer() { cancel(); }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  bool armed() const { return id_ != 0; }
  // Replaces an earlier arming.
  void arm_after(Nanos delay, Callback<void()> work) {
    cancel();
    work_ = std::move(work);
    id_ = env_->call_at(env_->now() + delay, [this] {
      id_ = 0;
      Callback<void()> due = std::move(work_);
      due();
    });
  }
  void cancel() {
    if (id_ != 0) env_->cancel_call(std::exchange(id_, 0));
    work_.reset();
  }

 private:
  Env* env_;
  std::uint64_t id_ = 0;
  Callback<void()> work_;
};

}  // namespace holdfast
