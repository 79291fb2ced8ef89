#include "io/socket_owner.h"

#include <arpa/inet.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <sys/socket.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

namespace holdfast::io {

namespace {

constexpr const char* kEstablished = "01";
constexpr std::uint8_t kEstablishedState = 1;
// The kernel gives the table out piece by piece: what goes on meanwhile may hide a line.
constexpr int kLooks = 5;

std::string text_of(const char* path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Words of 32 bits, as the machine has them.
template <typename Bytes>
std::string hex_words(const Bytes& bytes) {
  std::string text;
  for (std::size_t at = 0; at < sizeof bytes; at += 4) {
    std::uint32_t word = 0;
    std::memcpy(&word, reinterpret_cast<const char*>(&bytes) + at, sizeof word);
    char digits[9];
    std::snprintf(digits, sizeof digits, "%08X", word);
    text += digits;
  }
  return text;
}

// An end of a connection as the two tables have it: a client may reach an IPv4 address from an IPv6 socket, too.
struct Texts {
  std::string tcp, tcp6;
};

std::optional<Texts> texts_of(const Address& address) {
  char port[6];
  std::snprintf(port, sizeof port, ":%04X", address.port);
  in_addr four{};
  in6_addr six{};
  std::string host = address.host.rfind("::ffff:", 0) == 0 ? address.host.substr(7) : address.host;
  if (inet_pton(AF_INET, host.c_str(), &four) == 1) {
    if (inet_pton(AF_INET6, ("::ffff:" + host).c_str(), &six) != 1) return std::nullopt;
    return Texts{hex_words(four) + port, hex_words(six) + port};
  }
  if (inet_pton(AF_INET6, host.c_str(), &six) != 1) return std::nullopt;
  return Texts{"-", hex_words(six) + port};
}

struct DiagRequest {
  nlmsghdr header;
  inet_diag_req_v2 wanted;
};

// The socket whose own end is `own`. An IPv4 address may be that of an IPv6 socket, too: the kernel finds both.
bool fill_ends(const Address& own, const Address& other, inet_diag_req_v2& wanted) {
  auto plain = [](const Address& address) {
    return address.host.rfind("::ffff:", 0) == 0 ? address.host.substr(7) : address.host;
  };
  std::string from = plain(own);
  std::string to = plain(other);
  wanted.id.idiag_sport = htons(own.port);
  wanted.id.idiag_dport = htons(other.port);
  for (int family : {AF_INET, AF_INET6}) {
    if (inet_pton(family, from.c_str(), wanted.id.idiag_src) != 1) continue;
    wanted.sdiag_family = static_cast<std::uint8_t>(family);
    return inet_pton(family, to.c_str(), wanted.id.idiag_dst) == 1;
  }
  return false;
}

// The next word of a line; what is left follows it.
std::string_view take_word(std::string_view& line) {
  std::size_t begin = std::min(line.find_first_not_of(' '), line.size());
  line.remove_prefix(begin);
  std::size_t end = std::min(line.find(' '), line.size());
  std::string_view word = line.substr(0, end);
  line.remove_prefix(end);
  return word;
}

}  // namespace

// "  sl: LOCAL REMOTE STATE QUEUES TIMER RETRANSMITS UID ...". The same port may be in the table many times, with other
// remote ends; a socket that has ended belongs to user 0 there, so its state matters.
std::optional<uid_t> owner_in(std::string_view table, std::string_view local, std::string_view remote) {
  std::string wanted = ": " + std::string(local) + " " + std::string(remote) + " " + kEstablished + " ";
  std::size_t at = table.find(wanted);
  if (at == std::string_view::npos) return std::nullopt;
  std::string_view line = table.substr(at + wanted.size());
  line = line.substr(0, line.find('\n'));
  for (int skipped = 0; skipped < 3; ++skipped) take_word(line);  // queues, timer, retransmissions
  std::string_view word = take_word(line);
  uid_t user = 0;
  auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), user);
  if (error != std::errc() || end != word.data() + word.size()) return std::nullopt;
  return user;
}

std::optional<uid_t> asked_owner(const Address& local, const Address& peer) {
  inet_diag_req_v2 wanted{};
  if (!fill_ends(peer, local, wanted)) return std::nullopt;
  wanted.sdiag_protocol = IPPROTO_TCP;
  wanted.idiag_states = ~0u;
  wanted.id.idiag_cookie[0] = wanted.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
  DiagRequest request{};
  request.header.nlmsg_len = sizeof request;
  request.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  request.header.nlmsg_flags = NLM_F_REQUEST;  // this one socket, no dump
  request.wanted = wanted;
  int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
  if (fd < 0) return std::nullopt;
  // The kernel answers within the call of send: what is not there now never comes.
  alignas(nlmsghdr) char answer[4'096];
  ssize_t got = send(fd, &request, sizeof request, 0) < 0 ? -1 : recv(fd, answer, sizeof answer, MSG_DONTWAIT);
  close(fd);
  const auto* header = reinterpret_cast<const nlmsghdr*>(answer);
  if (got < 0 || !NLMSG_OK(header, static_cast<std::size_t>(got))) return std::nullopt;
  if (header->nlmsg_type != SOCK_DIAG_BY_FAMILY || header->nlmsg_len < NLMSG_LENGTH(sizeof(inet_diag_msg))) {
    return std::nullopt;
  }
  inet_diag_msg found{};
  std::memcpy(&found, NLMSG_DATA(header), sizeof found);
  // A socket that has ended belongs to user 0 here.
  if (found.idiag_state != kEstablishedState) return std::nullopt;
  return found.idiag_uid;
}

std::optional<uid_t> listed_owner(const Address& local, const Address& peer) {
  std::optional<Texts> ours = texts_of(local);
  std::optional<Texts> theirs = texts_of(peer);
  if (!ours || !theirs) return std::nullopt;
  for (int look = 0; look < kLooks; ++look) {
    if (auto user = owner_in(text_of("/proc/net/tcp"), theirs->tcp, ours->tcp)) return user;
    if (auto user = owner_in(text_of("/proc/net/tcp6"), theirs->tcp6, ours->tcp6)) return user;
  }
  return std::nullopt;
}

// "There is none" may also mean that the kernel has no sock_diag for TCP: the table knows.
std::optional<uid_t> socket_owner(const Address& local, const Address& peer) {
  std::optional<uid_t> asked = asked_owner(local, peer);
  return asked ? asked : listed_owner(local, peer);
}

bool is_trusted_user(uid_t user) { return user == 0 || user == geteuid(); }

}  // namespace holdfast::io
