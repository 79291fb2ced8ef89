// Writes that are lost or cannot be made: who is told, what is served, and what is not without being asked.
import { credentials, Metadata } from '@grpc/grpc-js';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { fromServiceError } from '../errors/grpc-errors.js';
import { HoldfastError } from '../errors/holdfast-error.js';
import { MembershipClient } from '../generated/holdfast/v1/target.js';
import { idToBigint } from './ids.js';
import { FakeCluster, replicaOn } from './testing/fake-cluster.js';

let cluster: FakeCluster;
beforeEach(async () => {
  cluster = await FakeCluster.start();
});
afterEach(async () => {
  await cluster.stop();
});

const patience = { timeout: 60_000 };
const rejection = (code: string) => expect.objectContaining({ code }) as Error;
const accept = { acceptDataLoss: true };
const api = () => cluster.manager.api;

async function reportLoss(volumeId: string, epoch: number): Promise<void> {
  const client = new MembershipClient(cluster.manager.address, credentials.createInsecure());
  const request = { volumeId: idToBigint(volumeId), epoch: BigInt(epoch), reason: 'DATA LOSS: all came back without' };
  try {
    await new Promise<void>((resolve, reject) => {
      client.reportLostData(request, new Metadata(), (error) => {
        if (error === null) resolve();
        else reject(fromServiceError(error, 'manager'));
      });
    });
  } finally {
    client.close();
  }
}

async function reportDamage(volumeId: string, epoch: number): Promise<void> {
  const client = new MembershipClient(cluster.manager.address, credentials.createInsecure());
  const request = { volumeId: idToBigint(volumeId), epoch: BigInt(epoch), reason: '2 blocks are damaged: 5, 7' };
  try {
    await new Promise<void>((resolve, reject) => {
      client.reportDamage(request, new Metadata(), (error) => {
        if (error === null) resolve();
        else reject(fromServiceError(error, 'manager'));
      });
    });
  } finally {
    client.close();
  }
}

test('a replica that was rebuilt with damaged blocks is an event that names them, and nothing else', async () => {
  const { id } = await cluster.create('db');
  const { epoch } = await api().attachVolume('db', 'node1');
  await reportDamage(id, epoch);
  expect(cluster.manager.events.recent(1_000)).toContainEqual(
    expect.objectContaining({ severity: 'error', object: 'volume db', message: '2 blocks are damaged: 5, 7' }),
  );
  expect(await api().getVolume('db')).toMatchObject({ state: 'attached', health: 'healthy' });
  await expect(reportDamage(id, epoch - 1)).rejects.toThrow(rejection('EPOCH_SUPERSEDED'));
});

describe('an engine that found acknowledged writes lost', () => {
  test('is believed even when its process dies at once: nobody serves what is left unasked', async () => {
    const { id } = await cluster.create('db');
    const { epoch } = await api().attachVolume('db', 'node1');
    await reportLoss(id, epoch);
    await cluster.node('node1').target.restart();
    await cluster.node('node1').report();
    await cluster.manager.settle();
    await cluster.restartManager();
    expect(cluster.node('node1').target.attached.size).toBe(0);
    expect(await api().getVolume('db')).toMatchObject({
      health: 'faulted',
      reason: expect.stringContaining('DATA LOSS') as unknown,
    });
    await expect(api().attachVolume('db', null)).rejects.toThrow(rejection('DATA_LOSS'));
    await expect(api().attachVolume('db', 'node2', { force: true })).rejects.toThrow(rejection('DATA_LOSS'));
    expect(await api().attachVolume('db', null, accept)).toMatchObject({ node: 'node1', servedFrom: null });
    expect(await api().getVolume('db')).toMatchObject({ state: 'attached', health: 'healthy' });
  });

  test('still runs, stopped: accepting the loss gives the volume another engine', async () => {
    const { id } = await cluster.create('db');
    const { epoch } = await api().attachVolume('db', 'node1');
    const { target } = cluster.node('node1');
    target.lostData.add(idToBigint(id));
    target.states.set(idToBigint(id), 'failed');
    await reportLoss(id, epoch);
    await expect(api().attachVolume('db', null)).rejects.toThrow(rejection('DATA_LOSS'));
    target.lostData.clear();
    target.states.clear();
    expect((await api().attachVolume('db', null, accept)).epoch).toBeGreaterThan(epoch);
  });

  test('may ask only for its own epoch', async () => {
    const { id } = await cluster.create('db');
    const { epoch } = await api().attachVolume('db', 'node1');
    await expect(reportLoss(id, epoch - 1)).rejects.toThrow(rejection('EPOCH_SUPERSEDED'));
    expect((await cluster.record('db')).lostData).toBeNull();
  });

  test('and could not tell anybody is found by the audit', async () => {
    const { id } = await cluster.create('db');
    await api().attachVolume('db', 'node1');
    cluster.node('node1').target.lostData.add(idToBigint(id));
    await expect.poll(async () => (await cluster.record('db')).lostData, patience).toMatch(/DATA LOSS/);
  });
});

describe('older data', () => {
  test('is served only when it is asked for; what may have more is set aside and never touched', async () => {
    const volume = await cluster.create('db');
    await api().attachVolume('db', 'node2');
    const newest = replicaOn(volume, 'node1');
    await cluster.setInSync('db', [newest]);
    await api().detachVolume('db', false);
    cluster.setPosition(volume, 'node1', 1, 9);
    cluster.setPosition(volume, 'node2', 1, 5);
    cluster.setPosition(volume, 'node3', 1, 7);
    await cluster.setReplicaRuns('node1', false);
    cluster.node('node2').target.refuseAttach = new HoldfastError('NO_IN_SYNC_REPLICA', 'none can be opened');
    await expect(api().attachVolume('db', 'node2')).rejects.toThrow(/--accept-data-loss/);
    expect((await cluster.record('db')).inSync).toEqual([newest]);

    cluster.node('node2').target.refuseAttach = null;
    const served = replicaOn(volume, 'node3');
    expect(await api().attachVolume('db', 'node2', accept)).toMatchObject({ servedFrom: served });
    expect(await cluster.record('db')).toMatchObject({ inSync: [served], setAside: [newest] });
    const told = cluster.node('node2').target.attached.get(idToBigint(volume.id));
    expect(told?.replicas.map(({ replicaId }) => replicaId)).not.toContain(idToBigint(newest));

    // It comes back: it stays as it is, until somebody lets it go.
    await cluster.setReplicaRuns('node1', true);
    await cluster.manager.settle();
    expect(await api().getVolume('db')).toMatchObject({
      replicas: expect.arrayContaining([expect.objectContaining({ id: newest, state: 'set-aside' })]) as unknown,
    });
    expect(cluster.node('node1').replica.replicas.has(idToBigint(newest))).toBe(true);
    await api().removeReplica('db', { replicaId: newest, replace: false });
    await expect.poll(() => cluster.node('node1').replica.replicas.has(idToBigint(newest)), patience).toBe(false);
    expect((await cluster.record('db')).setAside).toEqual([]);
  });

  test('is that of a copy which promised a new epoch: an engine that is alive cannot begin to rebuild it any more', async () => {
    const volume = await cluster.create('db');
    const { epoch } = await api().attachVolume('db', 'node2');
    await cluster.setInSync('db', [replicaOn(volume, 'node1')]);
    cluster.setPosition(volume, 'node2', 1, 5);
    cluster.setPosition(volume, 'node3', 1, 7);
    await cluster.setReplicaRuns('node1', false);
    const [newer, served] = [replicaOn(volume, 'node3'), replicaOn(volume, 'node2')];
    cluster.node('node3').replica.begunToRebuild.add(idToBigint(newer));
    expect(await api().attachVolume('db', 'node2', accept)).toMatchObject({ servedFrom: served });
    expect(cluster.node('node2').replica.promised.get(idToBigint(served))).toBeGreaterThan(BigInt(epoch));
  });

  test('is not there when every older copy has begun to be rebuilt: nothing is set aside', async () => {
    const volume = await cluster.create('db');
    const newest = replicaOn(volume, 'node1');
    await cluster.setInSync('db', [newest]);
    await cluster.setReplicaRuns('node1', false);
    for (const node of ['node2', 'node3']) {
      cluster.node(node).replica.begunToRebuild.add(idToBigint(replicaOn(volume, node)));
    }
    await expect(api().attachVolume('db', 'node2', accept)).rejects.toThrow(rejection('NO_IN_SYNC_REPLICA'));
    expect(await cluster.record('db')).toMatchObject({ inSync: [newest], setAside: [] });
  });

  test('of a certain copy', async () => {
    const volume = await cluster.create('db');
    const wanted = replicaOn(volume, 'node2');
    const choice = { acceptDataLoss: true, replicaId: wanted };
    expect(await api().attachVolume('db', 'node2', choice)).toMatchObject({ servedFrom: wanted });
    expect((await cluster.record('db')).setAside).toHaveLength(2);
    await cluster.setReplicaRuns('node1', false);
    const gone = { acceptDataLoss: true, replicaId: replicaOn(volume, 'node1') };
    await expect(api().attachVolume('db', 'node2', gone)).rejects.toThrow(rejection('NO_IN_SYNC_REPLICA'));
  });

  test('accepting it changes nothing while a good copy can be reached', async () => {
    const volume = await cluster.create('db');
    expect(await api().attachVolume('db', null, accept)).toMatchObject({ servedFrom: null });
    expect(await cluster.record('db')).toMatchObject({ inSync: volume.inSync, setAside: [] });
  });
});

describe('what engines do not tell by themselves', () => {
  test('writes that are paused show, with the reason', async () => {
    const { id } = await cluster.create('db');
    await api().attachVolume('db', 'node1');
    cluster.node('node1').target.writesPaused.add(idToBigint(id));
    expect(await api().getVolume('db')).toMatchObject({ health: 'degraded', writesPaused: true });
  });

  test('an engine that is gone is noticed, and the volume gets another one', async () => {
    const { id } = await cluster.create('db');
    const { epoch } = await api().attachVolume('db', 'node1');
    cluster.node('node1').target.attached.delete(idToBigint(id));
    await expect
      .poll(() => cluster.node('node1').target.attached.get(idToBigint(id))?.epoch, patience)
      .toBe(BigInt(epoch + 1));
  });
});
