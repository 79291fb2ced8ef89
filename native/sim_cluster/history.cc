#include "sim_cluster/history.h"

#include <algorithm>
#include <unordered_set>

#include "base/check.h"

namespace holdfast::sim {

History::Block& History::at(std::uint64_t block) {
  if (block >= blocks_.size()) blocks_.resize(block + 1);
  return blocks_[block];
}

std::size_t History::write_begins(std::uint64_t block, Value value, Nanos now, std::optional<Value> expected) {
  Block& history = at(block);
  history.open.push_back({.kind = Kind::kWrite, .value = value, .expected = expected, .begun = now});
  return history.handle_base + history.open.size() - 1;
}

void History::write_acknowledged(std::uint64_t block, std::size_t handle, Nanos now, bool durable) {
  Block& history = at(block);
  if (handle < history.handle_base) return;
  Operation& write = history.open[handle - history.handle_base];
  CHECK(write.ended == kNever, "a write is acknowledged once");
  write.ended = std::min(now, write.latest);
  write.durable = durable;
}

void History::write_refused(std::uint64_t block, std::size_t handle) {
  Block& history = at(block);
  if (handle >= history.handle_base) history.open[handle - history.handle_base].kind = Kind::kRefused;
}

void History::read_returned(std::uint64_t block, Value value, Nanos begun, Nanos now) {
  if (begun <= segment_began_) return;
  at(block).open.push_back({.kind = Kind::kRead, .value = value, .begun = begun, .ended = now});
}

void History::read_differed(std::uint64_t block, Value value, Nanos begun, Nanos now) {
  if (begun <= segment_began_) return;
  at(block).open.push_back({.kind = Kind::kDiffers, .value = value, .begun = begun, .ended = now});
}

void History::taken_over(Nanos now) {
  for (Block& block : blocks_) {
    for (Operation& one : block.open) {
      if (one.write() && one.ended == kNever) one.latest = std::min(one.latest, now);
    }
  }
}

void History::blackout(Nanos now, bool destroyed) {
  for (Block& block : blocks_) {
    // A value survives unless a write that began after it was settled is known to be flushed.
    Nanos newest_flushed{-1};
    for (const Operation& one : block.open) {
      if (one.write() && !destroyed && (one.durable || one.ended <= flushed_until_)) {
        newest_flushed = std::max(newest_flushed, one.begun);
      }
    }
    std::set<Value> next;
    for (const Operation& one : block.open) {
      if (one.write() && one.ended >= newest_flushed) next.insert(one.value);
    }
    if (newest_flushed < Nanos(0)) next.insert(block.initial.begin(), block.initial.end());
    for (std::size_t i = 0; destroyed && i < block.past.size(); ++i) {
      next.insert(block.past[i].first.begin(), block.past[i].first.end());
      for (const Operation& one : block.past[i].second) {
        if (one.write()) next.insert(one.value);
      }
    }
    block.handle_base += block.open.size();
    block.past.emplace_back(std::move(block.initial), std::move(block.open));
    block.initial = std::move(next);
    block.open.clear();
  }
  segment_began_ = now;
}

bool History::only_zeros(std::uint64_t block) const {
  if (block >= blocks_.size()) return true;
  auto no_zero = [](const Operation& operation) { return operation.value != 0; };
  auto segment = [&](const std::set<Value>& initial, const std::vector<Operation>& operations) {
    return std::all_of(initial.begin(), initial.end(), [](Value value) { return value == 0; }) &&
           std::none_of(operations.begin(), operations.end(), no_zero);
  };
  const Block& of = blocks_[block];
  return segment(of.initial, of.open) && std::all_of(of.past.begin(), of.past.end(), [&](const auto& past) {
           return segment(past.first, past.second);
         });
}

std::optional<std::string> History::check() const {
  for (std::size_t index = 0; index < blocks_.size(); ++index) {
    const Block& block = blocks_[index];
    for (const auto& [initial, operations] : block.past) {
      if (!explained(initial, operations)) return describe(index, initial, operations);
    }
    if (!explained(block.initial, block.open)) return describe(index, block.initial, block.open);
  }
  return std::nullopt;
}

// Depth-first search for an order. `operations` is sorted by invocation; `taken_` marks what is in the order already.
class History::Search {
 public:
  explicit Search(const std::vector<Operation>& operations) : operations_(operations), taken_(operations.size(), '0') {
    for (std::size_t i = 0; i < operations.size(); ++i) {
      if (operations[i].latest != kNever) expiring_.push_back(i);
    }
  }

  // `first`: everything before is in the order; `past_last`: nothing from here on is. `newest`: the latest invocation
  // in the order so far.
  bool from(Value value, std::size_t settled_left, Nanos newest, std::size_t first, std::size_t past_last) {
    if (settled_left == 0) return true;
    while (first < taken_.size() && taken_[first] != '0') ++first;
    past_last = std::max(past_last, first);
    if (!visited_.insert(state_key(value, first, past_last)).second) return false;
    Nanos first_end = kNever;  // invocations rise: what begins after it cannot lower it
    for (std::size_t i = first; i < operations_.size() && operations_[i].begun <= first_end; ++i) {
      if (taken_[i] == '0') first_end = std::min(first_end, operations_[i].ended);
    }
    Nanos next_expiry = kNever;
    for (std::size_t i : expiring_) {
      if (taken_[i] == '0' && operations_[i].latest > newest)
        next_expiry = std::min(next_expiry, operations_[i].latest);
    }
    // What is known to have happened is tried first: of many writes whose outcome is unknown hardly any is needed, and
    // going through their subsets takes for ever.
    for (bool settled : {true, false}) {
      for (std::size_t i = first; i < operations_.size() && operations_[i].begun <= first_end; ++i) {
        const Operation& next = operations_[i];
        if (taken_[i] != '0' || settled != (next.ended != kNever)) continue;
        if (!next.fits(value) || next.latest <= newest) continue;
        taken_[i] = '1';
        if (from(next.write() ? next.value : value, settled_left - (settled ? 1 : 0), std::max(newest, next.begun),
                 first, std::max(past_last, i + 1))) {
          return true;
        }
        taken_[i] = '0';
        // A read that fits now can always go first, unless that would end the time of a write of unknown outcome.
        if (!next.write() && next.begun < next_expiry) return false;
      }
    }
    return false;
  }

 private:
  // Which operations are in the order, and the value after them. (`newest` follows from the first.)
  std::string state_key(Value value, std::size_t first, std::size_t past_last) const {
    std::string key(reinterpret_cast<const char*>(&value), sizeof value);
    key.append(reinterpret_cast<const char*>(&first), sizeof first);
    return key.append(taken_, first, past_last - first);
  }

  const std::vector<Operation>& operations_;
  std::vector<std::size_t> expiring_;
  std::string taken_;
  std::unordered_set<std::string> visited_;
};

bool History::explained(const std::set<Value>& initial, const std::vector<Operation>& all) {
  std::set<Value> seen;
  for (const Operation& one : all) {
    if (one.kind == Kind::kRead) seen.insert(one.value);
    if (one.expected) seen.insert(*one.expected);
  }
  bool differs = std::any_of(all.begin(), all.end(), [](const Operation& one) { return one.kind == Kind::kDiffers; });
  std::vector<Operation> operations;
  std::size_t settled = 0;
  for (const Operation& one : all) {
    if (one.kind == Kind::kRefused) continue;
    bool known = one.ended != kNever;
    if (!known && !differs && !seen.contains(one.value)) continue;  // never needed in any order
    if (known) ++settled;
    operations.push_back(one);
  }
  std::sort(operations.begin(), operations.end(),
            [](const Operation& a, const Operation& b) { return a.begun < b.begun; });
  for (Value value : initial) {
    Search search(operations);
    if (search.from(value, settled, Nanos(-1), 0, 0)) return true;
  }
  return initial.empty() && operations.empty();
}

std::string History::describe(std::uint64_t block, const std::set<Value>& initial,
                              const std::vector<Operation>& operations) {
  std::string text = "block " + std::to_string(block) + ": no order explains its history; it may start with {";
  for (Value value : initial) text += " " + std::to_string(value);
  text += " }";
  for (const Operation& one : operations) {
    const char* name = one.kind == Kind::kWrite     ? "write "
                       : one.kind == Kind::kRead    ? "read  "
                       : one.kind == Kind::kDiffers ? "not   "
                                                    : "refused ";
    text += "\n  " + std::string(name) + std::to_string(one.value);
    if (one.expected) text += " over " + std::to_string(*one.expected);
    text += " [" + std::to_string(one.begun.count()) + ", " +
            (one.ended == kNever ? std::string("unknown") : std::to_string(one.ended.count())) + "]";
    if (one.latest != kNever) text += " before " + std::to_string(one.latest.count());
    if (one.durable) text += " durable";
  }
  return text;
}

}  // namespace holdfast::sim
