// The conformance suite of the metadata store: runs on every implementation in the table below.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as realTime } from 'node:timers/promises';
import fc from 'fast-check';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { openEtcdMetastore } from './etcd-metastore.js';
import { openLmdbMetastore } from './lmdb-metastore.js';
import type { Clock } from './lmdb-metastore.js';
import type { Change, LeaseId, Metastore, WatchEvent } from './metastore.js';
import { EtcdCluster, hasEtcd } from './testing/etcd-cluster.js';

class ManualClock implements Clock {
  #now = 0;
  #tasks: { at: number; task: () => void }[] = [];

  now = () => this.#now;

  after = (ms: number, task: () => void) => {
    const entry = { at: this.#now + ms, task };
    this.#tasks.push(entry);
    return {
      cancel: () => {
        this.#tasks = this.#tasks.filter((other) => other !== entry);
      },
    };
  };

  advance(ms: number): void {
    this.#now += ms;
    const due = this.#tasks.filter(({ at }) => at <= this.#now);
    this.#tasks = this.#tasks.filter(({ at }) => at > this.#now);
    for (const { task } of due) task();
  }
}

/** One store of a test; opening it twice in a row gives the same content. */
type Bench = {
  readonly open: () => Promise<Metastore>;
  /** Lets time pass for leases. */
  readonly pass: (ms: number) => Promise<void>;
  readonly remove: () => void;
};

type Implementation = {
  readonly name: string;
  readonly skip: boolean;
  readonly start: () => Promise<void>;
  readonly bench: () => Bench;
  readonly stop: () => Promise<void>;
};

const nothing = () => Promise.resolve();

const lmdb: Implementation = {
  name: 'lmdb',
  skip: false,
  start: nothing,
  stop: nothing,
  bench: () => {
    const directory = mkdtempSync(join(tmpdir(), 'holdfast-metastore-'));
    const clock = new ManualClock();
    return {
      open: () => openLmdbMetastore(directory, clock),
      pass: (ms) => {
        clock.advance(ms);
        return Promise.resolve();
      },
      remove: () => {
        rmSync(directory, { recursive: true, force: true });
      },
    };
  },
};

// Prefixes keep the tests apart.
const cluster = new EtcdCluster();
let prefixes = 0;
const etcd: Implementation = {
  name: 'etcd',
  skip: !hasEtcd,
  start: () => cluster.start(1),
  stop: () => cluster.stop(),
  bench: () => {
    prefixes += 1;
    const prefix = `/holdfast-${prefixes}`;
    return {
      open: () => openEtcdMetastore({ urls: cluster.urls, ca: null, certificate: null, key: null, user: null, prefix }),
      pass: async (ms) => {
        await realTime(ms);
      },
      remove: () => undefined,
    };
  },
};

const put = (key: string, value: string): Change => ({ kind: 'put', key, value });

test('lmdb refuses a key that it cannot hold, and the transaction changes nothing', async () => {
  const bench = lmdb.bench();
  const store = await bench.open();
  const changes: Change[] = ['b', 'a'.repeat(2_000)].map((key) => ({ kind: 'put', key, value: '1' }));
  await expect(store.transact([], changes)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  expect(await store.get('b')).toBeNull();
  await store.close();
  bench.remove();
});

describe.each([lmdb, etcd])('metastore on $name', (implementation) => {
  if (implementation.skip) {
    test.skip('is not installed', () => undefined);
    return;
  }
  let bench: Bench;
  let store: Metastore;

  beforeAll(() => implementation.start());
  afterAll(() => implementation.stop());
  beforeEach(async () => {
    bench = implementation.bench();
    store = await bench.open();
  });
  afterEach(async () => {
    await store.close();
    bench.remove();
  });

  async function reopen(): Promise<void> {
    await store.close();
    store = await bench.open();
  }

  test('an absent key is null', async () => {
    expect(await store.get('/a')).toBeNull();
  });

  // Names of requests become keys as they are.
  test('a key of any length can be asked for', async () => {
    const long = '/volumes/' + 'a'.repeat(100_000);
    await store.transact([], [{ kind: 'put', key: '/volumes/b', value: '1' }]);
    expect(await store.get(long)).toBeNull();
    expect((await store.range(long)).entries).toEqual([]);
    const outcome = await store.transact([{ key: long, modRevision: 0 }], [{ kind: 'delete', key: long }]);
    expect(outcome.succeeded).toBe(true);
    expect((await store.transact([{ key: long, modRevision: 7 }], [])).succeeded).toBe(false);
    expect((await store.get('/volumes/b'))?.value).toBe('1');
  });

  test('a put is read back with its revisions, also after a reopen', async () => {
    const first = await store.transact([], [put('/a', '1')]);
    const second = await store.transact([], [put('/a', '2')]);
    expect(second.revision).toBe(first.revision + 1);
    await reopen();
    expect(await store.get('/a')).toEqual({
      key: '/a',
      value: '2',
      createRevision: first.revision,
      modRevision: second.revision,
    });
  });

  test('a transaction whose compare does not hold changes nothing', async () => {
    await store.transact([], [put('/a', '1')]);
    const outcome = await store.transact([{ key: '/a', modRevision: 0 }], [put('/a', '2'), put('/b', '2')]);
    expect(outcome.succeeded).toBe(false);
    expect((await store.get('/a'))?.value).toBe('1');
    expect(await store.get('/b')).toBeNull();
  });

  test('modRevision 0 means absent: of many creators exactly one wins', async () => {
    const outcomes = await Promise.all(
      Array.from({ length: 20 }, (_, index) =>
        store.transact([{ key: '/a', modRevision: 0 }], [put('/a', String(index))]),
      ),
    );
    expect(outcomes.filter(({ succeeded }) => succeeded)).toHaveLength(1);
  });

  test('concurrent compare-and-swap increments lose nothing', async () => {
    await store.transact([], [put('/n', '0')]);
    const increment = async () => {
      for (;;) {
        const entry = (await store.get('/n'))!;
        const change = put('/n', String(Number(entry.value) + 1));
        if ((await store.transact([{ key: '/n', modRevision: entry.modRevision }], [change])).succeeded) return;
      }
    };
    await Promise.all(Array.from({ length: 25 }, increment));
    expect((await store.get('/n'))?.value).toBe('25');
  });

  test('range gives a prefix in order, with limit and after', async () => {
    await store.transact([], [put('/v/b', '2'), put('/v/a', '1'), put('/w/x', '9'), put('/v/c', '3'), put('/u', '0')]);
    const keys = async (options?: { limit?: number; after?: string }) =>
      (await store.range('/v/', options)).entries.map(({ key }) => key);
    expect(await keys()).toEqual(['/v/a', '/v/b', '/v/c']);
    expect(await keys({ limit: 2 })).toEqual(['/v/a', '/v/b']);
    expect(await keys({ after: '/v/a' })).toEqual(['/v/b', '/v/c']);
    expect(await keys({ after: '/v/a', limit: 1 })).toEqual(['/v/b']);
    expect(await keys({ after: '/v/c' })).toEqual([]);
  });

  test('a deleted key starts anew', async () => {
    await store.transact([], [put('/a', '1')]);
    await store.transact([], [{ kind: 'delete', key: '/a' }]);
    expect(await store.get('/a')).toBeNull();
    const again = await store.transact([{ key: '/a', modRevision: 0 }], [put('/a', '2')]);
    expect((await store.get('/a'))?.createRevision).toBe(again.revision);
  });

  test('a transaction that changes nothing keeps the revision', async () => {
    const before = await store.transact([], [put('/a', '1')]);
    const outcome = await store.transact([], [{ kind: 'delete', key: '/none' }]);
    expect(outcome).toEqual({ succeeded: true, revision: before.revision });
  });

  test('a watch delivers whole transactions in order, and nothing of before', async () => {
    await store.transact([], [put('/v/old', '0')]);
    const stop = new AbortController();
    const seen: (readonly WatchEvent[])[] = [];
    const watch = store.watch('/v/', stop.signal);
    await store.transact([], [put('/v/a', '1'), put('/other', '1'), put('/v/b', '1')]);
    await store.transact([], [{ kind: 'delete', key: '/v/a' }]);
    for await (const events of watch) {
      seen.push(events);
      if (seen.length === 2) stop.abort();
    }
    expect(
      seen.map((events) =>
        events.map((event) => `${event.kind} ${event.kind === 'put' ? event.entry.key : event.key}`),
      ),
    ).toEqual([['put /v/a', 'put /v/b'], ['delete /v/a']]);
  });

  test('a watch ends when its signal aborts and when the store closes', async () => {
    const stop = new AbortController();
    const next = async (watch: AsyncIterable<unknown>) => await watch[Symbol.asyncIterator]().next();
    const aborted = next(store.watch('/', stop.signal));
    const closed = next(store.watch('/', new AbortController().signal));
    stop.abort();
    await store.close();
    expect((await aborted).done).toBe(true);
    expect((await closed).done).toBe(true);
  });

  test('keys of a lease go when it is revoked', async () => {
    const lease = await store.grantLease(60_000);
    await store.transact([], [{ kind: 'put', key: '/r', value: '1', lease }]);
    await store.revokeLease(lease);
    expect(await store.get('/r')).toBeNull();
  });

  // Where time is real, it may have gone on too far before a renewal arrives: then again.
  async function outlives(lease: LeaseId): Promise<boolean> {
    let aliveAt = performance.now();
    const late = () => performance.now() - aliveAt > 900;
    try {
      await store.transact([], [{ kind: 'put', key: '/e', value: '1', lease }]);
      await bench.pass(600);
      const askedAt = performance.now();
      await store.renewLease(lease);
      aliveAt = askedAt;
    } catch (error) {
      if (late()) return false;
      throw error;
    }
    await bench.pass(600);
    const found = await store.get('/e');
    if (found === null && late()) return false;
    expect(found?.value).toBe('1');
    return true;
  }

  test('keys of a lease go when it expires, and not while it is renewed', async () => {
    const watch = store.watch('/e', new AbortController().signal);
    let expiring = await store.grantLease(1_000);
    while (!(await outlives(expiring))) expiring = await store.grantLease(1_000);
    await bench.pass(400);
    for await (const events of watch) {
      if (events.some(({ kind }) => kind === 'delete')) break;
    }
    await expect.poll(() => store.get('/e')).toBeNull();
    await expect
      .poll(() => store.renewLease(expiring).catch((error: unknown) => error))
      .toMatchObject({ code: 'NOT_FOUND' });
  });

  test('a key that was taken over by another put outlives the lease', async () => {
    const lease = await store.grantLease(60_000);
    await store.transact([], [{ kind: 'put', key: '/a', value: '1', lease }]);
    await store.transact([], [put('/a', '2')]);
    await store.revokeLease(lease);
    expect((await store.get('/a'))?.value).toBe('2');
  });

  test('an unknown lease is refused, and the transaction changes nothing', async () => {
    await expect(
      store.transact([], [put('/a', '1'), { kind: 'put', key: '/b', value: '1', lease: '99' }]),
    ).rejects.toMatchObject({ code: 'NOT_FOUND' });
    expect(await store.get('/a')).toBeNull();
  });

  test('a lease that was alive before a restart gets its full time again', async () => {
    const lease = await store.grantLease(60_000);
    await store.transact([], [{ kind: 'put', key: '/a', value: '1', lease }]);
    await reopen();
    await store.renewLease(lease);
    expect((await store.get('/a'))?.value).toBe('1');
  });

  test('equals a map under random transactions, with reopens', async () => {
    const key = fc.constantFrom('/a', '/b', '/c');
    const change = fc.oneof(
      fc.record({ kind: fc.constant('put' as const), key, value: fc.string({ maxLength: 5 }) }),
      fc.record({ kind: fc.constant('delete' as const), key }),
    );
    const step = fc.oneof(
      { weight: 9, arbitrary: fc.uniqueArray(change, { selector: (each) => each.key, minLength: 1 }) },
      { weight: 1, arbitrary: fc.constant('reopen' as const) },
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 20 }), async (steps) => {
        await store.transact(
          [],
          ['/a', '/b', '/c'].map((each): Change => ({ kind: 'delete', key: each })),
        );
        const model = new Map<string, string>();
        for (const each of steps) {
          if (each === 'reopen') {
            await reopen();
            continue;
          }
          await store.transact([], each);
          for (const one of each) {
            if (one.kind === 'put') model.set(one.key, one.value);
            else model.delete(one.key);
          }
        }
        const { entries } = await store.range('/');
        expect(entries.map((entry) => [entry.key, entry.value])).toEqual(
          [...model].sort(([a], [b]) => (a < b ? -1 : 1)),
        );
      }),
      { numRuns: 15 },
    );
  });
});
