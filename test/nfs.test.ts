/**
 * Shared volumes over NFS, as libnfs's tools see them: shares, options, the loss of the NFS server, of a whole node, planned
 * moves. Takes root, FUSE, loop devices and NFS-Ganesha. (Locks and kernel clients: scripts/test-guest.mjs.)
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { randomBytes } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';

import { isAlive, startTimeOf } from '../engine/os/proc.js';
import { listMounts } from '../engine/os/mounts.js';
import { Cluster } from './lib/cluster.js';
import { whyNoLocalDevices } from './lib/local-devices.js';
import { attempt, run, until } from './lib/process.js';

const lacking = whyNoLocalDevices('/usr/bin/ganesha.nfsd', '/usr/bin/nfs-cp');
if (lacking !== null) console.warn(`nfs.test: skipped: ${lacking}`);

const minute = 60_000;
const shared = z.object({
  volume: z.string(),
  node: z.string(),
  iscsi: z.null(),
  nfs: z.object({ server: z.string(), port: z.number(), path: z.string(), mount: z.string() }),
});
type Shared = z.infer<typeof shared>;

let folder: string;
let cluster: Cluster;

const url = ({ nfs }: Shared, path = '', version = 4) =>
  `nfs://${nfs.server}${nfs.path}/${path}?nfsport=${nfs.port}&version=${version}` +
  (version === 3 ? `&mountport=${nfs.port + 1}` : '');

async function share(name: string, ...more: string[]): Promise<Shared> {
  const size = more.includes('--size') ? [] : ['--size', '256Mi'];
  await cluster.cli('volume', 'create', name, ...size, '--access', 'rwx', '--nfs-squash', 'none', ...more);
  return shared.parse(await cluster.cli('volume', 'attach', name));
}

async function content(at: Shared, path: string, version = 4): Promise<string> {
  return await run('nfs-cat', [url(at, path, version)], { timeoutMilliseconds: 20_000 });
}

async function put(at: Shared, path: string, bytes: string | Buffer, version = 4): Promise<void> {
  const file = join(folder, 'put');
  writeFileSync(file, bytes);
  await run('nfs-cp', [file, url(at, path, version)], { timeoutMilliseconds: 20_000 });
}

/** Until the grace period is over: new clients are not served before. */
async function untilServed(at: Shared, path: string, expected: string, timeoutMs: number): Promise<void> {
  await until(`${path} can be read again`, timeoutMs, async () => {
    const { code, stdout } = await attempt('nfs-cat', [url(at, path)], { timeoutMilliseconds: 5_000 });
    return code === 0 && stdout === expected;
  });
}

const rows = z.array(
  z.object({ role: z.string(), node: z.string().nullable(), pid: z.number(), volume: z.string().optional() }),
);

async function pidOf(role: string, node: string, volume?: string): Promise<number | undefined> {
  const found = rows.parse(await cluster.cli('process', 'ls'));
  return found.find((row) => row.role === role && row.node === node && row.volume === volume)?.pid;
}

/** null: there is one already. */
async function startPortMapper(): Promise<ChildProcess | null> {
  const answers = () => attempt('rpcinfo', ['-p', '127.0.0.1']).then(({ code }) => code === 0);
  if (await answers()) return null;
  const child = spawn('rpcbind', ['-f', '-w'], { stdio: 'ignore' });
  await until('rpcbind answers', 10_000, answers);
  return child;
}

/** Pids of all processes of a node: its folder is in what they were told. */
function processesOf(node: string): number[] {
  const marker = join(folder, 'cluster', node);
  return readdirSync('/proc').flatMap((name) => {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) return [];
    try {
      return readFileSync(`/proc/${name}/cmdline`, 'latin1').includes(`${marker}/`) ? [Number(name)] : [];
    } catch {
      return [];
    }
  });
}

beforeAll(async () => {
  if (lacking !== null) return;
  folder = mkdtempSync(join(tmpdir(), 'holdfast-nfs-'));
  cluster = await Cluster.start({ folder });
}, minute);

afterAll(async () => {
  if (lacking !== null) return;
  const volumes = z.array(z.object({ name: z.string() })).parse(await cluster.cli('volume', 'ls'));
  for (const { name } of volumes) await cluster.try('volume', 'detach', name, '--force');
  await cluster.stop();
  for (const { directory } of listMounts().filter((entry) => entry.directory.startsWith(`${folder}/`))) {
    await attempt('umount', ['-l', directory]);
  }
  rmSync(folder, { recursive: true, force: true });
}, minute);

describe.skipIf(lacking !== null)('a shared volume', () => {
  test('is served over NFSv4, and over nothing else', async () => {
    const at = await share('files');
    expect(at.nfs).toMatchObject({ path: '/files', mount: expect.stringContaining(`port=${at.nfs.port}`) as string });
    const bytes = randomBytes(2_000); // libnfs 4 writes no more than that over NFSv4
    await put(at, 'data', bytes);
    await run('nfs-cp', [url(at, 'data'), join(folder, 'back')]);
    await run('cmp', [join(folder, 'put'), join(folder, 'back')]);
    expect(await run('nfs-ls', [url(at)])).toContain('data');

    expect(await cluster.cli('volume', 'show', 'files')).toMatchObject({ access: 'rwx', iscsi: null, nfs: at.nfs });
    expect(shared.parse(await cluster.cli('volume', 'attach', 'files'))).toEqual(at);
    // The file system on it must have no other writer, and nobody takes its device away.
    for (const command of [['map'], ['unmap', '--force'], ['umount'], ['mount', join(folder, 'beside')]]) {
      const [verb = '', ...rest] = command;
      const refused = await cluster.try(verb, 'files', ...rest);
      expect(refused.stderr).toContain('IN_USE');
      expect(refused.stderr).toContain('volume detach files');
    }
    const portal = (await cluster.cli('node', 'ls')) as { readonly name: string; readonly portal: string }[];
    const { portal: address = '' } = portal.find(({ name }) => name === at.node) ?? {};
    const login = await attempt('iscsi-inq', [`iscsi://${address}/iqn.2026-11.io.holdfast:files/0`]);
    expect(login.code).not.toBe(0);

    await cluster.cli('volume', 'detach', 'files');
    expect((await attempt('nfs-ls', [url(at)], { timeoutMilliseconds: 5_000 })).code).not.toBe(0);
    expect(listMounts().some(({ directory }) => directory.startsWith(folder))).toBe(false);
    const again = shared.parse(await cluster.cli('volume', 'attach', 'files'));
    expect(again.nfs).toEqual(at.nfs);
    await until('the grace period is over', 20_000, async () => {
      const { code } = await attempt('nfs-cp', [url(again, 'data'), join(folder, 'back2')]);
      return code === 0;
    });
    await run('cmp', [join(folder, 'put'), join(folder, 'back2')]);
  });

  test('can be served over NFSv3 too, on xfs', async () => {
    // Ganesha tells the port mapper of its NFSv3.
    const portMapper = await startPortMapper();
    try {
      const at = await share('old', '--nfs-v3', '--fs', 'xfs', '--size', '320Mi');
      const bytes = randomBytes(3 << 20);
      // A server of version 3 begins with a grace period, and a file that was made in it is not made again.
      let attempts = 0;
      await until('version 3 takes writes', 20_000, () =>
        put(at, `three-${++attempts}`, bytes, 3).then(
          () => true,
          () => false,
        ),
      );
      await run('nfs-cp', [url(at, `three-${attempts}`, 4), join(folder, 'back-three')], {
        timeoutMilliseconds: 20_000,
      });
      await run('cmp', [join(folder, 'put'), join(folder, 'back-three')]);

      // The size of the volume is the quota: its end is an error to the client, until there is more of it.
      const big = join(folder, 'big');
      await run('truncate', ['-s', '400M', big]);
      const full = await attempt('nfs-cp', [big, url(at, 'big', 3)], { timeoutMilliseconds: minute });
      expect(full).toMatchObject({ code: 10, stderr: expect.stringContaining('Failed to write') as string });
      const mount = listMounts().find(({ directory, type }) => directory.startsWith(folder) && type === 'xfs');
      const freeBytes = async () => {
        const [free = '', unit = ''] = (await run('stat', ['-f', '-c', '%a %S', mount?.directory ?? ''])).split(' ');
        return Number(free) * Number(unit);
      };
      expect(await freeBytes()).toBeLessThan(16 << 20);
      await cluster.cli('volume', 'resize', 'old', '--size', '1Gi');
      await until('the file system grows', minute, async () => (await freeBytes()) > 500 << 20);
      await run('nfs-cp', [big, url(at, 'bigger', 3)], { timeoutMilliseconds: minute });
      expect(await run('nfs-ls', [url(at)])).toMatch(/ 419430400 bigger/);
      await cluster.cli('volume', 'detach', 'old');
    } finally {
      portMapper?.kill();
    }
  }, 180_000);

  test('lets in only those it is for', async () => {
    const at = await share('private', '--nfs-clients', '192.0.2.0/24');
    expect((await attempt('nfs-ls', [url(at)], { timeoutMilliseconds: 10_000 })).code).not.toBe(0);
    const wrong = await cluster.try(
      'volume',
      'create',
      'x',
      '--size',
      '256Mi',
      '--access',
      'rwx',
      '--nfs-clients',
      'a;b',
    );
    expect(wrong.stderr).toContain('INVALID_ARGUMENT');
    const pointless = await cluster.try('volume', 'create', 'x', '--size', '256Mi', '--fs', 'xfs');
    expect(pointless.stderr).toContain('--access rwx');
  });

  test('is not made on a volume that holds something else', async () => {
    await cluster.cli('volume', 'create', 'taken', '--size', '512Mi', '--access', 'rwx', '--fs', 'ext4');
    const { device } = z.object({ device: z.string() }).parse(await cluster.cli('map', 'taken', '--via', 'fuse'));
    await run('mkfs.xfs', ['-q', device]);
    await cluster.cli('unmap', 'taken');
    const refused = await cluster.try('volume', 'attach', 'taken');
    expect(refused.stderr).toContain('holds xfs, not ext4');
    expect(await cluster.cli('volume', 'show', 'taken')).toMatchObject({ state: 'detached' });
  });

  test('the agent may be started again: the server is the same', async () => {
    const at = await share('calm');
    await put(at, 'file', 'content');
    const [agent, server] = [await pidOf('agent', at.node), await pidOf('nfs', at.node, 'calm')];
    const identity = { pid: server ?? 0, startTime: startTimeOf(server ?? 0) ?? '' };
    process.kill(agent ?? 0, 'SIGKILL');
    await until('another agent looks after it', 20_000, async () => {
      const now = await pidOf('agent', at.node);
      return now !== undefined && now !== agent && (await pidOf('nfs', at.node, 'calm')) === server;
    });
    expect(isAlive(identity)).toBe(true);
    expect(await content(at, 'file')).toBe('content');
    // A snapshot is taken with the file system frozen, under the server.
    expect(await cluster.cli('snapshot', 'create', 'calm', 'now')).toMatchObject({ frozen: true, note: null });
    expect(await cluster.cli('snapshot', 'browse', 'calm', 'now')).toMatchObject({
      journal: 'replayed',
      entries: expect.arrayContaining([expect.objectContaining({ name: 'file', size: 7 })]) as unknown,
    });
    await put(at, 'file2', 'content');
  });

  test('a server that is killed is back within seconds', async () => {
    const at = await share('hurt');
    await put(at, 'file', 'content');
    const server = await pidOf('nfs', at.node, 'hurt');
    process.kill(server ?? 0, 'SIGKILL');
    // Version 4 clients that held something come first, for the grace period; others after it.
    await untilServed(at, 'file', 'content', 15_000);
    expect(await pidOf('nfs', at.node, 'hurt')).not.toBe(server);
  });

  test('moves to another node, with its address and content', async () => {
    const at = await share('moves');
    await put(at, 'file', 'content');
    const to = at.node === 'node2' ? 'node3' : 'node2';
    const moved = shared.parse(await cluster.cli('volume', 'move', 'moves', '--node', to));
    expect(moved).toEqual({ ...at, node: to });
    await untilServed(moved, 'file', 'content', 20_000);
  });

  test('in use on its node, it is not taken away unless by force, and keeps no other from being served', async () => {
    const { id } = z
      .object({ id: z.string() })
      .parse(await cluster.cli('volume', 'create', 'held', '--size', '256Mi', '--access', 'rwx'));
    const at = shared.parse(await cluster.cli('volume', 'attach', 'held', '--node', 'node1'));
    const mounted = join(folder, 'cluster/node1/agent/shares', id, 'fs');
    const user = spawn('sleep', ['600'], { cwd: mounted, stdio: 'ignore' });
    try {
      await until('somebody is in its folder', 10_000, () => readlinkSync(`/proc/${user.pid}/cwd`) === mounted);
      // A move that cannot be leaves it where it was.
      const stays = await cluster.try('volume', 'move', 'held', '--node', 'node2');
      expect(stays.stderr).toContain('IN_USE');
      await until('it is served again', 30_000, async () => {
        return (await attempt('nfs-ls', [url(at)], { timeoutMilliseconds: 5_000 })).code === 0;
      });
      const kept = await cluster.try('volume', 'detach', 'held');
      expect(kept.stderr).toContain('IN_USE');
      await cluster.cli('volume', 'create', 'beside', '--size', '256Mi', '--access', 'rwx');
      shared.parse(await cluster.cli('volume', 'attach', 'beside', '--node', 'node1'));
      await cluster.cli('volume', 'detach', 'held', '--force');
    } finally {
      user.kill();
    }
    await until('nothing of it is left', 30_000, () => !listMounts().some(({ directory }) => directory === mounted));
    expect(shared.parse(await cluster.cli('volume', 'attach', 'held', '--node', 'node1')).nfs).toEqual(at.nfs);
    await cluster.cli('volume', 'detach', 'held');
    await cluster.cli('volume', 'detach', 'beside');
  }, 300_000);
});

describe.skipIf(lacking !== null)('the loss of a node', () => {
  test(
    'gives its shares to another one',
    async () => {
      await cluster.cli('volume', 'create', 'lost', '--size', '256Mi', '--access', 'rwx', '--nfs-squash', 'none');
      const at = shared.parse(await cluster.cli('volume', 'attach', 'lost', '--node', 'node3'));
      await put(at, 'file', 'content');
      // All of the node, again and again, as `holdfast up` starts its agent again.
      const doomed = setInterval(() => {
        killNode('node3');
      }, 50);
      const began = performance.now();
      try {
        await until('another node serves it', 40_000, async () => {
          const shown = z
            .object({ node: z.string(), nfs: z.unknown() })
            .safeParse(await cluster.cli('volume', 'show', 'lost').catch(() => null));
          return shown.success && shown.data.node !== 'node3' && shown.data.nfs !== null;
        });
        expect(await cluster.cli('volume', 'show', 'lost')).toMatchObject({ nfs: at.nfs });
        await untilServed(at, 'file', 'content', 30_000 - (performance.now() - began));
      } finally {
        clearInterval(doomed);
      }
      // What is left on the node that came back is cleared away.
      await until('nothing of it is left on node3', 30_000, () => {
        return !listMounts().some(({ directory }) => directory.startsWith(join(folder, 'cluster/node3')));
      });
    },
    2 * minute,
  );

  function killNode(node: string): void {
    for (const pid of processesOf(node)) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // It is gone already.
      }
    }
  }
});
