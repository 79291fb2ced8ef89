// Scrubs over the wire: what is read again, compared and repaired, and what ends one.
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { ChunkVersion } from '../generated/holdfast/v1/replica.js';
import { idToBigint } from './ids.js';
import { countBits, differences } from './scrubber.js';
import { FakeCluster, replicaOn } from './testing/fake-cluster.js';
import type { VolumeView } from './views.js';

const patience = { timeout: 60_000 };
let cluster: FakeCluster;
beforeEach(async () => {
  cluster = await FakeCluster.start();
});
afterEach(async () => {
  await cluster.stop();
});

const version = (chunk: number, seq: number, digest: number): ChunkVersion => ({
  chunk: BigInt(chunk),
  epoch: 1n,
  seq: BigInt(seq),
  digest,
  layer: 1n,
});

function damage(volume: VolumeView, node: string, chunk: bigint, blocks: bigint): void {
  const replica = idToBigint(replicaOn(volume, node));
  cluster.node(node).replica.damaged.set(replica, [{ chunk, blocks, message: 'checksum' }]);
}

async function scrub(name: string) {
  await cluster.manager.api.scrubVolume(name, 0);
  return await expect
    .poll(async () => (await cluster.manager.api.getVolume(name)).scrub, patience)
    .toMatchObject({ state: 'idle' })
    .then(async () => (await cluster.manager.api.getVolume(name)).scrub);
}

describe('a scrub', () => {
  test('reads all copies and repairs what is damaged', async () => {
    const volume = await cluster.create('db');
    await cluster.manager.api.attachVolume('db', 'node1');
    damage(volume, 'node2', 3n, 0b101n);
    expect(await scrub('db')).toMatchObject({ damagedBlocks: 2, checkedBlocks: 3 * 40 * 64, failure: null });
    expect(cluster.node('node1').target.repairs).toEqual([
      expect.objectContaining({ replicaId: idToBigint(replicaOn(volume, 'node2')), firstBlock: 192n }),
    ]);
  });

  test('of a detached volume repairs with an engine of its own, and ends it', async () => {
    const volume = await cluster.create('db');
    damage(volume, 'node3', 0n, 1n);
    expect(await scrub('db')).toMatchObject({ damagedBlocks: 1, repairedBlocks: 1, failure: null });
    expect(await cluster.record('db')).toMatchObject({ attachment: null, maintenance: null });
    await cluster.manager.settle();
    for (const { target } of cluster.nodes) expect(target.attached.size).toBe(0);
  });

  test('goes on where a connection was lost, and counts nothing twice', async () => {
    const volume = await cluster.create('db');
    damage(volume, 'node2', 30n, 1n);
    const { replica } = cluster.node('node2');
    replica.scrubsToBreak = 1;
    expect(await scrub('db')).toMatchObject({ damagedBlocks: 1, checkedBlocks: 3 * 40 * 64, failure: null });
    expect(replica.scrubs).toEqual([0n, 20n]);
  });

  test('that cannot reach a copy ends with the reason, and has verified nothing', async () => {
    await cluster.create('db');
    cluster.node('node2').replica.scrubsToBreak = 100;
    const ended = await scrub('db');
    expect(ended).toMatchObject({ verifiedAt: null });
    expect(ended?.failure).toContain('replica process');
  });

  test('without a copy that runs says which is missing', async () => {
    await cluster.create('db');
    await cluster.setReplicaRuns('node3', false);
    expect((await scrub('db'))?.failure).toContain('not every in-sync replica');
    for (const name of ['node1', 'node2']) await cluster.setReplicaRuns(name, false);
    expect((await scrub('db'))?.failure).toContain('no in-sync replica');
  });

  test('makes the copy that differs like the others', async () => {
    const volume = await cluster.create('db');
    await cluster.manager.api.attachVolume('db', 'node1');
    for (const { name, replica } of cluster.nodes) {
      const digest = name === 'node2' ? 8 : 7;
      replica.versions.set(idToBigint(replicaOn(volume, name)), [version(5, 9, digest), version(6, 9, 1)]);
    }
    expect(await scrub('db')).toMatchObject({ differingChunks: 1, damagedBlocks: 0 });
    expect(cluster.node('node1').target.repairs).toEqual([
      expect.objectContaining({ replicaId: idToBigint(replicaOn(volume, 'node2')), differs: true, firstBlock: 320n }),
    ]);
  });

  test('that was asked for begins again under the next manager', async () => {
    await cluster.create('db');
    const { replica } = cluster.node('node2');
    // Between its attempts to go on.
    replica.scrubsToBreak = 3;
    await cluster.manager.api.scrubVolume('db', 0);
    await expect.poll(() => replica.scrubs.length, patience).toBeGreaterThan(0);
    await cluster.restartManager(async () => {
      // It looks for what is to be done before it knows that any copy runs.
      await expect.poll(() => cluster.reads('/scrubs/'), patience).toBeGreaterThan(2);
    });
    replica.scrubsToBreak = 0;
    const state = async () => (await cluster.manager.api.getVolume('db')).scrub;
    await expect.poll(async () => (await state())?.verifiedAt ?? null, patience).not.toBeNull();
    expect(await state()).toMatchObject({ state: 'idle', failure: null });
  });
});

describe('chunks of one version', () => {
  const answers = (...digests: number[]) =>
    digests.map((digest, index) => ({
      replicaId: `r${index}`,
      versions: new Map([['5/1', { chunk: 5, layer: '1', epoch: 1, seq: 9, digest }]]),
    }));

  test('differ where most others agree', () => {
    expect(differences(answers(7, 8, 7))).toEqual([{ replicaId: 'r1', chunk: 5, blocks: 0n, differs: true }]);
    expect(differences(answers(7, 7, 7))).toEqual([]);
  });

  test('that are not in their place everywhere say nothing', () => {
    expect(differences(answers(7, 0, 8))).toEqual([]);
    const [first, second] = answers(7, 8);
    const later = new Map([['5/1', { chunk: 5, layer: '1', epoch: 1, seq: 10, digest: 8 }]]);
    expect(differences([first!, { ...second!, versions: later }])).toEqual([]);
    expect(differences([first!, { ...second!, versions: new Map() }])).toEqual([]);
  });

  test('bits are counted', () => {
    expect(countBits(0n)).toBe(0);
    expect(countBits(2n ** 64n - 1n)).toBe(64);
  });
});
