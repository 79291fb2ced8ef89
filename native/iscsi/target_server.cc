#include "iscsi/target_server.h"

#include <algorithm>
#include <utility>

#include "base/log.h"

namespace holdfast::iscsi {

std::unique_ptr<Target> Target::create(Env& env, ReservationStore& reservations, std::uint64_t bytes_max) {
  return std::make_unique<TargetServer>(env, reservations, bytes_max);
}

TargetServer::~TargetServer() {
  alive_.reset();
  listeners_.clear();
  // Out of the list first: the end of a session looks through it.
  auto ending = std::move(connections_);
  connections_.clear();
}

// ---- portals and connections ----

Result<Address> TargetServer::listen(const Address& portal) {
  ASSIGN_OR_RETURN(auto listener,
                   env_.listen(portal, [this](std::unique_ptr<Stream> stream) { accept(std::move(stream)); }));
  Address bound = listener->address();
  portals_.push_back(bound);
  listeners_.push_back(std::move(listener));
  return bound;
}

// Anybody can connect and say nothing, keep a discovery session, or not let go of a refused login. When there are too
// many of those, the oldest goes: a host that logs in at once, as hosts do, gets through a flood of them.
void TargetServer::accept(std::unique_ptr<Stream> stream) {
  auto is_stranger = [](auto& each) { return each->without_unit(); };
  if (std::count_if(connections_.begin(), connections_.end(), is_stranger) >= std::ptrdiff_t{kStrangersMax}) {
    auto oldest = std::find_if(connections_.begin(), connections_.end(), is_stranger);
    log_info("iscsi", "dropping the connection of " + (*oldest)->peer() + ": too many have no volume");
    std::unique_ptr<Connection> ending = std::move(*oldest);
    connections_.erase(oldest);
  }
  connections_.push_back(std::make_unique<Connection>(*this, std::move(stream)));
  connections_.back()->start();
}

void TargetServer::discard(Connection* connection) {
  env_.post([this, alive = alive(), id = connection->id()] {
    if (alive.expired()) return;
    auto found = std::find_if(connections_.begin(), connections_.end(), [&](auto& each) { return each->id() == id; });
    if (found == connections_.end()) return;
    // Out of the list first: the end of a session looks through it.
    std::unique_ptr<Connection> ending = std::move(*found);
    connections_.erase(found);
  });
}

Session* TargetServer::find_session(std::uint64_t id) const {
  if (id == 0) return nullptr;
  for (auto& each : connections_) {
    if (each->session() && each->session()->id() == id) return each->session();
  }
  return nullptr;
}

void TargetServer::reinstate(const Login& login, const Unit* unit) {
  if (!unit) return;
  for (auto& each : connections_) {
    Session* session = each->session();
    bool same = session && session->unit() == unit && session->isid() == login.isid() &&
                session->initiator() == login.initiator();
    if (!same) continue;
    each->close(Connection::Close::kNow, "the initiator logged in again");
    each->end_session();
  }
}

bool TargetServer::has_room_for_session() const {
  auto sessions =
      std::count_if(connections_.begin(), connections_.end(), [](auto& each) { return !each->without_unit(); });
  return sessions < std::ptrdiff_t{kSessionsMax};
}

void TargetServer::drop_sessions(const Unit* unit, Connection::Close how, std::string_view why) {
  for (auto& each : connections_) {
    if (each->session() && each->session()->unit() == unit) each->close(how, why);
  }
}

// ---- targets ----

Status TargetServer::add_target(TargetConfig config) {
  if (!valid_iscsi_name(config.iqn)) {
    return Error(ErrorCode::kInvalidArgument, "'" + config.iqn + "' is not an iSCSI name; use iqn.YYYY-MM.DOMAIN:NAME");
  }
  if (find_unit(config.iqn)) return Error(ErrorCode::kAlreadyExists, "target " + config.iqn + " is exported already");
  if (config.mutual_chap && !config.chap) {
    return Error(ErrorCode::kInvalidArgument, "target " + config.iqn + " has mutual CHAP without one-way CHAP");
  }
  for (const auto* credentials :
       {config.chap ? &*config.chap : nullptr, config.mutual_chap ? &*config.mutual_chap : nullptr}) {
    if (credentials &&
        (credentials->user.empty() || credentials->secret.size() < 12 || credentials->secret.size() > 64)) {
      return Error(ErrorCode::kInvalidArgument,
                   "the CHAP credentials of " + config.iqn + " need a user and a secret of 12 to 64 bytes");
    }
  }
  if (config.chap && config.mutual_chap && config.chap->secret == config.mutual_chap->secret) {
    return Error(ErrorCode::kInvalidArgument, "the CHAP secrets of both directions of " + config.iqn + " must differ");
  }
  CHECK(config.device != nullptr);
  ASSIGN_OR_RETURN(scsi::Reservations restored, scsi::Reservations::restore(config.reservations));
  auto unit = std::make_unique<Unit>(env_);
  scsi::Identity identity{config.iqn, config.serial, config.naa_id};
  auto save = [this, iqn = config.iqn](std::string text, StatusCallback done) {
    reservations_.save(iqn, std::move(text), std::move(done));
  };
  unit->unit =
      std::make_unique<scsi::LogicalUnit>(env_, *config.device, std::move(identity), std::move(restored), save);
  unit->config = std::move(config);
  units_.push_back(std::move(unit));
  return {};
}

Unit* TargetServer::find_unit(std::string_view iqn) const {
  for (auto& each : units_) {
    if (each->config.iqn == iqn) return each.get();
  }
  return nullptr;
}

bool TargetServer::has_sessions(const Unit* unit) const {
  return std::any_of(connections_.begin(), connections_.end(),
                     [&](auto& each) { return each->session() && each->session()->unit() == unit; });
}

void TargetServer::remove_target(const std::string& iqn, Callback<void()> done) {
  Unit* unit = find_unit(iqn);
  if (!unit || unit->removing) {
    env_.post(std::move(done));
    return;
  }
  unit->removing = true;
  unit->removed = std::move(done);
  for (auto& each : connections_) {
    if (each->session() && each->session()->unit() == unit) {
      each->session()->request_logout(static_cast<std::uint16_t>(kLogoutGrace / 1s));
    }
  }
  if (!has_sessions(unit)) return finish_removal(unit);
  unit->grace.arm_after(kLogoutGrace,
                        [this, unit] { drop_sessions(unit, Connection::Close::kNow, "the target is being removed"); });
}

void TargetServer::session_ended(Unit* unit) {
  if (unit->removing && !has_sessions(unit)) finish_removal(unit);
}

void TargetServer::finish_removal(Unit* unit) {
  unit->grace.cancel();
  unit->unit->when_idle([this, unit] {
    Callback<void()> removed = std::move(unit->removed);
    std::erase_if(units_, [&](auto& each) { return each.get() == unit; });
    removed();
  });
}

void TargetServer::set_redirects(std::vector<std::pair<std::string, Address>> iqn_and_portal) {
  redirects_ = std::move(iqn_and_portal);
}

void TargetServer::set_expected(std::vector<std::string> iqns) {
  expected_ = std::unordered_set<std::string>(iqns.begin(), iqns.end());
  expects_any_ = false;
}

std::vector<SessionInfo> TargetServer::sessions() const {
  std::vector<SessionInfo> infos;
  for (auto& each : connections_) {
    Session* session = each->session();
    if (!session || !session->unit()) continue;
    infos.push_back({session->unit()->config.iqn, session->initiator(), each->peer(), session->commands()});
  }
  return infos;
}

// ---- login ----

const TargetConfig* TargetServer::find_target(std::string_view iqn) const {
  Unit* unit = find_unit(iqn);
  return unit && !unit->removing ? &unit->config : nullptr;
}

const Address* TargetServer::find_redirect(std::string_view iqn) const {
  for (const auto& [name, portal] : redirects_) {
    if (name == iqn) return &portal;
  }
  return nullptr;
}

bool TargetServer::is_expected(std::string_view iqn) const {
  return expects_any_ || expected_.contains(std::string(iqn));
}

std::vector<ChapAccount> TargetServer::discovery_accounts() const {
  std::vector<ChapAccount> accounts;
  for (auto& each : units_) {
    if (each->config.chap) accounts.push_back({*each->config.chap, each->config.mutual_chap});
  }
  return accounts;
}

bool TargetServer::session_exists(std::uint16_t tsih) const {
  return std::any_of(connections_.begin(), connections_.end(),
                     [&](auto& each) { return each->session() && each->session()->tsih() == tsih; });
}

std::uint16_t TargetServer::make_tsih() {
  do {
    ++last_tsih_;
  } while (last_tsih_ == 0 || session_exists(last_tsih_));
  return last_tsih_;
}

std::vector<std::string> TargetServer::targets_for(std::string_view initiator) const {
  std::vector<std::string> names;
  for (auto& each : units_) {
    const auto& allowed = each->config.initiator_allow_list;
    bool admitted = allowed.empty() || std::find(allowed.begin(), allowed.end(), initiator) != allowed.end();
    if (admitted && !each->removing) names.push_back(each->config.iqn);
  }
  return names;
}

// ---- tasks and memory ----

void TargetServer::command_done(scsi::Command& command) {
  auto& task = static_cast<Task&>(command);
  task.in_unit = false;
  if (task.session) return task.session->task_done(task);
  std::uint64_t bytes = task.charged_bytes;
  tasks_.give_back(&task);
  memory_returned(bytes);
}

void TargetServer::memory_returned(std::uint64_t bytes) {
  memory_used_ -= bytes;
  if (!memory_wanted_ || bytes == 0) return;
  memory_wanted_ = false;
  env_.post([this, alive = alive()] {
    if (alive.expired()) return;
    for (auto& each : connections_) {
      if (each->session() && !each->closed()) each->session()->resume_waiting();
    }
  });
}

}  // namespace holdfast::iscsi
