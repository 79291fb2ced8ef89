import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { runChecked } from '../os/command.js';
import { parseMountinfo } from '../os/mounts.js';
import { contentOf, ensureFilesystem, parseBlkid } from './filesystem.js';

let folder: string;
let image: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-filesystem-'));
  image = join(folder, 'image');
  writeFileSync(image, '');
  truncateSync(image, 64 << 20);
});
afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
});

test('an empty device gets the file system that is asked for, once', async () => {
  expect(await contentOf(image)).toEqual({ kind: 'empty' });
  expect(await ensureFilesystem(image, 'ext4', 'volume "v"')).toBe('ext4');
  const before = await runChecked('sha256sum', [image]);
  expect(await ensureFilesystem(image, null, 'volume "v"')).toBe('ext4');
  expect(await ensureFilesystem(image, 'ext4', 'volume "v"')).toBe('ext4');
  expect(await runChecked('sha256sum', [image])).toBe(before);
});

test('another file system is never overwritten', async () => {
  await ensureFilesystem(image, 'ext4', 'volume "v"');
  const before = await runChecked('sha256sum', [image]);
  await expect(ensureFilesystem(image, 'xfs', 'volume "v"')).rejects.toMatchObject({ code: 'FAILED_PRECONDITION' });
  expect(await runChecked('sha256sum', [image])).toBe(before);
});

test.each([0, 1000, 20 << 20, (64 << 20) - 5])(
  'data that nobody knows, at byte %d, is never overwritten',
  async (position) => {
    const content = Buffer.alloc(64 << 20);
    content.write('data', position);
    writeFileSync(image, content);
    const before = await runChecked('sha256sum', [image]);
    await expect(ensureFilesystem(image, 'ext4', 'volume "v"')).rejects.toMatchObject({ code: 'FAILED_PRECONDITION' });
    expect(await runChecked('sha256sum', [image])).toBe(before);
  },
);

test('partition tables, swap and volumes of a volume manager are not file systems', () => {
  expect(parseBlkid('DEVNAME=/dev/x\nPTUUID=1\nPTTYPE=gpt\n')).toEqual({
    kind: 'other',
    what: 'a partition table (gpt)',
  });
  expect(parseBlkid('TYPE=swap\nUSAGE=other\n')).toEqual({ kind: 'other', what: 'swap' });
  expect(parseBlkid('TYPE=LVM2_member\nUSAGE=raid\n')).toEqual({ kind: 'other', what: 'LVM2_member' });
  expect(parseBlkid('TYPE=xfs\nUSAGE=filesystem\n')).toEqual({ kind: 'filesystem', type: 'xfs' });
});

test('mountinfo with optional fields and escaped names', () => {
  const text =
    '36 35 98:0 /mnt1 /mnt/a\\040b rw,noatime master:1 propagate_from:2 - ext4 /dev/loop0 rw\n' +
    '37 35 0:40 / /x rw - fuse.holdfast holdfast:v rw\n';
  expect(parseMountinfo(text)).toEqual([
    { source: '/dev/loop0', directory: '/mnt/a b', type: 'ext4', device: '98:0' },
    { source: 'holdfast:v', directory: '/x', type: 'fuse.holdfast', device: '0:40' },
  ]);
});
