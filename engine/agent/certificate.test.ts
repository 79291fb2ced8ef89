import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { silentLogger } from '../log/logger.js';
import { openAuthority } from '../manager/authority.js';
import type { Authority } from '../manager/authority.js';
import { createGrpcDataPlane } from '../manager/grpc-data-plane.js';
import { startManager } from '../manager/manager.js';
import type { Manager } from '../manager/manager.js';
import { openLmdbMetastore } from '../metastore/lmdb-metastore.js';
import { issueCertificate } from '../security/certificates.js';
import { readIdentity, writeIdentity } from '../security/identity.js';
import type { Identity } from '../security/identity.js';
import { makeToken } from '../security/tokens.js';
import { nodeCertificate } from './certificate.js';

const dayMs = 86_400_000;
let folder: string;
let path: string;
let authority: Authority;
let manager: Manager;
let stop: AbortController;
const token = makeToken(randomBytes, null);

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-certificate-'));
  path = join(folder, 'identity.json');
  stop = new AbortController();
  const store = await openLmdbMetastore(join(folder, 'metastore'));
  authority = await openAuthority(store, null, new Date());
  manager = await startManager({
    store,
    dataPlane: createGrpcDataPlane(),
    logger: silentLogger,
    listen: '127.0.0.1:0',
    version: '1.2.3',
    settleMs: 0,
    tokens: [{ id: token.id, hash: token.hash, role: 'agent' }],
    authority,
  });
});
afterEach(async () => {
  stop.abort();
  await manager.close();
  rmSync(folder, { recursive: true, force: true });
});

const registration = { refused: () => undefined };
const obtain = () =>
  nodeCertificate(
    {
      ...{ path, node: 'n3', host: '192.0.2.3', managers: [manager.address], token: token.text },
      registration,
      logger: silentLogger,
    },
    stop.signal,
  );

async function issued(ageDays: number): Promise<Identity> {
  const at = new Date(Date.now() - ageDays * dayMs);
  const { certificate, key } = await issueCertificate(authority.keys, { name: 'node n3', hosts: [] }, at);
  return { authority: authority.trusted, certificate, key };
}

test('a node without a certificate asks for one and keeps it', async () => {
  const source = await obtain();
  expect(readIdentity(path)).toEqual(source?.current());
  expect(source?.current().authority).toBe(authority.trusted);
  expect((await obtain())?.current()).toEqual(source?.current());
});

test('one that has run out is replaced before the node goes to work', async () => {
  const former = await issued(100);
  writeIdentity(path, former);
  expect((await obtain())?.current().certificate).not.toBe(former.certificate);
});

test('one past two thirds of its life is renewed while it is used', async () => {
  const former = await issued(70);
  writeIdentity(path, former);
  const source = await obtain();
  expect(source?.current()).toEqual(former);
  const renewed = await new Promise<Identity>((resolve) => source?.subscribe(resolve));
  expect(renewed.certificate).not.toBe(former.certificate);
  expect(readIdentity(path)).toEqual(renewed);
});

test('without a manager it waits, until it is told to stop', async () => {
  await manager.close();
  const waiting = obtain();
  stop.abort();
  expect(await waiting).toBeNull();
  manager = { ...manager, close: () => Promise.resolve() };
});
