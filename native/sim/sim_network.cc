#include "sim/sim_network.h"

#include <algorithm>
#include <optional>

#include "sim/sim_env.h"

namespace holdfast::sim {

namespace {

std::string listener_key(const Address& address, const std::string& node) {
  return address.unix_path.empty() ? address.to_string() : node + "/unix:" + address.unix_path;
}

}  // namespace

std::vector<std::byte> ByteQueue::take(std::size_t length) {
  if (length == size() && head_ == 0) return std::exchange(bytes_, {});
  auto begin = bytes_.begin() + static_cast<std::ptrdiff_t>(head_);
  std::vector<std::byte> taken(begin, begin + static_cast<std::ptrdiff_t>(length));
  head_ += length;
  if (empty()) clear();
  if (head_ > bytes_.size() / 2) {
    bytes_.erase(bytes_.begin(), bytes_.begin() + static_cast<std::ptrdiff_t>(head_));
    head_ = 0;
  }
  return taken;
}

SimStream::SimStream(World& world, Process* process, std::shared_ptr<Connection> connection, int side)
    : world_(world), process_(process), connection_(std::move(connection)), side_(side) {
  connection_->ends[side] = this;
  connection_->processes[side] = process;
  world_.streams_.push_back(this);
}

SimStream::~SimStream() {
  *alive_ = false;
  std::erase(world_.streams_, this);
  connection_->ends[side_] = nullptr;
  // What was sent before still travels; then the peer sees the end.
  if (SimStream* other = peer(); other && !closed_) {
    other->end_later(world_.net_delay(node_of(side_), node_of(1 - side_)), Status());
  }
}

void SimStream::start(StreamHandler* handler) {
  CHECK(handler_ == nullptr, "a stream is started once");
  handler_ = handler;
  plan_delivery();
}

void SimStream::send(std::span<Slice> parts) {
  for (Slice& part : parts) {
    if (!closed_ && !shut_down_) {
      outgoing_.append(part.bytes());
      unsent_ += part.size();
    }
    part = Slice();
  }
  plan_transfer();
}

void SimStream::resume_receiving() {
  paused_ = false;
  plan_delivery();
}

void SimStream::shutdown() {
  if (shut_down_) return;
  shut_down_ = true;
  plan_transfer();
}

// Moves a random piece of what is queued onto the wire, as the kernel would.
void SimStream::plan_transfer() {
  if (transfer_planned_ || closed_ || (outgoing_.empty() && !shut_down_)) return;
  if (!world_.link_up(node_of(side_), node_of(1 - side_))) return;  // network_changed() comes
  SimStream* other = peer();
  if (!other) {
    if (!connection_->silent[1 - side_]) {
      end_later(world_.net_delay(node_of(side_), node_of(1 - side_)),
                Error(ErrorCode::kConnectionLost, peer_address().to_string() + ": connection reset"));
    }
    return;
  }
  if (other->incoming_.size() + other->on_the_way_ >= kSocketBuffer) return;  // the peer's deliver() plans again
  transfer_planned_ = true;
  world_.schedule(
      world_.now() + Nanos(world_.random().below(3'000)), process_,
      [this, alive = alive_] {
        if (!*alive) return;
        transfer_planned_ = false;
        transfer();
      },
      "transfer");
}

void SimStream::transfer() {
  SimStream* other = peer();
  if (closed_ || !other || !world_.link_up(node_of(side_), node_of(1 - side_))) {
    plan_transfer();
    return;
  }
  std::size_t window = kSocketBuffer - std::min(kSocketBuffer, other->incoming_.size() + other->on_the_way_);
  std::size_t length = std::min(outgoing_.size(), window);
  if (length > 1 && world_.random().chance(1, 4)) length = 1 + world_.random().below(length);
  std::vector<std::byte> bytes = outgoing_.take(length);
  unsent_ -= length;
  other->on_the_way_ += length;
  bool last = shut_down_ && outgoing_.empty();
  last_arrival_ = std::max(last_arrival_, world_.now() + world_.net_delay(node_of(side_), node_of(1 - side_)));
  auto* moved = new std::vector<std::byte>(std::move(bytes));
  world_.schedule(
      last_arrival_, other->process_,
      [other, alive = other->alive_, moved, last] {
        std::unique_ptr<std::vector<std::byte>> arrived(moved);
        if (!*alive) return;
        if (last) other->peer_finished_ = true;
        other->arrive(std::move(*arrived));
      },
      "arrive");
  if (last) {
    end_later(world_.delays().net_min, Status());
  } else if (!outgoing_.empty()) {
    plan_transfer();
  }
  if (unsent_ == 0 && length > 0 && handler_ && !closed_) handler_->on_drained();
}

void SimStream::arrive(std::vector<std::byte> bytes) {
  on_the_way_ -= bytes.size();
  incoming_.append(std::move(bytes));
  plan_delivery();
}

void SimStream::plan_delivery() {
  if (delivery_planned_ || paused_ || !handler_ || closed_) return;
  if (incoming_.empty() && !peer_finished_) return;
  delivery_planned_ = true;
  world_.schedule(
      world_.now() + Nanos(world_.random().below(2'000)), process_,
      [this, alive = alive_] {
        if (!*alive) return;
        delivery_planned_ = false;
        deliver();
      },
      "deliver");
}

void SimStream::deliver() {
  if (paused_ || closed_) return;
  std::shared_ptr<bool> alive = alive_;
  if (!incoming_.empty()) {
    std::size_t length = incoming_.size();
    if (length > 1 && world_.random().chance(1, 4)) length = 1 + world_.random().below(length);
    Slice place = handler_->wanted();
    if (!place.empty()) length = std::min(length, place.size());
    std::vector<std::byte> bytes = incoming_.take(length);
    if (SimStream* other = peer()) other->plan_transfer();
    if (place.empty()) {
      handler_->on_data(bytes);
    } else {
      std::copy(bytes.begin(), bytes.end(), place.data());
      handler_->on_data(place.bytes().first(length));
    }
    if (!*alive) return;
    plan_delivery();
  } else if (peer_finished_) {
    ended(Status());
  }
}

void SimStream::end_later(Nanos delay, Status reason) {
  auto* kept = new Status(std::move(reason));
  world_.schedule(
      std::max(world_.now() + delay, last_arrival_), process_,
      [this, alive = alive_, kept] {
        std::unique_ptr<Status> why(kept);
        if (!*alive || closed_) return;
        if (why->ok() && (on_the_way_ > 0 || !incoming_.empty())) {
          peer_finished_ = true;  // deliver what arrived first
          plan_delivery();
        } else {
          ended(std::move(*why));
        }
      },
      "end");
}

void SimStream::ended(Status reason) {
  if (closed_) return;
  closed_ = true;
  outgoing_.clear();
  unsent_ = 0;
  if (handler_) handler_->on_closed(std::move(reason));
}

void SimStream::process_died(bool silent) {
  *alive_ = false;
  connection_->ends[side_] = nullptr;
  connection_->silent[side_] = silent;
  SimStream* other = peer();
  if (!other || silent || !world_.link_up(node_of(side_), node_of(1 - side_))) return;
  other->end_later(world_.net_delay(node_of(side_), node_of(1 - side_)),
                   Error(ErrorCode::kConnectionLost, "connection reset: the process at the other end is gone"));
}

void SimStream::reset_connection() {
  world_.trace("reset connection " + local_address().to_string() + " - " + peer_address().to_string());
  Status reason = Error(ErrorCode::kConnectionLost, "connection reset");
  if (SimStream* other = peer()) other->end_later(Nanos(0), reason);
  end_later(Nanos(0), reason);
}

SimListener::SimListener(World& world, Process* process, Address address, AcceptCallback on_stream)
    : world_(world), process_(process), address_(std::move(address)), on_stream_(std::move(on_stream)) {
  world_.listeners_[listener_key(address_, process_->node)] = this;
}

SimListener::~SimListener() {
  auto found = world_.listeners_.find(listener_key(address_, process_->node));
  if (found != world_.listeners_.end() && found->second == this) world_.listeners_.erase(found);
}

Result<std::unique_ptr<Listener>> SimEnv::listen(const Address& address, AcceptCallback on_stream) {
  Address actual = address;
  if (actual.unix_path.empty() && actual.port == 0) actual.port = static_cast<std::uint16_t>(world_.next_port_++);
  if (world_.listeners_.contains(listener_key(actual, process_->node))) {
    return Error(ErrorCode::kInUse, actual.to_string() + ": another process listens there");
  }
  return std::unique_ptr<Listener>(new SimListener(world_, process_, actual, std::move(on_stream)));
}

void SimEnv::connect(const Address& address, Nanos timeout, ConnectCallback done) {
  struct Pending {
    Address address;
    Nanos deadline;
    ConnectCallback done;
  };
  auto* pending = new Pending{address, world_.now() + timeout, std::move(done)};
  const std::string& node = address.unix_path.empty() ? address.host : process_->node;
  Nanos arrival = world_.now() + world_.net_delay(process_->node, node) + world_.net_delay(node, process_->node);
  // A peer that cannot be reached is noticed at the deadline; a port that nobody listens on at once.
  bool reachable = world_.link_up(process_->node, node) && world_.link_up(node, process_->node);
  world_.schedule(
      reachable ? std::min(arrival, pending->deadline) : pending->deadline, process_,
      [this, pending] {
        std::unique_ptr<Pending> request(pending);
        const Address& to = request->address;
        const std::string& peer_node = to.unix_path.empty() ? to.host : process_->node;
        auto found = world_.listeners_.find(listener_key(to, process_->node));
        bool up = world_.link_up(process_->node, peer_node) && world_.link_up(peer_node, process_->node);
        if (!up || world_.now() >= request->deadline) {
          request->done(Error(ErrorCode::kTimedOut, to.to_string() + ": no answer to the connection attempt"));
          return;
        }
        if (found == world_.listeners_.end()) {
          request->done(Error(ErrorCode::kConnectionLost, to.to_string() + ": connection refused"));
          return;
        }
        auto connection = std::make_shared<Connection>();
        Process* server = found->second->process();
        connection->processes[0] = process_;
        connection->processes[1] = server;
        connection->addresses[0] = Address{process_->node, static_cast<std::uint16_t>(world_.next_port_++), {}};
        connection->addresses[1] = to;
        auto near = std::make_unique<SimStream>(world_, process_, connection, 0);
        auto* far = new SimStream(world_, server, connection, 1);
        std::string key = listener_key(to, process_->node);
        world_.schedule(
            world_.now(), server,
            [this, far, key] {
              std::unique_ptr<Stream> stream(far);
              auto listener = world_.listeners_.find(key);
              if (listener != world_.listeners_.end()) listener->second->accept(std::move(stream));
            },
            "accept");
        request->done(std::unique_ptr<Stream>(std::move(near)));
      },
      "connect");
}

}  // namespace holdfast::sim
