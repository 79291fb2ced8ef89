// Two agents with one name: a typo, or a folder that was copied. The one that has the name keeps it.
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { claimName, nameFreeAfterMs } from './node-names.js';
import { FakeCluster } from './testing/fake-cluster.js';
import { FakeNode } from './testing/fake-data-plane.js';

const first = { folderId: 'a', host: '192.0.2.1', folder: '/srv/holdfast/agent' };
const copy = { folderId: 'b', host: '192.0.2.2', folder: '/srv/copy/agent' };

describe('the name of a node', () => {
  const now = new Date(86_400_000);
  const holder = { ...first, since: '1970-01-01T00:00:00.000Z' };

  test('is the first agent’s, and whoever else wants it hears who has it', () => {
    expect(claimName('n1', undefined, first, { awayMs: Infinity, now: new Date(0) })).toEqual(holder);
    expect(() => claimName('n1', holder, copy, { awayMs: 0, now })).toThrow(
      'node "n1" is online (its agent: 192.0.2.1, folder /srv/holdfast/agent, since 1970-01-01T00:00:00.000Z): ' +
        'a host of its own needs a name and a folder of its own (--node NAME --data DIR). ' +
        'The agent on 192.0.2.2, folder /srv/copy/agent gets it once the other has ended for ten seconds.',
    );
  });

  test('is had again at once on the same folder, wherever that is reached by now', () => {
    const moved = { ...first, host: '192.0.2.9' };
    expect(claimName('n1', holder, moved, { awayMs: 0, now })).toEqual({ ...moved, since: holder.since });
  });

  test('is free a moment after its agent has gone', () => {
    expect(() => claimName('n1', holder, copy, { awayMs: nameFreeAfterMs - 1, now })).toThrow('is online');
    const taken = { ...copy, since: now.toISOString() };
    expect(claimName('n1', holder, copy, { awayMs: nameFreeAfterMs, now })).toEqual(taken);
  });
});

describe('two agents with the same name', () => {
  let cluster: FakeCluster;
  let second: FakeNode;

  beforeEach(async () => {
    cluster = await FakeCluster.start();
    const { address } = cluster.manager;
    cluster.node('node1').place = first;
    await cluster.node('node1').connect(address);
    second = new FakeNode(1);
    second.place = copy;
    await second.start();
  });
  afterEach(async () => {
    second.stop();
    await cluster.stop();
  });

  // What the manager asks about the node goes there.
  const served = async () => {
    const asked = [cluster.node('node1'), second].map(({ target }) => target.epochs.length);
    await cluster.create('db', 1);
    await cluster.manager.api.attachVolume('db', 'node1');
    return [cluster.node('node1'), second].map(({ target }, index) => target.epochs.length - (asked[index] ?? 0));
  };

  test('the second is refused and changes nothing, the first keeps working', async () => {
    for (let times = 0; times < 2; times++)
      await expect(second.connect(cluster.manager.address)).rejects.toThrow(/its agent: 192\.0\.2\.1, folder /);
    await cluster.node('node1').report();
    expect(await served()).toEqual([1, 0]);
    const refusals = cluster.manager.events.recent(100).filter(({ message }) => message.startsWith('refused an agent'));
    expect(refusals).toMatchObject([{ object: 'node node1', severity: 'warning' }]);
  });

  test('after a change of managers the first finds its name again, although the second was faster', async () => {
    await cluster.restartManager(async () => {
      await expect(second.connect(cluster.manager.address)).rejects.toThrow('is online');
    });
    expect(await served()).toEqual([1, 0]);
  });

  test('one that is started again on its folder is back at once', async () => {
    cluster.node('node1').disconnect();
    second.place = first;
    await second.connect(cluster.manager.address);
    expect(await served()).toEqual([0, 1]);
  });
});
