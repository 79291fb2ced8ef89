import { expect, test } from 'vitest';
import { silentLogger } from '../log/logger.js';
import { keepEvents } from './event-keeper.js';
import { EventLog } from './events.js';
import type { ClusterEvent } from './events.js';
import { FakeCluster } from './testing/fake-cluster.js';

const event = (message: string) => ({ severity: 'info' as const, object: 'volume db', message });

function keptIn(stored: { events: readonly ClusterEvent[] }, failures: { left: number }) {
  return {
    events: () => Promise.resolve([...stored.events]),
    putEvents: (events: readonly ClusterEvent[]) => {
      if (failures.left-- > 0) return Promise.reject(new Error('the store is away'));
      stored.events = events;
      return Promise.resolve();
    },
  };
}

test('the next manager knows what happened, and numbers go on', async () => {
  const stored = { events: [] as readonly ClusterEvent[] };
  const store = keptIn(stored, { left: 0 });
  const first = new EventLog(() => new Date(0));
  const keeper = await keepEvents(first, store, silentLogger);
  for (let number = 1; number <= 300; number++) first.emit(event(`event ${number}`));
  await keeper.stop();
  const second = new EventLog(() => new Date(0));
  await (await keepEvents(second, store, silentLogger)).stop();
  second.emit(event('after'));
  expect(second.recent(2).map(({ id, message }) => [id, message])).toEqual([
    [300, 'event 300'],
    [301, 'after'],
  ]);
  expect(second.recent(1_000)).toHaveLength(201);
});

test('a store that is away loses nothing that is written later', async () => {
  const stored = { events: [] as readonly ClusterEvent[] };
  const log = new EventLog(() => new Date(0));
  const failures = { left: 1 };
  const keeper = await keepEvents(log, keptIn(stored, failures), silentLogger, 0);
  log.emit(event('one'));
  await expect.poll(() => failures.left, { timeout: 60_000 }).toBe(0);
  log.emit(event('two'));
  await keeper.stop();
  expect(stored.events.map(({ message }) => message)).toEqual(['one', 'two']);
});

test('of a real manager outlive it', async () => {
  const cluster = await FakeCluster.start();
  try {
    await cluster.create('db');
    await cluster.manager.api.attachVolume('db', 'node1');
    cluster.manager.events.emit(event('something to remember'));
    await cluster.restartManager();
    const seen = cluster.manager.events.recent(1_000);
    expect(seen.map(({ message }) => message)).toContain('something to remember');
    expect(new Set(seen.map(({ id }) => id)).size).toBe(seen.length);
  } finally {
    await cluster.stop();
  }
});
