// File systems on the block devices of volumes: found, made on an empty device only, mounted, grown.
import { readFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { basename } from 'node:path';
import { firstData } from '../addon/device-content.js';
import { HoldfastError } from '../errors/holdfast-error.js';
import { runChecked, runCommand } from '../os/command.js';
import { listMounts } from '../os/mounts.js';

export const filesystemTypes = ['ext4', 'xfs'] as const;
export type FilesystemType = (typeof filesystemTypes)[number];

/** What a device holds. `other`: something that blkid knows and that is not mounted here, as it says it. */
export type DeviceContent =
  | { readonly kind: 'empty' }
  | { readonly kind: 'filesystem'; readonly type: string }
  | { readonly kind: 'other'; readonly what: string };

/** Empty is a device where blkid finds nothing, and that is all zeros. Whatever else there is belongs to somebody. */
export async function contentOf(device: string): Promise<DeviceContent> {
  // -p: looks at the device and never at a cache. Exit code 2: nothing found; 8: several things found.
  const { code, stdout, stderr } = await runCommand('blkid', ['-p', '-o', 'export', device], { timeoutMs: 60_000 });
  if (code === 0) return parseBlkid(stdout);
  if (code === 8) return { kind: 'other', what: 'several file systems or partition tables at once' };
  if (code !== 2) throw new HoldfastError('DISK_IO', `blkid cannot look at ${device}: ${stderr.trim()}`);
  const at = await firstDataOf(device);
  return at === null ? { kind: 'empty' } : { kind: 'other', what: `data of an unknown kind (at byte ${at})` };
}

export function parseBlkid(text: string): DeviceContent {
  const found = new Map(
    text.split('\n').flatMap((line) => {
      const at = line.indexOf('=');
      return at < 0 ? [] : [[line.slice(0, at), line.slice(at + 1)] as const];
    }),
  );
  const type = found.get('TYPE');
  if (found.get('USAGE') === 'filesystem' && type !== undefined) return { kind: 'filesystem', type };
  const table = found.get('PTTYPE');
  return { kind: 'other', what: type ?? (table === undefined ? 'data' : `a partition table (${table})`) };
}

// Volumes are large, and what was never written of them is known: to the file under a loop device, and to a SCSI disk.
async function firstDataOf(device: string): Promise<bigint | null> {
  const file = await open(device, 'r');
  try {
    await file.sync(); // what was written through the kernel's cache
  } finally {
    await file.close();
  }
  return await firstData(fileUnder(device) ?? device);
}

// Where it can be seen from here: another mount namespace has something else in its place, or nothing.
function fileUnder(device: string): string | null {
  try {
    const path = readFileSync(`/sys/block/${basename(device)}/loop/backing_file`, 'utf8').trim();
    return listMounts().some(({ directory, type }) => directory === path && type === 'fuse.holdfast') ? path : null;
  } catch {
    return null; // no loop device
  }
}

/** The file system on the device; makes one of `wanted` (or ext4) when the device is empty, and never otherwise. */
export async function ensureFilesystem(device: string, wanted: FilesystemType | null, what: string): Promise<string> {
  const content = await contentOf(device);
  switch (content.kind) {
    case 'filesystem':
      if (wanted === null || content.type === wanted) return content.type;
      throw new HoldfastError(
        'FAILED_PRECONDITION',
        `${what} holds ${content.type}, not ${wanted}: leave --fs away to mount what is there`,
      );
    case 'other':
      throw new HoldfastError(
        'FAILED_PRECONDITION',
        `${what} is not empty, it holds ${content.what}: a file system is made on an empty volume only`,
      );
    case 'empty': {
      const type = wanted ?? 'ext4';
      await makeFilesystem(device, type);
      return type;
    }
  }
}

async function makeFilesystem(device: string, type: FilesystemType): Promise<void> {
  // Nothing is discarded first: an empty volume has nothing to give back.
  // The 4 KiB sectors of xfs keep its log from writing parts of a block, which the volume would have to read first.
  const [program, args] =
    type === 'ext4'
      ? (['mkfs.ext4', ['-q', '-E', 'nodiscard', device]] as const)
      : (['mkfs.xfs', ['-q', '-K', '-s', 'size=4096', device]] as const);
  await runChecked(program, args, { timeoutMs: 300_000 });
}

export async function mountFilesystem(
  device: string,
  directory: string,
  type: string,
  options: readonly string[] = [],
): Promise<void> {
  const chosen = options.length === 0 ? [] : ['-o', options.join(',')];
  await runChecked('mount', ['-t', type, ...chosen, device, directory], { timeoutMs: 120_000 });
}

/** IN_USE while somebody works in it. */
export async function unmountFilesystem(directory: string): Promise<void> {
  const { code, stderr } = await runCommand('umount', [directory], { timeoutMs: 120_000 });
  if (code === 0) return;
  const busy = stderr.includes('busy');
  throw new HoldfastError(
    busy ? 'IN_USE' : 'INTERNAL',
    busy
      ? `${directory} is in use: close its files and leave the folder`
      : `cannot unmount ${directory}: ${stderr.trim()}`,
  );
}

/** Where a device is mounted; null when it is not. */
export function mountOf(device: string): { readonly directory: string; readonly type: string } | null {
  return listMounts().findLast(({ source }) => source === device) ?? null;
}

/** Makes a mounted file system as large as its device. False: the device is not mounted, or the type is unknown. */
export async function growFilesystem(device: string): Promise<boolean> {
  const mounted = mountOf(device);
  switch (mounted?.type) {
    case 'ext4':
      await runChecked('resize2fs', [device], { timeoutMs: 300_000 });
      return true;
    case 'xfs':
      await runChecked('xfs_growfs', [mounted.directory], { timeoutMs: 300_000 });
      return true;
    default:
      return false;
  }
}
