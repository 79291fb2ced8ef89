// SendTargets (RFC 7143 appendix C): which targets there are, and at which portals.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "io/env.h"

namespace holdfast::iscsi {

// Tag of the one portal group that all portals belong to.
inline constexpr std::string_view kPortalGroupTag = "1";

// The portals as an initiator that reached `local` can use them: wildcards become the address it used.
std::vector<std::string> portal_addresses(const std::vector<Address>& portals, const Address& local);

// TargetName and TargetAddress pairs for these targets.
std::string send_targets_text(const std::vector<std::string>& targets, const std::vector<std::string>& portals);

}  // namespace holdfast::iscsi
