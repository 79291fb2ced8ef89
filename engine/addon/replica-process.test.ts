// The life of a disk in the addon, and what the border refuses. Needs a built addon (npm run build:addon).
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { isHoldfastError } from '../errors/holdfast-error.js';
import { loadAddon } from './native.js';
import type { ReplicaHandle, ReplicaOptions } from './native.js';
import { ReplicaProcess } from './replica-process.js';

const journalBytes = 64n << 20n;
let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-addon-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
});

function freshDirectory(): string {
  return mkdtempSync(join(folder, 'disk-'));
}

describe('a disk', () => {
  test('is formatted once, and is the same disk after every close', async () => {
    const directory = freshDirectory();
    const ids = new Set<string>();
    for (let round = 0; round < 5; round++) {
      await using replica = await ReplicaProcess.open({ directory, journalBytes, listen: ['127.0.0.1:0'] });
      ids.add(replica.diskId);
      expect(replica.listen[0]).toMatch(/^127\.0\.0\.1:[1-9]\d*$/);
      const status = await replica.status();
      expect(status).toMatchObject({ failure: null, replicas: 0, journalBytes });
      expect(status.freeBytes).toBeGreaterThan(0n);
    }
    expect(ids.size).toBe(1);
  });

  test('listens on several addresses', async () => {
    const socket = join(freshDirectory(), 'socket');
    await using replica = await ReplicaProcess.open({
      directory: freshDirectory(),
      journalBytes,
      listen: ['127.0.0.1:0', `unix:${socket}`],
    });
    expect(replica.listen[1]).toBe(`unix:${socket}`);
  });

  test('is refused under another id, and nothing of the refusal stays', async () => {
    const directory = freshDirectory();
    const open = (expectedDiskId: string | null) =>
      ReplicaProcess.open({ directory, journalBytes, listen: ['127.0.0.1:0'], expectedDiskId });
    const first = await open(null);
    await first.close();
    await expect(open('0'.repeat(32))).rejects.toMatchObject({ code: 'WRONG_DISK' });
    const again = await open(first.diskId);
    await again.close();
  });

  test('is opened by one process at a time', async () => {
    const directory = freshDirectory();
    await using _first = await ReplicaProcess.open({ directory, journalBytes, listen: ['127.0.0.1:0'] });
    const second = ReplicaProcess.open({ directory, journalBytes, listen: ['127.0.0.1:0'] });
    await expect(second).rejects.toMatchObject({ code: 'IN_USE' });
  });

  test('refuses a port that is taken', async () => {
    await using first = await ReplicaProcess.open({
      directory: freshDirectory(),
      journalBytes,
      listen: ['127.0.0.1:0'],
    });
    const second = ReplicaProcess.open({ directory: freshDirectory(), journalBytes, listen: first.listen });
    await expect(second).rejects.toMatchObject({ code: 'IN_USE' });
  });

  test('answers nothing after it was closed; closing again is the same closing', async () => {
    const replica = await ReplicaProcess.open({ directory: freshDirectory(), journalBytes, listen: ['127.0.0.1:0'] });
    const asked = replica.status();
    const closing = replica.close();
    expect(replica.close()).toBe(closing);
    // Asked before the close: answered before it.
    await expect(asked).resolves.toMatchObject({ diskId: replica.diskId });
    await closing;
    await expect(replica.status()).rejects.toMatchObject({ code: 'CANCELLED' });
  });
});

describe('options', () => {
  const cases: [string, Partial<ReplicaOptions>][] = [
    ['an empty directory', { directory: '' }],
    ['a directory with a NUL', { directory: 'a\0b' }],
    ['no address', { listen: [] }],
    ['a host name', { listen: ['localhost:1'] }],
    ['a port out of range', { listen: ['127.0.0.1:70000'] }],
    ['a journal that is too small', { journalBytes: 4096n }],
    ['a journal that is no multiple of a block', { journalBytes: journalBytes + 1n }],
    ['a negative capacity', { capacityBytes: -1n }],
    ['a disk id that is none', { expectedDiskId: 'nonsense' }],
  ];
  test.each(cases)('%s is refused', async (_name, wrong) => {
    const options = { directory: folder, journalBytes, listen: ['127.0.0.1:0'], ...wrong };
    const outcome: unknown = await ReplicaProcess.open(options).catch((error: unknown) => error);
    expect(isHoldfastError(outcome, 'INVALID_ARGUMENT')).toBe(true);
  });
});

describe('the border itself', () => {
  test('takes no handle of another kind', async () => {
    const addon = loadAddon();
    const target = addon.targetStart(() => undefined);
    const confused = target as unknown as ReplicaHandle;
    expect(() => addon.replicaStatus(confused)).toThrow(TypeError);
    expect(() => addon.replicaStatus({} as ReplicaHandle)).toThrow(TypeError);
    await addon.targetClose(target);
  });

  test('takes no record of another shape', async () => {
    const addon = loadAddon();
    const handle = addon.replicaStart();
    const wrong: unknown[] = [undefined, null, 7, {}, { directory: 1 }, { directory: 'x', journalPath: 3 }];
    for (const options of wrong) {
      expect(() => addon.replicaOpen(handle, options as ReplicaOptions)).toThrow(TypeError);
    }
    await expect(addon.replicaStatus(handle)).rejects.toMatchObject({ code: 'FAILED_PRECONDITION' });
    await addon.replicaClose(handle);
    await expect(addon.replicaClose(handle)).rejects.toMatchObject({ code: 'CANCELLED' });
  });
});

// Code for a thread or process of its own: opens a disk with the addon as it is.
function openingCode(directory: string, then: string): string {
  return `
    const { constants } = require('node:os');
    const container = { exports: {} };
    process.dlopen(container, ${JSON.stringify(addonPath())}, constants.dlopen.RTLD_NOW | constants.dlopen.RTLD_DEEPBIND);
    const addon = container.exports;
    const handle = addon.replicaStart();
    addon.replicaOpen(handle, {
      directory: ${JSON.stringify(directory)}, journalPath: null, journalBytes: ${journalBytes}n, capacityBytes: 0n,
      reserveBytes: 0n, cacheBytes: 67108864n, metadataCacheBytes: 8388608n, expectedDiskId: null,
      listen: ['127.0.0.1:0'], credentials: null,
    }).then(() => { ${then} });`;
}

function addonPath(): string {
  return join(import.meta.dirname, '../../build/addon/holdfast.node');
}

describe('an environment that ends without close()', () => {
  test('a worker that is terminated lets go of its disk', async () => {
    const directory = freshDirectory();
    for (let round = 0; round < 3; round++) {
      const worker = new Worker(
        openingCode(directory, `require('node:worker_threads').parentPort.postMessage('open');`),
        { eval: true },
      );
      await new Promise((resolve, reject) => {
        worker.once('message', resolve);
        worker.once('error', reject);
      });
      await worker.terminate();
    }
    await using replica = await ReplicaProcess.open({ directory, journalBytes, listen: ['127.0.0.1:0'] });
    expect((await replica.status()).failure).toBeNull();
  });

  test.each([
    ['process.exit()', 'process.exit(3)', 3],
    ['an uncaught error', 'setImmediate(() => { throw new Error("on purpose") })', 1],
  ])('%s ends the process cleanly', (_name, then, status) => {
    const child = spawnSync(process.execPath, ['-e', openingCode(freshDirectory(), then)], { timeout: 60_000 });
    expect({ status: child.status, signal: child.signal }).toEqual({ status, signal: null });
  });

  test('a worker that is terminated while it opens', async () => {
    const directory = freshDirectory();
    for (let round = 0; round < 5; round++) {
      const worker = new Worker(openingCode(directory, ''), { eval: true });
      await new Promise((resolve) => worker.once('online', resolve));
      await new Promise((resolve) => setTimeout(resolve, round * 7));
      await worker.terminate();
    }
    await using _replica = await ReplicaProcess.open({ directory, journalBytes, listen: ['127.0.0.1:0'] });
  });
});
