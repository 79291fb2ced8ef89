// crc32c_bench: the checksum of one block, of all blocks of the largest entry, and what a payload buffer costs.
#include <benchmark/benchmark.h>

#include <vector>

#include "base/buffer.h"
#include "base/crc32c.h"
#include "base/types.h"

namespace holdfast {
namespace {

void blocks(benchmark::State& state) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(state.range(0)) * kBlockSize, std::byte{0x5a});
  for (auto _ : state) {
    for (std::size_t at = 0; at < bytes.size(); at += kBlockSize) {
      benchmark::DoNotOptimize(crc32c(std::span(bytes).subspan(at, kBlockSize)));
    }
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(bytes.size()));
}
BENCHMARK(blocks)->Name("crc32c_blocks")->Arg(1)->Arg(256);

void buffer(benchmark::State& state) {
  BufferPool pool;
  for (auto _ : state) benchmark::DoNotOptimize(pool.allocate(static_cast<std::size_t>(state.range(0))).data());
}
BENCHMARK(buffer)->Name("buffer_allocate")->Arg(4096)->Arg(1 << 20);

}  // namespace
}  // namespace holdfast

BENCHMARK_MAIN();
