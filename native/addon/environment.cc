#include "addon/environment.h"

namespace holdfast::addon {

void Environment::install(Napi::Env env) {
  auto* environment = new Environment();
  env.SetInstanceData<Environment>(environment);  // owned by `env` now; it outlives the cleanup hooks
  env.AddCleanupHook([](Environment* self) { self->close_all(); }, environment);
}

void Environment::close_all() {
  std::set<std::shared_ptr<Closable>> open;
  open.swap(open_);
  for (const std::shared_ptr<Closable>& each : open) each->close_at_exit();
}

}  // namespace holdfast::addon
