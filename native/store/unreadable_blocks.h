// UnreadableBlocks: blocks that a merge of layers (layer_merge.h) could not read, by place in the data file, and for
// how long: until they are given up the step is put off. Thread: reactor of the store.
#pragma once

#include <cstdint>
#include <map>

#include "io/env.h"

namespace holdfast::store {

class UnreadableBlocks {
 public:
  static constexpr unsigned kAttempts = 8;
  static constexpr Nanos kPatience = 10s;

  // Notes a failure; true when the block failed often and for long enough to be given up.
  bool note(std::uint64_t file_block, Nanos now) {
    Failures& failures = failures_.try_emplace(file_block, Failures{now}).first->second;
    return ++failures.count >= kAttempts && now - failures.first >= kPatience;
  }
  // The step is done; its slots may be used for something else from now on.
  void clear() { failures_.clear(); }

 private:
  struct Failures {
    Nanos first;
    unsigned count = 0;
  };
  std::map<std::uint64_t, Failures> failures_;
};

}  // namespace holdfast::store
