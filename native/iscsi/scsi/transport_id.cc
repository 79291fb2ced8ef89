#include "iscsi/scsi/transport_id.h"

#include <algorithm>
#include <cctype>
#include <cstring>

#include "iscsi/scsi/big_endian.h"

namespace holdfast::scsi {

namespace {
constexpr std::byte kFormatWithIsid{0x45};  // FORMAT CODE 01b, PROTOCOL IDENTIFIER 5 (iSCSI)
constexpr std::size_t kNameBytesMax = 223;  // RFC 7143 section 4.2.7.1
constexpr std::size_t kPortBytesMax = kNameBytesMax + 17;
}  // namespace

std::vector<std::byte> transport_id_of_port(std::string_view port) {
  std::size_t text = std::max<std::size_t>((port.size() + 1 + 3) / 4 * 4, 20);
  std::vector<std::byte> id(4 + text);
  id[0] = kFormatWithIsid;
  store_be(id, 2, 2, text);
  std::memcpy(id.data() + 4, port.data(), port.size());
  return id;
}

std::optional<std::string> port_of_transport_id(std::span<const std::byte> bytes) {
  if (bytes.size() < 24 || bytes[0] != kFormatWithIsid) return std::nullopt;
  std::size_t length = load_be16(bytes, 2);
  if (length % 4 != 0 || length < 20 || 4 + length > bytes.size()) return std::nullopt;
  std::string_view text(reinterpret_cast<const char*>(bytes.data() + 4), length);
  std::size_t end = text.find('\0');
  if (end == std::string_view::npos) return std::nullopt;
  text = text.substr(0, end);
  std::size_t separator = text.find(",i,0x");
  if (separator == std::string_view::npos || separator == 0 || text.size() - separator != 17) return std::nullopt;
  if (text.size() > kPortBytesMax) return std::nullopt;
  std::string port(text);
  for (std::size_t i = 0; i < port.size(); ++i) {
    auto c = static_cast<unsigned char>(port[i]);
    if (c <= ' ' || c == 0x7f) return std::nullopt;
    if (i >= separator + 5 && !std::isxdigit(c)) return std::nullopt;
    port[i] = static_cast<char>(std::tolower(c));
  }
  return port;
}

}  // namespace holdfast::scsi
