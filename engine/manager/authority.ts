// The cluster's certificate authority: made at the first start, kept in the metadata store, so that every manager can certify. Managers
// certify themselves and keep that in memory; nodes ask for theirs with the token of an agent.
import { Buffer } from 'node:buffer';
import {
  createAuthority,
  fingerprintOf,
  issueCertificate,
  needsRenewal,
  signRequest,
} from '../security/certificates.js';
import type { KeyPair } from '../security/certificates.js';
import { holdIdentity } from '../security/identity.js';
import type { Identity, IdentitySource } from '../security/identity.js';
import { errorFields } from '../log/logger.js';
import type { Logger } from '../log/logger.js';
import type { Metastore } from '../metastore/metastore.js';
import { HoldfastError } from '../errors/holdfast-error.js';
import { validateLabel } from '../config/volume-input.js';
import { authoritySchema, decodeRecord, keys, recordVersion } from './records.js';
import type { AuthorityRecord } from './records.js';

export type Authority = {
  /** What tokens name it by. */
  readonly fingerprint: string;
  /** PEM of every authority that processes of this cluster believe. */
  readonly trusted: string;
  readonly keys: KeyPair;
};

const renewalCheckMs = 3_600_000;
const requestBytesMax = 4_096;

/** The one in the store; else `seed`, or a new one, is put there. */
export async function openAuthority(store: Metastore, seed: KeyPair | null, now: Date): Promise<Authority> {
  const present = await readAuthority(store);
  if (present !== null) return present;
  const pair = seed ?? (await createAuthority('Holdfast cluster', now));
  const record: AuthorityRecord = { version: recordVersion, ...pair, trusted: [] };
  // Of several managers that start at once one is first.
  await store.transact(
    [{ key: keys.authority, modRevision: 0 }],
    [{ kind: 'put', key: keys.authority, value: JSON.stringify(record) }],
  );
  const kept = await readAuthority(store);
  if (kept === null) throw new HoldfastError('INTERNAL', 'the record of the authority vanished');
  return kept;
}

/** Nothing that the former one has certified is believed any more. No manager may run. */
export async function replaceAuthority(store: Metastore, pair: KeyPair): Promise<void> {
  const record: AuthorityRecord = { version: recordVersion, ...pair, trusted: [] };
  await store.transact([], [{ kind: 'put', key: keys.authority, value: JSON.stringify(record) }]);
}

async function readAuthority(store: Metastore): Promise<Authority | null> {
  const entry = await store.get(keys.authority);
  if (entry === null) return null;
  const { certificate, key, trusted } = decodeRecord(authoritySchema, keys.authority, entry.value);
  return {
    fingerprint: fingerprintOf(certificate),
    trusted: [certificate, ...trusted].join(''),
    keys: { certificate, key },
  };
}

/** Of this manager; renewed by itself until `close`. */
export async function certifyManager(
  authority: Authority,
  name: string,
  hosts: readonly string[],
  logger: Logger,
): Promise<IdentitySource & { readonly close: () => void }> {
  const issue = async (): Promise<Identity> => {
    const leaf = await issueCertificate(authority.keys, { name: `manager ${name}`, hosts }, new Date());
    return {
      authority: authority.trusted,
      certificate: leaf.certificate + authority.keys.certificate,
      key: leaf.key,
    };
  };
  const held = holdIdentity(await issue());
  const timer = setInterval(() => {
    if (!needsRenewal(held.current().certificate, new Date())) return;
    issue().then(held.replace, (error: unknown) => {
      logger.error('the certificate of this manager could not be renewed', errorFields(error));
    });
  }, renewalCheckMs).unref();
  return {
    ...held,
    close: () => {
      clearInterval(timer);
    },
  };
}

export type CertificateRequest = {
  readonly node: string;
  /** At which the node's processes serve. */
  readonly hosts: readonly string[];
  /** PKCS #10, PEM. */
  readonly request: string;
};
export type IssuedCertificate = { readonly certificate: string; readonly authority: string };

/**
 * `shown`: the common name of the certificate that the caller has, if any. A node renews its own; for a node that is online nobody gets
 * a second one with a token alone. `taken`: by the agent of the node that is online.
 */
export async function certifyNode(
  authority: Authority | null,
  { node, hosts, request }: CertificateRequest,
  shown: string | null,
  taken: HoldfastError | null,
  now: Date,
): Promise<IssuedCertificate> {
  if (authority === null)
    throw new HoldfastError('FAILED_PRECONDITION', 'this manager was started without an authority of certificates');
  const name = `node ${validateLabel(node, 'node name')}`;
  if (Buffer.byteLength(request) > requestBytesMax)
    throw new HoldfastError('INVALID_ARGUMENT', `a certificate request has at most ${requestBytesMax} bytes`);
  if (shown !== null && shown !== name)
    throw new HoldfastError('PERMISSION_DENIED', `the certificate of "${shown}" does not speak for node "${node}"`);
  if (shown === null && taken !== null) throw taken;
  const leaf = await signRequest(authority.keys, request, { name, hosts }, now);
  return { certificate: leaf + authority.keys.certificate, authority: authority.trusted };
}
