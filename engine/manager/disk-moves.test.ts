// Disks that show up in another place: which of two counts, what moves along, and what is never used.
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { idToBigint } from './ids.js';
import { Repository } from './repository.js';
import { FakeCluster, replicaOn } from './testing/fake-cluster.js';
import { FakeReplicaProcess } from './testing/fake-data-plane.js';

let cluster: FakeCluster;
beforeEach(async () => {
  cluster = await FakeCluster.start(4);
});
afterEach(async () => {
  await cluster.stop();
});

const api = () => cluster.manager.api;
const newDisk = { journalPath: null, journalBytes: 0, cacheBytes: 0, capacityBytes: 0 };
const disk = async (node: string, name: string) =>
  (await api().listDisks()).find((each) => each.node === node && each.name === name);
const placeOf = async (volume: string, replica: string) => {
  const found = (await cluster.record(volume)).replicas.find(({ id }) => id === replica);
  return `${found?.node ?? ''} ${found?.disk ?? ''}`;
};

async function leavesNode2(): Promise<void> {
  const node2 = cluster.node('node2');
  node2.replica.kill();
  node2.replicaRuns = false;
  node2.replicaFailure = 'no disk is there';
  await node2.report();
}

/** The drive of node2's disk1 is in node4 now, as disk2. `copied`: a copy of it is. */
async function appearsInNode4({ ordered = true, copied = false } = {}): Promise<FakeReplicaProcess> {
  const former = cluster.node('node2').replica;
  const replica = new FakeReplicaProcess(former.diskId);
  for (const [id, each] of former.replicas) replica.replicas.set(id, each);
  await replica.start();
  if (!copied) await leavesNode2();
  const node4 = cluster.node('node4');
  if (ordered) await api().addDisk({ node: 'node4', name: 'disk2', directory: '/disks/node4/disk2', ...newDisk });
  node4.extra.set('disk2', { replica, runs: true, failure: '' });
  await node4.report();
  return replica;
}

async function isTakenOver(replica: string): Promise<void> {
  await expect.poll(() => placeOf('db', replica)).toBe('node4 disk2');
}

describe('a disk in another node', () => {
  test('is recognized: its replicas are reached there, and what they may lack is brought to them', async () => {
    const volume = await cluster.create('db');
    const replica = replicaOn(volume, 'node2');
    const moved = await appearsInNode4();
    await isTakenOver(replica);
    // No engine had it: it leaves the in-sync set, and one is started that brings it back.
    await expect.poll(async () => (await cluster.record('db')).inSync).not.toContain(replica);
    await expect.poll(async () => (await cluster.record('db')).maintenance?.reason).toBe('rebuild');
    const engines = () => cluster.nodes.flatMap(({ target }) => [...target.attached.values()]);
    await expect.poll(() => engines().length).toBe(1);
    const told = engines()[0]?.replicas.find(({ replicaId }) => replicaId === idToBigint(replica));
    expect(told).toMatchObject({ address: `127.0.0.1:${moved.port}`, inSync: false });
    expect(await disk('node4', 'disk2')).toMatchObject({ state: 'online', replicas: 1, id: moved.diskId });
    // Not made anew, and nothing deleted.
    expect((await cluster.record('db')).replicas).toHaveLength(3);
    expect(moved.replicas.has(idToBigint(replica))).toBe(true);
  });

  test('with a replica of an attached volume: the engine is told where it is, and keeps its set', async () => {
    const volume = await cluster.create('db');
    await api().attachVolume('db', 'node1');
    const replica = replicaOn(volume, 'node2');
    const inSync = volume.inSync.filter((id) => id !== replica);
    await cluster.setInSync('db', inSync);
    const moved = await appearsInNode4();
    await isTakenOver(replica);
    const toldAddress = () => {
      const { replicas = [] } = cluster.node('node1').target.configured.at(-1) ?? {};
      return replicas.find(({ replicaId }) => replicaId === idToBigint(replica))?.address;
    };
    await expect.poll(toldAddress).toBe(`127.0.0.1:${moved.port}`);
    expect(await cluster.record('db')).toMatchObject({ epoch: 1, inSync });
  });

  test('that holds the only good copy keeps it', async () => {
    const volume = await cluster.create('db');
    await api().attachVolume('db', 'node1');
    const replica = replicaOn(volume, 'node2');
    await cluster.setInSync('db', [replica]);
    await api().detachVolume('db', false);
    await appearsInNode4();
    await isTakenOver(replica);
    expect((await cluster.record('db')).inSync).toContain(replica);
  });

  test('brings what is in the trash, what is to be deleted, and its tags; the former place is forgotten', async () => {
    const deleted = replicaOn(await cluster.create('gone'), 'node2');
    const kept = replicaOn(await cluster.create('trashed'), 'node2');
    await api().changeDisk('node2', 'disk1', { tags: ['fast'] });
    await api().deleteVolume('trashed', false);
    await leavesNode2();
    await api().deleteVolume('gone', true);
    const moved = await appearsInNode4();
    await expect.poll(() => moved.replicas.has(idToBigint(deleted))).toBe(false);
    const repository = new Repository(cluster.manager.store);
    const trashedAt = async () =>
      (await repository.listTrash())[0]?.volume.replicas.find(({ id }) => id === kept)?.node;
    await expect.poll(trashedAt).toBe('node4');
    await expect.poll(async () => (await repository.listDisks()).some(({ movedFrom }) => movedFrom)).toBe(false);
    const recordOf = async (at: string) =>
      (await repository.listDisks()).find(({ node, name }) => `${node} ${name}` === at);
    expect((await recordOf('node2 disk1'))?.diskId ?? null).toBeNull();
    expect(await recordOf('node4 disk2')).toMatchObject({ diskId: moved.diskId, tags: ['fast'] });
    // Its agent still says what it expects there.
    await cluster.node('node2').report();
    expect((await disk('node2', 'disk1'))?.reason).toContain('is disk2 of node4 now');
    await api().restoreVolume('trashed', null);
  });

  test('is recognized at the start of an agent, too, and when it comes back', async () => {
    const replica = replicaOn(await cluster.create('db'), 'node2');
    const moved = await appearsInNode4({ ordered: false });
    await isTakenOver(replica);
    const node4 = cluster.node('node4');
    moved.kill();
    node4.extra.set('disk2', { replica: moved, runs: false, failure: 'no disk is there' });
    await node4.report();
    const node2 = cluster.node('node2');
    await node2.replica.start();
    Object.assign(node2, { replicaRuns: true, replicaFailure: '' });
    await node2.report();
    await expect.poll(() => placeOf('db', replica)).toBe('node2 disk1');
    await expect.poll(async () => (await disk('node2', 'disk1'))?.state).toBe('online');
  });

  test('whose node has a replica of the volume already: one of the two goes elsewhere', async () => {
    const volume = await cluster.create('db', 2);
    const replica = replicaOn(volume, 'node2');
    const moved = new FakeReplicaProcess(cluster.node('node2').replica.diskId);
    await moved.start();
    await leavesNode2();
    cluster.node('node1').extra.set('disk2', { replica: moved, runs: true, failure: '' });
    await cluster.node('node1').report();
    await expect.poll(() => placeOf('db', replica)).toBe('node1 disk2');
    await expect.poll(async () => (await cluster.record('db')).replicas.length).toBe(3);
    expect((await cluster.record('db')).replicas.map(({ node }) => node)).toContain('node3');
  });
});

describe('two disks with one identity', () => {
  const isRefused = async (node = 'node4', name = 'disk2') => {
    await expect.poll(async () => (await disk(node, name))?.reason ?? '').toContain('copy of disk');
  };

  test('the one that comes second is not used, not even when the first one goes', async () => {
    const replica = replicaOn(await cluster.create('db'), 'node2');
    await appearsInNode4({ copied: true });
    await isRefused();
    await leavesNode2();
    const node4 = cluster.node('node4');
    await node4.report();
    await cluster.restartManager();
    expect(await disk('node4', 'disk2')).toMatchObject({ state: 'failed', address: null, id: null });
    expect(await placeOf('db', replica)).toBe('node2 disk1');
    expect((await cluster.record('db')).inSync).toContain(replica);
    // Whoever knows better takes it out and adds it again.
    const copy = node4.extra.get('disk2');
    await api().removeDisk('node4', 'disk2', false);
    await expect.poll(() => node4.orders.some(({ removed }) => removed)).toBe(true);
    node4.extra.delete('disk2');
    await node4.report();
    await api().addDisk({ node: 'node4', name: 'disk2', directory: '/disks/node4/disk2', ...newDisk });
    if (copy !== undefined) node4.extra.set('disk2', copy);
    await node4.report();
    await isTakenOver(replica);
  });

  test('nor while the agent of the first one is away and its process answers', async () => {
    const replica = replicaOn(await cluster.create('db'), 'node2');
    cluster.node('node2').disconnect();
    await expect.poll(async () => (await api().listNodes())[1]?.state).toBe('offline');
    await appearsInNode4({ copied: true });
    await isRefused();
    expect(await placeOf('db', replica)).toBe('node2 disk1');
  });

  test('while nobody knows whether the first one is served, neither is the second', async () => {
    const replica = replicaOn(await cluster.create('db'), 'node2');
    // Its process is being started.
    await cluster.setReplicaRuns('node2', false);
    await appearsInNode4({ copied: true });
    await cluster.manager.settle();
    expect((await disk('node4', 'disk2'))?.reason).toContain('as soon as it is certain');
    expect(await placeOf('db', replica)).toBe('node2 disk1');
    await cluster.setReplicaRuns('node2', true);
    await isRefused();
    expect(await disk('node2', 'disk1')).toMatchObject({ state: 'online' });
  });

  test('of two new ones only the first is used', async () => {
    const id = 'e'.repeat(32);
    for (const name of ['node3', 'node4']) {
      const replica = new FakeReplicaProcess(id);
      await replica.start();
      cluster.node(name).extra.set('disk9', { replica, runs: true, failure: '' });
      await cluster.node(name).report();
    }
    await isRefused('node4', 'disk9');
    expect(await disk('node3', 'disk9')).toMatchObject({ state: 'online', id });
  });
});

test('a move that the end of the manager cut short is finished by the next one', async () => {
  const replica = replicaOn(await cluster.create('db'), 'node2');
  const repository = new Repository(cluster.manager.store);
  const disks = await repository.listDisks();
  const [holder, target] = ['node2', 'node4'].map((name) => disks.find(({ node }) => node === name));
  if (target === undefined || holder?.diskId == null) throw new Error('no disks');
  await leavesNode2();
  await cluster.restartManager(async () => {
    const store = new Repository(cluster.manager.store);
    const empty = await store.updateDisk('node4', 'disk1', (latest) => ({ ...(latest ?? target), diskId: null }));
    if (empty === null) throw new Error('no record');
    await store.claimDisk(empty, holder, holder.diskId ?? '', { address: target.address, diskClass: null });
    Object.assign(cluster.node('node4').replica, { diskId: holder.diskId });
  });
  await expect.poll(() => placeOf('db', replica)).toBe('node4 disk1');
  const store = new Repository(cluster.manager.store);
  await expect.poll(async () => (await store.listDisks()).some(({ movedFrom }) => movedFrom)).toBe(false);
});
