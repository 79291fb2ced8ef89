// What kind of device a folder or block device lies on, from sysfs: "nvme", "ssd" or "hdd"; null when that cannot be told (a network
// file system, a container without sysfs).
import { readFileSync, readlinkSync, realpathSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';

export type DiskClass = 'nvme' | 'ssd' | 'hdd';

export function diskClassOf(path: string, sysfs = '/sys'): DiskClass | null {
  const folder = driveFolder(path, sysfs);
  if (folder === null) return null;
  if (basename(folder).startsWith('nvme')) return 'nvme';
  return readText(join(folder, 'queue/rotational')) === '1' ? 'hdd' : 'ssd';
}

/** The drive below a folder or block device, as /dev names it: "sda", "nvme0n1". */
export function driveOf(path: string, sysfs = '/sys'): string | null {
  const folder = driveFolder(path, sysfs);
  return folder === null ? null : basename(folder);
}

// Of sysfs: a partition lies in the folder of its disk.
function driveFolder(path: string, sysfs: string): string | null {
  try {
    const { dev, rdev, mode } = statSync(path);
    const isBlockDevice = (mode & 0o170000) === 0o060000;
    const device = isBlockDevice ? rdev : dev;
    // Linux: 12 bits of major, 20 of minor, folded.
    const major = (device >> 8) & 0xfff;
    const minor = (device & 0xff) | ((device >> 12) & 0xfff00);
    const link = join(sysfs, 'dev/block', `${major}:${minor}`);
    const target = realpathSync(join(dirname(link), readlinkSync(link)));
    return [target, dirname(target)].find((folder) => readText(join(folder, 'queue/rotational')) !== null) ?? null;
  } catch {
    return null;
  }
}

function readText(path: string): string | null {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return null;
  }
}
