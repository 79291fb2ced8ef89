// ChannelPool: see engine.h.
#include <algorithm>

#include "engine/engine.h"

namespace holdfast::engine {

std::shared_ptr<rpc::Channel> ChannelPool::get(const Address& address) {
  std::erase_if(channels_, [](const auto& entry) { return entry.second.expired(); });
  for (const auto& [known, channel] : channels_) {
    if (known == address) return channel.lock();
  }
  std::shared_ptr<rpc::Channel> channel = rpc::Channel::create(env_, address, options_);
  channels_.emplace_back(address, channel);
  return channel;
}

}  // namespace holdfast::engine
