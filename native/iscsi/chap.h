// CHAP (RFC 1994 as RFC 7143 section 12.1.3 uses it): the exchange of one login, target side, one-way or mutual.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "iscsi/target.h"
#include "iscsi/text.h"

namespace holdfast::iscsi {

enum class ChapAlgorithm : std::uint8_t { kMd5 = 5, kSha1 = 6, kSha256 = 7, kSha3_256 = 8 };

// Digest of identifier, secret and challenge.
std::string chap_response(ChapAlgorithm algorithm, std::uint8_t identifier, std::string_view secret,
                          std::string_view challenge);
std::optional<ChapAlgorithm> choose_chap_algorithm(std::string_view offered);

// What an initiator may prove to be, and how the target proves itself to it.
struct ChapAccount {
  ChapCredentials initiator;
  std::optional<ChapCredentials> target;
};

class Chap {
 public:
  Chap(std::vector<ChapAccount> accounts, std::function<std::uint64_t()> random)
      : accounts_(std::move(accounts)), random_(std::move(random)) {}

  enum class Step { kContinue, kAuthenticated, kFailed };
  // Handles the CHAP_ keys of one request; appends the answer.
  Step handle(const TextPairs& pairs, std::string& answer);

 private:
  enum class State { kAlgorithm, kResponse, kDone };
  Step challenge(const TextPairs& pairs, std::string& answer);
  Step verify(const TextPairs& pairs, std::string& answer);
  Step prove(const ChapAccount& account, const TextPairs& pairs, std::string& answer);

  std::vector<ChapAccount> accounts_;
  std::function<std::uint64_t()> random_;
  State state_ = State::kAlgorithm;
  ChapAlgorithm algorithm_ = ChapAlgorithm::kMd5;
  std::uint8_t identifier_ = 0;
  std::string challenge_;
};

}  // namespace holdfast::iscsi
