// The login phase of one connection (RFC 7143 chapter 6): stages, identity, authentication, parameters. A pure state
// machine: requests in, responses out; the connection adds sequence numbers and sends them.
//
// Invariants: kFullFeature comes only for a target that exists, an initiator it admits and, where it has CHAP
// credentials, after CHAP; accumulated text is bounded by kTextBytesMax, the keys of all requests by kTextPairsMax.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "iscsi/chap.h"
#include "iscsi/negotiation.h"
#include "iscsi/pdu.h"
#include "iscsi/target.h"

namespace holdfast::iscsi {

// RFC 7143 section 11.13.5: class in the high byte, detail in the low one.
enum class LoginStatus : std::uint16_t {
  kSuccess = 0x0000,
  kTargetMovedTemporarily = 0x0101,
  kInitiatorError = 0x0200,
  kAuthenticationFailure = 0x0201,
  kAuthorizationFailure = 0x0202,
  kNotFound = 0x0203,
  kUnsupportedVersion = 0x0205,
  kTooManyConnections = 0x0206,
  kMissingParameter = 0x0207,
  kSessionTypeNotSupported = 0x0209,
  kSessionDoesNotExist = 0x020a,
  kInvalidDuringLogin = 0x020b,
  kTargetError = 0x0300,
  kServiceUnavailable = 0x0301,
  kOutOfResources = 0x0302,
};

// What login must know of the targets here.
class LoginDirectory {
 public:
  virtual const TargetConfig* find_target(std::string_view iqn) const = 0;
  virtual const Address* find_redirect(std::string_view iqn) const = 0;
  virtual bool is_expected(std::string_view iqn) const = 0;  // not here yet
  virtual std::vector<ChapAccount> discovery_accounts() const = 0;
  virtual bool session_exists(std::uint16_t tsih) const = 0;
  virtual std::uint16_t make_tsih() = 0;

 protected:
  ~LoginDirectory() = default;
};

enum class SessionType { kNormal, kDiscovery };

class Login {
 public:
  Login(LoginDirectory& directory, std::function<std::uint64_t()> random)
      : directory_(directory), random_(std::move(random)) {}

  enum class Next { kMore, kFullFeature, kClose };
  struct Reply {
    LoginResponse header;
    std::string text;
    Next next = Next::kMore;
  };
  Reply handle(const LoginRequest& request, std::string_view text);

  // Settled once handle() said kFullFeature.
  SessionType type() const { return type_; }
  const std::string& initiator() const { return initiator_; }
  const std::string& target() const { return target_; }
  const SessionParameters& parameters() const { return parameters_; }
  const Isid& isid() const { return isid_; }
  std::uint16_t cid() const { return cid_; }
  std::uint16_t tsih() const { return tsih_; }

 private:
  Reply respond(const LoginRequest& request, LoginStatus status);
  LoginStatus check_request(const LoginRequest& request);
  bool note_keys(const TextPairs& pairs);
  LoginStatus identify(const TextPairs& pairs, std::string& answer);
  LoginStatus identify_target(const TextPairs& pairs, std::string& answer);
  LoginStatus handle_security(const TextPairs& pairs, std::string& answer);
  LoginStatus choose_method(std::string_view offered, std::string& answer);
  LoginStatus handle_keys(const TextPairs& pairs, std::string& answer);
  bool authentication_required() const { return type_ == SessionType::kNormal && !accounts_.empty(); }

  LoginDirectory& directory_;
  std::function<std::uint64_t()> random_;
  bool identified_ = false;
  int stage_ = -1;
  std::string pending_text_;
  TextPairs keys_;  // that the initiator has sent; the values only of those that it may repeat
  SessionType type_ = SessionType::kNormal;
  std::string initiator_;
  std::string target_;
  Isid isid_ = {};
  std::uint16_t cid_ = 0;
  std::uint16_t tsih_ = 0;
  std::vector<ChapAccount> accounts_;
  std::unique_ptr<Chap> chap_;
  bool authenticated_ = false;
  bool declared_ = false;
  std::string redirect_;
  SessionParameters parameters_;
};

}  // namespace holdfast::iscsi
