// The iSCSI front-end of a target process: one or more portals, one target per volume, LUN 0.
// RFC 7143; the SCSI side is native/iscsi/scsi and knows nothing of iSCSI. Thread: the reactor of its Env.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/block_device.h"
#include "base/result.h"
#include "io/env.h"

namespace holdfast::iscsi {

struct ChapCredentials {
  std::string user;
  std::string secret;  // 12 to 64 bytes
};

struct TargetConfig {
  std::string iqn;  // "iqn.2026-11.io.holdfast:NAME"
  std::string alias;
  std::string serial;                             // VPD 80h: 16 hex digits of the volume id
  std::uint64_t naa_id = 0;                       // VPD 83h: NAA 6 identifier is made of this and the company prefix
  BlockDevice* device = nullptr;                  // must outlive remove_target()'s callback
  std::optional<ChapCredentials> chap;            // the initiator proves this
  std::optional<ChapCredentials> mutual_chap;     // the target proves this
  std::vector<std::string> initiator_allow_list;  // initiator names; empty: all
  std::string reservations;  // persistent reservation state as last given to ReservationStore; empty: none
};

// Keeps persistent reservations across restarts and nodes: PERSISTENT RESERVE OUT is answered after `done`.
class ReservationStore {
 public:
  virtual ~ReservationStore() = default;
  virtual void save(const std::string& iqn, std::string reservations, StatusCallback done) = 0;
};

struct SessionInfo {
  std::string iqn;
  std::string initiator;
  std::string peer_address;
  std::uint64_t commands = 0;
};

// Data of commands and answers that a target process holds, all sessions together.
inline constexpr std::uint64_t kTargetBytesMax = 512u << 20;

class Target {
 public:
  static std::unique_ptr<Target> create(Env& env, ReservationStore& reservations,
                                        std::uint64_t bytes_max = kTargetBytesMax);
  virtual ~Target() = default;

  // May be called for several portals. The portal's address is what discovery answers.
  virtual Result<Address> listen(const Address& portal) = 0;
  virtual Status add_target(TargetConfig config) = 0;
  // Ends its sessions (async logout, then close), lets commands in flight end; the device is not touched after `done`.
  virtual void remove_target(const std::string& iqn, Callback<void()> done) = 0;
  // Login to an iqn listed here is answered with a temporary redirect to that portal. Replaces the earlier table.
  virtual void set_redirects(std::vector<std::pair<std::string, Address>> iqn_and_portal) = 0;
  // Targets that will be served here: a login to one that is not yet, and to any before the first call after
  // expect_targets(), is answered with "service unavailable", upon which initiators try again. "Not found" makes some
  // give up.
  virtual void expect_targets() = 0;
  virtual void set_expected(std::vector<std::string> iqns) = 0;
  virtual std::vector<SessionInfo> sessions() const = 0;
};

}  // namespace holdfast::iscsi
