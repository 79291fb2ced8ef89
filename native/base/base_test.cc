#include <gtest/gtest.h>

#include "base/buffer.h"
#include "base/callback.h"
#include "base/crc32c.h"
#include "base/result.h"
#include "base/task.h"
#include "base/types.h"

namespace holdfast {
namespace {

Result<int> half(int number) {
  if (number % 2 != 0) return Error(ErrorCode::kInvalidArgument, "odd");
  return number / 2;
}

Status quarter(int number, int* out) {
  ASSIGN_OR_RETURN(int once, half(number));
  ASSIGN_OR_RETURN(*out, half(once));
  return {};
}

TEST(Result, ErrorsTravelUp) {
  int out = 0;
  EXPECT_TRUE(quarter(8, &out).ok());
  EXPECT_EQ(out, 2);
  Status failed = quarter(6, &out);
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().code(), ErrorCode::kInvalidArgument);
  Status copy = failed;
  EXPECT_EQ(copy.error().message(), "odd");
  EXPECT_EQ(sizeof(Status), sizeof(void*));
}

TEST(Callback, MovesAndCalls) {
  auto owned = std::make_unique<int>(41);
  Callback<int(int)> add = [owned = std::move(owned)](int more) { return *owned + more; };
  Callback<int(int)> moved = std::move(add);
  EXPECT_FALSE(add);
  EXPECT_EQ(moved(1), 42);
}

TEST(BufferPool, SlicesShareAndReturn) {
  BufferPool pool;
  {
    Slice slice = pool.allocate_end_aligned(4096 + 100);
    EXPECT_EQ((reinterpret_cast<std::uintptr_t>(slice.data()) + slice.size()) % 4096, 0u);
    Slice tail = slice.sub(100, 4096);
    slice = Slice();
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tail.data()) % 4096, 0u);
    EXPECT_EQ(pool.bytes_in_use(), 8192u);
  }
  EXPECT_EQ(pool.bytes_in_use(), 0u);
}

Callback<void(int)> parked;

Task<Result<int>> waits_twice() {
  int first = co_await suspend<int>([](Callback<void(int)> done) { done(1); });
  int second = co_await suspend<int>([](Callback<void(int)> done) { parked = std::move(done); });
  CO_ASSIGN_OR_RETURN(int third, half(second));
  co_return first + third;
}

Task<void> store_into(int* out) {
  Result<int> result = co_await waits_twice();
  *out = result.ok() ? *result : -1;
}

TEST(Task, ResumesFromCallbacks) {
  int out = 0;
  spawn(store_into(&out));
  EXPECT_EQ(out, 0);
  parked(10);
  EXPECT_EQ(out, 6);
  spawn(store_into(&out));
  parked(11);
  EXPECT_EQ(out, -1);
}

TEST(Crc32c, KnownValues) {
  // RFC 3720 appendix B.4: 32 bytes of zeros, and the check value of "123456789".
  EXPECT_EQ(crc32c(as_bytes(std::string_view("\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 32))),
            0x8a9136aau);
  EXPECT_EQ(crc32c(as_bytes("123456789")), 0xe3069283u);
  EXPECT_EQ(crc32c_extend(crc32c(as_bytes("1234")), as_bytes("56789")), 0xe3069283u);
}

TEST(Types, PrintAsHex) { EXPECT_EQ(to_hex(0xabcull), "0000000000000abc"); }

}  // namespace
}  // namespace holdfast
