#include "engine/slice_cutter.h"

#include <cstring>

namespace holdfast::engine {

std::uint64_t first_difference(const SliceList& a, const SliceList& b) {
  std::size_t ia = 0, ib = 0, oa = 0, ob = 0;
  std::uint64_t position = 0;
  while (ia < a.size() && ib < b.size()) {
    std::size_t n = std::min(a[ia].size() - oa, b[ib].size() - ob);
    if (n > 0 && std::memcmp(a[ia].data() + oa, b[ib].data() + ob, n) != 0) {
      std::size_t i = 0;
      while (a[ia].data()[oa + i] == b[ib].data()[ob + i]) ++i;
      return position + i;
    }
    position += n;
    oa += n;
    ob += n;
    if (oa == a[ia].size()) ++ia, oa = 0;
    if (ob == b[ib].size()) ++ib, ob = 0;
  }
  return position;
}

}  // namespace holdfast::engine
