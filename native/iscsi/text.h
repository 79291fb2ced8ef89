// Text of Login and Text PDUs: "key=value" pairs, each ended by a null byte (RFC 7143 sections 6.1 and 6.2).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace holdfast::iscsi {

inline constexpr std::size_t kTextBytesMax = 64u << 10;  // of one negotiation step, all its PDUs together
inline constexpr std::size_t kTextPairsMax = 256;

using TextPairs = std::vector<std::pair<std::string, std::string>>;

// PROTOCOL when a pair has no '=', a key is empty or longer than 63 bytes, or there are too many.
Result<TextPairs> parse_text(std::string_view text);
void append_text(std::string& text, std::string_view key, std::string_view value);
const std::string* find_text(const TextPairs& pairs, std::string_view key);

// Decimal or 0x hexadecimal; nullopt when malformed or above `max`.
std::optional<std::uint64_t> parse_text_number(std::string_view text, std::uint64_t max);
// Binary values: 0x hexadecimal or 0b base64, at most `bytes_max` long.
std::optional<std::string> decode_text_binary(std::string_view text, std::size_t bytes_max);
std::string encode_text_binary(std::string_view bytes);

// Whether it can be an iSCSI name: iqn., eui. or naa. type, at most 223 bytes, characters of RFC 3722.
bool valid_iscsi_name(std::string_view name);
// Items of a comma-separated list.
std::vector<std::string_view> split_list(std::string_view list);

}  // namespace holdfast::iscsi
