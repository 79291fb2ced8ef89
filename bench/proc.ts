/** CPU time and memory of processes, from /proc. */
import { readFileSync } from 'node:fs';

const ticksPerSecond = 100; // USER_HZ of Linux on every architecture that Node runs on

/** User and system CPU seconds of a process so far, its threads included; 0 for one that has ended. */
export function cpuSeconds(pid: number): number {
  try {
    const stat = readFileSync(`/proc/${String(pid)}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
  } catch {
    return 0;
  }
}

/** Resident memory in MiB. */
export function residentMebibytes(pid: number): number {
  try {
    const match = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${String(pid)}/status`, 'utf8'));
    return match ? Number(match[1]) / 1024 : 0;
  } catch {
    return 0;
  }
}
