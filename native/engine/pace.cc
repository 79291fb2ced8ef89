// How fast rebuilds may go. While no host works they take what they can get, up to the configured rate. While hosts
// work, rebuilds get what is left of the share of foreground I/O: an operation is weighed by its bytes and a constant,
// since small ones cost a disk and a processor far more than their bytes; a rebuild copies whole chunks. A floor keeps
// a rebuild going that little I/O would otherwise starve.
#include <algorithm>

#include "engine/volume_engine.h"

namespace holdfast::engine {

namespace {

constexpr Nanos kPaceInterval = 250ms;
constexpr std::uint64_t kOperationCost = 16u << 10;  // bytes, on top of its own
constexpr std::uint64_t kFloor = 32u << 20;          // bytes per second, of all rebuilds of a volume

}  // namespace

// Of the whole volume, bytes per second; 0: unlimited.
std::uint64_t VolumeEngine::allowed_rebuild_rate() const {
  if (pace_ == 0) return config_.rebuild_bytes_per_second;
  if (config_.rebuild_bytes_per_second == 0) return pace_;
  return std::min(pace_, config_.rebuild_bytes_per_second);
}

std::uint64_t VolumeEngine::rebuild_share() const {
  std::uint64_t rate = allowed_rebuild_rate();
  auto joining = std::count_if(members_.begin(), members_.end(), [](const std::unique_ptr<Member>& member) {
    return member->phase == MemberPhase::kJoining;
  });
  if (rate == 0 || joining == 0) return rate;
  return std::max<std::uint64_t>(1, rate / static_cast<std::uint64_t>(joining));
}

void VolumeEngine::share_rebuild_rate() {
  replica::AppendRequest request;
  request.rebuild_bytes_per_second = rebuild_share();
  for (const std::unique_ptr<Member>& member : members_) {
    if (member->phase == MemberPhase::kJoining && member->link) member->link->append(request);
  }
}

void VolumeEngine::set_rebuild_rate(std::uint64_t bytes_per_second, std::uint32_t foreground_percent) {
  config_.rebuild_bytes_per_second = bytes_per_second;
  config_.foreground_percent = std::min(foreground_percent, 99u);
  if (state_ == State::kServing) share_rebuild_rate();
}

// Runs while something is rebuilt.
void VolumeEngine::pace_rebuilds() {
  std::uint64_t ops = reads_done_ + writes_done_;
  std::uint64_t bytes = read_bytes_ + written_bytes_;
  double seconds = std::chrono::duration<double>(kPaceInterval).count();
  double cost = static_cast<double>((ops - paced_ops_) * kOperationCost + (bytes - paced_bytes_)) / seconds;
  bool idle = ops == paced_ops_ || !pace_timer_running_;
  paced_ops_ = ops;
  paced_bytes_ = bytes;
  std::uint64_t former = pace_;
  std::uint32_t share = config_.foreground_percent;
  pace_ = idle || share == 0 ? 0 : std::max(kFloor, static_cast<std::uint64_t>(cost * (100.0 - share) / share));
  bool joining = std::any_of(members_.begin(), members_.end(), [](const std::unique_ptr<Member>& member) {
    return member->phase == MemberPhase::kJoining;
  });
  pace_timer_running_ = joining;
  if (!joining) {
    pace_ = 0;
    return;
  }
  if (pace_ > former + former / 8 || pace_ < former - former / 8) share_rebuild_rate();
  pace_timer_.arm_after(kPaceInterval, [this] { pace_rebuilds(); });
}

}  // namespace holdfast::engine
