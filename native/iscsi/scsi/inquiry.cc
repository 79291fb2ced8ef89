// INQUIRY: standard data and vital product data pages (SPC-4 sections 6.4 and 7.8, SBC-3 section 6.6).
#include <algorithm>
#include <string>
#include <string_view>

#include "iscsi/scsi/big_endian.h"
#include "iscsi/scsi/copy_commands.h"
#include "iscsi/scsi/handlers.h"
#include "iscsi/scsi/logical_unit.h"

namespace holdfast::scsi {

namespace {

using Bytes = std::vector<std::byte>;

constexpr std::string_view kVendor = "HOLDFAST";
constexpr std::string_view kProduct = "Volume";
constexpr std::string_view kRevision = "1.0";
// NAA 6 wants an IEEE company identifier. Holdfast has none: this one has the locally-administered bit set.
constexpr std::uint64_t kCompanyId = 0x024846;
constexpr std::uint8_t kPages[] = {0x00, 0x80, 0x83, 0x86, 0x87, 0x8f, 0xb0, 0xb1, 0xb2};

void put_text(std::span<std::byte> field, std::string_view text) {
  std::fill(field.begin(), field.end(), std::byte{' '});
  auto bytes = as_bytes(text.substr(0, field.size()));
  std::copy(bytes.begin(), bytes.end(), field.begin());
}

Bytes standard_inquiry() {
  Bytes out(96);
  out[2] = std::byte{0x06};         // SPC-4
  out[3] = std::byte{0x12};         // HISUP, RESPONSE DATA FORMAT
  out[4] = std::byte{96 - 5};       // ADDITIONAL LENGTH
  out[5] = std::byte{0x10 | 0x08};  // TPGS: implicit; 3PC
  out[7] = std::byte{0x02};         // CMDQUE
  put_text(std::span(out).subspan(8, 8), kVendor);
  put_text(std::span(out).subspan(16, 16), kProduct);
  put_text(std::span(out).subspan(32, 4), kRevision);
  store_be(out, 58, 2, 0x00a0);  // SAM-5
  store_be(out, 60, 2, 0x0960);  // iSCSI
  store_be(out, 62, 2, 0x0460);  // SPC-4
  store_be(out, 64, 2, 0x04c0);  // SBC-3
  return out;
}

// CODE SET 1 binary, 2 ASCII, 3 UTF-8; ASSOCIATION 0 logical unit, 1 target port, 2 target device.
void append_designator(Bytes& out, unsigned code_set, unsigned association, unsigned type,
                       std::span<const std::byte> designator) {
  bool for_port_or_target = association != 0;
  out.push_back(static_cast<std::byte>((for_port_or_target ? 0x50 : 0) | code_set));
  out.push_back(static_cast<std::byte>((for_port_or_target ? 0x80 : 0) | association << 4 | type));
  out.push_back(std::byte{0});
  out.push_back(static_cast<std::byte>(designator.size()));
  out.insert(out.end(), designator.begin(), designator.end());
}

// SCSI name strings are null-terminated and padded to four bytes.
Bytes name_string(std::string text) {
  text.push_back('\0');
  while (text.size() % 4) text.push_back('\0');
  auto bytes = as_bytes(text);
  return Bytes(bytes.begin(), bytes.end());
}

Bytes device_identification(const Identity& identity) {
  Bytes out;
  append_designator(out, 1, 0, 3, naa_identifier(identity));
  std::string vendor_id = std::string(kVendor) + identity.serial;
  append_designator(out, 2, 0, 1, as_bytes(vendor_id));
  Bytes one(4);
  one[3] = std::byte{1};
  append_designator(out, 1, 1, 4, one);  // relative target port
  append_designator(out, 1, 1, 5, one);  // target port group
  append_designator(out, 3, 1, 8, name_string(identity.target_name + ",t,0x0001"));
  append_designator(out, 3, 2, 8, name_string(identity.target_name));
  return out;
}

Bytes extended_inquiry() {
  Bytes out(60);
  out[1] = std::byte{0x07};  // HEADSUP, ORDSUP, SIMPSUP
  out[2] = std::byte{0x01};  // V_SUP: there is a volatile cache
  out[3] = std::byte{0x01};  // LUICLR
  return out;
}

// Mode page policy: every page is shared by all nexuses.
Bytes mode_page_policy() {
  Bytes out(4);
  out[0] = std::byte{0x3f};
  out[1] = std::byte{0xff};
  return out;
}

Bytes block_limits(const LogicalUnit& unit) {
  Bytes out(60);
  std::uint64_t block = unit.block_size();
  std::uint64_t physical = kPhysicalBlockBytes / block;
  // Offsets are those of the page less its four-byte header.
  out[0] = std::byte{0x01};  // WSNZ: a count of zero would mean "to the end of the volume"
  out[1] = static_cast<std::byte>(std::min<std::uint64_t>(kCompareAndWriteBytesMax / block, 255));
  store_be(out, 2, 2, kGranularityBytesOptimal / block);
  store_be(out, 4, 4, kTransferBytesMax / block);
  store_be(out, 8, 4, kTransferBytesOptimal / block);
  store_be(out, 16, 4, kUnmapBytesMax / block);
  store_be(out, 20, 4, kUnmapDescriptorsMax);
  store_be(out, 24, 4, physical);      // OPTIMAL UNMAP GRANULARITY
  store_be(out, 28, 4, 0x8000'0000u);  // UGAVALID, alignment 0
  store_be(out, 32, 8, kWriteSameBytesMax / block);
  return out;
}

Bytes block_characteristics() {
  Bytes out(60);
  store_be(out, 0, 2, 1);  // not rotating
  out[3] = std::byte{0};   // WABEREQ, WACEREQ not specified; NOMINAL FORM FACTOR not reported
  return out;
}

Bytes logical_block_provisioning() {
  Bytes out(4);
  out[1] = std::byte{0x80 | 0x40 | 0x20 | 0x04};  // LBPU, LBPWS, LBPWS10, LBPRZ
  out[2] = std::byte{0x02};                       // thin provisioned
  return out;
}

std::optional<Bytes> page_content(LogicalUnit& unit, std::uint8_t page) {
  switch (page) {
    case 0x00: {
      auto pages = std::as_bytes(std::span(kPages));
      return Bytes(pages.begin(), pages.end());
    }
    case 0x80: {
      auto serial = as_bytes(unit.identity().serial);
      return Bytes(serial.begin(), serial.end());
    }
    case 0x83:
      return device_identification(unit.identity());
    case 0x86:
      return extended_inquiry();
    case 0x87:
      return mode_page_policy();
    case 0x8f:
      return third_party_copy_page();
    case 0xb0:
      return block_limits(unit);
    case 0xb1:
      return block_characteristics();
    case 0xb2:
      return logical_block_provisioning();
    default:
      return std::nullopt;
  }
}

}  // namespace

std::array<std::byte, 16> naa_identifier(const Identity& identity) {
  std::array<std::byte, 16> naa{};
  store_be(naa, 0, 8, 0x6000'0000'0000'0000ull | kCompanyId << 36);
  store_be(naa, 8, 8, identity.naa_id);
  return naa;
}

void execute_inquiry(LogicalUnit& unit, Command& command) {
  std::uint64_t allocation = command.cdb_field(3, 2);
  std::uint8_t page = command.cdb8(2);
  if (command.cdb8(1) & 0x02) return unit.fail(command, invalid_field(1));  // CMDDT: obsolete
  if (!(command.cdb8(1) & 0x01)) {
    if (page != 0) return unit.fail(command, invalid_field(2));
    return unit.answer(command, standard_inquiry(), allocation);
  }
  std::optional<Bytes> content = page_content(unit, page);
  if (!content) return unit.fail(command, invalid_field(2));
  Bytes out(4);
  out[1] = static_cast<std::byte>(page);
  store_be(out, 2, 2, content->size());
  out.insert(out.end(), content->begin(), content->end());
  unit.answer(command, out, allocation);
}

}  // namespace holdfast::scsi
