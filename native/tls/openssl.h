// What the files of this module share of OpenSSL. Only for .cc files of native/tls and its tests.
// Thread: any; OpenSSL's queue of errors belongs to the thread.
#pragma once

#include <memory>
#include <string>

namespace holdfast::tls {

template <auto kFree>
struct Free {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};
template <typename T, auto kFree>
using Pointer = std::unique_ptr<T, Free<kFree>>;

// Takes the thread's errors: what each says, with commas.
std::string openssl_errors();

}  // namespace holdfast::tls
