// StreamHandle: what a user holds of a stream. The core behind it holds what the kernel may still use, and lives until
// both the handle is gone and the last operation has completed.
// Thread: one reactor.
#pragma once

#include <span>
#include <utility>

#include "io/env.h"
#include "io/loop.h"

namespace holdfast::io {

template <typename Core>
class StreamHandle final : public Stream {
 public:
  template <typename... Arguments>
  explicit StreamHandle(Loop& loop, Arguments&&... arguments)
      : loop_(loop), core_(new Core(loop, std::forward<Arguments>(arguments)...)) {
    ++loop_.handles;
  }
  ~StreamHandle() override {
    core_->abandon();
    --loop_.handles;
  }

  void start(StreamHandler* handler) override { core_->start(handler); }
  void send(std::span<Slice> parts) override { core_->send(parts); }
  std::size_t unsent_bytes() const override { return core_->unsent_bytes(); }
  void pause_receiving() override { core_->pause_receiving(); }
  void resume_receiving() override { core_->resume_receiving(); }
  void shutdown() override { core_->shutdown(); }
  Address local_address() const override { return core_->local_address(); }
  Address peer_address() const override { return core_->peer_address(); }

 private:
  Loop& loop_;
  Core* core_;
};

}  // namespace holdfast::io
