// Session: serves one FUSE connection whose root is a regular file, and that file is a BlockDevice.
//
// Everything happens on the volume's reactor: the connection is watched for requests, a request is read, becomes one
// operation of the BlockDevice, and its answer is written when that completes. No thread, no lock, no copy besides the
// kernel's own (docs/decisions/0007-local-devices.md).
//
// Without a device the session is suspended: nothing is read, so requests wait in the kernel. What was read and could
// not be answered, because the engine went away under it, or because the process that read it died, the kernel is asked
// to send again (resume()). A request is therefore answered by an engine that owned the volume, or not at all.
//
// Whoever asks for a lock on the file waits until release_locks(), or for the end of the connection: nobody gets one.
// That is what the anchor is made of (fuse/mount.h).
//
// Invariants: a request is answered at most once; memory for requests is bounded by kMaxBackground * kMaxIoBytes.
// Thread: one reactor.
#pragma once

#include <sys/uio.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "base/block_device.h"
#include "fuse/protocol.h"
#include "io/env.h"

namespace holdfast::fuse {

struct SessionStats {
  std::uint64_t reads = 0, writes = 0, zeroes = 0, flushes = 0;
  std::uint64_t failures = 0;  // answered with an error of the device
  std::uint64_t dropped = 0;   // left unanswered, to be sent again
};

class Session {
 public:
  // `fd`: /dev/fuse, non-blocking, mounted; it stays open as long as the session. `can_resend`: the kernel sends
  // unanswered requests again when asked. `name` is for messages. Suspended at first.
  Session(Env& env, int fd, bool can_resend, std::string name);
  ~Session();  // close() has called back
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Serves `device` from now on. `resend`: there may be requests that nobody has answered.
  Status resume(BlockDevice* device, bool resend);
  // Reads no more requests. Those under way complete against the former device; what the device cancels stays
  // unanswered.
  void suspend();
  // Suspends, and calls back once nothing is under way. The session serves no more.
  void close(Callback<void()> done);

  // Those who wait for a lock get an error, now and from now on.
  void release_locks();
  // How many wait for one.
  std::size_t waiting_for_locks() const { return locks_.size(); }

  // The kernel has to ask for the size again.
  void resized();

  bool suspended() const { return device_ == nullptr; }
  // The file was unmounted, or the connection aborted: there will be no more requests.
  bool ended() const { return ended_; }
  const SessionStats& stats() const { return stats_; }

 private:
  void receive();
  bool receive_one();
  void dispatch(const fuse_in_header& in, std::span<const std::byte> argument, SliceList payload);
  void initialize(std::uint64_t unique, std::span<const std::byte> argument);
  void read(std::uint64_t unique, const fuse_read_in& in);
  void write(std::uint64_t unique, const fuse_write_in& in, SliceList data);
  void allocate(std::uint64_t unique, const fuse_fallocate_in& in);
  void flush(std::uint64_t unique);
  void seek(std::uint64_t unique, const fuse_lseek_in& in);
  void seek_from(std::uint64_t unique, std::uint64_t offset, bool data);
  void lock(std::uint64_t unique);
  void answer_attributes(std::uint64_t unique);
  void answer_capacity(std::uint64_t unique);

  BlockDevice::DoneCallback completion(std::uint64_t unique, std::uint32_t written);
  // True when the request of that attempt is to stay unanswered.
  bool abandoned(const Error& error, std::uint64_t generation) const;
  void finish();

  template <typename T>
  void answer(std::uint64_t unique, const T& body);
  void answer_error(std::uint64_t unique, int error_number);
  void answer_status(std::uint64_t unique, const Status& status);
  void answer_data(std::uint64_t unique, const SliceList& parts);
  void send(const iovec* parts, int count);

  Env& env_;
  const int fd_;
  const bool can_resend_;
  const std::string name_;
  BlockDevice* device_ = nullptr;
  std::uint64_t generation_ = 0;  // rises whenever the device changes
  std::unique_ptr<ReadWatch> watch_;
  bool receive_posted_ = false;
  bool ended_ = false;
  unsigned in_flight_ = 0;
  std::vector<std::uint64_t> locks_;  // requests for a lock
  bool locks_released_ = false;
  Callback<void()> closed_;
  // Where the next request is read into: its head, then small and large data. What a WRITE fills goes to the device as
  // it is, and is replaced.
  std::array<std::byte, kWriteHeadBytes> head_;
  Slice small_;
  Slice large_;
  SessionStats stats_;
  // Outlived by what was posted to the reactor.
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace holdfast::fuse
