#include "sim/sim_env.h"

#include <gtest/gtest.h>

#include <cstring>

#include "sim/sim_file.h"
#include "sim/sim_network.h"

namespace holdfast::sim {
namespace {

Slice page_of(Env& env, unsigned char value) {
  Slice page = env.buffers().allocate(4096);
  std::memset(page.data(), value, page.size());
  return page;
}

struct OpenFile {
  std::unique_ptr<File> file;
  explicit OpenFile(World& world, Env& env, const std::string& path) {
    env.open_file(path, {.create = true}, [this](Result<std::unique_ptr<File>> opened) {
      ASSERT_TRUE(opened.ok());
      file = std::move(opened).value();
    });
    EXPECT_TRUE(world.run_until([this] { return file != nullptr; }, 1s));
  }
};

Status write_page(World& world, File& file, std::uint64_t offset, const Slice& page) {
  std::optional<Status> outcome;
  std::span<const std::byte> part = page.bytes();
  file.write(offset, std::span(&part, 1), [&](Status status) { outcome = std::move(status); });
  EXPECT_TRUE(world.run_until([&] { return outcome.has_value(); }, 1s));
  return *outcome;
}

std::byte first_byte(World& world, Env& env, File& file, std::uint64_t offset) {
  Slice page = page_of(env, 0xEE);
  bool done = false;
  file.read(offset, page.bytes(), [&](Status status) {
    EXPECT_TRUE(status.ok());
    done = true;
  });
  EXPECT_TRUE(world.run_until([&] { return done; }, 1s));
  return page.data()[0];
}

TEST(SimDisk, SyncedWritesSurvivePowerLossAndOthersMayNot) {
  int lost = 0;
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    World world(seed);
    Env& env = *world.start_process("a", "one")->env;
    OpenFile opened(world, env, "/f");
    ASSERT_TRUE(write_page(world, *opened.file, 0, page_of(env, 1)).ok());
    bool synced = false;
    opened.file->sync([&](Status) { synced = true; });
    ASSERT_TRUE(world.run_until([&] { return synced; }, 1s));
    ASSERT_TRUE(write_page(world, *opened.file, 4096, page_of(env, 2)).ok());
    (void)opened.file.release();  // abandoned with its process
    world.power_off("a");
    Env& after = *world.start_process("a", "two")->env;
    OpenFile again(world, after, "/f");
    EXPECT_EQ(first_byte(world, after, *again.file, 0), std::byte{1});
    if (first_byte(world, after, *again.file, 4096) != std::byte{2}) ++lost;
  }
  EXPECT_GT(lost, 5);
  EXPECT_LT(lost, 35);
}

struct Sink : StreamHandler {
  std::string text;
  bool closed = false;
  Status reason;
  void on_data(std::span<const std::byte> bytes) override {
    text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  void on_closed(Status why) override {
    closed = true;
    reason = std::move(why);
  }
};

struct Pair {
  World world;
  Process* client;
  Process* server;
  std::unique_ptr<Listener> listener;
  std::unique_ptr<Stream> near, far;
  explicit Pair(std::uint64_t seed)
      : world(seed), client(world.start_process("a", "client")), server(world.start_process("b", "server")) {
    listener = std::move(server->env->listen(Address{"b", 1, {}}, [this](std::unique_ptr<Stream> stream) {
                 far = std::move(stream);
               })).value();
    client->env->connect(Address{"b", 1, {}}, 1s,
                         [this](Result<std::unique_ptr<Stream>> stream) { near = std::move(stream).value(); });
    EXPECT_TRUE(world.run_until([this] { return near && far; }, 1s));
  }
  void send(Stream& stream, std::string_view text) {
    Slice slice = client->env->buffers().copy_of(as_bytes(text));
    stream.send(std::span(&slice, 1));
  }
};

TEST(SimNetwork, BytesArriveInOrderThroughACut) {
  Pair pair(7);
  Sink sink;
  pair.far->start(&sink);
  std::string expected;
  for (int i = 0; i < 200; ++i) {
    std::string line = std::to_string(i) + ",";
    expected += line;
    pair.send(*pair.near, line);
    if (i == 100) pair.world.set_link("a", "b", false);
  }
  pair.world.run_for(1s);
  EXPECT_NE(sink.text, expected);
  pair.world.heal_network();
  EXPECT_TRUE(pair.world.run_until([&] { return sink.text == expected; }, 1s));
}

TEST(SimNetwork, AKilledPeerIsNoticedAndASilentOneIsNot) {
  for (bool silent : {false, true}) {
    Pair pair(8);
    Sink near_sink;
    pair.near->start(&near_sink);
    (void)pair.far.release();
    (void)pair.listener.release();
    if (silent) {
      pair.world.power_off("b");
    } else {
      pair.world.kill(pair.server);
    }
    pair.world.run_for(10s);
    EXPECT_EQ(near_sink.closed, !silent);
  }
}

TEST(World, EqualSeedsGiveEqualRuns) {
  auto run = [](std::uint64_t seed) {
    Pair pair(seed);
    Sink sink;
    pair.far->start(&sink);
    for (int i = 0; i < 50; ++i) pair.send(*pair.near, std::string(1000, 'x'));
    pair.world.run_for(1s);
    EXPECT_EQ(sink.text.size(), 50'000u);
    return pair.world.hash();
  };
  EXPECT_EQ(run(3), run(3));
  EXPECT_NE(run(3), run(4));
}

}  // namespace
}  // namespace holdfast::sim
