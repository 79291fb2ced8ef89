#include "iscsi/discovery.h"

#include <algorithm>

#include "iscsi/text.h"

namespace holdfast::iscsi {

std::vector<std::string> portal_addresses(const std::vector<Address>& portals, const Address& local) {
  std::vector<std::string> usable;
  for (Address portal : portals) {
    if (!portal.unix_path.empty()) continue;
    if (portal.host == "0.0.0.0" || portal.host == "::") {
      if (local.host.empty()) continue;
      portal.host = local.host;
    }
    std::string text = portal.to_string();
    if (std::find(usable.begin(), usable.end(), text) == usable.end()) usable.push_back(std::move(text));
  }
  return usable;
}

std::string send_targets_text(const std::vector<std::string>& targets, const std::vector<std::string>& portals) {
  std::string text;
  for (const std::string& target : targets) {
    append_text(text, "TargetName", target);
    for (const std::string& portal : portals) {
      append_text(text, "TargetAddress", portal + "," + std::string(kPortalGroupTag));
    }
  }
  return text;
}

}  // namespace holdfast::iscsi
