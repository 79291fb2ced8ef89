#include "iscsi/chap.h"

#include <gtest/gtest.h>

#include <string>

#include "iscsi/testing/fixture.h"

namespace holdfast::iscsi {
namespace {

using testing::Pdu;
using testing::RawInitiator;

const ChapCredentials kHost{"host", "secret-of-the-host"};
const ChapCredentials kTarget{"target", "secret-of-the-target"};

std::string hex(std::string_view bytes) { return encode_text_binary(bytes).substr(2); }

// Digests of identifier 27h, secret "MyLongSecret", challenge "challenge", computed with openssl(1).
TEST(ChapResponse, KnownDigests) {
  auto of = [](ChapAlgorithm algorithm) { return hex(chap_response(algorithm, 0x27, "MyLongSecret", "challenge")); };
  EXPECT_EQ(of(ChapAlgorithm::kMd5), "2c651eacfd3c21fe5d7537d2b20d27b2");
  EXPECT_EQ(of(ChapAlgorithm::kSha1), "8528451b1b002d1372657b45a0ffd53b11b29bd6");
  EXPECT_EQ(of(ChapAlgorithm::kSha256), "e6fc1065fe2a0d44b7a47787909271814986adb9f0027422c5a8bee3219f56d4");
  EXPECT_EQ(of(ChapAlgorithm::kSha3_256), "8c8d1622c026fa01d9d5d9b5873ff75f8094f9672121910e89fe7114786ad99f");
}

TEST(ChapAlgorithms, TheFirstKnownOfTheInitiator) {
  EXPECT_EQ(choose_chap_algorithm("5"), ChapAlgorithm::kMd5);
  EXPECT_EQ(choose_chap_algorithm("9,7,5"), ChapAlgorithm::kSha256);
  EXPECT_EQ(choose_chap_algorithm("8,5"), ChapAlgorithm::kSha3_256);
  EXPECT_EQ(choose_chap_algorithm("4"), std::nullopt);
  EXPECT_EQ(choose_chap_algorithm(""), std::nullopt);
}

class ChapLogin : public testing::TargetTest {
 protected:
  void SetUp() override { serve(false); }
  void serve(bool mutual) {
    start(512, [&](TargetConfig& config) {
      config.chap = kHost;
      if (mutual) config.mutual_chap = kTarget;
    });
  }

  // Identity and method, then the algorithm; the challenge is in answers afterwards.
  RawInitiator& begin(const char* algorithms = "5") {
    RawInitiator& host = connect();
    auto keys = RawInitiator::identity();
    keys.emplace_back("AuthMethod", "CHAP,None");
    EXPECT_EQ(RawInitiator::status_of(host.login_step(0, 1, false, RawInitiator::text(keys))), 0);
    EXPECT_EQ(host.answers["AuthMethod"], "CHAP");
    EXPECT_EQ(RawInitiator::status_of(host.login_step(0, 1, false, RawInitiator::text({{"CHAP_A", algorithms}}))), 0);
    return host;
  }
  std::string response(RawInitiator& host, std::string_view secret, ChapAlgorithm algorithm = ChapAlgorithm::kMd5) {
    auto identifier = static_cast<std::uint8_t>(std::stoul(host.answers["CHAP_I"]));
    std::string challenge = decode_text_binary(host.answers["CHAP_C"], 1024).value_or("");
    return encode_text_binary(chap_response(algorithm, identifier, secret, challenge));
  }
  std::uint16_t finish(RawInitiator& host, RawInitiator::Keys keys) {
    return RawInitiator::status_of(host.login_step(0, 1, true, RawInitiator::text(keys)));
  }
  std::uint16_t operational(RawInitiator& host) { return RawInitiator::status_of(host.login_step(1, 3, true, "")); }
  static constexpr std::uint16_t kRefused = 0x0201;
};

TEST_F(ChapLogin, OneWay) {
  RawInitiator& host = begin();
  EXPECT_EQ(host.answers["CHAP_A"], "5");
  EXPECT_EQ(finish(host, {{"CHAP_N", "host"}, {"CHAP_R", response(host, kHost.secret)}}), 0);
  EXPECT_EQ(operational(host), 0);
  EXPECT_TRUE(host.full_feature());
  host.clear_attentions();
}

TEST_F(ChapLogin, EveryAlgorithm) {
  for (int algorithm : {5, 6, 7, 8}) {
    RawInitiator& host = begin(std::to_string(algorithm).c_str());
    EXPECT_EQ(host.answers["CHAP_A"], std::to_string(algorithm));
    std::string answer = response(host, kHost.secret, static_cast<ChapAlgorithm>(algorithm));
    EXPECT_EQ(finish(host, {{"CHAP_N", "host"}, {"CHAP_R", answer}}), 0) << algorithm;
    EXPECT_EQ(operational(host), 0);
  }
}

TEST_F(ChapLogin, Mutual) {
  serve(true);
  RawInitiator& host = begin();
  std::string challenge = "a challenge of the initiator";
  EXPECT_EQ(finish(host, {{"CHAP_N", "host"},
                          {"CHAP_R", response(host, kHost.secret)},
                          {"CHAP_I", "0x2a"},
                          {"CHAP_C", encode_text_binary(challenge)}}),
            0);
  EXPECT_EQ(host.answers["CHAP_N"], "target");
  EXPECT_EQ(host.answers["CHAP_R"],
            encode_text_binary(chap_response(ChapAlgorithm::kMd5, 42, kTarget.secret, challenge)));
  EXPECT_EQ(operational(host), 0);
}

TEST_F(ChapLogin, WrongSecretUserOrResponse) {
  auto refused = [&](const std::function<RawInitiator::Keys(RawInitiator&)>& keys, const char* what) {
    RawInitiator& host = begin();
    EXPECT_EQ(finish(host, keys(host)), kRefused) << what;
    env.advance(10s);
    EXPECT_TRUE(host.closed) << what;
  };
  using Keys = RawInitiator::Keys;
  refused([&](auto& h) { return Keys{{"CHAP_N", "host"}, {"CHAP_R", response(h, "not the secret!!")}}; }, "secret");
  refused([&](auto& h) { return Keys{{"CHAP_N", "Host"}, {"CHAP_R", response(h, kHost.secret)}}; }, "user");
  refused([&](auto& h) { return Keys{{"CHAP_N", ""}, {"CHAP_R", response(h, kHost.secret)}}; }, "no user");
  refused([&](auto& h) { return Keys{{"CHAP_R", response(h, kHost.secret)}}; }, "no name");
  refused([&](auto&) { return Keys{{"CHAP_N", "host"}}; }, "no response");
  refused([&](auto&) { return Keys{{"CHAP_N", "host"}, {"CHAP_R", "0x"}}; }, "empty response");
  refused([&](auto&) { return Keys{{"CHAP_N", "host"}, {"CHAP_R", "hello"}}; }, "not binary");
  refused(
      [&](auto& h) {
        return Keys{{"CHAP_N", "host"}, {"CHAP_R", response(h, kHost.secret).substr(0, 20)}};
      },
      "a shorter response");
  refused(
      [&](auto& h) {
        return Keys{{"CHAP_N", "target"}, {"CHAP_R", response(h, kTarget.secret)}};
      },
      "the target's own account");
}

TEST_F(ChapLogin, AResponseIsGoodForItsChallengeOnly) {
  RawInitiator& first = begin();
  std::string recorded = response(first, kHost.secret);
  EXPECT_EQ(finish(first, {{"CHAP_N", "host"}, {"CHAP_R", recorded}}), 0);
  RawInitiator& second = begin();
  EXPECT_NE(second.answers["CHAP_C"], first.answers["CHAP_C"]);
  EXPECT_EQ(finish(second, {{"CHAP_N", "host"}, {"CHAP_R", recorded}}), kRefused);
}

TEST_F(ChapLogin, OneTryPerConnection) {
  RawInitiator& host = begin();
  EXPECT_EQ(finish(host, {{"CHAP_N", "host"}, {"CHAP_R", response(host, "wrong secret here")}}), kRefused);
  EXPECT_EQ(
      host.login_step(0, 1, true, RawInitiator::text({{"CHAP_N", "host"}, {"CHAP_R", response(host, kHost.secret)}})),
      std::nullopt);
  EXPECT_FALSE(host.full_feature());
}

// The initiator sends the target's challenge back, hoping to be told the answer to it.
TEST_F(ChapLogin, ReflectionIsRefused) {
  serve(true);
  RawInitiator& host = begin();
  EXPECT_EQ(finish(host, {{"CHAP_N", "host"},
                          {"CHAP_R", response(host, kHost.secret)},
                          {"CHAP_I", host.answers["CHAP_I"]},
                          {"CHAP_C", host.answers["CHAP_C"]}}),
            kRefused);
  EXPECT_FALSE(host.answers.contains("CHAP_R"));
}

// Nor may a challenge be answered for somebody who has proved nothing.
TEST_F(ChapLogin, TheTargetProvesNothingToAStranger) {
  serve(true);
  RawInitiator& host = begin();
  EXPECT_EQ(finish(host, {{"CHAP_N", "host"},
                          {"CHAP_R", response(host, "wrong secret here")},
                          {"CHAP_I", "1"},
                          {"CHAP_C", "0x0102030405060708"}}),
            kRefused);
  EXPECT_FALSE(host.answers.contains("CHAP_R"));
}

TEST_F(ChapLogin, MutualWhereTheTargetHasNoSecret) {
  RawInitiator& host = begin();
  EXPECT_EQ(finish(host, {{"CHAP_N", "host"},
                          {"CHAP_R", response(host, kHost.secret)},
                          {"CHAP_I", "1"},
                          {"CHAP_C", "0x0102030405060708"}}),
            kRefused);
}

TEST_F(ChapLogin, CannotBeSkipped) {
  RawInitiator& straight = connect();
  EXPECT_EQ(straight.login(), kRefused);
  RawInitiator& none = connect();
  auto keys = RawInitiator::identity();
  keys.emplace_back("AuthMethod", "None");
  EXPECT_EQ(RawInitiator::status_of(none.login_step(0, 1, true, RawInitiator::text(keys))), kRefused);
  RawInitiator& silent = connect();
  EXPECT_EQ(RawInitiator::status_of(silent.login_step(0, 3, true, RawInitiator::text(RawInitiator::identity()))),
            kRefused);
  RawInitiator& leaps = connect();
  keys.back().second = "CHAP";
  EXPECT_EQ(RawInitiator::status_of(leaps.login_step(0, 1, true, RawInitiator::text(keys))), 0);
  EXPECT_EQ(RawInitiator::status_of(leaps.login_step(1, 3, true, "")), 0x020b) << "the stage was not left";
  RawInitiator& unknown = connect();
  EXPECT_EQ(RawInitiator::status_of(unknown.login_step(0, 1, false, RawInitiator::text(keys))), 0);
  EXPECT_EQ(RawInitiator::status_of(unknown.login_step(0, 1, false, RawInitiator::text({{"CHAP_A", "4"}}))), kRefused);
}

TEST(ChapConfig, BadSecretsAreRefusedUpFront) {
  testing::MemoryEnv env;
  testing::RecordingStore store(env);
  auto device = *MemoryDevice::create(env, 1 << 20, 512);
  auto target = Target::create(env, store);
  auto add = [&](std::optional<ChapCredentials> chap, std::optional<ChapCredentials> mutual) {
    TargetConfig config;
    config.iqn = "iqn.2026-11.io.holdfast:x";
    config.device = device.get();
    config.chap = std::move(chap);
    config.mutual_chap = std::move(mutual);
    return target->add_target(std::move(config));
  };
  EXPECT_FALSE(add(ChapCredentials{"host", "elevenbytes"}, {}).ok());
  EXPECT_FALSE(add(ChapCredentials{"", kHost.secret}, {}).ok());
  EXPECT_FALSE(add(ChapCredentials{"host", std::string(65, 'x')}, {}).ok());
  EXPECT_FALSE(add({}, kTarget).ok()) << "mutual without one-way";
  EXPECT_FALSE(add(kHost, ChapCredentials{"target", kHost.secret}).ok()) << "one secret for both directions";
  EXPECT_TRUE(add(kHost, kTarget).ok());
}

}  // namespace
}  // namespace holdfast::iscsi
