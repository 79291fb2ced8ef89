// TransportIDs of iSCSI initiator ports (SPC-4 section 7.6.4.6), to and from initiator port names "IQN,i,0xISID".
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace holdfast::scsi {

// Length a multiple of four, as the standard asks.
std::vector<std::byte> transport_id_of_port(std::string_view port);
// Reads one at the start of `bytes`; nullopt when it is not a well-formed iSCSI TransportID with ISID.
std::optional<std::string> port_of_transport_id(std::span<const std::byte> bytes);

}  // namespace holdfast::scsi
