/**
 * The file system under the embedded metadata store is full: what needs room fails with an error that says where, nothing that was stored
 * is harmed, no process ends, I/O goes on, and with room again so does everything else. Takes root (a small tmpfs).
 */
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  closeSync,
  readFileSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';

import { request } from '../engine/api/rest-client.js';
import { systemErrorCode } from '../engine/errors/holdfast-error.js';
import { openLmdbMetastore } from '../engine/metastore/lmdb-metastore.js';
import type { Metastore } from '../engine/metastore/metastore.js';
import { Cluster } from './lib/cluster.js';
import { startNbd } from './lib/initiator.js';
import { attempt, run, until } from './lib/process.js';

const isRoot = process.getuid?.() === 0;
const mounted: string[] = [];
let folder: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-full-store-'));
});
afterAll(async () => {
  for (const path of mounted) await attempt('umount', ['-l', path]);
  rmSync(folder, { recursive: true, force: true });
});

async function mountSmall(path: string, size: string): Promise<void> {
  mkdirSync(path, { recursive: true });
  await run('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', path]);
  mounted.push(path);
}

/** Takes all the room there is; returns what gives it back. */
function fillUp(path: string): () => void {
  const ballast = join(path, 'ballast');
  const file = openSync(ballast, 'w');
  try {
    for (;;) writeSync(file, Buffer.alloc(4096));
  } catch (error) {
    if (systemErrorCode(error) !== 'ENOSPC') throw error;
  } finally {
    closeSync(file);
  }
  return () => {
    rmSync(ballast);
  };
}

describe.skipIf(!isRoot)('the store itself', () => {
  const value = 'x'.repeat(1_000);
  const put = (store: Metastore, key: string) => store.transact([], [{ kind: 'put', key, value }]);

  test('refuses what does not fit, keeps what it has, and goes on', async () => {
    const small = join(folder, 'small');
    await mountSmall(small, '2m');
    const directory = join(small, 'metastore');
    const store = await openLmdbMetastore(directory);
    const watched: string[] = [];
    const stop = new AbortController();
    const watching = (async () => {
      for await (const events of store.watch('/', stop.signal)) {
        for (const event of events) if (event.kind === 'put') watched.push(event.entry.key);
      }
    })();
    await put(store, '/first');
    const release = fillUp(small);

    // Pages of its own file that are free may still take some.
    const stored = ['/first'];
    const full = expect.objectContaining({
      code: 'STORE_UNAVAILABLE',
      message: expect.stringContaining(directory) as string,
    }) as Error;
    for (let n = 0; ; n++) {
      expect(n, 'a full file system takes everything').toBeLessThan(1_000);
      const key = `/key${n}`;
      const failure: unknown = await put(store, key).then(
        () => null,
        (error: unknown) => error,
      );
      if (failure === null) {
        stored.push(key);
        continue;
      }
      expect(failure).toEqual(full);
      break;
    }
    // Each of several at once is told, and none of a transaction is stored.
    const several = [0, 1, 2].map((n) =>
      store.transact(
        [],
        Array.from({ length: 40 }, (_, part) => ({ kind: 'put', key: `/many${n}/${part}`, value })),
      ),
    );
    for (const outcome of await Promise.allSettled(several)) {
      expect(outcome).toEqual({ status: 'rejected', reason: full });
    }
    const keysOf = async (from: Metastore) => (await from.range('/')).entries.map(({ key }) => key).sort();
    expect(await keysOf(store)).toEqual([...stored].sort());

    release();
    await put(store, '/after');
    stored.push('/after');
    expect(await keysOf(store)).toEqual([...stored].sort());
    stop.abort();
    await watching;
    expect(watched).toEqual(stored);
    await store.close();
    const again = await openLmdbMetastore(directory);
    expect(await keysOf(again)).toEqual([...stored].sort());
    await again.close();
  });

  test('cannot be made where there is no room', async () => {
    const small = join(folder, 'none');
    await mountSmall(small, '64k');
    const release = fillUp(small);
    await expect(openLmdbMetastore(join(small, 'metastore'))).rejects.toMatchObject({
      code: 'STORE_UNAVAILABLE',
      message: expect.stringContaining('is full') as string,
    });
    release();
  });
});

describe.skipIf(!isRoot)('under a cluster', () => {
  const rows = z.array(z.object({ name: z.string(), state: z.string() }));

  test('hosts go on, requests say why, and everything continues', async () => {
    const first = await Cluster.start({ folder });
    await first.createVolume('db', '32Mi');
    await first.stop();
    const small = join(folder, 'cluster/manager');
    cpSync(small, join(folder, 'kept'), { recursive: true });
    await mountSmall(small, '8m');
    cpSync(join(folder, 'kept'), small, { recursive: true });

    const cluster = await Cluster.start({ folder });
    const { iscsi } = await cluster.attach('db');
    const nbd = await startNbd(folder, 'full', iscsi.url);
    try {
      const managers = async () => (await cluster.processes()).filter(({ role }) => role === 'manager');
      const before = await managers();
      const names = async () => rows.parse(await cluster.cli('snapshot', 'ls', 'db')).map(({ name }) => name);
      const taken: string[] = [];
      const release = fillUp(small);
      for (;;) {
        expect(taken.length, 'a full file system takes everything').toBeLessThan(1_000);
        const name = `s${taken.length}-${'x'.repeat(40)}`;
        const failure: unknown = await request(cluster.server, 'POST', '/v1/volumes/db/snapshots', { name }).then(
          () => null,
          (error: unknown) => error,
        );
        if (failure === null) {
          taken.push(name);
          continue;
        }
        expect(failure).toMatchObject({
          code: 'STORE_UNAVAILABLE',
          message: expect.stringContaining(join(small, 'metastore')) as string,
        });
        break;
      }
      expect(await names()).toEqual(taken);
      // I/O does not need the store, nor does looking.
      await run('qemu-io', ['-f', 'raw', nbd.uri, '-c', 'write -P 7 0 1M', '-c', 'read -P 7 0 1M', '-c', 'flush']);
      expect(await managers(), 'the manager was started again').toEqual(before);

      release();
      await cluster.cli('snapshot', 'create', 'db', 'after');
      expect(await names()).toEqual([...taken, 'after']);
      const [manager] = before;
      if (manager === undefined) throw new Error('no manager runs');
      process.kill(manager.pid, 'SIGKILL');
      await until('the next manager, which has all', 60_000, async () => {
        const { code, stdout } = await cluster.try('snapshot', 'ls', 'db');
        if (code !== 0) return false;
        const found = rows.parse(JSON.parse(stdout));
        return found.length === taken.length + 1 && found.every(({ state }) => state === 'ready');
      });
      expect(await names()).toEqual([...taken, 'after']);
      // What could be noted of it was.
      const audit = readFileSync(join(small, 'audit.log'), 'utf8');
      expect(audit).toContain('"after"');
      expect(statSync(join(small, 'metastore/data.mdb')).size).toBeGreaterThan(0);
    } finally {
      await nbd.stop();
      await cluster.stop();
    }
  });
});
