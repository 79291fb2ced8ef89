// What people ask for about replicas, with its refusals.
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { idToBigint } from './ids.js';
import { FakeCluster, replicaOn } from './testing/fake-cluster.js';

const patience = { timeout: 60_000 };
let cluster: FakeCluster;
beforeEach(async () => {
  cluster = await FakeCluster.start(4);
});
afterEach(async () => {
  await cluster.stop();
});

const rejection = (code: string) => expect.objectContaining({ code }) as Error;
const api = () => cluster.manager.api;

describe('one more', () => {
  test('on the node that was named; incomplete until it is rebuilt', async () => {
    await cluster.create('db', 2);
    await api().attachVolume('db', 'node1');
    const { replicas, inSync } = await api().addReplica('db', 'node4');
    expect(replicas.map(({ node }) => node)).toContain('node4');
    expect(inSync).toHaveLength(2);
    expect((await cluster.record('db')).copies).toBe(3);
    expect([...cluster.node('node4').replica.replicas.values()]).toMatchObject([{ complete: false }]);
  });

  test('is refused where there is one already, or no node or room; nothing changes then', async () => {
    const volume = await cluster.create('db', 2);
    const [held] = volume.replicas;
    await expect(api().addReplica('db', held?.node ?? '')).rejects.toThrow(rejection('ALREADY_EXISTS'));
    await expect(api().addReplica('db', 'node9')).rejects.toThrow(rejection('NOT_FOUND'));
    cluster.node('node4').replica.totalBytes = 1n;
    await expect(api().addReplica('db', 'node4')).rejects.toThrow();
    expect(await cluster.record('db')).toMatchObject({
      copies: 2,
      replicas: volume.replicas.map(({ id }) => ({ id })),
    });
  });
});

describe('one less', () => {
  test('goes at once when others are in-sync', async () => {
    const volume = await cluster.create('db');
    await api().attachVolume('db', 'node1');
    const gone = replicaOn(volume, 'node2');
    const after = await api().removeReplica('db', { replicaId: gone, replace: false });
    expect(after.replicas).toHaveLength(2);
    expect((await cluster.record('db')).copies).toBe(2);
    await expect.poll(() => cluster.node('node2').replica.replicas.has(idToBigint(gone)), patience).toBe(false);
  });

  test('in place of which another is wanted stays until that is in-sync', async () => {
    const volume = await cluster.create('db');
    await api().attachVolume('db', 'node1');
    const old = replicaOn(volume, 'node2');
    await api().removeReplica('db', { replicaId: old, replace: true });
    await cluster.manager.settle();
    const moving = await api().getVolume('db');
    expect(moving.replicas).toHaveLength(4);
    await cluster.setInSync('db', [...volume.inSync, replicaOn(moving, 'node4')]);
    await expect.poll(async () => (await api().getVolume('db')).replicas.length, patience).toBe(3);
    expect((await api().getVolume('db')).replicas.map(({ id }) => id)).not.toContain(old);
    expect((await cluster.record('db')).copies).toBe(3);
  });

  test('is never the last good copy, nor the last that can be reached', async () => {
    const volume = await cluster.create('db');
    await api().attachVolume('db', 'node1');
    const [first, second, third] = ['node1', 'node2', 'node3'].map((node) => replicaOn(volume, node));
    await cluster.setReplicaRuns('node2', false);
    await cluster.setReplicaRuns('node3', false);
    const remove = (replicaId: string) => api().removeReplica('db', { replicaId, replace: false });
    await expect(remove(first ?? '')).rejects.toThrow(rejection('LAST_GOOD_COPY'));
    await cluster.setReplicaRuns('node2', true);
    await cluster.setReplicaRuns('node3', true);
    await cluster.setInSync('db', [third ?? '']);
    await expect(remove(third ?? '')).rejects.toThrow(rejection('LAST_GOOD_COPY'));
    await expect(remove('00000000000000ff')).rejects.toThrow(rejection('NOT_FOUND'));
    expect((await api().getVolume('db')).replicas.map(({ id }) => id)).toContain(second);
  });
});

describe('a detached volume', () => {
  test('is moved off a disk that is evicted, by an engine for that time only', async () => {
    const volume = await cluster.create('db');
    const old = replicaOn(volume, 'node2');
    await api().changeDisk('node2', 'disk1', { evicting: true });
    await expect.poll(async () => (await cluster.record('db')).maintenance?.reason, patience).toBe('rebuild');
    const moving = await api().getVolume('db');
    await cluster.setInSync('db', [...volume.inSync, replicaOn(moving, 'node4')]);
    await expect
      .poll(async () => (await cluster.record('db')).replicas.map(({ id }) => id), patience)
      .not.toContain(old);
    await expect.poll(async () => (await cluster.record('db')).maintenance, patience).toBeNull();
    await cluster.manager.settle();
    expect(await cluster.record('db')).toMatchObject({ attachment: null, copies: 3 });
    for (const { target } of cluster.nodes) expect(target.attached.size).toBe(0);
  });

  test('that is being moved is taken by a host at once', async () => {
    await cluster.create('db');
    await api().changeDisk('node2', 'disk1', { evicting: true });
    await expect.poll(async () => (await cluster.record('db')).maintenance?.reason, patience).toBe('rebuild');
    const { epoch } = await api().attachVolume('db', 'node3');
    expect(await cluster.record('db')).toMatchObject({ attachment: { node: 'node3' }, maintenance: null, epoch });
    await cluster.manager.settle();
    const served = cluster.nodes.filter(({ target }) => target.attached.size > 0).map(({ name }) => name);
    expect(served).toEqual(['node3']);
  });

  test('that is being moved goes on under the next manager', async () => {
    const volume = await cluster.create('db');
    await api().changeDisk('node2', 'disk1', { evicting: true });
    await expect.poll(async () => (await cluster.record('db')).maintenance?.reason, patience).toBe('rebuild');
    await cluster.restartManager();
    const moving = await api().getVolume('db');
    expect(moving.replicas).toHaveLength(4);
    await cluster.setInSync('db', [...volume.inSync, replicaOn(moving, 'node4')]);
    await expect.poll(async () => (await cluster.record('db')).replicas.length, patience).toBe(3);
    await expect.poll(async () => (await cluster.record('db')).maintenance, patience).toBeNull();
  });
});
