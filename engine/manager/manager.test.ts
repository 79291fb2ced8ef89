// The manager with everything but a data plane: its store, its reconciler, gRPC, REST.
import { mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { credentials, Metadata } from '@grpc/grpc-js';
import type { ServiceError } from '@grpc/grpc-js';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { request } from '../api/rest-client.js';
import { fromServiceError } from '../errors/grpc-errors.js';
import { HoldfastError } from '../errors/holdfast-error.js';
import { ManagerClient } from '../generated/holdfast/v1/manager.js';
import type { Volume } from '../generated/holdfast/v1/manager.js';
import { MembershipClient } from '../generated/holdfast/v1/target.js';
import type { ChangeInSyncSetRequest } from '../generated/holdfast/v1/target.js';
import { silentLogger } from '../log/logger.js';
import { openLmdbMetastore } from '../metastore/lmdb-metastore.js';
import { createGrpcDataPlane } from './grpc-data-plane.js';
import { idToBigint } from './ids.js';
import { changeInSyncSet } from './membership.js';
import { Repository } from './repository.js';
import { startManager } from './manager.js';
import type { Manager } from './manager.js';
import { FakeNode } from './testing/fake-data-plane.js';
import type { AttachmentView, DiskView, NodeView, ProcessView, VolumeView } from './views.js';

const mib = 2 ** 20;
let folder: string;
let manager: Manager;
let nodes: FakeNode[];

async function start(listen = '127.0.0.1:0'): Promise<void> {
  manager = await startManager({
    store: await openLmdbMetastore(join(folder, 'metastore')),
    dataPlane: createGrpcDataPlane(),
    logger: silentLogger,
    listen,
    version: '1.2.3',
    settleMs: 2_000,
    patienceMs: 500,
    choresEveryMs: 100,
  });
}

async function restartManager(alone: () => void = () => undefined): Promise<void> {
  const { address } = manager;
  await manager.close();
  await start(address);
  alone();
  await Promise.all(nodes.map((node) => node.connect(manager.address)));
  await manager.settle();
}

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-manager-'));
  nodes = [1, 2, 3].map((number) => new FakeNode(number));
  await Promise.all(nodes.map((node) => node.start()));
  await start();
  await Promise.all(nodes.map((node) => node.connect(manager.address)));
});

afterEach(async () => {
  for (const node of nodes) node.stop();
  await manager.close();
  rmSync(folder, { recursive: true, force: true });
});

const node = (number: number): FakeNode => nodes[number - 1]!;
const create = (name = 'db', replicas = 3) =>
  manager.api.createVolume({ name, size: 10 * mib, replicas, blockSize: 512 });
const rejection = (code: string) => expect.objectContaining({ code }) as Error;
const replicasEverywhere = () => nodes.reduce((sum, each) => sum + each.replica.replicas.size, 0);

describe('create', () => {
  test('makes complete replicas on three nodes', async () => {
    const volume = await create();
    expect(volume).toMatchObject({ name: 'db', state: 'detached', health: 'healthy', epoch: 0, usedBytes: 4096 });
    expect(volume.replicas.map((replica) => replica.node)).toEqual(['node1', 'node2', 'node3']);
    expect(volume.inSync).toHaveLength(3);
    const made = [...node(1).replica.replicas.values()];
    expect(made).toEqual([
      {
        replicaId: idToBigint(volume.replicas[0]!.id),
        volumeId: idToBigint(volume.id),
        sizeBlocks: 2560n,
        complete: true,
        sourceReplicaId: 0n,
        snapshotId: 0n,
      },
    ]);
  });

  test('refuses what cannot be, and changes nothing', async () => {
    await create();
    await expect(create()).rejects.toThrow(rejection('ALREADY_EXISTS'));
    await expect(create('Bad')).rejects.toThrow(rejection('INVALID_ARGUMENT'));
    await expect(create('many', 4)).rejects.toThrow(rejection('NOT_ENOUGH_DISKS'));
    const huge = manager.api.createVolume({ name: 'huge', size: 2 ** 40, replicas: 3, blockSize: 512 });
    await expect(huge).rejects.toThrow(rejection('NO_SPACE'));
    expect(await manager.api.listVolumes()).toHaveLength(1);
    expect(replicasEverywhere()).toBe(3);
  });

  test('leaves nothing behind when a disk refuses', async () => {
    node(3).replica.refuseCreate = new HoldfastError('DISK_IO', 'sector 7 is gone');
    await expect(create()).rejects.toThrow(/disk1 of node3.*sector 7 is gone/);
    await manager.settle();
    expect(replicasEverywhere()).toBe(0);
    expect(await manager.api.listVolumes()).toEqual([]);
    node(3).replica.refuseCreate = null;
    await create();
  });

  test('two at once of one name: one of them is made', async () => {
    const outcomes = await Promise.allSettled([create(), create()]);
    expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    expect(replicasEverywhere()).toBe(3);
  });
});

describe('attach and detach', () => {
  test('gives an epoch and says how to reach the volume; again gives the same answer', async () => {
    const volume = await create();
    const attachment = await manager.api.attachVolume('db', null);
    expect(attachment).toEqual({
      volume: 'db',
      epoch: 1,
      node: 'node1',
      iscsi: {
        portal: '127.0.0.1:3260',
        iqn: 'iqn.2026-11.io.holdfast:db',
        lun: 0,
        url: 'iscsi://127.0.0.1:3260/iqn.2026-11.io.holdfast:db/0',
      },
      takeover: null,
      servedFrom: null,
      nfs: null,
    });
    expect(await manager.api.attachVolume('db', 'node1')).toEqual(attachment);
    expect(node(1).target.epochs).toEqual([1n]);
    const asked = node(1).target.attached.get(idToBigint(volume.id));
    expect(asked?.replicas.map(({ local, inSync }) => [local, inSync])).toEqual([
      [true, true],
      [false, true],
      [false, true],
    ]);
    expect(await manager.api.getVolume('db')).toMatchObject({ state: 'attached', health: 'healthy', node: 'node1' });
  });

  test('elsewhere is refused while attached, and every attach has a higher epoch', async () => {
    await create();
    await manager.api.attachVolume('db', 'node2');
    await expect(manager.api.attachVolume('db', 'node1')).rejects.toThrow(rejection('VOLUME_ATTACHED'));
    await manager.api.detachVolume('db', false);
    expect(node(2).target.attached.size).toBe(0);
    expect((await manager.api.attachVolume('db', 'node1')).epoch).toBe(2);
    await expect(manager.api.attachVolume('db', 'node9')).rejects.toThrow(rejection('NOT_FOUND'));
    await expect(manager.api.attachVolume('none', null)).rejects.toThrow(rejection('NOT_FOUND'));
  });

  test('an attach that fails leaves the volume detached, and its epoch used', async () => {
    await create();
    node(1).target.refuseAttach = new HoldfastError('NO_IN_SYNC_REPLICA', 'nobody is there');
    await expect(manager.api.attachVolume('db', null)).rejects.toThrow(rejection('NO_IN_SYNC_REPLICA'));
    expect(await manager.api.getVolume('db')).toMatchObject({ state: 'detached', node: null });
    node(1).target.refuseAttach = null;
    await manager.settle();
    expect(node(1).target.attached.size).toBe(0);
    expect((await manager.api.attachVolume('db', null)).epoch).toBe(2);
  });

  test('a target that was started again gets its volumes back, with new epochs', async () => {
    await create('a');
    await create('b');
    await manager.api.attachVolume('a', 'node1');
    await manager.api.attachVolume('b', 'node1');
    await node(1).target.restart();
    await node(1).report();
    await manager.settle();
    expect([...node(1).target.attached.values()].map(({ name, epoch }) => [name, epoch]).sort()).toEqual([
      ['a', 2n],
      ['b', 2n],
    ]);
  });

  test('an attach waits for a replica process that is just being started', async () => {
    const volume = await create();
    node(2).replicaRuns = false;
    await node(2).report();
    const attaching = manager.api.attachVolume('db', 'node1');
    expect(await Promise.race([attaching.then(() => 'attached'), sleep(300).then(() => 'waiting')])).toBe('waiting');
    node(2).replica.kill();
    node(2).replica.port = 0;
    await node(2).replica.start();
    node(2).replicaRuns = true;
    await node(2).report();
    await attaching;
    const asked = node(1).target.attached.get(idToBigint(volume.id));
    expect(asked?.replicas.map(({ address }) => address)).toContain(`127.0.0.1:${node(2).replica.port}`);
    expect(node(1).target.epochs).toEqual([1n]);
  });

  test('a restart of the manager touches no engine', async () => {
    await create();
    await manager.api.attachVolume('db', 'node1');
    await restartManager();
    expect(node(1).target.epochs).toEqual([1n]);
    expect(await manager.api.attachVolume('db', null)).toMatchObject({ epoch: 1, node: 'node1' });
  });

  test('what is asked before the agents are back is answered with what they say', async () => {
    await create();
    await manager.api.attachVolume('db', 'node1');
    const asked: Promise<unknown>[] = [];
    await restartManager(() => {
      const { api } = manager;
      asked.push(api.listVolumes(), api.getVolume('db'), api.getStatus(), api.listNodes(), api.getMetrics());
    });
    const [volumes, volume, status, nodeList, metrics] = await Promise.all(asked);
    expect(volumes).toMatchObject([{ state: 'attached', health: 'healthy' }]);
    expect(volume).toMatchObject({ state: 'attached', health: 'healthy' });
    expect(status).toMatchObject({ health: 'healthy', nodes: { online: 3 } });
    expect(nodeList).toMatchObject([{ state: 'online' }, { state: 'online' }, { state: 'online' }]);
    expect(metrics).toContain('holdfast_volume_health{volume="db",health="healthy"} 1');
  });

  test('an engine that nobody wants is stopped', async () => {
    const volume = await create();
    await manager.api.attachVolume('db', 'node1');
    const asked = node(1).target.attached.get(idToBigint(volume.id))!;
    node(2).target.attached.set(asked.volumeId, asked);
    await restartManager();
    expect(node(2).target.attached.size).toBe(0);
    expect(node(1).target.attached.size).toBe(1);
  });

  test('detach waits for the truth, unless forced', async () => {
    await create();
    await manager.api.attachVolume('db', 'node1');
    node(1).target.kill();
    node(1).targetRuns = false;
    await node(1).report();
    await expect(manager.api.detachVolume('db', false)).rejects.toThrow(rejection('CONNECTION_LOST'));
    expect((await manager.api.getVolume('db')).node).toBe('node1');
    expect(await manager.api.detachVolume('db', true)).toMatchObject({ state: 'detached' });
    expect((await manager.api.attachVolume('db', 'node2')).epoch).toBe(2);
  });

  test('other portals send initiators to the right one', async () => {
    await create();
    await manager.api.attachVolume('db', 'node1');
    await manager.settle();
    expect(node(2).target.redirects).toEqual([{ iqn: 'iqn.2026-11.io.holdfast:db', portal: '127.0.0.1:3260' }]);
    expect(node(1).target.redirects).toEqual([]);
    expect([1, 2].map((n) => node(n).target.expectedIqns)).toEqual([['iqn.2026-11.io.holdfast:db'], []]);
    await manager.api.detachVolume('db', false);
    await manager.settle();
    expect(node(2).target.redirects).toEqual([]);
  });
});

describe('resize', () => {
  test('attached: at once; detached: with the next attach; never smaller', async () => {
    const { id } = await create();
    await manager.api.attachVolume('db', 'node1');
    expect((await manager.api.resizeVolume('db', 20 * mib)).size).toBe(20 * mib);
    expect(node(1).target.sizes.get(idToBigint(id))).toBe(20n * 2n ** 20n);
    await manager.api.detachVolume('db', false);
    expect((await manager.api.resizeVolume('db', 30 * mib)).size).toBe(30 * mib);
    await manager.api.attachVolume('db', 'node1');
    expect(node(1).target.sizes.get(idToBigint(id))).toBe(30n * 2n ** 20n);
    await expect(manager.api.resizeVolume('db', 20 * mib)).rejects.toThrow(rejection('INVALID_ARGUMENT'));
    await expect(manager.api.resizeVolume('db', 2 ** 40)).rejects.toThrow(rejection('NO_SPACE'));
  });

  test('a log that is ahead of the record decides', async () => {
    const { id } = await create();
    node(1).target.sizes.set(idToBigint(id), 40n * 2n ** 20n);
    await manager.api.attachVolume('db', 'node1');
    expect((await manager.api.getVolume('db')).size).toBe(40 * mib);
  });

  test('what is detached is not moved', async () => {
    await create();
    await expect(manager.api.moveVolume('db', 'node2')).rejects.toThrow(rejection('VOLUME_DETACHED'));
  });

  test('a volume that lost writes is not served by accident', async () => {
    const { id } = await create();
    await new Repository(manager.store).updateVolume(id, (record) => ({ ...record, lostData: 'node1 lost its disk' }));
    await expect(manager.api.attachVolume('db', null)).rejects.toThrow(rejection('DATA_LOSS'));
    expect(await manager.api.getVolume('db')).toMatchObject({ state: 'detached' });
  });
});

describe('the trash', () => {
  test('a deleted volume keeps its replicas, frees its name, and comes back whole', async () => {
    const volume = await create();
    const deleted = await manager.api.deleteVolume('db', false);
    expect(deleted.restorableUntil).not.toBeNull();
    expect(replicasEverywhere()).toBe(3);
    const other = await create();
    expect(other.id).not.toBe(volume.id);
    await expect(manager.api.restoreVolume('db', null)).rejects.toThrow(rejection('ALREADY_EXISTS'));
    expect(await manager.api.restoreVolume(volume.id, 'db-old')).toBe('db-old');
    expect(await manager.api.getVolume('db-old')).toMatchObject({ id: volume.id, inSync: volume.inSync });
    expect(await manager.api.listTrash()).toEqual([]);
    await manager.api.attachVolume('db-old', null);
    await expect(manager.api.purgeVolume('db-old')).rejects.toThrow(rejection('NOT_FOUND'));
  });

  test('purged by hand, or when its time is over', async () => {
    await create();
    await manager.api.deleteVolume('db', false);
    await create();
    await manager.api.deleteVolume('db', false);
    await expect(manager.api.purgeVolume('db')).rejects.toThrow(rejection('INVALID_ARGUMENT'));
    const [first, second] = await manager.api.listTrash();
    await manager.api.purgeVolume(first?.id ?? '');
    expect(replicasEverywhere()).toBe(3);
    expect(await manager.api.listTrash()).toEqual([second]);
    await manager.api.changeSettings({ trashSeconds: 1 });
    await create();
    await manager.api.deleteVolume('db', false);
    await expect.poll(async () => (await manager.api.listTrash()).length).toBe(1);
    await expect.poll(replicasEverywhere).toBe(3);
  });
});

describe('replicas that move', () => {
  test('a disk that is evicted keeps its replica until another one is in-sync', async () => {
    const extra = new FakeNode(4);
    nodes.push(extra);
    await extra.start();
    await extra.connect(manager.address);
    const volume = await create();
    const attached = await manager.api.attachVolume('db', null);
    const [, place] = volume.replicas;
    expect(await manager.api.getEmptying(place?.node ?? '', null)).toMatchObject({ replicas: ['db'], blocked: [] });
    await manager.api.changeDisk(place?.node ?? '', 'disk1', { evicting: true });
    await manager.settle();
    const moving = await manager.api.getVolume('db');
    expect(moving.replicas).toHaveLength(4);
    expect(moving.inSync).toEqual(volume.inSync);
    const added = moving.replicas.find(({ id }) => !volume.inSync.includes(id));
    // What the engine says when the rebuild is done.
    await changeInSyncSet(new Repository(manager.store), {
      volumeId: volume.id,
      epoch: attached.epoch,
      inSync: [...volume.inSync, added?.id ?? ''],
      reason: 'rebuilt',
      sequence: 1,
    });
    manager.kick();
    await manager.settle();
    await expect.poll(async () => (await manager.api.getVolume('db')).replicas.length).toBe(3);
    expect((await manager.api.getVolume('db')).inSync).toContain(added?.id);
    await expect.poll(replicasEverywhere).toBe(3);
    expect(await manager.api.getEmptying(place?.node ?? '', 'disk1')).toMatchObject({ done: true });
    await manager.api.removeDisk(place?.node ?? '', 'disk1', true);
  });

  test('what cannot move stays, and says why; a disk that holds replicas is not removed', async () => {
    const volume = await create();
    const node = volume.replicas[0]?.node ?? '';
    await manager.api.changeNode(node, { draining: true });
    await manager.settle();
    const view = await manager.api.getEmptying(node, null);
    expect(view).toMatchObject({
      done: false,
      replicas: ['db'],
      blocked: [{ volume: 'db', reason: expect.stringMatching(/no other disk/) as string }],
    });
    expect((await manager.api.getVolume('db')).replicas).toHaveLength(3);
    await expect(manager.api.removeDisk(node, 'disk1', true)).rejects.toThrow(rejection('FAILED_PRECONDITION'));
    const explained = await manager.api.explainVolume('db');
    expect(explained.disks.find((disk) => disk.node === node)).toMatchObject({ holds: true, accepted: false });
  });

  test('a node that is drained gives its volumes to another one', async () => {
    await create();
    const { node } = await manager.api.attachVolume('db', null);
    await manager.api.changeNode(node, { draining: true });
    await expect.poll(async () => (await manager.api.getVolume('db')).node).not.toBe(node);
    await expect.poll(async () => (await manager.api.getVolume('db')).epoch).toBeGreaterThan(1);
    await expect(manager.api.changeNode('node9', { cordoned: true })).rejects.toThrow(rejection('NOT_FOUND'));
  });
});

describe('policies and settings', () => {
  test('a policy gives what was not asked for; one that is used stays', async () => {
    await manager.api.putPolicy({
      name: 'small',
      replicas: 2,
      qos: { operationsPerSecond: 5, bytesPerSecond: 0, burstSeconds: 1 },
    });
    const made = await manager.api.createVolume({
      name: 'p',
      size: 2 ** 20,
      replicas: null,
      blockSize: 512,
      policy: 'small',
    });
    expect(made.replicas).toHaveLength(2);
    await expect(manager.api.removePolicy('small')).rejects.toThrow(rejection('IN_USE'));
    await expect(
      manager.api.createVolume({ name: 'q', size: 2 ** 20, replicas: null, blockSize: 512, policy: 'no' }),
    ).rejects.toThrow(rejection('NOT_FOUND'));
    await expect(manager.api.changeVolume('p', { replicas: 5 })).rejects.toThrow(rejection('NOT_ENOUGH_DISKS'));
    const chap = { user: 'u', secret: 'short' };
    await expect(manager.api.changeVolume('p', { access: { chap, mutualChap: null, initiators: [] } })).rejects.toThrow(
      rejection('INVALID_ARGUMENT'),
    );
  });
});

describe('delete', () => {
  test('refused while attached, complete when detached', async () => {
    await create();
    await manager.api.attachVolume('db', null);
    await expect(manager.api.deleteVolume('db', true)).rejects.toThrow(rejection('VOLUME_ATTACHED'));
    await manager.api.detachVolume('db', false);
    expect(await manager.api.deleteVolume('db', true)).toEqual({
      volume: 'db',
      pendingReplicas: [],
      restorableUntil: null,
      linkedClones: [],
    });
    expect(replicasEverywhere()).toBe(0);
    await create();
  });

  test('replicas on a disk that is away are deleted when it is back, also after a restart of the manager', async () => {
    const volume = await create();
    node(3).replica.kill();
    node(3).replicaRuns = false;
    await node(3).report();
    expect((await manager.api.deleteVolume('db', true)).pendingReplicas).toEqual([volume.replicas[2]!.id]);
    await restartManager();
    expect(replicasEverywhere()).toBe(1);
    await node(3).replica.start();
    node(3).replicaRuns = true;
    await node(3).report();
    await manager.settle();
    expect(replicasEverywhere()).toBe(0);
  });
});

describe('service Membership', () => {
  async function change(more: Partial<ChangeInSyncSetRequest>): Promise<void> {
    const client = new MembershipClient(manager.address, credentials.createInsecure());
    const base = { volumeId: 0n, epoch: 1n, inSync: [], reason: 'test', sequence: 0n };
    try {
      await new Promise<void>((resolve, reject) => {
        client.changeInSyncSet({ ...base, ...more }, new Metadata(), (error: ServiceError | null) => {
          if (error === null) resolve();
          else reject(fromServiceError(error, 'manager'));
        });
      });
    } finally {
      client.close();
    }
  }

  test('stores the set for the owner of the epoch only, durably', async () => {
    const volume = await create();
    await manager.api.attachVolume('db', 'node1');
    const volumeId = idToBigint(volume.id);
    const two = volume.inSync.slice(0, 2);
    await change({ volumeId, inSync: two.map(idToBigint), sequence: 1n });
    await expect(change({ volumeId, epoch: 0n, inSync: volume.inSync.map(idToBigint) })).rejects.toThrow(
      rejection('EPOCH_SUPERSEDED'),
    );
    await expect(change({ volumeId: 99n, inSync: two.map(idToBigint) })).rejects.toThrow(rejection('EPOCH_SUPERSEDED'));
    await expect(change({ volumeId, inSync: [] })).rejects.toThrow(rejection('INVALID_ARGUMENT'));
    await restartManager();
    expect((await manager.api.getVolume('db')).inSync).toEqual(two);
    await node(1).target.restart();
    await node(1).report();
    await manager.settle();
    const asked = node(1).target.attached.get(volumeId);
    expect(asked?.replicas.map(({ inSync }) => inSync)).toEqual([true, true, false]);
    expect(await manager.api.getVolume('db')).toMatchObject({ health: 'degraded' });
  });

  test('reservations come back with the next engine', async () => {
    const volume = await create();
    await manager.api.attachVolume('db', 'node1');
    const client = new MembershipClient(manager.address, credentials.createInsecure());
    await new Promise<void>((resolve, reject) => {
      const message = { volumeId: idToBigint(volume.id), epoch: 1n, reservations: Buffer.from('keys') };
      client.saveReservations(message, new Metadata(), (error: ServiceError | null) => {
        if (error === null) resolve();
        else reject(error);
      });
    });
    client.close();
    await manager.api.detachVolume('db', false);
    await manager.api.attachVolume('db', 'node2');
    const asked = node(2).target.attached.get(idToBigint(volume.id));
    expect(Buffer.from(asked?.reservations ?? []).toString()).toBe('keys');
  });
});

describe('what is shown', () => {
  test('nodes, disks and processes, with what is away', async () => {
    await create();
    node(2).disconnect();
    node(3).replicaRuns = false;
    await node(3).report();
    await expect
      .poll(async () => (await manager.api.listNodes()).map(({ state }) => state))
      .toEqual(['online', 'offline', 'starting']);
    const disks: readonly DiskView[] = await manager.api.listDisks();
    expect(disks.map(({ state }) => state)).toEqual(['online', 'online', 'starting']);
    expect(disks[0]).toMatchObject({ scheduledBytes: 10 * mib, replicas: 1, directory: '/disks/node1' });
    const processes: readonly ProcessView[] = await manager.api.listProcesses();
    expect(processes.map((each) => `${each.node ?? '-'} ${each.role}`)).toEqual([
      '- manager',
      'node1 agent',
      'node1 target',
      'node1 replica',
      'node2 target',
      'node2 replica',
      'node3 agent',
      'node3 target',
    ]);
    expect(await manager.api.getVolume('db')).toMatchObject({ health: 'degraded' });
  });

  test('another disk at the place of a known one is not used', async () => {
    const { address } = manager;
    node(2).disconnect();
    const impostor = new FakeNode(2);
    nodes.push(impostor);
    await impostor.start();
    Object.assign(impostor.replica, { diskId: 'f'.repeat(32) });
    await impostor.connect(address);
    const disk = (await manager.api.listDisks()).find((each) => each.node === 'node2');
    expect(disk).toMatchObject({ state: 'failed', id: '2'.repeat(32) });
    await expect(create()).rejects.toThrow(rejection('NOT_ENOUGH_DISKS'));
  });
});

describe('one port for REST and gRPC', () => {
  test('REST carries the same shapes, and errors with codes', async () => {
    const made = await request<VolumeView>(manager.address, 'POST', '/v1/volumes', { name: 'db', size: 10 * mib });
    expect(made).toEqual(await manager.api.getVolume('db'));
    const attached = await request<AttachmentView>(manager.address, 'POST', '/v1/volumes/db/attach', {});
    expect(attached.epoch).toBe(1);
    expect(await request<readonly NodeView[]>(manager.address, 'GET', '/v1/nodes')).toHaveLength(3);
    await expect(request(manager.address, 'DELETE', '/v1/volumes/db')).rejects.toThrow(rejection('VOLUME_ATTACHED'));
    await expect(request(manager.address, 'GET', '/v1/volumes/none')).rejects.toThrow(rejection('NOT_FOUND'));
    await expect(request(manager.address, 'GET', '/v2/volumes')).rejects.toThrow(rejection('NOT_FOUND'));
    await expect(request(manager.address, 'PUT', '/v1/volumes')).rejects.toThrow(rejection('UNIMPLEMENTED'));
    await expect(request(manager.address, 'POST', '/v1/volumes', { name: 'x', size: '10Gi' })).rejects.toThrow(
      rejection('INVALID_ARGUMENT'),
    );
  });

  test('REST refuses what a web page of another origin could send', async () => {
    const plain = await fetch(`http://${manager.address}/v1/volumes`, {
      method: 'POST',
      headers: { 'content-type': 'text/plain' },
      body: '{"name":"x","size":1048576}',
    });
    expect(plain.status).toBe(400);
    expect(await manager.api.listVolumes()).toEqual([]);
  });

  test('gRPC carries the same, with the code in the trailer', async () => {
    const client = new ManagerClient(manager.address, credentials.createInsecure());
    const made = await new Promise<Volume>((resolve, reject) => {
      const input = { name: 'db', size: 10n * 2n ** 20n, replicas: 0, blockSize: 0 };
      client.createVolume(input, (error, volume) => {
        if (error === null) resolve(volume);
        else reject(error);
      });
    });
    expect(made).toMatchObject({ name: 'db', size: 10n * 2n ** 20n, blockSize: 512, node: undefined });
    expect(made.replicas).toHaveLength(3);
    const error = await new Promise<ServiceError | null>((resolve) => {
      client.getVolume({ name: 'none' }, (failure) => {
        resolve(failure);
      });
    });
    expect(fromServiceError(error!, 'manager')).toMatchObject({ code: 'NOT_FOUND' });
    client.close();
  });
});

test('what the drive of a disk says is shown, and a bad verdict is a problem', async () => {
  expect((await manager.api.listDisks())[0]?.smart).toBeNull();
  node(2).smart = {
    passed: false,
    temperatureCelsius: 51,
    powerOnHours: 9n,
    wearPercent: undefined,
    badSectors: 12n,
  };
  await node(2).report();
  expect((await manager.api.listDisks()).map(({ smart }) => smart)).toEqual([
    null,
    { passed: false, temperatureCelsius: 51, powerOnHours: 9, wearPercent: null, badSectors: 12 },
    null,
  ]);
  expect((await manager.api.getStatus()).problems).toContainEqual(
    expect.objectContaining({ object: 'disk disk1 of node2', problem: expect.stringContaining('SMART') as string }),
  );
  expect(await manager.api.getMetrics()).toContain('holdfast_disk_smart_bad_sectors{node="node2",disk="disk1"} 12');
});

test('REST: what has no body needs no content type, unless a web page could send it', async () => {
  await create();
  const url = `http://${manager.address}/v1/volumes`;
  expect((await fetch(`${url}/db/attach`, { method: 'POST' })).status).toBe(400);
  expect((await fetch(`${url}/db?purge=true`, { method: 'DELETE' })).status).toBe(200);
  const headers = { 'content-type': 'application/json' };
  const long = await fetch(url, { method: 'POST', headers, body: JSON.stringify({ name: 'x'.repeat(70_000) }) });
  expect(long.status).toBe(413);
});

test('REST: nobody can make the manager read a body without end', async () => {
  const [host = '', port = ''] = manager.address.split(':');
  const socket = connect(Number(port), host);
  const head = ['POST /v1/volumes HTTP/1.1', `host: ${host}`, 'content-type: application/json'];
  socket.write([...head, 'transfer-encoding: chunked', '', ''].join('\r\n'));
  const piece = `4000\r\n${'x'.repeat(0x4000)}\r\n`;
  const more = () => {
    while (!socket.destroyed && socket.write(piece));
  };
  socket.on('drain', more);
  socket.on('error', () => undefined); // it is reset, with what was on its way
  socket.resume();
  const closed = new Promise((resolve) => socket.once('close', resolve));
  more();
  await closed;
});

describe('map', () => {
  const device = (via: 'fuse' | 'iscsi' = 'fuse') => ({ name: 'db', node: null, via });

  test('attaches, and unmap detaches again', async () => {
    await create();
    expect(await manager.api.mapVolume(device())).toMatchObject({ node: 'node1', via: 'fuse', device: '/dev/loop7' });
    expect(await manager.api.getVolume('db')).toMatchObject({
      state: 'attached',
      device: { via: 'fuse', node: 'node1', path: '/dev/loop7' },
    });
    await expect(manager.api.detachVolume('db', false)).rejects.toEqual(rejection('IN_USE'));
    expect(await manager.api.unmapVolume('db', false)).toMatchObject({ state: 'detached', device: null });
    expect(node(1).target.devices.size).toBe(0);
  });

  test('of an attached volume leaves it attached afterwards', async () => {
    await create();
    await manager.api.attachVolume('db', 'node2');
    expect(await manager.api.mapVolume(device())).toMatchObject({ node: 'node2' });
    expect(await manager.api.unmapVolume('db', false)).toMatchObject({ state: 'attached', device: null });
  });

  test('one way at a time', async () => {
    await create();
    expect(await manager.api.mapVolume(device('iscsi'))).toMatchObject({ via: 'iscsi', device: null });
    expect(node(1).target.devices.size).toBe(0);
    await expect(manager.api.mapVolume(device('fuse'))).rejects.toEqual(rejection('IN_USE'));
  });

  test('of a shared volume does not share it: whoever maps it has it alone', async () => {
    const nobody = { clients: [], squash: 'none', v3: true, security: ['sys'], address: null } as const;
    const share = { fs: 'ext4', options: { ...nobody, principal: null, keytab: null } } as const;
    await manager.api.createVolume({ name: 'db', size: 10 * mib, replicas: 3, blockSize: 512, share });
    expect(await manager.api.mapVolume(device())).toMatchObject({ node: 'node1', device: '/dev/loop7' });
    await manager.settle();
    await node(1).report();
    expect(node(1).shareOrders).toEqual([]);
  });

  test('comes back with the engine of a target process that was started again', async () => {
    await create();
    await manager.api.mapVolume(device());
    await node(1).target.restart();
    await node(1).report();
    await expect.poll(() => node(1).target.devices.size).toBe(1);
    await manager.settle();
    expect(await manager.api.getVolume('db')).toMatchObject({ epoch: 2, device: { path: '/dev/loop7' } });
  });
});
