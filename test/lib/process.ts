/** Starting and ending programs in tests and benchmarks. Only processes started here are ever ended, by pid. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { createConnection, createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

export interface Outcome {
  /** Exit code, or null when a signal ended it. */
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly input?: string;
  readonly env?: NodeJS.ProcessEnv;
  /** Ends the program with SIGKILL after that long. */
  readonly timeoutMilliseconds?: number;
}

/** Runs a program to its end, whatever its exit code. */
export async function attempt(program: string, args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'], env: options.env ?? process.env });
    let stdout = '';
    let stderr = '';
    child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
    child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
    child.stdin.on('error', () => undefined); // a program may end without reading its input
    child.stdin.end(options.input ?? '');
    const timer =
      options.timeoutMilliseconds === undefined
        ? undefined
        : setTimeout(() => child.kill('SIGKILL'), options.timeoutMilliseconds);
    child.on('error', (error) => {
      clearTimeout(timer);
      reject(error);
    });
    child.on('close', (code) => {
      clearTimeout(timer);
      resolve({ code, stdout, stderr });
    });
  });
}

/** Runs a program that must succeed and returns what it printed. */
export async function run(program: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  const { code, stdout, stderr } = await attempt(program, args, options);
  if (code === 0) return stdout;
  throw new Error(`${program} ${args.join(' ')} ended with ${String(code)}:\n${stderr.trim()}\n${stdout.trim()}`);
}

/** SIGTERM, and SIGKILL when that did not end it within `graceMilliseconds`. */
export async function endProcess(child: ChildProcess, graceMilliseconds = 20_000): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const closed = once(child, 'exit');
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), graceMilliseconds);
  await closed;
  clearTimeout(timer);
}

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

// Whoever asked for them may not listen there yet.
const given = new Set<number>();
const [firstPort, portsOfAWorker, ranges] = [20_000, 1_000, 12]; // below what the kernel gives to clients

/**
 * A TCP port of 127.0.0.1 that nobody listens on, with `following - 1` free ones behind it; none is given twice. The two workers of a run take theirs
 * from ranges of their own: the other does not take one between this answer and its use. Runs at the same time mostly differ too.
 */
export async function freePort(following = 1): Promise<number> {
  const { VITEST_POOL_ID: worker = '0' } = process.env;
  const range = firstPort + ((2 * process.ppid + Number(worker)) % ranges) * portsOfAWorker;
  for (let tries = 0; tries < 200; tries++) {
    const first = range + Math.floor(Math.random() * (portsOfAWorker - following));
    const ports = Array.from({ length: following }, (_, i) => first + i);
    if (ports.some((port) => given.has(port))) continue;
    const free = await Promise.all(ports.map(canListen));
    // Somebody else may have been given one of them meanwhile.
    if (!free.every(Boolean) || ports.some((port) => given.has(port))) continue;
    for (const port of ports) given.add(port);
    return first;
  }
  throw new Error('no free TCP ports on 127.0.0.1');
}

async function canListen(port: number): Promise<boolean> {
  const server = createServer();
  return await new Promise((resolve) => {
    server.once('error', () => {
      resolve(false);
    });
    server.listen(port, '127.0.0.1', () => {
      server.close(() => {
        resolve(true);
      });
    });
  });
}

/** Polls until `probe` gives something, or throws what `what` names (or says by then) after the deadline. */
export async function until<T>(
  what: string | (() => string),
  milliseconds: number,
  probe: () => Promise<T | undefined | false> | T | undefined | false,
): Promise<T> {
  const deadline = Date.now() + milliseconds;
  for (;;) {
    const value = await probe();
    if (value !== undefined && value !== false) return value;
    if (Date.now() > deadline)
      throw new Error(`${typeof what === 'string' ? what : what()}: not within ${milliseconds} ms`);
    await sleep(50);
  }
}

/** Sends SIGSTOP. Returns once all its threads have stopped: on a busy machine some run on for tens of milliseconds. */
export async function freeze(pid: number): Promise<void> {
  process.kill(pid, 'SIGSTOP');
  const task = `/proc/${pid}/task`;
  await until(`process ${pid} to stop`, 10_000, () =>
    readdirSync(task).every((thread) => /^State:\tT/m.test(readFileSync(join(task, thread, 'status'), 'utf8'))),
  );
}

export async function portAnswers(port: number, host = '127.0.0.1'): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection({ host, port });
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => {
      resolve(false);
    });
  });
}
