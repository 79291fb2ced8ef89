/** A real Holdfast cluster on loopback, driven by its public CLI only. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdirSync, openSync, readFileSync, readdirSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

import { z } from 'zod';

import { attempt, endProcess, freePort, run, type Outcome } from './process.js';

function findRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  for (;;) {
    try {
      readFileSync(join(folder, 'package.json'));
      return folder;
    } catch {
      folder = resolve(folder, '..');
    }
  }
}
/** The checkout, wherever this file was compiled to. */
export const root = findRoot();
export const cliCommand: readonly string[] = [process.execPath, join(root, 'dist/cli/main.js')];

const attachment = z.object({
  volume: z.string(),
  epoch: z.union([z.number(), z.string()]),
  node: z.string(),
  iscsi: z.object({ portal: z.string(), iqn: z.string(), lun: z.number(), url: z.string() }),
});
export type Attachment = z.infer<typeof attachment>;

const replicas = z.array(
  z.object({ id: z.string(), node: z.string(), disk: z.string(), state: z.string(), address: z.string() }),
);
export type ReplicaRow = z.infer<typeof replicas>[number];

const processes = z.array(
  z.object({ node: z.string().nullish(), role: z.string(), pid: z.number(), disk: z.string().nullish() }),
);
export type ProcessRow = z.infer<typeof processes>[number];

const ready = z.object({ ready: z.literal(true), server: z.string() });

/** Command lines with that path in them. */
function processesAbout(path: string): string[] {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return pids.flatMap((pid) => {
    try {
      const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
      return words.some((word) => word.startsWith(`${path}/`)) ? [`${pid} ${words.join(' ')}`] : [];
    } catch {
      return []; // it has ended
    }
  });
}

export interface ClusterOptions {
  readonly folder: string;
  readonly upArgs?: readonly string[];
  /** A command that becomes the one it is given: unshare, say. */
  readonly within?: readonly string[];
}

export class Cluster {
  readonly folder: string;
  #up: ChildProcess;
  readonly server: string;

  private constructor(folder: string, up: ChildProcess, server: string) {
    this.folder = folder;
    this.#up = up;
    this.server = server;
  }

  /** Starts `holdfast up` on DIR/cluster (again) and waits until it is ready. */
  static async start(options: ClusterOptions): Promise<Cluster> {
    mkdirSync(options.folder, { recursive: true });
    const [api, iscsi] = [await freePort(2), await freePort(5)];
    const log = openSync(join(options.folder, 'up.log'), 'a');
    const [program = '', ...prefix] = [...(options.within ?? []), ...cliCommand];
    const child = spawn(
      program,
      [
        ...prefix,
        'up',
        '--json',
        ...['--data', join(options.folder, 'cluster')],
        ...['--api', `127.0.0.1:${api}`],
        ...['--iscsi', `127.0.0.1:${iscsi}`],
        ...(options.upArgs ?? []),
      ],
      { stdio: ['ignore', 'pipe', log] },
    );
    closeSync(log);
    const { stdout } = child;
    if (!stdout) throw new Error('holdfast up has no standard output');
    const server = await new Promise<string>((resolveServer, reject) => {
      const ended = () => {
        reject(new Error(`holdfast up ended:\n${readFileSync(join(options.folder, 'up.log'), 'utf8')}`));
      };
      child.once('close', ended);
      let text = '';
      stdout.on('data', (chunk: Buffer) => {
        text += chunk.toString();
        const newline = text.indexOf('\n');
        if (newline < 0) return;
        child.off('close', ended); // its folder may be gone by then
        resolveServer(ready.parse(JSON.parse(text.slice(0, newline))).server);
      });
    });
    return new Cluster(options.folder, child, server);
  }

  get upPid(): number {
    return this.#up.pid ?? 0;
  }

  /** Ctrl-C, as a person would: everything stops. */
  async stop(): Promise<void> {
    // Killed before: what goes on may belong to the next one.
    if (this.#up.exitCode !== null || this.#up.signalCode !== null) return;
    await endProcess(this.#up, 60_000);
    const left = processesAbout(join(this.folder, 'cluster'));
    if (left.length > 0) throw new Error(`processes of a cluster that was stopped go on:\n${left.join('\n')}`);
  }

  /** SIGKILL to `holdfast up` itself. */
  async killUp(): Promise<void> {
    const gone = once(this.#up, 'exit');
    this.#up.kill('SIGKILL');
    await gone;
  }

  /** A CLI call that may fail. */
  async try(...args: string[]): Promise<Outcome> {
    const [program = '', ...prefix] = cliCommand;
    return attempt(program, [...prefix, ...args, '--json', '--server', this.server], { timeoutMilliseconds: 120_000 });
  }

  /** A CLI call that must succeed; its JSON. */
  async cli(...args: string[]): Promise<unknown> {
    const [program = '', ...prefix] = cliCommand;
    const text = await run(program, [...prefix, ...args, '--json', '--server', this.server], {
      timeoutMilliseconds: 120_000,
    });
    return text.trim() === '' ? null : (JSON.parse(text) as unknown);
  }

  async createVolume(name: string, size: string, ...more: string[]): Promise<void> {
    await this.cli('volume', 'create', name, '--size', size, ...more);
  }

  async attach(name: string, ...more: string[]): Promise<Attachment> {
    return attachment.parse(await this.cli('volume', 'attach', name, ...more));
  }

  async replicas(volume: string): Promise<ReplicaRow[]> {
    return replicas.parse(await this.cli('replica', 'ls', volume));
  }

  async processes(): Promise<ProcessRow[]> {
    return processes.parse(await this.cli('process', 'ls'));
  }
}
