#include "iscsi/login.h"

#include <algorithm>

namespace holdfast::iscsi {

namespace {

constexpr int kSecurity = 0, kOperational = 1, kFullFeature = 3;
constexpr std::uint8_t kTransitBit = 0x80;

// Keys with a meaning elsewhere, which need no answer here.
constexpr std::string_view kDeclarations[] = {"InitiatorName", "InitiatorAlias", "TargetName", "SessionType"};
constexpr std::string_view kSecurityKeys[] = {"AuthMethod", "CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R"};

// What one side says of itself, rather than offers. Some initiators say it again in each stage.
constexpr std::string_view kRepeatable[] = {"InitiatorName", "InitiatorAlias", "TargetName", "SessionType",
                                            "MaxRecvDataSegmentLength"};

bool is_any_of(std::string_view key, std::span<const std::string_view> keys) {
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

int current_stage(const LoginRequest& request) { return request.flags >> 2 & 3; }
int next_stage(const LoginRequest& request) { return request.flags & 3; }
bool wants_transit(const LoginRequest& request) { return request.flags & kTransitBit; }

}  // namespace

Login::Reply Login::respond(const LoginRequest& request, LoginStatus status) {
  Reply reply;
  reply.header.ISID = request.ISID;
  reply.header.TSIH = request.TSIH;
  reply.header.InitiatorTaskTag = request.InitiatorTaskTag;
  reply.header.flags = static_cast<std::uint8_t>(request.flags & 0x0c);
  reply.header.StatusClass = static_cast<std::uint8_t>(static_cast<std::uint16_t>(status) >> 8);
  reply.header.StatusDetail = static_cast<std::uint8_t>(status);
  if (status != LoginStatus::kSuccess) reply.next = Next::kClose;
  return reply;
}

LoginStatus Login::check_request(const LoginRequest& request) {
  if (request.VersionMin > 0) return LoginStatus::kUnsupportedVersion;
  int csg = current_stage(request), nsg = next_stage(request);
  if (stage_ < 0) {
    if (request.TSIH != 0) {
      return directory_.session_exists(request.TSIH) ? LoginStatus::kTooManyConnections
                                                     : LoginStatus::kSessionDoesNotExist;
    }
    isid_ = request.ISID;
    cid_ = request.CID;
    if (csg != kSecurity && csg != kOperational) return LoginStatus::kInitiatorError;
    stage_ = csg;
  }
  if (csg != stage_ || request.ISID != isid_ || request.CID != cid_) return LoginStatus::kInvalidDuringLogin;
  if (wants_transit(request)) {
    bool nsg_ok = nsg == kFullFeature || (csg == kSecurity && nsg == kOperational);
    if (!nsg_ok || (request.flags & kContinueBit)) return LoginStatus::kInitiatorError;
  }
  return LoginStatus::kSuccess;
}

// Nothing is negotiated twice during login (RFC 7143 section 6.2: "MUST respond with a Login reject (initiator
// error)"). False: it was, or what was said of itself has changed.
bool Login::note_keys(const TextPairs& pairs) {
  for (const auto& [key, value] : pairs) {
    bool repeatable = is_any_of(key, kRepeatable);
    const std::string* before = find_text(keys_, key);
    if (before && !(repeatable && *before == value)) return false;
    if (before) continue;
    if (keys_.size() >= kTextPairsMax) return false;
    keys_.emplace_back(key, repeatable ? value : std::string());
  }
  return true;
}

Login::Reply Login::handle(const LoginRequest& request, std::string_view text) {
  if (LoginStatus status = check_request(request); status != LoginStatus::kSuccess) return respond(request, status);
  if (pending_text_.size() + text.size() > kTextBytesMax) return respond(request, LoginStatus::kInitiatorError);
  pending_text_.append(text);
  if (request.flags & kContinueBit) return respond(request, LoginStatus::kSuccess);

  Result<TextPairs> pairs = parse_text(pending_text_);
  pending_text_.clear();
  if (!pairs.ok() || !note_keys(*pairs)) return respond(request, LoginStatus::kInitiatorError);
  std::string answer;
  LoginStatus status = identified_ ? LoginStatus::kSuccess : identify(*pairs, answer);
  if (status == LoginStatus::kSuccess && stage_ == kSecurity) status = handle_security(*pairs, answer);
  if (status == LoginStatus::kSuccess) status = handle_keys(*pairs, answer);
  if (status == LoginStatus::kSuccess && stage_ == kOperational && authentication_required() && !authenticated_) {
    status = LoginStatus::kAuthenticationFailure;
  }
  Reply reply = respond(request, status);
  if (status == LoginStatus::kTargetMovedTemporarily) append_text(reply.text, "TargetAddress", redirect_);
  if (status != LoginStatus::kSuccess) return reply;

  bool may_leave = stage_ != kSecurity || authenticated_ || (!chap_ && !authentication_required());
  if (wants_transit(request) && may_leave) {
    int next = next_stage(request);
    reply.header.flags |= kTransitBit | static_cast<std::uint8_t>(next);
    stage_ = next;
    if (next == kFullFeature) {
      settle(parameters_);
      tsih_ = directory_.make_tsih();
      reply.header.TSIH = tsih_;
      reply.next = Next::kFullFeature;
    }
  } else if (wants_transit(request) && stage_ == kSecurity && !chap_) {
    // It will not authenticate, and must.
    return respond(request, LoginStatus::kAuthenticationFailure);
  }
  // The target's own declaration, once, at the first chance.
  bool operational = current_stage(request) == kOperational || reply.next == Next::kFullFeature;
  if (operational && !declared_) {
    declared_ = true;
    append_text(answer, "MaxRecvDataSegmentLength", std::to_string(kMaxRecvDataSegmentLength));
  }
  reply.text = std::move(answer);
  return reply;
}

// The first request says who wants what (RFC 7143 section 6.3).
LoginStatus Login::identify(const TextPairs& pairs, std::string& answer) {
  identified_ = true;
  const std::string* initiator = find_text(pairs, "InitiatorName");
  if (!initiator) return LoginStatus::kMissingParameter;
  if (!valid_iscsi_name(*initiator)) return LoginStatus::kInitiatorError;
  initiator_ = *initiator;
  if (const std::string* type = find_text(pairs, "SessionType")) {
    if (*type != "Normal" && *type != "Discovery") return LoginStatus::kSessionTypeNotSupported;
    type_ = *type == "Discovery" ? SessionType::kDiscovery : SessionType::kNormal;
  }
  if (type_ == SessionType::kNormal) return identify_target(pairs, answer);
  accounts_ = directory_.discovery_accounts();
  return LoginStatus::kSuccess;
}

LoginStatus Login::identify_target(const TextPairs& pairs, std::string& answer) {
  const std::string* name = find_text(pairs, "TargetName");
  if (!name) return LoginStatus::kMissingParameter;
  const TargetConfig* config = directory_.find_target(*name);
  if (!config) {
    const Address* elsewhere = directory_.find_redirect(*name);
    if (!elsewhere && directory_.is_expected(*name)) return LoginStatus::kServiceUnavailable;
    if (!elsewhere) return LoginStatus::kNotFound;
    redirect_ = elsewhere->to_string();
    return LoginStatus::kTargetMovedTemporarily;
  }
  const auto& allowed = config->initiator_allow_list;
  if (!allowed.empty() && std::find(allowed.begin(), allowed.end(), initiator_) == allowed.end()) {
    return LoginStatus::kAuthorizationFailure;
  }
  target_ = *name;
  if (config->chap) accounts_.push_back({*config->chap, config->mutual_chap});
  if (!config->alias.empty()) append_text(answer, "TargetAlias", config->alias);
  append_text(answer, "TargetPortalGroupTag", "1");
  return LoginStatus::kSuccess;
}

LoginStatus Login::choose_method(std::string_view offered, std::string& answer) {
  bool none_allowed = !authentication_required();
  for (std::string_view method : split_list(offered)) {
    if (method == "None" && none_allowed) {
      append_text(answer, "AuthMethod", "None");
      authenticated_ = true;
      return LoginStatus::kSuccess;
    }
    // An initiator that offers both but need not prove anything is spared the exchange.
    bool also_none = none_allowed && offered.find("None") != std::string_view::npos;
    if (method == "CHAP" && !accounts_.empty() && !also_none) {
      append_text(answer, "AuthMethod", "CHAP");
      chap_ = std::make_unique<Chap>(accounts_, random_);
      return LoginStatus::kSuccess;
    }
  }
  return LoginStatus::kAuthenticationFailure;
}

LoginStatus Login::handle_security(const TextPairs& pairs, std::string& answer) {
  const std::string* offered = find_text(pairs, "AuthMethod");
  if (offered) {
    if (chap_ || authenticated_) return LoginStatus::kInitiatorError;  // settled before
    LoginStatus status = choose_method(*offered, answer);
    if (status != LoginStatus::kSuccess) return status;
  }
  if (!chap_ || authenticated_) return LoginStatus::kSuccess;
  switch (chap_->handle(pairs, answer)) {
    case Chap::Step::kAuthenticated:
      authenticated_ = true;
      return LoginStatus::kSuccess;
    case Chap::Step::kContinue:
      return LoginStatus::kSuccess;
    default:
      return LoginStatus::kAuthenticationFailure;
  }
}

LoginStatus Login::handle_keys(const TextPairs& pairs, std::string& answer) {
  for (const auto& [key, value] : pairs) {
    if (is_any_of(key, kDeclarations)) continue;
    if (is_any_of(key, kSecurityKeys)) {
      if (stage_ != kSecurity) return LoginStatus::kInitiatorError;
      continue;
    }
    switch (negotiate(key, value, parameters_, answer)) {
      case NegotiationOutcome::kAnswered:
        break;
      case NegotiationOutcome::kIllegal:
        return LoginStatus::kInitiatorError;
      case NegotiationOutcome::kNotMine:
        append_text(answer, key, "NotUnderstood");
        break;
    }
  }
  return LoginStatus::kSuccess;
}

}  // namespace holdfast::iscsi
