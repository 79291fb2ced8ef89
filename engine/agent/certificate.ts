// The certificate of a node. Asked for at the first start with the token that the node joined with, and again when two thirds of its life
// are over; what has run out is replaced like a missing one. The key is made here and never leaves this host. The processes of
// the node read the file, and follow it (engine/security/identity.ts).
import { request } from '../api/rest-client.js';
import { backoffMs, sleep } from '../async/wait.js';
import { toHoldfastError } from '../errors/holdfast-error.js';
import type { Logger } from '../log/logger.js';
import { fingerprintOf, needsRenewal, requestCertificate } from '../security/certificates.js';
import { holdIdentity, readIdentity, writeIdentity } from '../security/identity.js';
import type { RegistrationFile } from './registration.js';
import type { HeldIdentity, Identity, IdentitySource } from '../security/identity.js';
import { fingerprintIn } from '../security/tokens.js';
import { expiryOf } from '../security/tls.js';

export type NodeCertificateOptions = {
  /** Of the file. */
  readonly path: string;
  readonly node: string;
  readonly host: string;
  readonly managers: readonly string[];
  /** With the fingerprint of the authority. */
  readonly token: string;
  readonly registration: Pick<RegistrationFile, 'refused'>;
  readonly logger: Logger;
};

const checkEveryMs = 600_000;

/** Waits for a manager when there is none yet; then keeps it fresh until the signal aborts. */
export async function nodeCertificate(
  options: NodeCertificateOptions,
  signal: AbortSignal,
): Promise<IdentitySource | null> {
  const { path, logger } = options;
  const present = readIdentity(path);
  const first =
    present !== null && isValid(present) && isOurs(present, options.token)
      ? present
      : await askUntilAnswered(options, null, signal);
  if (first === null) return null;
  const held = holdIdentity(first);
  void keepFresh(options, held, signal).catch((error: unknown) => {
    logger.error('the certificate of this node is not renewed any more', { error: toHoldfastError(error).message });
  });
  return held;
}

function isValid({ certificate }: Identity): boolean {
  const expiry = expiryOf(certificate);
  return expiry !== null && expiry.getTime() > Date.now();
}

// Not after the authority was replaced, or the host moved to another cluster.
function isOurs({ authority }: Identity, token: string): boolean {
  const wanted = fingerprintIn(token);
  const certificates = authority.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  return wanted === null || certificates.some((certificate) => fingerprintOf(certificate) === wanted);
}

async function keepFresh(options: NodeCertificateOptions, held: HeldIdentity, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    if (needsRenewal(held.current().certificate, new Date())) {
      const next = await askUntilAnswered(options, held.current(), signal);
      if (next !== null) held.replace(next);
    }
    await sleep(checkEveryMs, signal);
  }
}

/** Null when the signal aborted first. */
async function askUntilAnswered(
  options: NodeCertificateOptions,
  present: Identity | null,
  signal: AbortSignal,
): Promise<Identity | null> {
  const { managers, node, logger } = options;
  for (let attempt = 1; !signal.aborted; attempt++) {
    const manager = managers[attempt % managers.length] ?? '';
    try {
      const identity = await ask(options, manager, present !== null && isValid(present) ? present : null);
      writeIdentity(options.path, identity);
      logger.info('this node has a new certificate', { until: expiryOf(identity.certificate)?.toISOString() });
      return identity;
    } catch (error) {
      const cause = toHoldfastError(error);
      const { code, message } = cause;
      if (code === 'IN_USE') options.registration.refused(cause);
      if (attempt % 30 === 1) logger.warn('no certificate for this node yet', { node, manager, code, error: message });
      await sleep(backoffMs(attempt, 100, 2_000), signal);
    }
  }
  return null;
}

async function ask(
  { node, host, token }: NodeCertificateOptions,
  manager: string,
  present: Identity | null,
): Promise<Identity> {
  const { request: signing, key } = await requestCertificate(`node ${node}`);
  const body = { node, hosts: [host], request: signing };
  const answer = await request<{ readonly certificate: string; readonly authority: string }>(
    manager,
    'POST',
    '/v1/certificates',
    body,
    token,
    10_000,
    present,
  );
  return { authority: answer.authority, certificate: answer.certificate, key };
}
