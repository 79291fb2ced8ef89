/**
 * Block devices as disks: what is refused, how an empty one becomes a disk, with its journal on another device; I/O, restarts, eviction,
 * removal, and the device in another node.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, statfsSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { Cluster } from './lib/cluster.js';
import { startNbd } from './lib/initiator.js';
import { whyNoLocalDevices } from './lib/local-devices.js';
import { attempt, run, until } from './lib/process.js';
import { replicaContent } from './lib/replica-content.js';

type DiskRow = {
  node: string;
  name: string;
  state: string;
  reason: string | null;
  replicas: number;
  id: string | null;
  totalBytes: number;
};

const lacking = whyNoLocalDevices('/usr/sbin/losetup', '/usr/sbin/mkfs.ext4', '/usr/sbin/xfs_growfs');
if (lacking !== null) console.log(`skipped: ${lacking}`);

/** A partition table of the old kind: 1 MiB of type 83 at 1 MiB. */
function onePartition(): Buffer {
  const sector = Buffer.alloc(512);
  sector[446 + 4] = 0x83;
  sector.writeUInt32LE(2_048, 446 + 8);
  sector.writeUInt32LE(2_048, 446 + 12);
  sector.writeUInt16LE(0xaa55, 510);
  return sector;
}

describe.skipIf(lacking !== null)('block devices as disks', () => {
  let folder: string;
  let cluster: Cluster;
  const loops: string[] = [];

  async function loop(name: string, size: string): Promise<string> {
    const image = join(folder, name);
    await run('truncate', ['-s', size, image]);
    const device = (await run('losetup', ['--find', '--show', '--partscan', image])).trim();
    loops.push(device);
    return device;
  }

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'holdfast-block-'));
    cluster = await Cluster.start({ folder, upArgs: ['--nodes', '2', '--journal-size', '32Mi'] });
  });
  afterAll(async () => {
    await cluster.stop();
    for (const device of loops) await run('losetup', ['-d', device]);
    rmSync(folder, { recursive: true, force: true });
  });

  const disk = async (node: string, name: string): Promise<DiskRow | undefined> =>
    ((await cluster.cli('disk', 'ls')) as DiskRow[]).find((row) => row.node === node && row.name === name);
  const isGone = (node: string, name: string) =>
    until(`${name} of ${node} is out`, 60_000, async () => (await disk(node, name)) === undefined);
  const isMounted = (device: string) => readFileSync('/proc/self/mountinfo', 'utf8').includes(` ${device} `);
  async function refusal(device: string): Promise<string> {
    await cluster.cli('disk', 'add', 'node1', 'refused', device);
    const reason = await until(`${device} is refused`, 60_000, async () => {
      const row = await disk('node1', 'refused');
      return row?.state === 'failed' && row.reason !== null && row.reason;
    });
    await cluster.cli('disk', 'rm', 'node1', 'refused');
    await isGone('node1', 'refused');
    return reason;
  }

  test('one that holds something, or is used, is refused', async () => {
    const device = await loop('foreign', '64M');
    await run('mkfs.ext4', ['-q', device]);
    expect(await refusal(device)).toContain('a file system (ext4)');
    const at = join(folder, 'mnt');
    mkdirSync(at);
    await run('mount', [device, at]);
    expect(await refusal(device)).toContain(`is mounted on ${at}`);
    await run('umount', [at]);
    await run('dd', ['if=/dev/zero', `of=${device}`, 'bs=1M', 'count=2', 'conv=fsync', 'status=none']);
    writeFileSync(device, onePartition());
    expect(await refusal(device)).toContain('a partition table');
    expect(await refusal('/dev/holdfast-none')).toContain('cannot be found');
  }, 180_000);

  test('a disk knows the room of its file system, also after it was enlarged, and leaves some to its metadata', async () => {
    const device = await loop('growing', '1G');
    await run('mkfs.xfs', ['-q', device]);
    const at = join(folder, 'growing-mnt');
    mkdirSync(at);
    await run('mount', [device, at]);
    await cluster.cli('disk', 'add', 'node1', 'growing', join(at, 'data'), '--journal-size', '32Mi', '--wait');
    const bytesFree = () => {
      const { bavail, bsize } = statfsSync(at);
      return bavail * bsize;
    };
    const { totalBytes: before } = (await disk('node1', 'growing')) ?? { totalBytes: 0 };
    expect(before).toBeGreaterThan(512 * 2 ** 20);
    // It has grown by a step already.
    const { size } = statSync(join(at, 'data', 'data'));
    expect(before).toBeLessThanOrEqual(size + bytesFree() - 128 * 2 ** 20);
    await run('truncate', ['-s', '2G', join(folder, 'growing')]);
    await run('losetup', ['-c', device]);
    await run('xfs_growfs', [at]);
    await until('the disk is larger', 60_000, async () => {
      const { totalBytes } = (await disk('node1', 'growing')) ?? { totalBytes: 0 };
      return totalBytes > before + 900 * 2 ** 20;
    });
    await cluster.cli('disk', 'rm', 'node1', 'growing');
    await isGone('node1', 'growing');
    await until('nobody uses it', 60_000, async () => (await attempt('umount', [at])).code === 0);
  }, 180_000);

  test('an empty one becomes a disk, from its first write to its removal, and goes to another node', async () => {
    const [device, journal] = [await loop('data', '1500M'), await loop('journal', '64M')];
    const add = (node: string, ...more: string[]) =>
      cluster.cli(
        'disk',
        'add',
        node,
        'dev',
        device,
        '--journal',
        journal,
        '--journal-size',
        '32Mi',
        '--wait',
        ...more,
      );
    await run('mkfs.ext4', ['-q', device]);
    const { id } = (await add('node1', '--force')) as DiskRow;
    expect(isMounted(device)).toBe(true);
    await cluster.cli('disk', 'cordon', 'node1', 'disk1');
    await cluster.createVolume('db', '128Mi', '--replicas', '2');
    expect((await cluster.replicas('db')).map(({ disk: name }) => name).sort()).toEqual(['dev', 'disk1']);
    const { iscsi } = await cluster.attach('db', '--node', 'node2');
    const nbd = await startNbd(folder, 'db', iscsi.url);
    const io = (command: string) => run('qemu-io', ['-f', 'raw', '-c', command, '-c', 'flush', nbd.uri]);
    const inSync = () =>
      until('all replicas are in-sync', 120_000, async () => {
        const rows = await cluster.replicas('db');
        return rows.length === 2 && rows.every(({ state }) => state === 'in-sync');
      });
    await io('write -P 0x11 0 32M');

    // A restart of its process finds it mounted.
    const before = (await cluster.processes()).find((row) => row.disk === 'dev')?.pid ?? 0;
    process.kill(before, 'SIGKILL');
    await until('its process runs again', 60_000, async () =>
      (await cluster.processes()).some((row) => row.disk === 'dev' && row.pid !== before),
    );
    await io('write -P 0x22 8M 1M');
    await inSync();

    // Evicted, it is empty; removed, it is unmounted.
    await cluster.cli('disk', 'uncordon', 'node1', 'disk1');
    await cluster.cli('disk', 'evict', 'node1', 'dev', '--wait');
    await inSync();
    expect((await cluster.replicas('db')).every(({ disk: name }) => name === 'disk1')).toBe(true);
    await cluster.cli('disk', 'rm', 'node1', 'dev');
    await isGone('node1', 'dev');
    await until('it is unmounted', 60_000, () => !isMounted(device));

    // Another node knows it, without --force.
    expect(await add('node2')).toMatchObject({ id, state: 'online' });
    await nbd.stop();
    await cluster.cli('volume', 'detach', 'db');
    const contents = await Promise.all((await cluster.replicas('db')).map((row) => replicaContent(row)));
    expect(new Set(contents.map(({ sha256 }) => sha256)).size).toBe(1);
    await cluster.cli('disk', 'rm', 'node2', 'dev');
    await isGone('node2', 'dev');
    await until('it is unmounted again', 60_000, () => !isMounted(device));
  }, 300_000);
});
