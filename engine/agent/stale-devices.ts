// Devices of a volume that were left on this machine by another node of it, or by an earlier life of this one. Who serves the volume
// now has a newer epoch, so what still waits on them can only fail; until it does, it holds on to files, sockets and ports.
import { readFileSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { listMounts } from '../os/mounts.js';
import type { MountEntry } from '../os/mounts.js';
import { signalProcess } from '../os/proc.js';

/** Ends all devices of the volume but `device`: whoever uses them gets errors. */
export function endStaleDevices(volumeId: string, device: string): readonly string[] {
  const present = backingFileOf(device);
  const stale = listMounts().filter(
    ({ type, directory }) =>
      type === 'fuse.holdfast' && directory.endsWith(`/${volumeId}/device`) && directory !== present,
  );
  for (const mount of stale) endConnection(mount);
  return stale.map(({ directory }) => directory);
}

function backingFileOf(device: string): string | null {
  try {
    return readFileSync(`/sys/block/${basename(device)}/loop/backing_file`, 'utf8').trim();
  } catch {
    return null;
  }
}

// Through the kernel's control files where they are mounted, else by ending the process that keeps the connection.
function endConnection({ directory, device }: MountEntry): void {
  const [, minor = ''] = device.split(':');
  try {
    writeFileSync(`/sys/fs/fuse/connections/${minor}/abort`, '1');
    return;
  } catch {
    // They are not mounted here.
  }
  try {
    const [pid = '', startTime = ''] = readFileSync(join(dirname(directory), 'keeper'), 'utf8')
      .trim()
      .split(' ');
    signalProcess({ pid: Number(pid), startTime }, 'SIGKILL');
  } catch {
    // The keeper is gone already.
  }
}
