/**
 * Files in snapshots: browse and copy, from volumes that are in use and from detached ones, by the real kernel's file systems.
 * Takes root, FUSE and loop devices.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { lstatSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';

import { readFileAttributes, writeFileAttribute } from '../engine/addon/file-attributes.js';
import { listMounts } from '../engine/os/mounts.js';
import { Cluster, cliCommand } from './lib/cluster.js';
import { whyNoLocalDevices } from './lib/local-devices.js';
import { attempt, endProcess, isAlive, run, until } from './lib/process.js';

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

/** Of a file: the owner and user 1000 may write, the group may read, others nothing (linux/posix_acl_xattr.h). */
const accessList = Buffer.from(
  '02000000 01000600ffffffff 02000600e8030000 04000400ffffffff 10000600ffffffff 20000000ffffffff'.replaceAll(' ', ''),
  'hex',
);
const given: readonly (readonly [path: string, name: string, value: Buffer])[] = [
  ['d/random', 'user.origin', Buffer.from([0, 255, 10])],
  ['d/random', 'trusted.mark', Buffer.alloc(0)],
  // cap_net_raw, effective (linux/capability.h, vfs_cap_data).
  ['d/random', 'security.capability', Buffer.from('0100000200200000000000000000000000000000', 'hex')],
  ['d/e/last', 'system.posix_acl_access', accessList],
  ['d/e', 'system.posix_acl_default', accessList],
  ['d/e', 'user.large', Buffer.alloc(500, 7)],
];

function attributesIn(folderPath: string): readonly string[] {
  return ['d/random', 'd/e/last', 'd/e', 'd/sparse']
    .flatMap((path) =>
      (readFileAttributes(Buffer.from(join(folderPath, path))) ?? []).map(
        ({ name, value }) => `${path} ${name.toString()} ${value?.toString('hex')}`,
      ),
    )
    .sort();
}

/** The process that reads a snapshot for the cluster in that folder. */
function readerIn(home: string): number {
  const found = readdirSync('/proc').find((name) => {
    if (!/^\d+$/.test(name)) return false;
    try {
      const command = readFileSync(`/proc/${name}/cmdline`, 'utf8');
      return command.includes('reader-main.js') && command.includes(home);
    } catch {
      return false; // it has ended
    }
  });
  if (found === undefined) throw new Error('nothing reads a snapshot');
  return Number(found);
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
      for (const [path, name, value] of given) {
        expect(writeFileAttribute(Buffer.from(join(at, path)), Buffer.from(name), value)).toBe(true);
      }
      const attributes = attributesIn(at);
      expect(attributes.length).toBeGreaterThanOrEqual(given.length);
      await cluster.cli('snapshot', 'create', volume, 'one');
      await run('sh', ['-ec', 'rm -r "$0/d"; sync -f "$0"', at]);

      expect(await browse(volume, 'one', '/link/e')).toMatchObject({ fs, journal: 'replayed' });
      expect(await names(volume, 'one', '/link/e')).toEqual(['last']);
      // A reader that has seen enough is no error.
      const few = await attempt('sh', [
        '-c',
        '"$@" | head -c 1 | wc -c',
        'sh',
        ...cliCommand,
        ...['snapshot', 'cp', `${volume}@one:/d/sparse`, '-', '--server', cluster.server],
      ]);
      expect(few).toMatchObject({ code: 0, stdout: '1\n', stderr: '' });
      await run('sh', [
        '-ec',
        'exec "$@" >"$0"',
        join(folder, 'printed'),
        ...cliCommand,
        ...['snapshot', 'cp', `${volume}@one:/d/e/last`, '-', '--server', cluster.server],
      ]);
      expect(readFileSync(join(folder, 'printed'), 'utf8')).toBe('last\n');
      // Where attributes are kept, all of them are.
      const restored = await cluster.cli('snapshot', 'cp', '-r', `${volume}@one:/d`, at);
      expect(restored).toMatchObject({ files: 3, attributesSkipped: {} });
      expect(attributesIn(at)).toEqual(attributes);
      expect(lstatSync(join(at, 'd/e/last')).mode & 0o777).toBe(0o660);
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

  // As in a container: unmounting in its namespace changes nothing in those that began as copies of it. (It follows ours, and so keeps
  // nothing of other tests in use.)
  test(
    'a reader keeps no other volume in use, where mounts are private',
    async () => {
      const home = join(folder, 'private');
      const host = await Cluster.start({ folder: home, within: ['unshare', '--mount', '--propagation', 'slave'] });
      const inside = (...command: string[]) =>
        run('nsenter', ['--target', String(host.upPid), '--mount', '--', ...command]);
      const holdfast = async (...args: string[]) =>
        JSON.parse(await inside(...cliCommand, ...args, '--json', '--server', host.server)) as unknown;
      const at = (volume: string) => join(home, `mnt-${volume}`);
      const [program = '', ...prefix] = cliCommand;
      let copy: ChildProcess | null = null;
      try {
        for (const volume of ['read', 'other']) {
          await host.createVolume(volume, '128Mi');
          await holdfast('mount', volume, at(volume), '--via', 'fuse');
        }
        await inside('sh', '-c', `head -c 80M /dev/urandom >${at('read')}/large`);
        await host.cli('snapshot', 'create', 'read', 'one');
        // More than fits into all buffers on the way: the reader waits for us.
        const child = spawn(program, [...prefix, 'snapshot', 'cp', 'read@one:/large', '-', '--server', host.server], {
          stdio: ['ignore', 'pipe', 'inherit'],
        });
        copy = child;
        await once(child.stdout, 'readable');
        const reader = readerIn(home);
        expect(readFileSync(`/proc/${reader}/mountinfo`, 'utf8')).not.toContain(at('other'));
        await holdfast('umount', 'other');
        expect(isAlive(reader)).toBe(true);
        await endProcess(child);
        await until('the reader has ended', minute, () => !isAlive(reader));
        await holdfast('umount', 'read');
      } finally {
        if (copy !== null) await endProcess(copy);
        // What is mounted from a device waits for the next target process, which there will not be.
        for (const volume of ['read', 'other']) await inside('umount', at(volume)).catch(() => undefined);
        await host.stop();
      }
    },
    3 * minute,
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
