/** Real initiators on a real cluster: images, fio with verification, and file systems of the kernel; and CHAP. */
import { spawn, type ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createReadStream, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { Cluster, root } from './lib/cluster.js';
import { attachBlockDevice, startNbd } from './lib/initiator.js';
import { attempt, endProcess, run } from './lib/process.js';

let folder: string;
let cluster: Cluster;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-initiators-'));
  cluster = await Cluster.start({ folder });
});
afterAll(async () => {
  await cluster.stop();
  rmSync(folder, { recursive: true, force: true });
});

async function sha256(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

test('qemu-img convert of an image in and out is identical', async () => {
  await cluster.createVolume('image', '256Mi');
  const { iscsi } = await cluster.attach('image');
  const source = join(folder, 'source.img');
  await run('truncate', ['-s', '256M', source]);
  await run('mkfs.ext4', ['-q', '-F', '-d', '/usr/share/doc', source]);
  await run('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', source, iscsi.url]);
  const back = join(folder, 'back.img');
  await run('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', iscsi.url, back]);
  expect(await sha256(back)).toBe(await sha256(source));
  await run('e2fsck', ['-fn', back]);
  await cluster.cli('volume', 'detach', 'image');
}, 120_000);

describe.each([512, 4096])('fio with %i-byte logical blocks', (blockSize) => {
  test('verifies what it wrote with crc32c', async () => {
    const name = `fio-${blockSize}`;
    await cluster.createVolume(name, '128Mi', '--block-size', String(blockSize));
    const { iscsi } = await cluster.attach(name);
    const nbd = await startNbd(folder, name, iscsi.url);
    try {
      const small =
        blockSize === 512 ? ['--bsrange=512-64k', '--blockalign=512'] : ['--bsrange=4k-64k', '--blockalign=4k'];
      await run('fio', [
        '--name=verify',
        '--ioengine=nbd',
        `--uri=${nbd.uri}`,
        '--rw=randwrite',
        ...small,
        '--iodepth=16',
        '--size=128m',
        '--verify=crc32c',
        '--do_verify=1',
        '--verify_fatal=1',
        '--fsync=64',
        '--randseed=11',
      ]);
    } finally {
      await nbd.stop();
    }
    await cluster.cli('volume', 'detach', name);
  }, 180_000);
});

describe.each(['ext4', 'xfs'])('%s', (fs) => {
  test('is made, filled, trimmed, unmounted and found clean', async () => {
    await cluster.createVolume(`fs-${fs}`, '512Mi');
    const { iscsi } = await cluster.attach(`fs-${fs}`);
    const work = join(folder, `fs-${fs}`);
    const device = await attachBlockDevice(work, iscsi.url);
    const mountPoint = mkdtempSync(join(folder, 'mount-'));
    try {
      await run(`mkfs.${fs}`, [fs === 'xfs' ? '-qf' : '-qF', device.path]);
      await run('mount', [device.path, mountPoint]);
      try {
        await run('fio', [
          '--name=v',
          `--directory=${mountPoint}`,
          '--size=64m',
          '--rw=randwrite',
          '--bssplit=4k/60:16k/20:64k/20',
          '--ioengine=libaio',
          '--direct=1',
          '--iodepth=16',
          '--verify=crc32c',
          '--do_verify=1',
          '--verify_fatal=1',
          '--randseed=7',
          '--end_fsync=1',
        ]);
        await run('cp', ['-r', '/usr/share/doc', join(mountPoint, 'doc')]);
        await run('diff', ['-r', '/usr/share/doc', join(mountPoint, 'doc'), '--no-dereference']);
        await run('rm', ['-r', join(mountPoint, 'doc')]);
        await run('sync', ['-f', mountPoint]);
        await run('fstrim', ['-v', mountPoint]);
      } finally {
        await run('umount', [mountPoint]);
      }
      await run(fs === 'xfs' ? 'xfs_repair' : 'e2fsck', [fs === 'xfs' ? '-n' : '-fn', device.path]);
      await run('mount', [device.path, mountPoint]);
      const found = readFileSync(join(mountPoint, 'v.0.0')).length;
      await run('umount', [mountPoint]);
      expect(found).toBe(64 * 1024 * 1024);
    } finally {
      await device.detach();
    }
    await cluster.cli('volume', 'detach', `fs-${fs}`);
  }, 240_000);
});

// The same target code over a volume in memory (native/iscsi/iscsi_memory_main.cc), with secrets in both directions.
describe('CHAP', () => {
  const program = join(process.env['HOLDFAST_NATIVE_BUILD'] ?? join(root, 'build/native'), 'iscsi_memory');
  const secret = 'secret-of-the-host';
  let server: ChildProcess;
  let portal: string;
  let image: string;

  beforeAll(async () => {
    const host = ['--user', 'host', '--secret', secret];
    const mutual = ['--mutual-user', 'target', '--mutual-secret', 'secret-of-the-target'];
    const child = spawn(program, ['--portal', '127.0.0.1:0', '--size-mib', '64', ...host, ...mutual], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    server = child;
    const [line] = (await once(createInterface({ input: child.stdout }), 'line')) as [string];
    [, portal = '', image = ''] = /^iscsi:\/\/([^/]+)\/(.+)$/.exec(line) ?? [];
  });
  afterAll(async () => {
    await endProcess(server);
  });

  test('lets in who knows the secret, and nobody else', async () => {
    expect(await run('iscsi-ls', ['-s', `iscsi://host%${secret}@${portal}/`])).toContain('Lun:0');
    expect(await run('qemu-img', ['info', `iscsi://host%${secret}@${portal}/${image}`])).toContain('64 MiB');
    for (const who of ['', 'host%another-secret-x@', `Host%${secret}@`, 'target%secret-of-the-target@']) {
      const outcome = await attempt('iscsi-inq', [`iscsi://${who}${portal}/${image}`]);
      expect(outcome.code, who).not.toBe(0);
      expect(outcome.stdout + outcome.stderr, who).toContain('Authentication failure');
    }
  });

  test('proves the target to the initiator', async () => {
    const url = `iscsi://host%${secret}@${portal}/${image}?target_user=target&target_password=`;
    expect(await run('iscsi-inq', [`${url}secret-of-the-target`])).toContain('DIRECT_ACCESS');
    expect((await attempt('iscsi-inq', [`${url}secret-of-somebody`])).code).not.toBe(0);
  });
});
