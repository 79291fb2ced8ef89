import { mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { makeFolders } from './folders.js';

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-folders-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
});

test('makes what is missing, and leaves what is there', () => {
  makeFolders(join(folder, 'a/b/c'), 0o700);
  makeFolders(join(folder, 'a/b/c'));
  expect(statSync(join(folder, 'a/b/c')).mode & 0o777).toBe(0o700);
});

test('what cannot be made is an error, and no endless attempt', () => {
  expect(() => {
    makeFolders('/proc/holdfast/x');
  }).toThrow(/ENOENT/);
});

test('a file, or a link to nothing, is no folder', () => {
  writeFileSync(join(folder, 'file'), '');
  symlinkSync('/nonexistent/x', join(folder, 'link'));
  expect(() => {
    makeFolders(join(folder, 'file'));
  }).toThrow(/EEXIST/);
  expect(() => {
    makeFolders(join(folder, 'file/x'));
  }).toThrow(/ENOTDIR/);
  expect(() => {
    makeFolders(join(folder, 'link'));
  }).toThrow(/EEXIST/);
});
