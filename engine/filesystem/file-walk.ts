// Reads files below a folder, as frames (file-frames.ts). The folder is the root of a file system that others have made: its links
// are followed as if it were the root of the system, so none leads out of it, and nothing of it is trusted.
import { constants } from 'node:fs';
import type { BigIntStats } from 'node:fs';
import { lstat, open, readdir, readlink } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { nextData } from '../addon/device-content.js';
import { HoldfastError, systemErrorCode, toHoldfastError } from '../errors/holdfast-error.js';
import { attributesOf } from './attributes.js';
import { encodeData, encodeMessage } from './file-frames.js';
import type { FileEntry, FileKind } from './file-frames.js';

/** Resolves when the bytes may be changed again. */
export type WriteBytes = (bytes: Buffer) => Promise<void>;

const linksMax = 40;
const readBytes = 1 << 20;
const blockBytes = 4_096;
const zeroBlock = Buffer.alloc(blockBytes);
const slash = Buffer.from('/');

/** Where a path leads, below `root`; links are followed, also the last one. NOT_FOUND. */
export async function resolveInside(root: string, path: string): Promise<Buffer> {
  const names: Buffer[] = [];
  let left: Buffer[] = split(Buffer.from(path));
  let links = 0;
  for (let name = left.shift(); name !== undefined; name = left.shift()) {
    if (name.toString() === '..') {
      names.pop();
      continue;
    }
    const candidate = join(root, [...names, name]);
    const stat = await look(candidate, path);
    if (!stat.isSymbolicLink()) {
      names.push(name);
      continue;
    }
    if (++links > linksMax) throw new HoldfastError('INVALID_ARGUMENT', `${path} leads through too many links`);
    const target = await readlink(candidate, { encoding: 'buffer' });
    if (target[0] === slash[0]) names.length = 0;
    left = [...split(target), ...left];
  }
  return join(root, names);
}

function split(path: Buffer): Buffer[] {
  const parts: Buffer[] = [];
  for (let at = 0; at <= path.length;) {
    const found = path.indexOf(slash, at);
    const end = found < 0 ? path.length : found;
    const part = path.subarray(at, end);
    if (part.length > 0 && part.toString() !== '.') parts.push(part);
    at = end + 1;
  }
  return parts;
}

function join(root: string, names: readonly Buffer[]): Buffer {
  return Buffer.concat([Buffer.from(root), ...names.flatMap((name) => [slash, name])]);
}

async function look(path: Buffer, asked: string): Promise<BigIntStats> {
  try {
    return await lstat(path, { bigint: true });
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') {
      throw new HoldfastError('NOT_FOUND', `there is no ${asked} in the snapshot`);
    }
    if (code === 'ENAMETOOLONG') throw new HoldfastError('INVALID_ARGUMENT', `${asked} is too long for a path`);
    throw readFailure(error);
  }
}

export async function typeOf(path: Buffer): Promise<FileKind> {
  return kindOf(await look(path, path.toString()));
}

/** What is in a folder, sorted by name; or the file itself. */
export async function listFolder(at: Buffer, asked: string, write: WriteBytes): Promise<void> {
  const stat = await look(at, asked);
  if (!stat.isDirectory()) {
    await write(encodeMessage(await entryOf(at, at.subarray(at.lastIndexOf(slash) + 1), stat)));
    return;
  }
  for (const name of await namesIn(at)) {
    const path = Buffer.concat([at, slash, name]);
    await write(encodeMessage(await entryOf(path, name, await look(path, asked))));
  }
}

/** A file, or a folder with all that is in it; INVALID_ARGUMENT for a folder without `recursive`. */
export async function readFiles(at: Buffer, asked: string, recursive: boolean, write: WriteBytes): Promise<void> {
  const stat = await look(at, asked);
  if (stat.isDirectory() && !recursive) {
    throw new HoldfastError('INVALID_ARGUMENT', `${asked} is a folder: copy it with --recursive`);
  }
  if (!stat.isDirectory() && !stat.isFile()) {
    throw new HoldfastError('INVALID_ARGUMENT', `${asked} is neither a file nor a folder`);
  }
  const seen = new Map<string, Buffer>();
  await readOne(at, Buffer.alloc(0), stat, { seen, parents: [], write });
}

type Walk = {
  /** Files with several names, by inode: the first of those. */
  readonly seen: Map<string, Buffer>;
  /** Inodes of the folders around: a damaged file system may lead back to them. */
  readonly parents: readonly bigint[];
  readonly write: WriteBytes;
};

async function readOne(at: Buffer, path: Buffer, stat: BigIntStats, walk: Walk): Promise<void> {
  const { seen, parents, write } = walk;
  if (stat.isFile() && stat.nlink > 1n) {
    const first = seen.get(String(stat.ino));
    if (first !== undefined) {
      const plain = await entryOf(at, path, stat);
      await write(encodeMessage({ ...plain, type: 'hard-link', ...named('target', 'rawTarget', first) }));
      return;
    }
    seen.set(String(stat.ino), path);
  }
  await write(encodeMessage({ ...(await entryOf(at, path, stat)), ...attributesOf(at) }));
  if (stat.isFile()) await readContent(at, stat, write);
  if (!stat.isDirectory()) return;
  if (parents.includes(stat.ino)) throw new HoldfastError('CORRUPT', 'a folder of the snapshot contains itself');
  for (const name of await namesIn(at)) {
    const inside = Buffer.concat([at, slash, name]);
    const below = path.length === 0 ? name : Buffer.concat([path, slash, name]);
    const next = await look(inside, below.toString());
    await readOne(inside, below, next, { ...walk, parents: [...parents, stat.ino] });
  }
}

async function namesIn(folder: Buffer): Promise<Buffer[]> {
  try {
    return (await readdir(folder, { encoding: 'buffer' })).sort((a, b) => a.compare(b));
  } catch (error) {
    throw readFailure(error);
  }
}

// Blocks of zeros of a file that has holes are taken for such.
async function readContent(at: Buffer, stat: BigIntStats, write: WriteBytes): Promise<void> {
  if (stat.blocks === 0n && stat.size > 4_096n) return;
  const sparse = stat.blocks * 512n < stat.size;
  const file = await open(at, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK).catch(
    (error: unknown) => {
      throw readFailure(error);
    },
  );
  try {
    const buffer = Buffer.allocUnsafe(readBytes);
    let part = sparse ? nextData(file.fd, 0) : { begin: 0, end: Number.MAX_SAFE_INTEGER };
    while (part !== null) {
      const end = await readPart(file, buffer, part, sparse, write);
      part = end < part.end || !sparse ? null : nextData(file.fd, end);
    }
  } finally {
    await file.close();
  }
}

// Where it ended: before the end of the part where the file does.
async function readPart(
  file: FileHandle,
  buffer: Buffer,
  part: { readonly begin: number; readonly end: number },
  sparse: boolean,
  write: WriteBytes,
): Promise<number> {
  for (let offset = part.begin; ;) {
    const wanted = Math.min(buffer.length, part.end - offset);
    if (wanted === 0) return offset;
    const { bytesRead } = await file.read(buffer, 0, wanted, offset).catch((error: unknown) => {
      throw readFailure(error);
    });
    if (bytesRead === 0) return offset;
    const bytes = buffer.subarray(0, bytesRead);
    for (const [from, to] of sparse ? dataRuns(bytes) : [[0, bytesRead] as const]) {
      for (const each of encodeData(offset + from, bytes.subarray(from, to))) await write(each);
    }
    offset += bytesRead;
  }
}

/** Where there is something else than zeros, in whole blocks. */
export function dataRuns(bytes: Buffer): readonly (readonly [from: number, to: number])[] {
  const runs: [number, number][] = [];
  for (let at = 0; at < bytes.length; at += blockBytes) {
    const end = Math.min(at + blockBytes, bytes.length);
    if (bytes.subarray(at, end).equals(zeroBlock.subarray(0, end - at))) continue;
    const last = runs.at(-1);
    if (last?.[1] === at) last[1] = end;
    else runs.push([at, end]);
  }
  return runs;
}

async function entryOf(at: Buffer, path: Buffer, stat: BigIntStats): Promise<FileEntry> {
  const type = kindOf(stat);
  const target = type === 'link' ? await readlink(at, { encoding: 'buffer' }) : null;
  return {
    kind: 'entry',
    type,
    ...named('path', 'rawPath', path),
    size: Number(stat.size),
    mode: Number(stat.mode & 0o7777n),
    uid: Number(stat.uid),
    gid: Number(stat.gid),
    modifiedMs: Number(stat.mtimeNs / 1_000n) / 1_000,
    ...(target === null ? {} : named('target', 'rawTarget', target)),
  };
}

function named<Text extends string, Raw extends string>(text: Text, raw: Raw, value: Buffer) {
  const read = value.toString('utf8');
  const exact = Buffer.from(read).equals(value);
  return { [text]: read, ...(exact ? {} : { [raw]: value.toString('base64') }) } as Record<Text, string> &
    Partial<Record<Raw, string>>;
}

function kindOf(stat: BigIntStats): FileKind {
  if (stat.isFile()) return 'file';
  if (stat.isDirectory()) return 'directory';
  return stat.isSymbolicLink() ? 'link' : 'special';
}

function readFailure(error: unknown): HoldfastError {
  const { message } = toHoldfastError(error);
  return new HoldfastError(
    'DISK_IO',
    `the snapshot cannot be read: ${message}. Was its volume attached or detached meanwhile, try again`,
    { cause: error },
  );
}
