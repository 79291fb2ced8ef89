/** Runs fio and reads its JSON. fio is the judge: nothing here measures by itself. */
import { z } from 'zod';

import { run } from '../test/lib/process.js';
import type { BenchCase } from './cases.js';

/** One measured run. Latencies in microseconds, throughput in MB/s (10^6 bytes). */
export interface Measurement {
  readonly iops: number;
  readonly megabytesPerSecond: number;
  readonly meanMicroseconds: number;
  readonly p50Microseconds: number;
  readonly p99Microseconds: number;
  readonly operations: number;
}

/** Where fio sends its I/O: a file, or an NBD server on a unix socket. */
export type FioDestination =
  { readonly kind: 'file'; readonly path: string } | { readonly kind: 'nbd'; readonly socket: string };

const direction = z.object({
  total_ios: z.number(),
  iops: z.number(),
  bw_bytes: z.number(),
  clat_ns: z.object({ mean: z.number(), percentile: z.record(z.string(), z.number()).optional() }),
  lat_ns: z.object({ mean: z.number() }),
});
const fioOutput = z.object({
  jobs: z.array(z.object({ error: z.number(), read: direction, write: direction })).min(1),
});

function destinationArgs(destination: FioDestination): string[] {
  return destination.kind === 'file'
    ? ['--ioengine=io_uring', '--direct=1', `--filename=${destination.path}`]
    : ['--ioengine=nbd', `--uri=nbd+unix:///?socket=${destination.socket}`];
}

/** Writes the whole area once, so that every later read finds data and every later write an allocated block. */
export async function fill(destination: FioDestination, sizeBytes: number): Promise<void> {
  await pass('write', destination, sizeBytes);
}

/** Reads the whole area once. */
export async function drain(destination: FioDestination, sizeBytes: number): Promise<void> {
  await pass('read', destination, sizeBytes);
}

async function pass(rw: 'read' | 'write', destination: FioDestination, sizeBytes: number): Promise<void> {
  await run('fio', [
    `--name=${rw}`,
    ...destinationArgs(destination),
    `--rw=${rw}`,
    '--bs=1m',
    '--iodepth=8',
    `--size=${String(sizeBytes)}`,
    ...(rw === 'write' ? ['--end_fsync=1'] : []),
    '--output-format=json',
  ]);
}

export async function measure(
  benchCase: BenchCase,
  destination: FioDestination,
  sizeBytes: number,
  seconds: number,
): Promise<Measurement> {
  const text = await run('fio', [
    `--name=${benchCase.id}`,
    ...destinationArgs(destination),
    `--rw=${benchCase.rw}`,
    `--bs=${benchCase.blockSize}`,
    `--iodepth=${String(benchCase.depth)}`,
    `--size=${String(sizeBytes)}`,
    ...(benchCase.fsync ? ['--fsync=1'] : []),
    '--time_based=1',
    `--runtime=${String(seconds)}`,
    '--ramp_time=1',
    '--randrepeat=0',
    '--norandommap=1',
    '--output-format=json',
  ]);
  // fio's nbd engine prints a line of its own before the JSON.
  const output = fioOutput.parse(JSON.parse(text.slice(text.indexOf('{'))));
  const job = output.jobs[0];
  if (job?.error !== 0) throw new Error(`fio reports error ${String(job?.error)} in ${benchCase.id}`);
  const side = benchCase.rw.endsWith('read') ? job.read : job.write;
  const percentile = (name: string): number => (side.clat_ns.percentile?.[name] ?? 0) / 1000;
  return {
    iops: side.iops,
    megabytesPerSecond: side.bw_bytes / 1e6,
    meanMicroseconds: side.lat_ns.mean / 1000,
    p50Microseconds: percentile('50.000000'),
    p99Microseconds: percentile('99.000000'),
    operations: side.total_ios,
  };
}
