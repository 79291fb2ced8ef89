// X.509 certificates of the cluster: its own authority, made at the first start, and the certificates it issues to processes. Every
// host has one certificate for both directions of mutual TLS; the common name says what it is ("manager host1", "node host3").
import 'reflect-metadata';
import { createHash, KeyObject, randomBytes, webcrypto, X509Certificate } from 'node:crypto';
import { isIP } from 'node:net';
import * as x509 from '@peculiar/x509';
import { HoldfastError } from '../errors/holdfast-error.js';

export type KeyPair = {
  /** PEM */
  readonly certificate: string;
  readonly key: string;
};

export type LeafRequest = {
  /** Common name. */
  readonly name: string;
  /** Addresses and host names at which it serves. */
  readonly hosts: readonly string[];
};

const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
const dayMs = 86_400_000;
const authorityDays = 3_650;
export const leafDays = 90;
// Clocks of nodes differ.
const backdateMs = 3_600_000;

/** By this name every process of the cluster can be called: certificates need not follow the addresses of processes. */
export const clusterHostName = 'holdfast.internal';

export async function createAuthority(name: string, now: Date): Promise<KeyPair> {
  const keys = await generateKeys();
  const certificate = await x509.X509CertificateGenerator.createSelfSigned(
    {
      serialNumber: serialNumber(),
      name: `CN=${name}`,
      notBefore: new Date(now.getTime() - backdateMs),
      notAfter: new Date(now.getTime() + authorityDays * dayMs),
      signingAlgorithm: algorithm,
      keys,
      extensions: [
        new x509.BasicConstraintsExtension(true, 0, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
        await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      ],
    },
    webcrypto,
  );
  return { certificate: certificate.toString('pem') + '\n', key: exportKey(keys.privateKey) };
}

export async function issueCertificate(
  authority: KeyPair,
  request: LeafRequest,
  now: Date,
  days = leafDays,
): Promise<KeyPair> {
  const keys = await generateKeys();
  const certificate = await certify(authority, request, keys.publicKey, now, days);
  return { certificate, key: exportKey(keys.privateKey) };
}

/** The key stays where it was made: only this goes to the authority. */
export type SigningRequest = { readonly request: string; readonly key: string };

export async function requestCertificate(name: string): Promise<SigningRequest> {
  const keys = await generateKeys();
  const request = await x509.Pkcs10CertificateRequestGenerator.create(
    { name: `CN=${name}`, keys, signingAlgorithm: algorithm },
    webcrypto,
  );
  return { request: request.toString('pem') + '\n', key: exportKey(keys.privateKey) };
}

/** Answers a request with a certificate for `leaf`, whatever name the request has. INVALID_ARGUMENT when it is none. */
export async function signRequest(
  authority: KeyPair,
  request: string,
  leaf: LeafRequest,
  now: Date,
  days = leafDays,
): Promise<string> {
  const unreadable = new HoldfastError('INVALID_ARGUMENT', 'the certificate request is no PKCS #10 with a P-256 key');
  let publicKey: webcrypto.CryptoKey;
  try {
    const parsed = new x509.Pkcs10CertificateRequest(request);
    if (!(await parsed.verify(webcrypto))) throw unreadable;
    const spki = parsed.publicKey.rawData;
    publicKey = await webcrypto.subtle.importKey('spki', spki, algorithm, true, ['verify']);
  } catch {
    throw unreadable;
  }
  return await certify(authority, leaf, publicKey, now, days);
}

async function certify(
  authority: KeyPair,
  request: LeafRequest,
  publicKey: webcrypto.CryptoKey,
  now: Date,
  days: number,
): Promise<string> {
  const issuer = new x509.X509Certificate(authority.certificate);
  const signingKey = await importKey(authority.key);
  const names = [...new Set([clusterHostName, ...request.hosts])];
  const certificate = await x509.X509CertificateGenerator.create(
    {
      serialNumber: serialNumber(),
      subject: `CN=${request.name}`,
      issuer: issuer.subject,
      notBefore: new Date(now.getTime() - backdateMs),
      notAfter: new Date(now.getTime() + days * dayMs),
      signingAlgorithm: algorithm,
      publicKey,
      signingKey,
      extensions: [
        new x509.BasicConstraintsExtension(false, undefined, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
        new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth, x509.ExtendedKeyUsage.clientAuth]),
        new x509.SubjectAlternativeNameExtension(
          names.map((host) => ({ type: isIP(host) === 0 ? ('dns' as const) : ('ip' as const), value: host })),
        ),
        await x509.AuthorityKeyIdentifierExtension.create(issuer.publicKey, false, webcrypto),
      ],
    },
    webcrypto,
  );
  return certificate.toString('pem') + '\n';
}

/** SHA-256 of a certificate (DER, or the first one of a PEM), as tokens name an authority: 43 characters. */
export function fingerprintOf(certificate: string | Uint8Array): string {
  const der = typeof certificate === 'string' ? new X509Certificate(certificate).raw : certificate;
  return createHash('sha256').update(der).digest('base64url');
}

/** After two thirds of its life, or when it cannot be read, a certificate is to be replaced. */
export function needsRenewal(certificate: string, now: Date): boolean {
  try {
    const { validFrom, validTo } = new X509Certificate(certificate);
    const [from, to] = [Date.parse(validFrom), Date.parse(validTo)];
    return !(now.getTime() < from + ((to - from) * 2) / 3);
  } catch {
    return true;
  }
}

async function generateKeys(): Promise<webcrypto.CryptoKeyPair> {
  return await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
}

function exportKey(key: webcrypto.CryptoKey): string {
  return KeyObject.from(key).export({ type: 'pkcs8', format: 'pem' }).toString();
}

async function importKey(pem: string): Promise<webcrypto.CryptoKey> {
  const der = Buffer.from(pem.replaceAll(/-----[^-]+-----|\s/g, ''), 'base64');
  return await webcrypto.subtle.importKey('pkcs8', der, algorithm, false, ['sign']);
}

// Positive, 16 bytes, never a second time.
function serialNumber(): string {
  const bytes = randomBytes(16);
  bytes[0] = ((bytes[0] ?? 0) & 0x3f) | 0x40;
  return bytes.toString('hex');
}
