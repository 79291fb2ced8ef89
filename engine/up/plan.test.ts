import { createServer } from 'node:net';
import type { Server } from 'node:net';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { startTimeOf } from '../os/proc.js';
import { clusterFilePath, defaultFolder, lockPath } from './cluster-folder.js';
import { lockHolder, takeLock } from './folder-lock.js';
import { hasEtcd } from '../metastore/testing/etcd-cluster.js';
import { planUp, upDefaults } from './plan.js';
import type { UpOptions } from './plan.js';

let base: string;
let data: string;
beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'holdfast-plan-'));
  data = join(base, 'cluster');
});
afterEach(() => {
  rmSync(base, { recursive: true, force: true });
});

const now = new Date(0);
const plan = (more: Partial<UpOptions> = {}) =>
  planUp(
    {
      data,
      nodes: null,
      api: '127.0.0.1:0',
      iscsi: '127.0.0.1:0',
      journalBytes: null,
      cacheBytes: null,
      store: null,
      ...more,
    },
    {},
    now,
  );
const code = (name: string) => expect.objectContaining({ code: name }) as Error;

async function listenSomewhere(): Promise<{ readonly server: Server; readonly port: number }> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  return { server, port: typeof address === 'object' ? (address?.port ?? 0) : 0 };
}

describe('planUp', () => {
  test('a new folder: defaults, ports for every node, nothing made', async () => {
    const made = await plan();
    expect(made.fresh).toBe(true);
    expect(made.file).toMatchObject({
      nodes: 3,
      journalBytes: upDefaults.journalBytes,
      cacheBytes: upDefaults.cacheBytes,
    });
    const ports = made.nodes.map(({ portal }) => Number(portal.split(':')[1]));
    expect(ports.map((port) => port - ports[0]!)).toEqual([0, 1, 2]);
    expect(made.nodes[1]?.disks[0]?.directory).toBe(join(data, 'node2/disk1/data'));
    expect(existsSync(data)).toBe(false);
  });

  test('a known folder: its options, unless given again', async () => {
    const { file } = await plan({ nodes: 2, journalBytes: 32 * 2 ** 20 });
    mkdirSync(data);
    writeFileSync(clusterFilePath(data), JSON.stringify(file));
    const again = await plan({ api: null, iscsi: null, cacheBytes: 8 * 2 ** 20 });
    expect(again).toMatchObject({ fresh: false, listen: file.api, file: { ...file, cacheBytes: 8 * 2 ** 20 } });
    expect((await plan({ nodes: 3 })).nodes).toHaveLength(3);
    await expect(plan({ nodes: 1 })).rejects.toThrow(code('INVALID_ARGUMENT'));
  });

  test('the store is chosen once; another one is refused', async () => {
    const etcd = { ca: null, certificate: null, key: null, user: null, passwordFile: null, prefix: '/holdfast' };
    const made = await plan({ store: { choice: { kind: 'etcd', urls: ['http://10.0.0.1:2379'] }, etcd } });
    expect(made.file.store).toEqual({ kind: 'etcd', etcd: { ...etcd, urls: ['http://10.0.0.1:2379'] } });
    mkdirSync(data);
    const { store: _, ...older } = (await plan()).file;
    writeFileSync(clusterFilePath(data), JSON.stringify(older));
    expect((await plan()).file.store).toEqual({ kind: 'lmdb' });
    await expect(plan({ store: { choice: { kind: 'private-etcd' }, etcd } })).rejects.toThrow(code('INVALID_ARGUMENT'));
    const without = planUp(
      {
        data: join(base, 'other'),
        nodes: null,
        api: '127.0.0.1:0',
        iscsi: '127.0.0.1:0',
        journalBytes: null,
        cacheBytes: null,
        store: { choice: { kind: 'private-etcd' }, etcd },
      },
      { PATH: base },
      now,
    );
    if (!hasEtcd) await expect(without).rejects.toThrow(code('UNSUPPORTED_SYSTEM'));
    else expect((await without).file.store.kind).toBe('private-etcd');
  });

  test('folders that are something else, or too new, are refused as they are', async () => {
    mkdirSync(data);
    writeFileSync(join(data, 'thesis.tex'), '');
    await expect(plan()).rejects.toThrow(code('WRONG_DISK'));
    writeFileSync(clusterFilePath(data), '{"format":"holdfast-cluster","version":2}');
    await expect(plan()).rejects.toThrow(code('FORMAT_TOO_NEW'));
    writeFileSync(clusterFilePath(data), '{"name":"another program"}');
    await expect(plan()).rejects.toThrow(code('WRONG_DISK'));
    writeFileSync(clusterFilePath(data), '{"format":"holdfast-cluster","version":1}');
    await expect(plan()).rejects.toThrow(code('CORRUPT'));
    expect(readdirSync(data).sort()).toEqual(['cluster.json', 'thesis.tex']);
    await expect(plan({ data: join(data, 'thesis.tex') })).rejects.toThrow(code('WRONG_DISK'));
  });

  test('free ports are given once', async () => {
    const portOf = (address: string) => Number(address.split(':').at(-1));
    const first = await plan();
    const apiPort = portOf(first.listen);
    // The ports that would be free for both, were it not for each other.
    const beside = await plan({ iscsi: `127.0.0.1:${apiPort}` });
    expect(beside.nodes.map(({ portal }) => portOf(portal))).not.toContain(portOf(beside.listen));
    const portal = portOf(first.nodes[1]?.portal ?? '');
    const around = await plan({ api: `127.0.0.1:${portal}` });
    expect(around.nodes.map((node) => portOf(node.portal))).not.toContain(portal);
  });

  test('a port in use is named, with the option to change it', async () => {
    const { server, port } = await listenSomewhere();
    try {
      await expect(plan({ api: `127.0.0.1:${port}` })).rejects.toThrow(
        expect.objectContaining({ code: 'IN_USE', message: expect.stringMatching(`:${port} .*--api`) as string }),
      );
      await expect(plan({ iscsi: `127.0.0.1:${port - 1}` })).rejects.toThrow(
        expect.objectContaining({ code: 'IN_USE', message: expect.stringContaining('--iscsi') as string }),
      );
    } finally {
      server.close();
    }
    expect(existsSync(data)).toBe(false);
  });

  test.each<Partial<UpOptions>>([
    { nodes: 0 },
    { nodes: 17 },
    { nodes: 1.5 },
    { api: 'nonsense' },
    { api: '127.0.0.1:70000' },
    { iscsi: '0.0.0.0:3260' },
    { iscsi: 'example.org:3260' },
    { iscsi: '127.0.0.1:65535' },
    { api: '127.0.0.1:20007', iscsi: '127.0.0.1:20005' },
    { api: '0.0.0.0:20005', iscsi: '127.0.0.1:20005' },
    { api: 'localhost:20006', iscsi: '127.0.0.1:20005' },
    { journalBytes: 4096 },
    { cacheBytes: 0 },
  ])('%j is refused', async (options) => {
    await expect(plan(options)).rejects.toThrow(code('INVALID_ARGUMENT'));
    expect(existsSync(data)).toBe(false);
  });

  test('an address that others reach is allowed, with a warning', async () => {
    const { warnings, server } = await plan({ api: '0.0.0.0:0' });
    expect(warnings).toHaveLength(1);
    expect(server).toMatch(/^127\.0\.0\.1:/);
  });

  test('the default folder follows XDG_DATA_HOME', () => {
    expect(defaultFolder({ XDG_DATA_HOME: '/x' })).toBe('/x/holdfast');
    expect(defaultFolder({})).toMatch(/\.local\/share\/holdfast$/);
  });
});

describe('the lock of a folder', () => {
  test('is held by one, and free again after release', async () => {
    mkdirSync(data);
    const release = takeLock(lockPath(data), data);
    expect(() => takeLock(lockPath(data), data)).toThrow(code('IN_USE'));
    await expect(plan()).rejects.toThrow(code('IN_USE'));
    release();
    takeLock(lockPath(data), data)();
    expect(readdirSync(data)).toEqual([]);
  });

  test('one that a kill left behind is taken over, also when its pid lives on as another process', () => {
    mkdirSync(data);
    for (const stale of [{ pid: 4_000_000, startTime: '5' }, { pid: process.pid, startTime: '5' }, 'garbage']) {
      writeFileSync(lockPath(data), JSON.stringify(stale));
      expect(lockHolder(lockPath(data))).toBeNull();
      const release = takeLock(lockPath(data), data);
      expect(lockHolder(lockPath(data))).toEqual({ pid: process.pid, startTime: startTimeOf(process.pid) });
      release();
    }
  });
});
