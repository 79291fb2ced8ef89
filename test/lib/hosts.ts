/** Hosts of their own: network namespaces on one bridge, with real processes of a cluster in each. Takes root. */
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { cliCommand } from './cluster.js';
import { attempt, run, until, type Outcome } from './process.js';

const prefix = 'hft';

export class HostNet {
  readonly #names: string[] = [];

  static address(number: number): string {
    return `10.199.77.${number}`;
  }

  static space(number: number): string {
    return `${prefix}${number}`;
  }

  async addBridge(): Promise<void> {
    await this.#add(`${prefix}br`);
    const inside = ['netns', 'exec', `${prefix}br`, 'ip', 'link'];
    await run('ip', [...inside, 'add', 'br0', 'type', 'bridge']);
    await run('ip', [...inside, 'set', 'br0', 'up']);
  }

  async addHost(number: number): Promise<void> {
    const space = HostNet.space(number);
    await this.#add(space);
    await run('ip', [
      'link',
      'add',
      'eth0',
      'netns',
      space,
      'type',
      'veth',
      'peer',
      `p${number}`,
      'netns',
      `${prefix}br`,
    ]);
    await run('ip', ['netns', 'exec', `${prefix}br`, 'ip', 'link', 'set', `p${number}`, 'master', 'br0', 'up']);
    await run('ip', ['netns', 'exec', space, 'ip', 'addr', 'add', `${HostNet.address(number)}/24`, 'dev', 'eth0']);
    await run('ip', ['netns', 'exec', space, 'ip', 'link', 'set', 'eth0', 'up']);
    await run('ip', ['netns', 'exec', space, 'ip', 'link', 'set', 'lo', 'up']);
  }

  async pids(number: number): Promise<readonly number[]> {
    const text = await run('ip', ['netns', 'pids', HostNet.space(number)]);
    return text.split('\n').flatMap((line) => (line === '' ? [] : [Number(line)]));
  }

  /** As when the power goes: everything on that host, at once. */
  async killHost(number: number): Promise<void> {
    for (let rounds = 0; rounds < 20; rounds++) {
      const pids = await this.pids(number);
      if (pids.length === 0) return;
      for (const pid of pids) {
        try {
          process.kill(pid, 'SIGKILL');
        } catch {
          // It has just ended.
        }
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  async remove(): Promise<void> {
    for (const name of this.#names) {
      const number = Number(name.slice(prefix.length));
      if (Number.isInteger(number)) await this.killHost(number);
      await attempt('ip', ['netns', 'del', name]);
    }
  }

  async #add(name: string): Promise<void> {
    // What a run that was cut short has left.
    await attempt('ip', ['netns', 'del', name]);
    await run('ip', ['netns', 'add', name]);
    this.#names.push(name);
  }
}

export const inHost = (number: number, ...command: readonly string[]): readonly string[] => [
  'netns',
  'exec',
  HostNet.space(number),
  ...command,
];

/** Starts a program on a host; its output goes to DIR/NAME.log. */
export function startOn(number: number, folder: string, name: string, command: readonly string[]): ChildProcess {
  mkdirSync(folder, { recursive: true });
  const log = openSync(join(folder, `${name}.log`), 'a');
  const child = spawn('ip', inHost(number, ...command), { stdio: ['ignore', log, log] });
  closeSync(log);
  return child;
}

/** `holdfast server` or `holdfast agent` on a host, until its node is online. */
export async function startHost(
  number: number,
  folder: string,
  role: 'server' | 'agent',
  args: readonly string[],
): Promise<ChildProcess> {
  const name = `${role}-${Date.now()}`;
  const child = startOn(number, folder, name, [
    ...cliCommand,
    role,
    '--data',
    join(folder, 'host'),
    '--node',
    `node${number}`,
    '--address',
    HostNet.address(number),
    '--journal-size',
    '16Mi',
    '--cache-size',
    '16Mi',
    '--json',
    ...args,
  ]);
  const log = join(folder, `${name}.log`);
  await until(`${role} on host ${number}`, 30_000, () => {
    if (child.exitCode !== null) throw new Error(`it ended: ${readFileSync(log, 'utf8')}`);
    return readFileSync(log, 'utf8').includes('"ready":true');
  });
  return child;
}

/** The CLI, as an admin on a host. */
export async function cliOn(
  number: number,
  server: string,
  token: string,
  args: readonly string[],
  timeoutMilliseconds = 60_000,
): Promise<Outcome> {
  const env = { ...process.env, HOLDFAST_SERVER: server, HOLDFAST_TOKEN: token };
  return await attempt('ip', inHost(number, ...cliCommand, ...args, '--json'), { env, timeoutMilliseconds });
}
