import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { readJson, writeJsonAtomic } from '../os/atomic-file.js';
import { clusterFilePath } from './cluster-folder.js';
import { dumpFrom, restoreInto } from './store-transfer.js';

let folder: string;
let client: string;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-transfer-'));
  // A port that nobody listens on.
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  client = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  await new Promise((resolve) => server.close(resolve));
  writeJsonAtomic(clusterFilePath(folder), {
    format: 'holdfast-cluster',
    version: 1,
    createdAt: '',
    nodes: 3,
    api: '127.0.0.1:7600',
    iscsi: '127.0.0.1:3260',
    journalBytes: 1,
    cacheBytes: 1,
    store: { kind: 'private-etcd', client, peer: client },
  });
});
afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
});

test('a private etcd that does not run is named as that, with what to do', async () => {
  const place = { folder, store: null, environment: {} };
  await expect(dumpFrom(place, new Date())).rejects.toMatchObject({
    code: 'STORE_UNAVAILABLE',
    message:
      `the records of ${folder} are in its private etcd (${client}), which does not run: ` +
      `start "holdfast up --data ${folder}", which runs it, and dump meanwhile`,
  });
  const before = readJson(clusterFilePath(folder));
  await expect(restoreInto(place, '')).rejects.toMatchObject({
    code: 'STORE_UNAVAILABLE',
    message: expect.stringContaining('restore into another store, with --store lmdb or --store etcd=URL') as string,
  });
  expect(readJson(clusterFilePath(folder))).toEqual(before);
});
