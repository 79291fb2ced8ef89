#include "tls/identity.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>

#include "base/log.h"
#include "tls/openssl.h"

namespace holdfast::tls {

namespace {

constexpr Nanos kLogInterval = 1s;

Error unusable(std::string_view what) {
  return Error(ErrorCode::kInvalidArgument, "TLS: " + std::string(what) + " cannot be used: " + openssl_errors());
}

Pointer<BIO, BIO_free_all> reader_of(const std::string& text) {
  return Pointer<BIO, BIO_free_all>(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// Calls `use` with every certificate of a PEM text; how many there were, -1 after a refusal.
template <typename Use>
int each_certificate(const std::string& text, Use use) {
  auto reader = reader_of(text);
  int count = 0;
  while (Pointer<X509, X509_free> certificate{PEM_read_bio_X509(reader.get(), nullptr, nullptr, nullptr)}) {
    if (!use(certificate.get(), count)) return -1;
    ++count;
  }
  ERR_clear_error();  // the end of the text is reported as an error
  return count;
}

Status load(SSL_CTX* context, const Credentials& credentials) {
  X509_STORE* store = SSL_CTX_get_cert_store(context);
  int authorities = each_certificate(credentials.authority, [&](X509* authority, int) {
    return X509_STORE_add_cert(store, authority) == 1 && SSL_CTX_add_client_CA(context, authority) == 1;
  });
  if (authorities <= 0) return unusable("the authority's certificate");
  int certificates = each_certificate(credentials.certificate, [&](X509* certificate, int index) {
    return index == 0 ? SSL_CTX_use_certificate(context, certificate) == 1
                      : SSL_CTX_add1_chain_cert(context, certificate) == 1;
  });
  if (certificates <= 0) return unusable("the certificate");
  auto reader = reader_of(credentials.key);
  Pointer<EVP_PKEY, EVP_PKEY_free> key(PEM_read_bio_PrivateKey(reader.get(), nullptr, nullptr, nullptr));
  if (!key || SSL_CTX_use_PrivateKey(context, key.get()) != 1) return unusable("the key");
  return {};
}

int select_http2(SSL*, const unsigned char** out, unsigned char* out_size, const unsigned char* offered,
                 unsigned int offered_size, void*) {
  static const unsigned char kHttp2[] = {2, 'h', '2'};
  unsigned char* chosen = nullptr;
  if (SSL_select_next_proto(&chosen, out_size, kHttp2, sizeof kHttp2, offered, offered_size) !=
      OPENSSL_NPN_NEGOTIATED) {
    return SSL_TLSEXT_ERR_ALERT_FATAL;
  }
  *out = chosen;
  return SSL_TLSEXT_ERR_OK;
}

Result<Pointer<SSL_CTX, SSL_CTX_free>> make_context(const Credentials& credentials) {
  ERR_clear_error();
  Pointer<SSL_CTX, SSL_CTX_free> context(SSL_CTX_new(TLS_method()));
  CHECK(context != nullptr, "out of memory");
  SSL_CTX_set_min_proto_version(context.get(), TLS1_3_VERSION);
  SSL_CTX_set_options(context.get(), SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_NO_TICKET | SSL_OP_IGNORE_UNEXPECTED_EOF);
  SSL_CTX_set_num_tickets(context.get(), 0);  // every connection shows its certificate
  // The shorter key first: it takes a quarter less time, and nobody breaks either.
  CHECK(SSL_CTX_set_ciphersuites(context.get(), "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384") == 1);
  SSL_CTX_set_alpn_select_cb(context.get(), select_http2, nullptr);
  static const unsigned char kHttp2[] = {2, 'h', '2'};
  CHECK(SSL_CTX_set_alpn_protos(context.get(), kHttp2, sizeof kHttp2) == 0);
  if (Status loaded = load(context.get(), credentials); !loaded.ok()) return loaded.error();
  return context;
}

}  // namespace

std::string openssl_errors() {
  std::string text;
  while (unsigned long code = ERR_get_error()) {
    const char* reason = ERR_reason_error_string(code);
    if (!text.empty()) text += ", ";
    text += reason != nullptr ? reason : "error " + std::to_string(code);
  }
  return text.empty() ? "no reason given" : text;
}

Result<std::shared_ptr<Identity>> Identity::create(const Credentials& credentials) {
  std::shared_ptr<Identity> identity(new Identity);
  if (Status loaded = identity->replace(credentials); !loaded.ok()) return loaded.error();
  return identity;
}

Status Identity::replace(const Credentials& credentials) {
  auto made = make_context(credentials);
  if (!made.ok()) return made.error();
  SSL_CTX_free(std::exchange(context_, made->release()));
  return {};
}

Identity::~Identity() { SSL_CTX_free(context_); }

void Identity::log_refusal(Nanos now, const std::string& what) {
  if (logged_at_ != Nanos::min() && now < logged_at_ + kLogInterval) {
    ++not_logged_;
    return;
  }
  std::string more = not_logged_ > 0 ? " (and " + std::to_string(not_logged_) + " before it)" : "";
  log_warn("tls", what + more);
  logged_at_ = now;
  not_logged_ = 0;
}

}  // namespace holdfast::tls
