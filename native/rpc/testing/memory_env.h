// MemoryEnv: a deterministic Env for tests and fuzz targets of rpc: a virtual clock and connections in memory that
// deliver in pieces of `chunk_bytes`. No files. Thread: the one that calls settle() and advance().
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>

#include "io/env.h"

namespace holdfast::rpc::testing {

class MemoryEnv;
class MemoryStream;

// One connection: what is on its way to each end.
struct Pipe {
  struct End {
    MemoryStream* stream = nullptr;
    StreamHandler* handler = nullptr;
    std::string inbound;
    bool inbound_ended = false;
    bool paused = false;
    bool pump_posted = false;
    bool closed = false;
  };
  MemoryEnv* env;
  End ends[2];
};

class MemoryStream final : public Stream {
 public:
  MemoryStream(std::shared_ptr<Pipe> pipe, int side) : pipe_(std::move(pipe)), side_(side) {
    pipe_->ends[side_].stream = this;
  }
  ~MemoryStream() override {
    Pipe::End& mine = pipe_->ends[side_];
    mine.stream = nullptr;
    mine.handler = nullptr;
    mine.inbound.clear();
    end_other();
  }
  void start(StreamHandler* handler) override {
    pipe_->ends[side_].handler = handler;
    pump(pipe_, side_);
  }
  void send(std::span<Slice> parts) override {
    Pipe::End& other = pipe_->ends[1 - side_];
    for (Slice& part : parts) {
      if (!other.closed && other.stream != nullptr) other.inbound += part.text();
      ++parts_sent;
      part = Slice();
    }
    ++sends;
    pump(pipe_, 1 - side_);
  }
  std::size_t unsent_bytes() const override { return pipe_->ends[1 - side_].inbound.size(); }
  void pause_receiving() override { pipe_->ends[side_].paused = true; }
  void resume_receiving() override {
    pipe_->ends[side_].paused = false;
    pump(pipe_, side_);
  }
  void shutdown() override {
    end_other();
    pipe_->ends[side_].inbound_ended = true;
    pump(pipe_, side_);
  }
  Address local_address() const override { return {"127.0.0.1", 1, ""}; }
  Address peer_address() const override { return {"127.0.0.1", 2, ""}; }

  std::size_t sends = 0;
  std::size_t parts_sent = 0;

 private:
  friend class MemoryEnv;
  void end_other() {
    pipe_->ends[1 - side_].inbound_ended = true;
    pump(pipe_, 1 - side_);
  }
  static void pump(const std::shared_ptr<Pipe>& pipe, int side);

  std::shared_ptr<Pipe> pipe_;
  int side_;
};

class MemoryListener final : public Listener {
 public:
  MemoryListener(MemoryEnv& env, Address address) : env_(env), address_(std::move(address)) {}
  ~MemoryListener() override;
  Address address() const override { return address_; }

 private:
  MemoryEnv& env_;
  Address address_;
};

class MemoryEnv final : public Env {
 public:
  std::size_t chunk_bytes = 64u << 10;
  bool refuse_connections = false;
  // While true nothing is delivered, in either direction.
  bool frozen_network = false;

  Nanos now() override { return now_; }
  Nanos wall_clock() override { return now_; }
  std::uint64_t random() override { return ++random_ * 0x9E3779B97F4A7C15ull; }
  void post(Callback<void()> work) override { posted_.push_back(std::move(work)); }
  std::uint64_t call_at(Nanos deadline, Callback<void()> work) override {
    std::uint64_t id = ++last_id_;
    timers_.emplace(std::pair(std::max(deadline, now_ + 1ns), id), std::move(work));
    return id;
  }
  void cancel_call(std::uint64_t id) override {
    for (auto timer = timers_.begin(); timer != timers_.end(); ++timer) {
      if (timer->first.second != id) continue;
      timers_.erase(timer);
      return;
    }
  }
  void run_blocking(Callback<void()> work, Callback<void()> done) override {
    work();
    post(std::move(done));
  }
  BufferPool& buffers() override { return buffers_; }
  void open_file(std::string, FileOptions, OpenCallback) override { CHECK(false, "MemoryEnv has no files"); }

  Result<std::unique_ptr<Listener>> listen(const Address& address, AcceptCallback on_stream) override {
    Address bound = address;
    if (bound.unix_path.empty() && bound.port == 0) bound.port = ++last_port_;
    if (listeners_.contains(bound.to_string())) return Error(ErrorCode::kInUse, "in use");
    listeners_.emplace(bound.to_string(), std::make_shared<AcceptCallback>(std::move(on_stream)));
    return std::unique_ptr<Listener>(std::make_unique<MemoryListener>(*this, bound));
  }

  void connect(const Address& address, Nanos, ConnectCallback done) override {
    // A Callback does not fit into a Callback.
    auto held = std::make_shared<ConnectCallback>(std::move(done));
    auto key = std::make_shared<std::string>(address.to_string());
    post([this, held, key] {
      auto listener = listeners_.find(*key);
      if (refuse_connections || listener == listeners_.end()) {
        return (*held)(Error(ErrorCode::kConnectionLost, "connection refused"));
      }
      auto pipe = std::make_shared<Pipe>();
      pipe->env = this;
      auto client = std::make_unique<MemoryStream>(pipe, 0);
      auto server = std::make_unique<MemoryStream>(pipe, 1);
      newest_ = pipe;
      auto accept = listener->second;
      (*accept)(std::move(server));
      (*held)(std::unique_ptr<Stream>(std::move(client)));
    });
  }

  // Breaks the newest connection for both ends; what was on its way is lost.
  void cut_newest() {
    for (int side : {0, 1}) {
      Pipe::End& end = newest_->ends[side];
      end.inbound.clear();
      if (end.closed || end.handler == nullptr) continue;
      end.closed = true;
      post([pipe = newest_, side] {
        if (pipe->ends[side].handler != nullptr) {
          pipe->ends[side].handler->on_closed(Error(ErrorCode::kConnectionLost, "cut"));
        }
      });
    }
  }
  Pipe& newest() { return *newest_; }

  // Runs what is posted until nothing is left. Time stands still.
  void settle() {
    while (!posted_.empty()) turn();
  }
  // One turn: what was posted before it.
  void turn() {
    for (std::size_t count = posted_.size(); count > 0; --count) {
      Callback<void()> work = std::move(posted_.front());
      posted_.pop_front();
      work();
    }
  }
  void advance(Nanos by) {
    Nanos until = now_ + by;
    settle();
    while (!timers_.empty() && timers_.begin()->first.first <= until) {
      now_ = std::max(now_, timers_.begin()->first.first);  // stall() makes timers late
      Callback<void()> work = std::move(timers_.begin()->second);
      timers_.erase(timers_.begin());
      work();
      settle();
    }
    now_ = until;
  }
  // The clock moves while this process stands still: timers come late.
  void stall(Nanos by) { now_ += by; }
  void thaw() {
    frozen_network = false;
    auto held = std::move(frozen_);
    for (auto& work : held) post(std::move(work));
  }

 private:
  friend class MemoryStream;
  friend class MemoryListener;

  BufferPool buffers_;  // outlives everything that holds slices
  Nanos now_{1'000'000'000};
  std::uint64_t random_ = 0;
  std::uint64_t last_id_ = 0;
  std::uint16_t last_port_ = 1000;
  std::map<std::string, std::shared_ptr<AcceptCallback>> listeners_;
  std::shared_ptr<Pipe> newest_;
  std::map<std::pair<Nanos, std::uint64_t>, Callback<void()>> timers_;
  std::vector<Callback<void()>> frozen_;
  std::deque<Callback<void()>> posted_;
};

inline MemoryListener::~MemoryListener() { env_.listeners_.erase(address_.to_string()); }

inline void MemoryStream::pump(const std::shared_ptr<Pipe>& pipe, int side) {
  if (std::exchange(pipe->ends[side].pump_posted, true)) return;
  auto deliver = [pipe, side] {
    Pipe::End& end = pipe->ends[side];
    Pipe::End& sender = pipe->ends[1 - side];
    end.pump_posted = false;
    if (end.stream == nullptr) end.inbound.clear();
    if (end.handler == nullptr || end.closed || end.paused) return;
    if (!end.inbound.empty()) {
      std::string chunk = end.inbound.substr(0, pipe->env->chunk_bytes);
      end.inbound.erase(0, chunk.size());
      end.handler->on_data(as_bytes(chunk));
      if (end.inbound.empty() && sender.handler != nullptr && !sender.closed) sender.handler->on_drained();
    }
    if (end.handler == nullptr || end.closed) return;
    if (!end.inbound.empty()) return pump(pipe, side);
    if (end.inbound_ended) {
      end.closed = true;
      end.handler->on_closed(Status());
    }
  };
  if (pipe->env->frozen_network) {
    pipe->env->frozen_.push_back(std::move(deliver));
  } else {
    pipe->env->post(std::move(deliver));
  }
}

}  // namespace holdfast::rpc::testing
