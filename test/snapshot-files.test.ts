/**
 * Files in snapshots: browse and copy, from volumes that are in use and from detached ones, by the real kernel's file systems.
 * Takes root, FUSE and loop devices.
 */
import { lstatSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';

import { listMounts } from '../engine/os/mounts.js';
import { Cluster, cliCommand } from './lib/cluster.js';
import { whyNoLocalDevices } from './lib/local-devices.js';
import { attempt, run, until } from './lib/process.js';

const lacking = whyNoLocalDevices();
if (lacking !== null) console.warn(`snapshot-files.test: skipped: ${lacking}`);
const minute = 60_000;

let folder: string;
let cluster: Cluster;

const folderView = z.object({
  fs: z.string(),
  journal: z.string(),
  entries: z.array(z.object({ name: z.string(), type: z.string(), size: z.number() })),
});
const browse = async (volume: string, snapshot: string, ...more: string[]) =>
  folderView.parse(await cluster.cli('snapshot', 'browse', volume, snapshot, ...more));
const names = async (...args: Parameters<typeof browse>) => (await browse(...args)).entries.map(({ name }) => name);

async function map(name: string): Promise<string> {
  return z.object({ device: z.string() }).parse(await cluster.cli('map', name, '--via', 'fuse')).device;
}

/** An MBR with partitions of Linux. */
function partitionTable(...partitions: readonly (readonly [first: number, bytes: number])[]): Buffer {
  const table = Buffer.alloc(4_096);
  partitions.forEach(([first, bytes], index) => {
    const at = 446 + 16 * index;
    table.writeUInt8(0x83, at + 4);
    table.writeUInt32LE(first / 512, at + 8);
    table.writeUInt32LE(bytes / 512, at + 12);
  });
  table.writeUInt16LE(0xaa55, 510);
  return table;
}

beforeAll(async () => {
  if (lacking !== null) return;
  folder = mkdtempSync(join(tmpdir(), 'holdfast-files-'));
  cluster = await Cluster.start({ folder });
}, minute);

afterAll(async () => {
  if (lacking !== null) return;
  for (const { directory } of listMounts().filter((entry) => entry.directory.startsWith(`${folder}/mnt`))) {
    await attempt('umount', [directory]);
  }
  await cluster.stop();
  rmSync(folder, { recursive: true, force: true });
}, minute);

describe.skipIf(lacking !== null)('files in a snapshot', () => {
  test.each([
    ['ext4', '64Mi'],
    ['xfs', '320Mi'],
  ])(
    '%s: while it is in use, and detached',
    async (fs, size) => {
      const volume = `used-${fs}`;
      const at = join(folder, `mnt-${fs}`);
      await cluster.cli('volume', 'create', volume, '--size', size);
      await cluster.cli('mount', volume, at, '--fs', fs, '--via', 'fuse');
      await run('sh', [
        '-ec',
        `cd "$0"; mkdir -p d/e; head -c 700000 /dev/urandom >d/random; truncate -s 40M d/sparse; echo x >>d/sparse
         ln d/random d/hard; ln -s ../../../../../etc/passwd d/out; chmod 4751 d/random; touch -d @1500000000 d/random
         ln -s /d link; sync -f .; echo last >d/e/last; sync d/e/last`,
        at,
      ]);
      await cluster.cli('snapshot', 'create', volume, 'one');
      await run('sh', ['-ec', 'rm -r "$0/d"; sync -f "$0"', at]);

      expect(await browse(volume, 'one', '/link/e')).toMatchObject({ fs, journal: 'replayed' });
      expect(await names(volume, 'one', '/link/e')).toEqual(['last']);
      await run('sh', [
        '-ec',
        'exec "$@" >"$0"',
        join(folder, 'printed'),
        ...cliCommand,
        ...['snapshot', 'cp', `${volume}@one:/d/e/last`, '-', '--server', cluster.server],
      ]);
      expect(readFileSync(join(folder, 'printed'), 'utf8')).toBe('last\n');
      await run('umount', [at]);
      await cluster.cli('unmap', volume);

      const before = (await cluster.cli('volume', 'show', volume)) as { state: string };
      expect(before.state).toBe('detached');
      const out = join(folder, `out-${fs}`);
      const copied = await cluster.cli('snapshot', 'cp', '-r', `${volume}@one:/d`, out);
      expect(copied).toMatchObject({ destination: out, files: 3, directories: 2, links: 2, skipped: [] });
      const random = lstatSync(join(out, 'random'));
      expect([random.mode & 0o7777, random.mtimeMs, random.nlink]).toEqual([0o4751, 1_500_000_000_000, 2]);
      const sparse = lstatSync(join(out, 'sparse'));
      expect(sparse.size).toBe((40 << 20) + 2);
      expect(sparse.blocks * 512).toBeLessThan(1 << 20);
      expect(lstatSync(join(out, 'out')).isSymbolicLink()).toBe(true);
      // What leads out of the file system leads nowhere.
      const escape = await cluster.try('snapshot', 'cp', `${volume}@one:/d/out`, join(folder, 'passwd'));
      expect([escape.code, escape.stderr]).toEqual([1, expect.stringContaining('there is no /d/out')]);
      // The engine that showed it has gone again.
      expect(await cluster.cli('volume', 'show', volume)).toMatchObject({ state: 'detached', maintenance: null });
    },
    2 * minute,
  );

  test(
    'partitions, and what is no file system',
    async () => {
      await cluster.cli('volume', 'create', 'parts', '--size', '64Mi');
      await cluster.cli('snapshot', 'create', 'parts', 'empty');
      const device = await map('parts');
      const start = 16 << 20;
      writeFileSync(device, partitionTable([1 << 20, 8 << 20], [start, 40 << 20]), { flag: 'r+' });
      await run('mkfs.ext4', ['-q', '-E', `nodiscard,offset=${start}`, device, '40M']);
      await cluster.cli('snapshot', 'create', 'parts', 'table');
      await cluster.cli('unmap', 'parts');

      const unchosen = await cluster.try('snapshot', 'browse', 'parts', 'table');
      expect(unchosen.stderr).toContain('holds partitions 1 (8 MiB), 2 (40 MiB)');
      expect(await names('parts', 'table', '--partition', '2')).toEqual(['lost+found']);
      for (const [args, message] of [
        [['table', '/', '--partition', '1'], 'partition 1 of the snapshot holds no file system'],
        [['table', '/', '--partition', '7'], 'has no partition 7'],
        [['empty'], 'the snapshot holds no file system'],
        [['none'], 'has no snapshot \\"none\\"'],
        [['table', '/nowhere', '--partition', '2'], 'there is no /nowhere in the snapshot'],
      ] as const) {
        const { code, stderr } = await cluster.try('snapshot', 'browse', 'parts', ...args);
        expect([code, stderr]).toEqual([1, expect.stringContaining(message)]);
      }
      expect((await cluster.try('snapshot', 'cp', 'nonsense', '.')).code).toBe(2);
    },
    2 * minute,
  );

  test('nothing stays behind on the nodes', async () => {
    const views = ['node1', 'node2', 'node3'].map((node) => join(folder, 'cluster', node, 'target/views'));
    const left = () =>
      views.flatMap((view) => {
        try {
          return readdirSync(view);
        } catch {
          return [];
        }
      });
    await until('all views are cleared away', minute, () => left().length === 0);
    expect(listMounts().filter(({ directory }) => directory.includes('/views/'))).toEqual([]);
  });
});
