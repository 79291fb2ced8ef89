// What a snapshot holds, as a block device that stands for it: a file system, or a partition table with several. Everything here comes
// from a volume that hosts wrote to as they liked, and is read by programs (blkid, partx) that expect that.
import { HoldfastError } from '../errors/holdfast-error.js';
import { runCommand } from '../os/command.js';
import { parseBlkid } from './filesystem.js';

export type ReaderRequest = {
  readonly device: string;
  /** Where it is mounted. */
  readonly directory: string;
  readonly fs: string;
  readonly path: string;
  /** What is in a folder, instead of its content. */
  readonly list: boolean;
  readonly recursive: boolean;
};

export type Partition = {
  readonly number: number;
  readonly firstByte: number;
  readonly sizeBytes: number;
};

/** Those that the kernel is trusted to read. ext2 and ext3 are read by ext4. */
const knownTypes: ReadonlyMap<string, string> = new Map([
  ['ext2', 'ext4'],
  ['ext3', 'ext4'],
  ['ext4', 'ext4'],
  ['xfs', 'xfs'],
]);

/**
 * Never with what the file system itself asks for: one that says "panic at an error" would take the host with it. Without
 * replaying the journal, what is in it is missed.
 */
export function viewMountOptions(fs: string, replay: boolean): readonly string[] {
  const always = ['ro', 'nosuid', 'nodev', 'noexec', 'noatime'];
  if (fs === 'xfs') return [...always, 'nouuid', ...(replay ? [] : ['norecovery'])];
  return [...always, 'errors=continue', ...(replay ? [] : ['noload'])];
}

/** The file system on it, as mount(8) names it; null: it has a partition table. FAILED_PRECONDITION: neither. */
export async function filesystemOn(device: string, what: string): Promise<string | null> {
  const { code, stdout, stderr } = await runCommand('blkid', ['-p', '-o', 'export', device], { timeoutMs: 60_000 });
  if (code === 2) throw new HoldfastError('FAILED_PRECONDITION', `${what} holds no file system`);
  if (code === 8) {
    throw new HoldfastError('FAILED_PRECONDITION', `${what} looks like several file systems at once`);
  }
  if (code !== 0) throw new HoldfastError('DISK_IO', `blkid cannot look at ${what}: ${stderr.trim()}`);
  if (/^PTTYPE=/m.test(stdout) && !/^USAGE=filesystem/m.test(stdout)) return null;
  const content = parseBlkid(stdout);
  const found = content.kind === 'filesystem' ? content.type : content.kind === 'other' ? content.what : 'nothing';
  const known = content.kind === 'filesystem' ? knownTypes.get(content.type) : undefined;
  if (known !== undefined) return known;
  throw new HoldfastError(
    'FAILED_PRECONDITION',
    `${what} holds ${found}, and files can be read from ext2, ext3, ext4 and xfs only: clone the snapshot and attach the clone instead`,
  );
}

export async function partitionsOn(device: string): Promise<readonly Partition[]> {
  const columns = ['--raw', '--noheadings', '--output', 'NR,START,SECTORS'];
  const { code, stdout, stderr } = await runCommand('partx', [...columns, device], { timeoutMs: 60_000 });
  if (code === 0) return parsePartitions(stdout);
  throw new HoldfastError('FAILED_PRECONDITION', `the partition table cannot be read: ${stderr.trim()}`);
}

/** One a line: number, first sector, sectors; of 512 bytes whatever those of the device are. Empty ones are left out. */
export function parsePartitions(text: string): readonly Partition[] {
  return text
    .split('\n')
    .map((line) => line.trim().split(/\s+/).map(Number))
    .flatMap(([number = 0, start = 0, sectors = 0]) =>
      number > 0 && sectors > 0 ? [{ number, firstByte: start * 512, sizeBytes: sectors * 512 }] : [],
    );
}

/** `number` 0: none was chosen. */
export function choosePartition(partitions: readonly Partition[], number: number, what: string): Partition {
  const found = partitions.find((partition) => partition.number === number);
  if (found !== undefined) return found;
  const all = partitions.map((each) => `${each.number} (${Math.ceil(each.sizeBytes / 2 ** 20)} MiB)`).join(', ');
  throw new HoldfastError(
    number === 0 ? 'FAILED_PRECONDITION' : 'NOT_FOUND',
    number === 0
      ? `${what} holds partitions ${all}: choose one with --partition NUMBER`
      : `${what} has no partition ${number}; it has ${all === '' ? 'none' : all}`,
  );
}
