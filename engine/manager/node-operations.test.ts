// What people change about nodes, disks, settings and the trash, several at once, and what is in their way.
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { FakeCluster } from './testing/fake-cluster.js';

let cluster: FakeCluster;

beforeEach(async () => {
  cluster = await FakeCluster.start(3);
});

afterEach(async () => {
  await cluster.stop();
});

const rejection = (code: string, message: RegExp) =>
  expect.objectContaining({ code, message: expect.stringMatching(message) as string }) as Error;
const diskOrder = {
  directory: '/srv/disk2',
  journalPath: null,
  journalBytes: 0,
  cacheBytes: 0,
  capacityBytes: 0,
  format: false,
};

describe('changes at the same time', () => {
  test('of settings: all of them hold', async () => {
    const { api } = cluster.manager;
    await Promise.all([
      api.changeSettings({ movesMax: 7 }),
      api.changeSettings({ trashSeconds: 60 }),
      api.changeSettings({ failoverSeconds: 11 }),
      api.changeSettings({ balance: false }),
    ]);
    expect(await api.getSettings()).toMatchObject({
      movesMax: 7,
      trashSeconds: 60,
      failoverSeconds: 11,
      balance: false,
    });
  });

  test('of one disk: its tags are not taken back by a cordon', async () => {
    const { api } = cluster.manager;
    await Promise.all([
      api.changeDisk('node1', 'disk1', { tags: ['fast'] }),
      api.changeDisk('node1', 'disk1', { cordoned: true }),
    ]);
    expect((await cluster.disks()).find(({ node }) => node === 'node1')).toMatchObject({
      tags: ['fast'],
      cordoned: true,
    });
  });

  test('one name is given to one disk', async () => {
    const { api } = cluster.manager;
    const add = (directory: string) =>
      api.addDisk({ node: 'node1', name: 'disk2', ...diskOrder, directory }).then(
        () => directory,
        () => null,
      );
    const outcomes = (await Promise.all([add('/srv/a'), add('/srv/b')])).filter((each) => each !== null);
    expect(outcomes).toHaveLength(1);
    expect((await cluster.disks()).find(({ name }) => name === 'disk2')?.directory).toBe(outcomes[0]);
  });
});

test('what was set is shown', async () => {
  const { api } = cluster.manager;
  await api.changeNode('node1', { zone: 'rack-a', draining: true });
  await api.changeNode('node2', { cordoned: true });
  await api.changeDisk('node2', 'disk1', { tags: ['fast', 'big'], class: 'nvme', evicting: true });
  await api.changeDisk('node3', 'disk1', { cordoned: true });
  expect(await api.listNodes()).toMatchObject([
    { zone: 'rack-a', cordoned: false, draining: true },
    { zone: null, cordoned: true, draining: false },
    { zone: null, cordoned: false, draining: false },
  ]);
  expect(await api.listDisks()).toMatchObject([
    { tags: [], cordoned: false, evicting: false },
    { tags: ['big', 'fast'], class: 'nvme', cordoned: false, evicting: true },
    { tags: [], cordoned: true, evicting: false },
  ]);
  await api.changeNode('node1', { draining: false });
  await cluster.create('db', 1);
  const qos = { operationsPerSecond: 100, bytesPerSecond: 0, burstSeconds: 2 };
  const chap = { user: 'somebody', secret: 'a secret of theirs' };
  const access = { chap, mutualChap: null, initiators: ['iqn.2026-11.example:host'] };
  const changed = await api.changeVolume('db', { qos, access, constraints: { tags: ['fast'] } });
  expect(changed).toMatchObject({
    policy: null,
    constraints: { tags: ['fast'], class: null, zonesRequired: false, local: false },
    qos,
    chapUser: 'somebody',
    mutualChapUser: null,
    initiators: ['iqn.2026-11.example:host'],
  });
  expect(JSON.stringify(changed)).not.toContain(chap.secret);
});

describe('a disk is emptied', () => {
  test('of a detached volume, too: it is in nobody’s way', async () => {
    const { api } = cluster.manager;
    const [kept] = (await cluster.create('db', 2)).replicas;
    expect(await api.getEmptying(kept?.node ?? '', 'disk1')).toMatchObject({ replicas: ['db'], blocked: [] });
  });

  test('what only the trash holds there is named as that', async () => {
    const { api } = cluster.manager;
    await cluster.create('db');
    await expect(api.removeDisk('node1', 'disk1', true)).rejects.toThrow(
      rejection('FAILED_PRECONDITION', /replicas of db: empty it first/),
    );
    await api.deleteVolume('db', false);
    await expect(api.removeDisk('node1', 'disk1', true)).rejects.toThrow(
      rejection('FAILED_PRECONDITION', /in the trash: db .*trash purge/),
    );
    await api.purgeVolume('db');
    await api.removeDisk('node1', 'disk1', true);
  });
});

test('what happens to a volume, and what fails, is told by its name', async () => {
  const { api, events } = cluster.manager;
  await cluster.create('db');
  await api.attachVolume('db', 'node1');
  await api.changeNode('node1', { draining: true });
  await expect.poll(() => events.recent(10).map(({ object }) => object)).toContain('volume db');
  const problems = async () => (await api.getStatus()).problems;
  await expect.poll(problems, { timeout: 10_000 }).toContainEqual(
    expect.objectContaining({
      object: 'volume db',
      problem: expect.stringMatching(/^add-replica fails: /) as string,
    }),
  );
});

test('a node that is cordoned is named as what keeps a volume from being made', async () => {
  const { api } = cluster.manager;
  await api.changeNode('node2', { cordoned: true });
  await expect(cluster.create('db')).rejects.toThrow(rejection('NOT_ENOUGH_DISKS', /node2 is cordoned.*uncordon/));
});

test('a volume of the trash gets no name that a new one could not have', async () => {
  const { api } = cluster.manager;
  await cluster.create('db', 1);
  await api.deleteVolume('db', false);
  await expect(api.restoreVolume('db', 'Not A Name')).rejects.toThrow(rejection('INVALID_ARGUMENT', /Not A Name/));
  expect(await api.restoreVolume('db', 'db-again')).toBe('db-again');
});
