import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { followIdentity, readIdentity, writeIdentity } from './identity.js';
import type { Identity } from './identity.js';

let folder: string;
let path: string;
const identity = (name: string): Identity => ({ authority: 'ca', certificate: name, key: 'key' });

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-identity-'));
  path = join(folder, 'identity.json');
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

test('a new identity in the file is taken up, one that cannot be read is not', async () => {
  expect(readIdentity(path)).toBeNull();
  expect(() => followIdentity(path, () => undefined)).toThrow(expect.objectContaining({ code: 'NOT_FOUND' }) as Error);
  writeIdentity(path, identity('first'));
  expect(statSync(path).mode & 0o777).toBe(0o600);
  const problems: unknown[] = [];
  let told: () => void = () => undefined;
  const problem = new Promise<void>((resolve) => (told = resolve));
  const source = followIdentity(
    path,
    (error) => {
      problems.push(error);
      told();
    },
    5,
  );
  const next = new Promise<Identity>((resolve) => source.subscribe(resolve));
  expect(source.current()).toEqual(identity('first'));
  writeIdentity(path, identity('second'));
  expect(await next).toEqual(identity('second'));
  expect(source.current()).toEqual(identity('second'));
  writeFileSync(path, '{"half":');
  await problem;
  expect(source.current()).toEqual(identity('second'));
  source.close();
});
