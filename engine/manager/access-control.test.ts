// Tokens and roles, over REST and gRPC, and what the audit log says afterwards.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { credentials, Metadata } from '@grpc/grpc-js';
import { randomBytes } from 'node:crypto';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { request } from '../api/rest-client.js';
import { fromServiceError } from '../errors/grpc-errors.js';
import { AgentRegistryClient, ManagerClient } from '../generated/holdfast/v1/manager.js';
import { MembershipClient } from '../generated/holdfast/v1/target.js';
import { silentLogger } from '../log/logger.js';
import { openLmdbMetastore } from '../metastore/lmdb-metastore.js';
import { formatJoinToken, makeToken, parseJoinToken, parseToken } from '../security/tokens.js';
import { may } from './access-control.js';
import type { MadeTokenView, TokenView } from './admin-api.js';
import { createGrpcDataPlane } from './grpc-data-plane.js';
import { startManager } from './manager.js';
import type { Manager } from './manager.js';
import { roles } from './records.js';

let folder: string;
let manager: Manager;
const admin = makeToken(randomBytes, null);

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-access-'));
  manager = await startManager({
    store: await openLmdbMetastore(join(folder, 'metastore')),
    dataPlane: createGrpcDataPlane(),
    logger: silentLogger,
    listen: '127.0.0.1:0',
    version: '1.2.3',
    settleMs: 0,
    tokens: [{ id: admin.id, hash: admin.hash, role: 'admin' }],
    auditFile: join(folder, 'audit.log'),
    managers: ['192.0.2.1:7600'],
  });
});
afterEach(async () => {
  await manager.close();
  rmSync(folder, { recursive: true, force: true });
});

const code = (name: string) => expect.objectContaining({ code: name }) as Error;
const ask = (token: string | null, method = 'GET', path = '/v1/volumes', body?: unknown) =>
  request<unknown>(manager.address, method, path, body, token);
const make = async (role: string, more: object = {}) =>
  (await ask(admin.text, 'POST', '/v1/tokens', { role, ...more })) as MadeTokenView;

test('without a token, with a wrong one or one that has ended: nothing', async () => {
  await expect(ask(null)).rejects.toThrow(code('UNAUTHENTICATED'));
  await expect(ask('nonsense')).rejects.toThrow(code('UNAUTHENTICATED'));
  await expect(ask(makeToken(randomBytes, null).text)).rejects.toThrow(code('UNAUTHENTICATED'));
  await expect(ask(admin.text.slice(0, -1) + (admin.text.endsWith('A') ? 'B' : 'A'))).rejects.toThrow(
    code('UNAUTHENTICATED'),
  );
  expect((await fetch(`http://${manager.address}/metrics`)).status).toBe(401);
  const made = await make('operator');
  await ask(made.text);
  await ask(admin.text, 'DELETE', `/v1/tokens/${made.id}`);
  await expect(ask(made.text)).rejects.toThrow(code('UNAUTHENTICATED'));
});

test('a role allows what it is for', async () => {
  const [reader, operator, agent] = await Promise.all([make('read-only'), make('operator'), make('agent')]);
  const create = { name: 'db', size: 2 ** 20 };
  expect(await ask(reader.text)).toEqual([]);
  await expect(ask(reader.text, 'POST', '/v1/volumes', create)).rejects.toThrow(code('PERMISSION_DENIED'));
  // Allowed, and then refused for another reason.
  await expect(ask(operator.text, 'POST', '/v1/volumes', create)).rejects.toThrow(code('NOT_ENOUGH_DISKS'));
  await expect(ask(operator.text, 'PATCH', '/v1/settings', { balance: false })).rejects.toThrow(
    code('PERMISSION_DENIED'),
  );
  await expect(ask(operator.text, 'POST', '/v1/tokens', { role: 'admin' })).rejects.toThrow(code('PERMISSION_DENIED'));
  await expect(ask(agent.text, 'POST', '/v1/volumes', create)).rejects.toThrow(code('PERMISSION_DENIED'));
  expect(parseJoinToken(agent.join ?? '')).toEqual({ managers: ['192.0.2.1:7600'], token: agent.text });
  const listed = (await ask(admin.text, 'GET', '/v1/tokens')) as readonly TokenView[];
  expect(listed).toHaveLength(4);
  expect(JSON.stringify(listed)).not.toContain('hash');
});

test('gRPC asks for the same: people for Manager, agents for the rest', async () => {
  const [reader, agent] = await Promise.all([make('read-only'), make('agent')]);
  const metadata = (token: string | null) => {
    const made = new Metadata();
    if (token !== null) made.set('authorization', `Bearer ${token}`);
    return made;
  };
  const people = new ManagerClient(manager.address, credentials.createInsecure());
  const engines = new MembershipClient(manager.address, credentials.createInsecure());
  const agents = new AgentRegistryClient(manager.address, credentials.createInsecure());
  const list = (token: string | null) =>
    new Promise((resolve, reject) => {
      people.listVolumes({}, metadata(token), (error, answer) => {
        if (error === null) resolve(answer.volumes);
        else reject(fromServiceError(error, 'manager'));
      });
    });
  const change = (token: string) =>
    new Promise((resolve, reject) => {
      const body = { volumeId: 1n, epoch: 1n, inSync: [1n], reason: '', sequence: 0n };
      engines.changeInSyncSet(body, metadata(token), (error) => {
        if (error === null) resolve(null);
        else reject(fromServiceError(error, 'manager'));
      });
    });
  const connect = (token: string) =>
    new Promise((_, reject) => {
      const stream = agents.connect(metadata(token));
      stream.on('error', (error) => {
        reject(fromServiceError(error as Parameters<typeof fromServiceError>[0], 'manager'));
      });
      stream.write({ node: 'evil', pid: 1, processes: [], shares: [], place: undefined });
    });
  await expect(list(null)).rejects.toThrow(code('UNAUTHENTICATED'));
  expect(await list(reader.text)).toEqual([]);
  await expect(change(reader.text)).rejects.toThrow(code('PERMISSION_DENIED'));
  await expect(change(agent.text)).rejects.toThrow(code('EPOCH_SUPERSEDED'));
  await expect(connect(reader.text)).rejects.toThrow(code('PERMISSION_DENIED'));
  expect(await manager.api.listNodes()).toEqual([]);
  for (const client of [people, engines, agents]) client.close();
});

test('the audit log has every change and every refusal, and no secret', async () => {
  const reader = await make('read-only', { note: 'grafana' });
  await ask(reader.text).catch(() => null);
  const access = { chap: { user: 'u', secret: 'do-not-tell-this' } };
  await ask(reader.text, 'PATCH', '/v1/volumes/db', { access }).catch(() => null);
  await ask(admin.text, 'PATCH', '/v1/volumes/db', { access }).catch(() => null);
  const lines = readFileSync(join(folder, 'audit.log'), 'utf8').trim().split('\n');
  expect(lines.map((line) => JSON.parse(line) as unknown)).toEqual([
    expect.objectContaining({ token: admin.id, role: 'admin', what: 'POST /v1/tokens', outcome: 'done' }),
    expect.objectContaining({
      token: reader.id,
      role: 'read-only',
      what: 'PATCH /v1/volumes/db',
      outcome: 'PERMISSION_DENIED',
    }),
    expect.objectContaining({ token: admin.id, what: 'PATCH /v1/volumes/db', outcome: 'NOT_FOUND' }),
  ]);
  expect(lines.join('')).not.toContain('do-not-tell-this');
});

test('a token that expires, expires', async () => {
  vi.useFakeTimers({ toFake: ['Date'] });
  try {
    const made = await make('read-only', { expiresInSeconds: 60 });
    vi.setSystemTime(Date.now() + 59_000);
    await ask(made.text);
    vi.setSystemTime(Date.now() + 1_000);
    await expect(ask(made.text)).rejects.toThrow(code('UNAUTHENTICATED'));
  } finally {
    vi.useRealTimers();
  }
});

test('roles and forms', () => {
  for (const role of roles) expect(may('admin', role)).toBe(true);
  expect(may('agent', 'operator')).toBe(false);
  expect(may('operator', 'agent')).toBe(false);
  expect(parseToken(`${admin.text}x`)).toBeNull();
  const join = { managers: ['a:1', 'b:2'], token: 't' };
  expect(parseJoinToken(formatJoinToken(join))).toEqual(join);
  expect(() => parseJoinToken('join_zzz')).toThrow(code('INVALID_ARGUMENT'));
});
