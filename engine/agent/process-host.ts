// Starting, finding again and ending processes that outlive whoever started them. A run directory holds:
//   config.json    what the process is to do, written before it starts
//   process.json   pid and start time, written right after it was started
//   state.json     written by the process once it serves; how to reach it
//   log, log.1     its stderr; the older one is kept when the log was large at a start
import { spawn } from 'node:child_process';
import type { StdioOptions } from 'node:child_process';
import { closeSync, openSync, readSync, renameSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { sleep } from '../async/wait.js';
import { HoldfastError, isErrorCode } from '../errors/holdfast-error.js';
import type { ErrorCode } from '../errors/error-codes.js';
import { readJson, removeFile, writeJsonAtomic } from '../os/atomic-file.js';
import { makeFolders } from '../os/folders.js';
import { isAlive, startTimeOf, stopProcess } from '../os/proc.js';
import type { ProcessIdentity } from '../os/proc.js';

const logBytesMax = 16 * 2 ** 20;
// How soon the end of a process that was not started by this one is noticed. Costs one read of /proc each time.
const adoptedPollMs = 250;
const startingPollMs = 20;

const identitySchema = z.looseObject({ pid: z.int().positive(), startTime: z.string() });

/** A process under supervision: just started, or found again. */
export type HostedProcess = {
  readonly identity: ProcessIdentity;
  /** Resolves when it has ended, to what is known of how. */
  readonly exited: Promise<string>;
};

export type StartFailure = { readonly code: ErrorCode; readonly message: string };

export type ProcessHost = {
  /** The live process of this run directory, if there is one. */
  readonly find: (runDir: string) => HostedProcess | null;
  readonly start: (runDir: string, command: readonly string[], config: unknown) => HostedProcess;
  /** config.json as the running process read it; undefined when there is none. */
  readonly configOf: (runDir: string) => unknown;
  /** state.json of exactly this process once it serves; null when it ended before. */
  readonly ready: (runDir: string, process: HostedProcess) => Promise<Readonly<Record<string, unknown>> | null>;
  /** Why the last start failed, from the end of the log. */
  readonly lastWords: (runDir: string, exit: string) => StartFailure;
  readonly stop: (process: HostedProcess) => Promise<void>;
};

const commonHost: Omit<ProcessHost, 'start'> = {
  find: (runDir) => {
    for (const file of ['process.json', 'state.json']) {
      const identity = readIdentity(join(runDir, file));
      if (identity !== null && isAlive(identity)) return { identity, exited: pollExit(identity) };
    }
    return null;
  },

  configOf: (runDir) => {
    try {
      return readJson(join(runDir, 'config.json'));
    } catch {
      return undefined;
    }
  },

  ready: async (runDir, process) => {
    const path = join(runDir, 'state.json');
    const ended = { yes: false };
    void process.exited.then(() => {
      ended.yes = true;
    });
    while (!ended.yes) {
      const state = readState(path);
      if (state?.['pid'] === process.identity.pid && state['startTime'] === process.identity.startTime) return state;
      await sleep(startingPollMs);
    }
    return null;
  },

  lastWords: (runDir, exit) => {
    const words = lastLogLine(join(runDir, 'log'));
    return words ?? { code: 'INTERNAL', message: `it ended (${exit}) before it served: see ${join(runDir, 'log')}` };
  },

  stop: async ({ identity }) => {
    // A data-plane process bounds its own clean stop to ten seconds.
    await stopProcess(identity, 12_000);
  },
};

/** `tied`: the process gets a channel to this one, and sees it close when this one is gone (runSupervised). */
export function createProcessHost({ tied }: { readonly tied: boolean }): ProcessHost {
  return {
    ...commonHost,
    start: (runDir, command, config) => startProcess(runDir, command, config, tied),
  };
}

/** For processes that outlive whoever started them. */
export const systemProcessHost: ProcessHost = createProcessHost({ tied: false });

function startProcess(runDir: string, command: readonly string[], config: unknown, tied: boolean): HostedProcess {
  makeFolders(runDir);
  removeFile(join(runDir, 'state.json'));
  writeJsonAtomic(join(runDir, 'config.json'), config);
  const log = openLog(runDir);
  try {
    return spawnDetached(runDir, command, log, tied);
  } finally {
    closeSync(log);
  }
}

/** Opens DIR/log for appending, with the former one set aside when it has grown large. */
function openLog(runDir: string): number {
  const path = join(runDir, 'log');
  try {
    if (statSync(path).size > logBytesMax) renameSync(path, `${path}.1`);
  } catch {
    // There is none yet.
  }
  return openSync(path, 'a', 0o600);
}

function spawnDetached(runDir: string, command: readonly string[], log: number, tied: boolean): HostedProcess {
  const [program = '', ...args] = command;
  // A session of its own: signals to the terminal's or the agent's group do not reach it.
  const stdio: StdioOptions = ['ignore', log, log, ...(tied ? (['ipc'] as const) : [])];
  const child = spawn(program, args, { cwd: runDir, detached: true, stdio });
  if (!tied) child.unref();
  const exited = new Promise<string>((resolve) => {
    child.once('exit', (code, signal) => {
      resolve(signal === null ? `exit code ${String(code)}` : `signal ${signal}`);
    });
    child.once('error', (error) => {
      resolve(error.message);
    });
  });
  if (child.pid === undefined) throw new HoldfastError('INTERNAL', `${program} could not be started`);
  const identity = { pid: child.pid, startTime: startTimeOf(child.pid) ?? '' };
  writeJsonAtomic(join(runDir, 'process.json'), identity);
  return { identity, exited };
}

async function pollExit(identity: ProcessIdentity): Promise<string> {
  while (isAlive(identity)) await new Promise((resolve) => setTimeout(resolve, adoptedPollMs).unref());
  return 'it is gone';
}

function readIdentity(path: string): ProcessIdentity | null {
  const parsed = identitySchema.safeParse(readState(path));
  return parsed.success ? { pid: parsed.data.pid, startTime: parsed.data.startTime } : null;
}

function readState(path: string): Readonly<Record<string, unknown>> | null {
  try {
    const parsed = z.record(z.string(), z.unknown()).safeParse(readJson(path));
    return parsed.success ? parsed.data : null;
  } catch {
    return null;
  }
}

const lastWordsSchema = z.object({ code: z.string(), message: z.string() });

function lastLogLine(path: string): StartFailure | null {
  const lines = readTail(path).split('\n').reverse();
  for (const line of lines) {
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch {
      continue;
    }
    const parsed = lastWordsSchema.safeParse(value);
    if (!parsed.success) return null;
    const { code, message } = parsed.data;
    return { code: isErrorCode(code) ? code : 'INTERNAL', message };
  }
  return null;
}

function readTail(path: string): string {
  let file: number;
  try {
    file = openSync(path, 'r');
  } catch {
    return '';
  }
  try {
    const { size } = statSync(path);
    const tail = Buffer.alloc(Math.min(size, 8_192));
    readSync(file, tail, 0, tail.length, size - tail.length);
    return tail.toString('utf8');
  } finally {
    closeSync(file);
  }
}
