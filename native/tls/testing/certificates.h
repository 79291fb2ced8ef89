// Certificates for tests: an authority, and what it issues, made on the spot with OpenSSL. Thread: any.
#pragma once

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <ctime>
#include <string>

#include "base/check.h"
#include "tls/identity.h"
#include "tls/openssl.h"

namespace holdfast::tls::testing {

inline std::string pem_of(auto write) {
  Pointer<BIO, BIO_free_all> memory(BIO_new(BIO_s_mem()));
  CHECK(write(memory.get()) == 1);
  char* bytes = nullptr;
  long size = BIO_get_mem_data(memory.get(), &bytes);
  return {bytes, static_cast<std::size_t>(size)};
}

// Valid from `from_seconds` to `to_seconds` since 1970.
struct Validity {
  std::time_t from_seconds = 0;
  std::time_t to_seconds = 4'000'000'000;
};

class Authority {
 public:
  explicit Authority(const std::string& name) : key_(make_key()) { certificate_ = make(name, key_.get(), {}, true); }

  std::string pem() const { return pem_of_certificate(certificate_.get()); }

  Credentials issue(const std::string& common_name, Validity validity = {}) const {
    auto key = make_key();
    auto certificate = make(common_name, key.get(), validity, false);
    return {pem(), pem_of_certificate(certificate.get()), pem_of([&](BIO* to) {
              return PEM_write_bio_PrivateKey(to, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
            })};
  }

 private:
  using Key = Pointer<EVP_PKEY, EVP_PKEY_free>;
  using Certificate = Pointer<X509, X509_free>;

  static Key make_key() { return Key(EVP_EC_gen("P-256")); }
  static std::string pem_of_certificate(X509* certificate) {
    return pem_of([&](BIO* to) { return PEM_write_bio_X509(to, certificate); });
  }

  Certificate make(const std::string& common_name, EVP_PKEY* key, Validity validity, bool authority) const {
    Certificate made(X509_new());
    X509_set_version(made.get(), 2);
    static long serial = 0;
    ASN1_INTEGER_set(X509_get_serialNumber(made.get()), ++serial);
    ASN1_TIME_set(X509_getm_notBefore(made.get()), validity.from_seconds);
    ASN1_TIME_set(X509_getm_notAfter(made.get()), validity.to_seconds);
    X509_NAME* subject = X509_get_subject_name(made.get());
    CHECK(X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8,
                                     reinterpret_cast<const unsigned char*>(common_name.c_str()), -1, -1, 0) == 1);
    X509_set_issuer_name(made.get(), authority ? subject : X509_get_subject_name(certificate_.get()));
    X509_set_pubkey(made.get(), key);
    Pointer<X509_EXTENSION, X509_EXTENSION_free> basic(
        X509V3_EXT_conf_nid(nullptr, nullptr, NID_basic_constraints, authority ? "critical,CA:TRUE" : "CA:FALSE"));
    X509_add_ext(made.get(), basic.get(), -1);
    CHECK(X509_sign(made.get(), key_.get(), EVP_sha256()) > 0);
    return made;
  }

  Key key_;
  Certificate certificate_;
};

}  // namespace holdfast::tls::testing
