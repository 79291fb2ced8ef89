// Writes files that come from a snapshot (filesystem/file-frames.ts) below a place on this host. What the stream says is not trusted:
// names lead nowhere else, and links are made only when everything else is written, so that nothing is ever written through one.
import { constants } from 'node:fs';
import { chmod, lchown, link, lstat, lutimes, mkdir, open, rename, rm, stat, symlink } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { randomBytes } from 'node:crypto';
import { basename, dirname, join as joinPath, resolve } from 'node:path';
import { HoldfastError, systemErrorCode } from '../errors/holdfast-error.js';
import { modeWithout, writeAttributes } from '../filesystem/attributes.js';
import type { FileEntry, FileFrame, FileMessage } from '../filesystem/file-frames.js';

export type Tally = {
  files: number;
  directories: number;
  links: number;
  bytes: number;
  skipped: string[];
  /** Extended attributes that were not kept: how many of each name. */
  attributesSkipped: Record<string, number>;
};
export type Opened = Extract<FileMessage, { kind: 'opened' }>;

export type Destination = {
  /** Where the file or folder goes itself, or below which when it is a folder that exists. */
  readonly path: string;
  /** Its name there. */
  readonly name: string;
  /** Replaces a file that is there. */
  readonly force: boolean;
};

export type Extracted = { readonly opened: Opened; readonly path: string };

/** Owners are kept by root only. */
const keepsOwners = process.getuid?.() === 0;
const fileFlags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
const slash = Buffer.from('/');
const skippedMax = 1_000;
const attributeNamesMax = 1_000;

export async function extractFiles(
  frames: AsyncIterable<FileFrame>,
  destination: Destination,
  tally: Tally,
): Promise<Extracted> {
  let opened: Opened | null = null;
  let writer: Writer | null = null;
  try {
    for await (const frame of frames) {
      switch (frame.kind) {
        case 'opened':
          opened = frame;
          break;
        case 'entry':
          writer ??= new Writer(await placeFor(frame, destination), tally);
          await writer.begin(frame);
          break;
        case 'data':
          await writer?.write(frame.offset, frame.bytes);
          break;
        case 'error':
          throw new HoldfastError(frame.code, frame.message);
        case 'end':
          await writer?.finish();
      }
    }
  } catch (error) {
    await writer?.abandon();
    throw error;
  }
  if (opened === null || writer === null) throw new HoldfastError('PROTOCOL', 'no file came from the snapshot');
  return { opened, path: writer.place };
}

/** The content of one file, as it is. */
export async function streamFile(
  frames: AsyncIterable<FileFrame>,
  write: (bytes: Buffer) => Promise<void>,
): Promise<void> {
  let at = 0;
  let size = 0;
  const fillTo = async (end: number) => {
    for (; at < end; at += Math.min(1 << 20, end - at)) await write(Buffer.alloc(Math.min(1 << 20, end - at)));
  };
  for await (const frame of frames) {
    if (frame.kind === 'error') throw new HoldfastError(frame.code, frame.message);
    if (frame.kind === 'entry') ({ size } = frame);
    if (frame.kind !== 'data') continue;
    await fillTo(frame.offset);
    await write(frame.bytes);
    at = frame.offset + frame.bytes.length;
  }
  await fillTo(size);
}

async function placeFor({ type }: FileEntry, { path, name, force }: Destination): Promise<string> {
  const present = await lookAt(path);
  const isFolder = present?.isDirectory() === true;
  const place = isFolder ? joinPath(path, name) : path;
  const around = dirname(resolve(place));
  if (!(await isFolderAt(around))) {
    throw new HoldfastError('NOT_FOUND', `there is no folder ${around}: make it, or give another destination`);
  }
  const taken = isFolder ? await lookAt(place) : present;
  if (taken === null || (force && type === 'file' && taken.isFile())) return place;
  throw new HoldfastError(
    'ALREADY_EXISTS',
    `${place} exists: give another destination${type === 'file' && taken.isFile() ? ', or replace it with --force' : ''}`,
  );
}

async function lookAt(path: string) {
  try {
    return await lstat(path);
  } catch (error) {
    if (isAbsence(error)) return null;
    throw error;
  }
}

async function isFolderAt(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (error) {
    if (isAbsence(error)) return false;
    throw error;
  }
}

function isAbsence(error: unknown): boolean {
  const code = systemErrorCode(error);
  return code === 'ENOENT' || code === 'ENOTDIR';
}

class Writer {
  readonly place: string;
  readonly #tally: Tally;
  // A single file appears under its name when it is complete.
  readonly #temporary: string;
  #single = false;
  #current: { readonly file: FileHandle; readonly entry: FileEntry; readonly path: Buffer } | null = null;
  readonly #links: { readonly entry: FileEntry; readonly path: Buffer }[] = [];
  readonly #directories: { readonly entry: FileEntry; readonly path: Buffer }[] = [];
  readonly #attributesSkipped = new Map<string, number>();

  constructor(place: string, tally: Tally) {
    this.place = place;
    this.#tally = tally;
    this.#temporary = joinPath(place, '..', `.${basename(place).slice(0, 200)}.${randomBytes(4).toString('hex')}`);
  }

  async begin(entry: FileEntry): Promise<void> {
    await this.#close();
    const relative = relativePath(entry.path, entry.rawPath);
    const path = this.#at(relative);
    switch (entry.type) {
      case 'directory':
        await mkdir(path, { mode: 0o700 });
        this.#directories.push({ entry, path });
        this.#tally.directories += 1;
        return;
      case 'file': {
        this.#single = relative.length === 0;
        const file = await open(this.#single ? this.#temporary : path, fileFlags, 0o600);
        this.#current = { file, entry, path };
        this.#tally.files += 1;
        return;
      }
      case 'link':
      case 'hard-link':
        this.#links.push({ entry, path });
        this.#tally.links += 1;
        return;
      case 'special':
        if (this.#tally.skipped.length < skippedMax) this.#tally.skipped.push(entry.path);
    }
  }

  async write(offset: number, bytes: Buffer): Promise<void> {
    if (this.#current === null) throw new HoldfastError('PROTOCOL', 'content came that belongs to no file');
    for (let done = 0; done < bytes.length;) {
      const { bytesWritten } = await this.#current.file.write(bytes, done, bytes.length - done, offset + done);
      done += bytesWritten;
    }
    this.#tally.bytes += bytes.length;
  }

  async finish(): Promise<void> {
    await this.#close();
    if (this.#single) await rename(this.#temporary, this.place);
    // Hard links first: the way to what they name leads through no link of the snapshot.
    for (const { entry, path } of this.#links.filter(({ entry: { type } }) => type === 'hard-link')) {
      await link(this.#at(relativePath(entry.target ?? '', entry.rawTarget)), path);
    }
    for (const { entry, path } of this.#links.filter(({ entry: { type } }) => type === 'link')) {
      const { target = '', rawTarget } = entry;
      await symlink(rawTarget === undefined ? target : Buffer.from(rawTarget, 'base64'), path);
      if (keepsOwners) await lchown(path, entry.uid, entry.gid);
      this.#keepAttributes(path, entry);
      await lutimes(path, entry.modifiedMs / 1_000, entry.modifiedMs / 1_000);
    }
    // What is in a folder changes its time.
    for (const { entry, path } of this.#directories.reverse()) {
      if (keepsOwners) await lchown(path, entry.uid, entry.gid);
      await chmod(path, keptMode(entry, this.#keepAttributes(path, entry)));
      await lutimes(path, entry.modifiedMs / 1_000, entry.modifiedMs / 1_000);
    }
    this.#tally.attributesSkipped = Object.fromEntries(this.#attributesSkipped);
  }

  async abandon(): Promise<void> {
    await this.#current?.file.close();
    if (this.#single) await rm(this.#temporary, { force: true });
  }

  async #close(): Promise<void> {
    if (this.#current === null) return;
    const { file, entry, path } = this.#current;
    this.#current = null;
    try {
      await file.truncate(entry.size);
      if (keepsOwners) await file.chown(entry.uid, entry.gid);
      const lost = this.#keepAttributes(this.#single ? Buffer.from(this.#temporary) : path, entry);
      await file.chmod(keptMode(entry, lost));
      await file.utimes(entry.modifiedMs / 1_000, entry.modifiedMs / 1_000);
    } finally {
      await file.close();
    }
  }

  // Names those that are not kept.
  #keepAttributes(path: Buffer, entry: FileEntry): readonly string[] {
    const counts = this.#attributesSkipped;
    const lost = writeAttributes(path, entry);
    for (const each of lost) {
      const name = counts.has(each) || counts.size < attributeNamesMax ? each : '*';
      counts.set(name, (counts.get(name) ?? 0) + 1);
    }
    return lost;
  }

  #at(relative: Buffer): Buffer {
    const place = Buffer.from(this.place);
    return relative.length === 0 ? place : Buffer.concat([place, slash, relative]);
  }
}

/** Below the destination; PROTOCOL for what would lead anywhere else. */
export function relativePath(text: string, raw: string | undefined): Buffer {
  const path = raw === undefined ? Buffer.from(text) : Buffer.from(raw, 'base64');
  const latin = path.toString('latin1');
  const parts = latin === '' ? [] : latin.split('/');
  if (latin.includes('\0') || parts.some((part) => part === '' || part === '.' || part === '..')) {
    throw new HoldfastError('PROTOCOL', `the snapshot holds a file with the impossible name ${JSON.stringify(text)}`);
  }
  return path;
}

// Without its owner, a file must not act as anybody else.
function keptMode(entry: FileEntry, lost: readonly string[]): number {
  const mode = modeWithout(lost, entry.mode, entry);
  return keepsOwners ? mode : mode & 0o777;
}
