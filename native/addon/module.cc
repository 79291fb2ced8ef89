// Entry point of the addon. Only engine/addon loads it; it says what the exports are.
#include "addon/module.h"

#include "addon/environment.h"

namespace holdfast::addon {

static Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  Environment::install(env);
  export_replica_process(env, exports);
  export_target_process(env, exports);
  export_file_attributes(env, exports);
  export_device_content(env, exports);
  return exports;
}

}  // namespace holdfast::addon

using holdfast::addon::initialize;
NODE_API_MODULE(holdfast, initialize)
