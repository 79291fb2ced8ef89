/** Load on a volume from a host of a HostNet: qemu-nbd logs in over iSCSI, fio and qemu-io use it through NBD. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';

import { z } from 'zod';

import { inHost, startOn } from './hosts.js';
import { attempt, endProcess, until, type Outcome } from './process.js';

export interface HostNbd {
  readonly host: number;
  readonly uri: string;
  stop(): Promise<void>;
}

/** `name` makes the files in `folder` unique. */
export async function startNbdOn(host: number, folder: string, name: string, url: string): Promise<HostNbd> {
  const socket = join(folder, `${name}.nbd`);
  const nbd = startOn(host, folder, name, [
    'qemu-nbd',
    '-t',
    '-f',
    'raw',
    '--cache=none',
    '-e',
    '8',
    '-k',
    socket,
    url,
  ]);
  await until(`qemu-nbd for ${url}`, 60_000, () => {
    if (nbd.exitCode !== null) throw new Error(`qemu-nbd ended, see ${join(folder, `${name}.log`)}`);
    return existsSync(socket);
  });
  return { host, uri: `nbd+unix:///?socket=${socket}`, stop: () => endProcess(nbd, 2_000) };
}

const latency = z.object({ clat_ns: z.object({ max: z.number() }) });
const report = z.object({ jobs: z.array(z.object({ error: z.number(), write: latency, read: latency })).min(1) });

export interface FioOutcome {
  /** Null: it went well, and what was read was what had been written. */
  readonly problem: string | null;
  /** The longest single read or write. */
  readonly worstMs: number;
}

/** fio with checksums in every block. */
export async function fioOn({ host, uri }: HostNbd, seconds: number, args: readonly string[]): Promise<FioOutcome> {
  const common = ['--name=load', '--thread', '--ioengine=nbd', `--uri=${uri}`, '--bs=4k', '--output-format=json'];
  const verify = ['--verify=crc32c', '--verify_fatal=1', '--verify_state_save=0'];
  const { code, stdout, stderr } = await attempt('ip', inHost(host, 'fio', ...common, ...verify, ...args), {
    timeoutMilliseconds: seconds * 1_000,
  });
  const begin = stdout.indexOf('{');
  if (code !== 0 || begin < 0) return { problem: `fio ended with ${String(code)}: ${stderr}${stdout}`, worstMs: 0 };
  const { jobs } = report.parse(JSON.parse(stdout.slice(begin)));
  const worstNs = Math.max(...jobs.map(({ write, read }) => Math.max(write.clat_ns.max, read.clat_ns.max)));
  return { problem: null, worstMs: worstNs / 1e6 };
}

/** One qemu-io command, such as "write -P 1 0 4k"; ended by SIGKILL after that time. */
export async function qemuIoOn({ host, uri }: HostNbd, command: string, seconds: number): Promise<Outcome> {
  return await attempt('ip', inHost(host, 'qemu-io', '-f', 'raw', '-t', 'none', '-c', command, uri), {
    timeoutMilliseconds: seconds * 1_000,
  });
}
