// Replica processes on several disks, and a client's view of them, for the tests of this module: everything real (rpc,
// service, store), on the simulator (deterministic) or on io_uring in temporary folders.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/crc32c.h"
#include "replica/messages.h"
#include "replica/replica_service.h"
#include "rpc/rpc.h"
#include "sim/sim_env.h"
#include "store/model_kv.h"
#include "test/reactor_support.h"

namespace holdfast::replica {

enum class Backend { kSim, kUring };

// One disk with its server.
struct TestNode {
  std::string name;
  Env* env = nullptr;
  store::StoreOptions options;
  store::OpenKv open_kv;
  Address address;
  std::unique_ptr<store::DiskStore> disk;
  std::unique_ptr<rpc::Server> server;
  std::unique_ptr<ReplicaService> service;

  sim::Process* process = nullptr;
  store::ModelKvDisk kv;
  std::unique_ptr<test::TempDir> folder;
};

class TestCluster {
 public:
  explicit TestCluster(Backend backend);
  ~TestCluster();

  Env& env();  // the client's
  bool run_until(const std::function<bool()>& done);
  // Lets things go on that nobody waits for.
  void settle();

  TestNode& add_node(const std::string& name);
  void open(TestNode& node);
  // Connections break at once; the disk is closed in an orderly way.
  void close(TestNode& node);

  template <typename T, typename Start>
  T wait(Start start) {
    auto outcome = std::make_shared<std::optional<T>>();
    start(Callback<void(T)>([outcome](T value) { outcome->emplace(std::move(value)); }));
    EXPECT_TRUE(run_until([&] { return outcome->has_value(); }));
    return std::move(**outcome);
  }

 private:
  Backend backend_;
  std::unique_ptr<sim::World> world_;
  sim::Process* client_ = nullptr;
  std::unique_ptr<Reactor> reactor_;
  std::deque<TestNode> nodes_;
};

// ---- calls ----

class TestStream : public rpc::CallHandler {
 public:
  void on_message(rpc::Message message) override { messages.push_back(std::move(message)); }
  void on_ended(Status status) override { ended = std::move(status); }
  ErrorCode code() const { return ended && !ended->ok() ? ended->error().code() : ErrorCode::kInternal; }

  std::unique_ptr<rpc::ClientCall> call;
  std::vector<rpc::Message> messages;
  std::optional<Status> ended;
};

class AppendClient : public TestStream {
 public:
  void on_message(rpc::Message message) override;
  void send(Env& env, const AppendRequest& request);

  AppendResponse last;  // latest of each field
  std::vector<AppendResponse> responses;
};

class ReadClient : public TestStream {
 public:
  void on_message(rpc::Message message) override;
  std::map<std::uint64_t, ReadResponse> answers;
};

// A client with one connection to a node.
class TestClient {
 public:
  TestClient(TestCluster& cluster, TestNode& node);

  Status create(ReplicaId id, std::uint64_t size_blocks, bool complete = true, VolumeId volume = VolumeId(7));
  Status remove(ReplicaId id, bool force = false);
  Result<ReplicaState> open(ReplicaId id, Epoch epoch);
  Result<ReplicaState> get(ReplicaId id);
  Result<rpc::Message> unary(const char* path, Slice request);

  std::unique_ptr<AppendClient> append(ReplicaId id, Epoch epoch, std::optional<Join> join = std::nullopt);
  std::unique_ptr<AppendClient> append_raw();
  std::unique_ptr<ReadClient> read_stream(ReplicaId id, Epoch epoch);
  Result<std::vector<store::Entry>> read_log(ReplicaId id, Epoch epoch, Seq first, Seq last);
  Result<std::vector<store::ChunkVersion>> list_chunks(const ListChunksRequest& request);
  Result<store::ChunkContent> read_chunk(ReplicaId id, ChunkIndex chunk, Seq min_seq = Seq());
  // The whole content, CRCs checked, through a Read stream.
  std::string content(ReplicaId id, Epoch epoch, std::uint64_t size_blocks);

  rpc::Channel& channel() { return *channel_; }
  TestCluster& cluster() { return cluster_; }
  Env& env() { return cluster_.env(); }

 private:
  std::unique_ptr<TestStream> collect(const char* path, Slice request);

  TestCluster& cluster_;
  std::unique_ptr<rpc::Channel> channel_;
};

// ---- entries ----

// The first block in which two contents differ; nullopt when they are equal. (Contents are too large to be printed.)
std::optional<std::uint64_t> first_difference(const std::string& a, const std::string& b);
std::string block_text(std::uint64_t tag);  // 4096 bytes that say `tag`
store::Entry write_entry(Env& env, LogPosition position, std::uint64_t first_block, std::uint32_t blocks,
                         std::uint64_t tag);
store::Entry zero_entry(LogPosition position, std::uint64_t first_block, std::uint32_t blocks);
AppendRequest message_with(store::Entry entry, Seq committed = Seq());

}  // namespace holdfast::replica
