// TargetServer: the Target of this process: portals, connections, exported units, and what they share (the task pool,
// the memory budget). Thread: the reactor of its Env.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "iscsi/connection.h"
#include "iscsi/login.h"
#include "iscsi/scsi/logical_unit.h"
#include "iscsi/session.h"
#include "iscsi/target.h"
#include "iscsi/task.h"

namespace holdfast::iscsi {

inline constexpr std::size_t kSessionsMax = 4'096;  // of all volumes together
inline constexpr std::size_t kStrangersMax = 256;   // connections without a volume: logins, discovery, ends
inline constexpr Nanos kLogoutGrace = 1s;           // between the request to log out and the end of the connection

// One exported volume.
struct Unit {
  explicit Unit(Env& env) : grace(env) {}
  TargetConfig config;
  std::unique_ptr<scsi::LogicalUnit> unit;
  bool removing = false;
  Callback<void()> removed;
  Timer grace;
};

class TargetServer final : public Target, public LoginDirectory, public scsi::CommandOwner {
 public:
  TargetServer(Env& env, ReservationStore& reservations, std::uint64_t bytes_max)
      : env_(env), reservations_(reservations), bytes_max_(bytes_max) {}
  ~TargetServer() override;

  Result<Address> listen(const Address& portal) override;
  Status add_target(TargetConfig config) override;
  void remove_target(const std::string& iqn, Callback<void()> done) override;
  void set_redirects(std::vector<std::pair<std::string, Address>> iqn_and_portal) override;
  void expect_targets() override { expects_any_ = true; }
  void set_expected(std::vector<std::string> iqns) override;
  std::vector<SessionInfo> sessions() const override;

  // LoginDirectory
  const TargetConfig* find_target(std::string_view iqn) const override;
  const Address* find_redirect(std::string_view iqn) const override;
  bool is_expected(std::string_view iqn) const override;
  std::vector<ChapAccount> discovery_accounts() const override;
  bool session_exists(std::uint16_t tsih) const override;
  std::uint16_t make_tsih() override;

  // CommandOwner: of every task, also of those whose session has ended.
  void command_done(scsi::Command& command) override;

  Env& env() { return env_; }
  TaskPool& tasks() { return tasks_; }
  Unit* find_unit(std::string_view iqn) const;
  Session* find_session(std::uint64_t id) const;
  // Ends an older session of the same initiator port with the same target (RFC 7143 section 6.3.5).
  void reinstate(const Login& login, const Unit* unit);
  bool has_room_for_session() const;
  void drop_sessions(const Unit* unit, Connection::Close how, std::string_view why);
  std::uint64_t make_session_id() { return ++last_session_id_; }
  std::uint64_t make_connection_id() { return ++last_connection_id_; }
  std::vector<std::string> targets_for(std::string_view initiator) const;
  const std::vector<Address>& portals() const { return portals_; }

  // Expires with this object: for work posted to a later turn.
  std::weak_ptr<bool> alive() const { return alive_; }
  // Frees the connection in a later turn.
  void discard(Connection* connection);
  void session_ended(Unit* unit);

  // Memory. What can wait (reads, solicited data) gets three quarters of it; the rest is for data that comes unasked.
  bool memory_allows(std::uint64_t bytes) const { return memory_used_ + unsent_ + bytes <= bytes_max_ / 4 * 3; }
  bool memory_allows_unasked(std::uint64_t bytes) const { return memory_used_ + unsent_ + bytes <= bytes_max_; }
  bool memory_scarce() const { return !memory_allows(0); }
  void unsent_changed(std::uint64_t from, std::uint64_t to) { unsent_ = unsent_ - from + to; }
  void memory_taken(std::uint64_t bytes) { memory_used_ += bytes; }
  void memory_returned(std::uint64_t bytes);
  void memory_wanted() { memory_wanted_ = true; }

 private:
  void accept(std::unique_ptr<Stream> stream);
  void finish_removal(Unit* unit);
  bool has_sessions(const Unit* unit) const;

  Env& env_;
  ReservationStore& reservations_;
  const std::uint64_t bytes_max_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::vector<Address> portals_;
  std::vector<std::unique_ptr<Unit>> units_;
  std::vector<std::pair<std::string, Address>> redirects_;
  std::unordered_set<std::string> expected_;
  bool expects_any_ = false;
  std::vector<std::unique_ptr<Connection>> connections_;
  std::uint64_t last_session_id_ = 0;
  std::uint64_t last_connection_id_ = 0;
  std::uint16_t last_tsih_ = 0;
  std::uint64_t memory_used_ = 0;  // by commands, and by requests before their turn
  std::uint64_t unsent_ = 0;       // in answers that were not taken yet
  bool memory_wanted_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  TaskPool tasks_;
};

}  // namespace holdfast::iscsi
