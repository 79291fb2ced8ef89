// The addon's exports, one function per handle kind, and one each for files and block devices.
#pragma once

#include <napi.h>

namespace holdfast::addon {

void export_replica_process(Napi::Env env, Napi::Object exports);
void export_device_content(Napi::Env env, Napi::Object exports);
void export_file_attributes(Napi::Env env, Napi::Object exports);
void export_target_process(Napi::Env env, Napi::Object exports);

}  // namespace holdfast::addon
