// One host of a cluster: what is refused before anything is changed.
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { findFreePorts } from '../os/addresses.js';
import { makeFolders } from '../os/folders.js';
import { lockPath } from './cluster-folder.js';
import { takeLock } from './folder-lock.js';
import { stopDataPlane } from './host.js';
import { keepHost, planHost } from './host-folder.js';
import type { HostOptions } from './host-folder.js';

let base: string;
let folder: string;
let free: number;

beforeEach(async () => {
  base = mkdtempSync(join(tmpdir(), 'holdfast-host-'));
  folder = join(base, 'host');
  free = await findFreePorts('127.0.0.1', 2, base);
});

afterEach(() => {
  rmSync(base, { recursive: true, force: true });
});

const plan = (more: Partial<HostOptions> = {}) =>
  planHost(
    {
      folder,
      node: 'alpha',
      address: '127.0.0.1',
      apiPort: free,
      portalPort: free + 1,
      join: null,
      store: null,
      journalBytes: null,
      cacheBytes: null,
      ...more,
    },
    true,
  );
const rejection = (code: string, message: RegExp) =>
  expect.objectContaining({ code, message: expect.stringMatching(message) as string }) as Error;

test('a port that another process has, and an address of another machine', async () => {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  const port = typeof address === 'object' ? (address?.port ?? 0) : 0;
  try {
    await expect(plan({ apiPort: port })).rejects.toThrow(rejection('IN_USE', /used by another process.*--api-port/));
    await expect(plan({ portalPort: port })).rejects.toThrow(rejection('IN_USE', /--portal-port/));
  } finally {
    server.close();
  }
  await expect(plan({ portalPort: free })).rejects.toThrow(rejection('INVALID_ARGUMENT', /cannot both have/));
  await expect(plan({ address: '192.0.2.7' })).rejects.toThrow(
    rejection('INVALID_ARGUMENT', /does not have that address.*--address/),
  );
  expect(existsSync(folder)).toBe(false);
});

test('a folder on which a host runs: it keeps its options, and its processes', async () => {
  makeFolders(folder);
  keepHost(await plan());
  const before = readFileSync(join(folder, 'host.json'), 'utf8');
  const release = takeLock(lockPath(folder), folder);
  try {
    await expect(plan({ portalPort: 65_000 })).rejects.toThrow(rejection('IN_USE', /runs on .*stop it first/));
    await expect(stopDataPlane(folder)).rejects.toThrow(rejection('IN_USE', /runs on .*stop it first/));
  } finally {
    release();
  }
  expect(readFileSync(join(folder, 'host.json'), 'utf8')).toBe(before);
  await stopDataPlane(folder);
});
