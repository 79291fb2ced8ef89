/**
 * npm run bench:scaling: how the total of many volumes at depth 4 each grows with their number, and how that of one volume grows
 * with its depth, all attached on one node: one target process and its one reactor serve them. Then how the total of eight
 * volumes grows with the number of reactors, those of target processes of as many nodes.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, release } from 'node:os';
import { join, resolve } from 'node:path';

import { z } from 'zod';

import { Cluster, root } from '../test/lib/cluster.js';
import { startNbd, type NbdExport } from '../test/lib/initiator.js';
import { run } from '../test/lib/process.js';
import { fill } from './fio.js';
import { benchOptions } from './options.js';
import { plot, type Series } from './plot.js';
import { cpuSeconds } from './proc.js';
import { median } from './report.js';

const usage = `Usage: npm run bench:scaling -- [options]

Measures 4 KiB random writes and reads of many volumes at depth 4 each, of one volume at growing depth, and of eight volumes
that several target processes share.

  --folder DIR    where the replicas' data goes (default build); a folder in /dev/shm leaves the disk out
  --volumes A,B   numbers of volumes (default 1,2,4,8,16,32,64)
  --depths A,B    depths of the single volume (default 1,4,8,16,32,64,128)
  --reactors A,B  numbers of target processes, each with one reactor, for eight volumes (default 1,2,4)
  --size-mib N    size of each volume (default 64)
  --seconds N     length of one measurement (default 3)
  --rounds N      rounds; the medians are shown (default 1)
  --json FILE     write the record there
  --svg FILE      plot it there, and what depends on reactors into another file beside it, FILE-reactors.svg`;

const fioOutput = z.object({
  jobs: z
    .array(z.object({ error: z.number(), read: z.object({ iops: z.number() }), write: z.object({ iops: z.number() }) }))
    .length(1),
});

type Kind = 'randwrite' | 'randread';

interface Point {
  readonly kind: Kind;
  readonly volumes: number;
  readonly depth: number;
  readonly reactors: number;
  readonly iops: number;
  readonly cpuMicroseconds: number;
}

async function together(
  sockets: readonly string[],
  kind: Kind,
  depth: number,
  sizeMebibytes: number,
  seconds: number,
): Promise<number> {
  const text = await run('fio', [
    '--ioengine=nbd',
    `--rw=${kind}`,
    '--bs=4k',
    `--iodepth=${String(depth)}`,
    `--size=${String(sizeMebibytes)}m`,
    '--time_based=1',
    `--runtime=${String(seconds)}`,
    '--ramp_time=1',
    '--randrepeat=0',
    '--norandommap=1',
    '--group_reporting=1',
    '--output-format=json',
    ...sockets.flatMap((socket, index) => [`--name=volume${String(index + 1)}`, `--uri=nbd+unix:///?socket=${socket}`]),
  ]);
  const job = fioOutput.parse(JSON.parse(text.slice(text.indexOf('{')))).jobs[0];
  if (job?.error !== 0) throw new Error(`fio reports error ${String(job?.error)}`);
  return kind === 'randread' ? job.read.iops : job.write.iops;
}

function numbers(text: string): number[] {
  const list = text.split(',').map(Number);
  if (list.some((one) => !(Number.isInteger(one) && one > 0))) throw new Error(`${text} is no list of numbers > 0`);
  return list;
}

const reactorVolumes = 8;

interface Shape {
  readonly volumes: number;
  readonly depth: number;
  readonly reactors: number;
  readonly sockets: readonly string[];
}

interface Setting {
  readonly folder: string;
  readonly sizeMebibytes: number;
  readonly seconds: number;
  readonly rounds: number;
}

/** New volumes, filled, the first on node1, the next on node2, and again from node1 after `nodes` of them. */
async function attachVolumes(
  cluster: Cluster,
  setting: Setting,
  prefix: string,
  count: number,
  nodes: number,
): Promise<NbdExport[]> {
  const exports: NbdExport[] = [];
  for (let index = 0; index < count; index++) {
    const name = `${prefix}${String(index + 1)}`;
    await cluster.createVolume(name, `${String(setting.sizeMebibytes)}Mi`, '--replicas', '3');
    const { iscsi } = await cluster.attach(name, '--node', `node${String((index % nodes) + 1)}`);
    const nbd = await startNbd(setting.folder, name, iscsi.url);
    exports.push(nbd);
    await fill({ kind: 'nbd', socket: nbd.socket }, setting.sizeMebibytes * 1024 * 1024);
  }
  return exports;
}

async function measure(cluster: Cluster, setting: Setting, kind: Kind, shape: Shape): Promise<Point> {
  const pids = (await cluster.processes()).map((row) => row.pid);
  const cpu = (): number => pids.reduce((sum, pid) => sum + cpuSeconds(pid), 0);
  const measured: { iops: number; cpu: number }[] = [];
  for (let round = 0; round < setting.rounds; round++) {
    const [before, began] = [cpu(), process.hrtime.bigint()];
    const iops = await together(shape.sockets, kind, shape.depth, setting.sizeMebibytes, setting.seconds);
    const elapsed = Number(process.hrtime.bigint() - began) / 1e9;
    measured.push({ iops, cpu: ((cpu() - before) / (iops * elapsed)) * 1e6 });
  }
  const { volumes, depth, reactors } = shape;
  const point: Point = {
    kind,
    volumes,
    depth,
    reactors,
    iops: Math.round(median(measured.map((one) => one.iops))),
    cpuMicroseconds: Math.round(median(measured.map((one) => one.cpu)) * 10) / 10,
  };
  const what = `${kind}, ${String(volumes)} volumes at depth ${String(depth)}, ${String(reactors)} reactors`;
  console.log(`${what}: ${String(point.iops)}/s, ${String(point.cpuMicroseconds)} µs CPU each`);
  return point;
}

function plotVolumes(points: readonly Point[]): string {
  const line = (name: string, color: string, dashed: boolean, chosen: readonly Point[]): Series => ({
    name,
    color,
    dashed,
    points: chosen.map((p) => ({ x: p.volumes * p.depth, y: p.iops / 1000 })),
  });
  const many = (kind: Kind): Point[] => points.filter((p) => p.kind === kind && p.depth === 4);
  const one = (kind: Kind): Point[] => points.filter((p) => p.kind === kind && p.volumes === 1);
  return plot('4 KiB random I/O of one target process', 'operations under way', 'thousands a second', [
    line('writes, volumes at depth 4 each', '#c0392b', false, many('randwrite')),
    line('writes, one volume', '#c0392b', true, one('randwrite')),
    line('reads, volumes at depth 4 each', '#2471a3', false, many('randread')),
    line('reads, one volume', '#2471a3', true, one('randread')),
  ]);
}

function plotReactors(points: readonly Point[]): string {
  const line = (name: string, color: string, kind: Kind): Series => ({
    name,
    color,
    dashed: false,
    points: points.filter((p) => p.kind === kind).map((p) => ({ x: p.reactors, y: p.iops / 1000 })),
  });
  const title = `4 KiB random I/O of ${String(reactorVolumes)} volumes at depth 4 each`;
  return plot(title, 'reactors (target processes)', 'thousands a second', [
    line('writes', '#c0392b', 'randwrite'),
    line('reads', '#2471a3', 'randread'),
  ]);
}

async function main(): Promise<void> {
  const values = benchOptions(usage, {
    folder: { type: 'string', default: join(root, 'build') },
    volumes: { type: 'string', default: '1,2,4,8,16,32,64' },
    depths: { type: 'string', default: '1,4,8,16,32,64,128' },
    reactors: { type: 'string', default: '1,2,4' },
    'size-mib': { type: 'string', default: '64' },
    seconds: { type: 'string', default: '3' },
    rounds: { type: 'string', default: '1' },
    json: { type: 'string' },
    svg: { type: 'string' },
  });
  const [counts, depths, reactors] = [numbers(values.volumes), numbers(values.depths), numbers(values.reactors)];
  mkdirSync(resolve(values.folder), { recursive: true });
  const folder = mkdtempSync(join(resolve(values.folder), 'scaling-'));
  const setting: Setting = {
    folder,
    sizeMebibytes: Number(values['size-mib']),
    seconds: Number(values.seconds),
    rounds: Number(values.rounds),
  };
  const exports: NbdExport[] = [];
  const points: Point[] = [];
  const byReactors: Point[] = [];
  let cluster: Cluster | undefined;
  try {
    const nodes = String(Math.max(3, ...reactors));
    cluster = await Cluster.start({ folder, upArgs: ['--journal-size', '512Mi', '--nodes', nodes] });
    exports.push(...(await attachVolumes(cluster, setting, 'v', Math.max(...counts), 1)));
    const sockets = exports.map((one) => one.socket);
    const spread = new Map<number, readonly string[]>();
    for (const count of reactors) {
      const some = await attachVolumes(cluster, setting, `r${String(count)}-`, reactorVolumes, count);
      exports.push(...some);
      spread.set(
        count,
        some.map((one) => one.socket),
      );
    }
    console.error(`${String(exports.length)} volumes are attached and filled`);
    const shapes = [
      ...depths.map((depth) => ({ volumes: 1, depth })),
      ...counts.filter((count) => count > 1 || !depths.includes(4)).map((volumes) => ({ volumes, depth: 4 })),
    ].map((shape): Shape => ({ ...shape, reactors: 1, sockets: sockets.slice(0, shape.volumes) }));
    for (const kind of ['randwrite', 'randread'] as const) {
      for (const shape of shapes) points.push(await measure(cluster, setting, kind, shape));
      for (const [count, some] of spread) {
        const shape: Shape = { volumes: reactorVolumes, depth: 4, reactors: count, sockets: some };
        byReactors.push(await measure(cluster, setting, kind, shape));
      }
    }
  } finally {
    for (const nbd of exports) await nbd.stop();
    await cluster?.stop();
    rmSync(folder, { recursive: true, force: true });
  }

  for (const kind of ['randwrite', 'randread'] as const) {
    const best = Math.max(...points.filter((p) => p.kind === kind && p.volumes === 1).map((p) => p.iops));
    const sixteen = points.find((p) => p.kind === kind && p.volumes === 16);
    if (sixteen) {
      console.log(`${kind}: 16 volumes at depth 4: ${(sixteen.iops / best).toFixed(2)} of the best of one volume`);
    }
  }
  if (values.json !== undefined) {
    const machine = { cpus: cpus().length, model: cpus()[0]?.model ?? 'unknown', kernel: release() };
    const { sizeMebibytes, seconds, rounds } = setting;
    const date = new Date().toISOString();
    const record = { version: 2, date, machine, seconds, rounds, sizeMebibytes, points, byReactors };
    writeFileSync(values.json, `${JSON.stringify(record, null, 2)}\n`);
  }
  if (values.svg !== undefined) {
    writeFileSync(values.svg, plotVolumes(points));
    writeFileSync(values.svg.replace(/(\.svg)?$/, '-reactors.svg'), plotReactors(byReactors));
  }
}

await main();
