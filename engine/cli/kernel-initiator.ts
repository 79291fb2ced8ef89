// The iSCSI initiator of this host's kernel, through open-iscsi (iscsiadm). Source: iscsiadm(8), and the class
// iscsi_session of sysfs.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { sleep } from '../async/wait.js';
import { HoldfastError, isHoldfastError } from '../errors/holdfast-error.js';
import { runChecked, runCommand } from '../os/command.js';

const sessionsDir = '/sys/class/iscsi_session';
const deviceWaitMs = 15_000;
// iscsiadm: no such record, no such session.
const notFoundCodes: ReadonlySet<number> = new Set([2, 21]);

/** Whether open-iscsi is installed and the kernel has its module. */
export async function hasKernelInitiator(): Promise<boolean> {
  try {
    await runCommand('iscsiadm', ['--version']);
    if (existsSync('/sys/module/iscsi_tcp')) return true;
    return (await runCommand('modprobe', ['-q', 'iscsi_tcp'])).code === 0;
  } catch (error) {
    if (isHoldfastError(error, 'UNSUPPORTED_SYSTEM')) return false;
    throw error;
  }
}

/** Arguments of iscsiadm, one command after the other. */
export function loginCommands(iqn: string, portal: string): readonly (readonly string[])[] {
  const record = ['-m', 'node', '-T', iqn, '-p', portal];
  return [
    [...record, '-o', 'new'],
    // A restart of this host does not bring it back by itself: then nobody has mapped it.
    [...record, '-o', 'update', '-n', 'node.startup', '-v', 'manual'],
    [...record, '--login'],
  ];
}

export function logoutCommands(iqn: string): readonly (readonly string[])[] {
  return [
    ['-m', 'node', '-T', iqn, '--logout'],
    ['-m', 'node', '-T', iqn, '-o', 'delete'],
  ];
}

/** Logs in, when there is no session yet, and waits for the disk: /dev/sdX. */
export async function login(iqn: string, portal: string): Promise<string> {
  const present = diskOf(iqn);
  if (present !== null) return present;
  for (const args of loginCommands(iqn, portal)) await runChecked('iscsiadm', args);
  const deadline = performance.now() + deviceWaitMs;
  for (;;) {
    const disk = diskOf(iqn);
    if (disk !== null) return disk;
    if (performance.now() > deadline) {
      throw new HoldfastError('TIMED_OUT', `logged in to ${iqn} at ${portal}, but the kernel shows no disk for it`);
    }
    await sleep(50);
  }
}

export async function logout(iqn: string): Promise<void> {
  for (const args of logoutCommands(iqn)) {
    const { code, stderr } = await runCommand('iscsiadm', args);
    if (code !== 0 && !notFoundCodes.has(code)) {
      throw new HoldfastError('INTERNAL', `iscsiadm ${args.join(' ')} failed (exit code ${code}): ${stderr.trim()}`);
    }
  }
}

/** LUN 0 of a target with a session: /dev/sdX. */
export function diskOf(iqn: string): string | null {
  for (const session of list(sessionsDir)) {
    const folder = join(sessionsDir, session);
    if (read(join(folder, 'targetname')) !== iqn) continue;
    const device = join(folder, 'device');
    for (const target of list(device).filter((name) => name.startsWith('target'))) {
      for (const unit of list(join(device, target)).filter((name) => /^\d+:\d+:\d+:0$/.test(name))) {
        const [disk] = list(join(device, target, unit, 'block'));
        if (disk !== undefined) return `/dev/${disk}`;
      }
    }
  }
  return null;
}

function list(folder: string): readonly string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

function read(path: string): string | null {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return null;
  }
}
