#include "iscsi/chap.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <array>
#include <cstring>

#include "base/check.h"

namespace holdfast::iscsi {

namespace {

constexpr std::size_t kChallengeBytes = 32;
constexpr std::size_t kChallengeBytesMax = 1024;

const EVP_MD* digest_of(ChapAlgorithm algorithm) {
  switch (algorithm) {
    case ChapAlgorithm::kMd5:
      return EVP_md5();
    case ChapAlgorithm::kSha1:
      return EVP_sha1();
    case ChapAlgorithm::kSha256:
      return EVP_sha256();
    case ChapAlgorithm::kSha3_256:
      return EVP_sha3_256();
  }
  return nullptr;
}

bool equal_in_constant_time(std::string_view left, std::string_view right) {
  return left.size() == right.size() && CRYPTO_memcmp(left.data(), right.data(), left.size()) == 0;
}

}  // namespace

std::string chap_response(ChapAlgorithm algorithm, std::uint8_t identifier, std::string_view secret,
                          std::string_view challenge) {
  std::string message(1, static_cast<char>(identifier));
  message.append(secret).append(challenge);
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
  unsigned size = 0;
  // Without the digest (a FIPS build has no MD5) the response is empty, and an empty response never verifies.
  if (EVP_Digest(message.data(), message.size(), digest.data(), &size, digest_of(algorithm), nullptr) != 1) size = 0;
  OPENSSL_cleanse(message.data(), message.size());
  return std::string(reinterpret_cast<const char*>(digest.data()), size);
}

std::optional<ChapAlgorithm> choose_chap_algorithm(std::string_view offered) {
  for (std::string_view item : split_list(offered)) {
    std::optional<std::uint64_t> number = parse_text_number(item, 255);
    if (number && *number >= 5 && *number <= 8) return static_cast<ChapAlgorithm>(*number);
  }
  return std::nullopt;
}

Chap::Step Chap::handle(const TextPairs& pairs, std::string& answer) {
  switch (state_) {
    case State::kAlgorithm:
      return challenge(pairs, answer);
    case State::kResponse:
      return verify(pairs, answer);
    default:
      return Step::kFailed;
  }
}

Chap::Step Chap::challenge(const TextPairs& pairs, std::string& answer) {
  const std::string* offered = find_text(pairs, "CHAP_A");
  if (!offered) return Step::kContinue;
  std::optional<ChapAlgorithm> chosen = choose_chap_algorithm(*offered);
  if (!chosen) return Step::kFailed;
  algorithm_ = *chosen;
  identifier_ = static_cast<std::uint8_t>(random_());
  challenge_.clear();
  while (challenge_.size() < kChallengeBytes) {
    std::uint64_t bits = random_();
    challenge_.append(reinterpret_cast<const char*>(&bits), sizeof(bits));
  }
  append_text(answer, "CHAP_A", std::to_string(static_cast<unsigned>(algorithm_)));
  append_text(answer, "CHAP_I", std::to_string(identifier_));
  append_text(answer, "CHAP_C", encode_text_binary(challenge_));
  state_ = State::kResponse;
  return Step::kContinue;
}

Chap::Step Chap::verify(const TextPairs& pairs, std::string& answer) {
  state_ = State::kDone;  // one try
  const std::string* name = find_text(pairs, "CHAP_N");
  const std::string* encoded = find_text(pairs, "CHAP_R");
  if (!name || !encoded) return Step::kFailed;
  std::optional<std::string> response = decode_text_binary(*encoded, 64);
  if (!response) return Step::kFailed;
  for (const ChapAccount& account : accounts_) {
    std::string expected = chap_response(algorithm_, identifier_, account.initiator.secret, challenge_);
    if (expected.empty() || account.initiator.user != *name || !equal_in_constant_time(expected, *response)) continue;
    return find_text(pairs, "CHAP_I") || find_text(pairs, "CHAP_C") ? prove(account, pairs, answer)
                                                                    : Step::kAuthenticated;
  }
  return Step::kFailed;
}

// The initiator asks the target to prove itself. Its challenge must not be ours sent back, and the secrets of the two
// directions must differ, or answering would give away a valid response (RFC 7143 section 9.2.1).
Chap::Step Chap::prove(const ChapAccount& account, const TextPairs& pairs, std::string& answer) {
  const std::string* identifier = find_text(pairs, "CHAP_I");
  const std::string* encoded = find_text(pairs, "CHAP_C");
  if (!identifier || !encoded || !account.target) return Step::kFailed;
  std::optional<std::uint64_t> number = parse_text_number(*identifier, 255);
  std::optional<std::string> challenge = decode_text_binary(*encoded, kChallengeBytesMax);
  if (!number || !challenge || *challenge == challenge_) return Step::kFailed;
  if (account.target->secret == account.initiator.secret) return Step::kFailed;
  append_text(answer, "CHAP_N", account.target->user);
  append_text(answer, "CHAP_R",
              encode_text_binary(
                  chap_response(algorithm_, static_cast<std::uint8_t>(*number), account.target->secret, *challenge)));
  return Step::kAuthenticated;
}

}  // namespace holdfast::iscsi
