// Identity: the certificate of this process and the authority it believes: what every TLS connection of a reactor is
// made with. TLS 1.3 only, both sides with certificates of the cluster's authority (docs/wire-protocol.md, "TLS").
//
// replace() takes effect for connections made from then on; those that are open keep what they were made with.
// Thread: the reactor whose connections use it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "io/env.h"

struct ssl_ctx_st;

namespace holdfast::tls {

// PEM texts.
struct Credentials {
  std::string authority;    // certificates of the authorities that are believed, one or more
  std::string certificate;  // of this process, with what lies between it and the authority
  std::string key;          // of the certificate
};

// A certificate's common name is a role, a blank, and a name: "node host3", "manager host1".
inline bool is_node(std::string_view common_name) { return common_name.starts_with("node "); }
inline bool is_manager(std::string_view common_name) { return common_name.starts_with("manager "); }

inline constexpr std::size_t kRecordBytes = 16u << 10;  // payload of a record, at most (RFC 8446, section 5.1)

class Identity {
 public:
  // INVALID_ARGUMENT when a text cannot be read or the key is not that of the certificate.
  static Result<std::shared_ptr<Identity>> create(const Credentials& credentials);
  // On failure everything stays as it was.
  Status replace(const Credentials& credentials);
  ~Identity();
  Identity(const Identity&) = delete;
  Identity& operator=(const Identity&) = delete;

  ssl_ctx_st* context() const { return context_; }
  // Writes a line about a refused peer to the log; at most one a second.
  void log_refusal(Nanos now, const std::string& what);

  // Records under one key before it is changed: far below the 2^24.5 that AES-GCM bears (RFC 8446, section 5.5).
  std::uint64_t records_per_key = std::uint64_t{1} << 22;
  // Where records are made up and decrypted into; nothing stays here between two calls.
  std::array<std::byte, kRecordBytes> gathered;
  std::array<std::byte, kRecordBytes> decrypted;

 private:
  Identity() = default;

  ssl_ctx_st* context_ = nullptr;
  Nanos logged_at_ = Nanos::min();
  std::uint64_t not_logged_ = 0;
};

// Which connections are encrypted: those that may leave this host.
struct Options {
  std::shared_ptr<Identity> identity;  // nullptr: none
  bool on_loopback = false;            // for tests and measurements

  bool covers(const Address& address) const {
    return identity != nullptr && address.unix_path.empty() && (on_loopback || !address.is_loopback());
  }
};

}  // namespace holdfast::tls
