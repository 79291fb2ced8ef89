/**
 * What is measured side by side: the raw disk, tgt with one unreplicated copy, and Holdfast with three replicas,
 * all on the same disk. Each one is started once and kept for all cases; only one of them has work at a time.
 */
import { spawn, spawnSync } from 'node:child_process';
import { closeSync, mkdirSync, openSync } from 'node:fs';
import { join } from 'node:path';

import { Cluster } from '../test/lib/cluster.js';
import { startNbd } from '../test/lib/initiator.js';
import { endProcess, freePort, portAnswers, run, until } from '../test/lib/process.js';
import type { FioDestination } from './fio.js';

export interface Subject {
  readonly name: string;
  readonly destination: FioDestination;
  /** Processes whose CPU and memory count for this subject. */
  pids(): Promise<readonly number[]>;
  stop(): Promise<void>;
}

export interface SubjectOptions {
  readonly folder: string;
  readonly sizeBytes: number;
}

/** The raw disk: a preallocated file with direct I/O. */
export async function startRaw(options: SubjectOptions): Promise<Subject> {
  mkdirSync(options.folder, { recursive: true });
  const path = join(options.folder, 'raw.img');
  await run('fallocate', ['-l', String(options.sizeBytes), path]);
  return {
    name: 'raw',
    destination: { kind: 'file', path },
    pids: () => Promise.resolve([]),
    stop: () => Promise.resolve(),
  };
}

export function tgtIsInstalled(): boolean {
  return ['tgtd', 'tgtadm'].every((program) => spawnSync(program, ['--version']).error === undefined);
}

/** tgt with one copy, direct I/O, behind the same initiator as Holdfast. */
export async function startTgt(options: SubjectOptions): Promise<Subject> {
  mkdirSync(options.folder, { recursive: true });
  const image = join(options.folder, 'tgt.img');
  await run('fallocate', ['-l', String(options.sizeBytes), image]);
  const port = await freePort();
  const control = String(100 + (port % 800));
  const iqn = 'iqn.2026-11.io.holdfast.bench:tgt';
  const log = openSync(join(options.folder, 'tgtd.log'), 'w');
  const child = spawn('tgtd', ['-f', '-C', control, '--iscsi', `portal=127.0.0.1:${port}`], {
    stdio: ['ignore', log, log],
  });
  closeSync(log);
  await until('tgtd', 10_000, () => portAnswers(port));
  const admin = (...args: string[]): Promise<string> => run('tgtadm', ['-C', control, '--lld', 'iscsi', ...args]);
  await admin('--op', 'new', '--mode', 'target', '--tid', '1', '-T', iqn);
  await admin('--op', 'new', '--mode', 'logicalunit', '--tid', '1', '--lun', '1', '-b', image, '--bsoflags', 'direct');
  await admin('--op', 'bind', '--mode', 'target', '--tid', '1', '-I', 'ALL');
  const nbd = await startNbd(options.folder, 'tgt', `iscsi://127.0.0.1:${port}/${iqn}/1`);
  return {
    name: 'tgt',
    destination: { kind: 'nbd', socket: nbd.socket },
    pids: () => Promise.resolve(child.pid === undefined ? [] : [child.pid]),
    stop: async () => {
      await nbd.stop();
      await endProcess(child);
    },
  };
}

/** Three nodes and three replicas on this machine. */
export async function startHoldfast(options: SubjectOptions): Promise<Subject> {
  const cluster = await Cluster.start({ folder: options.folder });
  await cluster.createVolume('bench', String(options.sizeBytes), '--replicas', '3');
  const { iscsi } = await cluster.attach('bench', '--node', 'node1');
  const nbd = await startNbd(options.folder, 'holdfast', iscsi.url);
  return {
    name: 'holdfast',
    destination: { kind: 'nbd', socket: nbd.socket },
    pids: async () => (await cluster.processes()).map((row) => row.pid),
    stop: async () => {
      await nbd.stop();
      await cluster.stop();
    },
  };
}
