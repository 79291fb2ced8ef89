// Environment: what the addon keeps per Node environment (the main thread or a worker): the open processes, closed by a
// cleanup hook when the environment ends. Thread: the JavaScript thread of the environment.
#pragma once

#include <memory>
#include <set>

#include <napi.h>

namespace holdfast::addon {

class Closable {
 public:
  virtual ~Closable() = default;
  // Closes and waits, bounded. Runs in the cleanup hook: no JavaScript may be called.
  virtual void close_at_exit() = 0;
};

class Environment {
 public:
  // Makes the state of `env`. Once per environment.
  static void install(Napi::Env env);
  static Environment& of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

  void add(std::shared_ptr<Closable> open) { open_.insert(std::move(open)); }
  void remove(const std::shared_ptr<Closable>& closed) { open_.erase(closed); }

 private:
  void close_all();

  std::set<std::shared_ptr<Closable>> open_;
};

}  // namespace holdfast::addon
