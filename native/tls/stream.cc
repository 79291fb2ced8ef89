#include "tls/stream.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <algorithm>
#include <optional>

#include "tls/openssl.h"

namespace holdfast::tls {

namespace {

constexpr std::size_t kOutputBytesMax = 256u << 10;
constexpr std::byte kHandshakeRecord{22};
constexpr std::byte kAlertRecord{21};
constexpr int kAlertReasons = 1000;  // OpenSSL's reason for alert N is 1000 + N

// SETTINGS, then GOAWAY with INADEQUATE_SECURITY (RFC 9113, sections 6.5 and 6.8).
constexpr std::string_view kPlainAnswer(
    "\0\0\0\x04\0\0\0\0\0"
    "\0\0\x1a\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0c"
    "TLS is needed here",
    9 + 9 + 8 + 18);

std::string common_name_of(X509* certificate) {
  char name[256];
  int size = X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName, name, sizeof name);
  return size < 0 ? std::string() : std::string(name, static_cast<std::size_t>(size));
}

class SecureStream final : public Stream, private StreamHandler {
 public:
  SecureStream(Env& env, std::shared_ptr<Identity> identity, Side side, std::unique_ptr<Stream> stream)
      : env_(env),
        identity_(std::move(identity)),
        side_(side),
        stream_(std::move(stream)),
        peer_(stream_->peer_address().to_string()),
        ssl_(SSL_new(identity_->context())),
        alive_(std::make_shared<SecureStream*>(this)) {
    CHECK(ssl_ != nullptr, "out of memory");
    SSL_set_app_data(ssl_.get(), this);
    BIO* bio = BIO_new(bio_method());
    CHECK(bio != nullptr, "out of memory");
    BIO_set_data(bio, this);
    SSL_set_bio(ssl_.get(), bio, bio);
    SSL_set_verify(ssl_.get(), SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, verify);
    X509_VERIFY_PARAM_set_time(SSL_get0_param(ssl_.get()), static_cast<time_t>(env_.wall_clock() / 1s));
    if (side_ == Side::kClient) {
      SSL_set_connect_state(ssl_.get());
    } else {
      SSL_set_accept_state(ssl_.get());
    }
  }
  ~SecureStream() override {
    if (destroyed_ != nullptr) *destroyed_ = true;
  }

  void start(StreamHandler* handler) override {
    handler_ = handler;
    stream_->start(this);
    if (side_ == Side::kClient) handshake();
  }

  void send(std::span<Slice> parts) override {
    if (failure_ || shut_down_) {
      for (Slice& part : parts) part = Slice();
    } else if (established_) {
      encrypt(parts);
    } else {
      for (Slice& part : parts) {
        waiting_bytes_ += part.size();
        waiting_.push_back(std::move(part));
      }
    }
  }

  std::size_t unsent_bytes() const override { return waiting_bytes_ + stream_->unsent_bytes(); }

  // The handshake goes on: the other end would wait in vain.
  void pause_receiving() override {
    paused_ = true;
    if (established_) stream_->pause_receiving();
  }

  void resume_receiving() override {
    if (!std::exchange(paused_, false) || !established_) return;
    if (!stash_.empty()) {
      env_.post([weak = std::weak_ptr(alive_)] {
        if (auto alive = weak.lock()) (*alive)->take_stash();
      });
    }
    stream_->resume_receiving();
  }

  void shutdown() override {
    if (std::exchange(shut_down_, true)) return;
    if (established_ && !failure_) SSL_shutdown(ssl_.get());
    flush();
    stream_->shutdown();
  }

  Address local_address() const override { return stream_->local_address(); }
  Address peer_address() const override { return stream_->peer_address(); }

 private:
  // ---- what OpenSSL reads and writes ----

  static BIO_METHOD* bio_method() {
    static BIO_METHOD* const method = [] {
      BIO_METHOD* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "holdfast");
      CHECK(made != nullptr, "out of memory");
      BIO_meth_set_create(made, [](BIO* bio) {
        BIO_set_init(bio, 1);
        return 1;
      });
      BIO_meth_set_ctrl(made, [](BIO*, int command, long, void*) -> long { return command == BIO_CTRL_FLUSH; });
      BIO_meth_set_read(made, [](BIO* bio, char* into, int size) { return of(bio).give(bio, into, size); });
      BIO_meth_set_write(made, [](BIO* bio, const char* from, int size) { return of(bio).take(from, size); });
      return made;
    }();
    return method;
  }
  static SecureStream& of(BIO* bio) { return *static_cast<SecureStream*>(BIO_get_data(bio)); }

  int give(BIO* bio, char* into, int size) {
    BIO_clear_retry_flags(bio);
    std::size_t given = std::min(input_.size(), static_cast<std::size_t>(size));
    if (given == 0) {
      BIO_set_retry_read(bio);
      return -1;
    }
    std::memcpy(into, input_.data(), given);
    input_ = input_.subspan(given);
    return static_cast<int>(given);
  }

  int take(const char* from, int size) {
    auto left = static_cast<std::size_t>(size);
    while (left > 0) {
      if (output_used_ == output_.size()) {
        if (output_used_ > 0) ready_.push_back(std::move(output_));
        std::size_t wanted = std::clamp<std::size_t>(output_expected_, 4096, kOutputBytesMax);
        output_ = env_.buffers().allocate(wanted);
        output_used_ = 0;
        output_expected_ -= std::min(output_expected_, wanted);
      }
      std::size_t part = std::min(left, output_.size() - output_used_);
      std::memcpy(output_.data() + output_used_, from, part);
      output_used_ += part;
      from += part;
      left -= part;
    }
    return size;
  }

  void flush() {
    if (output_used_ > 0) ready_.push_back(output_.sub(0, output_used_));
    output_ = Slice();
    output_used_ = 0;
    output_expected_ = 0;
    if (ready_.empty()) return;
    stream_->send(ready_);
    ready_.clear();
  }

  // ---- handshake ----

  void handshake() {
    ERR_clear_error();
    int outcome = SSL_do_handshake(ssl_.get());
    flush();
    if (outcome == 1) {
      established_ = true;
      waiting_bytes_ = 0;
      SliceList waiting = std::move(waiting_);
      if (!waiting.empty()) encrypt(waiting);
      if (paused_) stream_->pause_receiving();
    } else if (SSL_get_error(ssl_.get(), outcome) != SSL_ERROR_WANT_READ) {
      fail(tls_error("the TLS handshake"));
    }
  }

  static int verify(int good, X509_STORE_CTX* store) {
    auto* ssl = static_cast<SSL*>(X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
    auto& self = *static_cast<SecureStream*>(SSL_get_app_data(ssl));
    if (good != 1 || X509_STORE_CTX_get_error_depth(store) != 0) return good;
    self.peer_name_ = common_name_of(X509_STORE_CTX_get_current_cert(store));
    bool admitted = is_node(self.peer_name_) || (self.side_ == Side::kServer && is_manager(self.peer_name_));
    if (admitted) return 1;
    X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION);
    return 0;
  }

  // Takes OpenSSL's errors.
  Error tls_error(const std::string& what) {
    long verified = SSL_get_verify_result(ssl_.get());
    int reason = ERR_GET_REASON(ERR_peek_error());
    std::string why = openssl_errors();
    if (verified == X509_V_ERR_APPLICATION_VERIFICATION) {
      const char* wanted = side_ == Side::kClient ? "a node" : "a node or a manager";
      return Error(ErrorCode::kPermissionDenied,
                   peer_ + " has the certificate of \"" + peer_name_ + "\", which is not that of " + wanted);
    }
    if (verified != X509_V_OK) {
      return Error(ErrorCode::kUnauthenticated,
                   "the certificate of " + peer_ + " is refused: " + X509_verify_cert_error_string(verified));
    }
    if (reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE) {
      return Error(ErrorCode::kUnauthenticated, peer_ + " shows no certificate of this cluster");
    }
    // handshake_failure, the alerts about certificates, unknown_ca, access_denied, certificate_required
    int alert = reason - kAlertReasons;
    if ((alert >= 40 && alert <= 46) || alert == 48 || alert == 49 || alert == 116) {
      return Error(ErrorCode::kUnauthenticated, peer_ + " refuses the certificate of this process: " + why);
    }
    return Error(ErrorCode::kProtocol, what + " with " + peer_ + " failed: " + why);
  }

  bool speaks_tls(std::span<const std::byte> first) {
    if (first[0] == kHandshakeRecord || first[0] == kAlertRecord) return true;
    if (side_ == Side::kServer && first[0] == std::byte{'P'}) take(kPlainAnswer.data(), kPlainAnswer.size());
    flush();
    fail(Error(ErrorCode::kProtocol, peer_ + " does not speak TLS, which is needed between hosts"));
    return false;
  }

  void fail(Error error) {
    if (failure_) return;
    if (side_ == Side::kServer) identity_->log_refusal(env_.now(), "refused a connection: " + error.message());
    failure_ = std::move(error);
    waiting_.clear();
    waiting_bytes_ = 0;
    stash_.clear();
    flush();
    stream_->shutdown();  // after the alert; on_closed() follows
  }

  // ---- records ----

  void encrypt(std::span<Slice> parts) {
    std::size_t total = total_size(parts);
    output_expected_ = total + total / 256 + 512;
    std::span<std::byte> gathered = identity_->gathered;
    std::size_t used = 0;
    for (Slice& part : parts) {
      std::span<const std::byte> left = part.bytes();
      while (!left.empty()) {
        std::size_t whole = used == 0 ? left.size() - left.size() % kRecordBytes : 0;
        std::size_t taken = whole > 0 ? whole : std::min(left.size(), kRecordBytes - used);
        if (whole > 0) {
          write(left.first(whole));
        } else {
          std::memcpy(gathered.data() + used, left.data(), taken);
          used += taken;
          if (used == kRecordBytes) write(gathered.first(std::exchange(used, 0)));
        }
        left = left.subspan(taken);
      }
      part = Slice();
    }
    if (used > 0) write(gathered.first(used));
    flush();
  }

  void write(std::span<const std::byte> bytes) {
    if (failure_) return;
    ERR_clear_error();
    std::size_t written = 0;
    if (SSL_write_ex(ssl_.get(), bytes.data(), bytes.size(), &written) != 1) return fail(tls_error("sending"));
    records_ += (bytes.size() + kRecordBytes - 1) / kRecordBytes;
    if (records_ < identity_->records_per_key) return;
    records_ = 0;
    SSL_key_update(ssl_.get(), SSL_KEY_UPDATE_NOT_REQUESTED);  // goes out before the next record
  }

  void on_data(std::span<const std::byte> bytes) override {
    if (failure_ || shut_down_) return;
    if (!began_ && !bytes.empty() && !speaks_tls(bytes)) return;
    began_ = true;
    if ((paused_ && established_) || !stash_.empty()) {
      stash_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    } else {
      consume(bytes);
    }
  }

  void take_stash() {
    if (paused_ || stash_.empty()) return;
    std::string held = std::move(stash_);
    stash_.clear();
    consume(as_bytes(held));
  }

  // The handler may do anything in on_data(), also destroy this.
  void consume(std::span<const std::byte> bytes) {
    bool destroyed = false;
    destroyed_ = &destroyed;
    input_ = bytes;
    if (!established_) handshake();
    while (established_ && !paused_ && !failure_ && !shut_down_) {
      ERR_clear_error();
      std::size_t got = 0;
      if (SSL_read_ex(ssl_.get(), identity_->decrypted.data(), kRecordBytes, &got) == 1) {
        handler_->on_data(std::span(identity_->decrypted).first(got));
        if (destroyed) return;
        continue;
      }
      int error = SSL_get_error(ssl_.get(), 0);
      if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_ZERO_RETURN) break;
      fail(tls_error("TLS"));
    }
    // In front of what came while the handler was at work, which is nothing: deliveries are not nested.
    if (paused_ && established_ && !failure_)
      stash_.assign(reinterpret_cast<const char*>(input_.data()), input_.size());
    input_ = {};
    destroyed_ = nullptr;
    flush();
  }

  // ---- the stream below ----

  void on_drained() override {
    if (established_ && !failure_) handler_->on_drained();
  }

  void on_closed(Status reason) override {
    if (failure_) return handler_->on_closed(*failure_);
    if (established_ || shut_down_ || !reason.ok()) return handler_->on_closed(std::move(reason));
    handler_->on_closed(Error(ErrorCode::kConnectionLost, peer_ + " ended the connection in the TLS handshake"));
  }

  Env& env_;
  std::shared_ptr<Identity> identity_;
  const Side side_;
  std::unique_ptr<Stream> stream_;
  const std::string peer_;
  Pointer<SSL, SSL_free> ssl_;
  std::shared_ptr<SecureStream*> alive_;  // what posted work looks for
  StreamHandler* handler_ = nullptr;
  bool* destroyed_ = nullptr;

  bool began_ = false;  // the first byte of the peer was seen
  bool established_ = false;
  bool paused_ = false;
  bool shut_down_ = false;
  std::optional<Error> failure_;
  std::string peer_name_;

  SliceList waiting_;  // plain, for the end of the handshake
  std::size_t waiting_bytes_ = 0;
  std::uint64_t records_ = 0;         // under the present key
  std::span<const std::byte> input_;  // being read
  std::string stash_;                 // encrypted, received while paused

  SliceList ready_;  // full buffers of records
  Slice output_;
  std::size_t output_used_ = 0;
  std::size_t output_expected_ = 0;
};

}  // namespace

std::unique_ptr<Stream> secure(Env& env, const std::shared_ptr<Identity>& identity, Side side,
                               std::unique_ptr<Stream> stream) {
  return std::make_unique<SecureStream>(env, identity, side, std::move(stream));
}

}  // namespace holdfast::tls
