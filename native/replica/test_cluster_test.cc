// The parts of test_cluster.h (the file's name puts it into the test program).
#include "replica/test_cluster.h"

#include <cstdlib>
#include <cstring>

namespace holdfast::replica {

// ---- cluster ----

TestCluster::TestCluster(Backend backend) : backend_(backend) {
  if (backend == Backend::kSim) {
    const char* seed = std::getenv("HOLDFAST_TEST_SEED");  // another run of the same tests
    world_ = std::make_unique<sim::World>(seed ? std::strtoull(seed, nullptr, 10) : 1);
    client_ = world_->start_process("client", "client");
  } else {
    reactor_ = test::make_reactor();
  }
}

TestCluster::~TestCluster() {
  for (TestNode& node : nodes_) {
    if (node.disk) close(node);
  }
}

Env& TestCluster::env() {
  if (world_) return *client_->env;
  return reactor_->env();
}

bool TestCluster::run_until(const std::function<bool()>& done) {
  if (world_) return world_->run_until(done, 300s);
  return test::run_until(
      *reactor_, [&done] { return done(); }, 60s);
}

void TestCluster::settle() {
  if (world_) return world_->run_for(100ms);
  for (int i = 0; i < 20; ++i) reactor_->turn(1ms);
}

TestNode& TestCluster::add_node(const std::string& name) {
  TestNode& node = nodes_.emplace_back();
  node.name = name;
  node.options.journal_bytes = 16u << 20;
  node.options.capacity_bytes = 256u << 20;
  node.options.reserve_bytes = 1u << 20;
  node.options.cache_bytes = 4u << 20;
  if (world_) {
    std::string host = "10.0.0." + std::to_string(nodes_.size());
    node.process = world_->start_process(host, name);
    node.env = node.process->env.get();
    node.options.directory = "/disk";
    node.open_kv = store::model_kv(&node.kv);
    node.address = Address{host, 7'000, ""};
  } else {
    node.env = &reactor_->env();
    node.folder = std::make_unique<test::TempDir>();
    node.options.directory = node.folder->path();
    node.open_kv = store::rocks_kv(1u << 20);
    node.address = Address{"127.0.0.1", 0, ""};
  }
  open(node);
  return node;
}

namespace {
Task<void> open_disk(TestNode* node, bool* opened) {
  Result<std::unique_ptr<store::DiskStore>> disk =
      co_await store::DiskStore::open(*node->env, node->options, node->open_kv);
  EXPECT_TRUE(disk.ok()) << disk.error().to_string();
  node->disk = std::move(disk).value();
  *opened = true;
}
}  // namespace

void TestCluster::open(TestNode& node) {
  bool opened = false;
  spawn(open_disk(&node, &opened));
  EXPECT_TRUE(run_until([&] { return opened; }));
  node.server = rpc::Server::create(*node.env);
  node.service = ReplicaService::create(*node.env, *node.disk, *node.server);
  Result<Address> address = node.server->listen(node.address);
  EXPECT_TRUE(address.ok());
  node.address = *address;
}

void TestCluster::close(TestNode& node) {
  node.service.reset();
  node.server.reset();
  bool closed = false;
  node.disk->close([&closed] { closed = true; });
  EXPECT_TRUE(run_until([&] { return closed; }));
  settle();
  node.disk.reset();
}

// ---- streams ----

void AppendClient::on_message(rpc::Message message) {
  AppendResponse response;
  Status status = decode(message, response);
  EXPECT_TRUE(status.ok());
  EXPECT_GE(response.journalled, last.journalled) << "acknowledgements never fall";
  EXPECT_GE(response.flushed_id, last.flushed_id);
  responses.push_back(response);
  last.journalled = response.journalled;
  last.flushed_id = response.flushed_id;
  if (response.rebuilt) last.rebuilt = response.rebuilt;
  if (response.rebuild) last.rebuild = response.rebuild;
}

void AppendClient::send(Env& env, const AppendRequest& request) {
  SliceList parts;
  encode(env.buffers(), request, parts);
  call->send(parts);
}

void ReadClient::on_message(rpc::Message message) {
  ReadResponse response;
  EXPECT_TRUE(decode(message, response).ok());
  std::uint64_t id = response.id;
  EXPECT_TRUE(answers.emplace(id, std::move(response)).second) << "answered twice: " << id;
}

// ---- client ----

TestClient::TestClient(TestCluster& cluster, TestNode& node)
    : cluster_(cluster), channel_(rpc::Channel::create(cluster.env(), node.address)) {}

Result<rpc::Message> TestClient::unary(const char* path, Slice request) {
  return cluster_.wait<Result<rpc::Message>>([&](Callback<void(Result<rpc::Message>)> done) {
    channel_->unary(path, std::move(request), std::nullopt, std::move(done));
  });
}

Status TestClient::create(ReplicaId id, std::uint64_t size_blocks, bool complete, VolumeId volume) {
  return unary(kCreateReplicaPath,
               encode(env().buffers(), CreateReplicaRequest{id, volume, size_blocks, complete, {}, {}}))
      .status();
}

Status TestClient::remove(ReplicaId id, bool force) {
  return unary(kDeleteReplicaPath, encode(env().buffers(), DeleteReplicaRequest{id, force})).status();
}

Result<ReplicaState> TestClient::open(ReplicaId id, Epoch epoch) {
  ASSIGN_OR_RETURN(rpc::Message message, unary(kOpenPath, encode(env().buffers(), OpenRequest{id, epoch})));
  ReplicaState state;
  TRY(decode(message, state));
  return state;
}

Result<ReplicaState> TestClient::get(ReplicaId id) {
  ASSIGN_OR_RETURN(rpc::Message message, unary(kGetReplicaPath, encode(env().buffers(), GetReplicaRequest{id})));
  ReplicaState state;
  TRY(decode(message, state));
  return state;
}

std::unique_ptr<AppendClient> TestClient::append_raw() {
  auto stream = std::make_unique<AppendClient>();
  stream->call = channel_->start(kAppendPath, {}, std::nullopt, stream.get());
  return stream;
}

std::unique_ptr<AppendClient> TestClient::append(ReplicaId id, Epoch epoch, std::optional<Join> join) {
  auto stream = append_raw();
  AppendRequest request;
  request.hello = ReplicaHello{id, epoch};
  request.join = std::move(join);
  stream->send(env(), request);
  return stream;
}

std::unique_ptr<ReadClient> TestClient::read_stream(ReplicaId id, Epoch epoch) {
  auto stream = std::make_unique<ReadClient>();
  stream->call = channel_->start(kReadPath, {}, std::nullopt, stream.get());
  ReadRequest request;
  request.hello = ReplicaHello{id, epoch};
  SliceList parts;
  encode(env().buffers(), request, parts);
  stream->call->send(parts);
  return stream;
}

std::unique_ptr<TestStream> TestClient::collect(const char* path, Slice request) {
  auto stream = std::make_unique<TestStream>();
  stream->call = channel_->start(path, {}, std::nullopt, stream.get());
  stream->call->send(std::span(&request, 1));
  stream->call->finish_sending();
  EXPECT_TRUE(cluster_.run_until([&] { return stream->ended.has_value(); })) << path;
  return stream;
}

Result<std::vector<store::Entry>> TestClient::read_log(ReplicaId id, Epoch epoch, Seq first, Seq last) {
  auto stream = collect(kReadLogPath, encode(env().buffers(), ReadLogRequest{id, epoch, first, last}));
  TRY(*stream->ended);
  std::vector<store::Entry> entries(stream->messages.size());
  for (std::size_t i = 0; i < entries.size(); ++i) TRY(decode(stream->messages[i], env().buffers(), entries[i]));
  return entries;
}

Result<std::vector<store::ChunkVersion>> TestClient::list_chunks(const ListChunksRequest& request) {
  auto stream = collect(kListChunksPath, encode(env().buffers(), request));
  TRY(*stream->ended);
  std::vector<store::ChunkVersion> all, page;
  for (const rpc::Message& message : stream->messages) {
    TRY(decode(message, page));
    EXPECT_LE(page.size(), 1'000u);
    all.insert(all.end(), page.begin(), page.end());
  }
  return all;
}

Result<store::ChunkContent> TestClient::read_chunk(ReplicaId id, ChunkIndex chunk, Seq min_seq) {
  SliceList parts;
  encode(env().buffers(), ReadChunkRequest{id, 5, chunk, min_seq}, parts);
  auto stream = collect(kReadChunksPath, std::move(parts.at(0)));
  TRY(*stream->ended);
  EXPECT_EQ(stream->messages.size(), 1u);
  ReadChunkResponse response;
  TRY(decode(stream->messages.at(0), env().buffers(), response));
  EXPECT_EQ(response.id, 5u);
  TRY(response.status);
  return std::move(response.content);
}

std::string TestClient::content(ReplicaId id, Epoch epoch, std::uint64_t size_blocks) {
  auto stream = read_stream(id, epoch);
  SliceList parts;
  for (std::uint64_t first = 0; first < size_blocks; first += 256) {
    ReadRequest request;
    request.id = first + 1;
    request.blocks = {BlockIndex(first), static_cast<std::uint32_t>(std::min<std::uint64_t>(256, size_blocks - first))};
    parts.clear();
    encode(env().buffers(), request, parts);
    stream->call->send(parts);
  }
  stream->call->finish_sending();
  EXPECT_TRUE(cluster_.run_until([&] { return stream->ended.has_value(); }));
  EXPECT_TRUE(stream->ended->ok()) << stream->ended->error().to_string();
  std::string all;
  for (std::uint64_t first = 0; first < size_blocks; first += 256) {
    const ReadResponse& answer = stream->answers[first + 1];
    EXPECT_TRUE(answer.status.ok()) << answer.status.error().to_string();
    if (!answer.status.ok()) return {};
    std::size_t stored = 0;
    for (std::uint64_t block = 0; block < std::min<std::uint64_t>(256, size_blocks - first); ++block) {
      if (!(static_cast<unsigned>(answer.present.data()[block / 8]) >> (block % 8) & 1)) {
        all.append(kBlockSize, '\0');
        continue;
      }
      std::span<const std::byte> bytes = answer.data.bytes().subspan(stored * kBlockSize, kBlockSize);
      std::uint32_t crc;
      std::memcpy(&crc, answer.crc.data() + 4 * stored, 4);
      EXPECT_EQ(crc, crc32c(bytes));
      all.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      ++stored;
    }
  }
  return all;
}

// ---- entries ----

std::optional<std::uint64_t> first_difference(const std::string& a, const std::string& b) {
  for (std::size_t at = 0; at < std::max(a.size(), b.size()); at += kBlockSize) {
    if (at >= a.size() || at >= b.size() || a.compare(at, kBlockSize, b, at, kBlockSize) != 0) return at / kBlockSize;
  }
  return std::nullopt;
}

std::string block_text(std::uint64_t tag) {
  std::string block(kBlockSize, '\0');
  for (std::size_t i = 0; i < kBlockSize; i += 8) {
    std::uint64_t word = tag * 0x9E3779B97F4A7C15ull + i;
    std::memcpy(block.data() + i, &word, 8);
  }
  return block;
}

store::Entry write_entry(Env& env, LogPosition position, std::uint64_t first_block, std::uint32_t blocks,
                         std::uint64_t tag) {
  store::Entry entry;
  entry.position = position;
  entry.op = store::Op::kWrite;
  entry.blocks = {BlockIndex(first_block), blocks};
  entry.crc = env.buffers().allocate(4 * blocks);
  entry.data = env.buffers().allocate(kBlockSize * blocks);
  for (std::uint32_t i = 0; i < blocks; ++i) {
    std::string text = block_text(tag + i);
    std::memcpy(entry.data.data() + i * kBlockSize, text.data(), kBlockSize);
    std::uint32_t crc = crc32c(as_bytes(text));
    std::memcpy(entry.crc.data() + 4 * i, &crc, 4);
  }
  return entry;
}

store::Entry zero_entry(LogPosition position, std::uint64_t first_block, std::uint32_t blocks) {
  store::Entry entry;
  entry.position = position;
  entry.op = store::Op::kZero;
  entry.blocks = {BlockIndex(first_block), blocks};
  entry.deallocate = true;
  return entry;
}

AppendRequest message_with(store::Entry entry, Seq committed) {
  AppendRequest request;
  request.committed = committed;
  request.entry = std::move(entry);
  return request;
}

}  // namespace holdfast::replica
