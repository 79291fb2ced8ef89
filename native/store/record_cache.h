// RecordCache: what the head sees of the most recently used chunks, also the knowledge that there is nothing.
// Thread: reactor of the store.
#pragma once

#include <list>
#include <unordered_map>

#include "store/chunk_view.h"

namespace holdfast::store {

class RecordCache {
 public:
  explicit RecordCache(std::size_t records_max) : records_max_(records_max) {}

  // Valid until the next put() or forget().
  ChunkView* find(SpaceId space, ChunkIndex chunk) {
    auto at = index_.find({space.value(), chunk.value()});
    if (at == index_.end()) return nullptr;
    order_.splice(order_.begin(), order_, at->second);
    return &at->second->view;
  }
  ChunkView* put(SpaceId space, ChunkIndex chunk, ChunkView view) {
    Key key{space.value(), chunk.value()};
    auto at = index_.find(key);
    if (at != index_.end()) {
      at->second->view = std::move(view);
      order_.splice(order_.begin(), order_, at->second);
      return &order_.front().view;
    }
    if (index_.size() >= records_max_) {
      index_.erase(order_.back().key);
      order_.pop_back();
    }
    order_.push_front({key, std::move(view)});
    index_.emplace(key, order_.begin());
    return &order_.front().view;
  }
  void forget(SpaceId space, ChunkIndex chunk) {
    auto at = index_.find({space.value(), chunk.value()});
    if (at == index_.end()) return;
    order_.erase(at->second);
    index_.erase(at);
  }
  void forget(SpaceId space) {
    for (auto at = order_.begin(); at != order_.end();) {
      if (at->key.space == space.value()) {
        index_.erase(at->key);
        at = order_.erase(at);
      } else {
        ++at;
      }
    }
  }

 private:
  struct Key {
    std::uint64_t space, chunk;
    bool operator==(const Key&) const = default;
  };
  struct Hash {
    std::size_t operator()(const Key& key) const {
      return (key.space ^ (key.chunk + 0x9E3779B97F4A7C15ull)) * 0xD6E8FEB86659FD93ull >> 7;
    }
  };
  struct Node {
    Key key;
    ChunkView view;
  };
  std::size_t records_max_;
  std::list<Node> order_;  // most recent first
  std::unordered_map<Key, std::list<Node>::iterator, Hash> index_;
};

}  // namespace holdfast::store
