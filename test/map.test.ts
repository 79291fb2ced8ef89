/**
 * Volumes as block devices of this host, by the real kernel: loop devices, ext4 and xfs, fio, while replicas and the target
 * process itself are killed. Takes root, FUSE and loop devices.
 */
import { execFileSync, spawn } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';

import { listMounts } from '../engine/os/mounts.js';
import { Cluster, cliCommand } from './lib/cluster.js';
import { whyNoLocalDevices } from './lib/local-devices.js';
import { attempt, run, until } from './lib/process.js';

const lacking = whyNoLocalDevices();
if (lacking !== null) console.warn(`map.test: skipped: ${lacking}`);

const mapping = z.object({ volume: z.string(), node: z.string(), via: z.literal('fuse'), device: z.string() });
const mounted = mapping.extend({ directory: z.string(), fs: z.string() });
const minute = 60_000;

let folder: string;
let cluster: Cluster;

async function map(name: string, ...more: string[]): Promise<string> {
  return mapping.parse(await cluster.cli('map', name, '--via', 'fuse', ...more)).device;
}

async function mount(name: string, ...more: string[]): Promise<z.infer<typeof mounted>> {
  return mounted.parse(await cluster.cli('mount', name, join(folder, name), '--via', 'fuse', ...more));
}

async function usedBytes(name: string): Promise<number> {
  return z.object({ usedBytes: z.number() }).parse(await cluster.cli('volume', 'show', name)).usedBytes;
}

async function kill(role: string, node: string): Promise<void> {
  const row = (await cluster.processes()).find((each) => each.role === role && each.node === node);
  if (row === undefined) throw new Error(`no ${role} process runs on ${node}`);
  process.kill(row.pid, 'SIGKILL');
}

const sha256 = (path: string) => execFileSync('sha256sum', [path]).toString().split(' ')[0];

/** fio with verification in the background: its outcome. */
function verify(target: string, ...more: string[]) {
  const args = ['--name=v', '--ioengine=libaio', '--iodepth=16', '--direct=1', '--randseed=7', '--verify=crc32c'];
  return attempt('fio', [...args, '--do_verify=1', '--verify_fatal=1', `--aux-path=${folder}`, target, ...more], {
    timeoutMilliseconds: 2 * minute,
  });
}

/** The record of the process that ends last. */
function findAnchor(folder: string): string {
  const found = readdirSync(folder, { recursive: true, encoding: 'utf8' }).find((name) =>
    /devices\/\w+\/anchor$/.test(name),
  );
  if (found === undefined) throw new Error('the device has no anchor');
  return join(folder, found);
}

const mountsOf = (pid: number) => {
  try {
    return readlinkSync(`/proc/${pid}/ns/mnt`);
  } catch {
    return null; // it ends, or has ended
  }
};

function processesWithMountsOf(pid: number): readonly number[] {
  const namespace = mountsOf(pid);
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && mountsOf(Number(name)) === namespace)
    .map(Number);
}

function hasEnded(pid: number): boolean {
  try {
    return /\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'latin1'));
  } catch {
    return true;
  }
}

beforeAll(async () => {
  if (lacking !== null) return;
  folder = mkdtempSync(join(tmpdir(), 'holdfast-map-'));
  cluster = await Cluster.start({ folder });
}, minute);

afterAll(async () => {
  if (lacking !== null) return;
  for (const { directory } of listMounts().filter((entry) => entry.directory.startsWith(`${folder}/`))) {
    if (!directory.endsWith('/device')) await attempt('umount', ['-l', directory]);
  }
  for (const { volume } of z.array(z.object({ volume: z.string() })).parse(await cluster.cli('map', 'ls'))) {
    await cluster.try('unmap', volume, '--force');
  }
  await cluster.stop();
  rmSync(folder, { recursive: true, force: true });
}, minute);

describe.skipIf(lacking !== null)('map', () => {
  test('gives a block device once, and takes it away', async () => {
    await cluster.createVolume('plain', '64Mi', '--block-size', '4096');
    const device = await map('plain');
    expect(device).toMatch(/^\/dev\/loop\d+$/);
    expect(await map('plain')).toBe(device);
    expect(execFileSync('blockdev', ['--getsize64', '--getss', device]).toString()).toBe('67108864\n4096\n');
    expect(await cluster.cli('map', 'ls')).toEqual([
      { volume: 'plain', node: expect.any(String) as string, via: 'fuse', device, directory: null },
    ]);

    // Nobody takes it away from under the device.
    expect((await cluster.try('volume', 'detach', 'plain')).stderr).toContain('IN_USE');
    expect((await cluster.try('volume', 'delete', 'plain')).code).toBe(1);

    await cluster.cli('unmap', 'plain');
    expect(existsSync(`/sys/block/${device.slice(5)}/loop`)).toBe(false);
    expect(await cluster.cli('map', 'ls')).toEqual([]);
    // It was attached for the device only.
    expect(await cluster.cli('volume', 'show', 'plain')).toMatchObject({ state: 'detached', device: null });
    expect(await cluster.cli('unmap', 'plain')).toMatchObject({ state: 'detached' });
  });

  test('a volume that was attached before stays so', async () => {
    await cluster.createVolume('kept', '64Mi');
    await cluster.attach('kept');
    await map('kept');
    await cluster.cli('unmap', 'kept');
    expect(await cluster.cli('volume', 'show', 'kept')).toMatchObject({ state: 'attached', device: null });
  });

  test('a device in use stays, unless by force', async () => {
    await cluster.createVolume('busy', '64Mi');
    const device = await map('busy');
    await run('mkfs.ext4', ['-q', device]);
    const directory = join(folder, 'busy-mount');
    mkdirSync(directory);
    await run('mount', [device, directory]);
    const refused = await cluster.try('unmap', 'busy');
    expect(refused.code).toBe(1);
    expect(refused.stderr).toContain('IN_USE');
    writeFileSync(join(directory, 'file'), 'still writable');
    await run('sync', ['-f', directory]);
    await run('umount', [directory]);
    await cluster.cli('unmap', 'busy');
  });

  test('what iSCSI initiators and the device see is the same', async () => {
    await cluster.createVolume('both', '64Mi');
    const device = await map('both');
    const attachment = await cluster.attach('both');
    await run('dd', ['if=/dev/urandom', `of=${device}`, 'bs=1M', 'count=8', 'oflag=direct', 'conv=fsync']);
    const copy = join(folder, 'both.raw');
    await run('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', attachment.iscsi.url, copy]);
    await run('cmp', ['-n', String(8 << 20), device, copy]);
    await cluster.cli('unmap', 'both');
  });

  test(
    'verified writes go on while a replica process and then the target process are killed',
    async () => {
      await cluster.createVolume('killed', '256Mi');
      const device = await map('killed', '--node', 'node1');
      const judge = verify(`--filename=${device}`, '--rw=randwrite', '--bsrange=512-64k', '--size=192M', '--fsync=64');
      await new Promise((resolve) => setTimeout(resolve, 1_000));
      await kill('replica', 'node2');
      await new Promise((resolve) => setTimeout(resolve, 2_000));
      await kill('target', 'node1');
      const { code, stdout, stderr } = await judge;
      expect(`${stdout}${stderr}`).toContain('err= 0');
      expect(code).toBe(0);
      expect(await map('killed')).toBe(device);
      await cluster.cli('unmap', 'killed');
    },
    3 * minute,
  );
});

describe.skipIf(lacking !== null)('mount', () => {
  const checks: Readonly<Record<string, readonly string[]>> = {
    ext4: ['e2fsck', '-fn'],
    xfs: ['xfs_repair', '-n'],
  };

  test.each(['ext4', 'xfs'])(
    '%s: made, filled, trimmed, through the loss of a replica and of the target process, and clean',
    async (fs) => {
      await cluster.createVolume(fs, '512Mi');
      const { device, directory } = await mount(fs, '--fs', fs, '--node', 'node1');
      expect(listMounts().findLast((entry) => entry.directory === directory)).toMatchObject({
        source: device,
        type: fs,
      });

      const judge = verify(`--directory=${directory}`, '--size=128M', '--rw=randwrite', '--bs=4k', '--end_fsync=1');
      await new Promise((resolve) => setTimeout(resolve, 500));
      await kill('replica', 'node3');
      await kill('target', 'node1');
      const { code, stdout, stderr } = await judge;
      expect(`${stdout}${stderr}`).toContain('err= 0');
      expect(code).toBe(0);

      const tree = join(directory, 'tree');
      await run('cp', ['-a', join(import.meta.dirname, '../engine'), tree]);
      const sample = join(tree, 'cli/cli.ts');
      const sum = sha256(sample);
      await run('sync', ['-f', directory]);

      // fstrim gives the space back. What is still in a journal takes no chunks yet.
      await until('the file to reach its chunks', 60_000, async () => (await usedBytes(fs)) >= 128 << 20);
      rmSync(join(directory, 'v.0.0'));
      // xfs frees the blocks of a file in the background, after it was removed: fstrim may come before that.
      await until('the trimmed space is given back', 60_000, async () => {
        await run('sync', ['-f', directory]);
        await run('fstrim', [directory]);
        await new Promise((resolve) => setTimeout(resolve, 500));
        return (await usedBytes(fs)) < 64 << 20;
      });

      // umount and mount again: the same content, found and not made.
      await cluster.cli('umount', directory);
      expect((await mount(fs)).fs).toBe(fs);
      expect(sha256(sample)).toBe(sum);
      await cluster.cli('umount', fs);

      const [program = '', ...args] = checks[fs] ?? [];
      await run(program, [...args, await map(fs)]);
      await cluster.cli('unmap', fs);
    },
    4 * minute,
  );

  test('a mounted file system grows with its volume', async () => {
    await cluster.createVolume('grows', '512Mi');
    const { directory } = await mount('grows', '--fs', 'xfs');
    const sizeOf = async () => Number((await run('stat', ['-f', '-c', '%b', directory])).trim()) * 4096;
    const before = await sizeOf();
    await cluster.cli('volume', 'resize', 'grows', '--size', '1Gi');
    expect(await sizeOf()).toBeGreaterThan(before + (450 << 20));
    await cluster.cli('umount', 'grows');
  });

  test.each([
    ['ext4', '64Mi', 'noload', ['e2fsck', '-fn']],
    ['xfs', '320Mi', 'norecovery', ['xfs_repair', '-n']],
  ] as const)(
    'a snapshot of a mounted %s has all of it, without any replay',
    async (fs, size, raw, [check, ...args]) => {
      const name = `frozen-${fs}`;
      await cluster.createVolume(name, size);
      const { directory } = await mount(name, '--fs', fs);
      // A writer that syncs nothing and does not stop.
      writeFileSync(join(directory, 'before'), 'x'.repeat(100_000));
      const writer = spawn('sh', [
        '-c',
        'i=0; while :; do i=$((i+1)); echo "line $i"; done >"$0"',
        join(directory, 'log'),
      ]);
      try {
        expect(await cluster.cli('snapshot', 'create', name, 'now')).toMatchObject({ frozen: true, note: null });
      } finally {
        writer.kill('SIGKILL');
      }
      await cluster.cli('umount', name);
      await cluster.cli('volume', 'clone', `${name}@now`, `${name}-copy`);
      const device = await map(`${name}-copy`);
      await run('mount', ['-o', `ro,${raw}`, device, directory]);
      expect(readFileSync(join(directory, 'before'), 'utf8')).toBe('x'.repeat(100_000));
      await run('umount', [directory]);
      if (fs === 'ext4') {
        expect(await run('dumpe2fs', ['-h', device])).not.toContain('needs_recovery');
      } else {
        // A frozen xfs leaves one record in its log, for files that are open and have no name any more.
        await run('mount', [device, directory]);
        await run('umount', [directory]);
      }
      await run(check, [...args, device]);
      await cluster.cli('unmap', `${name}-copy`);
      expect((await attempt(process.execPath, copyCommand(name))).stdout).toBe('x'.repeat(100_000));
    },
  );

  function copyCommand(name: string): string[] {
    const [, ...main] = cliCommand;
    return [...main, 'snapshot', 'cp', `${name}@now:/before`, '-', '--server', cluster.server];
  }

  test('a folder that cannot be one is refused at once, and none is made in vain', async () => {
    await cluster.createVolume('nowhere', '64Mi');
    writeFileSync(join(folder, 'plain'), '');
    for (const place of ['/proc/holdfast/x', join(folder, 'plain/x'), join(folder, 'plain')]) {
      const refused = await cluster.try('mount', 'nowhere', place, '--via', 'fuse');
      expect(refused.stderr).toContain('INVALID_ARGUMENT');
    }
    const unknown = await cluster.try('mount', 'unknown', join(folder, 'unknown'), '--via', 'fuse');
    expect(unknown.stderr).toContain('NOT_FOUND');
    expect(existsSync(join(folder, 'unknown'))).toBe(false);
    expect(await cluster.cli('volume', 'show', 'nowhere')).toMatchObject({ state: 'detached', device: null });
  });

  test('never makes a file system over data', async () => {
    await cluster.createVolume('data', '64Mi');
    const device = await map('data');
    await run('dd', [`of=${device}`, 'bs=4096', 'seek=2', 'conv=fsync', 'oflag=direct'], { input: 'd'.repeat(4096) });
    const before = sha256(device);
    const refused = await cluster.try('mount', 'data', join(folder, 'data'), '--via', 'fuse');
    expect(refused.stderr).toContain('FAILED_PRECONDITION');
    expect(sha256(device)).toBe(before);

    // Nor over data that lies anywhere else, not even when what it reads as was asked before it was written.
    await run('blkdiscard', [device]);
    await run('dd', [`of=${device}`, 'bs=4096', 'seek=9001', 'conv=fsync,notrunc'], { input: 'd'.repeat(4096) });
    const middle = sha256(device);
    const again = await cluster.try('mount', 'data', join(folder, 'data'), '--via', 'fuse');
    expect(again.stderr).toContain(`at byte ${9001 * 4096}`);
    expect(sha256(device)).toBe(middle);

    await run('mkfs.ext4', ['-q', '-F', device]);
    const other = await cluster.try('mount', 'data', join(folder, 'data'), '--via', 'fuse', '--fs', 'xfs');
    expect(other.stderr).toContain('holds ext4, not xfs');
    await cluster.cli('unmap', 'data');
  });
});

describe.skipIf(lacking !== null)('the whole cluster', () => {
  test(
    'stops and starts under a mounted volume: its I/O waits, and goes on',
    async () => {
      await cluster.createVolume('waits', '128Mi');
      const { directory, device } = await mount('waits');
      const path = join(directory, 'file');
      writeFileSync(path, 'before');
      const addresses = z
        .object({ api: z.string(), iscsi: z.string() })
        .parse(JSON.parse(readFileSync(join(folder, 'cluster/cluster.json'), 'utf8')));
      await cluster.stop();
      const writing = attempt('dd', [`of=${path}`, 'conv=fsync', 'status=none'], { input: 'after' });
      cluster = await Cluster.start({ folder, upArgs: ['--api', addresses.api, '--iscsi', addresses.iscsi] });
      expect((await writing).code).toBe(0);
      expect(readFileSync(path, 'utf8')).toBe('after');
      expect(await map('waits')).toBe(device);
      await cluster.cli('umount', 'waits');
    },
    2 * minute,
  );

  // As in a container that is stopped: the namespace with the mounted file system goes with its last process, and whoever serves its
  // device may be that process.
  test('dies at once with a file system mounted: nobody is left waiting, and what was synced is there afterwards', async () => {
    const home = join(folder, 'dies');
    const within = ['unshare', '--mount', '--propagation', 'slave'];
    const first = await Cluster.start({ folder: home, within });
    const clusters = [first];
    const directory = join(home, 'mnt');
    await first.createVolume('v', '64Mi');
    const inside = (at: Cluster, ...command: string[]) =>
      run('nsenter', ['--target', String(at.upPid), '--mount', '--', ...command]);
    const holdfast = async (at: Cluster, ...args: string[]) =>
      JSON.parse(await inside(at, ...cliCommand, ...args, '--json', '--server', at.server)) as unknown;
    try {
      const { node } = mounted.parse(await holdfast(first, 'mount', 'v', directory, '--via', 'fuse'));
      await inside(
        first,
        'sh',
        '-c',
        `echo synced >${directory}/one; sync -f ${directory}; echo dirty >${directory}/two`,
      );
      const server = (await first.processes()).find((row) => row.role === 'target' && row.node === node)?.pid ?? 0;
      const all = processesWithMountsOf(first.upPid);
      expect(all).toContain(server);
      // The worst order.
      for (const pid of all.filter((each) => each !== server)) process.kill(pid, 'SIGKILL');
      const record = findAnchor(home);
      const anchor = Number(readFileSync(record, 'utf8').split(' ')[0]);
      await until('only two are left', minute, () =>
        all.every((pid) => [server, anchor].includes(pid) || hasEnded(pid)),
      );
      process.kill(server, 'SIGKILL');
      await until('all have ended', minute, () => all.every((pid) => hasEnded(pid)));

      clusters.push(await Cluster.start({ folder: home, within }));
      const second = clusters[1] ?? first;
      const log = await run('grep', ['-rh', '--include=log', 'cleared a dead block device away', home]);
      expect(log).toContain(basename(dirname(record)));
      await holdfast(second, 'mount', 'v', directory, '--via', 'fuse');
      expect(await inside(second, 'cat', join(directory, 'one'))).toBe('synced\n');
      await holdfast(second, 'umount', 'v');
    } finally {
      for (const each of clusters) await each.stop();
    }
  }, 180_000);
});
