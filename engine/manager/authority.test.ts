import { randomBytes, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import type { IncomingMessage } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect } from 'node:tls';
import type { TLSSocket } from 'node:tls';
import { credentials, Metadata } from '@grpc/grpc-js';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { AgentRegistryClient, ManagerClient } from '../generated/holdfast/v1/manager.js';
import { silentLogger } from '../log/logger.js';
import { openLmdbMetastore } from '../metastore/lmdb-metastore.js';
import type { Metastore } from '../metastore/metastore.js';
import { parseHostPort } from '../os/addresses.js';
import { createAuthority, issueCertificate, requestCertificate } from '../security/certificates.js';
import type { KeyPair } from '../security/certificates.js';
import { clusterHostName } from '../security/certificates.js';
import { connectPinned } from '../security/pinned-connection.js';
import { makeToken } from '../security/tokens.js';
import { certifyManager, openAuthority } from './authority.js';
import type { Authority, IssuedCertificate } from './authority.js';
import { createGrpcDataPlane } from './grpc-data-plane.js';
import { startManager } from './manager.js';
import type { Manager } from './manager.js';

let folder: string;
let store: Metastore;
let authority: Authority;
let manager: Manager;
const token = makeToken(randomBytes, null);
const now = () => new Date();

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-authority-'));
  store = await openLmdbMetastore(join(folder, 'metastore'));
  authority = await openAuthority(store, null, now());
  manager = await startManager({
    store,
    dataPlane: createGrpcDataPlane(),
    logger: silentLogger,
    listen: '127.0.0.1:0',
    version: '1.2.3',
    settleMs: 0,
    tokens: [{ id: token.id, hash: token.hash, role: 'agent' }],
    authority,
    identity: await certifyManager(authority, 'here', ['127.0.0.1'], silentLogger),
  });
});
afterEach(async () => {
  await manager.close();
  rmSync(folder, { recursive: true, force: true });
});

const pinned = (fingerprint = authority.fingerprint, identity: KeyPair | null = null) =>
  connectPinned(parseHostPort(manager.address, 'manager'), fingerprint, identity, AbortSignal.timeout(60_000));

async function post(socket: TLSSocket, path: string, body: unknown) {
  const headers = { authorization: `Bearer ${token.text}`, 'content-type': 'application/json', host: '127.0.0.1' };
  const call = httpRequest({ createConnection: () => socket, method: 'POST', path, headers });
  call.end(JSON.stringify(body));
  const [response] = (await once(call, 'response')) as [IncomingMessage];
  let text = '';
  for await (const chunk of response.setEncoding('utf8') as AsyncIterable<string>) text += chunk;
  return { status: response.statusCode, body: JSON.parse(text) as unknown };
}

async function certify(node: string, shown: KeyPair | null = null) {
  const { request, key } = await requestCertificate(`node ${node}`);
  const { status, body } = await post(await pinned(authority.fingerprint, shown), '/v1/certificates', {
    node,
    hosts: ['192.0.2.3'],
    request,
  });
  return { status, body, pair: { certificate: (body as IssuedCertificate).certificate, key } };
}

test('an authority is made once, and stays', async () => {
  expect(await openAuthority(store, await createAuthority('another', now()), now())).toEqual(authority);
});

test('a node gets a certificate with its token, and another one with the first', async () => {
  const { status, pair } = await certify('n3');
  expect(status).toBe(200);
  const certificate = new X509Certificate(pair.certificate);
  expect(certificate.subject).toBe('CN=node n3');
  expect(certificate.subjectAltName).toContain('IP Address:192.0.2.3');
  expect(new Date(certificate.validFrom).getTime()).toBeLessThan(Date.now() - 1_800_000);
  expect((await certify('n3', pair)).status).toBe(200);
  // It does not speak for others.
  expect(await certify('n4', pair)).toMatchObject({ status: 403, body: { error: { code: 'PERMISSION_DENIED' } } });
});

test('what is no certificate request is refused', async () => {
  const answer = await post(await pinned(), '/v1/certificates', { node: 'n3', hosts: [], request: 'nonsense' });
  expect(answer).toMatchObject({ status: 400, body: { error: { code: 'INVALID_ARGUMENT' } } });
});

test('a token of another cluster speaks to nobody here', async () => {
  await expect(pinned('A'.repeat(43))).rejects.toThrow(/another cluster/);
});

test('a foreign or expired certificate is refused with the reason', async () => {
  const foreign = await issueCertificate(await createAuthority('theirs', now()), { name: 'node n3', hosts: [] }, now());
  const longAgo = new Date(Date.now() - 200 * 86_400_000);
  const expired = await issueCertificate(authority.keys, { name: 'node n3', hosts: [] }, longAgo);
  for (const [shown, why] of [
    [foreign, /node n3.*refused/],
    [expired, /CERT_HAS_EXPIRED|expired/],
  ] as const) {
    const answer = await certify('n3', shown);
    expect(answer.status).toBe(401);
    expect(JSON.stringify(answer.body)).toMatch(why);
  }
});

function reportAs(shown: KeyPair | null, node: string): Promise<string> {
  const channel = credentials.createSsl(
    Buffer.from(authority.trusted),
    shown === null ? null : Buffer.from(shown.key),
    shown === null ? null : Buffer.from(shown.certificate),
  );
  const client = new AgentRegistryClient(manager.address, channel, {
    'grpc.ssl_target_name_override': clusterHostName,
  });
  const metadata = new Metadata();
  metadata.set('authorization', `Bearer ${token.text}`);
  const stream = client.connect(metadata);
  stream.write({ node, pid: 1, processes: [], shares: [], place: undefined });
  return new Promise<string>((resolve) => {
    stream.on('data', () => {
      resolve('taken');
      stream.cancel();
    });
    stream.on('error', (error) => {
      resolve(error.message);
    });
  }).finally(() => {
    client.close();
  });
}

test('an agent speaks for its own node only, whatever its token', async () => {
  const { pair } = await certify('n3');
  expect(await reportAs(pair, 'n3')).toBe('taken');
  expect(await reportAs(pair, 'n4')).toContain('does not speak for node "n4"');
  expect(await reportAs(null, 'n3')).toContain('show a certificate');
});

test('a name that is in use is not given away', async () => {
  const { pair } = await certify('n3');
  const channel = credentials.createSsl(
    Buffer.from(authority.trusted),
    Buffer.from(pair.key),
    Buffer.from(pair.certificate),
  );
  const client = new AgentRegistryClient(manager.address, channel, {
    'grpc.ssl_target_name_override': clusterHostName,
  });
  const metadata = new Metadata();
  metadata.set('authorization', `Bearer ${token.text}`);
  const stream = client.connect(metadata);
  stream.on('error', () => undefined);
  stream.write({ node: 'n3', pid: 1, processes: [], shares: [], place: undefined });
  await once(stream, 'data');
  expect(await certify('n3')).toMatchObject({ status: 400, body: { error: { code: 'IN_USE' } } });
  expect((await certify('n3', pair)).status).toBe(200);
  stream.cancel();
  client.close();
});

test('older versions of TLS are refused', async () => {
  const { host, port } = parseHostPort(manager.address, 'manager');
  const socket = connect({ host, port, maxVersion: 'TLSv1.2', rejectUnauthorized: false });
  const [error] = (await once(socket, 'error')) as [Error];
  expect(error.message).toMatch(/protocol version|alert/i);
});

test('people use gRPC over TLS with a token alone', async () => {
  const people = new ManagerClient(manager.address, credentials.createSsl(Buffer.from(authority.trusted)), {
    'grpc.ssl_target_name_override': clusterHostName,
  });
  const metadata = new Metadata();
  metadata.set('authorization', `Bearer ${token.text}`);
  const version = await new Promise<string>((resolve, reject) => {
    people.getCluster({}, metadata, (error, answer) => {
      if (error === null) resolve(answer.version);
      else reject(error);
    });
  });
  expect(version).toBe('1.2.3');
  people.close();
});
