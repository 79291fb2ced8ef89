import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { FileEntry, FileFrame } from '../filesystem/file-frames.js';
import { extractFiles, relativePath, streamFile } from './extract-files.js';
import type { Tally } from './extract-files.js';

let folder: string;
let tally: Tally;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-extract-'));
  tally = { files: 0, directories: 0, links: 0, bytes: 0, skipped: [], attributesSkipped: {} };
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

const entry = (path: string, more: Partial<FileEntry> = {}): FileEntry => ({
  kind: 'entry',
  type: 'file',
  path,
  size: 0,
  mode: 0o640,
  uid: process.getuid?.() ?? 0,
  gid: process.getgid?.() ?? 0,
  modifiedMs: 1_577_934_245_000,
  ...more,
});
const data = (offset: number, text: string): FileFrame => ({ kind: 'data', offset, bytes: Buffer.from(text) });
const opened: FileFrame = { kind: 'opened', fs: 'ext4', journal: 'replayed', type: 'file' };

async function* stream(...frames: FileFrame[]): AsyncGenerator<FileFrame> {
  await Promise.resolve();
  yield opened;
  yield* frames;
}
const to = (path: string, force = false) => ({ path: join(folder, path), name: 'name', force });

test('a folder with its modes, times, holes and links', async () => {
  const frames = stream(
    entry('', { type: 'directory', mode: 0o750 }),
    entry('f', { size: 20_000 }),
    data(0, 'begin'),
    data(16_384, 'end'),
    entry('sub', { type: 'directory', mode: 0o500 }),
    entry('sub/g', { mode: 0o444 }),
    entry('h', { type: 'hard-link', target: 'f' }),
    entry('l', { type: 'link', target: '/etc/passwd' }),
    entry('p', { type: 'special' }),
    { kind: 'end' },
  );
  const { path } = await extractFiles(frames, to('out'), tally);
  expect(path).toBe(join(folder, 'out'));
  const f = lstatSync(join(path, 'f'));
  expect([f.size, f.mode & 0o7777, f.mtimeMs, f.nlink]).toEqual([20_000, 0o640, 1_577_934_245_000, 2]);
  expect(readFileSync(join(path, 'f')).subarray(16_384, 16_387).toString()).toBe('end');
  expect(lstatSync(path).mtimeMs).toBe(1_577_934_245_000);
  expect(lstatSync(join(path, 'sub')).mode & 0o7777).toBe(0o500);
  expect(lstatSync(join(path, 'l')).isSymbolicLink()).toBe(true);
  expect(tally).toEqual({ files: 2, directories: 2, links: 2, bytes: 8, skipped: ['p'], attributesSkipped: {} });
});

test('attributes that the destination does not keep are counted, and a lost ACL lets nobody in', async () => {
  // rwx for the owner and a user, nothing for the group, a mask of rw; of a version that no kernel knows.
  const list = Buffer.from(
    '09000000 01000700ffffffff 02000700e8030000 04000000ffffffff 10000600ffffffff'.replace(/ /g, ''),
    'hex',
  );
  const value = Buffer.from('x').toString('base64');
  const frames = stream(
    entry('', { type: 'directory', mode: 0o750, attributesLeft: ['user.large'] }),
    entry('f', { mode: 0o660, attributes: [{ name: 'system.posix_acl_access', value: list.toString('base64') }] }),
    entry('g', {
      mode: 0o660,
      attributes: [{ name: 'system.other', value }],
      attributesLeft: ['system.posix_acl_access'],
    }),
    entry('l', { type: 'link', target: 'f', attributes: [{ name: 'user.on-a-link', value }] }),
    { kind: 'end' },
  );
  const { path } = await extractFiles(frames, to('out'), tally);
  expect(['f', 'g'].map((name) => lstatSync(join(path, name)).mode & 0o777)).toEqual([0o600, 0o600]);
  expect(tally.attributesSkipped).toEqual({
    'system.other': 1,
    'system.posix_acl_access': 2,
    'user.large': 1,
    'user.on-a-link': 1,
  });
});

test.each([
  ['a way up', [entry('', { type: 'directory' }), entry('../x')]],
  ['a way up in the middle', [entry('', { type: 'directory' }), entry('a/../../x')]],
  ['an absolute name', [entry('', { type: 'directory' }), entry('/x')]],
  [
    'a way up in bytes',
    [entry('', { type: 'directory' }), entry('x', { rawPath: Buffer.from('../x').toString('base64') })],
  ],
  [
    'a hard link to something else',
    [
      entry('', { type: 'directory' }),
      entry('x', { type: 'hard-link', target: '../secret' }),
      { kind: 'end' } as const,
    ],
  ],
])('refuses %s', async (_, frames) => {
  writeFileSync(join(folder, 'secret'), 'secret');
  await expect(extractFiles(stream(...frames), to('out'), tally)).rejects.toMatchObject({ code: 'PROTOCOL' });
  expect(readdirSync(folder).sort()).toEqual(['out', 'secret']);
});

test('nothing is written through a link of the snapshot', async () => {
  mkdirSync(join(folder, 'victim'));
  const frames = stream(
    entry('', { type: 'directory' }),
    entry('d', { type: 'link', target: join(folder, 'victim') }),
    entry('d/f', { size: 1 }),
    data(0, 'x'),
    { kind: 'end' },
  );
  await expect(extractFiles(frames, to('out'), tally)).rejects.toThrow();
  expect(readdirSync(join(folder, 'victim'))).toEqual([]);
});

test('a file that is there stays, unless it is to be replaced, and until the new one is complete', async () => {
  writeFileSync(join(folder, 'f'), 'old');
  const frames = () => stream(entry('', { size: 3 }), data(0, 'new'), { kind: 'end' });
  await expect(extractFiles(frames(), to('f'), tally)).rejects.toMatchObject({ code: 'ALREADY_EXISTS' });
  const broken = stream(entry('', { size: 3 }), data(0, 'n'), { kind: 'error', code: 'DISK_IO', message: 'broken' });
  await expect(extractFiles(broken, to('f', true), tally)).rejects.toMatchObject({ code: 'DISK_IO' });
  expect(readFileSync(join(folder, 'f'), 'utf8')).toBe('old');
  expect(readdirSync(folder)).toEqual(['f']);
  await extractFiles(frames(), to('f', true), tally);
  expect(readFileSync(join(folder, 'f'), 'utf8')).toBe('new');
  // Into a folder it goes under its own name.
  mkdirSync(join(folder, 'd'));
  expect((await extractFiles(frames(), to('d'), tally)).path).toBe(join(folder, 'd/name'));
  expect(existsSync(join(folder, 'd/name'))).toBe(true);
});

test('printed, holes are zeros', async () => {
  const parts: Buffer[] = [];
  const frames = stream(entry('', { size: 10 }), data(2, 'ab'), data(6, 'c'), { kind: 'end' });
  await streamFile(frames, (bytes) => {
    parts.push(bytes);
    return Promise.resolve();
  });
  expect(Buffer.concat(parts).toString()).toBe('\0\0ab\0\0c\0\0\0');
});

test('names', () => {
  expect(relativePath('a/b c', undefined).toString()).toBe('a/b c');
  expect(relativePath('', undefined)).toHaveLength(0);
  for (const bad of ['a//b', './a', 'a\0b', 'a/']) expect(() => relativePath(bad, undefined)).toThrow('impossible');
});

test('there has to be a folder for what is written', async () => {
  writeFileSync(join(folder, 'file'), '');
  for (const path of ['none/x', 'file/x']) {
    const work = extractFiles(stream(entry(''), { kind: 'end' }), to(path), tally);
    await expect(work).rejects.toMatchObject({
      code: 'NOT_FOUND',
      message: expect.stringContaining('make it') as string,
    });
  }
});
