// What many snapshots of one volume cost: taking them under writes, listing them, reads and writes of the volume beside those of one without
// any, deleting them in random order, and the space that comes back.
// Both volumes are measured in turn, since the machine changes; ratios are medians of pairs.
// Each write after a snapshot takes a slot of its own (256 KiB on each of three replicas): it ends early rather than leave less than 25 GiB of the disk.
import { spawn } from 'node:child_process';
import { mkdirSync, rmSync, statfsSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { request } from '../engine/api/rest-client.js';
import { Cluster, root } from '../test/lib/cluster.js';
import { startNbd } from '../test/lib/initiator.js';
import type { NbdExport } from '../test/lib/initiator.js';
import { endProcess, run, until } from '../test/lib/process.js';
import { benchCases } from './cases.js';
import type { BenchCase } from './cases.js';
import { fill, measure } from './fio.js';
import { benchOptions } from './options.js';

const usage = `Usage: node scripts/bench.mjs snapshots [options]

What many snapshots of one volume cost: taking, listing and deleting them, and I/O beside them.

  --folder DIR    where the replicas' data goes (default build/bench-snapshots)
  --data-mib N    size of each of the two volumes (default 256)
  --counts A,B    numbers of snapshots at which I/O is compared (default 10,1000,10000)
  --rate N        random writes a second while snapshots are taken (default 200)
  --aged-mib N    so much of every disk is used once and freed again before (default 0)
  --pace N        snapshots a second (default 0: one after the other, without a pause)
  --seconds N     length of one measurement of I/O (default 3)
  --rounds N      pairs of measurements of I/O (default 3)`;

const values = benchOptions(usage, {
  folder: { type: 'string', default: join(root, 'build/bench-snapshots') },
  'data-mib': { type: 'string', default: '256' },
  counts: { type: 'string', default: '10,1000,10000' },
  rate: { type: 'string', default: '200' },
  pace: { type: 'string', default: '0' },
  'aged-mib': { type: 'string', default: '0' },
  seconds: { type: 'string', default: '3' },
  rounds: { type: 'string', default: '3' },
});
const folder = resolve(values.folder);
const dataBytes = Number(values['data-mib']) * 2 ** 20;
const agedBytes = Number(values['aged-mib']) * 2 ** 20;
const counts = values.counts.split(',').map(Number);
const [rate, pace] = [Number(values.rate), Number(values.pace)];
const [seconds, rounds] = [Number(values.seconds), Number(values.rounds)];
const freeBytesMin = 25 * 2 ** 30;
// A slot on each of three replicas for a write in between.
const bytesPerSnapshot = 3 * 2 ** 18;
const restLoad = join(folder, 'rest-load');

const tell = (line: string) => {
  console.log(line);
};
const at = (sorted: readonly number[], share: number) => sorted[Math.floor((sorted.length - 1) * share)] ?? 0;
const ascending = (figures: readonly number[]) => [...figures].sort((a, b) => a - b);
const spread = (figures: readonly number[]) => {
  const sorted = ascending(figures);
  return `p50 ${at(sorted, 0.5).toFixed(1)} ms, p99 ${at(sorted, 0.99).toFixed(1)} ms, longest ${at(sorted, 1).toFixed(1)} ms`;
};
const volumeShape = z.object({ usedBytes: z.number().nullable() });

function caseOf(id: string): BenchCase {
  const found = benchCases.find((each) => each.id === id);
  if (found === undefined) throw new Error(`there is no case ${id}`);
  return found;
}

/**
 * One after the other on one connection, as a scheduler or a CSI driver has one; `perSecond` 0: without a pause. Returns how long each
 * answer took, ms.
 */
async function call(server: string, lines: readonly string[], perSecond: number): Promise<readonly number[]> {
  const [host = '', port = ''] = server.split(':');
  const client = spawn(restLoad, [host, port, String(perSecond)], { stdio: ['pipe', 'pipe', 'inherit'] });
  client.stdin.end(lines.map((line) => `${line}\n`).join(''));
  const answers = (await text(client.stdout)).trim().split('\n');
  const failed = answers.findIndex((answer) => !answer.startsWith('200 '));
  if (failed >= 0) throw new Error(`${lines[failed]}: the manager answered ${answers[failed]}`);
  if (answers.length !== lines.length) throw new Error(`${answers.length} answers for ${lines.length} requests`);
  return answers.map((answer) => Number(answer.slice(4)) / 1_000);
}

type Subjects = { readonly cluster: Cluster; readonly plain: NbdExport; readonly snapped: NbdExport };

/** What one synced write costs on the same disk meanwhile: 20 a second, ms each. */
class DiskBeside {
  readonly taken: number[] = [];
  #going = true;
  readonly #ended: Promise<void>;

  constructor(path: string) {
    this.#ended = this.#run(path);
  }

  async #run(path: string): Promise<void> {
    const file = await open(path, 'w');
    const block = Buffer.alloc(4096);
    try {
      while (this.#going) {
        const began = performance.now();
        await file.write(block, 0, block.length, 0);
        await file.datasync();
        this.taken.push(performance.now() - began);
        await sleep(50);
      }
    } finally {
      await file.close();
    }
  }

  async stop(): Promise<void> {
    this.#going = false;
    await this.#ended;
  }
}

/** Takes snapshots until there are `count`, or as many as the disk has room for. Returns how many there are. */
async function take({ cluster, snapped }: Subjects, from: number, count: number): Promise<number> {
  const { bavail, bsize } = statfsSync(folder);
  const room = Math.max(0, Math.floor((bavail * bsize - freeBytesMin) / bytesPerSnapshot));
  const end = Math.min(count, from + room);
  if (end < count) tell(`the disk has only ${((bavail * bsize) / 2 ** 30).toFixed(0)} GiB left: this ends with ${end}`);
  const load = spawn(
    'fio',
    [
      ...['--name=load', '--ioengine=nbd', `--uri=${snapped.uri}`, '--rw=randwrite', '--bs=4k', '--iodepth=4'],
      ...[`--rate_iops=${rate}`, `--size=${dataBytes}`, '--time_based=1', '--runtime=100000'],
    ],
    { stdio: 'ignore' },
  );
  await sleep(500);
  const beside = new DiskBeside(join(folder, 'beside'));
  let taken: readonly number[];
  const began = performance.now();
  try {
    const names = Array.from({ length: end - from }, (_, n) => `s${from + n}`);
    const lines = names.map((name) => `POST /v1/volumes/snapped/snapshots ${JSON.stringify({ name })}`);
    taken = await call(cluster.server, lines, pace);
  } finally {
    await endProcess(load);
    await beside.stop();
  }
  const took = (performance.now() - began) / 1_000;
  tell(`${taken.length} more under ${rate} writes a second, in ${took.toFixed(0)} s: ${spread(taken)}`);
  tell(
    `  one write and fdatasync of 4 KiB on that disk meanwhile: ${spread(beside.taken)} (${beside.taken.length} of them)`,
  );
  if (taken.length >= 2_000) {
    tell(`  of these the first thousand: ${spread(taken.slice(0, 1_000))}; the last: ${spread(taken.slice(-1_000))}`);
  }
  return end;
}

async function compare({ plain, snapped }: Subjects, count: number): Promise<void> {
  await sleep(3_000);
  for (const id of ['rand-write-d32', 'rand-read-d32', 'rand-read-d1']) {
    const ratios: number[] = [];
    const figures: string[] = [];
    for (let round = 0; round < rounds; round++) {
      const iops = async (socket: string) =>
        (await measure(caseOf(id), { kind: 'nbd', socket }, dataBytes, seconds)).iops;
      // Turns are exchanged from round to round.
      const first = await iops(round % 2 === 0 ? plain.socket : snapped.socket);
      const second = await iops(round % 2 === 0 ? snapped.socket : plain.socket);
      const [without, having] = round % 2 === 0 ? [first, second] : [second, first];
      ratios.push(having / without);
      figures.push(`${without.toFixed(0)}:${having.toFixed(0)}`);
    }
    tell(
      `${count} snapshots, ${id}: ${at(ascending(ratios), 0.5).toFixed(2)} of the volume without (${figures.join(' ')})`,
    );
  }
}

async function list({ cluster }: Subjects): Promise<void> {
  const began = performance.now();
  const rows = await request<unknown[]>(cluster.server, 'GET', '/v1/volumes/snapped/snapshots');
  const rest = performance.now() - began;
  await cluster.cli('snapshot', 'ls', 'snapped');
  const cli = performance.now() - began - rest;
  tell(`listing ${rows.length}: ${rest.toFixed(0)} ms by REST, ${cli.toFixed(0)} ms by the CLI`);
}

const usedBytes = async ({ cluster }: Subjects) =>
  volumeShape.parse(await request<unknown>(cluster.server, 'GET', '/v1/volumes/snapped')).usedBytes ?? 0;

async function deleteAll(subjects: Subjects, count: number, usedAtFirst: number): Promise<void> {
  const { cluster } = subjects;
  const full = await usedBytes(subjects);
  const names = Array.from({ length: count }, (_, n) => `s${n}`);
  // A fixed shuffle, so that runs compare.
  let state = 1;
  for (let last = names.length - 1; last > 0; last--) {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    const other = state % (last + 1);
    [names[last], names[other]] = [names[other] ?? '', names[last] ?? ''];
  }
  const began = performance.now();
  const lines = names.map((name) => `DELETE /v1/volumes/snapped/snapshots/${name} {}`);
  const taken = await call(cluster.server, lines, 0);
  const took = (performance.now() - began) / 1_000;
  tell(`${count} deleted in random order, in ${took.toFixed(0)} s: ${spread(taken)}`);
  await until('the space to come back', 600_000, async () => (await usedBytes(subjects)) <= usedAtFirst * 1.02);
  const back = (performance.now() - began) / 1_000 - took;
  const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(2)} GiB`;
  tell(
    `space of a replica: ${gib(full)} -> ${gib(await usedBytes(subjects))}, ${back.toFixed(1)} s after the last (at first ${gib(usedAtFirst)})`,
  );
}

rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });
await run('cc', ['-O2', '-D_GNU_SOURCE', '-o', restLoad, join(root, 'bench/rest-load.c')]);
const cluster = await Cluster.start({ folder: join(folder, 'holdfast') });
const stops: (() => Promise<void>)[] = [];
try {
  const served = async (name: string) => {
    await cluster.createVolume(name, String(dataBytes));
    const { iscsi } = await cluster.attach(name, '--node', 'node1');
    const nbd = await startNbd(folder, name, iscsi.url);
    stops.push(() => nbd.stop());
    await fill({ kind: 'nbd', socket: nbd.socket }, dataBytes);
    return nbd;
  };
  if (agedBytes > 0) {
    await cluster.createVolume('aging', String(agedBytes));
    const { iscsi } = await cluster.attach('aging', '--node', 'node1');
    const nbd = await startNbd(folder, 'aging', iscsi.url);
    await fill({ kind: 'nbd', socket: nbd.socket }, agedBytes);
    await nbd.stop();
    await cluster.cli('volume', 'detach', 'aging');
    await cluster.cli('volume', 'delete', 'aging', '--purge');
  }
  const subjects: Subjects = { cluster, plain: await served('plain'), snapped: await served('snapped') };
  const usedAtFirst = await usedBytes(subjects);
  await compare(subjects, 0);
  let made = 0;
  for (const count of counts) {
    made = await take(subjects, made, count);
    await compare(subjects, made);
    if (made < count) break;
  }
  await list(subjects);
  await deleteAll(subjects, made, usedAtFirst);
  await compare(subjects, 0);
} finally {
  for (const stop of stops) await stop();
  await cluster.stop();
  rmSync(folder, { recursive: true, force: true });
}
