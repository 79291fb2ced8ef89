// libFuzzer target: the login state machine. The input is a row of requests: a byte of flags (T, C, CSG, NSG), a byte
// with the length of the text, the text. It must stay out of full feature phase without CHAP, whatever it is told.
// Corpus: native/iscsi/corpus/iscsi_login.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "iscsi/login.h"

namespace {

using namespace holdfast;         // NOLINT: a program
using namespace holdfast::iscsi;  // NOLINT

class Directory final : public LoginDirectory {
 public:
  Directory() {
    open.iqn = "iqn.x:open";
    closed.iqn = "iqn.x:closed";
    closed.chap = ChapCredentials{"user", "a secret that nobody guesses"};
    closed.mutual_chap = ChapCredentials{"target", "another one of that kind"};
    moved = {"192.0.2.1", 3260, ""};
  }
  const TargetConfig* find_target(std::string_view iqn) const override {
    return iqn == open.iqn ? &open : iqn == closed.iqn ? &closed : nullptr;
  }
  const Address* find_redirect(std::string_view iqn) const override { return iqn == "iqn.x:moved" ? &moved : nullptr; }
  bool is_expected(std::string_view iqn) const override { return iqn == "iqn.x:soon"; }
  std::vector<ChapAccount> discovery_accounts() const override { return {{*closed.chap, closed.mutual_chap}}; }
  bool session_exists(std::uint16_t tsih) const override { return tsih == 1; }
  std::uint16_t make_tsih() override { return 2; }

  TargetConfig open, closed;
  Address moved;
};

void require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Directory directory;
  std::uint64_t random = 0;
  Login login(directory, [&random] { return ++random * 0x9E3779B97F4A7C15ull; });
  std::string_view input(reinterpret_cast<const char*>(data), size);
  while (input.size() >= 2) {
    LoginRequest request;
    request.flags = static_cast<std::uint8_t>(input[0]);
    std::size_t length = static_cast<std::uint8_t>(input[1]);
    std::string_view text = input.substr(2, length);
    input.remove_prefix(2 + text.size());
    Login::Reply reply = login.handle(request, text);
    require(parse_text(reply.text).ok());
    if (reply.next == Login::Next::kClose) {
      require(reply.header.StatusClass != 0);
      break;
    }
    require(reply.header.StatusClass == 0);
    if (reply.next != Login::Next::kFullFeature) continue;
    require(login.type() == SessionType::kDiscovery || login.target() == directory.open.iqn);
    require(valid_iscsi_name(login.initiator()));
    const SessionParameters& agreed = login.parameters();
    require(agreed.MaxRecvDataSegmentLength >= 512 && agreed.MaxBurstLength >= 512);
    require(agreed.FirstBurstLength <= agreed.MaxBurstLength && agreed.MaxBurstLength <= kMaxBurstLength);
    require(agreed.MaxOutstandingR2T >= 1 && agreed.MaxOutstandingR2T <= kMaxOutstandingR2T);
    break;
  }
  return 0;
}
