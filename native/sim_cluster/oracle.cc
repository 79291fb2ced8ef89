#include "sim_cluster/oracle.h"

#include <algorithm>

namespace holdfast::sim {

void Oracle::violated(const std::string& what) {
  if (!violation_.empty()) return;
  violation_ = what;
  world_.trace("VIOLATION " + what);
}

void Oracle::sending(Epoch epoch, Seq last) {
  if (superseded(epoch)) return;
  if (samples_.empty() || samples_.back().last < last) samples_.push_back({world_.now(), last});
  samples_.back().time = world_.now();
}

void Oracle::acknowledged(Epoch epoch, Seq committed) {
  if (!superseded(epoch)) acknowledged_ = std::max(acknowledged_, committed);
}

void Oracle::serving(const Recovery& recovery) {
  if (recovery.epoch < serving_) return;  // it will learn that it is fenced
  serving_ = recovery.epoch;
  Seq recovered = recovery.last;
  // An older copy that is served because somebody asked for it may be of another line: its seqs say nothing about what
  // it has.
  bool asked = recovery.older_accepted;
  if (recovered >= acknowledged_ && !asked) {
    history_.taken_over(world_.now());
  } else {
    Nanos sent{-1};
    for (const Sample& sample : samples_) {
      if (sample.last <= recovered) sent = sample.time;
    }
    std::string lost = "entries after " + std::to_string(recovered.value()) + " are lost, acknowledged were " +
                       std::to_string(acknowledged_.value()) + ", flushed " + std::to_string(flushed_.value());
    bool excused = std::all_of(recovery.power_lost.begin(), recovery.power_lost.end(),
                               [sent](Nanos when) { return when >= sent; });
    if (recovered < flushed_ && !recovery.all_damaged && !asked) violated("flushed " + lost);
    if (!excused && !asked) violated("without power loss of every in-sync copy, " + lost);
    world_.trace("power loss of all copies: " + lost);
    history_.blackout(world_.now(), recovery.all_damaged || asked);
    snapshots_.lost_after(asked ? Seq() : recovered);
    ++losses_;
  }
  std::string blocks = std::to_string(recovery.size_blocks) + " blocks, acknowledged were " +
                       std::to_string(size_acknowledged_) + ", asked for " + std::to_string(size_asked_);
  if (recovery.size_blocks < size_acknowledged_ && !recovery.all_damaged && !recovery.older_accepted)
    violated("the volume has shrunk to " + blocks);
  if (recovery.size_blocks > size_asked_) violated("the volume has grown to " + blocks);
  size_acknowledged_ = std::min(size_acknowledged_, recovery.size_blocks);
  snapshots_.taken_over(world_.now());
  std::erase_if(samples_, [recovered](const Sample& sample) { return sample.last > recovered; });
  acknowledged_ = std::min(acknowledged_, recovered);
  flushed_ = std::min(flushed_, recovered);
}

}  // namespace holdfast::sim
