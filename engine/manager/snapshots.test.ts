// Snapshots as the manager keeps them: one store and one request each, and what a crash or a failure leaves of them.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { HoldfastError } from '../errors/holdfast-error.js';
import { silentLogger } from '../log/logger.js';
import { openLmdbMetastore } from '../metastore/lmdb-metastore.js';
import type { Metastore } from '../metastore/metastore.js';
import { createGrpcDataPlane } from './grpc-data-plane.js';
import type { DataPlane } from './data-plane.js';
import { idToBigint } from './ids.js';
import { startManager } from './manager.js';
import type { Manager } from './manager.js';
import { Repository } from './repository.js';
import { SnapshotConfirmations } from './snapshot-confirmations.js';
import type { SnapshotRecord } from './records.js';
import { FakeNode } from './testing/fake-data-plane.js';

const mib = 2 ** 20;
let folder: string;
let manager: Manager;
let nodes: FakeNode[];
/** What stores of the second half of records wait for. */
let confirming: Promise<void>;
let statusAsked: number;
/** New records of snapshots wait for it. */
let inserting: Promise<void>;

async function start(listen = '127.0.0.1:0'): Promise<void> {
  const store = await openLmdbMetastore(join(folder, 'metastore'));
  const watched: Metastore = {
    ...store,
    transact: async (compares, changes) => {
      const confirms = changes.some(
        (change) => change.key.startsWith('/snapshots/') && change.kind === 'put' && change.value.includes('"ready"'),
      );
      if (confirms) await confirming;
      const inserts = changes.some(
        ({ key, ...change }) =>
          key.startsWith('/snapshots/') && 'value' in change && change.value.includes('"creating"'),
      );
      if (inserts) await inserting;
      return await store.transact(compares, changes);
    },
  };
  const real = createGrpcDataPlane();
  const dataPlane: DataPlane = {
    ...real,
    targetStatus: (control) => {
      statusAsked++;
      return real.targetStatus(control);
    },
  };
  manager = await startManager({
    store: watched,
    dataPlane,
    logger: silentLogger,
    listen,
    version: '1.2.3',
    settleMs: 2_000,
    patienceMs: 500,
    choresEveryMs: 50,
    lateMs: 200,
  });
  await Promise.all(nodes.map((node) => node.connect(manager.address)));
}

/** As after SIGKILL, with whatever is in the store. */
async function crash(edit: (repository: Repository) => Promise<void>): Promise<void> {
  const { address } = manager;
  await manager.close();
  const store = await openLmdbMetastore(join(folder, 'metastore'));
  await edit(new Repository(store));
  await store.close();
  await start(address);
}

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-snapshot-records-'));
  nodes = [1, 2, 3].map((number) => new FakeNode(number));
  confirming = Promise.resolve();
  statusAsked = 0;
  inserting = Promise.resolve();
  await Promise.all(nodes.map((node) => node.start()));
  await start();
  await manager.api.createVolume({ name: 'db', size: 10 * mib, replicas: 3, blockSize: 512 });
  await manager.api.attachVolume('db', 'node1');
  await manager.settle();
});

afterEach(async () => {
  for (const node of nodes) node.stop();
  await manager.close();
  rmSync(folder, { recursive: true, force: true });
});

const changes = () => nodes[0]!.target.snapshotChanges.map(({ change }) => change);
const states = async () => (await manager.api.listSnapshots('db')).map(({ name, state }) => `${name} ${state}`);

async function recordOf(repository: Repository, name: string): Promise<SnapshotRecord> {
  const { record } = await repository.volume('db');
  const found = await repository.findSnapshot(record.id, name);
  if (found === null) throw new Error(`no record of ${name}`);
  return found;
}

test('taking one takes one store and one request, and it can be used at once', async () => {
  const asked = statusAsked;
  let goOn: () => void = () => undefined;
  confirming = new Promise((resolve) => {
    goOn = resolve;
  });
  expect(await manager.api.createSnapshot('db', 's')).toMatchObject({ name: 's', state: 'ready' });
  expect(changes()).toEqual(['create']);
  expect(await states()).toEqual(['s ready']);
  expect(statusAsked).toBe(asked);
  await manager.api.deleteSnapshot('db', 's');
  expect(await states()).toEqual([]);
  expect(changes()).toEqual(['create', 'delete']);
  // What was to be stored later does not bring it back.
  goOn();
  await crash(() => Promise.resolve());
  expect(await states()).toEqual([]);
});

test('the record says so in the end, without anybody asking', async () => {
  await manager.api.createSnapshot('db', 's');
  await crash(async (repository) => {
    expect(await recordOf(repository, 's')).toMatchObject({ phase: 'ready', frozen: false });
  });
  expect(await states()).toEqual(['s ready']);
});

test('a crash before that: what the log has is there, and never becomes less', async () => {
  const { id } = await manager.api.createSnapshot('db', 's');
  await crash(async (repository) => {
    const { frozen: _, ...record } = await recordOf(repository, 's');
    await repository.putSnapshot({ ...record, phase: 'creating' });
    for (const { replica } of nodes) replica.snapshots = [{ id: idToBigint(id), sizeBlocks: 2048n }];
  });
  await vi.waitFor(
    async () => {
      expect(await states()).toEqual(['s ready']);
    },
    { timeout: 60_000, interval: 20 },
  );
  expect(changes()).toEqual(['create']);
});

test('a crash before the log had it: it goes, once no request of the former manager can be under way', async () => {
  await manager.api.createSnapshot('db', 'old');
  await manager.api.createSnapshot('db', 'young');
  await crash(async (repository) => {
    const record = await recordOf(repository, 'old');
    const longAgo = new Date(Date.now() - 600_000).toISOString();
    await repository.putSnapshot({ ...record, phase: 'creating', createdAt: longAgo });
    await repository.putSnapshot({ ...(await recordOf(repository, 'young')), phase: 'creating' });
  });
  await vi.waitFor(
    async () => {
      expect(await states()).toEqual(['young creating']);
    },
    { timeout: 60_000, interval: 20 },
  );
  // In case it gets into the log after all.
  expect(changes()).toEqual(['create', 'create', 'delete']);
});

test('one that was being deleted is deleted, whatever the log has', async () => {
  const { id } = await manager.api.createSnapshot('db', 's');
  await crash(async (repository) => {
    await repository.putSnapshot({ ...(await recordOf(repository, 's')), phase: 'deleting' });
    for (const { replica } of nodes) replica.snapshots = [{ id: idToBigint(id), sizeBlocks: 2048n }];
  });
  await vi.waitFor(
    async () => {
      expect(await states()).toEqual([]);
    },
    { timeout: 60_000, interval: 20 },
  );
  expect(changes()).toEqual(['create', 'delete']);
});

test('a request that fails leaves nothing, even when the target is gone for a while', async () => {
  const { target } = nodes[0]!;
  target.refuseSnapshots = new HoldfastError('NO_IN_SYNC_REPLICA', 'none can be reached');
  await expect(manager.api.createSnapshot('db', 's')).rejects.toMatchObject({ code: 'NO_IN_SYNC_REPLICA' });
  target.refuseSnapshots = null;
  await vi.waitFor(
    async () => {
      expect(await states()).toEqual([]);
    },
    { timeout: 60_000, interval: 20 },
  );
  expect(changes()).toEqual(['delete']);
  expect(await manager.api.createSnapshot('db', 's')).toMatchObject({ state: 'ready' });
});

test('the record is stored while the engine is at work, and both are waited for', async () => {
  let store: () => void = () => undefined;
  inserting = new Promise((resolve) => {
    store = resolve;
  });
  let answered = false;
  const taken = manager.api.createSnapshot('db', 's').then((snapshot) => {
    answered = true;
    return snapshot;
  });
  await vi.waitFor(() => {
    expect(changes()).toEqual(['create']);
  });
  expect(answered).toBe(false);
  expect(await states()).toEqual([]);
  store();
  expect(await taken).toMatchObject({ name: 's', state: 'ready' });
  expect(await states()).toEqual(['s ready']);
});

test('a name that is taken reaches no engine; a record that cannot be stored leaves nothing in the log', async () => {
  await manager.api.createSnapshot('db', 's');
  await expect(manager.api.createSnapshot('db', 's')).rejects.toMatchObject({ code: 'ALREADY_EXISTS' });
  expect(changes()).toEqual(['create']);
  inserting = Promise.reject(new HoldfastError('STORE_UNAVAILABLE', 'full'));
  inserting.catch(() => undefined);
  await expect(manager.api.createSnapshot('db', 't')).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
  const [, created, deleted] = nodes[0]!.target.snapshotChanges;
  expect(changes().slice(0, 3)).toEqual(['create', 'create', 'delete']);
  expect(deleted?.snapshotId).toBe(created?.snapshotId);
  expect(await states()).toEqual(['s ready']);
});

test('what the log has without a record gets a name, and an event tells of it', async () => {
  const { id } = await manager.api.createSnapshot('db', 'known');
  const lost = '00000000000000ff';
  await crash(() => {
    const both = [id, lost].map((one) => ({ id: idToBigint(one), sizeBlocks: 2048n }));
    for (const { replica } of nodes) replica.snapshots = both;
    return Promise.resolve();
  });
  await vi.waitFor(
    async () => {
      expect(await states()).toEqual(['known ready', `found-${lost} ready`]);
    },
    { timeout: 60_000, interval: 20 },
  );
  const told = manager.events.recent(100).filter(({ message }) => message.includes(`found-${lost}`));
  expect(told).toMatchObject([{ severity: 'warning', object: 'volume db' }]);
  // It is like any other.
  await manager.api.deleteSnapshot('db', `found-${lost}`);
  expect(nodes[0]!.target.snapshotChanges.at(-1)).toMatchObject({ change: 'delete', snapshotId: idToBigint(lost) });
});

test('one that failed and cannot be taken back yet gets no name: it goes in the end', async () => {
  const { target } = nodes[0]!;
  await crash(() => Promise.resolve());
  target.refuseSnapshots = new HoldfastError('NO_IN_SYNC_REPLICA', 'none can be reached');
  await expect(manager.api.createSnapshot('db', 's')).rejects.toMatchObject({ code: 'NO_IN_SYNC_REPLICA' });
  const [failed] = target.snapshotRequests.slice(-1);
  for (const { replica } of nodes) replica.snapshots = [{ id: failed!.snapshotId, sizeBlocks: 2048n }];
  target.onSnapshotChange = () => {
    for (const { replica } of nodes) replica.snapshots = [];
  };
  await new Promise((resolve) => setTimeout(resolve, 500));
  target.refuseSnapshots = null;
  await vi.waitFor(
    () => {
      expect(target.snapshotChanges).toMatchObject([{ change: 'delete', snapshotId: failed!.snapshotId }]);
    },
    { timeout: 60_000, interval: 20 },
  );
  expect(await states()).toEqual([]);
});

test('a target process of a version before the stream is told by calls', async () => {
  nodes[0]!.target.knowsSnapshotCallsOnly = true;
  expect(await manager.api.createSnapshot('db', 's')).toMatchObject({ state: 'ready' });
  expect(await manager.api.createSnapshot('db', 't')).toMatchObject({ state: 'ready' });
  expect(changes()).toEqual(['create', 'create']);
});

test('an engine that went without a word is noticed, and so is a target process that was started again', async () => {
  const { target } = nodes[0]!;
  await manager.api.createSnapshot('db', 'before');
  target.attached.clear();
  expect(await manager.api.createSnapshot('db', 'between')).toMatchObject({ state: 'ready' });
  expect(target.attached.size).toBe(1);
  await target.restart();
  await nodes[0]!.report();
  expect(await manager.api.createSnapshot('db', 'after')).toMatchObject({ state: 'ready' });
  expect(await states()).toEqual(['before ready', 'between ready', 'after ready']);
  expect(new Set(target.snapshotChanges.map(({ snapshotId }) => snapshotId)).size).toBe(3);
  expect(changes()).toEqual(['create', 'create', 'create']);
});

test('confirmations: many in one transaction, those that changed meanwhile not, and again after a failure', async () => {
  const revisions = new Map<string, number>();
  const stored: string[][] = [];
  let broken = true;
  const confirmations = new SnapshotConfirmations(
    {
      transact: (compares, list) => {
        if (broken) return Promise.reject(new HoldfastError('STORE_UNAVAILABLE', 'full'));
        const succeeded = compares.every(({ key, modRevision }) => revisions.get(key) === modRevision);
        if (succeeded) stored.push(list.map(({ key }) => key));
        return Promise.resolve({ succeeded, revision: 1 });
      },
    },
    60_000,
  );
  const record = (id: string, phase: SnapshotRecord['phase'] = 'ready'): SnapshotRecord => ({
    ...{ version: 2, id, volume: 'v', name: id, createdAt: '', phase },
  });
  for (const id of ['a', 'b', 'c', 'd']) {
    revisions.set(id, 1);
    const change = { kind: 'put', key: id, value: '' } as const;
    confirmations.add({ record: record(id), compare: { key: id, modRevision: 1 }, change });
  }
  expect(confirmations.of(record('a', 'creating')).phase).toBe('ready');
  await expect(confirmations.write()).rejects.toThrow('full');
  expect(confirmations.of(record('a', 'creating')).phase).toBe('ready');
  broken = false;
  revisions.set('b', 2); // deleted meanwhile, by somebody else
  confirmations.forget('d');
  await confirmations.stop();
  expect(stored).toEqual([['a'], ['c']]);
  expect(confirmations.of(record('a', 'creating')).phase).toBe('creating');
});

test('confirmations are stored two at a time along with others, and the rest when no more come', async () => {
  vi.useFakeTimers();
  try {
    const stored: (readonly string[])[] = [];
    const confirmations = new SnapshotConfirmations({
      transact: (_, list) => {
        stored.push(list.map(({ key }) => key));
        return Promise.resolve({ succeeded: true, revision: 1 });
      },
    });
    const add = (id: string) => {
      confirmations.add({
        record: { version: 2, id, volume: 'v', name: id, createdAt: '', phase: 'ready' },
        compare: { key: id, modRevision: 1 },
        change: { kind: 'put', key: id, value: '' },
      });
    };
    for (const id of ['a', 'b', 'c']) add(id);
    await vi.advanceTimersByTimeAsync(900);
    confirmations.writeAlong();
    confirmations.writeAlong();
    add('d');
    add('e');
    await vi.advanceTimersByTimeAsync(999);
    expect(stored).toEqual([
      ['a', 'b'],
      ['c', 'd'],
    ]);
    await vi.advanceTimersByTimeAsync(1);
    expect(stored.slice(2)).toEqual([['e']]);
    confirmations.writeAlong();
    await confirmations.stop();
    expect(stored.length).toBe(3);
  } finally {
    vi.useRealTimers();
  }
});
