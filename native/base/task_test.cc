#include "base/task.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"

namespace holdfast {
namespace {

// Counts the objects that are alive, to see when frames and captures die.
struct Counted {
  explicit Counted(int* counter) : count(counter) { ++*count; }
  Counted(const Counted& other) : count(other.count) { ++*count; }
  Counted& operator=(const Counted&) = delete;
  ~Counted() { --*count; }
  int* count;
};

// Operations that complete when the test says so.
struct Waiting {
  std::vector<Callback<void(int)>> callbacks;
  void complete(int value) {
    std::vector<Callback<void(int)>> due = std::exchange(callbacks, {});
    for (Callback<void(int)>& callback : due) callback(value);
  }
};

Task<int> wait_for(Waiting* waiting, Counted counted) {
  int value =
      co_await suspend<int>([waiting](Callback<void(int)> done) { waiting->callbacks.push_back(std::move(done)); });
  co_return value + *counted.count * 0;
}

Task<void> add_up(Waiting* waiting, int* alive, int* out) {
  Counted counted(alive);
  for (int i = 0; i < 3; ++i) {
    Task<int> one = wait_for(waiting, counted);
    *out += co_await std::move(one);
  }
}

TEST(TaskLifetime, ATaskThatNeverStartedFreesItsParameters) {
  int alive = 0;
  Waiting waiting;
  {
    Task<int> task = wait_for(&waiting, Counted(&alive));
    EXPECT_EQ(alive, 1);
    Task<int> moved = std::move(task);
    EXPECT_EQ(alive, 1);
    task = wait_for(&waiting, Counted(&alive));
    EXPECT_EQ(alive, 2);
    task = std::move(moved);
    EXPECT_EQ(alive, 1);
  }
  EXPECT_EQ(alive, 0);
  EXPECT_TRUE(waiting.callbacks.empty());
}

TEST(TaskLifetime, ASpawnedTaskFreesItselfAtItsEnd) {
  int alive = 0;
  int out = 0;
  Waiting waiting;
  spawn(add_up(&waiting, &alive, &out));
  EXPECT_EQ(alive, 2);
  waiting.complete(1);
  waiting.complete(10);
  EXPECT_EQ(alive, 2);
  waiting.complete(100);
  EXPECT_EQ(out, 111);
  EXPECT_EQ(alive, 0);
}

Task<void> completes_at_once(int rounds, int* out) {
  for (int i = 0; i < rounds; ++i) *out += co_await suspend<int>([](Callback<void(int)> done) { done(1); });
}

TEST(TaskLifetime, ALoopOfCallsThatCompleteAtOnceNeedsNoStack) {
  int out = 0;
  spawn(completes_at_once(200'000, &out));
  EXPECT_EQ(out, 200'000);
}

Task<std::string> text_of(int depth) {
  if (depth == 0) co_return "end";
  Task<std::string> below = text_of(depth - 1);
  std::string text = co_await std::move(below);
  co_return text + ".";
}

Task<void> keep(Task<std::string> task, std::string* out) { *out = co_await std::move(task); }

TEST(TaskLifetime, ResultsTravelThroughNestedTasks) {
  std::string out;
  spawn(keep(text_of(100), &out));
  EXPECT_EQ(out, "end" + std::string(100, '.'));
}

Task<Result<std::unique_ptr<int>>> fails_or_not(bool fail) {
  if (fail) co_return Error(ErrorCode::kDiskIo, "broken");
  co_return std::make_unique<int>(7);
}

Task<Status> uses_result(bool fail, int* out) {
  Task<Result<std::unique_ptr<int>>> task = fails_or_not(fail);
  CO_ASSIGN_OR_RETURN(std::unique_ptr<int> number, co_await std::move(task));
  *out = *number;
  co_return Status();
}

Task<void> record(bool fail, int* out, std::vector<Status>* outcomes) {
  Task<Status> task = uses_result(fail, out);
  outcomes->push_back(co_await std::move(task));
}

TEST(TaskLifetime, MoveOnlyResultsAndErrors) {
  int out = 0;
  std::vector<Status> outcomes;
  spawn(record(false, &out, &outcomes));
  spawn(record(true, &out, &outcomes));
  ASSERT_EQ(outcomes.size(), 2u);
  EXPECT_TRUE(outcomes[0].ok());
  EXPECT_EQ(out, 7);
  ASSERT_FALSE(outcomes[1].ok());
  EXPECT_EQ(outcomes[1].error().code(), ErrorCode::kDiskIo);
}

}  // namespace
}  // namespace holdfast
