// Clones as the manager makes them, without a data plane: where linked replicas go, and what becomes of a copy that a crash cut short.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { HoldfastError } from '../errors/holdfast-error.js';
import { silentLogger } from '../log/logger.js';
import { openLmdbMetastore } from '../metastore/lmdb-metastore.js';
import { createGrpcDataPlane } from './grpc-data-plane.js';
import { idToBigint } from './ids.js';
import { startManager } from './manager.js';
import type { Manager } from './manager.js';
import { Repository } from './repository.js';
import { FakeNode } from './testing/fake-data-plane.js';

const mib = 2 ** 20;
let folder: string;
let manager: Manager;
let nodes: FakeNode[];

async function start(listen: string): Promise<void> {
  manager = await startManager({
    store: await openLmdbMetastore(join(folder, 'metastore')),
    dataPlane: createGrpcDataPlane(),
    logger: silentLogger,
    listen,
    version: '1.2.3',
    settleMs: 2_000,
    patienceMs: 500,
  });
  await Promise.all(nodes.map((node) => node.connect(manager.address)));
}

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-clones-'));
  nodes = [1, 2, 3].map((number) => new FakeNode(number));
  await Promise.all(nodes.map((node) => node.start()));
  await start('127.0.0.1:0');
  await manager.api.createVolume({ name: 'db', size: 10 * mib, replicas: 3, blockSize: 512 });
  const { id } = await manager.api.createSnapshot('db', 's');
  for (const { replica } of nodes) replica.snapshots = [{ id: idToBigint(id), sizeBlocks: 2048n }];
});

afterEach(async () => {
  for (const node of nodes) node.stop();
  await manager.close();
  rmSync(folder, { recursive: true, force: true });
});

test('linked replicas are made on the disks of the source, of its replicas there', async () => {
  const source = await manager.api.getVolume('db');
  const clone = await manager.api.cloneVolume({ source: 'db', snapshot: 's', name: 'linked', linked: true });
  expect(clone).toMatchObject({ state: 'detached', size: 8 * mib, linkedTo: 'db@s', copies: 3 });
  expect(clone.replicas.map(({ node }) => node)).toEqual(source.replicas.map(({ node }) => node));
  for (const [i, node] of nodes.entries()) {
    const made = node.replica.replicas.get(idToBigint(clone.replicas[i]!.id));
    expect(made?.sourceReplicaId).toBe(idToBigint(source.replicas[i]!.id));
    expect(made?.snapshotId).toBe(node.replica.snapshots[0]?.id);
  }
  expect(await manager.api.deleteVolume('db', true)).toMatchObject({ linkedClones: ['linked'] });
});

test('what one disk cannot do is rebuilt; when none can, nothing is left', async () => {
  nodes[2]!.replica.refuseCreate = new HoldfastError('NOT_FOUND', 'no such snapshot');
  const clone = await manager.api.cloneVolume({ source: 'db', snapshot: 's', name: 'two', linked: true });
  expect(clone.inSync).toHaveLength(2);
  expect(clone.copies).toBe(3);
  for (const node of nodes) node.replica.refuseCreate = new HoldfastError('NOT_FOUND', 'no such snapshot');
  await expect(manager.api.cloneVolume({ source: 'db', snapshot: 's', name: 'none', linked: true })).rejects.toThrow(
    expect.objectContaining({ code: 'NOT_FOUND' }) as Error,
  );
  expect((await manager.api.listVolumes()).map(({ name }) => name)).not.toContain('none');
});

test('a full clone that a crash cut short is removed and made again', async () => {
  const { address } = manager;
  await manager.close();
  const store = await openLmdbMetastore(join(folder, 'metastore'));
  const repository = new Repository(store);
  const { record } = await repository.volume('db');
  const [snapshot] = await repository.listSnapshots(record.id);
  const half = 'aaaaaaaaaaaaaaaa';
  await repository.insertVolume({
    ...record,
    id: half,
    name: 'half',
    phase: 'copying',
    replicas: [{ id: 'bbbbbbbbbbbbbbbb', node: 'node1', disk: 'disk1' }],
    inSync: ['bbbbbbbbbbbbbbbb'],
    copying: { run: 'gone', source: record.id, snapshot: snapshot!.id, temporary: true },
  });
  await store.close();
  await start(address);
  await vi.waitFor(
    async () => {
      const again = await manager.api.getVolume('half');
      expect(again.id).not.toBe(half);
      expect(again.state).toBe('detached');
      // The snapshot was taken for it alone.
      expect(await manager.api.listSnapshots('db')).toEqual([]);
    },
    { timeout: 60_000, interval: 50 },
  );
  const copies = nodes.flatMap((node) => node.target.copies);
  expect(copies).toHaveLength(1);
  expect(copies[0]?.snapshotId).toBe(idToBigint(snapshot!.id));
}, 90_000);
