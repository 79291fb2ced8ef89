import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { silentLogger } from '../log/logger.js';
import type { ShareOrder } from '../nfs/share-types.js';
import { systemProcessHost } from './process-host.js';
import { Shares } from './shares.js';
import type { Serving } from './target-client.js';

const stuck = '0000000000000001';
const other = '0000000000000002';

let directory: string;
let serving: Serving;
let asked: number;
let dropped: string[];
let shares: Shares;

// No such device: each says so at once, and tries again.
const orderOf = (volumeId: string): ShareOrder => ({
  volumeId,
  volume: `volume-${volumeId}`,
  device: join(directory, 'nothing'),
  sizeBytes: 1 << 20,
  fs: null,
  port: 0,
  options: { clients: [], squash: 'root', v3: false, security: [], address: null, principal: null, keytab: null },
});
const stateOf = (volumeId: string) => shares.statuses().find((status) => status.volumeId === volumeId)?.state;
const untilStateOf = (volumeId: string) => expect.poll(() => stateOf(volumeId));

/** Something is in the folder that is not removed: a share that cannot be ended. */
function hold(volumeId: string): void {
  mkdirSync(join(directory, volumeId, 'fs'), { recursive: true });
  writeFileSync(join(directory, volumeId, 'fs', 'file'), '');
}

function letGo(volumeId: string): void {
  rmSync(join(directory, volumeId, 'fs', 'file'));
}

function start(absentMaxMs: number): Shares {
  return new Shares({
    directory,
    address: '127.0.0.1',
    host: systemProcessHost,
    logger: silentLogger,
    onChange: () => undefined,
    dropDevice: (volumeId) => {
      dropped.push(volumeId);
      return Promise.resolve();
    },
    serving: () => {
      asked += 1;
      return Promise.resolve(serving);
    },
    absentMaxMs,
  });
}

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'holdfast-shares-'));
  serving = 'serving';
  asked = 0;
  dropped = [];
  shares = start(0);
});

afterEach(async () => {
  await shares.close();
  rmSync(directory, { recursive: true, force: true });
});

test('a share that cannot be ended keeps no other from being served', async () => {
  hold(stuck);
  shares.order([orderOf(stuck)]);
  await untilStateOf(stuck).toBe('failed');
  shares.order([]);
  await untilStateOf(stuck).toBe('stopping');
  shares.order([orderOf(other)]);
  await untilStateOf(other).toBe('failed'); // it was tried
  expect(stateOf(stuck)).toBe('stopping');
  expect(dropped).toEqual([]);
  letGo(stuck);
  await untilStateOf(stuck).toBeUndefined();
});

test('a share that is wanted again before it could be ended goes on', async () => {
  hold(stuck);
  shares.order([orderOf(stuck)]);
  await untilStateOf(stuck).toBe('failed');
  shares.order([]);
  await untilStateOf(stuck).toBe('stopping');
  shares.order([orderOf(stuck)]);
  await untilStateOf(stuck).toBe('failed');
  expect(existsSync(join(directory, stuck, 'fs'))).toBe(true);
});

for (const lost of ['fenced', 'absent'] as const) {
  test(`what is left of a share whose volume is ${lost} goes, with its device`, async () => {
    shares.order([orderOf(stuck)]);
    await untilStateOf(stuck).toBe('failed');
    serving = lost;
    shares.order([]);
    await untilStateOf(stuck).toBeUndefined();
    expect(dropped).toEqual([stuck]);
  });
}

test('while it is unknown who serves the volume, what there is of its share is left alone', async () => {
  serving = 'unknown';
  await shares.close();
  shares = start(1_000_000);
  shares.order([orderOf(stuck)]);
  await untilStateOf(stuck).toBe('failed');
  shares.order([]);
  await expect.poll(() => asked).toBeGreaterThan(1);
  expect(stateOf(stuck)).toBe('stopping');
  serving = 'serving';
  await untilStateOf(stuck).toBeUndefined();
});
