// Which mounts lie on volumes of Holdfast. A mount namespace that began as a copy of another one keeps what was mounted there, and with it
// the device in use, even after everybody else has unmounted it: whoever works in such a copy lets go of these first.
import { existsSync, readdirSync, readFileSync, realpathSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { MountEntry } from '../os/mounts.js';

/** Their directories, the last one mounted first; without those that hold one of the paths `needed`. */
export function mountsOfVolumes(
  mounts: readonly MountEntry[],
  needed: readonly string[],
  sysfs = '/sys',
): readonly string[] {
  const holds = (directory: string) =>
    needed.some((path) => path === directory || path.startsWith(directory.endsWith('/') ? directory : `${directory}/`));
  return mounts
    .filter(({ directory, device }) => !holds(directory) && isOnVolume(join(sysfs, 'dev/block', device)))
    .map(({ directory }) => directory)
    .reverse();
}

// `device`: the folder of a block device in sysfs.
function isOnVolume(device: string): boolean {
  let folder: string;
  try {
    folder = realpathSync(device);
  } catch {
    return false; // not on a block device
  }
  if (existsSync(join(folder, 'partition'))) return isOnVolume(dirname(folder));
  // The file of a mapped volume is named after the volume's id (native/fuse/mount.h).
  if (/\/[0-9a-f]{16}\/device$/.test(textOf(join(folder, 'loop/backing_file')))) return true;
  // INQUIRY of the iSCSI target.
  if (textOf(join(folder, 'device/vendor')) === 'HOLDFAST') return true;
  // What device-mapper makes of others.
  const below = join(folder, 'slaves');
  return existsSync(below) && readdirSync(below).some((name) => isOnVolume(join(below, name)));
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return '';
  }
}
