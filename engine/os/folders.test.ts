import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { makeFolders } from './folders.js';

const folder = mkdtempSync(join(tmpdir(), 'holdfast-folders-'));

afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

test('all that is missing is made, with the mode; what is there stays', () => {
  const deep = join(folder, 'a', 'b', 'c');
  makeFolders(deep, 0o700);
  expect(statSync(deep).mode & 0o777).toBe(0o700);
  expect(statSync(join(folder, 'a')).mode & 0o777).toBe(0o700);
  makeFolders(join(folder, 'a'));
  expect(statSync(join(folder, 'a')).mode & 0o777).toBe(0o700);
});

test('where no folder can be made it says so, and ends', () => {
  expect(() => {
    makeFolders('/proc/holdfast/data');
  }).toThrow(/ENOENT.*'\/proc\/holdfast'/);
});

test('a file in the way is told', () => {
  const file = join(folder, 'file');
  writeFileSync(file, '');
  expect(() => {
    makeFolders(file);
  }).toThrow(/EEXIST/);
  expect(() => {
    makeFolders(join(file, 'below'));
  }).toThrow(/EEXIST|ENOTDIR/);
});
