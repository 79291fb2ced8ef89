// What other files ask of the copy manager.
#pragma once

#include <cstddef>
#include <vector>

namespace holdfast::scsi {

// Content of VPD page 8Fh, Third-party Copy (SPC-4 section 7.8.16), without the page header.
std::vector<std::byte> third_party_copy_page();

}  // namespace holdfast::scsi
