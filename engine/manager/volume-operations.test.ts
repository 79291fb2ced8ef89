// What people set of volumes: what is not given stays, what is to go is taken away.
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { FakeCluster } from './testing/fake-cluster.js';

let cluster: FakeCluster;

beforeEach(async () => {
  cluster = await FakeCluster.start(3);
});

afterEach(async () => {
  await cluster.stop();
});

const createVolume = () =>
  cluster.manager.api.createVolume({ name: 'db', size: 10 * 2 ** 20, replicas: 3, blockSize: 512 });
const rejection = (code: string) => expect.objectContaining({ code }) as Error;

describe('volume set', () => {
  const chap = { user: 'host', secret: 'a secret of theirs' };
  const mutualChap = { user: 'target', secret: 'a secret of ours' };

  test('what is not given stays: no limit and no login rule goes with another', async () => {
    await createVolume();
    const { api } = cluster.manager;
    await api.changeVolume('db', { qos: { operationsPerSecond: 100, burstSeconds: 3 } });
    await api.changeVolume('db', { qos: { bytesPerSecond: 4096 } });
    await api.changeVolume('db', { access: { chap, mutualChap } });
    const { qos, ...logins } = await api.changeVolume('db', { access: { initiators: ['iqn.2026-11.example:a'] } });
    expect(qos).toEqual({ operationsPerSecond: 100, bytesPerSecond: 4096, burstSeconds: 3 });
    expect(logins).toMatchObject({ chapUser: 'host', mutualChapUser: 'target', initiators: ['iqn.2026-11.example:a'] });
  });

  test('limits and login rules are taken away when that is asked for', async () => {
    await createVolume();
    const { api } = cluster.manager;
    await api.changeVolume('db', { qos: { operationsPerSecond: 100 }, access: { chap, mutualChap, initiators: [] } });
    expect(await api.changeVolume('db', { qos: { operationsPerSecond: 0 } })).toMatchObject({ qos: null });
    await api.changeVolume('db', { access: { mutualChap: null } });
    expect(await api.getVolume('db')).toMatchObject({ chapUser: 'host', mutualChapUser: null });
    await api.changeVolume('db', { access: { mutualChap } });
    await api.changeVolume('db', { access: { chap: null } });
    expect(await api.getVolume('db')).toMatchObject({ chapUser: null, mutualChapUser: null });
    await expect(api.changeVolume('db', { access: { mutualChap } })).rejects.toThrow(rejection('INVALID_ARGUMENT'));
  });
});
