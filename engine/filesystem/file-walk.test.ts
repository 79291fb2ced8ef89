import { execFileSync } from 'node:child_process';
import {
  closeSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { decodeFrames, encodeData, encodeMessage } from './file-frames.js';
import type { FileEntry, FileFrame } from './file-frames.js';
import { dataRuns, listFolder, readFiles, resolveInside } from './file-walk.js';
import { choosePartition, parsePartitions, viewMountOptions } from './snapshot-content.js';

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'holdfast-walk-'));
});
afterEach(() => {
  rmSync(root, { recursive: true });
});

async function framesOf(walk: (write: (bytes: Buffer) => Promise<void>) => Promise<void>): Promise<FileFrame[]> {
  const parts: Buffer[] = [];
  await walk((bytes) => {
    parts.push(Buffer.from(bytes));
    return Promise.resolve();
  });
  parts.push(encodeMessage({ kind: 'end' }));
  const frames: FileFrame[] = [];
  for await (const frame of decodeFrames(chopped(Buffer.concat(parts)))) frames.push(frame);
  return frames.slice(0, -1);
}

// Pieces of 7 bytes: frames do not arrive whole.
async function* chopped(all: Buffer): AsyncGenerator<Buffer> {
  await Promise.resolve();
  for (let at = 0; at < all.length; at += 7) yield all.subarray(at, at + 7);
}

const entries = (frames: readonly FileFrame[]) => frames.filter((frame): frame is FileEntry => frame.kind === 'entry');

test('no link leads out of the file system', async () => {
  mkdirSync(join(root, 'etc'));
  mkdirSync(join(root, 'deep/er'), { recursive: true });
  writeFileSync(join(root, 'etc/passwd'), 'inside');
  symlinkSync('/etc/passwd', join(root, 'deep/er/absolute'));
  symlinkSync('../../../../../../../etc/passwd', join(root, 'deep/er/relative'));
  symlinkSync('../..', join(root, 'deep/er/up'));
  for (const path of ['/deep/er/absolute', 'deep/er/relative', '/../../etc/passwd', '/deep/er/up/../etc/./passwd']) {
    expect((await resolveInside(root, path)).toString()).toBe(join(root, 'etc/passwd'));
  }
  symlinkSync('loop', join(root, 'loop'));
  await expect(resolveInside(root, '/loop')).rejects.toThrow('too many links');
  await expect(resolveInside(root, '/etc/passwd/x')).rejects.toMatchObject({ code: 'NOT_FOUND' });
  await expect(resolveInside(root, '/none')).rejects.toMatchObject({ code: 'NOT_FOUND' });
});

test('a folder with files, holes, links and names that are not UTF-8', async () => {
  writeFileSync(join(root, 'a'), 'content');
  linkSync(join(root, 'a'), join(root, 'b'));
  symlinkSync('a', join(root, 'c'));
  const odd = Buffer.from([0xff, 0x0a, 0x41]);
  writeFileSync(Buffer.concat([Buffer.from(`${root}/`), odd]), '');
  mkdirSync(join(root, 'sub'));
  writeFileSync(join(root, 'sub/sparse'), '');
  truncateSync(join(root, 'sub/sparse'), 40 << 20);
  execFileSync('mkfifo', [join(root, 'pipe')]);
  const frames = await framesOf((write) => readFiles(Buffer.from(root), '/', true, write));
  const seen = entries(frames).map(({ path, type, target }) => [path, type, target ?? null]);
  expect(seen).toEqual([
    ['', 'directory', null],
    ['a', 'file', null],
    ['b', 'hard-link', 'a'],
    ['c', 'link', 'a'],
    ['pipe', 'special', null],
    ['sub', 'directory', null],
    ['sub/sparse', 'file', null],
    [odd.toString(), 'file', null],
  ]);
  expect(entries(frames).at(-1)?.rawPath).toBe(odd.toString('base64'));
  expect(frames.filter(({ kind }) => kind === 'data')).toEqual([
    { kind: 'data', offset: 0, bytes: readFileSync(join(root, 'a')) },
  ]);
  expect(entries(frames).find(({ path }) => path === 'sub/sparse')?.size).toBe(40 << 20);

  const listed = await framesOf((write) => listFolder(Buffer.from(root), '/', write));
  expect(entries(listed)).toHaveLength(6);
  await expect(framesOf((write) => readFiles(Buffer.from(root), '/', false, write))).rejects.toThrow('--recursive');
});

test('holes are not read, however large, and what lies between them is', async () => {
  const path = join(root, 'sparse');
  const end = 8 * 2 ** 40 - 4_096; // eight thousand billion zeros take longer than any test
  writeFileSync(path, '');
  const file = openSync(path, 'w');
  writeSync(file, 'first', 1 << 30);
  writeSync(file, 'last', end);
  closeSync(file);
  const frames = await framesOf((write) => readFiles(Buffer.from(path), '/sparse', false, write));
  const data = frames.flatMap((frame) => (frame.kind === 'data' ? [[frame.offset, frame.bytes.toString()]] : []));
  expect(data.map(([offset, text]) => [offset, String(text).replaceAll('\0', '')])).toEqual([
    [1 << 30, 'first'],
    [end, 'last'],
  ]);
});

test('runs of data', () => {
  const bytes = Buffer.alloc(5 * 4_096 - 100);
  expect(dataRuns(bytes)).toEqual([]);
  bytes[4_096] = 1;
  bytes[8_192] = 1;
  bytes[bytes.length - 1] = 1;
  expect(dataRuns(bytes)).toEqual([
    [4_096, 12_288],
    [16_384, bytes.length],
  ]);
});

test('a stream that stops early, or is none, is noticed', async () => {
  const drain = async (all: Buffer) => {
    for await (const frame of decodeFrames(chopped(all))) expect(frame.kind).not.toBe('end');
  };
  const [head, bytes] = encodeData(5, Buffer.from('xyz'));
  await expect(drain(Buffer.concat([head, bytes]))).rejects.toMatchObject({ code: 'CONNECTION_LOST' });
  await expect(drain(Buffer.from('HTTP/1.1 200 OK and more'))).rejects.toMatchObject({ code: 'PROTOCOL' });
});

test('partitions, and what is mounted how', () => {
  const partitions = parsePartitions('1 2048 4096\n5 8192 2048\n');
  expect(choosePartition(partitions, 5, 'it')).toEqual({ number: 5, firstByte: 4_194_304, sizeBytes: 1_048_576 });
  expect(() => choosePartition(partitions, 0, 'it')).toThrow('it holds partitions 1 (2 MiB), 5 (1 MiB): choose one');
  expect(() => choosePartition(partitions, 2, 'it')).toThrow('no partition 2');
  // A file system that asks for a panic at errors must not get it.
  expect(viewMountOptions('ext4', true)).toEqual(expect.arrayContaining(['ro', 'nodev', 'errors=continue']));
  expect(viewMountOptions('xfs', false)).toEqual(expect.arrayContaining(['ro', 'nouuid', 'norecovery']));
});
