// Several managers on one store: one leads, the others pass connections on, and a leader that lost the store changes nothing.
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { request } from '../api/rest-client.js';
import { HoldfastError } from '../errors/holdfast-error.js';
import { silentLogger } from '../log/logger.js';
import { fenceMetastore } from '../metastore/fenced-metastore.js';
import { openLmdbMetastore } from '../metastore/lmdb-metastore.js';
import type { Metastore } from '../metastore/metastore.js';
import type { ClusterView } from './api.js';
import { startCandidate } from './candidate.js';
import type { Candidate } from './candidate.js';
import { leaderKey } from './election.js';
import { createGrpcDataPlane } from './grpc-data-plane.js';
import { recordVersion } from './records.js';
import { Repository } from './repository.js';

// The store has a cluster by then.
const unused = { version: recordVersion, id: '0'.repeat(32), createdAt: '' } as const;
let folder: string;
let store: Metastore;
let candidates: Candidate[];

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-election-'));
  store = await openLmdbMetastore(folder);
  candidates = [];
});
afterEach(async () => {
  await Promise.all(candidates.map((candidate) => candidate.stop()));
  await store.close();
  rmSync(folder, { recursive: true, force: true });
});

/** A view of the store that can be cut off. */
function cuttable(): { readonly store: Metastore; readonly cut: () => void } {
  let isCut = false;
  const unlessCut =
    <A extends unknown[], T>(call: (...args: A) => Promise<T>) =>
    async (...args: A): Promise<T> => {
      if (isCut) throw new HoldfastError('STORE_UNAVAILABLE', 'cut off');
      return await call(...args);
    };
  return {
    store: {
      ...store,
      get: unlessCut(store.get),
      transact: unlessCut(store.transact),
      renewLease: unlessCut(store.renewLease),
      grantLease: unlessCut(store.grantLease),
      revokeLease: unlessCut(store.revokeLease),
      close: () => Promise.resolve(),
    },
    cut: () => {
      isCut = true;
    },
  };
}

async function candidate(on: Metastore): Promise<Candidate> {
  const made = await startCandidate({
    store: on,
    dataPlane: createGrpcDataPlane,
    logger: silentLogger,
    listen: '127.0.0.1:0',
    advertise: null,
    version: '1.2.3',
    settleMs: 0,
  });
  candidates.push(made);
  return made;
}

const leader = async () => (await store.get(leaderKey))?.value ?? null;
const answers = (server: string) =>
  request<ClusterView>(server, 'GET', '/v1/cluster').then(
    ({ id }) => id,
    () => null,
  );

test('whichever manager is asked, the leader answers; when it stops another one takes over at once', async () => {
  const first = await candidate(cuttable().store);
  await expect.poll(leader).toBe(first.address);
  const second = await candidate(cuttable().store);
  await expect.poll(() => answers(first.address)).not.toBeNull();
  const cluster = (await new Repository(store).openCluster(unused)).id;
  await expect.poll(() => answers(first.address)).toBe(cluster);
  await expect.poll(() => answers(second.address)).toBe(cluster);
  await first.stop();
  candidates = [second];
  await expect.poll(leader).toBe(second.address);
  await expect.poll(() => answers(second.address)).not.toBeNull();
});

test('a process that ended is noticed before its lease ends; one that was never reached is not judged', async () => {
  // Of a lease that lives on: somebody renews it, and nobody leads.
  let knocks = 0;
  const port = await new Promise<{ readonly address: string; readonly close: () => void }>((resolve) => {
    const server = createServer((socket) => {
      knocks += 1;
      socket.destroy();
    });
    server.listen(0, '127.0.0.1', () => {
      const { port: bound } = server.address() as AddressInfo;
      resolve({ address: `127.0.0.1:${bound}`, close: () => server.close() });
    });
  });
  await store.transact([], [{ kind: 'put', key: leaderKey, value: port.address }]);
  const standby = await candidate(cuttable().store);
  // By the fourth it has seen the answer to the third.
  await expect.poll(() => knocks).toBeGreaterThan(3);
  expect(await leader()).toBe(port.address);
  port.close();
  await expect.poll(leader).toBe(standby.address);

  await standby.stop();
  candidates = [];
  await store.transact([], [{ kind: 'put', key: leaderKey, value: port.address }]);
  await candidate(cuttable().store);
  await sleep(1_500);
  expect(await leader()).toBe(port.address);
});

test('a leader that loses the store stops answering before its lease ends, and its successor takes over', async () => {
  const cut = cuttable();
  const first = await candidate(cut.store);
  await expect.poll(() => answers(first.address)).not.toBeNull();
  const second = await candidate(cuttable().store);
  cut.cut();
  // Never both: as long as the key names the first one, the second only forwards to it.
  await expect.poll(leader).toBe(second.address);
  expect(await answers(first.address)).toBeNull();
  await expect.poll(() => answers(second.address)).not.toBeNull();
});

test('transactions of a former leader change nothing', async () => {
  const { revision } = await store.transact([], [{ kind: 'put', key: leaderKey, value: 'a' }]);
  let lost = false;
  const fenced = fenceMetastore(store, { key: leaderKey, modRevision: revision }, () => {
    lost = true;
  });
  const put = { kind: 'put', key: '/x', value: '1' } as const;
  expect((await fenced.transact([], [put])).succeeded).toBe(true);
  expect((await fenced.transact([{ key: '/x', modRevision: 0 }], [put])).succeeded).toBe(false);
  expect(lost).toBe(false);
  await store.transact([], [{ kind: 'put', key: leaderKey, value: 'b' }]);
  await expect(fenced.transact([], [{ ...put, value: '2' }])).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
  expect(lost).toBe(true);
  expect((await store.get('/x'))?.value).toBe('1');
});
