/**
 * Faults of real processes under fio verify load: kills, frozen processes, bits that flip on the disk, replicas that come and go,
 * take-over by force, everything down at once. Stalls that a host sees are bounds on the longest I/O.
 *
 * HOLDFAST_FAULT_SECONDS makes every load longer (5 s here).
 */
import { closeSync, fsyncSync, mkdtempSync, openSync, readSync, rmSync, statSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { Cluster } from './lib/cluster.js';
import type { ReplicaRow } from './lib/cluster.js';
import { startNbd } from './lib/initiator.js';
import type { NbdExport } from './lib/initiator.js';
import { attempt, freeze, run, until } from './lib/process.js';
import { replicaContent } from './lib/replica-content.js';

const loadSeconds = Number(process.env['HOLDFAST_FAULT_SECONDS'] ?? 5);
const volume = 'faults';

let folder: string;
let cluster: Cluster;
let nbd: NbdExport;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-faults-'));
  cluster = await Cluster.start({ folder });
  await cluster.createVolume(volume, '128Mi');
  const { iscsi } = await cluster.attach(volume, '--node', 'node1');
  nbd = await startNbd(folder, volume, iscsi.url);
}, 120_000);
afterAll(async () => {
  await nbd.stop();
  await cluster.stop();
  rmSync(folder, { recursive: true, force: true });
}, 120_000);

const latency = z.object({ max: z.number() });
const fioReport = z.object({
  jobs: z.array(
    z.object({ error: z.number(), write: z.object({ clat_ns: latency }), read: z.object({ clat_ns: latency }) }),
  ),
});

/** Writes and verifies; the longest single I/O, in ms. `fault` happens one second into it. */
async function loadDuring(fault: () => Promise<void>, seconds = loadSeconds): Promise<number> {
  const outcome = attempt(
    'fio',
    [
      '--name=load',
      '--ioengine=nbd',
      `--uri=${nbd.uri}`,
      '--rw=randrw',
      '--bs=4k',
      '--iodepth=8',
      '--size=64m',
      '--rate_iops=400,400',
      '--time_based',
      `--runtime=${seconds}`,
      '--verify=crc32c',
      '--verify_fatal=1',
      '--verify_backlog=256',
      '--verify_state_save=0',
      '--output-format=json',
    ],
    { timeoutMilliseconds: (seconds + 60) * 1_000 },
  );
  await sleep(1_000);
  await fault();
  const { code, stdout, stderr } = await outcome;
  expect(code, stderr).toBe(0);
  const [job] = fioReport.parse(JSON.parse(stdout.slice(stdout.indexOf('{')))).jobs;
  return Math.max(job?.write.clat_ns.max ?? 0, job?.read.clat_ns.max ?? 0) / 1e6;
}

async function allInSync(seconds = 60): Promise<ReplicaRow[]> {
  return await until('all replicas in-sync', seconds * 1_000, async () => {
    const rows = await cluster.replicas(volume).catch(() => []);
    return rows.length === 3 && rows.every((row) => row.state === 'in-sync') ? rows : false;
  });
}

async function pidOf(role: string, node: string): Promise<number> {
  const row = (await cluster.processes()).find((each) => each.role === role && each.node === node);
  if (row === undefined) throw new Error(`no ${role} process on ${node}`);
  return row.pid;
}

async function replicaOn(node: string): Promise<ReplicaRow> {
  const row = (await cluster.replicas(volume)).find((each) => each.node === node);
  if (row === undefined) throw new Error(`no replica on ${node}`);
  return row;
}

const volumeShape = z.object({
  health: z.string(),
  state: z.string(),
  node: z.string().nullable(),
  epoch: z.number(),
  copies: z.number(),
  scrub: z
    .object({
      state: z.string(),
      damagedBlocks: z.number(),
      repairedBlocks: z.number(),
      unrepairableBlocks: z.number(),
    })
    .nullable(),
});
const show = async () => volumeShape.parse(await cluster.cli('volume', 'show', volume));

test('a killed replica process: hosts see less than a second', async () => {
  const pid = await pidOf('replica', 'node2');
  const worst = await loadDuring(() => {
    process.kill(pid, 'SIGKILL');
    return Promise.resolve();
  });
  expect(worst).toBeLessThan(1_000);
  await allInSync();
}, 120_000);

test('a frozen replica process: less than five seconds, and it comes back', async () => {
  const pid = await pidOf('replica', 'node3');
  try {
    const worst = await loadDuring(() => freeze(pid), loadSeconds + 4);
    expect(worst).toBeLessThan(5_000);
    expect((await replicaOn('node3')).state).not.toBe('in-sync');
  } finally {
    process.kill(pid, 'SIGCONT');
  }
  await allInSync();
}, 120_000);

test('bits that flip on a disk are found by a scrub and repaired', async () => {
  await loadDuring(() => Promise.resolve(), 2);
  // A process that stops in an orderly way brings everything from its journal to its place.
  process.kill(await pidOf('replica', 'node3'), 'SIGTERM');
  await sleep(1_000);
  await allInSync();
  const file = openSync(join(folder, 'cluster/node3/disk1/data/data'), 'r+');
  try {
    const { size } = statSync(join(folder, 'cluster/node3/disk1/data/data'));
    const byte = Buffer.alloc(1);
    let flipped = 0;
    // All over the file: slots that were given back hold old data, and nobody reads them.
    for (let at = 2_048; at < size; at += 4_096) {
      readSync(file, byte, 0, 1, at);
      if (byte[0] === 0) continue;
      byte[0] = (byte[0] ?? 0) ^ 1;
      writeSync(file, byte, 0, 1, at);
      flipped++;
      at += 32 * 4_096;
    }
    fsyncSync(file);
    expect(flipped).toBeGreaterThan(50);
  } finally {
    closeSync(file);
  }
  await cluster.cli('volume', 'scrub', volume, '--wait', '--rate', '0');
  expect((await show()).scrub).toMatchObject({ state: 'idle', unrepairableBlocks: 0 });
  const { damagedBlocks, repairedBlocks } = (await show()).scrub ?? { damagedBlocks: 0, repairedBlocks: 0 };
  expect(damagedBlocks).toBeGreaterThan(0);
  expect(repairedBlocks).toBe(damagedBlocks);
  await cluster.cli('volume', 'scrub', volume, '--wait', '--rate', '0');
  expect((await show()).scrub).toMatchObject({ damagedBlocks: 0, unrepairableBlocks: 0 });
}, 120_000);

test('one replica less and one more while a load runs; the last good copy stays', async () => {
  await loadDuring(async () => {
    const { id } = await replicaOn('node3');
    await cluster.cli('replica', 'rm', volume, id);
    await until('two replicas', 20_000, async () => (await cluster.replicas(volume)).length === 2);
    await cluster.cli('volume', 'set', volume, '--replicas', '3');
  }, loadSeconds + 3);
  await allInSync();
  await cluster.cli('volume', 'create', 'single', '--size', '8Mi', '--replicas', '1');
  const [only] = await cluster.replicas('single');
  const refused = await cluster.try('replica', 'rm', 'single', only?.id ?? '');
  expect(refused.code).toBe(1);
  expect(refused.stderr).toContain('LAST_GOOD_COPY');
}, 120_000);

test('a frozen target process is taken over by force and fenced; the former engine can do nothing', async () => {
  const { epoch } = await show();
  const pid = await pidOf('target', 'node1');
  await freeze(pid);
  try {
    const taken = z
      .object({ node: z.string(), epoch: z.number(), takeover: z.object({ from: z.string(), waitedFor: z.string() }) })
      .parse(await cluster.cli('volume', 'attach', volume, '--node', 'node2', '--force'));
    expect(taken.node).toBe('node2');
    expect(taken.epoch).toBeGreaterThan(epoch);
    expect(taken.takeover.from).toBe('node1');
  } finally {
    process.kill(pid, 'SIGCONT');
  }
  await nbd.stop();
  const { iscsi } = await cluster.attach(volume);
  nbd = await startNbd(folder, volume, iscsi.url);
  await loadDuring(() => Promise.resolve(), 2);
  await allInSync();
}, 120_000);

test('a detached volume is rebuilt by an engine without a front-end', async () => {
  await nbd.stop();
  await cluster.cli('volume', 'detach', volume);
  const { id } = await replicaOn('node3');
  await cluster.cli('replica', 'rm', volume, id);
  await cluster.cli('volume', 'set', volume, '--replicas', '3');
  await allInSync();
  expect(await show()).toMatchObject({ state: 'detached', health: 'healthy' });
  const contents = await Promise.all((await cluster.replicas(volume)).map((row) => replicaContent(row)));
  expect(new Set(contents.map(({ sha256 }) => sha256)).size).toBe(1);
  const { iscsi } = await cluster.attach(volume, '--node', 'node1');
  nbd = await startNbd(folder, volume, iscsi.url);
}, 120_000);

test('an older copy is served when the newest is lost and somebody accepts that, though the former engine is alive', async () => {
  await cluster.createVolume('older', '64Mi', '--replicas', '2');
  const { iscsi } = await cluster.attach('older');
  const device = await startNbd(folder, 'older', iscsi.url);
  const io = (command: string) => run('qemu-io', ['-f', 'raw', '-c', command, '-c', 'flush', device.uri]);
  const rows = await cluster.replicas('older');
  const [newest, older] = rows;
  if (newest === undefined || older === undefined) throw new Error('two replicas');
  const frozen = [await pidOf('replica', newest.node), await pidOf('replica', older.node)] as const;
  const stateOf = async (id: string) => (await cluster.replicas('older')).find((row) => row.id === id)?.state;
  try {
    await io('write -P 0x61 0 1M');
    await freeze(frozen[1]);
    await io('write -P 0x62 0 1M');
    expect(await stateOf(older.id)).not.toBe('in-sync');
    await freeze(frozen[0]);
    process.kill(frozen[1], 'SIGCONT');
    await device.stop();
    let refusal = '';
    const reached = () => `the older copy to be reached (${refusal})`;
    await until(reached, 30_000, async () => {
      const { code, stdout, stderr } = await cluster.try('volume', 'attach', 'older', '--accept-data-loss');
      if (code !== 0) {
        refusal = stderr;
        return false;
      }
      expect(JSON.parse(stdout)).toMatchObject({ servedFrom: older.id });
      return true;
    });
    const served = await cluster.attach('older');
    const again = await startNbd(folder, 'older', served.iscsi.url);
    await run('qemu-io', ['-f', 'raw', '-c', 'read -P 0x61 0 1M', again.uri]);
    await again.stop();
  } finally {
    for (const pid of frozen) process.kill(pid, 'SIGCONT');
  }
  // The newest comes back, and nothing overwrites it.
  expect(await stateOf(newest.id)).toBe('set-aside');
  await cluster.cli('volume', 'detach', 'older');
  await cluster.cli('volume', 'delete', 'older', '--purge');
  await allInSync();
}, 180_000);

test('everything killed at once comes back by itself, attached where it was, all copies equal', async () => {
  await loadDuring(() => Promise.resolve(), 2);
  await nbd.stop();
  const rows = await cluster.processes();
  await cluster.killUp();
  for (const { pid } of rows) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It went with `up`.
    }
  }
  cluster = await Cluster.start({ folder });
  await until('attached again', 30_000, async () => {
    const { state, node } = await show();
    return state === 'attached' && node === 'node1';
  });
  await allInSync();
  await cluster.cli('volume', 'detach', volume);
  const contents = await Promise.all((await cluster.replicas(volume)).map((row) => replicaContent(row)));
  expect(new Set(contents.map(({ sha256 }) => sha256)).size).toBe(1);
  const { iscsi } = await cluster.attach(volume, '--node', 'node1');
  nbd = await startNbd(folder, volume, iscsi.url);
}, 180_000);
