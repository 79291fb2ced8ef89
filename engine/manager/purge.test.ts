// What is left of a volume that is deleted for good, when its manager ends between two steps of that: in the end, nothing.
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { recordVersion } from './records.js';
import { Repository } from './repository.js';
import { FakeCluster } from './testing/fake-cluster.js';

// More than go into one transaction.
const snapshots = 70;
let cluster: FakeCluster;

beforeEach(async () => {
  cluster = await FakeCluster.start();
});

afterEach(async () => {
  await cluster.stop();
});

async function createWithSnapshots(name: string): Promise<void> {
  const { id } = await cluster.create(name);
  const repository = new Repository(cluster.manager.store);
  for (let number = 1; number <= snapshots; number++) {
    const createdAt = new Date().toISOString();
    const snapshot = { id: number.toString(16).padStart(16, '0'), volume: id, name: `s${number}`, createdAt };
    await repository.insertSnapshot({ version: recordVersion, phase: 'ready', ...snapshot });
  }
}

async function remains() {
  const keysBelow = async (prefix: string) => (await cluster.manager.store.range(prefix)).entries.length;
  return {
    volumes: await keysBelow('/volume'),
    trash: await keysBelow('/trash/'),
    snapshots: await keysBelow('/snapshots/'),
    doomed: await keysBelow('/doomed-replicas/'),
    replicas: cluster.nodes.reduce((sum, { replica }) => sum + replica.replicas.size, 0),
  };
}

const nothing = { volumes: 0, trash: 0, snapshots: 0, doomed: 0, replicas: 0 };

const ways = {
  'purged from the trash': {
    prepare: () => cluster.manager.api.deleteVolume('db', false).then(() => undefined),
    purge: () => cluster.manager.api.purgeVolume('db'),
    untouched: { ...nothing, trash: 1, snapshots, replicas: 3 },
  },
  'deleted without the trash': {
    prepare: () => Promise.resolve(),
    purge: () => cluster.manager.api.deleteVolume('db', true),
    untouched: { ...nothing, volumes: 2, snapshots, replicas: 3 },
  },
};

describe.each(Object.entries(ways))('a volume that is %s', (_, { prepare, purge, untouched }) => {
  test('whichever step is the last of its manager, the next one finishes', async () => {
    let stops = 0;
    for (let finished = false; !finished; stops++) {
      await createWithSnapshots('db');
      await prepare();
      cluster.breakStoreAfter(stops);
      await purge().catch(() => undefined);
      finished = !cluster.storeIsBroken;
      await cluster.restartManager();
      if (stops === 0) {
        expect(await remains()).toEqual(untouched);
        await purge();
      }
      await expect.poll(remains).toEqual(nothing);
    }
    // The record with what makes replicas doomed, two parts of the snapshots, three replicas; and once nothing is broken.
    expect(stops).toBe(7);
  });

  test('a store that fails halfway and then works again leaves nothing either', async () => {
    await createWithSnapshots('db');
    await prepare();
    cluster.breakStoreAfter(1);
    await purge();
    expect(cluster.storeIsBroken).toBe(true);
    cluster.breakStoreAfter(Infinity);
    await expect.poll(remains).toEqual(nothing);
  });
});

test('snapshots of volumes that are there, or in the trash, stay', async () => {
  await createWithSnapshots('db');
  await createWithSnapshots('old');
  await cluster.manager.api.deleteVolume('old', false);
  await cluster.restartManager();
  await createWithSnapshots('gone');
  await cluster.manager.api.deleteVolume('gone', true);
  // It has looked at all there are by then.
  await expect.poll(() => cluster.reads('/snapshots/')).toBeGreaterThan(0);
  expect(await remains()).toEqual({ volumes: 2, trash: 1, snapshots: 2 * snapshots, doomed: 0, replicas: 6 });
});
