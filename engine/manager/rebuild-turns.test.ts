// Which rebuilds an engine may begin when many replicas of one disk are behind, as the manager tells the target processes.
import { credentials, Metadata } from '@grpc/grpc-js';
import type { ServiceError } from '@grpc/grpc-js';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { MembershipClient } from '../generated/holdfast/v1/target.js';
import { idToBigint } from './ids.js';
import { FakeCluster, replicaOn } from './testing/fake-cluster.js';

const names = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j'];
let cluster: FakeCluster;

beforeEach(async () => {
  cluster = await FakeCluster.start();
  await cluster.manager.api.changeSettings({ rebuildsPerDisk: 1 });
  for (const name of names) {
    await cluster.create(name);
    await cluster.manager.api.attachVolume(name, 'node1');
  }
  await cluster.manager.settle();
});
afterEach(async () => {
  await cluster.stop();
});

/** As the engine asks for it. */
async function changeInSync(name: string, without: string): Promise<void> {
  const volume = await cluster.manager.api.getVolume(name);
  const inSync = volume.inSync.filter((id) => id !== replicaOn(volume, without)).map(idToBigint);
  const client = new MembershipClient(cluster.manager.address, credentials.createInsecure());
  const { epoch } = await cluster.record(name);
  const request = { volumeId: idToBigint(volume.id), epoch: BigInt(epoch), inSync, reason: 'test', sequence: 0n };
  await new Promise<void>((resolve, reject) => {
    client.changeInSyncSet(request, new Metadata(), (error: ServiceError | null) => {
      if (error === null) resolve();
      else reject(error);
    });
  });
  client.close();
}

/** How many of the volumes' replicas on node3 may be rebuilt now. */
async function going(): Promise<number> {
  await cluster.manager.settle();
  const waiting = new Map<bigint, boolean>();
  for (const { volumeId, replicas } of cluster.node('node1').target.configured)
    waiting.set(
      volumeId,
      replicas.some(({ holdRebuild }) => holdRebuild),
    );
  return names.length - [...waiting.values()].filter((waits) => waits).length;
}

test('of those that left a moment ago eight go at a time; when that is not known, one does', async () => {
  for (const name of names) await changeInSync(name, 'node3');
  await expect.poll(going).toBe(8);
  await cluster.restartManager();
  await expect.poll(going).toBe(1);
});
