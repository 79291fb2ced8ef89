// The methods that read: Read and ReadChunks (many requests on one stream), ReadLog and ListChunks (one request, a
// stream of answers). They never have more unsent than a bound, whatever the peer does. Thread: the reactor of the Env.
#pragma once

#include "replica/pipelined_stream.h"

namespace holdfast::replica {

class ReadStream final : public PipelinedStream<ReadRequest> {
 public:
  using PipelinedStream::PipelinedStream;
  ReadStream(Ref<Core> core, std::unique_ptr<rpc::ServerCall> call)
      : PipelinedStream(std::move(core), std::move(call)) {}

 private:
  void receive(rpc::Message message) override;
  std::size_t cost(const ReadRequest& request) const override;
  void run(const ReadRequest& request) override;
  Status begin(const ReadRequest& request);
  void finish(std::uint64_t id, std::size_t answer_cost, Result<store::ReadOutcome> outcome);

  SliceList parts_;  // reused
};

class ReadChunksStream final : public PipelinedStream<ReadChunkRequest> {
 public:
  ReadChunksStream(Ref<Core> core, std::unique_ptr<rpc::ServerCall> call)
      : PipelinedStream(std::move(core), std::move(call)) {}

 private:
  void receive(rpc::Message message) override;
  std::size_t cost(const ReadChunkRequest&) const override { return kChunkSize; }
  void run(const ReadChunkRequest& request) override;
  void read(const ReadChunkRequest& request);
  void finish(const ReadChunkRequest& request, Result<store::ChunkContent> content);

  SliceList parts_;  // reused
};

class ReadLogStream final : public OneRequestStream {
 public:
  ReadLogStream(Ref<Core> core, std::unique_ptr<rpc::ServerCall> call)
      : OneRequestStream(std::move(core), std::move(call)) {}

 private:
  void request(const rpc::Message& message) override;
  void drained() override { advance(); }
  void advance();
  void send_entries(Result<std::vector<store::Entry>> entries);

  Seq next_;
  Seq last_;
  std::uint64_t batch_entries_ = 16;
  bool reading_ = false;
  bool started_ = false;
  SliceList parts_;
};

class ListChunksStream final : public OneRequestStream {
 public:
  ListChunksStream(Ref<Core> core, std::unique_ptr<rpc::ServerCall> call)
      : OneRequestStream(std::move(core), std::move(call)) {}

 private:
  void request(const rpc::Message& message) override;
  void drained() override { advance(); }
  void advance();
  void send_versions(Result<std::vector<store::ChunkVersion>> versions);

  ChunkIndex next_;
  ChunkIndex end_;
  Seq after_;
  std::optional<Seq> layers_;
  bool listing_ = false;
  bool started_ = false;
  SliceList parts_;
};

class SnapshotsStream final : public OneRequestStream {
 public:
  SnapshotsStream(Ref<Core> core, std::unique_ptr<rpc::ServerCall> call)
      : OneRequestStream(std::move(core), std::move(call)) {}

 private:
  void request(const rpc::Message& message) override;
  void drained() override { advance(); }
  void list(bool settled);
  void advance();

  SnapshotPage all_;  // what is left to send
  std::size_t next_ = 0;
  bool first_ = true;
  bool started_ = false;
  SliceList parts_;
};

}  // namespace holdfast::replica
