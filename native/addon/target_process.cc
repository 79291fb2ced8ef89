// The functions of a target process: targetStart, targetOpen, targetAttach, … Their shapes are in
// engine/addon/native.ts.
#include "addon/module.h"
#include "addon/process.h"
#include "addon/target_host.h"

namespace holdfast::addon {

namespace {

constexpr napi_type_tag kTag = {0x484f4c4446415354, 0x5441524745543031};

struct JsTarget;
using TargetProcess = Process<JsTarget>;

// Turns the host's questions into calls of one JavaScript function with a plain record.
class JsTargetEvents final : public TargetEvents {
 public:
  // Shared so that a call on its way keeps the function; the last share goes on the JavaScript thread.
  using Listener = std::shared_ptr<Napi::FunctionReference>;

  JsTargetEvents(TargetProcess& process, Listener listener) : process_(process), listener_(std::move(listener)) {}

  void change_in_sync_set(std::uint64_t id, VolumeId volume, Epoch epoch, std::vector<ReplicaId> in_sync,
                          std::string reason) override {
    process_.to_javascript(
        [listener = listener_, id, volume, epoch, in_sync = std::move(in_sync), reason](Napi::Env env) {
          Napi::Object event = make_event(env, "change-in-sync-set", volume, epoch);
          event.Set("id", to_js(env, id));
          Napi::Array ids = Napi::Array::New(env);
          for (ReplicaId replica : in_sync) ids.Set(ids.Length(), to_js(env, replica.value()));
          event.Set("inSync", ids);
          event.Set("reason", reason);
          listener->Call({event});
        });
  }

  void save_reservations(std::uint64_t id, VolumeId volume, Epoch epoch, std::string reservations) override {
    process_.to_javascript([listener = listener_, id, volume, epoch, reservations](Napi::Env env) {
      Napi::Object event = make_event(env, "save-reservations", volume, epoch);
      event.Set("id", to_js(env, id));
      event.Set("reservations", Napi::Buffer<char>::Copy(env, reservations.data(), reservations.size()));
      listener->Call({event});
    });
  }

  void lost_data(std::uint64_t id, VolumeId volume, Epoch epoch, std::string reason) override {
    process_.to_javascript([listener = listener_, id, volume, epoch, reason](Napi::Env env) {
      Napi::Object event = make_event(env, "lost-data", volume, epoch);
      event.Set("id", to_js(env, id));
      event.Set("reason", reason);
      listener->Call({event});
    });
  }

  void damage_found(VolumeId volume, Epoch epoch, std::string text) override {
    process_.to_javascript([listener = listener_, volume, epoch, text](Napi::Env env) {
      Napi::Object event = make_event(env, "damage-found", volume, epoch);
      event.Set("reason", text);
      listener->Call({event});
    });
  }

  void fenced(VolumeId volume, Epoch epoch) override {
    process_.to_javascript([listener = listener_, volume, epoch](Napi::Env env) {
      listener->Call({make_event(env, "fenced", volume, epoch)});
    });
  }

 private:
  static Napi::Object make_event(Napi::Env env, const char* kind, VolumeId volume, Epoch epoch) {
    Napi::Object event = Napi::Object::New(env);
    event.Set("kind", kind);
    event.Set("volumeId", to_js(env, volume.value()));
    event.Set("epoch", to_js(env, epoch.value()));
    return event;
  }

  TargetProcess& process_;
  Listener listener_;
};

// What lives on the reactor: the host and where its questions go.
struct JsTarget {
  JsTarget(Env& env, TargetProcess& process, JsTargetEvents::Listener listener)
      : events(process, std::move(listener)), host(env, events) {}
  void close(Callback<void()> done) { host.close(std::move(done)); }

  JsTargetEvents events;
  TargetHost host;
};

// ---- arguments ----

struct Replicas {
  std::vector<engine::ReplicaConfig> configs;
  std::vector<std::string> addresses;
};

Replicas replicas_from_js(Record& record) {
  Replicas out;
  record.records("replicas", [&](Record& replica) {
    engine::ReplicaConfig config;
    config.id = ReplicaId(replica.u64("replicaId"));
    config.local = replica.boolean("local");
    config.in_sync = replica.boolean("inSync");
    config.hold_rebuild = replica.boolean("holdRebuild");
    out.configs.push_back(config);
    out.addresses.push_back(replica.text("address"));
  });
  return out;
}

std::optional<iscsi::ChapCredentials> chap_from_js(Record& record, const char* name) {
  std::optional<iscsi::ChapCredentials> out;
  record.record_or_null(name, [&](Record& chap) {
    out.emplace();
    out->user = chap.text("user");
    out->secret = chap.text("secret");
  });
  return out;
}

engine::QosLimits qos_from_js(Record& record) {
  engine::QosLimits limits;
  record.record_or_null("qos", [&](Record& qos) {
    limits.operations_per_second = qos.u64("operationsPerSecond");
    limits.bytes_per_second = qos.u64("bytesPerSecond");
    limits.burst_seconds = qos.u32("burstSeconds");
  });
  return limits;
}

AttachRequest attach_request_from_js(Record& record) {
  AttachRequest request;
  request.volume.volume = VolumeId(record.u64("volumeId"));
  request.volume.name = record.text("name");
  request.volume.epoch = Epoch(record.u64("epoch"));
  request.volume.size_bytes = record.u64("sizeBytes");
  request.volume.logical_block_size = record.u32("logicalBlockSize");
  request.volume.rebuild_bytes_per_second = record.u64("rebuildBytesPerSecond");
  request.volume.qos = qos_from_js(record);
  request.internal = record.boolean("internal");
  request.volume.foreground_percent = record.u32("foregroundPercent");
  Replicas replicas = replicas_from_js(record);
  request.volume.replicas = std::move(replicas.configs);
  request.replica_addresses = std::move(replicas.addresses);
  request.target.iqn = record.text("iqn");
  request.target.alias = request.volume.name;
  request.target.serial = to_hex(request.volume.volume.value());
  request.target.naa_id = request.volume.volume.value();
  request.target.chap = chap_from_js(record, "chap");
  request.target.mutual_chap = chap_from_js(record, "mutualChap");
  request.target.initiator_allow_list = record.texts("initiatorAllowList");
  request.target.reservations = record.bytes("reservations");
  return request;
}

// A bigint argument, or nothing and a pending TypeError.
std::optional<std::uint64_t> u64_argument(const Napi::CallbackInfo& info, std::size_t index) {
  bool lossless = false;
  Napi::Value value = info[index];
  std::uint64_t number = value.IsBigInt() ? value.As<Napi::BigInt>().Uint64Value(&lossless) : 0;
  if (lossless) return number;
  Napi::TypeError::New(info.Env(), "an id is not a bigint of 64 bits").ThrowAsJavaScriptException();
  return std::nullopt;
}

// ---- functions ----

// targetStart(listener): a handle. `listener` gets the events.
Napi::Value start(const Napi::CallbackInfo& info) {
  if (!info[0].IsFunction()) {
    Napi::TypeError::New(info.Env(), "the listener is not a function").ThrowAsJavaScriptException();
    return info.Env().Undefined();
  }
  auto listener = std::make_shared<Napi::FunctionReference>(Napi::Persistent(info[0].As<Napi::Function>()));
  auto process = TargetProcess::start(info.Env(), "hf-target", [listener](Env& env, TargetProcess& owner) {
    return std::make_unique<JsTarget>(env, owner, listener);
  });
  return process ? make_handle<JsTarget>(info.Env(), std::move(process), kTag) : info.Env().Undefined();
}

Napi::Value open(const Napi::CallbackInfo& info) {
  auto process = process_of<JsTarget>(info, kTag);
  if (!process) return info.Env().Undefined();
  Record record(info.Env(), info[1], "options");
  std::string portal = record.text("portal");
  auto credentials = std::make_shared<std::optional<tls::Credentials>>();
  record.record_or_null("credentials", [&](Record& inner) { *credentials = credentials_from_js(inner); });
  if (!record.ok()) return info.Env().Undefined();
  return process->ask<std::string>(
      info.Env(),
      [portal, credentials](JsTarget& target, Answer<std::string> answer) {
        answer(target.host.open(portal, *credentials));
      },
      [](Napi::Env env, const std::string& bound) -> Napi::Value {
        Napi::Object out = Napi::Object::New(env);
        out.Set("portal", bound);
        return out;
      });
}

// targetSetCredentials(handle, {authority, certificate, key})
Napi::Value set_credentials(const Napi::CallbackInfo& info) {
  auto process = process_of<JsTarget>(info, kTag);
  if (!process) return info.Env().Undefined();
  Record record(info.Env(), info[1], "credentials");
  tls::Credentials credentials = credentials_from_js(record);
  if (!record.ok()) return info.Env().Undefined();
  return process->ask_done(info.Env(), [credentials](JsTarget& target, StatusCallback done) {
    done(target.host.set_credentials(credentials));
  });
}

Napi::Value attach(const Napi::CallbackInfo& info) {
  auto process = process_of<JsTarget>(info, kTag);
  if (!process) return info.Env().Undefined();
  Record record(info.Env(), info[1], "volume");
  auto request = std::make_shared<AttachRequest>(attach_request_from_js(record));
  if (!record.ok()) return info.Env().Undefined();
  return process->ask<AttachOutcome>(
      info.Env(),
      [request](JsTarget& target, Answer<AttachOutcome> answer) {
        target.host.attach(std::move(*request), std::move(answer));
      },
      [](Napi::Env env, const AttachOutcome& outcome) -> Napi::Value {
        Napi::Object out = Napi::Object::New(env);
        out.Set("portal", outcome.portal);
        out.Set("sizeBytes", to_js(env, outcome.size_bytes));
        auto waited = std::chrono::duration_cast<std::chrono::milliseconds>(outcome.lease_waited).count();
        out.Set("leaseWaitMs", to_js(env, static_cast<std::uint64_t>(waited)));
        Napi::Array left_out = Napi::Array::New(env);
        for (ReplicaId replica : outcome.left_out) left_out.Set(left_out.Length(), to_js(env, replica.value()));
        out.Set("leftOut", left_out);
        return out;
      });
}

Napi::Value detach(const Napi::CallbackInfo& info) {
  auto process = process_of<JsTarget>(info, kTag);
  auto volume = process ? u64_argument(info, 1) : std::nullopt;
  if (!volume) return info.Env().Undefined();
  return process->ask_done(info.Env(), [id = VolumeId(*volume)](JsTarget& target, StatusCallback done) {
    target.host.detach(id, std::move(done));
  });
}

Napi::Value configure(const Napi::CallbackInfo& info) {
  auto process = process_of<JsTarget>(info, kTag);
  if (!process) return info.Env().Undefined();
  Record record(info.Env(), info[1], "volume");
  VolumeId volume(record.u64("volumeId"));
  std::uint64_t rate = record.u64("rebuildBytesPerSecond");
  std::uint32_t percent = record.u32("foregroundPercent");
  engine::QosLimits qos = qos_from_js(record);
  auto replicas = std::make_shared<Replicas>(replicas_from_js(record));
  if (!record.ok()) return info.Env().Undefined();
  return process->ask_done(info.Env(), [volume, rate, percent, qos, replicas](JsTarget& target, StatusCallback done) {
    Status parsed = parse_addresses(replicas->addresses, replicas->configs);
    done(parsed.ok() ? target.host.configure(volume, std::move(replicas->configs), rate, percent, qos)
                     : std::move(parsed));
  });
}

Napi::Value resize(const Napi::CallbackInfo& info) {
  auto process = process_of<JsTarget>(info, kTag);
  auto volume = process ? u64_argument(info, 1) : std::nullopt;
  auto size_bytes = volume ? u64_argument(info, 2) : std::nullopt;
  if (!size_bytes) return info.Env().Undefined();
  return process->ask_done(info.Env(),
                           [id = VolumeId(*volume), size = *size_bytes](JsTarget& target, StatusCallback done) {
                             target.host.resize(id, size, std::move(done));
                           });
}

Napi::Value change_snapshot(const Napi::CallbackInfo& info) {
  auto process = process_of<JsTarget>(info, kTag);
  if (!process) return info.Env().Undefined();
  Record record(info.Env(), info[1], "snapshot");
  VolumeId volume(record.u64("volumeId"));
  SnapshotId snapshot(record.u64("snapshotId"));
  std::string change = record.text("change");
  if (!record.ok()) return info.Env().Undefined();
  SnapshotChange kind = change == "create"   ? SnapshotChange::kCreate
                        : change == "delete" ? SnapshotChange::kDelete
                                             : SnapshotChange::kRevert;
  return process->ask_done(info.Env(), [volume, snapshot, kind](JsTarget& target, StatusCallback done) {
    target.host.change_snapshot(volume, kind, snapshot, std::move(done));
  });
}

Napi::Value copy_snapshot(const Napi::CallbackInfo& info) {
  auto process = process_of<JsTarget>(info, kTag);
  if (!process) return info.Env().Undefined();
  Record record(info.Env(), info[1], "copy");
  VolumeId source(record.u64("volumeId"));
  SnapshotId snapshot(record.u64("snapshotId"));
  VolumeId volume(record.u64("targetVolumeId"));
  if (!record.ok()) return info.Env().Undefined();
  return process->ask_done(info.Env(), [source, snapshot, volume](JsTarget& target, StatusCallback done) {
    target.host.copy_snapshot(source, snapshot, volume, std::move(done));
  });
}

// A volume id and the record after it: {directory, force}.
struct DeviceArguments {
  VolumeId volume;
  std::string directory;
  bool force = false;
};

std::optional<DeviceArguments> device_arguments(const Napi::CallbackInfo& info) {
  Record record(info.Env(), info[1], "device");
  DeviceArguments out{VolumeId(record.u64("volumeId")), record.text("directory"), record.boolean("force")};
  if (!record.ok()) return std::nullopt;
  return out;
}

Napi::Value map(const Napi::CallbackInfo& info) {
  auto process = process_of<JsTarget>(info, kTag);
  auto device = process ? device_arguments(info) : std::nullopt;
  if (!device) return info.Env().Undefined();
  return process->ask<std::string>(
      info.Env(),
      [device = *device](JsTarget& target, Answer<std::string> answer) {
        target.host.map(device.volume, device.directory, std::move(answer));
      },
      [](Napi::Env env, const std::string& path) -> Napi::Value { return to_js(env, path); });
}

Napi::Value unmap(const Napi::CallbackInfo& info) {
  auto process = process_of<JsTarget>(info, kTag);
  auto device = process ? device_arguments(info) : std::nullopt;
  if (!device) return info.Env().Undefined();
  return process->ask_done(info.Env(), [device = *device](JsTarget& target, StatusCallback done) {
    target.host.unmap(device.volume, device.directory, device.force, std::move(done));
  });
}

// targetOpenView(handle, {volumeId, snapshotId, firstByte, sizeBytes, directory}): /dev/loopN.
Napi::Value open_view(const Napi::CallbackInfo& info) {
  auto process = process_of<JsTarget>(info, kTag);
  if (!process) return info.Env().Undefined();
  Record record(info.Env(), info[1], "view");
  auto request = std::make_shared<ViewRequest>();
  request->volume = VolumeId(record.u64("volumeId"));
  request->snapshot = SnapshotId(record.u64("snapshotId"));
  request->first_byte = record.u64("firstByte");
  request->size_bytes = record.u64("sizeBytes");
  request->directory = record.text("directory");
  if (!record.ok()) return info.Env().Undefined();
  return process->ask<std::string>(
      info.Env(),
      [request](JsTarget& target, Answer<std::string> answer) {
        target.host.open_view(std::move(*request), std::move(answer));
      },
      [](Napi::Env env, const std::string& path) -> Napi::Value { return to_js(env, path); });
}

// targetCloseView(handle, {directory})
Napi::Value close_view(const Napi::CallbackInfo& info) {
  auto process = process_of<JsTarget>(info, kTag);
  if (!process) return info.Env().Undefined();
  Record record(info.Env(), info[1], "view");
  auto directory = std::make_shared<std::string>(record.text("directory"));
  if (!record.ok()) return info.Env().Undefined();
  return process->ask_done(info.Env(), [directory](JsTarget& target, StatusCallback done) {
    target.host.close_view(*directory, std::move(done));
  });
}

// targetRepair(handle, {volumeId, replicaId, firstBlock, blockCount, differs}): the number of blocks repaired.
Napi::Value repair(const Napi::CallbackInfo& info) {
  auto process = process_of<JsTarget>(info, kTag);
  if (!process) return info.Env().Undefined();
  Record record(info.Env(), info[1], "repair");
  VolumeId volume(record.u64("volumeId"));
  ReplicaId bad(record.u64("replicaId"));
  BlockRange blocks{BlockIndex(record.u64("firstBlock")), record.u32("blockCount")};
  bool differs = record.boolean("differs");
  if (!record.ok()) return info.Env().Undefined();
  return process->ask<engine::RepairOutcome>(
      info.Env(),
      [volume, bad, blocks, differs](JsTarget& target, Answer<engine::RepairOutcome> answer) {
        target.host.repair(volume, blocks, bad, differs, std::move(answer));
      },
      [](Napi::Env env, const engine::RepairOutcome& outcome) -> Napi::Value {
        return Napi::Number::New(env, outcome.repaired_blocks);
      });
}

Napi::Value set_redirects(const Napi::CallbackInfo& info) {
  auto process = process_of<JsTarget>(info, kTag);
  if (!process) return info.Env().Undefined();
  Record record(info.Env(), info[1], "table");
  struct Table {
    std::vector<std::pair<std::string, std::string>> redirects;
    std::vector<std::string> expected_iqns;
  };
  auto table = std::make_shared<Table>();
  record.records("redirects", [&](Record& row) { table->redirects.emplace_back(row.text("iqn"), row.text("portal")); });
  table->expected_iqns = record.texts("expectedIqns");
  if (!record.ok()) return info.Env().Undefined();
  return process->ask_done(info.Env(), [table](JsTarget& target, StatusCallback done) {
    done(target.host.set_redirects(table->redirects, std::move(table->expected_iqns)));
  });
}

const char* phase_name(engine::ReplicaPhase phase) {
  switch (phase) {
    case engine::ReplicaPhase::kInSync:
      return "in-sync";
    case engine::ReplicaPhase::kRebuilding:
      return "rebuilding";
    case engine::ReplicaPhase::kFailed:
      return "failed";
  }
  return "failed";
}

Napi::Object replica_status_to_js(Napi::Env env, const engine::ReplicaStatus& replica) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("replicaId", to_js(env, replica.id.value()));
  out.Set("phase", phase_name(replica.phase));
  out.Set("reason", replica.reason);
  out.Set("journalledSeq", to_js(env, replica.journalled.value()));
  out.Set("chunksTotal", to_js(env, replica.rebuild_chunks_total));
  out.Set("chunksExamined", to_js(env, replica.rebuild_chunks_examined));
  out.Set("bytesCopied", to_js(env, replica.rebuild_bytes_copied));
  out.Set("bytesPerSecond", to_js(env, replica.rebuild_bytes_per_second));
  return out;
}

Napi::Object session_to_js(Napi::Env env, const iscsi::SessionInfo& session) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("initiator", session.initiator);
  out.Set("peerAddress", session.peer_address);
  out.Set("commands", to_js(env, session.commands));
  return out;
}

Napi::Object latency_to_js(Napi::Env env, const engine::LatencyHistogram& histogram) {
  Napi::Object out = Napi::Object::New(env);
  Napi::Array counts = Napi::Array::New(env);
  for (std::uint64_t count : histogram.counts) counts.Set(counts.Length(), to_js(env, count));
  out.Set("counts", counts);
  out.Set("totalMicros", to_js(env, histogram.total_micros));
  return out;
}

Napi::Object volume_status_to_js(Napi::Env env, const VolumeStatus& volume) {
  const engine::EngineStatus& engine = volume.engine;
  Napi::Object out = Napi::Object::New(env);
  out.Set("volumeId", to_js(env, volume.volume.value()));
  out.Set("epoch", to_js(env, engine.epoch.value()));
  out.Set("failure", engine.failure);
  out.Set("sizeBytes", to_js(env, engine.size_bytes));
  out.Set("lastSeq", to_js(env, engine.last.value()));
  out.Set("committedSeq", to_js(env, engine.committed.value()));
  out.Set("reads", to_js(env, engine.reads));
  out.Set("writes", to_js(env, engine.writes));
  out.Set("flushes", to_js(env, engine.flushes));
  out.Set("readBytes", to_js(env, engine.read_bytes));
  out.Set("writtenBytes", to_js(env, engine.written_bytes));
  out.Set("repairedBlocks", to_js(env, engine.repaired_blocks));
  out.Set("throttled", to_js(env, engine.throttled));
  out.Set("readLatency", latency_to_js(env, engine.read_latency));
  out.Set("writeLatency", latency_to_js(env, engine.write_latency));
  out.Set("flushLatency", latency_to_js(env, engine.flush_latency));
  out.Set("stopped", engine.stopped);
  out.Set("lostData", engine.lost_data);
  out.Set("writesPaused", engine.writes_paused);
  Napi::Array replicas = Napi::Array::New(env);
  for (const auto& replica : engine.replicas) replicas.Set(replicas.Length(), replica_status_to_js(env, replica));
  out.Set("replicas", replicas);
  Napi::Array sessions = Napi::Array::New(env);
  for (const auto& session : volume.sessions) sessions.Set(sessions.Length(), session_to_js(env, session));
  out.Set("sessions", sessions);
  out.Set("device", volume.device);
  out.Set("copiedBytes", to_js(env, volume.copied_bytes));
  return out;
}

Napi::Value status(const Napi::CallbackInfo& info) {
  auto process = process_of<JsTarget>(info, kTag);
  if (!process) return info.Env().Undefined();
  return process->ask<std::vector<VolumeStatus>>(
      info.Env(), [](JsTarget& target, Answer<std::vector<VolumeStatus>> answer) { answer(target.host.status()); },
      [](Napi::Env env, const std::vector<VolumeStatus>& volumes) -> Napi::Value {
        Napi::Array out = Napi::Array::New(env);
        for (const VolumeStatus& volume : volumes) out.Set(out.Length(), volume_status_to_js(env, volume));
        return out;
      });
}

// targetAnswer(handle, id, error): answers an event. `error` is null or {code, message}.
Napi::Value answer(const Napi::CallbackInfo& info) {
  auto process = process_of<JsTarget>(info, kTag);
  auto id = process ? u64_argument(info, 1) : std::nullopt;
  if (!id) return info.Env().Undefined();
  process->tell([id = *id, status = status_from_js(info[2])](JsTarget& target) { target.host.answer(id, status); });
  return info.Env().Null();
}

Napi::Value close(const Napi::CallbackInfo& info) {
  auto process = process_of<JsTarget>(info, kTag);
  return process ? process->close(info.Env()) : info.Env().Undefined();
}

}  // namespace

void export_target_process(Napi::Env env, Napi::Object exports) {
  exports.Set("targetStart", Napi::Function::New(env, start, "targetStart"));
  exports.Set("targetOpen", Napi::Function::New(env, open, "targetOpen"));
  exports.Set("targetSetCredentials", Napi::Function::New(env, set_credentials, "targetSetCredentials"));
  exports.Set("targetAttach", Napi::Function::New(env, attach, "targetAttach"));
  exports.Set("targetDetach", Napi::Function::New(env, detach, "targetDetach"));
  exports.Set("targetConfigure", Napi::Function::New(env, configure, "targetConfigure"));
  exports.Set("targetResize", Napi::Function::New(env, resize, "targetResize"));
  exports.Set("targetChangeSnapshot", Napi::Function::New(env, change_snapshot, "targetChangeSnapshot"));
  exports.Set("targetCopySnapshot", Napi::Function::New(env, copy_snapshot, "targetCopySnapshot"));
  exports.Set("targetMap", Napi::Function::New(env, map, "targetMap"));
  exports.Set("targetUnmap", Napi::Function::New(env, unmap, "targetUnmap"));
  exports.Set("targetOpenView", Napi::Function::New(env, open_view, "targetOpenView"));
  exports.Set("targetCloseView", Napi::Function::New(env, close_view, "targetCloseView"));
  exports.Set("targetRepair", Napi::Function::New(env, repair, "targetRepair"));
  exports.Set("targetSetRedirects", Napi::Function::New(env, set_redirects, "targetSetRedirects"));
  exports.Set("targetStatus", Napi::Function::New(env, status, "targetStatus"));
  exports.Set("targetAnswer", Napi::Function::New(env, answer, "targetAnswer"));
  exports.Set("targetClose", Napi::Function::New(env, close, "targetClose"));
}

}  // namespace holdfast::addon
