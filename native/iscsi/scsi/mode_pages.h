// Mode pages (SPC-4 section 7.5, SBC-3 section 6.4): what they say now, what may be changed, their defaults.
// Two bits can be changed: D_SENSE and SWP of the control page. Nothing is saved across restarts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace holdfast::scsi {

struct ModeParameters {
  bool descriptor_sense = false;  // control page D_SENSE: sense data in descriptor format
  bool write_protected = false;   // control page SWP
  bool operator==(const ModeParameters&) const = default;
};

enum class PageControl : std::uint8_t { kCurrent = 0, kChangeable = 1, kDefault = 2, kSaved = 3 };

// Appends the page; false when there is no such page. page 3Fh: all of them.
bool append_mode_page(std::uint8_t page, std::uint8_t subpage, PageControl control, const ModeParameters& parameters,
                      std::vector<std::byte>& out);

}  // namespace holdfast::scsi
