/**
 * A share with an address of its own, on hosts of their own: the address goes where the share goes, in a planned move and when the host
 * dies, and clients find it there. Takes root, namespaces, FUSE and NFS-Ganesha.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, expect, test } from 'vitest';

import { HostNet, cliOn, inHost, missingForHosts, startHost } from './lib/hosts.js';
import { attempt, run, until } from './lib/process.js';

const missing = missingForHosts([
  '/dev/fuse',
  '/dev/loop-control',
  '/usr/bin/ganesha.nfsd',
  '/usr/bin/nfs-cp',
  '/usr/sbin/ip',
]);
if (missing.length > 0) console.warn(`share-address.test: skipped: ${missing.join(', ')} is missing`);

const client = 100;
const minute = 60_000;
const net = new HostNet();
const manager = `${HostNet.address(1)}:7600`;
const address = HostNet.address(200);
const url = `nfs://${address}/home/file?nfsport=2049&version=4`;
let folder: string;
let token: string;

const hostFolder = (number: number) => join(folder, `host${number}`);

async function holdfast<T>(...args: string[]): Promise<T> {
  const { code, stdout, stderr } = await cliOn(client, manager, token, args);
  if (code !== 0) throw new Error(`holdfast ${args.join(' ')}: ${stderr}`);
  return JSON.parse(stdout) as T;
}

const onClient = (...command: string[]) => attempt('ip', inHost(client, ...command), { timeoutMilliseconds: 10_000 });

async function holds(number: number): Promise<boolean> {
  return (await run('ip', inHost(number, 'ip', '-o', 'address'))).includes(` ${address}/24 `);
}

async function untilRead(what: string): Promise<void> {
  const began = performance.now();
  await until(what, 2 * minute, async () => {
    const { code, stdout } = await onClient('nfs-cat', url);
    return code === 0 && stdout === 'content';
  });
  console.log(`${what}: after ${((performance.now() - began) / 1_000).toFixed(1)} s`);
}

beforeAll(async () => {
  if (missing.length > 0) return;
  folder = mkdtempSync(join(tmpdir(), 'holdfast-address-'));
  await net.addBridge();
  for (const number of [1, 2, 3, client]) await net.addHost(number);
  await startHost(1, hostFolder(1), 'server', []);
  const read = (name: string) => readFileSync(join(hostFolder(1), 'host', name), 'utf8').trim();
  token = read('admin-token');
  const joining = ['--join', read('join-token')];
  await Promise.all([2, 3].map((number) => startHost(number, hostFolder(number), 'agent', joining)));
}, 2 * minute);

afterAll(async () => {
  if (missing.length > 0) return;
  await net.remove();
  rmSync(folder, { recursive: true, force: true });
}, minute);

test.skipIf(missing.length > 0)(
  'goes where the share goes',
  async () => {
    const share = ['--access', 'rwx', '--nfs-squash', 'none', '--nfs-address', `${address}/24`];
    await holdfast('volume', 'create', 'home', '--size', '128Mi', ...share);
    const at = await holdfast<{ nfs: object }>('volume', 'attach', 'home', '--node', 'node2');
    expect(at.nfs).toMatchObject({ server: address, port: 2049 });
    expect(await Promise.all([1, 2, 3].map(holds))).toEqual([false, true, false]);

    writeFileSync(join(folder, 'file'), 'content');
    await until('the file is written', minute, async () => {
      const { code } = await onClient('nfs-cp', join(folder, 'file'), url);
      return code === 0;
    });
    await untilRead('the file is there');

    expect(await holdfast('volume', 'move', 'home', '--node', 'node3')).toMatchObject({ node: 'node3', nfs: at.nfs });
    expect(await Promise.all([1, 2, 3].map(holds))).toEqual([false, false, true]);
    await untilRead('it is found at the new place');

    // As when the power goes.
    await run('ip', ['netns', 'exec', HostNet.space(3), 'ip', 'link', 'set', 'eth0', 'down']);
    await net.killHost(3);
    await untilRead('it is found at another host');
    expect((await Promise.all([1, 2].map(holds))).filter(Boolean)).toHaveLength(1);

    await holdfast('volume', 'detach', 'home');
    expect(await Promise.all([1, 2].map(holds))).toEqual([false, false]);
  },
  6 * minute,
);

test.skipIf(missing.length > 0)('has to be one, in a network of the host', async () => {
  const make = (name: string, wanted: string) =>
    cliOn(client, manager, token, [
      ...['volume', 'create', name, '--size', '128Mi', '--replicas', '2'],
      ...['--access', 'rwx', '--nfs-address', wanted],
    ]);
  expect((await make('wrong', '10.0.0.1')).stderr).toContain('INVALID_ARGUMENT');
  expect((await make('nowhere', '203.0.113.9/24')).code).toBe(0);
  const refused = await cliOn(client, manager, token, ['volume', 'attach', 'nowhere']);
  expect(refused.stderr).toContain('no interface of this node is in the network of 203.0.113.9/24');
});
