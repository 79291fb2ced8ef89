// ObjectPool<T>: objects that are used again instead of being freed, so that the I/O path does not allocate.
// A pooled object keeps its memory (vectors keep their capacity); its user clears what must not live on.
#pragma once

#include <memory>
#include <vector>

namespace holdfast::engine {

template <typename T>
class ObjectPool {
 public:
  T* take() {
    if (free_.empty()) {
      all_.push_back(std::make_unique<T>());
      free_.reserve(all_.size());
      return all_.back().get();
    }
    T* object = free_.back();
    free_.pop_back();
    return object;
  }
  void give_back(T* object) { free_.push_back(object); }
  std::size_t in_use() const { return all_.size() - free_.size(); }

 private:
  std::vector<std::unique_ptr<T>> all_;
  std::vector<T*> free_;
};

}  // namespace holdfast::engine
