// What REST has, gRPC has, and the other way round: names, fields, and answers.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { credentials } from '@grpc/grpc-js';
import type { ClientReadableStream, ServiceError } from '@grpc/grpc-js';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { z } from 'zod';
import { request } from '../api/rest-client.js';
import { ManagerClient, ManagerService } from '../generated/holdfast/v1/manager.js';
import type { Event } from '../generated/holdfast/v1/administration.js';
import { silentLogger } from '../log/logger.js';
import { openLmdbMetastore } from '../metastore/lmdb-metastore.js';
import { twins, plain, routeOf } from './grpc-twins.js';
import { routes } from './http/routes.js';
import { startManager } from './manager.js';
import type { Manager } from './manager.js';
import { createGrpcDataPlane } from './grpc-data-plane.js';
import { FakeNode } from './testing/fake-data-plane.js';

const outsideTheTable = ['GET /metrics', 'GET /events?watch=true'];

test('every route has its method, every method its route', () => {
  const known = [...routes.map(({ method, path }) => `${method} ${path}`), ...outsideTheTable];
  expect(Object.keys(twins).sort()).toEqual(known.sort());
  const methods = Object.values(ManagerService).map(({ path }) => path.split('/').at(-1) ?? '');
  expect(Object.values(twins).sort()).toEqual(methods.sort());
});

// The fields that a message of the generated code has, in its own words: proto3 knows them all, absent or not.
const proto = ['manager', 'administration']
  .map((name) => readFileSync(join(import.meta.dirname, `../../proto/holdfast/v1/${name}.proto`), 'utf8'))
  .join('\n');

function fieldsOf(message: string): readonly string[] {
  const body = new RegExp(`\\nmessage ${message} \\{([^}]*)\\}`).exec(proto)?.[1];
  if (body === undefined) throw new Error(`there is no message ${message}`);
  const names = [...body.matchAll(/(\w+) = \d+;/g)].map(([, name = '']) => name);
  return names.map((name) => name.replaceAll(/_([a-z])/g, (_, letter: string) => letter.toUpperCase()));
}

function typesOf(method: string): { readonly request: string; readonly response: string } {
  const match = new RegExp(`rpc ${method}\\((\\w+)\\) returns \\((?:stream )?(\\w+)\\)`).exec(proto);
  return { request: match?.[1] ?? '', response: match?.[2] ?? '' };
}

// Where the two differ in words.
const renamed: Readonly<Record<string, string>> = { replica: 'replicaId', share: 'nfs', id: 'replicaId' };
const former = new Set([
  'ListReplicas',
  'AddReplica',
  'RemoveReplica',
  'ListSnapshots',
  'CreateSnapshot',
  'DeleteSnapshot',
  'RevertVolume',
  'CloneVolume',
]);

test('what a route takes, its message has', () => {
  const missing: string[] = [];
  for (const route of routes) {
    const method = twins[`${route.method} ${route.path}`] ?? '';
    const fields = new Set(fieldsOf(typesOf(method).request));
    const body = route.body instanceof z.ZodObject ? Object.keys(route.body.shape) : [];
    const params = [...route.path.matchAll(/\{(\w+)\}/g)].map(([, name = '']) => name);
    for (const name of [...params, ...body]) {
      const other = former.has(method) && name === 'name' ? 'volume' : (renamed[name] ?? name);
      if (!fields.has(name) && !fields.has(other) && !(method === 'CloneVolume' && fields.has('source')))
        missing.push(`${method}: ${name}`);
    }
  }
  // Deletes name a snapshot by `name`.
  expect(missing.filter((each) => each !== 'DeleteSnapshot: snapshot')).toEqual([]);
});

test('what a route answers, its message has', () => {
  const missing: string[] = [];
  for (const route of routes) {
    const method = twins[`${route.method} ${route.path}`] ?? '';
    const { response } = typesOf(method);
    let answer: z.ZodType = route.answer;
    let message = response;
    if (answer instanceof z.ZodArray) {
      answer = answer.element as z.ZodType;
      message = new RegExp(`message ${response} \\{ repeated (\\w+)`).exec(proto)?.[1] ?? '';
    }
    if (!(answer instanceof z.ZodObject)) continue;
    const fields = new Set(fieldsOf(message));
    for (const name of Object.keys(answer.shape)) if (!fields.has(name)) missing.push(`${method}: ${name}`);
  }
  expect(missing).toEqual([]);
});

// ---- against a manager ----

let folder: string;
let manager: Manager;
let nodes: FakeNode[];
let client: ManagerClient;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-twins-'));
  nodes = [1, 2, 3].map((number) => new FakeNode(number));
  await Promise.all(nodes.map((node) => node.start()));
  manager = await startManager({
    store: await openLmdbMetastore(join(folder, 'metastore')),
    dataPlane: createGrpcDataPlane(),
    logger: silentLogger,
    listen: '127.0.0.1:0',
    version: '1.2.3',
    settleMs: 2_000,
    patienceMs: 500,
  });
  await Promise.all(nodes.map((node) => node.connect(manager.address)));
  client = new ManagerClient(manager.address, credentials.createInsecure());
});
afterEach(async () => {
  client.close();
  for (const node of nodes) node.stop();
  await manager.close();
  rmSync(folder, { recursive: true, force: true });
});

type Done<T> = (error: ServiceError | null, answer: T) => void;
const ask = <T>(start: (done: Done<T>) => unknown) =>
  new Promise<T>((resolve, reject) => {
    start((error, answer) => {
      if (error === null) resolve(answer);
      else reject(error);
    });
  });
const rest = (method: string, path: string, body?: unknown) => request<unknown>(manager.address, method, path, body);
// What is null in JSON is absent in a message.
const withoutNulls = (value: unknown): unknown =>
  JSON.parse(JSON.stringify(value, (_, field: unknown) => (field === null ? undefined : field)));

test('both doors give the same answers', async () => {
  await ask((done) =>
    client.createVolume(
      {
        name: 'db',
        size: BigInt(2 ** 20 * 10),
        replicas: 0,
        blockSize: 0,
        policy: undefined,
        constraints: { tags: undefined, class: undefined, zonesRequired: undefined, local: false },
        qos: { operationsPerSecond: 100n, bytesPerSecond: 0n, burstSeconds: undefined },
        access: { chap: { user: 'u', secret: 'a-secret-of-12' }, mutualChap: undefined, initiators: [] },
        nfs: undefined,
      },
      done,
    ),
  );
  const pairs: readonly (readonly [string, (done: Done<object>) => unknown])[] = [
    ['/v1/status', (done) => client.getStatus({}, done)],
    ['/v1/settings', (done) => client.getSettings({}, done)],
    ['/v1/nodes/node1', (done) => client.getNode({ node: 'node1' }, done)],
    ['/v1/nodes/node1/emptying', (done) => client.getNodeEmptying({ node: 'node1' }, done)],
    ['/v1/nodes/node1/disks/disk1/emptying', (done) => client.getDiskEmptying({ node: 'node1', disk: 'disk1' }, done)],
    ['/v1/volumes/db', (done) => client.getVolume({ name: 'db' }, done)],
    ['/v1/volumes/db/explain', (done) => client.explainVolume({ name: 'db' }, done)],
  ];
  for (const [path, start] of pairs) {
    expect(plain(await ask(start)), path).toMatchObject(withoutNulls(await rest('GET', path)) as object);
  }
  const { events } = await ask((done: Done<{ readonly events: readonly Event[] }>) =>
    client.listEvents({ limit: 5, after: undefined }, done),
  );
  expect(plain(events)).toEqual(await rest('GET', '/v1/events?limit=5'));
  const metrics = await ask((done: Done<{ readonly text: string }>) => client.getMetrics({}, done));
  expect(metrics.text).toContain('holdfast_');
});

test('what one door changes, the other shows', async () => {
  await ask((done) => client.setNode({ node: 'node2', zone: 'rack7', cordoned: true, draining: undefined }, done));
  await ask((done) =>
    client.setDisk(
      {
        node: 'node1',
        disk: 'disk1',
        tags: { values: ['fast'] },
        class: 'nvme',
        cordoned: undefined,
        evicting: undefined,
      },
      done,
    ),
  );
  expect(await rest('GET', '/v1/disks')).toContainEqual(expect.objectContaining({ name: 'disk1', node: 'node1' }));
  await ask((done) =>
    client.setDisk(
      { node: 'node1', disk: 'disk1', tags: undefined, class: '', cordoned: undefined, evicting: undefined },
      done,
    ),
  );
  const settings = {
    overProvisioning: undefined,
    trashSeconds: 60n,
    replaceAfterSeconds: undefined,
    failoverSeconds: undefined,
    balance: false,
    movesMax: undefined,
    rebuildBytesPerSecond: undefined,
    foregroundPercent: undefined,
    rebuildsPerDisk: undefined,
    scrubIntervalSeconds: undefined,
    scrubBytesPerSecond: undefined,
  };
  await ask((done) => client.setSettings(settings, done));
  expect(await rest('GET', '/v1/settings')).toMatchObject({ trashSeconds: 60, balance: false, failoverSeconds: 30 });
  await ask((done) => client.putPolicy({ name: 'gold', replicas: 2, constraints: undefined, qos: undefined }, done));
  expect(await rest('GET', '/v1/policies')).toMatchObject([{ name: 'gold', copies: 2 }]);
  await ask((done) => client.deletePolicy({ name: 'gold' }, done));
  expect(await rest('GET', '/v1/policies')).toEqual([]);
  const made = await ask((done: Done<{ readonly id: string; readonly text: string }>) =>
    client.createToken({ role: 'read-only', note: 'x', expiresInSeconds: undefined }, done),
  );
  expect(made.text).toMatch(/^hf_/);
  expect(await rest('GET', '/v1/tokens')).toMatchObject([{ id: made.id, role: 'read-only', note: 'x' }]);
  await ask((done) => client.deleteToken({ id: made.id }, done));
  expect(await rest('GET', '/v1/tokens')).toEqual([]);
});

test('the trash, and limits that are changed and taken back', async () => {
  await rest('PATCH', '/v1/nodes/node2', { cordoned: false });
  await rest('POST', '/v1/volumes', { name: 'db', size: 2 ** 20 * 10 });
  await ask((done) =>
    client.setVolume(
      {
        name: 'db',
        replicas: undefined,
        rebuildBytesPerSecond: 1_000n,
        foregroundPercent: undefined,
        defaultPace: false,
        constraints: undefined,
        qos: undefined,
        access: undefined,
      },
      done,
    ),
  );
  expect(await rest('GET', '/v1/volumes/db')).toMatchObject({ rebuildBytesPerSecond: 1_000 });
  await ask((done) =>
    client.setVolume(
      {
        name: 'db',
        replicas: undefined,
        rebuildBytesPerSecond: undefined,
        foregroundPercent: undefined,
        defaultPace: true,
        constraints: undefined,
        qos: undefined,
        access: undefined,
      },
      done,
    ),
  );
  expect(await rest('GET', '/v1/volumes/db')).toMatchObject({ rebuildBytesPerSecond: null });
  await ask((done) => client.deleteVolume({ name: 'db', purge: false }, done));
  const { volumes } = await ask((done: Done<{ readonly volumes: readonly { readonly id: string }[] }>) =>
    client.listTrash({}, done),
  );
  expect(plain(volumes)).toEqual(await rest('GET', '/v1/trash'));
  await ask((done) => client.restoreVolume({ id: volumes[0]?.id ?? '', name: 'back' }, done));
  expect(await rest('GET', '/v1/volumes/back')).toMatchObject({ name: 'back' });
  await ask((done) => client.deleteVolume({ name: 'back', purge: false }, done));
  await ask((done) => client.purgeVolume({ id: 'back' }, done));
  expect(await rest('GET', '/v1/trash')).toEqual([]);
});

test('events are watched until the client goes', async () => {
  const call: ClientReadableStream<Event> = client.watchEvents({});
  call.on('error', () => undefined);
  const first = new Promise<Event>((resolve) => call.once('data', resolve));
  await rest('POST', '/v1/volumes', { name: 'db', size: 2 ** 20 * 10 });
  await rest('POST', '/v1/volumes/db/attach', {});
  expect((await first).message).not.toBe('');
  call.cancel();
});

test('what REST refuses, gRPC refuses with the same words', async () => {
  const message = await ask((done) =>
    client.createToken({ role: 'king', note: undefined, expiresInSeconds: undefined }, done),
  ).catch((error: unknown) => (error as ServiceError).details);
  const same = await rest('POST', '/v1/tokens', { role: 'king' }).catch((error: unknown) => (error as Error).message);
  expect(message).toBe(same);
  expect(() => routeOf('Nonsense')).toThrow(/no route/);
});
