// What the head, or a snapshot, sees of a chunk: from memory, or worked out from the records of its layers.
#include "store/disk.h"

namespace holdfast::store {

namespace {

constexpr std::size_t kLayersPerPage = 64;

// Whether the records found so far leave nothing open that an older layer could fill.
bool covers_all(const ChunkStack& stack, const LayerTree& tree, LayerNumber viewpoint) {
  std::uint64_t covered = 0;
  for (const LayerRecord& layer : stack) {
    if (tree.sees(viewpoint, layer.layer)) covered |= layer.record.data | layer.record.zero;
  }
  return covered == kAllBlocks;
}

}  // namespace

// A snapshot makes the head's record one that others see too: views in memory follow when they are looked at.
const ChunkView* Disk::view_if_cached(const Replica& replica, ChunkIndex chunk) {
  const Space& space = replica.space();
  const LayerTree& tree = space.held();
  if (ChunkView* view = records_.find(space.id(), chunk)) {
    // Layers may have become the head's own since; the head's newest record is not concerned.
    if ((view->below || !view->own) && view->generation != tree.generation()) return nullptr;
    if (view->own && !tree.owned_by_head(view->own_layer)) {
      view->below = put_over(view->below, *view->own);
      view->own.reset();
      view->generation = tree.generation();
    }
    return view;
  }
  if (tree.layered() || space.link()) return nullptr;
  std::optional<std::optional<std::string>> value = kv_->get_if_cached(chunk_key(space.id(), kFirstLayer, chunk));
  if (!value) return nullptr;
  ChunkView view;
  view.generation = tree.generation();
  if (*value) {
    Result<ChunkRecord> decoded = decode_chunk_record(**value);
    if (!decoded.ok()) return nullptr;  // fetching it reports the error
    view.own = std::move(decoded).value();
    view.own_layer = kFirstLayer;
  }
  return records_.put(space.id(), chunk, std::move(view));
}

void Disk::fetch_view(const Replica& replica, ChunkIndex chunk, StatusCallback done) {
  spawn(run_fetch_view(replica, chunk, std::move(done)));
}

Task<void> Disk::run_fetch_view(const Replica& replica, ChunkIndex chunk, StatusCallback done) {
  for (;;) {
    std::uint64_t changes = record_changes_;
    const Space* space = &replica.space();
    Result<ChunkStack> stack(ChunkStack{});
    stack = co_await read_stack(space, chunk, space->held().head());
    if (!stack.ok()) {
      done(std::move(stack).error());
      co_return;
    }
    // What was read before the last change may be out of date.
    if (changes != record_changes_) {
      if (view_if_cached(replica, chunk)) break;
      continue;
    }
    records_.put(space->id(), chunk, view_of(*stack, space->held(), space->held().head(), true));
    break;
  }
  done(Status());
}

void Disk::forget_views(const Space& space, ChunkIndex chunk) {
  records_.forget(space.id(), chunk);
  for (const auto& [clone, snapshot] : space.pins()) forget_views(*spaces_.find(clone)->second, chunk);
}

void Disk::load_stack(const Space& space, ChunkIndex chunk, std::optional<LayerNumber> viewpoint,
                      Callback<void(Result<ChunkStack>)> done) {
  spawn(run_load_stack(&space, chunk, viewpoint, std::move(done)));
}

Task<void> Disk::run_load_stack(const Space* space, ChunkIndex chunk, std::optional<LayerNumber> viewpoint,
                                Callback<void(Result<ChunkStack>)> done) {
  Result<ChunkStack> stack(ChunkStack{});
  for (;;) {
    std::uint64_t changes = record_changes_;
    stack = co_await read_stack(space, chunk, viewpoint);
    if (!stack.ok() || changes == record_changes_) break;
  }
  done(std::move(stack));
}

// The newest layer first; at the end what is inherited, which all viewpoints see. What is read while records change
// need not be of one moment.
Task<Result<ChunkStack>> Disk::read_stack(const Space* space, ChunkIndex chunk, std::optional<LayerNumber> viewpoint) {
  ChunkStack stack;
  Status read = co_await read_own_records(space, chunk, viewpoint, &stack);
  if (!read.ok()) co_return std::move(read).error();
  if (!space->link() || (viewpoint && covers_all(stack, space->held(), *viewpoint))) co_return stack;
  const Space* below = spaces_.find(space->link()->space)->second.get();
  LayerNumber seen_from = space->link()->snapshot.layer;
  Result<ChunkStack> inherited(ChunkStack{});
  inherited = co_await read_stack(below, chunk, seen_from);
  if (!inherited.ok()) co_return std::move(inherited).error();
  inherit(stack, std::move(inherited).value(), below->held(), seen_from);
  co_return stack;
}

Task<Status> Disk::read_own_records(const Space* space, ChunkIndex chunk, std::optional<LayerNumber> viewpoint,
                                    ChunkStack* stack) {
  Kv* kv = kv_.get();
  std::string from = layered_key(space->id(), chunk, ~LayerNumber{0});
  std::string to = layered_key(space->id(), chunk, LayerNumber{0});
  for (bool more = space->has_layers(); more;) {
    Result<KvPairs> page = co_await suspend<Result<KvPairs>>([kv, &from, &to](Callback<void(Result<KvPairs>)> next) {
      kv->range(from, to, kLayersPerPage, std::move(next));
    });
    if (!page.ok()) co_return std::move(page).error();
    for (const auto& [key, value] : *page) {
      Result<ChunkRecord> record = decode_chunk_record(value);
      if (!record.ok()) co_return std::move(record).error();
      stack->push_back({layer_of_layered_key(key), std::move(record).value()});
    }
    if (viewpoint && covers_all(*stack, space->held(), *viewpoint)) co_return Status();
    more = page->size() == kLayersPerPage;
    if (more) from = page->back().first + std::string(1, '\0');
  }
  std::string first = chunk_key(space->id(), kFirstLayer, chunk);
  Result<std::optional<std::string>> value = co_await suspend<Result<std::optional<std::string>>>(
      [kv, &first](Callback<void(Result<std::optional<std::string>>)> next) { kv->get(first, std::move(next)); });
  if (!value.ok()) co_return std::move(value).error();
  if (*value) {
    Result<ChunkRecord> record = decode_chunk_record(**value);
    if (!record.ok()) co_return std::move(record).error();
    stack->push_back({kFirstLayer, std::move(record).value()});
  }
  co_return Status();
}

}  // namespace holdfast::store
