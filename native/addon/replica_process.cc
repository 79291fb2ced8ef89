// The functions of a replica process: replicaStart, replicaOpen, replicaSetCredentials, replicaStatus, replicaClose.
// Their shapes are in engine/addon/native.ts.
#include "addon/module.h"
#include "addon/process.h"
#include "addon/replica_host.h"

namespace holdfast::addon {

namespace {

constexpr napi_type_tag kTag = {0x484f4c4446415354, 0x5245504c49434131};

using ReplicaProcess = Process<ReplicaHost>;

ReplicaOptions options_from_js(Record& record) {
  ReplicaOptions options;
  options.store.directory = record.text("directory");
  options.store.journal_path = record.text_or_null("journalPath").value_or("");
  options.store.journal_bytes = record.u64("journalBytes");
  options.store.capacity_bytes = record.u64("capacityBytes");
  options.store.reserve_bytes = record.u64("reserveBytes");
  options.store.cache_bytes = record.u64("cacheBytes");
  options.store.expected_disk_id = record.text_or_null("expectedDiskId").value_or("");
  options.listen = record.texts("listen");
  options.metadata_cache_bytes = record.u64("metadataCacheBytes");
  record.record_or_null("credentials", [&](Record& inner) { options.credentials = credentials_from_js(inner); });
  return options;
}

// A handle. Nothing happens yet but that its thread starts.
Napi::Value start(const Napi::CallbackInfo& info) {
  auto process = ReplicaProcess::start(info.Env(), "hf-replica",
                                       [](Env& env, ReplicaProcess&) { return std::make_unique<ReplicaHost>(env); });
  return process ? make_handle<ReplicaHost>(info.Env(), std::move(process), kTag) : info.Env().Undefined();
}

Napi::Value open(const Napi::CallbackInfo& info) {
  auto process = process_of<ReplicaHost>(info, kTag);
  if (!process) return info.Env().Undefined();
  Record record(info.Env(), info[1], "options");
  ReplicaOptions options = options_from_js(record);
  if (!record.ok()) return info.Env().Undefined();
  return process->ask<ReplicaOpened>(
      info.Env(),
      [options = std::move(options)](ReplicaHost& host, Answer<ReplicaOpened> answer) mutable {
        host.open(std::move(options), std::move(answer));
      },
      [](Napi::Env env, const ReplicaOpened& opened) -> Napi::Value {
        Napi::Object out = Napi::Object::New(env);
        out.Set("diskId", opened.disk_id);
        Napi::Array listen = Napi::Array::New(env);
        for (const std::string& address : opened.listen) listen.Set(listen.Length(), to_js(env, address));
        out.Set("listen", listen);
        return out;
      });
}

Napi::Value status_to_js(Napi::Env env, const DiskStatus& status) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("diskId", status.disk_id);
  out.Set("failure", status.failure.empty() ? env.Null() : Napi::Value(to_js(env, status.failure)));
  out.Set("replicas", static_cast<double>(status.replicas));
  out.Set("totalBytes", to_js(env, status.space.total_bytes));
  out.Set("usedBytes", to_js(env, status.space.used_bytes));
  out.Set("reserveBytes", to_js(env, status.space.reserve_bytes));
  out.Set("freeBytes", to_js(env, status.space.free_bytes));
  out.Set("journalBytes", to_js(env, status.space.journal_bytes));
  out.Set("journalUsedBytes", to_js(env, status.space.journal_used_bytes));
  out.Set("cachedBytes", to_js(env, status.space.cached_bytes));
  return out;
}

Napi::Value status(const Napi::CallbackInfo& info) {
  auto process = process_of<ReplicaHost>(info, kTag);
  if (!process) return info.Env().Undefined();
  return process->ask<DiskStatus>(
      info.Env(), [](ReplicaHost& host, Answer<DiskStatus> answer) { answer(host.status()); }, status_to_js);
}

// replicaSetCredentials(handle, {authority, certificate, key})
Napi::Value set_credentials(const Napi::CallbackInfo& info) {
  auto process = process_of<ReplicaHost>(info, kTag);
  if (!process) return info.Env().Undefined();
  Record record(info.Env(), info[1], "credentials");
  tls::Credentials credentials = credentials_from_js(record);
  if (!record.ok()) return info.Env().Undefined();
  return process->ask_done(
      info.Env(), [credentials](ReplicaHost& host, StatusCallback done) { done(host.set_credentials(credentials)); });
}

Napi::Value close(const Napi::CallbackInfo& info) {
  auto process = process_of<ReplicaHost>(info, kTag);
  return process ? process->close(info.Env()) : info.Env().Undefined();
}

}  // namespace

void export_replica_process(Napi::Env env, Napi::Object exports) {
  exports.Set("replicaStart", Napi::Function::New(env, start, "replicaStart"));
  exports.Set("replicaOpen", Napi::Function::New(env, open, "replicaOpen"));
  exports.Set("replicaSetCredentials", Napi::Function::New(env, set_credentials, "replicaSetCredentials"));
  exports.Set("replicaStatus", Napi::Function::New(env, status, "replicaStatus"));
  exports.Set("replicaClose", Napi::Function::New(env, close, "replicaClose"));
}

}  // namespace holdfast::addon
