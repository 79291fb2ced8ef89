// rpc_echo: a server and a client of holdfast.test.Echo, to try native/rpc against other gRPC implementations
// (test/rpc-interop.test.ts).
//
//   rpc_echo server ADDRESS          prints {"address":"..."}; a line "drain" on standard input drains and exits, the
//                                    end of standard input exits at once
//   rpc_echo client ADDRESS CASE     runs one case, prints {"case":...,"outcome":...}; exit code 0 when it went as it
//   should
//
// With HOLDFAST_ECHO_TLS=FOLDER both speak TLS, on loopback too: FOLDER/ca.pem, certificate.pem, key.pem.
#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "io/uring_env.h"
#include "rpc/rpc.h"

namespace holdfast::rpc {
namespace {

constexpr std::string_view kService = "/holdfast.test.Echo/";
std::string path_of(std::string_view method) { return std::string(kService) + std::string(method); }

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

tls::Options tls_options() {
  const char* folder = std::getenv("HOLDFAST_ECHO_TLS");
  if (folder == nullptr) return {};
  std::string in = std::string(folder) + "/";
  auto identity =
      tls::Identity::create({text_of(in + "ca.pem"), text_of(in + "certificate.pem"), text_of(in + "key.pem")});
  CHECK(identity.ok(), identity.ok() ? "" : identity.error().message().c_str());
  return {std::move(*identity), true};
}

ServerOptions server_options() {
  ServerOptions options;
  options.tls = tls_options();
  return options;
}

ChannelOptions channel_options() {
  ChannelOptions options;
  options.tls = tls_options();
  return options;
}

// The messages of the test service have one field: bytes body = 1.
std::string encode_body(std::string_view body) {
  if (body.empty()) return "";
  std::string bytes = "\x0a";
  std::size_t size = body.size();
  for (; size >= 128; size >>= 7) bytes += static_cast<char>(size | 128);
  return bytes + static_cast<char>(size) + std::string(body);
}
// Finds the field; other fields of wire type 0 and 2 are skipped.
std::string decode_body(std::string_view bytes) {
  std::string body;
  auto varint = [&bytes] {
    std::uint64_t value = 0;
    for (int shift = 0; !bytes.empty() && shift < 64; shift += 7) {
      auto byte = static_cast<unsigned char>(bytes[0]);
      bytes.remove_prefix(1);
      value |= std::uint64_t{byte & 127u} << shift;
      if (byte < 128) break;
    }
    return value;
  };
  while (!bytes.empty()) {
    std::uint64_t tag = varint();
    std::uint64_t value = varint();
    if ((tag & 7) != 2) continue;
    std::size_t size = std::min<std::uint64_t>(value, bytes.size());
    if (tag >> 3 == 1) body = bytes.substr(0, size);
    bytes.remove_prefix(size);
  }
  return body;
}

std::string hex(std::string_view bytes) {
  std::string text;
  for (unsigned char byte : bytes) {
    char digits[3];
    std::snprintf(digits, sizeof digits, "%02x", byte);
    text += digits;
  }
  return text;
}

void print_line(const std::string& line) {
  std::fputs((line + "\n").c_str(), stdout);
  std::fflush(stdout);
}

Slice encoded(Env& env, std::string_view body) { return env.buffers().copy_of(as_bytes(encode_body(body))); }
void send_body(Env& env, Call& call, std::string_view body) {
  Slice part = encoded(env, body);
  call.send({&part, 1});
}

// ---- server ----

// One streaming call; owns itself. What it does with messages is the method's.
struct EchoCall final : CallHandler {
  enum class Method { kCollect, kRepeat, kChat, kSlow, kHang };
  Env& env;
  Method method;
  std::unique_ptr<ServerCall> call;
  std::size_t received = 0;
  std::string last;
  std::unique_ptr<Timer> timer;

  EchoCall(Env& of, Method what, std::unique_ptr<ServerCall> given) : env(of), method(what), call(std::move(given)) {}

  void finish(Status status) {
    call->finish(std::move(status));
    delete this;
  }
  void on_message(Message message) override {
    last = decode_body(message.text());
    received += last.size();
    if (method == Method::kChat && last == "fail") {
      return finish(Error(ErrorCode::kLogGap, "asked to fail: 100% \xe2\x82\xac"));
    }
    if (method == Method::kChat) send_body(env, *call, last);
    if (method == Method::kSlow) {  // one message every 10 ms
      call->pause_receiving();
      if (!timer) timer = std::make_unique<Timer>(env);
      timer->arm_after(10ms, [this] { call->resume_receiving(); });
    }
  }
  void on_peer_finished() override {
    if (method == Method::kHang) return;
    if (method == Method::kCollect || method == Method::kSlow) send_body(env, *call, std::to_string(received));
    if (method == Method::kRepeat) {
      for (int i = 0; i < 10; ++i) send_body(env, *call, last);
    }
    finish(Status());
  }
  void on_ended(Status status) override {
    print_line(R"({"ended":")" + std::string(error_code_name(status.error().code())) + "\"}");
    delete this;
  }
};

void add_methods(Env& env, Server& server) {
  using enum EchoCall::Method;
  for (auto [name, method] : {std::pair{"Collect", kCollect}, std::pair{"Repeat", kRepeat}, std::pair{"Chat", kChat},
                              std::pair{"Slow", kSlow}, std::pair{"Hang", kHang}}) {
    server.add_stream_method(path_of(name), [&env, method](std::unique_ptr<ServerCall> call, CallHandler** handler) {
      *handler = new EchoCall(env, method, std::move(call));
    });
  }
  server.add_unary_method(path_of("Say"), [](Message request, const Metadata&, Callback<void(Result<Slice>)> respond) {
    respond(std::move(request));
  });
  // Answers with the metadata it got: one "key=hex" a line.
  server.add_unary_method(path_of("Metadata"),
                          [&env](Message, const Metadata& metadata, Callback<void(Result<Slice>)> respond) {
                            std::string lines;
                            for (const auto& [key, value] : metadata) lines += key + "=" + hex(value) + "\n";
                            respond(encoded(env, lines));
                          });
  // Fails with the code that the body names.
  server.add_unary_method(path_of("Fail"), [](Message request, const Metadata&, Callback<void(Result<Slice>)> respond) {
    std::string wanted = decode_body(request.text());
    for (const ErrorCodeRow& row : kErrorCodes) {
      if (row.name == wanted) return respond(Error(row.code, "because you asked: \xc3\xa4%"));
    }
    respond(Error(ErrorCode::kInvalidArgument, "no such code"));
  });
}

int run_server(const Address& address) {
  auto reactor = Reactor::create();
  if (!reactor.ok()) {
    std::fprintf(stderr, "%s\n", reactor.error().to_string().c_str());
    return 1;
  }
  Reactor* loop = reactor->get();
  auto server = Server::create(loop->env(), server_options());
  add_methods(loop->env(), *server);
  Result<Address> bound = server->listen(address);
  if (!bound.ok()) {
    std::fprintf(stderr, "%s\n", bound.error().to_string().c_str());
    return 1;
  }
  print_line(R"({"address":")" + bound->to_string() + "\"}");
  std::thread input([loop, &server] {
    char line[64];
    while (std::fgets(line, sizeof line, stdin) != nullptr) {
      if (std::string_view(line) != "drain\n") continue;
      loop->post_from_any_thread([loop, &server] {
        server->drain([loop] {
          print_line(R"({"drained":true})");
          loop->stop();
        });
      });
    }
    loop->stop();
  });
  loop->run();
  std::fflush(stdout);
  // The thread may still wait for input; nothing is left to clean up that the end of the process does not.
  _exit(0);
}

// ---- client ----

struct Client : CallHandler {
  Reactor& reactor;
  Env& env;
  std::unique_ptr<Channel> channel;
  std::unique_ptr<ClientCall> call;
  std::vector<std::string> messages;
  std::optional<Status> status;
  std::function<void()> when_message;

  Client(Reactor& on, const Address& address)
      : reactor(on), env(on.env()), channel(Channel::create(env, address, channel_options())) {}

  void on_message(Message message) override {
    messages.push_back(decode_body(message.text()));
    if (when_message) when_message();
  }
  void on_ended(Status ended) override { status = std::move(ended); }

  void start(std::string_view method, Metadata metadata = {}, std::optional<Nanos> deadline = 20s) {
    call = channel->start(path_of(method), std::move(metadata), deadline, this);
  }
  void send(std::string_view body) { send_body(env, *call, body); }
  std::string wait() {
    while (!status) reactor.turn(100ms);
    return status->ok() ? "OK" : std::string(error_code_name(status->error().code()));
  }
  // One message there, all messages and the status back.
  std::string ask(std::string_view method, std::string_view body, Metadata metadata = {},
                  std::optional<Nanos> deadline = 20s) {
    start(method, std::move(metadata), deadline);
    send(body);
    call->finish_sending();
    return wait();
  }
};

bool many_streams(Client& client) {
  struct One : CallHandler {
    std::unique_ptr<ClientCall> call;
    std::string got;
    bool ended_well = false;
    void on_message(Message message) override { got += decode_body(message.text()); }
    void on_ended(Status status) override { ended_well = status.ok(); }
  };
  std::vector<One> all(100);
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i].call = client.channel->start(path_of("Chat"), {}, 20s, &all[i]);
    for (int part = 0; part < 10; ++part) send_body(client.env, *all[i].call, std::string(5'000 + i, 'a' + part));
    all[i].call->finish_sending();
  }
  std::size_t good = 0;
  for (int turns = 0; good < all.size() && turns < 20'000; ++turns) {
    client.reactor.turn(10ms);
    good = 0;
    for (std::size_t i = 0; i < all.size(); ++i) good += all[i].ended_well && all[i].got.size() == 10 * (5'000 + i);
  }
  return good == all.size();
}

// Sends 40 MiB to a reader that is slow; the sender's queue must wait for it and everything must arrive.
bool slow_reader(Client& client) {
  client.start("Slow");
  std::string body(1 << 20, 's');
  for (int i = 0; i < 40; ++i) client.send(body);
  client.call->finish_sending();
  bool waited = false;
  while (!client.status) {
    client.reactor.turn(1ms);
    waited = waited || client.call->unsent_bytes() > 20u << 20;
  }
  return waited && client.status->ok() && client.messages.at(0) == std::to_string(40 << 20);
}

// A case says whether it went as it should; `outcome` is for people and for the test.
struct Case {
  std::string_view name;
  bool (*run)(Client& client, std::string& outcome);
};

const Case kCases[] = {
    {"unary",
     [](Client& client, std::string& outcome) {
       outcome = client.ask("Say", "hello");
       return outcome == "OK" && client.messages == std::vector<std::string>{"hello"};
     }},
    {"empty",
     [](Client& client, std::string& outcome) {
       outcome = client.ask("Say", "");
       return outcome == "OK" && client.messages == std::vector<std::string>{""};
     }},
    {"big",
     [](Client& client, std::string& outcome) {
       std::string big((4 << 20) - 16, 'B');
       outcome = client.ask("Say", big);
       return outcome == "OK" && client.messages.at(0) == big;
     }},
    {"client-stream",
     [](Client& client, std::string& outcome) {
       client.start("Collect");
       for (int i = 0; i < 100; ++i) client.send(std::string(1'000, 'c'));
       client.call->finish_sending();
       outcome = client.wait();
       return outcome == "OK" && client.messages.at(0) == "100000";
     }},
    {"server-stream",
     [](Client& client, std::string& outcome) {
       outcome = client.ask("Repeat", "again");
       return outcome == "OK" && client.messages == std::vector<std::string>(10, "again");
     }},
    {"bidi",
     [](Client& client, std::string& outcome) {
       int rounds = 0;
       client.start("Chat");
       client.when_message = [&] {
         if (++rounds < 50) client.send(std::to_string(rounds));
         if (rounds == 50) client.call->finish_sending();
       };
       client.send("0");
       outcome = client.wait();
       return outcome == "OK" && client.messages.size() == 50 && client.messages[49] == "49";
     }},
    {"metadata",
     [](Client& client, std::string& outcome) {
       std::string binary("\0\x01\xff,=", 5);
       outcome = client.ask("Metadata", "", {{"plain", "value"}, {"raw-bin", binary}});
       const std::string& lines = client.messages.at(0);
       return outcome == "OK" && lines.find("plain=" + hex("value") + "\n") != std::string::npos &&
              lines.find("raw-bin=" + hex(binary) + "\n") != std::string::npos;
     }},
    {"error",
     [](Client& client, std::string& outcome) {
       outcome = client.ask("Fail", "EPOCH_SUPERSEDED");
       return outcome == "EPOCH_SUPERSEDED" && client.status->error().message() == "because you asked: \xc3\xa4%";
     }},
    {"foreign-error",
     [](Client& client, std::string& outcome) {
       outcome = client.ask("Fail", "foreign");
       return outcome == "NOT_FOUND";
     }},
    {"unknown-method",
     [](Client& client, std::string& outcome) {
       outcome = client.ask("Nothing", "x");
       return outcome == "UNIMPLEMENTED";
     }},
    {"deadline",
     [](Client& client, std::string& outcome) {
       outcome = client.ask("Hang", "x", {}, 200ms);
       return outcome == "TIMED_OUT";
     }},
    {"cancel",
     [](Client& client, std::string& outcome) {
       client.start("Chat");
       client.send("x");
       while (client.messages.empty()) client.reactor.turn(100ms);
       client.call.reset();
       for (int i = 0; i < 5; ++i) client.reactor.turn(20ms);
       outcome = client.status ? "told" : "silent";
       return outcome == "silent";
     }},
    {"slow-reader", [](Client& client, std::string& outcome) { return slow_reader(client); }},
    {"many-streams", [](Client& client, std::string& outcome) { return many_streams(client); }},
    // Until the server ends the call or the connection.
    {"wait",
     [](Client& client, std::string& outcome) {
       client.start("Chat", {}, std::nullopt);
       client.when_message = [] { print_line(R"({"open":true})"); };
       client.send("x");
       outcome = client.wait();
       return true;
     }},
};

bool run_case(Client& client, std::string_view name, std::string& outcome) {
  for (const Case& candidate : kCases) {
    if (candidate.name == name) return candidate.run(client, outcome);
  }
  outcome = "no such case";
  return false;
}

int run_client(const Address& address, const std::string& name) {
  auto reactor = Reactor::create();
  if (!reactor.ok()) {
    std::fprintf(stderr, "%s\n", reactor.error().to_string().c_str());
    return 1;
  }
  Client client(**reactor, address);
  std::string outcome;
  bool good = run_case(client, name, outcome);
  if (!good && client.status && !client.status->ok()) outcome = client.status->error().to_string();
  print_line(R"({"case":")" + name + R"(","good":)" + (good ? "true" : "false") + R"(,"outcome":")" + outcome + "\"}");
  return good ? 0 : 1;
}

}  // namespace
}  // namespace holdfast::rpc

int main(int argc, char** argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  bool server = arguments.size() == 2 && arguments[0] == "server";
  bool client = arguments.size() == 3 && arguments[0] == "client";
  if (!server && !client) {
    std::fprintf(stderr, "usage: rpc_echo server ADDRESS | rpc_echo client ADDRESS CASE\n");
    return 2;
  }
  auto address = holdfast::Address::parse(arguments[1]);
  if (!address.ok()) {
    std::fprintf(stderr, "%s\n", address.error().to_string().c_str());
    return 2;
  }
  return server ? holdfast::rpc::run_server(*address) : holdfast::rpc::run_client(*address, arguments[2]);
}
