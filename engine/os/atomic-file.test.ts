import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { writeFileAtomic } from './atomic-file.js';

const folder = mkdtempSync(join(tmpdir(), 'holdfast-atomic-'));

afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

test('the new content takes the place of the old, in a folder that is made', () => {
  const path = join(folder, 'a', 'file');
  writeFileAtomic(path, 'old');
  writeFileAtomic(path, 'new');
  expect(readFileSync(path, 'utf8')).toBe('new');
  expect(readdirSync(join(folder, 'a'))).toEqual(['file']);
});

test('what fails leaves nothing behind', () => {
  const path = join(folder, 'b');
  mkdirSync(join(path, 'in-the-way'), { recursive: true });
  expect(() => {
    writeFileAtomic(path, 'new');
  }).toThrow(/EISDIR|ENOTEMPTY|EEXIST/);
  expect(readdirSync(folder).filter((name) => name.startsWith('b'))).toEqual(['b']);
});
