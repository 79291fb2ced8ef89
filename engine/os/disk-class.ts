// What kind of device a folder or block device lies on, from sysfs: "nvme", "ssd" or "hdd"; null when that cannot be told (a network
// file system, a container without sysfs).
import { readFileSync, readlinkSync, realpathSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';

export type DiskClass = 'nvme' | 'ssd' | 'hdd';

export function diskClassOf(path: string, sysfs = '/sys'): DiskClass | null {
  try {
    const { dev, rdev, mode } = statSync(path);
    const isBlockDevice = (mode & 0o170000) === 0o060000;
    return classOfDevice(isBlockDevice ? rdev : dev, sysfs);
  } catch {
    return null;
  }
}

function classOfDevice(device: number, sysfs: string): DiskClass | null {
  // Linux: 12 bits of major, 20 of minor, folded.
  const major = (device >> 8) & 0xfff;
  const minor = (device & 0xff) | ((device >> 12) & 0xfff00);
  const link = join(sysfs, 'dev/block', `${major}:${minor}`);
  const target = realpathSync(join(dirname(link), readlinkSync(link)));
  // A partition lies in the folder of its disk.
  for (const folder of [target, dirname(target)]) {
    const rotational = readText(join(folder, 'queue/rotational'));
    if (rotational === null) continue;
    if (basename(folder).startsWith('nvme')) return 'nvme';
    return rotational === '1' ? 'hdd' : 'ssd';
  }
  return null;
}

function readText(path: string): string | null {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return null;
  }
}
