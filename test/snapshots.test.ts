/**
 * Snapshots of a real cluster, by the CLI: taken and deleted under load while replicas are killed, the same on every replica,
 * cloned, reverted to, and their space given back.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';

import { Cluster } from './lib/cluster.js';
import { startNbd } from './lib/initiator.js';
import { attempt, run, until } from './lib/process.js';
import { replicaContent } from './lib/replica-content.js';

const snapshotRow = z.object({
  id: z.string(),
  name: z.string(),
  parent: z.string().nullable(),
  state: z.literal('ready'),
  size: z.number().nullable(),
  usedBytes: z.number().nullable(),
});
const volumeRow = z.object({
  usedBytes: z.number(),
  size: z.number(),
  health: z.string(),
  linkedTo: z.string().nullable(),
});

let folder: string;
let cluster: Cluster;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-snapshots-'));
  cluster = await Cluster.start({ folder });
});
afterAll(async () => {
  await cluster.stop();
  rmSync(folder, { recursive: true, force: true });
});

const list = async (volume: string) => z.array(snapshotRow).parse(await cluster.cli('snapshot', 'ls', volume));
const show = async (volume: string) => volumeRow.parse(await cluster.cli('volume', 'show', volume));

async function allInSync(volume: string): Promise<void> {
  await until('all replicas in-sync', 60_000, async () => {
    const rows = await cluster.replicas(volume).catch(() => []);
    return rows.length === 3 && rows.every((row) => row.state === 'in-sync');
  });
}

/** What every replica holds; the same everywhere. */
async function contentOf(volume: string, snapshot?: string): Promise<string> {
  const contents = await Promise.all((await cluster.replicas(volume)).map((row) => replicaContent(row, snapshot)));
  const hashes = new Set(contents.map(({ sha256 }) => sha256));
  expect(hashes.size, `replicas of ${volume} differ in ${snapshot ?? 'the volume'}`).toBe(1);
  return contents[0]?.sha256 ?? '';
}

test('taken and deleted under load, through the loss of a replica process', async () => {
  await cluster.createVolume('db', '64Mi');
  const { iscsi } = await cluster.attach('db');
  const nbd = await startNbd(folder, 'db', iscsi.url);
  try {
    const load = attempt('fio', [
      '--name=load',
      '--ioengine=nbd',
      `--uri=${nbd.uri}`,
      '--rw=randwrite',
      '--bssplit=4k/80:64k/20',
      '--blockalign=4k',
      '--iodepth=8',
      '--size=48m',
      '--time_based=1',
      '--runtime=25',
      '--rate_iops=400',
    ]);
    for (let i = 1; i <= 8; i++) {
      await sleep(300);
      await cluster.cli('snapshot', 'create', 'db', `s${i}`);
      if (i === 3) {
        const victim = (await cluster.processes()).find(({ role }) => role === 'replica');
        if (victim !== undefined) process.kill(victim.pid, 'SIGKILL');
      }
      if (i % 3 === 0) await cluster.cli('snapshot', 'delete', 'db', `s${i - 1}`);
    }
    const { code, stderr } = await load;
    expect(code, stderr).toBe(0);
    await allInSync('db');
  } finally {
    await nbd.stop();
  }
  const revertAttached = await cluster.try('snapshot', 'revert', 'db', 's1');
  expect(revertAttached.code).toBe(1);
  expect(revertAttached.stderr).toContain('VOLUME_ATTACHED');
  await cluster.cli('volume', 'detach', 'db');

  const snapshots = await list('db');
  expect(snapshots.map(({ name }) => name)).toEqual(['s1', 's3', 's4', 's6', 's7', 's8']);
  expect(snapshots.map(({ parent }) => parent)).toEqual([null, 's1', 's3', 's4', 's6', 's7']);
  const contents = new Map<string, string>();
  for (const { id, name } of snapshots) contents.set(name, await contentOf('db', id));
  contents.set('volume', await contentOf('db'));
  expect(new Set(contents.values()).size).toBe(snapshots.length + 1);

  // A clone holds what its snapshot holds, and changes nothing of the source.
  await cluster.cli('volume', 'clone', 'db@s4', 'copy');
  expect(await contentOf('copy')).toBe(contents.get('s4'));
  await cluster.cli('volume', 'clone', 'db', 'now');
  expect(await contentOf('now')).toBe(contents.get('volume'));
  expect(await list('db')).toHaveLength(snapshots.length);

  // Back and forth again: later snapshots survive a revert.
  const [, , fourth] = snapshots;
  await cluster.cli('snapshot', 'revert', 'db', 's4');
  expect(await contentOf('db')).toBe(contents.get('s4'));
  await cluster.cli('snapshot', 'create', 'db', 'after');
  expect((await list('db')).find(({ name }) => name === 'after')?.parent).toBe('s4');
  await cluster.cli('snapshot', 'revert', 'db', 's8');
  expect(await contentOf('db')).toBe(contents.get('s8'));
  expect(await contentOf('db', fourth?.id)).toBe(contents.get('s4'));
}, 240_000);

test('linked clones share blocks and outlive what they were made of', async () => {
  await cluster.createVolume('origin', '32Mi');
  const write = async (volume: string, command: string) => {
    const { iscsi } = await cluster.attach(volume);
    const nbd = await startNbd(folder, volume, iscsi.url);
    try {
      await run('qemu-io', ['-f', 'raw', '-c', command, nbd.uri]);
    } finally {
      await nbd.stop();
    }
    await cluster.cli('volume', 'detach', volume);
  };
  await write('origin', 'write -P 5 0 16M');
  await cluster.cli('snapshot', 'create', 'origin', 'base');
  const before = await contentOf('origin');

  // Attached: the source goes on being written.
  await cluster.attach('origin');
  await cluster.cli('volume', 'clone', 'origin@base', 'linked', '--linked');
  await cluster.cli('volume', 'clone', 'origin', 'linked-now', '--linked');
  await cluster.cli('volume', 'detach', 'origin');
  expect(await show('linked')).toMatchObject({ usedBytes: 0, health: 'healthy', linkedTo: 'origin@base' });
  expect(await contentOf('linked')).toBe(before);
  expect(await contentOf('linked-now')).toBe(before);
  expect((await list('origin')).map(({ name }) => name)).toEqual(['base']);

  await write('origin', 'write -P 6 0 4M');
  await write('linked', 'write -P 7 1M 256k');
  expect((await show('linked')).usedBytes).toBe(256 << 10);
  const changed = await contentOf('linked');
  expect(changed).not.toBe(before);
  await cluster.cli('snapshot', 'delete', 'origin', 'base');
  const deletion = await cluster.cli('volume', 'delete', 'origin', '--purge');
  expect(deletion).toMatchObject({ linkedClones: ['linked', 'linked-now'] });
  expect(await contentOf('linked')).toBe(changed);
  expect(await contentOf('linked-now')).toBe(before);

  // A replica that is rebuilt is a full copy, and equal.
  const [first] = await cluster.replicas('linked');
  await cluster.cli('replica', 'rm', 'linked', first?.id ?? '');
  await cluster.cli('volume', 'set', 'linked', '--replicas', '3');
  await allInSync('linked');
  expect(await contentOf('linked')).toBe(changed);
  await cluster.cli('volume', 'delete', 'linked', '--purge');
  await cluster.cli('volume', 'delete', 'linked-now', '--purge');
}, 240_000);

test('clear errors', async () => {
  const cases: readonly (readonly [readonly string[], number, string])[] = [
    [['snapshot', 'create', 'db', 's1'], 1, 'ALREADY_EXISTS'],
    [['snapshot', 'delete', 'db', 'none'], 1, 'NOT_FOUND'],
    [['snapshot', 'revert', 'db', 'none'], 1, 'NOT_FOUND'],
    [['snapshot', 'ls', 'none'], 1, 'NOT_FOUND'],
    [['snapshot', 'create', 'db', 'Not_A_Name'], 2, 'INVALID_ARGUMENT'],
    [['volume', 'clone', 'db@none', 'other'], 1, 'NOT_FOUND'],
    [['volume', 'clone', 'db@a@b', 'other'], 2, 'INVALID_ARGUMENT'],
    [['volume', 'clone', 'db', 'copy'], 1, 'ALREADY_EXISTS'],
  ];
  for (const [args, code, text] of cases) {
    const outcome = await cluster.try(...args);
    expect(outcome.code, args.join(' ')).toBe(code);
    expect(outcome.stderr, args.join(' ')).toContain(text);
  }
  expect((await list('db')).map(({ name }) => name)).not.toContain('clone-copy');
}, 60_000);

test('UNMAP and deleting snapshots give space back; a volume grows while it is used', async () => {
  await cluster.createVolume('space', '32Mi');
  const { iscsi } = await cluster.attach('space');
  const nbd = await startNbd(folder, 'space', iscsi.url);
  const io = (command: string) => run('qemu-io', ['-f', 'raw', '-c', command, nbd.uri]);
  const usedIs = async (bytes: number) =>
    await until(`${bytes} bytes are used`, 20_000, async () => (await show('space')).usedBytes === bytes || undefined);
  try {
    await io('write -P 7 0 16M');
    await usedIs(16 << 20);
    await cluster.cli('snapshot', 'create', 'space', 'full');
    await io('discard 0 16M');
    await sleep(1_500);
    expect((await show('space')).usedBytes).toBe(16 << 20);
    await cluster.cli('snapshot', 'delete', 'space', 'full');
    await usedIs(0);

    await io('write -P 9 0 4M');
    await cluster.cli('volume', 'resize', 'space', '--size', '64Mi');
    expect((await show('space')).size).toBe(64 << 20);
  } finally {
    await nbd.stop();
  }
  const grown = await startNbd(folder, 'grown', iscsi.url);
  try {
    await run('qemu-io', ['-f', 'raw', '-c', 'write -P 5 60M 4M', '-c', 'read -P 9 0 4M', grown.uri]);
  } finally {
    await grown.stop();
  }
}, 60_000);
