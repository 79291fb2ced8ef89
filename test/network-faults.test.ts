/**
 * Faults between hosts, under a load that verifies what it reads: partitions, drops in one direction, delay and loss, a host that is
 * cut from the manager, one that is cut from everybody and taken over from by force, a full file system, a frozen replica. After each
 * everything heals by itself, the copies are equal, and nothing acknowledged is missing. What the host waited is printed.
 *
 * Every host is a network namespace: what is on one host needs no network, so cuts between processes of one would be no cuts.
 * Takes root. HOLDFAST_FAULT_CYCLES repeats everything (1).
 */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';

import { root } from './lib/cluster.js';
import { fioOn, qemuIoOn, startNbdOn } from './lib/host-load.js';
import type { HostNbd } from './lib/host-load.js';
import { HostNet, cliOn, missingForHosts, startHost } from './lib/hosts.js';
import { attempt, freeze, run, until } from './lib/process.js';

const isRoot = process.getuid?.() === 0;
const cycles = Number(process.env['HOLDFAST_FAULT_CYCLES'] ?? 1);
const programs = [
  '/usr/bin/fio',
  '/usr/bin/qemu-nbd',
  '/usr/bin/qemu-io',
  '/usr/sbin/nft',
  '/usr/bin/cc',
  '/dev/net/tun',
];

const client = 100;
const manager = 1;
/** Hosts that hold a replica each. Number 3 keeps it on a small file system, 4 is at the end of a bad wire. */
const holders = [2, 3, 4];
/** Hosts must not wait longer; most initiators give up after 30 s. */
const stallMaxMs = 15_000;
const volumeMib = 128;
const kept = ['--rw=write', '--size=16m', '--iodepth=8'];
const blockOfProbe = 124 * 2 ** 20;

const net = new HostNet();
const servers = `${HostNet.address(manager)}:7600`;
let folder: string;
let token = '';
let nbd: HostNbd | null = null;
let exports = 0;

const hostFolder = (number: number) => join(folder, `host${number}`);
const smallDisk = () => join(folder, 'small');

async function holdfast<Shape extends z.ZodType>(shape: Shape, ...args: string[]): Promise<z.infer<Shape>> {
  const { code, stdout, stderr } = await cliOn(client, servers, token, args);
  if (code !== 0) throw new Error(`holdfast ${args.join(' ')}: ${stderr}${stdout}`);
  return shape.parse(stdout.trim() === '' ? null : JSON.parse(stdout));
}

const attachment = z.object({ node: z.string(), epoch: z.number(), iscsi: z.object({ url: z.string() }) });
const volumeShape = z.object({
  health: z.string(),
  state: z.string(),
  reason: z.string().nullable(),
  epoch: z.number(),
  writesPaused: z.boolean(),
  replicas: z.array(z.object({ id: z.string(), node: z.string(), disk: z.string(), state: z.string() })),
  scrub: z
    .object({
      state: z.string(),
      damagedBlocks: z.number(),
      differingChunks: z.number(),
      unrepairableBlocks: z.number(),
      failure: z.string().nullable(),
    })
    .nullable(),
});
const processRows = z.array(
  z.object({ node: z.string().nullish(), role: z.string(), pid: z.number(), disk: z.string().nullish() }),
);
const show = (volume = 'db') => holdfast(volumeShape, 'volume', 'show', volume);

async function pidOf(role: string, node: string): Promise<number> {
  const row = (await holdfast(processRows, 'process', 'ls')).find((each) => each.role === role && each.node === node);
  if (row === undefined) throw new Error(`no ${role} process on ${node}`);
  return row.pid;
}

/** A new engine, on that host, and the load's way to it. */
async function serveOn(host: number): Promise<void> {
  await nbd?.stop();
  nbd = null;
  if ((await show()).state === 'attached') await holdfast(z.unknown(), 'volume', 'detach', 'db');
  const { iscsi } = await holdfast(attachment, 'volume', 'attach', 'db', '--node', `node${host}`);
  nbd = await startNbdOn(client, folder, `load${++exports}`, iscsi.url);
}

function device(): HostNbd {
  if (nbd === null) throw new Error('the volume is not served');
  return nbd;
}

/** Writes and verifies for that long while `fault` happens; returns what the host waited at most. */
async function loadDuring(
  name: string,
  seconds: number,
  fault: () => Promise<void>,
  { offsetMib, sizeMib } = { offsetMib: 16, sizeMib: 32 },
): Promise<number> {
  const args = ['--rw=randrw', `--offset=${offsetMib}m`, `--size=${sizeMib}m`, '--iodepth=8', '--rate_iops=400,400'];
  const outcome = fioOn(device(), seconds + 90, [
    ...[...args, '--verify_backlog=256', '--time_based', `--runtime=${seconds}`],
  ]);
  try {
    await sleep(700);
    await fault();
  } finally {
    await outcome;
  }
  const { problem, worstMs } = await outcome;
  expect(problem).toBeNull();
  console.log(`${name}: the longest wait of the host was ${Math.round(worstMs)} ms`);
  expect(worstMs).toBeLessThan(stallMaxMs);
  return worstMs;
}

const untilReplica = (node: string, what: string, isIt: (state: string) => boolean) =>
  until(`the replica on ${node} to be ${what}`, 60_000, async () => {
    const { replicas } = await show();
    return isIt(replicas.find((replica) => replica.node === node)?.state ?? '');
  });
const untilOut = (node: string) => untilReplica(node, 'left out', (state) => state !== 'in-sync');

/** By itself; then every copy is read again and compared with the others. */
async function healed(): Promise<void> {
  await until('all replicas in-sync', 90_000, async () => {
    const { health, replicas } = await show();
    return health === 'healthy' && replicas.length === 3 && replicas.every(({ state }) => state === 'in-sync');
  });
  await holdfast(z.unknown(), 'volume', 'scrub', 'db', '--rate', '0');
  const found = await until('the scrub', 60_000, async () => {
    const { scrub } = await show();
    return scrub?.state === 'idle' ? scrub : undefined;
  });
  expect(found).toEqual({
    state: 'idle',
    damagedBlocks: 0,
    differingChunks: 0,
    unrepairableBlocks: 0,
    failure: null,
  });
}

async function mountSmallDisk(): Promise<void> {
  const image = join(folder, 'small.img');
  mkdirSync(smallDisk(), { recursive: true });
  await run('truncate', ['-s', '1G', image]);
  await run('mkfs.ext4', ['-q', '-m', '0', image]);
  await run('mount', ['-o', 'loop', image, smallDisk()]);
}

beforeAll(async () => {
  if (!isRoot) return;
  const missing = missingForHosts(programs);
  if (missing.length > 0)
    throw new Error(`these tests need ${missing.join(', ')}: "node scripts/setup.mjs test" installs programs`);
  folder = mkdtempSync(join(tmpdir(), 'holdfast-network-'));
  const wire = join(folder, 'wire');
  await run('cc', ['-O2', '-Wall', '-o', wire, join(root, 'test/lib/wire.c')]);
  await net.addBridge();
  for (const number of [manager, 2, 3, client]) await net.addHost(number);
  await net.addHost(4, wire);
  // Before processes begin in the namespaces: each has a mount table of its own.
  await mountSmallDisk();
  await startHost(manager, hostFolder(manager), 'server', []);
  const secret = (name: string) => readFileSync(join(hostFolder(manager), 'host', name), 'utf8').trim();
  token = secret('admin-token');
  await Promise.all(
    holders.map((number) => startHost(number, hostFolder(number), 'agent', ['--join', secret('join-token')])),
  );
  await holdfast(z.unknown(), 'settings', 'set', '--failover', '0', '--balance', 'off');
  const small = ['node3', 'small', join(smallDisk(), 'data'), '--journal-size', '16Mi'];
  await holdfast(z.unknown(), 'disk', 'add', ...small);
  for (const host of [manager, 3]) await holdfast(z.unknown(), 'disk', 'cordon', `node${host}`, 'disk1');
  await until('the small disk', 60_000, async () => {
    const disks = await holdfast(z.array(z.object({ name: z.string(), state: z.string() })), 'disk', 'ls');
    return disks.some(({ name, state }) => name === 'small' && state === 'online');
  });
  await holdfast(z.unknown(), 'volume', 'create', 'db', '--size', `${volumeMib}Mi`);
  await serveOn(2);
  expect((await fioOn(device(), 60, [...kept, '--do_verify=1'])).problem).toBeNull();
});

afterAll(async () => {
  await nbd?.stop();
  await net.remove();
  if (existsSync(smallDisk())) await attempt('umount', ['-l', smallDisk()]);
  rmSync(folder, { recursive: true, force: true });
});

const title = `faults between hosts${isRoot ? '' : ' (needs root)'}`;
describe.skipIf(!isRoot).each(Array.from({ length: cycles }, (_, index) => index + 1))(`${title}, cycle %i`, () => {
  test('a replica whose host is cut off leaves, and comes back', { timeout: 240_000 }, async () => {
    await serveOn(2);
    await loadDuring('partition', 6, async () => {
      await net.drop(3, 'all');
      await untilOut('node3');
      await net.heal();
    });
    await healed();
  });

  test('a replica that hears nothing leaves, and comes back', { timeout: 240_000 }, async () => {
    await serveOn(3);
    await loadDuring('drops on the way to the replica', 6, async () => {
      await net.dropOneWay(3, 4);
      await untilOut('node4');
      await net.heal();
    });
    await healed();
  });

  test('a replica that nobody hears leaves, and comes back', { timeout: 240_000 }, async () => {
    await serveOn(4);
    await loadDuring('drops on the way from the replica', 6, async () => {
      await net.dropOneWay(2, 4);
      await untilOut('node2');
      await net.heal();
    });
    await healed();
  });

  test('200 ms of delay and 5 % of loss slow the host down and break nothing', { timeout: 240_000 }, async () => {
    await serveOn(2);
    await loadDuring('a slow and lossy wire', 6, async () => {
      net.setWire(4, { delayMs: 200, lossPercent: 5 });
      await sleep(4_000);
      await net.heal();
    });
    await healed();
  });

  test('a host that is cut from the manager only serves on', { timeout: 240_000 }, async () => {
    await serveOn(3);
    const { epoch } = await show();
    const worstMs = await loadDuring('cut from the manager', 5, async () => {
      await net.drop(3, manager);
      await sleep(3_000);
    });
    expect(worstMs).toBeLessThan(2_000);
    await net.heal();
    await healed();
    expect((await show()).epoch).toBe(epoch);
  });

  test(
    'a host that is cut from all and taken over from acknowledges nothing and reads nothing old',
    { timeout: 240_000 },
    async () => {
      await serveOn(2);
      await qemuIoOn(device(), `write -P 0xa1 ${blockOfProbe} 8k`, 30);
      // A host of its own on the machine that is cut off: it still reaches the engine there.
      const { iscsi } = await holdfast(attachment, 'volume', 'attach', 'db');
      const cutOff = await startNbdOn(2, folder, `cut${++exports}`, iscsi.url);
      try {
        expect((await qemuIoOn(cutOff, `read -P 0xa1 ${blockOfProbe} 4k`, 30)).code).toBe(0);
        await net.drop(2, 'all');
        const began = performance.now();
        const taken = await holdfast(attachment, 'volume', 'attach', 'db', '--node', 'node3', '--force');
        console.log(`taken over by force in ${Math.round(performance.now() - began)} ms`);
        await nbd?.stop();
        nbd = await startNbdOn(client, folder, `load${++exports}`, taken.iscsi.url);
        expect((await qemuIoOn(device(), `write -P 0xb2 ${blockOfProbe} 4k`, 30)).code).toBe(0);
        const [read, written] = await Promise.all([
          qemuIoOn(cutOff, `read ${blockOfProbe} 4k`, 4),
          qemuIoOn(cutOff, `write -P 0xc3 ${blockOfProbe + 4_096} 4k`, 4),
        ]);
        expect(read.stdout).not.toContain('read 4096/4096');
        expect(written.stdout).not.toContain('wrote 4096/4096');
      } finally {
        await cutOff.stop();
        await net.heal();
      }
      await healed();
      const probe = `read -P 0xb2 ${blockOfProbe} 4k`;
      expect((await qemuIoOn(device(), probe, 30)).stdout).not.toContain('verification failed');
      const unwritten = `read -P 0xa1 ${blockOfProbe + 4_096} 4k`;
      expect((await qemuIoOn(device(), unwritten, 30)).stdout).not.toContain('verification failed');
    },
  );

  test('a full file system: the replica leaves, a volume without another one waits', { timeout: 240_000 }, async () => {
    await serveOn(2);
    const filler = join(folder, 'small', 'filler');
    const fill = async () => {
      const { bavail, bsize } = statfsSync(smallDisk());
      await attempt('fallocate', ['-l', String(bavail * bsize), filler]);
      await attempt('dd', ['if=/dev/zero', `of=${filler}`, 'bs=64k', 'oflag=append', 'conv=notrunc']);
    };
    // Where nothing was written yet: it needs room on the disks.
    await fill();
    await loadDuring(
      'a full file system',
      5,
      async () => {
        await untilReplica('node3', 'left out', (state) => state !== 'in-sync');
        rmSync(filler);
      },
      { offsetMib: 64, sizeMib: 56 },
    );
    await healed();

    await holdfast(z.unknown(), 'disk', 'tag', 'node3', 'small', 'small');
    await holdfast(z.unknown(), 'volume', 'create', 'lone', '--size', '256Mi', '--replicas', '1', '--tag', 'small');
    const { iscsi } = await holdfast(attachment, 'volume', 'attach', 'lone');
    const lone = await startNbdOn(client, folder, `lone${++exports}`, iscsi.url);
    try {
      await fill();
      // More than the disk has in slots that are free already: it allocates ahead, and rebuilds have given some back. And
      // less than it can ever hold, beside its reserve and the other volume.
      const written = fioOn(lone, 120, ['--rw=write', '--size=256m', '--bs=64k', '--iodepth=4', '--do_verify=1']);
      await until('writes to be paused', 60_000, async () => (await show('lone')).writesPaused);
      rmSync(filler);
      expect((await written).problem).toBeNull();
    } finally {
      await lone.stop();
      rmSync(filler, { force: true });
    }
    await holdfast(z.unknown(), 'volume', 'detach', 'lone');
    await holdfast(z.unknown(), 'volume', 'delete', 'lone', '--purge');
    await healed();
  });

  test('a frozen replica leaves, and comes back', { timeout: 240_000 }, async () => {
    await serveOn(3);
    const pid = await pidOf('replica', 'node4');
    await loadDuring('a frozen replica', 6, async () => {
      await freeze(pid);
      try {
        await untilOut('node4');
      } finally {
        process.kill(pid, 'SIGCONT');
      }
    });
    await healed();
  });

  test('every copy has everything', { timeout: 240_000 }, async () => {
    for (const host of holders) {
      // Reads go to the copy of the same host.
      await serveOn(host);
      expect((await fioOn(device(), 60, [...kept, '--verify_only'])).problem).toBeNull();
    }
    await healed();
  });
});
