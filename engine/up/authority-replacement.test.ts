import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { openAuthority } from '../manager/authority.js';
import { openStore } from '../metastore/store-options.js';
import { fingerprintIn, parseJoinToken, parseToken } from '../security/tokens.js';
import { replaceAuthorityOf } from './authority-replacement.js';
import { decideHost, keepHost, readHostFile } from './host-folder.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-replace-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

const none = {
  node: null,
  apiPort: null,
  portalPort: null,
  join: null,
  store: null,
  journalBytes: null,
  cacheBytes: null,
};
const text = (name: string) => readFileSync(join(folder, name), 'utf8').trim();

test('the store and all tokens of the host name the new authority; secrets stay', async () => {
  const plan = await decideHost({ ...none, folder, address: '192.0.2.1' }, true);
  keepHost(plan);
  const before = text('admin-token');
  expect(fingerprintIn(before)).toHaveLength(43);
  const fingerprint = await replaceAuthorityOf(folder, new Date());
  expect(fingerprint).not.toBe(fingerprintIn(before));
  expect(fingerprintIn(text('admin-token'))).toBe(fingerprint);
  expect(parseToken(text('admin-token'))).toEqual(parseToken(before));
  expect(fingerprintIn(parseJoinToken(text('join-token')).token)).toBe(fingerprint);
  const file = readHostFile(folder);
  expect(fingerprintIn(file?.token ?? '')).toBe(fingerprint);
  if (file?.store == null) throw new Error('the folder has no store');
  const store = await openStore(file.store);
  expect((await openAuthority(store, null, new Date())).fingerprint).toBe(fingerprint);
  await store.close();
});

test('only where a manager has its folder', async () => {
  await expect(replaceAuthorityOf(join(folder, 'nothing'), new Date())).rejects.toThrow(
    /no folder of "holdfast server"/,
  );
});
