/**
 * A disk is taken out of one node and put into another, while its volume is in use: its data is there, only what it missed is
 * copied, and a copy of it is never used beside it.
 */
import { cpSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, expect, test } from 'vitest';

import { Cluster } from './lib/cluster.js';
import { startNbd } from './lib/initiator.js';
import { run, until } from './lib/process.js';
import { replicaContent } from './lib/replica-content.js';

type DiskRow = {
  node: string;
  name: string;
  state: string;
  reason: string | null;
  replicas: number;
  id: string | null;
};

const mib = 2 ** 20;
let folder: string;
let cluster: Cluster;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-moves-'));
  cluster = await Cluster.start({ folder, upArgs: ['--nodes', '4', '--journal-size', '32Mi'] });
});
afterAll(async () => {
  await cluster.stop();
  rmSync(folder, { recursive: true, force: true });
});

async function disk(node: string, name: string): Promise<DiskRow | undefined> {
  const rows = (await cluster.cli('disk', 'ls')) as DiskRow[];
  return rows.find((row) => row.node === node && row.name === name);
}

const diskIs = (node: string, name: string, state: string) =>
  until(`${name} of ${node} is ${state}`, 60_000, async () => {
    const row = await disk(node, name);
    return row?.state === state ? row : undefined;
  });

async function pidOf(node: string, name: string): Promise<number> {
  return await until(`the process of ${name} on ${node}`, 60_000, async () => {
    const found = (await cluster.processes()).find((row) => row.node === node && row.disk === name);
    return found?.pid;
  });
}

const writtenBy = (pid: number): number =>
  Number(/^write_bytes: (\d+)$/m.exec(readFileSync(`/proc/${pid}/io`, 'utf8'))?.[1]);

test('a folder that is moved to another node takes its replicas along', async () => {
  const [before, after, copy] = ['before', 'after', 'copy'].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ];
  await cluster.cli('disk', 'add', 'node3', 'disk2', before, '--journal-size', '32Mi');
  const { id } = await diskIs('node3', 'disk2', 'online');
  // Replicas are on node1, node2, and on the disk that is to move.
  for (const node of ['node3', 'node4']) await cluster.cli('disk', 'cordon', node, 'disk1');
  await cluster.createVolume('db', '256Mi');
  const { iscsi } = await cluster.attach('db', '--node', 'node1');
  const nbd = await startNbd(folder, 'db', iscsi.url);
  const io = (command: string) => run('qemu-io', ['-f', 'raw', '-c', command, '-c', 'flush', nbd.uri]);
  await io('write -P 0x11 0 128M');

  renameSync(before, after);
  process.kill(await pidOf('node3', 'disk2'), 'SIGKILL');
  await diskIs('node3', 'disk2', 'failed');
  cpSync(after, copy, { recursive: true });
  await io('write -P 0x22 1M 1M');
  expect(await cluster.cli('disk', 'add', 'node4', 'disk9', after, '--wait')).toMatchObject({ id, state: 'online' });
  await until('every replica is in-sync', 120_000, async () => {
    const rows = await cluster.replicas('db');
    return rows.length === 3 && rows.every(({ state }) => state === 'in-sync');
  });
  const rows = await cluster.replicas('db');
  expect(rows.map(({ node, disk: name }) => `${node} ${name}`).sort()).toEqual([
    'node1 disk1',
    'node2 disk1',
    'node4 disk9',
  ]);
  // The journal is replayed and two chunks or so are fetched, not 128 MiB.
  expect(writtenBy(await pidOf('node4', 'disk9'))).toBeLessThan(96 * mib);
  await until('the former place is forgotten', 60_000, async () => (await disk('node3', 'disk2')) === undefined);

  await cluster.cli('disk', 'add', 'node2', 'disk7', copy);
  await until('the copy is refused', 60_000, async () =>
    (await disk('node2', 'disk7'))?.reason?.includes('copy of disk'),
  );
  expect(await disk('node4', 'disk9')).toMatchObject({ state: 'online', replicas: 1 });
  await cluster.cli('disk', 'rm', 'node2', 'disk7');
  await until('the copy is out', 60_000, async () => (await disk('node2', 'disk7')) === undefined);

  await io('write -P 0x33 2M 1M');
  await nbd.stop();
  await cluster.cli('volume', 'detach', 'db');
  const contents = await Promise.all((await cluster.replicas('db')).map((row) => replicaContent(row)));
  expect(contents.every(({ complete }) => complete)).toBe(true);
  expect(new Set(contents.map(({ sha256 }) => sha256)).size).toBe(1);
}, 300_000);
