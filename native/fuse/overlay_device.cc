#include "fuse/overlay_device.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace holdfast::fuse {

OverlayDevice::OverlayDevice(Env& env, ReadBelow read_below, std::uint64_t first_byte, std::uint64_t size_bytes,
                             std::uint32_t block_size, std::uint64_t written_bytes_max)
    : env_(env),
      read_below_(std::move(read_below)),
      first_byte_(first_byte),
      size_(size_bytes),
      block_size_(block_size),
      blocks_max_(written_bytes_max / kBlockSize) {}

Status OverlayDevice::check(std::uint64_t offset, std::uint64_t length) const {
  if (length != 0 && offset < size_ && length <= size_ - offset) return {};
  return Error(ErrorCode::kInvalidArgument, "the range is empty or reaches beyond the device");
}

// ---- reading ----

void OverlayDevice::read(std::uint64_t offset, std::uint64_t length, ReadCallback done) {
  spawn(run_read(this, offset, length, std::move(done)));
}

Task<void> OverlayDevice::run_read(OverlayDevice* self, std::uint64_t offset, std::uint64_t length, ReadCallback done) {
  if (Status checked = self->check(offset, length); !checked.ok()) {
    done(std::move(checked).error());
    co_return;
  }
  SliceList parts;
  std::uint64_t at = self->first_byte_ + offset;
  const std::uint64_t end = at + length;
  while (at < end) {
    const std::uint64_t first = at / kBlockSize;
    const std::uint64_t last = (end - 1) / kBlockSize;
    auto count = static_cast<std::uint32_t>(std::min<std::uint64_t>(last - first + 1, kBelowBlocksMax));
    Task<Result<Slice>> reading = self->content({BlockIndex(first), count});
    Result<Slice> blocks = co_await std::move(reading);
    if (!blocks.ok()) {
      done(std::move(blocks).error());
      co_return;
    }
    const std::uint64_t skipped = at - first * kBlockSize;
    const std::uint64_t taken = std::min(end - at, blocks->size() - skipped);
    parts.push_back(blocks->sub(skipped, taken));
    at += taken;
  }
  done(std::move(parts));
}

Task<Result<Slice>> OverlayDevice::content(BlockRange blocks) {
  Slice out = env_.buffers().allocate(blocks.count * kBlockSize);
  bool all_written = true;
  for (std::uint64_t block = blocks.begin(); block < blocks.end() && all_written; ++block) {
    all_written = written_.contains(block);
  }
  if (!all_written) {
    auto start = [this, blocks](ReadCallback done) { read_below_(blocks, std::move(done)); };
    Result<SliceList> below = co_await suspend<Result<SliceList>>(std::move(start));
    if (!below.ok()) co_return std::move(below).error();
    std::size_t at = 0;
    for (const Slice& part : *below) {
      CHECK(at + part.size() <= out.size());
      std::memcpy(out.data() + at, part.data(), part.size());
      at += part.size();
    }
    CHECK(at == out.size());
  }
  for (std::uint64_t block = blocks.begin(); !written_.empty() && block < blocks.end(); ++block) {
    auto found = written_.find(block);
    if (found == written_.end()) continue;
    std::memcpy(out.data() + (block - blocks.begin()) * kBlockSize, found->second->data(), kBlockSize);
  }
  co_return out;
}

// ---- writing ----

void OverlayDevice::write(std::uint64_t offset, SliceList data, Durability, DoneCallback done) {
  std::uint64_t length = total_size(data);
  spawn(run_write(this, offset, length, std::move(data), std::move(done)));
}

void OverlayDevice::zero(std::uint64_t offset, std::uint64_t length, bool, DoneCallback done) {
  spawn(run_write(this, offset, length, {}, std::move(done)));
}

// Without data: zeros. Blocks at the edges get the content they have first; after that nothing waits, so writes to
// parts of one block that are under way together lose nothing.
Task<void> OverlayDevice::run_write(OverlayDevice* self, std::uint64_t offset, std::uint64_t length, SliceList data,
                                    DoneCallback done) {
  Status status = self->check(offset, length);
  const std::uint64_t begin = self->first_byte_ + offset;
  const std::uint64_t end = begin + length;
  for (std::uint64_t edge : {begin, end}) {
    if (!status.ok() || edge % kBlockSize == 0) continue;
    Task<Status> keeping = self->keep(edge / kBlockSize);
    status = co_await std::move(keeping);
  }
  std::size_t part = 0;
  std::size_t part_at = 0;
  for (std::uint64_t at = begin; status.ok() && at < end;) {
    Result<Block*> block = self->place(at / kBlockSize);
    if (!block.ok()) {
      status = std::move(block).error();
      break;
    }
    std::byte* to = (*block)->data() + at % kBlockSize;
    std::uint64_t bytes = std::min(end - at, kBlockSize - at % kBlockSize);
    if (data.empty()) {
      std::memset(to, 0, bytes);
    } else {
      bytes = std::min<std::uint64_t>(bytes, data[part].size() - part_at);
      std::memcpy(to, data[part].data() + part_at, bytes);
      part_at += bytes;
      if (part_at == data[part].size()) {
        ++part;
        part_at = 0;
      }
    }
    at += bytes;
  }
  done(std::move(status));
}

Task<Status> OverlayDevice::keep(std::uint64_t block) {
  if (written_.contains(block)) co_return Status();
  Task<Result<Slice>> reading = content({BlockIndex(block), 1});
  Result<Slice> now = co_await std::move(reading);
  if (!now.ok()) co_return std::move(now).error();
  if (written_.contains(block)) co_return Status();  // another write was faster, and has changed it
  Result<Block*> kept = place(block);
  if (!kept.ok()) co_return std::move(kept).error();
  std::memcpy((*kept)->data(), now->data(), kBlockSize);
  co_return Status();
}

Result<OverlayDevice::Block*> OverlayDevice::place(std::uint64_t block) {
  auto found = written_.find(block);
  if (found != written_.end()) return found->second.get();
  if (written_.size() >= blocks_max_) {
    return Error(ErrorCode::kNoSpace,
                 "more than " + std::to_string(blocks_max_ * kBlockSize >> 20) + " MiB were written over a snapshot");
  }
  return written_.emplace(block, std::make_unique<Block>()).first->second.get();
}

// ---- the rest ----

void OverlayDevice::compare_and_write(std::uint64_t, SliceList, SliceList, Durability, CompareCallback done) {
  done(Error(ErrorCode::kUnimplemented, "a view of a snapshot does not compare and write"));
}

void OverlayDevice::flush(DoneCallback done) { done({}); }

void OverlayDevice::extent(std::uint64_t, std::uint64_t length, Callback<void(Result<Extent>)> done) {
  done(Extent{true, length});
}

}  // namespace holdfast::fuse
