#include "store/disk_label.h"

#include <charconv>

#include "base/crc32c.h"
#include "base/types.h"

namespace holdfast::store {

namespace {

constexpr std::string_view kChecksumField = ",\"crc32c\":\"";

// The text after "name": up to the next comma or brace, without quotes.
std::string_view field(std::string_view text, std::string_view name) {
  std::string marker = "\"" + std::string(name) + "\":";
  std::size_t at = text.find(marker);
  if (at == std::string_view::npos) return {};
  text.remove_prefix(at + marker.size());
  text = text.substr(0, text.find_first_of(",}"));
  if (text.size() >= 2 && text.front() == '"' && text.back() == '"') text = text.substr(1, text.size() - 2);
  return text;
}

bool number(std::string_view text, int base, std::uint64_t& out) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out, base);
  return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

}  // namespace

std::string encode_disk_label(const DiskLabel& label) {
  std::string text = "{\"format\":" + std::to_string(kDiskFormat) + ",\"id\":\"" + label.id + "\",\"journal_key\":\"" +
                     to_hex(label.journal_key) + "\",\"journal_bytes\":" + std::to_string(label.journal_bytes) +
                     ",\"block_bytes\":" + std::to_string(kBlockSize) + ",\"slot_bytes\":" + std::to_string(kChunkSize);
  std::string checksum = to_hex(crc32c(std::as_bytes(std::span(text)))).substr(8);
  text += std::string(kChecksumField) + checksum + "\"}";
  text.resize(kBlockSize - 1, ' ');
  text.push_back('\n');
  return text;
}

Result<DiskLabel> decode_disk_label(std::string_view block) {
  Error incomplete(ErrorCode::kNotFound, "disk.json is missing or incomplete");
  std::size_t end = block.find(kChecksumField);
  if (end == std::string_view::npos) return incomplete;
  std::uint64_t checksum = 0;
  if (!number(field(block.substr(end), "crc32c"), 16, checksum)) return incomplete;
  std::string_view text = block.substr(0, end);
  if (crc32c(std::as_bytes(std::span(text))) != checksum) return incomplete;
  std::uint64_t format = 0;
  DiskLabel label;
  std::uint64_t block_bytes = 0, slot_bytes = 0;
  label.id = field(text, "id");
  bool valid = number(field(text, "format"), 10, format);
  if (valid && format > kDiskFormat) {
    return Error(ErrorCode::kFormatTooNew, "the disk has format " + std::to_string(format) + ", this version knows " +
                                               std::to_string(kDiskFormat) + "; upgrade this node");
  }
  valid = valid && label.id.size() == 32 && number(field(text, "journal_key"), 16, label.journal_key) &&
          number(field(text, "journal_bytes"), 10, label.journal_bytes) &&
          number(field(text, "block_bytes"), 10, block_bytes) && number(field(text, "slot_bytes"), 10, slot_bytes) &&
          block_bytes == kBlockSize && slot_bytes == kChunkSize;
  if (!valid) return Error(ErrorCode::kWrongDisk, "disk.json does not describe a Holdfast disk");
  return label;
}

}  // namespace holdfast::store
