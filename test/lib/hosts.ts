/**
 * Hosts of their own: network namespaces on one bridge, with real processes of a cluster in each. Takes root. What goes over
 * the bridge can be dropped, one way or both; a host on a wire of its own can be made slow and lossy.
 */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { cliCommand } from './cluster.js';
import { attempt, endProcess, isAlive, run, until, type Outcome } from './process.js';

// Of this process, so that several may run side by side.
const prefix = `hft${process.pid}-`;

/** What this machine lacks for hosts of their own, besides the given programs; empty: nothing. */
export function missingForHosts(programs: readonly string[]): readonly string[] {
  return [
    ...(process.getuid?.() === 0 ? [] : ['root']),
    ...programs.filter((path) => !existsSync(path)),
    ...(canMakeNamespaces() ? [] : ['network namespaces']),
  ];
}

function canMakeNamespaces(): boolean {
  try {
    execFileSync('ip', ['netns', 'add', `${prefix}probe`], { stdio: 'ignore' });
    execFileSync('ip', ['netns', 'del', `${prefix}probe`], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

// FUSE connections of file systems that are mounted where these processes are and not here.
function connectionsOf(pids: readonly number[]): ReadonlySet<string> {
  const theirs = pids.flatMap((pid) => [...connectionsIn(pid)]);
  const here = connectionsIn('self'); // read last: what is mounted here meanwhile shows there too
  return new Set(theirs.filter((connection) => !here.has(connection)));
}

function connectionsIn(process: number | 'self'): ReadonlySet<string> {
  try {
    const mounts = readFileSync(`/proc/${process}/mountinfo`, 'utf8');
    return new Set([...mounts.matchAll(/^\d+ \d+ 0:(\d+) .* - fuse/gm)].map(([, connection = '']) => connection));
  } catch {
    return new Set(); // it has just ended
  }
}

const controls = '/sys/fs/fuse/connections';

function abort(connection: string): void {
  try {
    if (readdirSync(controls).length === 0) execFileSync('mount', ['-t', 'fusectl', 'none', controls]);
    writeFileSync(join(controls, connection, 'abort'), '1');
  } catch {
    // It has ended by itself.
  }
}

/** A host, or "everybody". */
type Party = number | 'all';

export class HostNet {
  readonly #names: string[] = [];
  readonly #wires = new Map<number, ChildProcess>();

  static address(number: number): string {
    return `10.199.77.${number}`;
  }

  static space(number: number): string {
    return `${prefix}${number}`;
  }

  async addBridge(): Promise<void> {
    await removeLeftovers();
    await this.#add(`${prefix}br`);
    const inside = ['netns', 'exec', `${prefix}br`, 'ip', 'link'];
    await run('ip', [...inside, 'add', 'br0', 'type', 'bridge']);
    await run('ip', [...inside, 'set', 'br0', 'up']);
  }

  /** With `wire` (the program of test/lib/wire.c) its cable can be made bad with setWire(). */
  async addHost(number: number, wire?: string): Promise<void> {
    const space = HostNet.space(number);
    const inBridge = ['netns', 'exec', `${prefix}br`, 'ip', 'link'];
    const port = `p${number}`;
    await this.#add(space);
    if (wire === undefined) {
      const ends = ['eth0', 'netns', space, 'type', 'veth', 'peer', port, 'netns', `${prefix}br`];
      await run('ip', ['link', 'add', ...ends]);
    } else {
      await this.#startWire(number, wire, port);
    }
    await run('ip', [...inBridge, 'set', port, 'master', 'br0', 'up']);
    await run('ip', ['netns', 'exec', space, 'ip', 'addr', 'add', `${HostNet.address(number)}/24`, 'dev', 'eth0']);
    await run('ip', ['netns', 'exec', space, 'ip', 'link', 'set', 'eth0', 'up']);
    await run('ip', ['netns', 'exec', space, 'ip', 'link', 'set', 'lo', 'up']);
  }

  /** Each way; nothing is reordered. */
  setWire(number: number, { delayMs, lossPercent }: { readonly delayMs: number; readonly lossPercent: number }): void {
    this.#wires.get(number)?.stdin?.write(`${delayMs} ${lossPercent * 10}\n`);
  }

  /** From now on nothing of what `from` sends reaches `to`; nobody is told. */
  async dropOneWay(from: Party, to: Party): Promise<void> {
    const nft = ['netns', 'exec', `${prefix}br`, 'nft'];
    await run('ip', [
      ...nft,
      'add table bridge faults; add chain bridge faults f { type filter hook forward priority 0; }',
    ]);
    const match = `${from === 'all' ? '' : `iifname p${from} `}${to === 'all' ? '' : `oifname p${to} `}`;
    await run('ip', [...nft, `add rule bridge faults f ${match}drop`]);
  }

  async drop(one: Party, other: Party): Promise<void> {
    await this.dropOneWay(one, other);
    await this.dropOneWay(other, one);
  }

  /** No more drops; wires as they were made. */
  async heal(): Promise<void> {
    await attempt('ip', ['netns', 'exec', `${prefix}br`, 'nft', 'delete table bridge faults']);
    for (const number of this.#wires.keys()) this.setWire(number, { delayMs: 0, lossPercent: 0 });
  }

  async pids(number: number): Promise<readonly number[]> {
    const text = await run('ip', ['netns', 'pids', HostNet.space(number)]);
    return text.split('\n').flatMap((line) => (line === '' ? [] : [Number(line)]));
  }

  /** As when the power goes: everything on that host, at once. */
  async killHost(number: number): Promise<void> {
    const mounted = connectionsOf(await this.pids(number));
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
      // A host without power has no kernel either: here it would wait for ever for the file system whose server has just ended.
      for (const connection of mounted) abort(connection);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  async remove(): Promise<void> {
    for (const name of this.#names) {
      const number = Number(name.slice(prefix.length));
      if (Number.isInteger(number)) await this.killHost(number);
      await attempt('ip', ['netns', 'del', name]);
    }
    for (const wire of this.#wires.values()) await endProcess(wire);
  }

  async #startWire(number: number, program: string, port: string): Promise<void> {
    const ends = [`/run/netns/${prefix}br`, port, `/run/netns/${HostNet.space(number)}`, 'eth0'];
    const child = spawn(program, ends, { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#wires.set(number, child);
    await new Promise<void>((resolve, reject) => {
      child.stdout.once('data', () => {
        resolve();
      });
      child.once('exit', (code) => {
        reject(new Error(`the wire of host ${number} ended with ${String(code)}`));
      });
    });
  }

  async #add(name: string): Promise<void> {
    await run('ip', ['netns', 'add', name]);
    this.#names.push(name);
  }
}

// What runs that were cut short have left.
async function removeLeftovers(): Promise<void> {
  const text = await run('ip', ['netns', 'list']);
  for (const line of text.split('\n')) {
    const [name = '', pid = ''] = /^hft(\d+)-\w+/.exec(line) ?? [];
    if (name !== '' && !isAlive(Number(pid))) await attempt('ip', ['netns', 'del', name]);
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
