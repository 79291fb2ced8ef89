// A disk that is a block device: Holdfast makes a file system on it and mounts it below the run directory for as long as the replica
// process runs. So the device holds all of the disk, its metadata too, and is recognized wherever it is put.
//
// Invariants: a file system is made on an empty device only (or when somebody said that what is there may go), and never on the device
// of a disk that is known. A device that anything else uses is not touched.
import { closeSync, constants, openSync, rmdirSync, statSync } from 'node:fs';
import { HoldfastError, systemErrorCode } from '../errors/holdfast-error.js';
import { contentOf, mountFilesystem, unmountFilesystem } from '../filesystem/filesystem.js';
import type { DeviceContent } from '../filesystem/filesystem.js';
import { runChecked, runCommand } from '../os/command.js';
import { makeFolders } from '../os/folders.js';
import { listMounts } from '../os/mounts.js';

export type BlockDisk = {
  readonly device: string;
  /** Where it is mounted. */
  readonly directory: string;
  readonly expectedDiskId: string | null;
  /** What is on it may go. */
  readonly format: boolean;
};

/** Of the file systems that Holdfast makes for disks. */
const label = 'holdfast-disk';

// Nothing but the store works there, with large files that are allocated once.
const mountOptions = ['noatime', 'nodev', 'nosuid', 'noexec'];

/** Mounts the device, after making a file system on one that is to become a disk. */
export async function mountDisk(disk: BlockDisk): Promise<void> {
  const { device, directory } = disk;
  const number = deviceNumber(device);
  const mounts = listMounts().filter((mount) => mount.device === number);
  if (mounts.some((mount) => mount.directory === directory)) return;
  const [elsewhere] = mounts;
  if (elsewhere !== undefined) {
    throw new HoldfastError(
      'IN_USE',
      `${device} is mounted on ${elsewhere.directory}: unmount it, or give another one`,
    );
  }
  refuseUsed(device);
  await prepare(disk);
  makeFolders(directory);
  await mountFilesystem(device, directory, 'ext4', mountOptions);
}

/** IN_USE while somebody else works in it. */
export async function unmountDisk(directory: string): Promise<void> {
  if (!listMounts().some((mount) => mount.directory === directory)) return;
  await unmountFilesystem(directory);
  rmdirSync(directory);
}

async function prepare({ device, expectedDiskId, format }: BlockDisk): Promise<void> {
  if ((await labelOf(device)) === label) return;
  const content = await contentOf(device);
  if (expectedDiskId !== null) {
    throw new HoldfastError(
      'WRONG_DISK',
      `${device} holds ${describe(content)}, and disk ${expectedDiskId} is expected there: names of devices may have changed, use one of /dev/disk/by-id`,
    );
  }
  if (content.kind !== 'empty' && !format) {
    throw new HoldfastError(
      'WRONG_DISK',
      `${device} holds ${describe(content)}: take another one, or add it with --force, and all that is on it is lost`,
    );
  }
  if (content.kind !== 'empty') await runChecked('wipefs', ['-a', '-q', device]);
  const options = ['-q', '-F', '-L', label, '-m', '0', '-T', 'largefile', '-E', 'lazy_itable_init=0'];
  await runChecked('mkfs.ext4', [...options, device], { timeoutMs: 300_000 });
}

function describe(content: DeviceContent): string {
  if (content.kind === 'empty') return 'nothing';
  return content.kind === 'filesystem' ? `a file system (${content.type})` : content.what;
}

async function labelOf(device: string): Promise<string> {
  const { code, stdout } = await runCommand('blkid', ['-p', '-o', 'value', '-s', 'LABEL', device]);
  return code === 0 ? stdout.trim() : '';
}

// As /proc/self/mountinfo has it.
function deviceNumber(device: string): string {
  let status;
  try {
    status = statSync(device);
  } catch (error) {
    throw new HoldfastError(
      'WRONG_DISK',
      `${device} cannot be found (${systemErrorCode(error) ?? 'unknown'}): is it there?`,
    );
  }
  if (!status.isBlockDevice()) throw new HoldfastError('WRONG_DISK', `${device} is not a block device`);
  const { rdev } = status;
  return `${(rdev >> 8) & 0xfff}:${(rdev & 0xff) | ((rdev >> 12) & 0xfff00)}`;
}

// The kernel gives a device to one user of its own kind: a file system, a volume group, an array, or whoever asks like this.
function refuseUsed(device: string): void {
  try {
    closeSync(openSync(device, constants.O_RDWR | constants.O_EXCL));
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === 'EBUSY') {
      throw new HoldfastError(
        'IN_USE',
        `${device} is used by the system (a mounted partition, a volume group, an array …)`,
      );
    }
    throw new HoldfastError('DISK_IO', `${device} cannot be opened: ${code ?? String(error)}`);
  }
}
