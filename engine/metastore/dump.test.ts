import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { dumpStore, restoreStore } from './dump.js';
import { openLmdbMetastore } from './lmdb-metastore.js';
import type { Change, Metastore } from './metastore.js';
import { parseStoreChoice } from './store-options.js';

let folder: string;
let from: Metastore;
let to: Metastore;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-dump-'));
  [from, to] = await Promise.all([openLmdbMetastore(join(folder, 'a')), openLmdbMetastore(join(folder, 'b'))]);
  const entries = [
    ['/cluster', 'x'],
    ['/running/leader', 'me'],
    ...Array.from({ length: 250 }, (_, n) => [`/v/${n}`, `é\n${n}`]),
  ];
  await from.transact(
    [],
    entries.map(([key = '', value = '']): Change => ({ kind: 'put', key, value })),
  );
});
afterEach(async () => {
  await Promise.all([from.close(), to.close()]);
  rmSync(folder, { recursive: true, force: true });
});

const pairs = async (store: Metastore) => (await store.range('/')).entries.map(({ key, value }) => [key, value]);

test('everything comes back, except what belongs to processes', async () => {
  expect(await restoreStore(to, await dumpStore(from, new Date(0)))).toBe(251);
  expect(await pairs(to)).toEqual((await pairs(from)).filter(([key]) => key !== '/running/leader'));
});

test('a store that holds something is not touched', async () => {
  const dump = await dumpStore(from, new Date(0));
  await to.transact([], [{ kind: 'put', key: '/other', value: '1' }]);
  await expect(restoreStore(to, dump)).rejects.toMatchObject({ code: 'ALREADY_EXISTS' });
  expect(await pairs(to)).toEqual([['/other', '1']]);
});

test('a damaged, shortened, foreign or newer dump is refused as a whole', async () => {
  const dump = await dumpStore(from, new Date(0));
  const lines = dump.split('\n');
  for (const [text, code] of [
    [dump.replace('/v/7"', '/v/x"'), 'CORRUPT'],
    [[...lines.slice(0, 5), lines.at(-2)].join('\n'), 'CORRUPT'],
    [lines.slice(0, -2).join('\n'), 'CORRUPT'],
    ['hello', 'INVALID_ARGUMENT'],
    [dump.replace('"version":1', '"version":2'), 'FORMAT_TOO_NEW'],
  ] as const) {
    await expect(restoreStore(to, text)).rejects.toMatchObject({ code });
  }
  expect(await pairs(to)).toEqual([]);
});

test('--store', () => {
  expect(parseStoreChoice('lmdb')).toEqual({ kind: 'lmdb' });
  expect(parseStoreChoice('etcd')).toEqual({ kind: 'private-etcd' });
  expect(parseStoreChoice('etcd=http://a:1,https://b:2')).toEqual({
    kind: 'etcd',
    urls: ['http://a:1', 'https://b:2'],
  });
  for (const text of ['', 'redis', 'etcd=', 'etcd=a:1', 'etcd=http://a', 'etcd=ftp://a:1', 'etcd=http://a:1/path']) {
    expect(() => parseStoreChoice(text)).toThrow(/--store/);
  }
});
