// Real etcd members on loopback, for tests.
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sleep } from '../../async/wait.js';
import { findFreePorts } from '../../os/addresses.js';
import { etcdCommand, listens } from '../private-etcd.js';
import type { PrivateEtcd } from '../private-etcd.js';

/** Whether etcd is installed: the tests that need it are skipped otherwise. */
export const hasEtcd = existsSync('/usr/bin/etcd') || existsSync('/usr/local/bin/etcd');

type Running = { readonly client: string; child: ChildProcess | null; readonly command: readonly string[] };

export class EtcdCluster {
  readonly #folder = mkdtempSync(join(tmpdir(), 'holdfast-etcd-'));
  #members: readonly Running[] = [];

  #scheme = 'http';

  get urls(): readonly string[] {
    return this.#members.map(({ client }) => `${this.#scheme}://${client}`);
  }

  async start(count: number, tls: PrivateEtcd['tls'] = null): Promise<void> {
    this.#scheme = tls === null ? 'http' : 'https';
    const first = await findFreePorts('127.0.0.1', 2 * count, this.#folder);
    const address = (port: number) => `127.0.0.1:${port}`;
    const indexes = Array.from({ length: count }, (_, index) => index);
    const members = indexes.map((index) => `m${index}=http://${address(first + 2 * index + 1)}`);
    this.#members = indexes.map((index) => {
      const client = address(first + 2 * index);
      const etcd = {
        name: `m${index}`,
        directory: join(this.#folder, `m${index}`),
        client,
        peer: address(first + 2 * index + 1),
        members,
        fast: true,
        tls,
      };
      return { client, child: null, command: etcdCommand(etcd, process.env) };
    });
    for (const index of indexes) this.startMember(index);
    await Promise.all(this.#members.map(({ client }) => untilListening(client)));
  }

  startMember(index: number): void {
    const member = this.#member(index);
    const [program = '', ...args] = member.command;
    member.child = spawn(program, args, { stdio: 'ignore' });
  }

  async killMember(index: number): Promise<void> {
    const { child } = this.#member(index);
    if (child?.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await gone;
  }

  async stop(): Promise<void> {
    await Promise.all(this.#members.map((_, index) => this.killMember(index)));
    rmSync(this.#folder, { recursive: true, force: true });
  }

  #member(index: number): Running {
    const member = this.#members[index];
    if (member === undefined) throw new Error(`there is no member ${index}`);
    return member;
  }
}

async function untilListening(address: string): Promise<void> {
  while (!(await listens(address))) await sleep(20);
}
