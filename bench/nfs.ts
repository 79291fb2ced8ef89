// A shared volume beside the same NFS server on the raw disk: throughput, small I/O, and rates of metadata, through libnfs.
// "raw" is ext4 on a loop device over a preallocated file, exported by NFS-Ganesha with the configuration that Holdfast makes; "holdfast"
// is a shared volume of the same size with three replicas on the same disk. NFSv3, as libnfs writes no large blocks over NFSv4. Takes
// root, NFS-Ganesha, libnfs-dev and a C compiler. Ratios are taken within a round. --fresh: sequential reads are not read once before.
import { spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { z } from 'zod';
import { ganeshaConfig } from '../engine/nfs/ganesha-config.js';
import { nullCall, rpcNullCall } from '../engine/nfs/null-call.js';
import { listMounts } from '../engine/os/mounts.js';
import { Cluster, root } from '../test/lib/cluster.js';
import { attempt, endProcess, freePort, run, until } from '../test/lib/process.js';
import { benchOptions } from './options.js';
import { cpuSeconds } from './proc.js';

type Subject = {
  readonly name: string;
  readonly url: string;
  /** Whose CPU counts. */
  readonly pids: () => Promise<readonly number[]>;
  readonly stop: () => Promise<void>;
  /** Where its file system is mounted. */
  readonly mount: () => string;
};

const cases = [
  { id: 'seq-read', args: ['read', String(1 << 20), '8'], once: true },
  { id: 'seq-read-1', args: ['read', String(1 << 20), '1'], once: true },
  { id: 'seq-write', args: ['write', String(1 << 20), '8'] },
  { id: 'rand-read-4k', args: ['randread', '4096', '16'] },
  { id: 'rand-write-4k', args: ['randwrite', '4096', '16'] },
  { id: 'commit-4k', args: ['randwrite', '4096', '1'], flush: true },
] as const;

const loadResult = z.object({ operations: z.number(), seconds: z.number(), megabytesPerSecond: z.number() });
const filesResult = z.object({
  createsPerSecond: z.number(),
  statsPerSecond: z.number(),
  unlinksPerSecond: z.number(),
});

const usage = `Usage: node scripts/bench.mjs nfs [options]

A shared volume beside the same NFS server on the raw disk.

  --folder DIR    where the data goes (default build/bench-nfs)
  --size-mib N    size of the file (default 1024)
  --seconds N     length of one measurement (default 5)
  --rounds N      rounds; ratios are taken within each (default 3)
  --files N       files whose metadata is measured (default 2000)
  --only A,B      only these cases; files: metadata
  --fresh         sequential reads are not read once before
  --json FILE     write the record there`;
const values = benchOptions(usage, {
  folder: { type: 'string', default: join(root, 'build/bench-nfs') },
  'size-mib': { type: 'string', default: '1024' },
  seconds: { type: 'string', default: '5' },
  rounds: { type: 'string', default: '3' },
  files: { type: 'string', default: '2000' },
  only: { type: 'string' },
  fresh: { type: 'boolean', default: false },
  json: { type: 'string' },
});
const wanted = values.only?.split(',') ?? null;
const isWanted = (id: string) => wanted === null || wanted.includes(id);
const folder = resolve(values.folder);
const sizeMib = Number(values['size-mib']);
const loadBytes = String(Math.floor(sizeMib / 2) * 2 ** 20);
const program = join(folder, 'nfs-load');

const urlAt = (server: string, port: number, path: string) =>
  `nfs://${server}${path}?version=3&nfsport=${port}&mountport=${port + 1}`;

async function startRaw(): Promise<Subject> {
  const at = join(folder, 'raw');
  const [image, mount] = [join(at, 'image'), join(at, 'fs')];
  mkdirSync(mount, { recursive: true });
  await run('fallocate', ['-l', `${sizeMib}M`, image]);
  const device = (await run('losetup', ['--find', '--show', '--direct-io=on', image])).trim();
  await run('mkfs.ext4', ['-q', '-E', 'nodiscard', device]);
  await run('mount', [device, mount]);
  const port = await freePort(3);
  const text = ganeshaConfig({
    volumeId: '0000000000000001',
    volume: 'raw',
    path: mount,
    recoveryDir: join(at, 'recovery'),
    address: '127.0.0.1',
    port,
    options: { clients: [], squash: 'none', v3: true, security: [], address: null, principal: null, keytab: null },
  });
  mkdirSync(join(at, 'recovery'));
  writeFileSync(join(at, 'ganesha.conf'), text);
  const log = openSync(join(at, 'output'), 'w');
  const files = ['-f', join(at, 'ganesha.conf'), '-L', join(at, 'ganesha.log'), '-p', join(at, 'ganesha.pid')];
  const child = spawn('ganesha.nfsd', ['-F', ...files, '-N', 'NIV_EVENT'], {
    stdio: ['ignore', log, log],
    env: { ...process.env, DBUS_SYSTEM_BUS_ADDRESS: 'unix:path=/nonexistent' },
  });
  closeSync(log);
  await until('the NFS server', 20_000, () => nullCall('127.0.0.1', port, 3, 1_000));
  return {
    name: 'raw',
    url: urlAt('127.0.0.1', port, '/raw'),
    pids: () => Promise.resolve(child.pid === undefined ? [] : [child.pid]),
    mount: () => mount,
    stop: async () => {
      await endProcess(child);
      await run('umount', [mount]);
      await run('losetup', ['-d', device]);
    },
  };
}

const attached = z.object({ nfs: z.object({ server: z.string(), port: z.number(), path: z.string() }) });

async function startHoldfast(): Promise<Subject> {
  const cluster = await Cluster.start({ folder: join(folder, 'holdfast') });
  const share = ['--access', 'rwx', '--nfs-v3', '--nfs-squash', 'none'];
  await cluster.cli('volume', 'create', 'bench', '--size', `${sizeMib}Mi`, ...share);
  const { nfs } = attached.parse(await cluster.cli('volume', 'attach', 'bench'));
  return {
    name: 'holdfast',
    url: urlAt(nfs.server, nfs.port, nfs.path),
    pids: async () => (await cluster.processes()).map(({ pid }) => pid),
    mount: () => {
      const found = listMounts().find(
        ({ directory }) => directory.startsWith(folder) && /\/shares\/\w+\/fs$/.test(directory),
      );
      if (found === undefined) throw new Error('the share is mounted nowhere');
      return found.directory;
    },
    stop: async () => {
      await cluster.try('volume', 'detach', 'bench');
      await cluster.stop();
    },
  };
}

async function load(subject: Subject, ...args: string[]): Promise<string> {
  return await run(program, [subject.url, ...args], { timeoutMilliseconds: 110_000 });
}

type Row = Record<string, number>;

async function measure(subject: Subject): Promise<Row> {
  const row: Row = {};
  for (const { id, args, ...more } of cases) {
    if (!isWanted(id)) continue;
    const seconds = 'once' in more ? '0' : values.seconds;
    // Memory that this machine's hypervisor has taken back while nobody used it is slow when it is written to by a CPU (some 8 µs a page), and
    // not by a disk. Reading once before it is measured fills the cache with memory that is there.
    if ('once' in more && !values.fresh) {
      await dropCache(subject);
      await load(subject, ...args, loadBytes, seconds);
    }
    await dropCache(subject);
    const before = await cpuOf(subject);
    const flush = 'flush' in more ? ['flush'] : [];
    const result = loadResult.parse(JSON.parse(await load(subject, ...args, loadBytes, seconds, ...flush)));
    const perSecond = result.operations / result.seconds;
    row[id] = id.startsWith('seq') ? result.megabytesPerSecond : perSecond;
    const cpu = (((await cpuOf(subject)) - before) / result.operations) * 1e6;
    process.stderr.write(
      `${subject.name} ${id}: ${result.megabytesPerSecond.toFixed(1)} MB/s, ${perSecond.toFixed(0)}/s, ${cpu.toFixed(0)} µs CPU each\n`,
    );
  }
  if (!isWanted('files')) return row;
  const { createsPerSecond, statsPerSecond, unlinksPerSecond } = filesResult.parse(
    JSON.parse(await load(subject, 'files', values.files)),
  );
  Object.assign(row, { create: createsPerSecond, stat: statsPerSecond, unlink: unlinksPerSecond });
  process.stderr.write(
    `${subject.name} files: ${createsPerSecond.toFixed(0)} creates, ${statsPerSecond.toFixed(0)} stats, ${unlinksPerSecond.toFixed(0)} unlinks a second\n`,
  );
  return row;
}

/** What is read next comes from the disk: nothing of it is in the cache of the server's kernel. */
async function dropCache(subject: Subject): Promise<void> {
  await run('dd', [`if=${join(subject.mount(), 'load')}`, 'iflag=nocache', 'count=0', 'status=none']);
}

async function cpuOf({ pids }: Subject): Promise<number> {
  return (await pids()).reduce((sum, pid) => sum + cpuSeconds(pid), 0);
}

const median = (numbers: readonly number[]) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? 0;

async function main(): Promise<void> {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  await run('cc', ['-O2', '-o', program, join(root, 'bench/nfs-load.c'), '-lnfs']);
  const portMapper = { address: '127.0.0.1', port: 111, program: 100_000, version: 2 };
  const mapper = (await rpcNullCall(portMapper, 1_000)) ? null : spawn('rpcbind', ['-f', '-w'], { stdio: 'ignore' });
  await until('the port mapper', 10_000, () => rpcNullCall(portMapper, 1_000));
  const subjects: Subject[] = [];
  const rounds: Record<string, Row>[] = [];
  try {
    for (const start of [startRaw, startHoldfast]) {
      const subject = await start();
      subjects.push(subject);
      // Past the grace period of the server, and so that every later write finds an allocated block.
      await until('writing', 30_000, async () => {
        const { code } = await attempt(program, [subject.url, 'write', String(1 << 20), '8', loadBytes, '0'], {
          timeoutMilliseconds: 110_000,
        });
        return code === 0;
      });
    }
    for (let round = 1; round <= Number(values.rounds); round++) {
      const measured: Record<string, Row> = {};
      for (const subject of subjects) measured[subject.name] = await measure(subject);
      rounds.push(measured);
    }
  } finally {
    for (const subject of subjects) await subject.stop();
    mapper?.kill();
  }
  const names = Object.keys(rounds[0]?.['raw'] ?? {});
  for (const name of names) {
    const of = (subject: string) => median(rounds.map((round) => round[subject]?.[name] ?? 0));
    const ratio = median(rounds.map(({ raw, holdfast }) => (holdfast?.[name] ?? 0) / (raw?.[name] ?? 1)));
    console.log(
      `${name.padEnd(14)} raw ${of('raw').toFixed(1)}  holdfast ${of('holdfast').toFixed(1)}  ratio ${ratio.toFixed(2)}`,
    );
  }
  if (values.json !== undefined) {
    writeFileSync(values.json, JSON.stringify({ rounds }, null, 2));
  }
  rmSync(folder, { recursive: true, force: true });
}

await main();
