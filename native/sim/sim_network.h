// SimStream and SimListener: byte streams between simulated processes. Bytes of one direction arrive in order, in
// arbitrary pieces, after arbitrary delays; a cut link holds them back; a reset loses what is on the way.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "io/env.h"
#include "sim/world.h"

namespace holdfast::sim {

class SimStream;

// What both ends of a connection share; outlives either.
struct Connection {
  SimStream* ends[2] = {nullptr, nullptr};  // nullptr: destroyed, or its process died
  Process* processes[2] = {nullptr, nullptr};
  Address addresses[2];
  bool silent[2] = {false, false};  // that end lost its power: nothing answers
};

// Bytes that wait, first in, first out.
class ByteQueue {
 public:
  std::size_t size() const { return bytes_.size() - head_; }
  bool empty() const { return size() == 0; }
  void append(std::span<const std::byte> bytes) { bytes_.insert(bytes_.end(), bytes.begin(), bytes.end()); }
  void append(std::vector<std::byte>&& bytes) {
    if (!empty()) return append(std::span<const std::byte>(bytes));
    bytes_ = std::move(bytes);
    head_ = 0;
  }
  std::vector<std::byte> take(std::size_t length);
  void clear() {
    bytes_.clear();
    head_ = 0;
  }

 private:
  std::vector<std::byte> bytes_;
  std::size_t head_ = 0;
};

class SimStream : public Stream {
 public:
  SimStream(World& world, Process* process, std::shared_ptr<Connection> connection, int side);
  ~SimStream() override;

  void start(StreamHandler* handler) override;
  void send(std::span<Slice> parts) override;
  std::size_t unsent_bytes() const override { return unsent_; }
  void pause_receiving() override { paused_ = true; }
  void resume_receiving() override;
  void shutdown() override;
  Address local_address() const override { return connection_->addresses[side_]; }
  Address peer_address() const override { return connection_->addresses[1 - side_]; }

  Process* process() const { return process_; }
  void process_died(bool silent);
  void network_changed() { plan_transfer(); }
  void reset_connection();

 private:
  static constexpr std::size_t kSocketBuffer = 256u << 10;

  SimStream* peer() const { return connection_->ends[1 - side_]; }
  const std::string& node_of(int side) const { return connection_->processes[side]->node; }
  void plan_transfer();
  void transfer();
  void arrive(std::vector<std::byte> bytes);
  void plan_delivery();
  void deliver();
  void end_later(Nanos delay, Status reason);
  void ended(Status reason);

  World& world_;
  Process* process_;
  std::shared_ptr<Connection> connection_;
  int side_;
  StreamHandler* handler_ = nullptr;

  ByteQueue outgoing_;  // not yet on the way
  std::size_t unsent_ = 0;
  bool transfer_planned_ = false;
  bool shut_down_ = false;
  Nanos last_arrival_{0};

  ByteQueue incoming_;
  std::size_t on_the_way_ = 0;  // towards us
  bool delivery_planned_ = false;
  bool peer_finished_ = false;  // an orderly end follows incoming_
  bool paused_ = false;
  bool closed_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

class SimListener : public Listener {
 public:
  SimListener(World& world, Process* process, Address address, AcceptCallback on_stream);
  ~SimListener() override;
  Address address() const override { return address_; }
  Process* process() const { return process_; }
  void accept(std::unique_ptr<Stream> stream) { on_stream_(std::move(stream)); }

 private:
  World& world_;
  Process* process_;
  Address address_;
  AcceptCallback on_stream_;
};

}  // namespace holdfast::sim
