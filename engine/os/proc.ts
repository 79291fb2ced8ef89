// Processes as /proc knows them. A pid alone does not name a process: pids are reused; pid and start time do.
import { readFileSync } from 'node:fs';
import { sleep } from '../async/wait.js';
import { systemErrorCode } from '../errors/holdfast-error.js';

export type ProcessIdentity = {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat: clock ticks since boot, as a decimal string. */
  readonly startTime: string;
};

/** The start time of a live process; null when there is none of this pid, or only its zombie. */
export function startTimeOf(pid: number): string | null {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch {
    return null;
  }
  // The second field is the name in parentheses and may hold anything, so count from its end: state is field 3.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const state = fields[0];
  if (state === 'Z' || state === 'X') return null;
  return fields[19] ?? null;
}

export function isAlive(process: ProcessIdentity): boolean {
  return startTimeOf(process.pid) === process.startTime;
}

export function selfIdentity(): ProcessIdentity {
  return { pid: process.pid, startTime: startTimeOf(process.pid) ?? '' };
}

/** False when the process was gone already. */
export function signalProcess(target: ProcessIdentity, signal: NodeJS.Signals): boolean {
  if (!isAlive(target)) return false;
  try {
    process.kill(target.pid, signal);
    return true;
  } catch (error) {
    if (systemErrorCode(error) === 'ESRCH') return false;
    throw error;
  }
}

export async function waitForExit(target: ProcessIdentity, timeoutMs: number): Promise<boolean> {
  const deadline = performance.now() + timeoutMs;
  while (isAlive(target)) {
    if (performance.now() >= deadline) return false;
    await sleep(20);
  }
  return true;
}

/** SIGTERM, then SIGKILL when it is still there after `graceMs`. */
export async function stopProcess(target: ProcessIdentity, graceMs: number): Promise<void> {
  if (!signalProcess(target, 'SIGTERM')) return;
  if (await waitForExit(target, graceMs)) return;
  signalProcess(target, 'SIGKILL');
  await waitForExit(target, 5_000);
}
