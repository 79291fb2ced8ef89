// UringWatch: one multishot poll for a descriptor that others read. As with listeners, the handle may go while the
// kernel still uses the core; the descriptor may be closed as soon as the handle is gone.
// Thread: one reactor.
#pragma once

#include "io/env.h"
#include "io/loop.h"

namespace holdfast::io {

class UringWatch final : public ReadWatch {
 public:
  UringWatch(Loop& loop, int fd, Callback<void()> readable);
  ~UringWatch() override;

 private:
  class Core;

  Loop& loop_;
  Core* core_;
};

}  // namespace holdfast::io
