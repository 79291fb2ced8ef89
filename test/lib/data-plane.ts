/** Replica and target processes without agent and manager: as the agent starts them, told what to do over gRPC. */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, openSync, closeSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Server, ServerCredentials } from '@grpc/grpc-js';
import type { ServiceError, StatusObject } from '@grpc/grpc-js';
import { MembershipService } from '../../engine/generated/holdfast/v1/target.js';
import type { ChangeInSyncSetRequest, SaveReservationsRequest } from '../../engine/generated/holdfast/v1/target.js';
import { dataPlaneNodeFlags } from '../../engine/process/node-flags.js';
import { root } from './cluster.js';
import { until } from './process.js';

export type DataPlaneProcess<State> = {
  readonly child: ChildProcess;
  readonly runDir: string;
  readonly state: State;
  /** Everything it logged so far, one record per line. */
  readonly log: () => Record<string, unknown>[];
  /** Sends the signal and waits for the end. Returns the exit code, null when the signal ended it. */
  readonly end: (signal: NodeJS.Signals) => Promise<number | null>;
};

export type ReplicaState = { readonly pid: number; readonly listen: readonly string[]; readonly diskId: string };
export type TargetState = {
  readonly pid: number;
  readonly control: string;
  readonly portal: string;
  readonly instanceId: string;
};

/** Waits until it serves; throws with its log when it ends instead. */
export async function startProcess<State>(
  role: 'replica' | 'target',
  runDir: string,
  config: object,
): Promise<DataPlaneProcess<State>> {
  const { child, log } = launch(role, runDir, config);
  const stateFile = join(runDir, 'state.json');
  await until(`${role} process in ${runDir}`, 20_000, () => {
    if (child.exitCode !== null) throw new Error(`it ended: ${JSON.stringify(log())}`);
    return existsSync(stateFile) && readState(stateFile).pid === child.pid;
  });
  return {
    child,
    runDir,
    state: readState(stateFile) as State,
    log,
    end: async (signal) => {
      if (child.exitCode !== null || child.signalCode !== null) return child.exitCode;
      const ended = once(child, 'exit');
      child.kill(signal);
      await ended;
      return child.exitCode;
    },
  };
}

function readState(file: string): { readonly pid: number } {
  return JSON.parse(readFileSync(file, 'utf8')) as { pid: number };
}

const launched = new Set<ChildProcess>();

/** For afterAll: nothing that a failed test left behind goes on running. */
export function killLaunched(): void {
  for (const child of launched) child.kill('SIGKILL');
  launched.clear();
}

/** Starts the process and does not wait. `config` null: there is no config.json. */
export function launch(role: 'replica' | 'target', runDir: string, config: object | null) {
  mkdirSync(runDir, { recursive: true });
  if (config !== null) writeFileSync(join(runDir, 'config.json'), JSON.stringify(config));
  const logFile = join(runDir, 'log');
  const output = openSync(logFile, 'a');
  const child = spawn(
    process.execPath,
    [...dataPlaneNodeFlags, join(root, 'dist', role, 'main.js'), '--run-dir', runDir],
    { stdio: ['ignore', output, output] },
  );
  launched.add(child);
  closeSync(output);
  const log = () =>
    readFileSync(logFile, 'utf8')
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  return { child, log };
}

export function replicaConfig(directory: string, changes: object = {}): object {
  return {
    role: 'replica',
    node: 'node1',
    disk: 'disk1',
    directory,
    journalPath: null,
    listen: ['127.0.0.1:0'],
    expectedDiskId: null,
    journalBytes: 64 << 20,
    cacheBytes: 32 << 20,
    capacityBytes: 0,
    ...changes,
  };
}

/** A manager that knows nothing but membership: it says yes, or what `refuse` says, and keeps what was asked. */
export class FakeManager {
  readonly changes: ChangeInSyncSetRequest[] = [];
  readonly reservations: SaveReservationsRequest[] = [];
  refuse: (request: ChangeInSyncSetRequest) => Partial<StatusObject> | null = () => null;
  readonly #server = new Server();
  address = '';

  static async start(address = '127.0.0.1:0'): Promise<FakeManager> {
    const manager = new FakeManager();
    manager.#server.addService(MembershipService, {
      changeInSyncSet: (
        call: { request: ChangeInSyncSetRequest },
        done: (error: Partial<ServiceError> | null, response?: object) => void,
      ) => {
        manager.changes.push(call.request);
        const refusal = manager.refuse(call.request);
        if (refusal === null) done(null, {});
        else done(refusal);
      },
      saveReservations: (call: { request: SaveReservationsRequest }, done: (error: null, response: object) => void) => {
        manager.reservations.push(call.request);
        done(null, {});
      },
    });
    const port = await new Promise<number>((resolve, reject) => {
      manager.#server.bindAsync(address, ServerCredentials.createInsecure(), (error, bound) => {
        if (error === null) resolve(bound);
        else reject(error);
      });
    });
    manager.address = `127.0.0.1:${port}`;
    return manager;
  }

  stop(): void {
    this.#server.forceShutdown();
  }
}

// CRC32C (Castagnoli), reflected, as RFC 3720 appendix B.4 defines it.
const table = Uint32Array.from({ length: 256 }, (_, index) => {
  let value = index;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0x82f63b78 : value >>> 1;
  return value;
});

export function crc32c(bytes: Uint8Array): number {
  let value = 0xffffffff;
  for (const byte of bytes) value = (table[(value ^ byte) & 0xff] ?? 0) ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}
