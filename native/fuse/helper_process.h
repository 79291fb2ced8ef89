// Helper processes of a device: small programs of the system that do nothing but hold something, and that outlive
// whoever started them. A file of the device's folder says which one it is: pid and start time.
//
// Thread: every call blocks and belongs on a helper thread.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace holdfast::fuse {

struct HelperPlan {
  std::string program;
  std::vector<std::string> arguments;  // the first is the name that `ps` shows
  std::string directory;               // where it runs
  int descriptor = -1;                 // its only one besides the standard ones, as kHelperDescriptor; -1: none
};

inline constexpr int kHelperDescriptor = 3;

// Its pid, which `record` has from then on.
Result<int> start_helper(const HelperPlan& plan, const std::string& record);

// The pid of the process in `record`, if that very one still runs; else 0.
int find_helper(const std::string& record);

// Kills it, and waits for a child of this process; one that cannot end yet is not waited for. 0: does nothing.
void end_helper(int pid);

}  // namespace holdfast::fuse
