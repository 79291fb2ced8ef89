/**
 * npm run bench:scaling: how the total of many volumes at depth 4 each grows with their number, and how that of one volume grows
 * with its depth. All volumes are attached on one node: one target process and its one reactor serve them.
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

Measures 4 KiB random writes and reads of many volumes at depth 4 each, and of one volume at growing depth.

  --folder DIR    where the replicas' data goes (default build); a folder in /dev/shm leaves the disk out
  --volumes A,B   numbers of volumes (default 1,2,4,8,16,32,64)
  --depths A,B    depths of the single volume (default 1,4,8,16,32,64,128)
  --size-mib N    size of each volume (default 64)
  --seconds N     length of one measurement (default 3)
  --rounds N      rounds; the medians are shown (default 1)
  --json FILE     write the record there
  --svg FILE      plot it there`;

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

async function main(): Promise<void> {
  const values = benchOptions(usage, {
    folder: { type: 'string', default: join(root, 'build') },
    volumes: { type: 'string', default: '1,2,4,8,16,32,64' },
    depths: { type: 'string', default: '1,4,8,16,32,64,128' },
    'size-mib': { type: 'string', default: '64' },
    seconds: { type: 'string', default: '3' },
    rounds: { type: 'string', default: '1' },
    json: { type: 'string' },
    svg: { type: 'string' },
  });
  const [counts, depths] = [numbers(values.volumes), numbers(values.depths)];
  const [sizeMebibytes, seconds, rounds] = [Number(values['size-mib']), Number(values.seconds), Number(values.rounds)];
  mkdirSync(resolve(values.folder), { recursive: true });
  const folder = mkdtempSync(join(resolve(values.folder), 'scaling-'));
  const exports: NbdExport[] = [];
  const points: Point[] = [];
  let cluster: Cluster | undefined;
  try {
    cluster = await Cluster.start({ folder, upArgs: ['--journal-size', '512Mi'] });
    for (let index = 1; index <= Math.max(...counts); index++) {
      const name = `v${String(index)}`;
      await cluster.createVolume(name, `${String(sizeMebibytes)}Mi`, '--replicas', '3');
      const { iscsi } = await cluster.attach(name, '--node', 'node1');
      const nbd = await startNbd(folder, name, iscsi.url);
      exports.push(nbd);
      await fill({ kind: 'nbd', socket: nbd.socket }, sizeMebibytes * 1024 * 1024);
    }
    console.error(`${String(exports.length)} volumes are attached and filled`);
    const pids = (await cluster.processes()).map((row) => row.pid);
    const cpu = (): number => pids.reduce((sum, pid) => sum + cpuSeconds(pid), 0);
    const shapes = [
      ...depths.map((depth) => ({ volumes: 1, depth })),
      ...counts.filter((count) => count > 1 || !depths.includes(4)).map((volumes) => ({ volumes, depth: 4 })),
    ];
    for (const kind of ['randwrite', 'randread'] as const) {
      for (const { volumes, depth } of shapes) {
        const sockets = exports.slice(0, volumes).map((one) => one.socket);
        const measured: { iops: number; cpu: number }[] = [];
        for (let round = 0; round < rounds; round++) {
          const [before, began] = [cpu(), process.hrtime.bigint()];
          const iops = await together(sockets, kind, depth, sizeMebibytes, seconds);
          const elapsed = Number(process.hrtime.bigint() - began) / 1e9;
          measured.push({ iops, cpu: ((cpu() - before) / (iops * elapsed)) * 1e6 });
        }
        const point: Point = {
          kind,
          volumes,
          depth,
          iops: Math.round(median(measured.map((one) => one.iops))),
          cpuMicroseconds: Math.round(median(measured.map((one) => one.cpu)) * 10) / 10,
        };
        points.push(point);
        console.log(
          `${kind}, ${String(volumes)} volumes at depth ${String(depth)}: ${String(point.iops)}/s, ${String(point.cpuMicroseconds)} µs CPU each`,
        );
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
  const machine = { cpus: cpus().length, model: cpus()[0]?.model ?? 'unknown', kernel: release() };
  if (values.json !== undefined) {
    const record = { version: 1, date: new Date().toISOString(), machine, seconds, rounds, sizeMebibytes, points };
    writeFileSync(values.json, `${JSON.stringify(record, null, 2)}\n`);
  }
  if (values.svg !== undefined) {
    const line = (name: string, color: string, dashed: boolean, chosen: readonly Point[]): Series => ({
      name,
      color,
      dashed,
      points: chosen.map((p) => ({ x: p.volumes * p.depth, y: p.iops / 1000 })),
    });
    const of = (kind: Kind): Point[] => points.filter((p) => p.kind === kind);
    const many = (kind: Kind): Point[] => of(kind).filter((p) => p.depth === 4);
    const one = (kind: Kind): Point[] => of(kind).filter((p) => p.volumes === 1);
    const svg = plot('4 KiB random I/O of one target process', 'operations under way', 'thousands a second', [
      line('writes, volumes at depth 4 each', '#c0392b', false, many('randwrite')),
      line('writes, one volume', '#c0392b', true, one('randwrite')),
      line('reads, volumes at depth 4 each', '#2471a3', false, many('randread')),
      line('reads, one volume', '#2471a3', true, one('randread')),
    ]);
    writeFileSync(values.svg, svg);
  }
}

await main();
