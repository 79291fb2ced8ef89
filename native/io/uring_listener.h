// UringListener: a listening TCP or unix socket with one multishot accept. As with streams, the handle may go while
// the kernel still uses the core.
// Thread: one reactor.
#pragma once

#include <memory>

#include "io/env.h"
#include "io/loop.h"

namespace holdfast::io {

// TCP_NODELAY on TCP sockets, nothing on others.
void set_no_delay(int fd);

class UringListener final : public Listener {
 public:
  // IN_USE when somebody else listens there. The socket file of a unix listener that died is replaced.
  static Result<std::unique_ptr<Listener>> create(Loop& loop, const Address& address, AcceptCallback on_stream);
  ~UringListener() override;
  Address address() const override;

 private:
  class Core;
  UringListener(Loop& loop, Core* core) : loop_(loop), core_(core) { ++loop_.handles; }

  Loop& loop_;
  Core* core_;
};

}  // namespace holdfast::io
