#include "iscsi/text.h"

#include <algorithm>

namespace holdfast::iscsi {

Result<TextPairs> parse_text(std::string_view text) {
  TextPairs pairs;
  while (!text.empty()) {
    std::size_t end = text.find('\0');
    std::string_view pair = text.substr(0, end);
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
    if (pair.empty()) continue;  // padding
    std::size_t equals = pair.find('=');
    if (equals == std::string_view::npos || equals == 0 || equals > 63) {
      return Error(ErrorCode::kProtocol, "a text pair has no well-formed key");
    }
    if (pairs.size() >= kTextPairsMax) return Error(ErrorCode::kProtocol, "too many text pairs");
    pairs.emplace_back(pair.substr(0, equals), pair.substr(equals + 1));
  }
  return pairs;
}

void append_text(std::string& text, std::string_view key, std::string_view value) {
  text.append(key).append("=").append(value).push_back('\0');
}

const std::string* find_text(const TextPairs& pairs, std::string_view key) {
  auto found = std::find_if(pairs.begin(), pairs.end(), [&](auto& pair) { return pair.first == key; });
  return found == pairs.end() ? nullptr : &found->second;
}

namespace {

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

int base64_digit(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  if (c == '+') return 62;
  if (c == '/') return 63;
  return -1;
}

bool has_prefix(std::string_view text, char kind) {
  return text.size() > 2 && text[0] == '0' && (text[1] | 0x20) == kind;
}

std::optional<std::string> decode_hex(std::string_view digits) {
  std::string bytes;
  std::size_t at = 0;
  unsigned value = 0;
  bool half = digits.size() % 2 != 0;  // an odd number of digits starts with half a byte
  for (; at < digits.size(); ++at) {
    int digit = hex_digit(digits[at]);
    if (digit < 0) return std::nullopt;
    value = value << 4 | static_cast<unsigned>(digit);
    if (half) {
      bytes.push_back(static_cast<char>(value));
      value = 0;
    }
    half = !half;
  }
  return bytes;
}

std::optional<std::string> decode_base64(std::string_view digits) {
  while (!digits.empty() && digits.back() == '=') digits.remove_suffix(1);
  if (digits.size() % 4 == 1) return std::nullopt;
  std::string bytes;
  unsigned value = 0, bits = 0;
  for (char c : digits) {
    int digit = base64_digit(c);
    if (digit < 0) return std::nullopt;
    value = (value << 6 | static_cast<unsigned>(digit)) & 0xffff;
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      bytes.push_back(static_cast<char>(value >> bits & 0xff));
    }
  }
  return bytes;
}

}  // namespace

std::optional<std::uint64_t> parse_text_number(std::string_view text, std::uint64_t max) {
  unsigned base = 10;
  if (has_prefix(text, 'x')) {
    base = 16;
    text.remove_prefix(2);
  }
  if (text.empty()) return std::nullopt;
  std::uint64_t value = 0;
  for (char c : text) {
    int digit = hex_digit(c);
    if (digit < 0 || digit >= static_cast<int>(base)) return std::nullopt;
    if (value > (max - static_cast<unsigned>(digit)) / base) return std::nullopt;
    value = value * base + static_cast<unsigned>(digit);
  }
  return value <= max ? std::optional(value) : std::nullopt;
}

std::optional<std::string> decode_text_binary(std::string_view text, std::size_t bytes_max) {
  std::optional<std::string> bytes;
  if (text.size() > 2 + 2 * bytes_max) return std::nullopt;
  if (has_prefix(text, 'x')) bytes = decode_hex(text.substr(2));
  if (has_prefix(text, 'b')) bytes = decode_base64(text.substr(2));
  if (!bytes || bytes->empty() || bytes->size() > bytes_max) return std::nullopt;
  return bytes;
}

std::string encode_text_binary(std::string_view bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text = "0x";
  for (char c : bytes) {
    auto byte = static_cast<unsigned char>(c);
    text.push_back(kDigits[byte >> 4]);
    text.push_back(kDigits[byte & 15]);
  }
  return text;
}

bool valid_iscsi_name(std::string_view name) {
  if (name.size() < 5 || name.size() > 223) return false;
  if (!name.starts_with("iqn.") && !name.starts_with("eui.") && !name.starts_with("naa.")) return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    auto byte = static_cast<unsigned char>(c);
    return byte >= 0x80 || (byte > ' ' && byte != 0x7f && byte != ',');
  });
}

std::vector<std::string_view> split_list(std::string_view list) {
  std::vector<std::string_view> items;
  while (true) {
    std::size_t comma = list.find(',');
    items.push_back(list.substr(0, comma));
    if (comma == std::string_view::npos) return items;
    list.remove_prefix(comma + 1);
  }
}

}  // namespace holdfast::iscsi
